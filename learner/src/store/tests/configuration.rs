//! The configuration in the state record: durable with the applied slots, and never an earlier one.

use std::fs;

use paxos_common::{
    paxos::{era::Era, identity::ClusterId},
    service::failure::Exit,
};
use sqlx::sqlite::SqliteConnectOptions;

use super::*;
use crate::store::testing::{configuration, lock, next_configuration, open_with};

/// A file of schema version 5, with its snapshot file, as the last release with this version wrote them: the content of the
/// file of schema version 4 of the other tests.
const FILE_5: &[u8] = include_bytes!("../../../tests/schema-5/learner.db");
const SNAPSHOT_5: &[u8] = include_bytes!("../../../tests/schema-5/state-1044-2a974826.pxs");
const SNAPSHOT_5_NAME: &str = "state-1044-2a974826.pxs";

fn stored(opened: &OpenedStore) -> Option<Configuration> {
    opened.configuration.as_deref().cloned()
}

/// Writes a slot at a learner with this configuration.
async fn write(writer: &mut TestWriter, configuration: &Configuration) {
    let mut transaction = writer.apply([value("a value")]);
    transaction.configuration = Arc::new(configuration.clone());
    writer.store.write(&transaction).await.unwrap();
}

/// Opens the directory as a learner that works with the first configuration, and closes it.
async fn reopened(directory: &Path) -> Option<Configuration> {
    let opened = open(directory, CLUSTER).await.unwrap();
    let found = stored(&opened);
    opened.close().await;
    found
}

#[tokio::test]
async fn configuration_is_written_with_the_slots_and_never_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = configuration();
    let second = next_configuration(&first);
    let third = next_configuration(&second);
    assert_eq!(reopened(path).await, Some(first.clone()), "of the new file");
    for (present, expected) in [
        (&first, &first),
        (&second, &second),
        // Another learner process with an old list.
        (&first, &second),
        (&third, &third),
        (&second, &third),
    ] {
        let mut writer = TestWriter::open(path).await;
        write(&mut writer, present).await;
        writer.log.close().await;
        writer.store.close().await.unwrap();
        assert_eq!(reopened(path).await.as_ref(), Some(expected));
        let hint = stored_configuration(&lock(path)).await;
        assert_eq!(hint.as_ref(), Some(expected));
    }
}

#[tokio::test]
async fn configuration_stays_when_other_columns_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let second = next_configuration(&configuration());
    let mut writer = TestWriter::open(directory.path()).await;
    write(&mut writer, &second).await;
    writer.snapshot().await;
    assert!(writer.store.keep_from(slot_at(1)).await.unwrap());
    writer.log.close().await;
    writer.store.close().await.unwrap();
    assert_eq!(reopened(directory.path()).await, Some(second));
}

#[tokio::test]
async fn damaged_configuration_has_the_file_set_aside_and_the_present_one_goes_on() {
    let second = next_configuration(&configuration());
    for sql in [
        "UPDATE state SET configuration = x''",
        "UPDATE state SET configuration = x'00'",
        "UPDATE state SET configuration = substr(configuration, 1, 40)",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = TestWriter::open(directory.path()).await;
        write(&mut writer, &second).await;
        writer.log.close().await;
        writer.store.close().await.unwrap();
        damage(directory.path(), sql).await;
        let opened = open_with(lock(directory.path()), CLUSTER, second.clone())
            .await
            .unwrap();
        assert_eq!(opened.progress, Progress::default(), "{sql}");
        assert_eq!(stored(&opened), Some(second.clone()), "{sql}");
        assert!(directory.path().join("learner.db.damaged").exists(), "{sql}");
    }
}

#[tokio::test]
async fn hint_is_read_of_an_own_file_alone() {
    let directory = tempfile::tempdir().unwrap();
    let locked = lock(directory.path());
    assert_eq!(stored_configuration(&locked).await, None);
    assert!(!directory.path().join(LEARNER_FILE).exists());
    fs::write(directory.path().join(LEARNER_FILE), b"no database").unwrap();
    assert_eq!(stored_configuration(&locked).await, None);
    fs::write(directory.path().join(LEARNER_FILE), FILE_5).unwrap();
    assert_eq!(stored_configuration(&locked).await, None);
}

fn with_file_5() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(LEARNER_FILE), FILE_5).unwrap();
    fs::write(directory.path().join(SNAPSHOT_5_NAME), SNAPSHOT_5).unwrap();
    directory
}

#[tokio::test]
async fn file_of_schema_version_5_is_upgraded_where_it_is() {
    let directory = with_file_5();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    upgraded::holds_all(&opened, "schema version 5").await;
    // That release knew the first era alone.
    assert_eq!(stored(&opened), None);
    opened.close().await;
    assert!(directory.path().join(SNAPSHOT_5_NAME).exists());
    let second = next_configuration(&configuration());
    let mut writer = TestWriter::open(directory.path()).await;
    write(&mut writer, &second).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(stored(&opened), Some(second));
    assert_eq!(opened.progress.latest(), writer.progress.latest());
}

#[tokio::test]
async fn file_of_another_cluster_is_refused_and_stays_at_schema_version_5() {
    let directory = with_file_5();
    let Err(error) = open(directory.path(), ClusterId::from_bytes([9; 16])).await else {
        panic!("opened");
    };
    assert_eq!(Failure::from(error).code, Exit::Refused);
    let options = SqliteConnectOptions::new().filename(directory.path().join(LEARNER_FILE));
    let mut file = SqliteConnection::connect_with(&options).await.unwrap();
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut file)
        .await
        .unwrap();
    file.close().await.unwrap();
    assert_eq!(version, 5);
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    upgraded::holds_all(&opened, "schema version 5").await;
    opened.close().await;
}

#[tokio::test]
async fn upgraded_file_goes_on_in_the_first_era() {
    let directory = with_file_5();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(3).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    assert_eq!(
        reopened(directory.path()).await.map(|found| found.era()),
        Some(Era::FIRST)
    );
}

#[tokio::test]
async fn damaged_file_of_schema_version_5_is_set_aside() {
    let directory = with_file_5();
    damage(directory.path(), "UPDATE state SET log_from = 1").await;
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(opened.progress, Progress::default());
    assert!(directory.path().join("learner.db.damaged").exists());
}
