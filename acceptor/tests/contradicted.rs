//! The real binary and a learner that lies: the snapshot contradicts what another learner has reported.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use paxos_common::paxos::identity::ClusterId;
use paxos_proto::v1 as pb;
use support::{
    leader::TestLeader,
    learner::{applied, attach, attach_and_move, wanted},
    process::{Process, form},
    snapshots::{digest_of, file, keep},
    status::{status, until},
    value,
};
use tonic::Code;

/// Numbers of the learners. The acceptor asks the lowest first.
const LIAR: u64 = 5;
const RIGHT: u64 = 9;

/// Keeps the smallest log, and trims one second after its start.
const FLAGS: [&str; 4] = ["--retain-bytes", "1MiB", "--restart-max", "1s"];

/// Whether the latest report has a digest at this slot.
fn is_at(report: &pb::AttachRequest, to: u64) -> bool {
    match &report.progress {
        Some(pb::attach_request::Progress::Learner(progress)) => {
            progress.digests.iter().any(|digest| digest.to == to)
        }
        Some(_) | None => false,
    }
}

/// Votes for the slots below 20, all chosen in the end: the log has grown by a step.
async fn vote(process: &Process, cluster: ClusterId) -> TestLeader {
    let mut leader = TestLeader::open(process.client(), cluster).await;
    for slot in 0..20 {
        let value = value(&"v".repeat(64 * 1024));
        leader.propose(1, slot, vec![(slot, value)]).await.unwrap();
    }
    leader.propose(1, 20, vec![]).await.unwrap();
    leader
}

#[tokio::test]
async fn snapshot_that_contradicts_an_earlier_report_is_refused_and_the_next_learner_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    let formed = form(&mut client).await;
    let cluster = formed.cluster_id();
    let _leader = vote(&process, cluster).await;
    // Both report the same digests. The latest reports have no digest at slot 16.
    let (right, later) = (digest_of(&formed, 16, 3_000), digest_of(&formed, 18, 3_000));
    let moves = |peer| [&right, &later].map(|digest| applied(peer, 20, vec![digest.clone()]));
    let [first, then] = moves(RIGHT);
    let mut next = attach_and_move(&mut client, cluster, first, then).await;
    let [first, then] = moves(LIAR);
    let mut liar = attach_and_move(&mut client, cluster, first, then).await;

    assert_eq!(wanted(&mut liar).await, 0);
    until(&mut client, "both have moved on", |status| {
        let reports = status.attached.iter().filter_map(|peer| peer.report.as_ref());
        reports.filter(|report| is_at(report, 18)).count() == 2
    })
    .await;
    let lie = file(&formed, 16, 4_000);
    let refused = keep(&mut client, &formed, &lie, LIAR).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for text in [
        "the snapshot of learner 5 (http://l:5) contradicts the digest of learner 9 (http://l:9) below slot 16",
        "the snapshot has log 070707070707 and state ",
        "Empty the data directory of the wrong learner, of two learners both",
    ] {
        assert!(refused.message().contains(text), "{refused:?}");
    }
    let shown = status(&mut client).await;
    assert!(shown.snapshots.is_empty(), "{shown:?}");
    let [text] = &shown.contradictions[..] else {
        panic!("{shown:?}")
    };
    assert!(
        text.contains("the snapshot of learner 5 (http://l:5) contradicts"),
        "{text}"
    );

    // The reports agree above, so the acceptor goes on with the next learner.
    assert_eq!(wanted(&mut next).await, 0);
    let truth = file(&formed, 16, 3_000);
    keep(&mut client, &formed, &truth, RIGHT).await.unwrap();
    let shown = status(&mut client).await;
    assert_eq!((shown.snapshots, shown.contradictions.len()), (vec![truth.0], 1));
}

#[tokio::test]
async fn waiting_snapshot_is_forgotten_when_a_learner_contradicts_it_later() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start_with(directory.path(), &FLAGS);
    let mut client = process.client();
    let formed = form(&mut client).await;
    let cluster = formed.cluster_id();
    let mut liar = attach(&mut client, cluster, applied(LIAR, 20, vec![])).await;
    let _leader = vote(&process, cluster).await;
    assert_eq!(wanted(&mut liar).await, 0);
    let lie = file(&formed, 16, 4_000);
    // No digest at the end is known.
    keep(&mut client, &formed, &lie, LIAR).await.unwrap();
    assert_eq!(status(&mut client).await.snapshots, [lie.0]);
    let report = applied(RIGHT, 20, vec![digest_of(&formed, 16, 3_000)]);
    let _right = attach(&mut client, cluster, report).await;
    until(&mut client, "the snapshot is forgotten", |status| {
        status.snapshots.is_empty() && !status.contradictions.is_empty()
    })
    .await;
    // The liar does not agree: a person acts.
    until(&mut client, "the status says what to do", |status| {
        status.waits_for_person
            && status
                .waits_for
                .contains("differ below slot 16, in reports or in a snapshot")
    })
    .await;
}
