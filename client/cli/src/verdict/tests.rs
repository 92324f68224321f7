//! Invented statuses for tests, and the verdicts on each status.

mod answers;
mod changes;
mod members;

use super::{
    digests::COMPARABLE_SLOTS,
    peers::{LEADER_SILENT_MS, REPORT_OLD_MS, UNANSWERED_REPORT_OLD_MS},
    *,
};
use paxos_client::{Cause, ErrorCode, raw::AcceptorReport};
use paxos_proto::v1::{
    AcceptorStatusResponse, AttachRequest, AttachedPeer, Ballot, Configuration, Digest, Leadership,
    LearnerProgress, Member, Membership, ProposerProgress, Role, Run, SnapshotId, Stamp, Witness,
    attach_request::Progress,
};

fn digest(to: u64, byte: u8) -> Digest {
    Digest {
        to,
        digest: vec![byte; 32].into(),
        ..Digest::default()
    }
}

/// The learner, with states at the slots of its digests; 0: unknown, as from an older release.
fn with_states(mut peer: AttachedPeer, states: &[u8]) -> AttachedPeer {
    let report = peer.report.as_mut().unwrap();
    let Some(Progress::Learner(progress)) = &mut report.progress else {
        panic!("{report:?}")
    };
    for (digest, &byte) in progress.digests.iter_mut().zip(states) {
        digest.state = vec![byte; if byte > 0 { 16 } else { 0 }].into();
    }
    peer
}

pub(crate) fn learner(port: u16, applied_to: u64, digests: &[(u64, u8)]) -> AttachedPeer {
    let digests = digests.iter().map(|&(to, byte)| digest(to, byte)).collect();
    AttachedPeer {
        report: Some(AttachRequest {
            role: Role::Learner.into(),
            peer: u64::from(port),
            address: format!("http://127.0.0.1:{port}"),
            progress: Some(Progress::Learner(LearnerProgress {
                applied_to,
                digests,
                ..LearnerProgress::default()
            })),
            ..AttachRequest::default()
        }),
        age_ms: 12,
    }
}

pub(crate) fn proposer(port: u16, leading: bool) -> AttachedPeer {
    let progress = ProposerProgress {
        leading,
        ballot: leading.then_some(Ballot {
            round: 3,
            proposer: 77,
            era: 0,
        }),
        chosen_to: 120,
        queued: 0,
        leader_timeout_ms: 200,
    };
    AttachedPeer {
        report: Some(AttachRequest {
            role: Role::Proposer.into(),
            peer: u64::from(port),
            address: format!("http://127.0.0.1:{port}"),
            progress: Some(Progress::Proposer(progress)),
            ..AttachRequest::default()
        }),
        age_ms: 12,
    }
}

/// Three formed acceptors of one cluster, each with the same peers.
pub(crate) fn cluster(attached: &[AttachedPeer]) -> ClusterReport {
    let uuid = |number: u8| bytes::Bytes::from(vec![number; 16]);
    let member = |number: u8| Member {
        acceptor: uuid(number),
        address: format!("http://127.0.0.1:700{number}"),
        name: String::new(),
    };
    let report = |number: u8| AcceptorReport {
        address: member(number).address.parse().unwrap(),
        given: true,
        answer: Ok(AcceptorStatusResponse {
            stamp: Some(Stamp {
                cluster_id: uuid(9),
                acceptor: uuid(number),
                ..Stamp::default()
            }),
            id: format!("a{number}"),
            address: member(number).address,
            membership: Membership::Formed.into(),
            configuration: Some(Configuration {
                members: (1..=3).map(member).collect(),
                phase1: 2,
                phase2: 2,
                origin: None,
                era: 0,
                cluster_id: Default::default(),
            }),
            leadership: Some(Leadership {
                promised: Some(Ballot {
                    round: 3,
                    proposer: 77,
                    era: 0,
                }),
                address: "http://127.0.0.1:7101".to_owned(),
                silent_ms: 20,
                resigned: false,
            }),
            chosen_to: 120,
            voted_to: 121,
            wal_bytes: 4096,
            attached: attached.to_vec(),
            ..AcceptorStatusResponse::default()
        }),
    };
    ClusterReport {
        acceptors: (1..=3).map(report).collect(),
        ..ClusterReport::default()
    }
}

pub(crate) fn healthy() -> ClusterReport {
    let digests = [(120, 7), (1024, 8)];
    cluster(&[
        proposer(7101, true),
        proposer(7102, false),
        learner(7201, 120, &digests),
        learner(7202, 118, &digests),
    ])
}

