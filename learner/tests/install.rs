//! Learners that lack trimmed slots install the snapshot of an acceptor, and learners give snapshots to acceptors.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]

use std::path::Path;

use bytes::Bytes;
use paxos_common::{
    snapshot::decoder::{SnapshotDecoder, SnapshotPart},
    wire,
};
use paxos_learner_testing::{
    FakeAcceptor, SnapshotScript, TestLearner, acceptors, ballot, change_all, within_deadline,
};
use paxos_proto::v1::{self as pb, command::Operation, read_request};
use tonic::{Code, Status};

/// The value of a slot: a put.
fn value(slot: u64) -> Bytes {
    let command = pb::Command {
        session: None,
        operation: Some(Operation::Put(pb::Put {
            key: format!("key {}", slot % 70).into(),
            value: vec![slot.to_le_bytes()[0]; 3_000].into(),
            condition: None,
        })),
    };
    wire::command::encode(command).unwrap().as_bytes().clone()
}

/// Every acceptor accepts these slots.
fn accept(acceptors: &[FakeAcceptor], slots: std::ops::Range<u64>) {
    change_all(acceptors, |script| {
        script.voted_to = slots.end;
        let accepted = slots.clone().map(|slot| (ballot(1), slot, value(slot)));
        script.accepted.extend(accepted);
    });
}

