//! The real binary and its snapshots: uploads of a learner, trims, restarts, and everything that goes wrong.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{fs, path::Path, time::Duration};

use paxos_common::{
    paxos::{identity::ClusterId, value::Value},
    wire::{accept_request, caller},
};
use paxos_proto::v1::{self as pb, accept_response::Answer, keep_request::Content};
use sha2::{Digest as _, Sha256};
use support::{
    accept,
    process::{Process, ProcessClient, form},
    value,
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Code, Status, Streaming};

/// Maximum wait for something that comes within seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause between two looks, and between two reports of a learner.
const PAUSE: Duration = Duration::from_millis(100);
/// Size of a value: 20 values are more than the smallest log that is trimmed.
const VALUE_BYTES: usize = 64 * 1024;
const FLAGS: [&str; 2] = ["--retain-bytes", "1MiB"];
const PART: usize = 256 * 1024;

/// A leader that waits for the answer to each message.
struct TestLeader {
    cluster: ClusterId,
    requests: mpsc::Sender<pb::AcceptRequest>,
    answers: Streaming<pb::AcceptResponse>,
}

impl TestLeader {
    async fn open(mut client: ProcessClient, cluster: ClusterId) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let answers = client.accept(ReceiverStream::new(receiver)).await.unwrap();
        Self {
            cluster,
            requests,
            answers: answers.into_inner(),
        }
    }

    async fn send(&mut self, chosen_to: u64, proposals: Vec<(u64, Value)>) {
        let message = accept_request(&accept(1, chosen_to, proposals), self.cluster);
        self.requests.send(message).await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap().answer;
        assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
    }

    /// Votes for some slots, all chosen in the end.
    async fn vote(&mut self, slots: std::ops::Range<u64>) {
        for slot in slots.clone() {
            self.send(slot, vec![(slot, value(&"v".repeat(VALUE_BYTES)))])
                .await;
        }
        self.send(slots.end, vec![]).await;
    }
}

/// A snapshot file of this length, with its identity.
fn file(to: u64, bytes: usize) -> (pb::SnapshotId, Vec<u8>) {
    let mut content: Vec<u8> = (0..bytes - 32)
        .map(|at| u8::try_from((at as u64 * 7 + to) % 251).unwrap())
        .collect();
    let sha256: [u8; 32] = Sha256::digest(&content).into();
    content.extend(sha256);
    let id = pb::SnapshotId {
        to,
        sha256: sha256.to_vec().into(),
        bytes: bytes as u64,
    };
    (id, content)
}

fn begin(cluster: ClusterId, id: &pb::SnapshotId) -> pb::KeepRequest {
    let begin = pb::KeepBegin {
        caller: Some(caller(Some(cluster))),
        id: Some(id.clone()),
    };
    pb::KeepRequest {
        content: Some(Content::Begin(begin)),
    }
}

fn data(bytes: &[u8]) -> pb::KeepRequest {
    pb::KeepRequest {
        content: Some(Content::Data(bytes.to_vec().into())),
    }
}

/// Sends a whole file.
async fn keep(
    client: &mut ProcessClient,
    cluster: ClusterId,
    id: &pb::SnapshotId,
    content: &[u8],
) -> Result<(), Status> {
    let parts: Vec<_> = [begin(cluster, id)]
        .into_iter()
        .chain(content.chunks(PART).map(data))
        .collect();
    client.keep(tokio_stream::iter(parts)).await.map(drop)
}

/// The bottom, as streamed.
async fn bottom(client: &mut ProcessClient, cluster: ClusterId) -> Result<(pb::SnapshotId, Vec<u8>), Status> {
    let request = pb::SnapshotRequest {
        caller: Some(caller(Some(cluster))),
    };
    let mut parts = client.snapshot(request).await?.into_inner();
    let id = parts.message().await?.unwrap().id.unwrap();
    let mut content = Vec::new();
    while let Some(part) = parts.message().await? {
        content.extend_from_slice(&part.data);
    }
    Ok((id, content))
}

