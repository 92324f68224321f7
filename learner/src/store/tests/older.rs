//! Files of other releases: a file older than schema version 4 is replaced, a newer file is refused.

use super::*;

/// The tables of version 3, as that release made the tables.
const SCHEMA_3: &str = "
CREATE TABLE state (
  one        INTEGER PRIMARY KEY CHECK (one = 1),
  cluster_id BLOB    NOT NULL,
  applied_to INTEGER NOT NULL,
  digest     BLOB    NOT NULL,
  checksum   INTEGER NOT NULL
) STRICT;
CREATE TABLE learned (
  slot        INTEGER PRIMARY KEY,
  value       BLOB    NOT NULL,
  traceparent BLOB    NOT NULL,
  judgements  BLOB    NOT NULL,
  checksum    INTEGER NOT NULL
) STRICT;
CREATE TABLE register (
  key           BLOB    PRIMARY KEY,
  value         BLOB    NOT NULL,
  slot          INTEGER NOT NULL,
  command       INTEGER NOT NULL,
  checksum      INTEGER NOT NULL
) STRICT;
CREATE TABLE session (
  slot     INTEGER NOT NULL,
  command  INTEGER NOT NULL,
  content  BLOB    NOT NULL,
  checksum INTEGER NOT NULL,
  PRIMARY KEY (slot, command)
) STRICT;
CREATE TABLE digest (
  applied_to INTEGER PRIMARY KEY,
  digest     BLOB NOT NULL
) STRICT";

/// Makes a file of version 3, for a learner that has applied four slots.
async fn make_version_3(directory: &Path) {
    let mut connection = sqlite::open_writer(&directory.join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    sqlite::migrate(&mut connection, SCHEMA_3, 3, APPLICATION_ID)
        .await
        .unwrap();
    sqlx::query("INSERT INTO state VALUES (1, ?, 4, zeroblob(32), 0)")
        .bind(&CLUSTER.as_bytes()[..])
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn file_of_an_older_release_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    make_version_3(directory.path()).await;
    // An older log of SQLite must not be read into the new file.
    std::fs::write(directory.path().join(format!("{LEARNER_FILE}-wal")), b"old").unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    assert_eq!(writer.progress, Progress::default());
    writer.write_numbered(3).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    let again = TestWriter::open(directory.path()).await;
    assert_eq!(again.progress.applied_to(), slot_at(3));
    assert!(!directory.path().join("learner.db.damaged").exists());
}

#[tokio::test]
async fn older_file_of_another_cluster_is_refused_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    make_version_3(directory.path()).await;
    let other = open(directory.path(), ClusterId::from_bytes([9; 16])).await;
    assert!(matches!(other, Err(StoreError::OtherCluster { .. })));
    let mut connection = sqlite::open_writer(&directory.path().join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    let version: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(version, 3);
}

#[tokio::test]
async fn file_of_a_newer_release_is_refused_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    opened.log.close().await;
    opened.store.close().await.unwrap();
    let mut connection = sqlite::open_writer(&directory.path().join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    sqlx::query("PRAGMA user_version = 7")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let failure = Failure::from(open(directory.path(), CLUSTER).await.err().unwrap());
    assert!(failure.to_string().contains("newer release"), "{failure}");
    assert_eq!(failure.code, paxos_common::service::failure::Exit::Refused);
    assert!(directory.path().join(LEARNER_FILE).exists());
}
