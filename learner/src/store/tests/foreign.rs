//! A database of another application in the place of the learner's file.

use std::{fs, os::unix::fs::PermissionsExt as _};

use paxos_common::service::failure::Exit;
use sqlx::sqlite::SqliteConnectOptions;

use super::*;

#[tokio::test]
async fn database_of_another_application_is_refused_and_keeps_its_rights() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(LEARNER_FILE);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let mut foreign = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA application_id = 7; CREATE TABLE theirs (id)")
        .execute(&mut foreign)
        .await
        .unwrap();
    foreign.close().await.unwrap();
    set(&file, 0o644);
    set(directory.path(), 0o755);
    let before = fs::read(&file).unwrap();
    let Err(error) = open(directory.path(), CLUSTER).await else {
        panic!("opened");
    };
    assert_eq!(Failure::from(error).code, Exit::Refused);
    assert_eq!((mode(directory.path()), mode(&file)), (0o755, 0o644));
    // Not even the journal mode has changed.
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[tokio::test]
async fn our_own_files_are_tightened() {
    let directory = tempfile::tempdir().unwrap();
    let writer = TestWriter::open(directory.path()).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    let paths = [LEARNER_FILE, "learner.db.damaged", "theirs"].map(|name| directory.path().join(name));
    for path in &paths {
        fs::File::options().create(true).append(true).open(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _writer = TestWriter::open(directory.path()).await;
    let modes = paths.map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o600, 0o600, 0o644]);
}