async fn applies(learner: &mut TestLearner, to: u64) -> pb::LearnerStatusResponse {
    within_deadline(async {
        loop {
            let status = learner.status().await;
            if status.applied_to >= to && status.durable_to >= to {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// A learner that has learned everything from slot 0 on, and its snapshot to slot `to`.
async fn teacher(acceptors: &[FakeAcceptor], to: u64) -> (TestLearner, Bytes) {
    accept(acceptors, 0..to);
    let mut teacher = TestLearner::start(acceptors, None).await;
    applies(&mut teacher, to).await;
    let backup = async {
        loop {
            let Ok(parts) = teacher.client.backup(pb::BackupRequest {}).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let (mut parts, mut file) = (parts.into_inner(), Vec::new());
            while let Some(part) = parts.message().await.unwrap() {
                file.extend_from_slice(&part.data);
            }
            return file;
        }
    };
    let file = within_deadline(backup).await;
    (teacher, file.into())
}

/// All acceptors trim their logs to a snapshot.
fn trim(acceptors: &[FakeAcceptor], to: u64, snapshot: &SnapshotScript) {
    change_all(acceptors, |script| {
        script.trimmed_to = to;
        script.snapshot = Some(snapshot.clone());
    });
}

async fn registers(learner: &mut TestLearner) -> Result<Vec<pb::Register>, Status> {
    let request = pb::ReadRequest {
        target: Some(read_request::Target::Prefix(Bytes::new())),
        consistency: Some(read_request::Consistency::Local(pb::Local {})),
        ..pb::ReadRequest::default()
    };
    let answer = learner.client.read(request).await?;
    Ok(answer.into_inner().registers)
}

/// The learner has the same log digest, state digest and registers as the teacher.
async fn agrees(learner: &mut TestLearner, teacher: &mut TestLearner, to: u64) {
    let (found, expected) = (applies(learner, to).await, applies(teacher, to).await);
    assert_eq!(found.digests[0], expected.digests[0]);
    assert_eq!(found.digests[0].to, to);
    let of_learner = within_deadline(async {
        loop {
            match registers(learner).await {
                Ok(registers) => return registers,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    });
    assert_eq!(of_learner.await, registers(teacher).await.unwrap());
}

fn no_installation_is_left(directory: &Path) {
    let entries = std::fs::read_dir(directory).unwrap();
    let names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("new") || name.contains("installed"))
        .collect();
    assert_eq!(names, [] as [String; 0]);
}

#[tokio::test]
async fn learner_on_an_empty_disk_installs_the_snapshot_and_learns_on() {
    let acceptors = acceptors().await;
    let (mut teacher, file) = teacher(&acceptors, 100).await;
    accept(&acceptors, 100..130);
    applies(&mut teacher, 130).await;
    trim(&acceptors, 100, &SnapshotScript::whole(100, file));
    let directory = tempfile::tempdir().unwrap();
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    agrees(&mut learner, &mut teacher, 130).await;
    let status = learner.status().await;
    assert_eq!((status.log_from, status.installing), (100, None));
    no_installation_is_left(directory.path());
    // The acceptors hold back trims meanwhile.
    let reported = |report: &pb::AttachRequest| match &report.progress {
        Some(pb::attach_request::Progress::Learner(progress)) => Some(progress.installing_to),
        Some(pb::attach_request::Progress::Proposer(_)) | None => None,
    };
    let heard = acceptors.map(|acceptor| acceptor.heard.borrow().reports.clone());
    assert!(heard.iter().flatten().any(|report| reported(report) == Some(100)));
    learner.stop().await.unwrap();
    teacher.stop().await.unwrap();
}

#[tokio::test]
async fn acceptor_with_the_whole_log_saves_the_installation() {
    let acceptors = acceptors().await;
    let (mut teacher, file) = teacher(&acceptors, 100).await;
    trim(&acceptors[1..], 100, &SnapshotScript::whole(100, file));
    // Rows of the only acceptor with the log are known to be chosen by the acceptor's watermark.
    acceptors[0].change(|script| script.chosen_to = 100);
    let mut learner = TestLearner::start(&acceptors, None).await;
    agrees(&mut learner, &mut teacher, 100).await;
    let heard: u64 = acceptors
        .iter()
        .map(|acceptor| acceptor.heard.borrow().snapshots)
        .sum();
    assert_eq!((heard, learner.status().await.log_from), (0, 0));
    learner.stop().await.unwrap();
    teacher.stop().await.unwrap();
}

#[tokio::test]
async fn flawed_snapshots_are_refused_and_the_old_state_stays() {
    let acceptors = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    accept(&acceptors, 0..50);
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    applies(&mut learner, 50).await;
    learner.stop().await.unwrap();
    change_all(&acceptors, |script| script.accepted.clear());
    let (mut teacher, file) = teacher(&acceptors, 100).await;

    let whole = SnapshotScript::whole(100, file.clone());
    let cut = SnapshotScript {
        file: file.slice(..file.len() - 1),
        ..whole.clone()
    };
    let mut damaged = file.to_vec();
    damaged[file.len() / 2] ^= 1;
    let damaged = SnapshotScript {
        file: damaged.into(),
        ..whole.clone()
    };
    let longer = SnapshotScript {
        file: [&file[..], b"more"].concat().into(),
        ..whole.clone()
    };
    let newer = SnapshotScript {
        file: [b"PXS2", &file[4..]].concat().into(),
        ..whole.clone()
    };
    let mut other_end = whole.clone();
    other_end.id.to = 99;
    let mut other_hash = whole.clone();
    other_hash.id.sha256 = vec![1; 32].into();
    // A whole snapshot of another cluster, with its own SHA-256.
    let foreign = {
        let others = paxos_learner_testing::acceptors().await;
        let stranger = FakeAcceptor::start(9).await;
        let [one, two, _] = others;
        let others = [one, two, stranger];
        paxos_learner_testing::form(&others);
        let (stranger, file) = self::teacher(&others, 100).await;
        stranger.stop().await.unwrap();
        SnapshotScript::whole(100, file)
    };
    for (name, flawed, text) in [
        ("cut off", cut, "cut off"),
        ("damaged", damaged, "snapshot"),
        ("longer", longer, "more bytes"),
        ("newer", newer, "a newer release wrote this file (format 2"),
        ("other end", other_end, "a snapshot to slot 100"),
        ("other hash", other_hash, "another file"),
        ("foreign", foreign, "of cluster"),
    ] {
        trim(&acceptors, 100, &flawed);
        // A copy, because a learner with the old state learns the rest below.
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
        }
        let mut learner = TestLearner::start(&acceptors, Some(copy.path())).await;
        let not_ready = within_deadline(async {
            loop {
                let status = learner.status().await;
                if status.not_ready.contains("the last attempt failed") {
                    assert!(status.installing.is_some(), "{status:?}");
                    return status.not_ready;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert!(not_ready.contains(text), "{name}: {not_ready}");
        let refused = registers(&mut learner).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{name}");
        assert!(
            refused.message().contains("install") && refused.message().contains("retry"),
            "{name}: {refused}"
        );
        learner.stop().await.unwrap();
        // Nothing is installed, and the old state stays.
        change_all(&acceptors, |script| script.trimmed_to = 0);
        let mut learner = TestLearner::start(&acceptors, Some(copy.path())).await;
        let mut old = learner.subscribe(0).await;
        assert_eq!(old.message().await.unwrap().unwrap().records[0].slot, 0, "{name}");
        learner.stop().await.unwrap();
        no_installation_is_left(copy.path());
    }

    // One sound snapshot among flawed ones is enough.
    trim(&acceptors, 100, &SnapshotScript::default());
    acceptors[2].change(|script| script.snapshot = Some(whole));
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    agrees(&mut learner, &mut teacher, 100).await;
    learner.stop().await.unwrap();
    teacher.stop().await.unwrap();
}

#[tokio::test]
async fn readers_of_a_cut_off_learner_get_the_reason_and_the_progress() {
    let acceptors = acceptors().await;
    accept(&acceptors, 0..100);
    let directory = tempfile::tempdir().unwrap();
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    applies(&mut learner, 100).await;
    // A file that the learner had made, and could not record any more.
    let unrecorded = directory.path().join("state-51200-0ab100ff.pxs");
    std::fs::write(&unrecorded, "of no use").unwrap();
    change_all(&acceptors, |script| {
        script.values_muted = true;
        script.breaks += 1;
    });
    let mut subscription = learner.subscribe(100).await;
    accept(&acceptors, 100..200);
    let muted = SnapshotScript {
        is_muted: true,
        ..SnapshotScript::default()
    };
    let id = pb::SnapshotId {
        to: 200,
        sha256: vec![0; 32].into(),
        bytes: 340 << 20,
    };
    trim(&acceptors, 200, &SnapshotScript { id, ..muted });
    // Open streams end with the reason, and new calls get the reason.
    let ended = within_deadline(async {
        loop {
            if let Err(status) = subscription.message().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(ended.code(), Code::Unavailable);
    assert!(ended.message().contains("install"), "{ended}");
    let arriving = within_deadline(async {
        loop {
            let status = learner.status().await;
            if status.installing.is_some_and(|installing| installing.bytes > 0) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!unrecorded.exists(), "the snapshot needs the space");
    assert_eq!(
        arriving.not_ready,
        "this learner installs a snapshot (0 of 340 MiB)"
    );
    let refused = registers(&mut learner).await.unwrap_err();
    assert_eq!(
        refused.message(),
        "this learner installs a snapshot (0 of 340 MiB): retry, here or at another learner"
    );
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn running_learner_goes_on_from_the_snapshot_in_the_same_process() {
    let acceptors = acceptors().await;
    let (mut teacher, _) = teacher(&acceptors, 100).await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    applies(&mut learner, 100).await;
    let number = learner.status().await.learner;
    // All three vote, and no acceptor has the rows of slots 100 to 199 any more.
    let file = snapshot_of(200).await;
    change_all(&acceptors, |script| script.values_muted = true);
    trim(&acceptors, 200, &SnapshotScript::whole(200, file));
    accept(&acceptors, 200..210);
    change_all(&acceptors, |script| script.values_muted = false);
    let status = applies(&mut learner, 210).await;
    assert_eq!((status.log_from, status.learner), (200, number));
    let mut subscription = learner.subscribe(200).await;
    let first = within_deadline(subscription.message()).await.unwrap().unwrap();
    assert_eq!(first.records[0].slot, 200);
    agrees(&mut learner, &mut teacher, 210).await;
    learner.stop().await.unwrap();
    teacher.stop().await.unwrap();
}

/// The snapshot to slot `to` of the cluster with the acceptors 1, 2 and 3.
async fn snapshot_of(to: u64) -> Bytes {
    let others = acceptors().await;
    let (teacher, file) = teacher(&others, to).await;
    teacher.stop().await.unwrap();
    file
}

/// The end of a whole snapshot.
fn end_of(file: &Bytes) -> u64 {
    let mut decoder = SnapshotDecoder::new(None);
    decoder.push(file);
    let mut end = 0;
    while let Some(part) = decoder.next_part().unwrap() {
        if let SnapshotPart::Header(header) = part {
            end = header.to.get();
        }
    }
    decoder.finish().unwrap();
    end
}

#[tokio::test]
async fn learner_gives_one_file_to_each_acceptor_that_asks() {
    let acceptors = acceptors().await;
    accept(&acceptors, 0..200);
    let mut learner = TestLearner::start(&acceptors, None).await;
    applies(&mut learner, 200).await;
    acceptors[0].change(|script| script.snapshot_wanted = Some(150));
    let heard = acceptors[0].hears(|heard| !heard.kept.is_empty()).await;
    let first = heard.kept[0].clone();
    assert_eq!((first.id.to, end_of(&first.file)), (200, 200));
    assert!(first.part_bytes_max <= 256 * 1024);
    // The same file again for a while, although the log goes on.
    accept(&acceptors, 200..220);
    applies(&mut learner, 220).await;
    acceptors[1].change(|script| script.snapshot_wanted = Some(199));
    let heard = acceptors[1].hears(|heard| !heard.kept.is_empty()).await;
    assert_eq!(heard.kept[0].id, first.id);
    // A later end needs a new file.
    acceptors[2].change(|script| script.snapshot_wanted = Some(200));
    let heard = acceptors[2].hears(|heard| !heard.kept.is_empty()).await;
    assert_eq!(end_of(&heard.kept[0].file), 220);
    // No acceptor got a file without asking.
    for acceptor in &acceptors {
        assert_eq!(acceptor.heard.borrow().keep_begins.len(), 1);
    }
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn refused_snapshot_is_offered_again_while_the_acceptor_asks() {
    let acceptors = acceptors().await;
    accept(&acceptors, 0..50);
    let mut learner = TestLearner::start(&acceptors, None).await;
    applies(&mut learner, 50).await;
    acceptors[0].change(|script| {
        script.keep_refused = Some(Code::ResourceExhausted);
        script.snapshot_wanted = Some(10);
    });
    acceptors[0].hears(|heard| heard.keep_begins.len() == 2).await;
    // Another acceptor does not wait for the refusing one.
    acceptors[1].change(|script| script.snapshot_wanted = Some(10));
    acceptors[1].hears(|heard| !heard.kept.is_empty()).await;
    acceptors[0].change(|script| script.keep_refused = None);
    acceptors[0].hears(|heard| !heard.kept.is_empty()).await;
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn acceptor_that_takes_nothing_keeps_no_other_waiting() {
    let acceptors = acceptors().await;
    // More than the connection holds.
    accept(&acceptors, 0..70);
    let mut learner = TestLearner::start(&acceptors, None).await;
    applies(&mut learner, 70).await;
    acceptors[0].change(|script| {
        script.keeps_muted = true;
        script.snapshot_wanted = Some(10);
    });
    acceptors[0].hears(|heard| heard.keep_begins.len() == 1).await;
    acceptors[1].change(|script| script.snapshot_wanted = Some(10));
    acceptors[1].hears(|heard| !heard.kept.is_empty()).await;
    // The upload was given up, and begins again only after a pause.
    let heard = acceptors[0].heard.borrow().clone();
    assert_eq!((heard.keep_begins.len(), heard.kept.len()), (1, 0));
    // The learner stops in the middle of an upload.
    acceptors[1].change(|script| {
        script.keeps_muted = true;
        script.snapshot_wanted = Some(11);
    });
    acceptors[1].hears(|heard| heard.keep_begins.len() == 2).await;
    learner.stop().await.unwrap();
}