pub(crate) fn lose(status: &mut ClusterReport, index: usize) {
    let cause = Cause::new(ErrorCode::Unavailable, "connection refused");
    status.acceptors[index].answer = Err(cause);
}

fn problems(status: &ClusterReport) -> String {
    judge(status)
        .findings
        .iter()
        .map(|finding| finding.problem.clone() + "\n")
        .collect()
}

#[test]
fn healthy_cluster_has_no_findings_and_each_peer_once() {
    let verdict = judge(&healthy());
    assert_eq!(
        (verdict.findings.as_slice(), verdict.exit()),
        (&[][..], Exit::Clean)
    );
    assert_eq!(
        (verdict.peers.len(), verdict.chosen_to, verdict.digests),
        (4, 120, Digests::Equal(1024))
    );
    assert_eq!(verdict.leader.unwrap().report.address, "http://127.0.0.1:7101");
}

#[test]
fn one_acceptor_away_is_degraded_and_two_are_no_quorum() {
    let mut status = healthy();
    lose(&mut status, 1);
    assert_eq!(
        problems(&status),
        "acceptor http://127.0.0.1:7002 does not answer: connection refused\n\
         2 of 3 acceptors can vote, and 2 make a quorum: the loss of one more is an outage\n"
    );
    assert_eq!(judge(&status).exit(), Exit::Clean);
    lose(&mut status, 2);
    assert_eq!(judge(&status).exit(), Exit::Unavailable);
    assert!(
        problems(&status)
            .starts_with("no quorum: 1 of 3 acceptors answer as members that can vote, 2 are needed")
    );
    lose(&mut status, 0);
    assert!(
        problems(&status).starts_with("no acceptor answers"),
        "{}",
        problems(&status)
    );
}

#[test]
fn cluster_without_leader_is_unavailable() {
    let status = cluster(&[proposer(7101, false), learner(7201, 1, &[])]);
    assert_eq!(judge(&status).exit(), Exit::Unavailable);
    assert!(problems(&status).starts_with("no proposer leads"));
}

#[test]
fn leader_that_acceptors_do_not_hear_of_does_not_lead() {
    let mut status = healthy();
    for report in &mut status.acceptors {
        report
            .answer
            .as_mut()
            .unwrap()
            .leadership
            .as_mut()
            .unwrap()
            .silent_ms = LEADER_SILENT_MS + 1;
    }
    assert!(problems(&status).contains("has been silent for 2001 ms"));
}

#[test]
fn blank_acceptors_are_reported_as_an_unformed_cluster() {
    let mut status = cluster(&[]);
    for report in &mut status.acceptors {
        let answer = report.answer.as_mut().unwrap();
        answer.membership = Membership::Blank.into();
        answer.configuration = None;
        answer.stamp = None;
    }
    assert_eq!(judge(&status).exit(), Exit::Unavailable);
    assert!(problems(&status).starts_with("the cluster is not formed: 3 of 3 acceptors answer"));
}

fn change(status: &mut ClusterReport, index: usize, change: impl FnOnce(&mut AcceptorStatusResponse)) {
    change(status.acceptors[index].answer.as_mut().unwrap());
}

#[test]
fn acceptor_of_another_cluster_is_not_counted() {
    let mut status = healthy();
    let cluster = |byte: u8| {
        move |answer: &mut AcceptorStatusResponse| {
            answer.stamp.as_mut().unwrap().cluster_id = vec![byte; 16].into();
        }
    };
    change(&mut status, 2, cluster(1));
    assert_eq!(judge(&status).exit(), Exit::Clean);
    assert!(problems(&status).contains("a3 (http://127.0.0.1:7003) belongs to another cluster, 0101"));
    change(&mut status, 1, cluster(2));
    assert!(problems(&status).starts_with("the acceptors belong to different clusters"));
}

#[test]
fn blank_acceptor_of_a_formed_cluster_has_lost_its_disk() {
    let mut status = healthy();
    let wipe = |answer: &mut AcceptorStatusResponse| {
        answer.membership = Membership::Blank.into();
        answer.configuration = None;
        answer.stamp.as_mut().unwrap().cluster_id.clear();
    };
    change(&mut status, 2, wipe);
    assert_eq!(judge(&status).exit(), Exit::Clean);
    assert!(problems(&status).contains("a3 (http://127.0.0.1:7003) is blank"));
    change(&mut status, 1, wipe);
    assert_eq!(judge(&status).exit(), Exit::Unavailable);
    assert!(problems(&status).starts_with("no quorum: 1 of 3"));
}