async fn status(client: &mut ProcessClient) -> pb::AcceptorStatusResponse {
    client
        .status(pb::AcceptorStatusRequest {})
        .await
        .unwrap()
        .into_inner()
}

/// Waits until the status is as wanted.
async fn until(client: &mut ProcessClient, what: &str, holds: impl Fn(&pb::AcceptorStatusResponse) -> bool) {
    let look = async {
        while !holds(&status(client).await) {
            sleep(PAUSE).await;
        }
    };
    if timeout(PATIENCE, look).await.is_err() {
        panic!("{what}: {:?}", status(client).await);
    }
}

/// Attaches as a learner with these slots until a snapshot is wanted; returns the slot.
async fn wanted(client: &mut ProcessClient, cluster: ClusterId, applied_to: u64) -> u64 {
    let progress = pb::LearnerProgress {
        applied_to,
        ..Default::default()
    };
    let report = pb::AttachRequest {
        caller: Some(caller(Some(cluster))),
        role: pb::Role::Learner.into(),
        peer: 9,
        address: "http://l:1".into(),
        progress: Some(pb::attach_request::Progress::Learner(progress)),
        ..Default::default()
    };
    let reports = tokio_stream::iter(std::iter::repeat(report)).throttle(PAUSE);
    let mut answers = client.attach(reports).await.unwrap().into_inner();
    let asked = async {
        loop {
            if let Some(wanted) = answers.message().await.unwrap().unwrap().snapshot_wanted {
                return wanted.above;
            }
        }
    };
    timeout(PATIENCE, asked).await.expect("the acceptor asks")
}

fn snapshot_files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".pxs")).collect();
    names.sort();
    names
}

fn ends(status: &pb::AcceptorStatusResponse) -> Vec<u64> {
    status.snapshots.iter().map(|id| id.to).collect()
}

#[tokio::test]
async fn asked_learner_sends_a_snapshot_and_the_log_is_trimmed_when_due() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    let cluster = form(&mut client).await.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    let (id, content) = file(15, 300_000);
    let early = keep(&mut client, cluster, &id, &content).await.unwrap_err();
    assert_eq!(early.code(), Code::ResourceExhausted, "above the cap: {early:?}");
    leader.vote(0..20).await;
    assert_eq!(
        bottom(&mut client, cluster).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    // The log has grown by a step.
    assert_eq!(wanted(&mut client, cluster, 20).await, 0);
    until(&mut client, "asked", |status| {
        status.waits_for.contains("from learner 9")
    })
    .await;
    keep(&mut client, cluster, &id, &content).await.unwrap();
    let kept = status(&mut client).await;
    assert_eq!(
        (ends(&kept), kept.trimmed_to, kept.receiving.clone()),
        (vec![15], 0, None)
    );
    let again = keep(&mut client, cluster, &id, &content).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("older"), "{again:?}");
    let (older, older_content) = file(10, 4000);
    let older = keep(&mut client, cluster, &older, &older_content)
        .await
        .unwrap_err();
    assert_eq!(older.code(), Code::FailedPrecondition);
    let (not_asked, its_content) = file(18, 4000);
    let not_asked = keep(&mut client, cluster, &not_asked, &its_content)
        .await
        .unwrap_err();
    assert!(not_asked.message().contains("has not asked"), "{not_asked:?}");

    // Another step of the log.
    leader.vote(20..40).await;
    until(&mut client, "trimmed", |status| status.trimmed_to == 15).await;
    assert_eq!(
        bottom(&mut client, cluster).await.unwrap(),
        (id.clone(), content.clone())
    );
    let (second, second_content) = file(30, 70_000);
    assert_eq!(wanted(&mut client, cluster, 40).await, 15);
    keep(&mut client, cluster, &second, &second_content)
        .await
        .unwrap();
    assert_eq!(ends(&status(&mut client).await), [15, 30]);
    drop(process);

    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    until(&mut client, "recovered", |status| ends(status) == [15, 30]).await;
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), (id, content));
    let mut leader = TestLeader::open(process.client(), cluster).await;
    leader.vote(40..60).await;
    until(&mut client, "trimmed again", |status| status.trimmed_to == 30).await;
    assert_eq!(
        bottom(&mut client, cluster).await.unwrap(),
        (second, second_content)
    );
    until(&mut client, "unlinked", |_| {
        snapshot_files(directory.path()).len() == 1
    })
    .await;
}

