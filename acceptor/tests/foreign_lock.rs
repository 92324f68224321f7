//! The real binary while another process holds a lock on the acceptor's file.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use paxos_common::{paxos::identity::ClusterId, peer::connect_lazy, wire::accept_request};
use paxos_proto::v1::{accept_response::Answer, acceptor_client::AcceptorClient};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use support::{
    accept,
    process::{ProcessClient, command, form},
    value,
};
use tokio::{sync::mpsc, time::sleep};
use tokio_stream::wrappers::ReceiverStream;

/// An acceptor with its log in a file. Killed when dropped.
struct LoggedLines {
    child: Child,
    log: PathBuf,
}

impl LoggedLines {
    fn start(directory: &Path) -> Self {
        let log = directory.join("log");
        let mut command = command(&directory.join("data"));
        let child = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
        Self { child, log }
    }

    /// Waits for a line of the log with this text.
    async fn says(&mut self, text: &str) -> String {
        loop {
            let log = fs::read_to_string(&self.log).unwrap();
            if let Some(line) = log.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert_eq!(self.child.try_wait().unwrap(), None, "the acceptor ended: {log}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn client(&mut self) -> ProcessClient {
        let line = self.says("\"address\":\"http://127.0.0.1:").await;
        let (_, rest) = line.split_once("\"address\":\"").unwrap();
        let (url, _) = rest.split_once('"').unwrap();
        AcceptorClient::new(connect_lazy(&url.parse().unwrap()))
    }

    /// Stops the process by a signal, and returns the exit code.
    fn stop(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .arg(&pid)
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
        self.child.wait().unwrap().code()
    }
}

impl Drop for LoggedLines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A foreign program's write lock on the acceptor's file.
async fn lock(directory: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(directory.join("data/acceptor.db"));
    let mut holder = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    holder
}

async fn unlock(mut holder: SqliteConnection) {
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    holder.close().await.unwrap();
}

/// Proposes a value; the answer arrives at the receiver.
async fn propose(client: &ProcessClient, cluster: ClusterId, slot: u64) -> mpsc::Receiver<Option<Answer>> {
    let (sender, answers) = mpsc::channel(1);
    let mut client = client.clone();
    let message = accept_request(&accept(1, slot, [(slot, value("value"))]), cluster);
    tokio::spawn(async move {
        let (requests, receiver) = mpsc::channel(1);
        requests.send(message).await.unwrap();
        let stream = client.accept(ReceiverStream::new(receiver)).await;
        if let Ok(Ok(Some(answer))) = match stream {
            Ok(stream) => Ok::<_, ()>(stream.into_inner().message().await),
            Err(_) => return,
        } {
            let _ = sender.send(answer.answer).await;
        }
        drop(requests);
    });
    answers
}

#[tokio::test]
async fn commit_of_a_new_promise_waits_for_the_lock_of_another_process() {
    commit_waits(0).await;
}

#[tokio::test]
async fn commit_of_a_vote_alone_waits_for_the_lock_of_another_process() {
    commit_waits(1).await;
}

/// Locks the file after this number of votes at the same ballot.
async fn commit_waits(votes: u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut process = LoggedLines::start(directory.path());
    let mut client = process.client().await;
    let cluster = form(&mut client).await.cluster_id();
    for slot in 0..votes {
        let answered = propose(&client, cluster, slot).await.recv().await.unwrap();
        assert!(matches!(answered, Some(Answer::Accepted(_))), "{answered:?}");
    }
    let holder = lock(directory.path()).await;
    let mut answer = propose(&client, cluster, votes).await;
    let line = process.says("another process holds a lock").await;
    assert!(line.contains("acceptor.db"), "{line}");
    assert!(answer.try_recv().is_err(), "an answer came before the commit");
    unlock(holder).await;
    let answered = answer.recv().await.unwrap();
    assert!(matches!(answered, Some(Answer::Accepted(_))), "{answered:?}");
    process.says("is free again").await;
    assert_eq!(process.stop(), Some(0));
}

#[tokio::test]
async fn stop_and_start_work_while_another_process_holds_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = LoggedLines::start(directory.path());
    let mut client = process.client().await;
    let cluster = form(&mut client).await.cluster_id();
    let holder = lock(directory.path()).await;
    let _answer = propose(&client, cluster, 0).await;
    process.says("another process holds a lock").await;
    assert_eq!(process.stop(), Some(0));
    drop(process);
    // The next process starts, logs the lock, and can be stopped as well.
    let mut process = LoggedLines::start(directory.path());
    process.says("another process holds a lock").await;
    assert_eq!(process.stop(), Some(0));
    drop(process);
    let mut process = LoggedLines::start(directory.path());
    process.says("another process holds a lock").await;
    unlock(holder).await;
    let client = process.client().await;
    let answered = propose(&client, cluster, 0).await.recv().await.unwrap();
    assert!(matches!(answered, Some(Answer::Accepted(_))), "{answered:?}");
}

#[tokio::test]
async fn start_waits_for_a_reader_in_another_process_and_says_so_once() {
    /// Several times longer than SQLite waits for a reader.
    const READS_FOR: Duration = Duration::from_secs(7);
    let directory = tempfile::tempdir().unwrap();
    let mut process = LoggedLines::start(directory.path());
    let mut client = process.client().await;
    form(&mut client).await;
    // Killed, so that a log is left to empty.
    drop(process);
    let options = SqliteConnectOptions::new().filename(directory.path().join("data/acceptor.db"));
    let mut reader = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::query("SELECT * FROM state")
        .fetch_all(&mut reader)
        .await
        .unwrap();
    let mut process = LoggedLines::start(directory.path());
    let line = process.says("another process reads this file").await;
    assert!(line.contains("acceptor.db"), "{line}");
    sleep(READS_FOR).await;
    assert_eq!(process.child.try_wait().unwrap(), None, "the start gave up");
    sqlx::query("COMMIT").execute(&mut reader).await.unwrap();
    process.says("the start continues").await;
    process.client().await;
    let log = fs::read_to_string(&process.log).unwrap();
    assert_eq!(log.matches("another process reads this file").count(), 1, "{log}");
    assert_eq!(process.stop(), Some(0));
}
