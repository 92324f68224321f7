//! The real binary and its snapshots: uploads of a learner, trims, restarts, and everything that goes wrong.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{fs, path::Path};

use paxos_common::{
    paxos::{identity::ClusterId, quorum::Configuration, value::Value},
    wire::{TRIMS_VERSION, caller},
};
use paxos_proto::v1 as pb;
use support::{
    leader::TestLeader,
    learner::{Attached, applied, attach, wanted},
    process::{Process, ProcessClient, form},
    snapshots::{PART, begin, data, file, keep},
    status::{PATIENCE, status, until},
    value,
};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

/// Size of a value: 20 values are more than the smallest log that is trimmed.
const VALUE_BYTES: usize = 64 * 1024;
/// Keeps the smallest log, and trims one second after its start.
const FLAGS: [&str; 4] = ["--retain-bytes", "1MiB", "--restart-max", "1s"];
/// Number of the attached learner.
const PEER: u64 = 9;

async fn send(leader: &mut TestLeader, chosen_to: u64, proposals: Vec<(u64, Value)>) {
    leader.propose(1, chosen_to, proposals).await.unwrap();
}

/// Votes for some slots, all chosen in the end.
async fn vote(leader: &mut TestLeader, slots: std::ops::Range<u64>) {
    for slot in slots.clone() {
        let value = value(&"v".repeat(VALUE_BYTES));
        send(leader, slot, vec![(slot, value)]).await;
    }
    send(leader, slots.end, vec![]).await;
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

/// An upload of `bytes` bytes of a snapshot: the open stream, and the call, once the bytes have arrived.
async fn begun(
    process: &Process,
    formed: &Configuration,
    (id, content): &(pb::SnapshotId, Vec<u8>),
    bytes: usize,
) -> (mpsc::Sender<pb::KeepRequest>, JoinHandle<Result<(), Status>>) {
    let (parts, receiver) = mpsc::channel(8);
    parts.send(begin(formed, id, 0)).await.unwrap();
    parts.send(data(&content[..bytes])).await.unwrap();
    let (mut uploading, mut client) = (process.client(), process.client());
    let upload = async move { uploading.keep(ReceiverStream::new(receiver)).await.map(drop) };
    let call = tokio::spawn(upload);
    let received = u64::try_from(bytes).unwrap();
    until(&mut client, "arriving", |status| status.received == received).await;
    (parts, call)
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
    let formed = form(&mut client).await;
    let cluster = formed.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    let first = file(&formed, 15, 300_000);
    let early = keep(&mut client, &formed, &first, PEER).await.unwrap_err();
    assert_eq!(early.code(), Code::ResourceExhausted, "above the cap: {early:?}");
    vote(&mut leader, 0..20).await;
    assert_eq!(
        bottom(&mut client, cluster).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    // The log has grown by a step.
    let mut learner = attach(&mut client, cluster, applied(PEER, 20, vec![])).await;
    assert_eq!(wanted(&mut learner).await, 0);
    until(&mut client, "asked", |status| {
        status.waits_for.contains("from learner 9")
    })
    .await;
    let other = keep(&mut client, &formed, &first, PEER + 1).await.unwrap_err();
    assert!(other.message().contains("has not asked"), "{other:?}");
    let mut cut = file(&formed, 18, 3000);
    cut.1.truncate(1000);
    let cut = keep(&mut client, &formed, &cut, PEER).await.unwrap_err();
    assert_eq!(cut.code(), Code::InvalidArgument, "{cut:?}");
    assert_eq!(snapshot_files(directory.path()), [] as [&str; 0]);
    // The pause after a failed upload.
    assert_eq!(wanted_after_pause(&mut client, &mut learner).await, 0);
    keep(&mut client, &formed, &first, PEER).await.unwrap();
    let kept = status(&mut client).await;
    assert_eq!(
        (ends(&kept), kept.trimmed_to, kept.receiving.clone()),
        (vec![15], 0, None)
    );
    let again = keep(&mut client, &formed, &first, PEER).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    assert!(again.message().contains("older"), "{again:?}");
    let older = file(&formed, 10, 4000);
    let older = keep(&mut client, &formed, &older, PEER).await.unwrap_err();
    assert_eq!(older.code(), Code::FailedPrecondition);
    let not_asked = file(&formed, 19, 4000);
    let not_asked = keep(&mut client, &formed, &not_asked, PEER).await.unwrap_err();
    assert!(not_asked.message().contains("has not asked"), "{not_asked:?}");

    // Another step of the log.
    vote(&mut leader, 20..40).await;
    until(&mut client, "trimmed", |status| status.trimmed_to == 15).await;
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), first);
    drop(learner);
    let second = file(&formed, 30, 70_000);
    let mut learner = attach(&mut client, cluster, applied(PEER, 40, vec![])).await;
    assert_eq!(wanted(&mut learner).await, 15);
    keep(&mut client, &formed, &second, PEER).await.unwrap();
    assert_eq!(ends(&status(&mut client).await), [15, 30]);

    // A release that knows no trimmed log.
    let mut older = caller(Some(cluster));
    older.protocol_version = TRIMS_VERSION - 1;
    let tail = pb::TailRequest {
        caller: Some(older),
        nonce: 1,
    };
    let refused = client.tail(tail).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("upgrade the caller"), "{refused:?}");
    drop(process);

    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    until(&mut client, "recovered", |status| ends(status) == [15, 30]).await;
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), first);
    until(&mut client, "both files", |_| {
        snapshot_files(directory.path()).len() == 2
    })
    .await;
}