/// An acceptor that lacks the slots 5 to 39, with a leader: every snapshot to a slot between may be sent.
async fn behind(process: &Process) -> (ProcessClient, ClusterId, TestLeader) {
    let mut client = process.client();
    let cluster = form(&mut client).await.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    leader
        .send(0, (0..5).map(|slot| (slot, value("x"))).collect())
        .await;
    leader.send(40, vec![(45, value("x"))]).await;
    (client, cluster, leader)
}

#[tokio::test]
async fn acceptor_that_is_behind_is_lifted_by_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &["--retain-bytes", "all"]);
    let (mut client, cluster, mut leader) = behind(&process).await;
    let (id, content) = file(40, 5000);
    keep(&mut client, cluster, &id, &content).await.unwrap();
    let lifted = async {
        while status(&mut client).await.trimmed_to < 40 {
            leader.send(40, vec![]).await;
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, lifted).await.expect("it is lifted");
    let status = status(&mut client).await;
    assert_eq!(
        (status.chosen_to, status.voted_to, ends(&status)),
        (40, 46, vec![40])
    );
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), (id, content));
    leader
        .send(46, (40..46).map(|slot| (slot, value("x"))).collect())
        .await;
}

#[tokio::test]
async fn acceptor_of_this_release_takes_no_snapshot_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &[]);
    let (mut client, cluster, _leader) = behind(&process).await;
    let (id, content) = file(40, 5000);
    let refused = keep(&mut client, cluster, &id, &content).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    let status = status(&mut client).await;
    assert_eq!((status.trimmed_to, ends(&status)), (0, vec![]));
    assert!(
        status.waits_for.contains("keeps the whole log"),
        "{}",
        status.waits_for
    );
}

#[tokio::test]
async fn wrong_uploads_are_refused_by_name_and_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (mut client, cluster, _leader) = behind(&process).await;
    let (id, content) = file(30, 600_000);
    let mut wrong = content.clone();
    wrong[7] ^= 1;
    let above = file(41, 100);
    let mut no_hash = id.clone();
    no_hash.sha256 = vec![1; 31].into();
    let mut huge = id.clone();
    huge.bytes = (4 << 30) + 1;
    let long = [&content[..], b"x"].concat();
    for (id, bytes, code, text) in [
        (&id, &wrong[..], Code::InvalidArgument, "do not match the SHA-256"),
        (
            &id,
            &content[..500_000],
            Code::InvalidArgument,
            "ends after 500000 of 600000",
        ),
        (
            &id,
            &long[..],
            Code::InvalidArgument,
            "more than the 600000 bytes",
        ),
        (&above.0, &above.1[..], Code::ResourceExhausted, "above slot 40"),
        (
            &no_hash,
            &content[..],
            Code::InvalidArgument,
            "id.sha256 has 31 bytes",
        ),
        (&huge, &content[..], Code::InvalidArgument, "id.bytes is"),
    ] {
        let refused = keep(&mut client, cluster, id, bytes).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(text), "{text}: {refused:?}");
        until(&mut client, "removed", |status| status.receiving.is_none()).await;
        assert_eq!(snapshot_files(directory.path()), [] as [&str; 0], "{text}");
    }
    let data_first = client.keep(tokio_stream::iter([data(b"x")])).await.unwrap_err();
    assert_eq!(data_first.code(), Code::InvalidArgument);
    let twice = [begin(cluster, &id), begin(cluster, &id)];
    assert_eq!(
        client.keep(tokio_stream::iter(twice)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    for size in [0, PART + 1] {
        let parts = [begin(cluster, &id), data(&vec![1; size])];
        let refused = client.keep(tokio_stream::iter(parts)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{size}: {refused:?}");
    }
    keep(&mut client, cluster, &id, &content).await.unwrap();
}

#[tokio::test]
async fn second_upload_is_refused_and_a_silent_upload_ends() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (mut client, cluster, _leader) = behind(&process).await;
    let (id, content) = file(30, 600_000);
    let (parts, receiver) = mpsc::channel(8);
    parts.send(begin(cluster, &id)).await.unwrap();
    parts.send(data(&content[..1000])).await.unwrap();
    let mut first = process.client();
    let silent = tokio::spawn(async move { first.keep(ReceiverStream::new(receiver)).await.map(drop) });
    until(&mut client, "arriving", |status| status.received == 1000).await;
    assert_eq!(status(&mut client).await.receiving, Some(id.clone()));
    let busy = keep(&mut client, cluster, &id, &content).await.unwrap_err();
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy:?}");
    let ended = silent.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    drop(parts);
    keep(&mut client, cluster, &id, &content).await.unwrap();
}

