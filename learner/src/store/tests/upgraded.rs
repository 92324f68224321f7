//! Files of earlier releases: upgraded, learned again, or refused.

use super::*;

/// Makes a file of version 2: the same tables, and sessions without openers.
async fn make_version_2(directory: &Path) {
    let mut connection = sqlite::open_writer(&directory.join(FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    let sessions = registers::load_sessions(&mut connection, CLUSTER, FILE)
        .await
        .unwrap();
    let without = |session| SessionState {
        opener: None,
        ..session
    };
    let old: Vec<_> = sessions
        .into_iter()
        .map(|(name, session)| (name, Some(without(session))))
        .collect();
    registers::write_sessions(&mut connection, CLUSTER, &old)
        .await
        .unwrap();
    sqlx::query("PRAGMA user_version = 2")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

/// Writes a log with sessions of this opener into a file of the release before; returns the resulting state.
async fn write_version_2(directory: &Path, opener: Option<Opener>) -> Machine {
    let mut writer = TestWriter::open(directory).await;
    writer.write(varied_of(opener)).await;
    let machine = writer.knowledge.machine(Machine::clone);
    writer.log.close().await;
    writer.store.close().await.unwrap();
    make_version_2(directory).await;
    machine
}

#[tokio::test]
async fn file_of_version_2_is_upgraded_or_learned_again() {
    for opener in [None, OPENER] {
        let directory = tempfile::tempdir().unwrap();
        let machine = write_version_2(directory.path(), opener).await;

        let other = open(directory.path(), ClusterId::from_bytes([9; 16])).await;
        assert!(matches!(other, Err(StoreError::OtherCluster { .. })));
        let opened = open(directory.path(), CLUSTER).await.unwrap();
        if opener.is_none() {
            assert_eq!(opened.machine, machine);
            opened.store.close().await.unwrap();
            assert_eq!(open(directory.path(), CLUSTER).await.unwrap().machine, machine);
        } else {
            // The earlier release may have applied a foreign command.
            assert_eq!(opened.progress, Progress::default());
            assert!(directory.path().join("learner.db.damaged").exists());
        }
    }
}

#[tokio::test]
async fn file_of_version_2_without_the_opening_of_a_session_is_learned_again() {
    let directory = tempfile::tempdir().unwrap();
    write_version_2(directory.path(), None).await;
    damage(directory.path(), "UPDATE learned SET checksum = 0 WHERE slot = 0").await;
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(opened.progress, Progress::default());
}

#[tokio::test]
async fn file_of_an_older_release_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    opened.store.close().await.unwrap();
    let mut connection = sqlite::open_writer(&directory.path().join(FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    sqlx::query("PRAGMA user_version = 1")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let error = open(directory.path(), CLUSTER).await.err().unwrap();
    assert!(error.to_string().contains("empty the data directory"), "{error}");
    assert_eq!(
        Failure::from(error).code,
        paxos_common::service::failure::Exit::Refused
    );
}