/// Waits until the acceptor has paused after a failed upload, and asks again.
async fn wanted_after_pause(client: &mut ProcessClient, learner: &mut Attached) -> u64 {
    until(client, "the pause", |status| {
        status.waits_for.contains("after an upload that failed")
    })
    .await;
    // The answers from before the pause are still in the stream.
    let stale = async {
        while learner
            .message()
            .await
            .unwrap()
            .unwrap()
            .snapshot_wanted
            .is_some()
        {}
    };
    timeout(PATIENCE, stale).await.expect("the acceptor pauses");
    wanted(learner).await
}

#[tokio::test]
async fn peer_of_an_earlier_release_is_served_and_nothing_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    let formed = form(&mut client).await;
    let cluster = formed.cluster_id();
    let mut leader = TestLeader::open(process.client(), cluster).await;
    let mut older = applied(7, 20, vec![]);
    older.caller = Some(caller(Some(cluster)));
    older.caller.as_mut().unwrap().protocol_version = TRIMS_VERSION - 1;
    let _older = attach(&mut client, cluster, older).await;
    let _learner = attach(&mut client, cluster, applied(PEER, 20, vec![])).await;
    vote(&mut leader, 0..20).await;
    until(&mut client, "held back", |status| {
        status
            .waits_for
            .contains("an upgrade: the process at \"http://l:7\"")
    })
    .await;
}

/// An acceptor that is behind: the slots 5 to 39 are missing, and a leader beats.
async fn behind(process: &Process) -> (ProcessClient, Configuration, TestLeader) {
    let mut client = process.client();
    let formed = form(&mut client).await;
    let mut leader = TestLeader::open(process.client(), formed.cluster_id()).await;
    let rows = (0..5).map(|slot| (slot, value("x"))).collect();
    send(&mut leader, 0, rows).await;
    send(&mut leader, 40, vec![(45, value("x"))]).await;
    let early = file(&formed, 40, 3000);
    let early = keep(&mut client, &formed, &early, 0).await.unwrap_err();
    assert!(
        early.message().contains("has not asked"),
        "not behind yet: {early:?}"
    );
    is_behind(process, &mut client, &formed).await;
    (client, formed, leader)
}

/// A leader beats, and the acceptor finds itself behind.
async fn is_behind(process: &Process, client: &mut ProcessClient, formed: &Configuration) {
    // Ends with the process.
    drop(
        TestLeader::open(process.client(), formed.cluster_id())
            .await
            .beat(40),
    );
    until(client, "behind", |status| {
        status.waits_for.contains("no attached learner")
    })
    .await;
}

#[tokio::test]
async fn acceptor_that_is_behind_is_lifted_by_a_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &["--retain-bytes", "all"]);
    let (mut client, formed, mut leader) = behind(&process).await;
    let snapshot = file(&formed, 40, 5000);
    keep(&mut client, &formed, &snapshot, 0).await.unwrap();
    until(&mut client, "lifted", |status| status.trimmed_to == 40).await;
    let status = status(&mut client).await;
    assert_eq!(
        (status.chosen_to, status.voted_to, ends(&status)),
        (40, 46, vec![40])
    );
    assert_eq!(bottom(&mut client, formed.cluster_id()).await.unwrap(), snapshot);
    let rows = (40..46).map(|slot| (slot, value("x"))).collect();
    send(&mut leader, 46, rows).await;
}

#[tokio::test]
async fn acceptor_keeps_256_mebibytes_by_default() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &[]);
    let mut client = process.client();
    form(&mut client).await;
    until(&mut client, "the first look", |status| {
        status.waits_for.contains("of 256 MiB")
    })
    .await;
    assert_eq!(status(&mut client).await.retain_bytes, 256 << 20);
}