#[test]
fn acceptor_that_forgot_a_witnessed_run_is_not_counted() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.witnesses = vec![Witness {
            acceptor: vec![3; 16].into(),
            run: 5,
            commit_counter: 70,
        }];
    });
    let run = |run, commit_counter| Run { run, commit_counter };
    change(&mut status, 2, |answer| {
        answer.stamp.as_mut().unwrap().runs = vec![run(5, 70), run(6, 71)];
    });
    assert!(!judge(&status).contradicted);
    change(&mut status, 2, |answer| {
        answer.stamp.as_mut().unwrap().runs = vec![run(5, 60), run(7, 900)];
    });
    let verdict = judge(&status);
    assert!(verdict.contradicted && verdict.exit() == Exit::Clean);
    assert!(
        problems(&status).contains("knows that run only up to commit 60"),
        "{}",
        problems(&status)
    );
}

#[test]
fn conflicting_lists_are_shown_side_by_side() {
    let mut status = cluster(&[]);
    for index in 0..3 {
        change(&mut status, index, |answer| {
            answer.membership = Membership::Forming.into();
        });
    }
    assert!(problems(&status).starts_with("the cluster is not formed"));
    change(&mut status, 1, |answer| {
        answer.stamp.as_mut().unwrap().cluster_id = vec![1; 16].into();
        answer.configuration.as_mut().unwrap().members[0].acceptor = vec![4; 16].into();
    });
    let problems = problems(&status);
    assert!(
        problems.starts_with("the acceptors hold different lists"),
        "{problems}"
    );
    assert!(
        problems.contains("http://127.0.0.1:7002 holds 04040404-0404-0404-0404-040404040404, 0202"),
        "{problems}"
    );
    assert!(
        judge(&status).findings[0]
            .advice
            .contains("empty every listed data directory")
    );
}

#[test]
fn acceptor_named_twice_is_counted_once() {
    let mut status = healthy();
    for index in 1..3 {
        change(&mut status, index, |answer| {
            answer.stamp.as_mut().unwrap().acceptor = vec![1; 16].into();
        });
    }
    assert!(problems(&status).starts_with("no quorum: 1 of 3"));
    assert!(
        problems(&status)
            .contains("a3 (http://127.0.0.1:7003) is the same acceptor as http://127.0.0.1:7001")
    );
}

#[test]
fn full_disks_do_not_vote_and_damaged_rows_are_reported() {
    let mut status = healthy();
    change(&mut status, 2, |answer| answer.damaged_snapshots = vec![51_200]);
    change(&mut status, 0, |answer| answer.damaged_rows = 3);
    change(&mut status, 1, |answer| answer.no_space = true);
    assert_eq!(judge(&status).exit(), Exit::Clean);
    assert!(
        problems(&status)
            .contains("a1 (http://127.0.0.1:7001) has 3 damaged rows on its disk, from slot 120 on")
    );
    assert!(problems(&status).contains("a2 (http://127.0.0.1:7002) has too little space"));
    assert!(problems(&status).contains("a3 (http://127.0.0.1:7003) has a damaged snapshot to slot 51200"));
    change(&mut status, 2, |answer| answer.no_space = true);
    assert!(problems(&status).starts_with("no quorum: 1 of 3"));
}

#[test]
fn slow_and_stuck_disks_are_reported_with_their_times() {
    let mut status = healthy();
    change(&mut status, 0, |answer| answer.slowest_commit_ms = 200);
    change(&mut status, 1, |answer| answer.waiting_ms = 1_000);
    assert_eq!(problems(&status), "", "as long as the limits, not longer");
    change(&mut status, 0, |answer| answer.slowest_commit_ms = 201);
    change(&mut status, 1, |answer| {
        answer.waiting_ms = 1_001;
        answer.slowest_commit_ms = 1_001;
    });
    assert_eq!(judge(&status).exit(), Exit::Clean);
    assert_eq!(
        problems(&status),
        "acceptor a1 (http://127.0.0.1:7001) has a slow disk: its slowest commit of the last minute took 201 ms\n\
         acceptor a2 (http://127.0.0.1:7002) has kept a request waiting for its disk for 1001 ms\n"
    );
}

#[test]
fn commits_are_slow_when_they_take_longer_than_the_leader_timeout_in_use() {
    let slow_commits = |leader_timeout_ms| {
        let mut patient = proposer(7101, true);
        let report = patient.report.as_mut().unwrap();
        let Some(Progress::Proposer(progress)) = &mut report.progress else {
            panic!("a proposer");
        };
        progress.leader_timeout_ms = leader_timeout_ms;
        let mut status = cluster(&[patient, learner(7201, 120, &[])]);
        change(&mut status, 0, |answer| answer.slowest_commit_ms = 900);
        problems(&status)
    };
    assert_eq!(slow_commits(1_000), "");
    assert!(slow_commits(800).contains("took 900 ms"));
    assert!(
        slow_commits(0).contains("took 900 ms"),
        "an older proposer does not report it"
    );
}