#[tokio::test]
async fn kill_during_an_upload_leaves_nothing_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (mut client, cluster, _leader) = behind(&process).await;
    let (id, content) = file(30, 600_000);
    let (parts, receiver) = mpsc::channel(8);
    parts.send(begin(cluster, &id)).await.unwrap();
    parts.send(data(&content[..200_000])).await.unwrap();
    let mut first = process.client();
    let broken = tokio::spawn(async move { first.keep(ReceiverStream::new(receiver)).await.map(drop) });
    until(&mut client, "arriving", |status| status.received == 200_000).await;
    drop(process);
    assert!(broken.await.unwrap().is_err());
    assert_eq!(snapshot_files(directory.path()), ["incoming.pxs"]);
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    until(&mut client, "started", |status| status.voted_to == 46).await;
    assert_eq!(snapshot_files(directory.path()), [] as [&str; 0]);
    let mut leader = TestLeader::open(process.client(), cluster).await;
    leader.send(40, vec![]).await;
    keep(&mut client, cluster, &id, &content).await.unwrap();
}

#[tokio::test]
async fn full_disk_ends_an_upload_and_not_the_votes() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_on_a_small_disk(directory.path(), &FLAGS);
    let (mut client, cluster, mut leader) = behind(&process).await;
    let (id, content) = file(30, 4 * 1024 * 1024);
    let refused = keep(&mut client, cluster, &id, &content).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(snapshot_files(directory.path()), [] as [&str; 0]);
    leader.send(40, vec![(46, value("x"))]).await;
    let (small, content) = file(30, 5000);
    keep(&mut client, cluster, &small, &content).await.unwrap();
}

#[tokio::test]
async fn damaged_bottom_is_not_served_and_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &["--retain-bytes", "all"]);
    let (mut client, cluster, mut leader) = behind(&process).await;
    let (id, content) = file(30, 5000);
    keep(&mut client, cluster, &id, &content).await.unwrap();
    let beat = async |leader: &mut TestLeader, client: &mut ProcessClient, to| {
        while status(client).await.trimmed_to < to {
            leader.send(40, vec![]).await;
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, beat(&mut leader, &mut client, 30))
        .await
        .unwrap();
    drop((process, leader));
    let [name] = &snapshot_files(directory.path())[..] else {
        panic!("one file")
    };
    let path = directory.path().join(name);
    let mut wrong = fs::read(&path).unwrap();
    wrong[99] ^= 1;
    fs::write(&path, wrong).unwrap();

    let process = Process::start_with(directory.path(), &["--retain-bytes", "all"]);
    let mut client = process.client();
    until(&mut client, "found", |status| status.damaged_snapshots == [30]).await;
    assert_eq!(
        bottom(&mut client, cluster).await.unwrap_err().code(),
        Code::Unavailable
    );
    let mut leader = TestLeader::open(process.client(), cluster).await;
    leader.send(40, vec![(47, value("x"))]).await;
    assert_eq!(wanted(&mut client, cluster, 40).await, 30);
    let (id, content) = file(35, 6000);
    keep(&mut client, cluster, &id, &content).await.unwrap();
    timeout(PATIENCE, beat(&mut leader, &mut client, 35))
        .await
        .unwrap();
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), (id, content));
    assert_eq!(status(&mut client).await.damaged_snapshots, [] as [u64; 0]);
}
