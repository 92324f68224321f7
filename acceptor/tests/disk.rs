//! The real binary on failing disks, and with damaged rows.
#![allow(clippy::print_stderr, reason = "what a person who runs it reads")]
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use paxos_common::{paxos::identity::ClusterId, wire::caller};
use paxos_proto::v1 as pb;
use support::{
    ballot,
    leader::TestLeader,
    process::{Process, ProcessClient, form},
    value,
};
use tonic::Streaming;

/// `strace`, attached to a process.
struct Strace(Child);

impl Strace {
    /// From now on lets the `nth` sync of each thread fail; none where `strace` cannot do so.
    fn fail_sync(process: &Process, nth: u32) -> Option<Self> {
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={nth}");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "trace=fsync,fdatasync", "-e", &inject]);
        strace.args(["-o", "/dev/null", "-p", &process.child.id().to_string()]);
        let mut child = match strace.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: strace does not start: {error}");
                return None;
            }
        };
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if !line.contains(" attached") {
            eprintln!("skipped: strace cannot attach: {line}");
            child.wait().unwrap();
            return None;
        }
        // Keeps the pipe empty; ends with strace.
        std::thread::spawn(move || lines.lines().for_each(drop));
        Some(Self(child))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn commit_whose_sync_failed_is_not_answered_and_is_the_last() {
    const SOUND: u64 = 4;
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let cluster = form(&mut process.client()).await.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    assert!(leader.propose(1, 0, [(0, value("before"))]).await.is_some());
    let Some(_strace) = Strace::fail_sync(&process, u32::try_from(SOUND).unwrap() + 1) else {
        return;
    };
    // Each message is a commit, and each commit is a sync.
    let mut answered = 0;
    while leader.propose(1, 0, [(answered + 1, value("x"))]).await.is_some() {
        answered += 1;
        assert!(answered <= SOUND, "a commit was answered whose sync failed");
    }
    assert_eq!(answered, SOUND);
    assert_eq!(process.child.wait().unwrap().code(), Some(74));
    drop(process);

    let process = Process::start(directory.path());
    let mut client = process.client();
    let status = client.status(pb::AcceptorStatusRequest {}).await.unwrap();
    assert!(status.into_inner().voted_to > SOUND);
}

/// Everything sent by a stream of pages or frames, up to a slot.
#[derive(Default)]
struct ShownRows {
    rows: Vec<pb::Row>,
    /// The watermark of each page with the page's last slot.
    watermarks: Vec<(u64, u64)>,
}

impl ShownRows {
    fn take(&mut self, rows: Vec<pb::Row>, chosen_to: u64) {
        if let Some(last) = rows.last() {
            self.watermarks.push((last.slot, chosen_to));
        }
        self.rows.extend(rows);
    }

    fn unknown(&self) -> Vec<u64> {
        let unknown = self.rows.iter().filter(|row| row.unknown);
        unknown.map(|row| row.slot).collect()
    }
}

async fn observe(client: &mut ProcessClient, cluster: ClusterId) -> Streaming<pb::ObserveFrame> {
    let request = pb::ObserveRequest {
        caller: Some(caller(Some(cluster))),
        kind: pb::ObserveKind::Values.into(),
        from: 0,
    };
    client.observe(request).await.unwrap().into_inner()
}

async fn wait_for(client: &mut ProcessClient, is_so: impl Fn(&pb::AcceptorStatusResponse) -> bool) {
    let look = async {
        loop {
            let status = client.status(pb::AcceptorStatusRequest {}).await.unwrap();
            if is_so(status.get_ref()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), look)
        .await
        .expect("it comes to be so");
}

#[tokio::test]
async fn damaged_and_missing_rows_are_found_by_the_scrub_and_repaired() {
    const ROWS: u64 = 3_000;
    const DAMAGED: u64 = 1_500;
    const MISSING: u64 = 2_500;
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let cluster = form(&mut process.client()).await.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    let of = |slot| (slot, value(&format!("value {slot}")));
    leader.propose(1, 0, (0..ROWS).map(of)).await.unwrap();
    leader.propose(1, ROWS, [of(ROWS)]).await.unwrap();
    drop(process);
    damage(
        directory.path(),
        "UPDATE vote SET value = x'79' WHERE slot = 1500",
    )
    .await;
    damage(directory.path(), "DELETE FROM vote WHERE slot = 2500").await;

    let process = Process::start(directory.path());
    let mut client = process.client();
    let found = |status: &pb::AcceptorStatusResponse| status.damaged_rows == 2 && status.chosen_to == DAMAGED;
    wait_for(&mut client, found).await;

    let mut shown = ShownRows::default();
    let mut frames = observe(&mut client, cluster).await;
    while shown.rows.len() <= usize::try_from(ROWS).unwrap() {
        let frame = frames.message().await.unwrap().unwrap();
        shown.take(frame.rows, frame.chosen_to);
    }
    assert_eq!(shown.unknown(), [DAMAGED, MISSING]);
    for (last, chosen_to) in shown.watermarks {
        // A frame speaks for its own readable rows only, and damage makes no difference to these rows.
        assert_eq!(chosen_to, ROWS, "{last}: {chosen_to}");
    }

    let mut shown = ShownRows::default();
    let prepare = pb::PrepareRequest {
        caller: Some(caller(Some(cluster))),
        ballot: Some(ballot(2).into()),
        ..Default::default()
    };
    let mut pages = client.prepare(prepare).await.unwrap().into_inner();
    while let Some(page) = pages.message().await.unwrap() {
        let Some(pb::promise_page::Answer::Promise(promise)) = page.answer else {
            panic!("not promised")
        };
        assert_eq!(promise.known_chosen_to, ROWS, "what is known does not go back");
        shown.take(promise.rows, promise.chosen_to);
    }
    assert_eq!(shown.unknown(), [DAMAGED, MISSING]);
    assert_eq!(
        shown.watermarks.last(),
        Some(&(ROWS, DAMAGED)),
        "a promise speaks for all of it"
    );

    let mut leader = TestLeader::open(process.client(), cluster).await;
    let accepted = leader.propose(2, ROWS, [of(DAMAGED)]).await.unwrap();
    assert_eq!(accepted.chosen_to, MISSING);
    let accepted = leader.propose(2, ROWS, [of(MISSING)]).await.unwrap();
    assert_eq!(accepted.chosen_to, ROWS);
    wait_for(&mut client, |status| status.damaged_rows == 0).await;
    // Observers connected meanwhile get the repaired rows.
    let mut slots = Vec::new();
    while slots.len() < 2 {
        let frame = frames.message().await.unwrap().unwrap();
        slots.extend(frame.rows.iter().map(|row| row.slot));
    }
    assert_eq!(slots, [DAMAGED, MISSING]);
}

async fn damage(directory: &Path, sql: &'static str) {
    let file = directory.join("acceptor.db");
    let mut connection = paxos_common::sqlite::open_writer(&file, 700).await.unwrap();
    let done = sqlx::query(sql).execute(&mut connection).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{sql}");
    sqlx::Connection::close(connection).await.unwrap();
}