#[tokio::test]
async fn wrong_uploads_are_refused_by_name_and_leave_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (mut client, formed, _leader) = behind(&process).await;
    let sound = file(&formed, 30, 600_000);
    let (id, content) = &sound;
    let mut wrong = content.clone();
    wrong[300_000] ^= 1;
    let above = file(&formed, 41, 100);
    let mut no_hash = id.clone();
    no_hash.sha256 = vec![1; 31].into();
    let mut huge = id.clone();
    huge.bytes = (4 << 30) + 1;
    let long = [&content[..], b"x"].concat();
    let garbage = {
        let (mut id, _) = file(&formed, 30, 600_000);
        id.bytes = 600_000;
        (id, vec![7; 600_000])
    };
    let mut elsewhere = id.clone();
    elsewhere.to = 31;
    let (_, foreign) = file(
        &support::configuration(paxos_common::paxos::identity::AcceptorUuid::from_u128(99)),
        30,
        600_000,
    );
    let cut = format!("ends after 500000 of {}", id.bytes);
    let too_long = format!("more than the {} bytes", id.bytes);
    for (id, bytes, code, text) in [
        (id, &wrong[..], Code::InvalidArgument, "the file holds"),
        (id, &content[..500_000], Code::InvalidArgument, &cut[..]),
        (id, &long[..], Code::InvalidArgument, &too_long[..]),
        (
            &garbage.0,
            &garbage.1[..],
            Code::InvalidArgument,
            "begins with the bytes PXS1",
        ),
        (&elsewhere, &content[..], Code::InvalidArgument, "ends at slot 30"),
        (id, &foreign[..], Code::FailedPrecondition, "a file of cluster"),
        (&above.0, &above.1[..], Code::ResourceExhausted, "above slot 40"),
        (
            &no_hash,
            &content[..],
            Code::InvalidArgument,
            "id.sha256 has 31 bytes",
        ),
        (&huge, &content[..], Code::InvalidArgument, "id.bytes is"),
    ] {
        let upload = (id.clone(), bytes.to_vec());
        let refused = keep(&mut client, &formed, &upload, 0).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(text), "{text}: {refused:?}");
        until(&mut client, "removed", |status| status.receiving.is_none()).await;
        assert_eq!(snapshot_files(directory.path()), [] as [&str; 0], "{text}");
    }
    let data_first = client.keep(tokio_stream::iter([data(b"x")])).await.unwrap_err();
    assert_eq!(data_first.code(), Code::InvalidArgument);
    let twice = [begin(&formed, id, 0), begin(&formed, id, 0)];
    assert_eq!(
        client.keep(tokio_stream::iter(twice)).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    for size in [0, PART + 1] {
        let parts = [begin(&formed, id, 0), data(&vec![1; size])];
        let refused = client.keep(tokio_stream::iter(parts)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{size}: {refused:?}");
    }
    keep(&mut client, &formed, &sound, 0).await.unwrap();
}

#[tokio::test]
async fn second_upload_is_refused_and_a_silent_upload_ends() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (mut client, formed, _leader) = behind(&process).await;
    let snapshot = file(&formed, 30, 600_000);
    let (parts, silent) = begun(&process, &formed, &snapshot, 1000).await;
    assert_eq!(status(&mut client).await.receiving, Some(snapshot.0.clone()));
    let busy = keep(&mut client, &formed, &snapshot, 0).await.unwrap_err();
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy:?}");
    let ended = silent.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    drop(parts);
    keep(&mut client, &formed, &snapshot, 0).await.unwrap();
}

#[tokio::test]
async fn kill_during_an_upload_leaves_nothing_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let (_client, formed, _leader) = behind(&process).await;
    let snapshot = file(&formed, 30, 600_000);
    let (_parts, broken) = begun(&process, &formed, &snapshot, 200_000).await;
    drop(process);
    assert!(broken.await.unwrap().is_err());
    assert_eq!(snapshot_files(directory.path()), ["incoming.pxs"]);
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    until(&mut client, "started", |status| status.voted_to == 46).await;
    assert_eq!(snapshot_files(directory.path()), [] as [&str; 0]);
    is_behind(&process, &mut client, &formed).await;
    keep(&mut client, &formed, &snapshot, 0).await.unwrap();
}

#[tokio::test]
async fn full_disk_ends_an_upload_and_not_the_votes() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_on_a_small_disk(directory.path(), &FLAGS);
    let (mut client, formed, mut leader) = behind(&process).await;
    let large = file(&formed, 30, 4 * 1024 * 1024);
    let refused = keep(&mut client, &formed, &large, 0).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(snapshot_files(directory.path()), [] as [&str; 0]);
    send(&mut leader, 40, vec![(46, value("x"))]).await;
    let small = file(&formed, 30, 5000);
    keep(&mut client, &formed, &small, 0).await.unwrap();
}

#[tokio::test]
async fn damaged_bottom_is_not_served_and_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &["--retain-bytes", "all"]);
    let (mut client, formed, leader) = behind(&process).await;
    let cluster = formed.cluster_id();
    let snapshot = file(&formed, 30, 5000);
    keep(&mut client, &formed, &snapshot, 0).await.unwrap();
    until(&mut client, "lifted", |status| status.trimmed_to == 30).await;
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
    send(&mut leader, 40, vec![(47, value("x"))]).await;
    let mut learner = attach(&mut client, cluster, applied(PEER, 40, vec![])).await;
    assert_eq!(wanted(&mut learner).await, 30);
    let snapshot = file(&formed, 35, 6000);
    keep(&mut client, &formed, &snapshot, PEER).await.unwrap();
    until(&mut client, "replaced", |status| status.trimmed_to == 35).await;
    assert_eq!(bottom(&mut client, cluster).await.unwrap(), snapshot);
    assert_eq!(status(&mut client).await.damaged_snapshots, [] as [u64; 0]);
}
