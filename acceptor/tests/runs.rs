//! The list of runs: bounded on disk, and a failed start adds nothing.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{net::TcpListener, path::Path, process::Stdio};

use paxos_acceptor::store::{RecoveredRun, Store as _, sqlite::SqliteStore};
use paxos_common::{
    paxos::{
        identity::{CommitCounter, RunNumber},
        witness::RUNS_MAX,
    },
    sqlite::{DataDir, open_writer},
};
use support::process::{Process, command};

async fn execute(directory: &Path, sql: &'static str) {
    let mut connection = open_writer(&directory.join("acceptor.db"), 700).await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}

async fn count(directory: &Path, sql: &'static str) -> i64 {
    let mut connection = open_writer(&directory.join("acceptor.db"), 700).await.unwrap();
    let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
    count
}

async fn start(directory: &Path, run: u64) -> RecoveredRun {
    let directory = DataDir::open(directory).unwrap();
    let run = RunNumber::from_random(run);
    let (store, opened) = SqliteStore::open(directory, "a1", run).await.unwrap();
    store.close().await;
    opened
}

#[tokio::test]
async fn a_file_with_more_runs_than_are_kept_is_cut_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    start(directory, 1).await;
    start(directory, 2).await;
    // State left by an earlier release after many starts.
    execute(
        directory,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 130000)
            INSERT INTO run (position, number, ended) SELECT -i, 1000000 + i, 0 FROM n;",
    )
    .await;
    let opened = start(directory, 3).await;
    assert_eq!(
        opened.past_runs.len(),
        RUNS_MAX - 1,
        "the present run is one of them"
    );
    let ended = |run, counter| (RunNumber::from_random(run), CommitCounter::new(counter));
    assert!(
        opened.past_runs.ends_with(&[ended(1, 1), ended(2, 2)]),
        "the latest are kept"
    );
    assert_eq!(
        count(directory, "SELECT count(*) FROM run").await,
        i64::try_from(RUNS_MAX).unwrap()
    );
    // After another start, the oldest run is dropped.
    let opened = start(directory, 4).await;
    assert_eq!(opened.past_runs.len(), RUNS_MAX - 1);
    assert!(opened.past_runs.ends_with(&[ended(2, 2), ended(3, 3)]));
}

#[tokio::test]
async fn a_start_that_is_refused_for_a_taken_port_leaves_no_run() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    drop(Process::start(directory));
    assert_eq!(count(directory, "SELECT count(*) FROM run").await, 1);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for _ in 0..3 {
        let mut refused = command(directory);
        refused
            .args(["--metrics-listen", &address])
            .stderr(Stdio::piped());
        let output = tokio::process::Command::from(refused).output().await.unwrap();
        assert!(!output.status.success(), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(&address),
            "{output:?}"
        );
    }
    assert_eq!(count(directory, "SELECT count(*) FROM run").await, 1);
}
