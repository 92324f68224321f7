//! Files of other applications in the data directory.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use paxos_acceptor::store::Store as _;
use paxos_common::service::failure::{Exit, Failure};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use support::run::open;

#[tokio::test]
async fn start_keeps_the_rights_of_foreign_files_and_databases() {
    let directory = tempfile::tempdir().unwrap();
    let [database, other] = ["acceptor.db", "other.txt"].map(|name| directory.path().join(name));
    let loosen = || {
        for path in [&database, &other] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let modes = || {
        [directory.path(), &database, &other]
            .map(|path| fs::metadata(path).unwrap().permissions().mode() & 0o777)
    };
    fs::write(&other, "x").unwrap();
    let options = SqliteConnectOptions::new()
        .filename(&database)
        .create_if_missing(true);
    let mut foreign = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA application_id = 7; CREATE TABLE theirs (id)")
        .execute(&mut foreign)
        .await
        .unwrap();
    foreign.close().await.unwrap();
    loosen();
    let before = fs::read(&database).unwrap();
    let error = Failure::from(open(directory.path(), 1).await.unwrap_err());
    assert_eq!(error.code, Exit::Refused, "{error}");
    assert_eq!(modes(), [0o755, 0o644, 0o644]);
    // Not even the journal mode has changed.
    assert_eq!(fs::read(&database).unwrap(), before);

    fs::remove_file(&database).unwrap();
    drop(open(directory.path(), 1).await.unwrap());
    loosen();
    drop(open(directory.path(), 2).await.unwrap());
    assert_eq!(modes(), [0o700, 0o600, 0o644]);
}

#[tokio::test]
async fn acceptor_does_not_begin_in_the_directory_of_a_learner() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("learner.db"), "").unwrap();
    let error = Failure::from(open(directory.path(), 1).await.unwrap_err());
    assert_eq!(error.code, Exit::Refused, "{error}");
    assert!(
        error
            .to_string()
            .contains("holds learner.db, the file of another role"),
        "{error}"
    );
    assert!(!directory.path().join("acceptor.db").exists());
    // An acceptor that is there already goes on.
    fs::remove_file(directory.path().join("learner.db")).unwrap();
    let (store, _) = open(directory.path(), 1).await.unwrap();
    store.close().await;
    fs::write(directory.path().join("learner.db"), "").unwrap();
    drop(open(directory.path(), 2).await.unwrap());
}

/// The database of another application, with everything in the write-ahead log.
async fn foreign_with_log(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(directory.join("acceptor.db"))
        .create_if_missing(true);
    let mut foreign = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::raw_sql("PRAGMA journal_mode = WAL; PRAGMA application_id = 7; CREATE TABLE theirs (id)")
        .execute(&mut foreign)
        .await
        .unwrap();
    foreign
}

/// The database and SQLite's files beside it.
fn content(directory: &Path) -> [Option<Vec<u8>>; 3] {
    ["", "-wal", "-shm"].map(|end| fs::read(directory.join(format!("acceptor.db{end}"))).ok())
}

#[tokio::test]
async fn foreign_database_with_a_log_is_refused_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let _owner = foreign_with_log(directory.path()).await;
    let before = content(directory.path());
    assert!(before.iter().all(Option::is_some));
    let error = Failure::from(open(directory.path(), 1).await.unwrap_err());
    assert_eq!(error.code, Exit::Refused, "{error}");
    assert!(content(directory.path()) == before, "a file changed");
}

#[tokio::test]
async fn foreign_database_in_the_place_of_our_own_is_a_loss_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(directory.path(), 1).await.unwrap();
    store.close().await;
    for file in ["acceptor.db", "acceptor.db-wal", "acceptor.db-shm"] {
        // Only the database is there in any case.
        let _ = fs::remove_file(directory.path().join(file));
    }
    let _owner = foreign_with_log(directory.path()).await;
    let before = content(directory.path());
    let error = Failure::from(open(directory.path(), 2).await.unwrap_err());
    assert_eq!(error.code, Exit::Storage, "{error}");
    assert!(error.to_string().contains("the file was replaced"), "{error}");
    assert!(content(directory.path()) == before, "a file changed");
}