#[test]
fn peers_that_are_far_behind_are_findings() {
    let mut status = cluster(&[proposer(7101, true), learner(7201, 120, &[])]);
    assert_eq!(problems(&status), "");
    for index in 0..2 {
        change(&mut status, index, |answer| answer.chosen_to = 1_000_000);
    }
    assert_eq!(judge(&status).exit(), Exit::Clean);
    assert!(problems(&status).contains("a3 (http://127.0.0.1:7003) is 999880 slots behind"));
    assert!(problems(&status).contains("learner http://127.0.0.1:7201 is 999880 slots behind"));
}

#[test]
fn differing_learners_are_found_at_any_common_point_and_are_the_worst() {
    let differing = [
        proposer(7101, true),
        learner(7201, 9, &[(9, 1), (5, 1)]),
        learner(7202, 8, &[(8, 2), (5, 2)]),
    ];
    let verdict = judge(&cluster(&differing));
    assert_eq!((verdict.digests, verdict.exit()), (Digests::Differ(5), Exit::No));
    let problem = &verdict.findings[0].problem;
    assert!(
        problem.starts_with("learners DIFFER below slot 5") && problem.contains("7202 holds 020202020202"),
        "{problem}"
    );
}

#[test]
fn learners_with_equal_logs_and_differing_states_are_broken() {
    let judged = |states: [&[u8]; 3]| {
        let learner = |(port, states)| with_states(learner(port, 9, &[(9, 1), (5, 1)]), states);
        let peers = (7201..).zip(states).map(learner);
        judge(&cluster(
            &std::iter::once(proposer(7101, true))
                .chain(peers)
                .collect::<Vec<_>>(),
        ))
    };
    let verdict = judged([&[0, 3], &[3, 3], &[3, 4]]);
    assert_eq!(
        (verdict.digests, verdict.exit()),
        (Digests::StatesDiffer(5), Exit::No)
    );
    let problem = &verdict.findings[0].problem;
    assert!(
        problem.contains("STATES of learners DIFFER below slot 5")
            && problem.contains("7203 holds 040404040404"),
        "{problem}"
    );
    // An unknown state is no different state.
    assert_eq!(judged([&[0, 3], &[3, 0], &[0, 3]]).digests, Digests::Equal(9));
}

#[test]
fn digests_without_a_common_point_are_not_called_equal() {
    let apart = [learner(7201, 9, &[(9, 1)]), learner(7202, 8, &[(8, 2)])];
    assert_eq!(judge(&cluster(&apart)).digests, Digests::NotComparable);
    assert_eq!(judge(&cluster(&apart[..1])).digests, Digests::NotComparable);
}

#[test]
fn learners_that_cannot_be_compared_are_a_finding() {
    let apart = |slots: u64| {
        cluster(&[
            proposer(7101, true),
            learner(7201, slots, &[(slots, 1)]),
            learner(7202, slots + 1, &[(slots + 1, 2)]),
        ])
    };
    assert_eq!(problems(&apart(COMPARABLE_SLOTS - 2)), "");
    let problem = problems(&apart(COMPARABLE_SLOTS));
    assert!(
        problem.contains("cannot be compared") && problem.contains("7202 at slot 33"),
        "{problem}"
    );
}

#[test]
fn stale_report_is_a_finding_and_makes_no_leader() {
    let mut old = proposer(7101, true);
    old.age_ms = REPORT_OLD_MS;
    let status = cluster(&[old, learner(7201, 120, &[])]);
    assert!(judge(&status).leader.is_none());
    assert!(problems(&status).contains("has not reported for 5000 ms"));
}

#[test]
fn process_without_an_answer_is_a_finding_when_a_report_is_overdue() {
    let aged = |age_ms| {
        let mut learner = learner(7201, 120, &[]);
        learner.age_ms = age_ms;
        problems(&cluster(&[proposer(7101, true), learner]))
    };
    assert!(!aged(UNANSWERED_REPORT_OLD_MS - 1).contains("has not reported"));
    let problem = aged(UNANSWERED_REPORT_OLD_MS);
    assert!(
        problem.contains("does not answer, and has not reported for 3000 ms"),
        "{problem}"
    );
}
