//! Proposers and learners by direct answers, by reports, and as remembered by acceptors.

use super::*;
use crate::verdict::learner as learner_progress;
use paxos_client::raw::RoleReport;
use paxos_proto::v1::{
    AcceptorLink, InstallingSnapshot, LearnerStatusResponse, ProposerPhase, ProposerStatusResponse,
    SnapshotFailure, StoppedPeer,
};

/// The answer of the proposer at this port.
fn own_proposer(port: u16, leading: bool, linked: &[u8]) -> RoleReport<ProposerStatusResponse> {
    let phase = if leading {
        ProposerPhase::Leading
    } else {
        ProposerPhase::Standby
    };
    let link = |number: &u8| AcceptorLink {
        acceptor: vec![*number; 16].into(),
        attached: true,
        ..AcceptorLink::default()
    };
    let address = format!("http://127.0.0.1:{port}");
    RoleReport {
        address: address.parse().unwrap(),
        given: false,
        answer: Ok(ProposerStatusResponse {
            proposer: u64::from(port),
            address,
            phase: phase.into(),
            ballot: leading.then_some(Ballot {
                round: 4,
                proposer: 77,
                era: 0,
            }),
            chosen_to: 120,
            acceptors: linked.iter().map(link).collect(),
            ..ProposerStatusResponse::default()
        }),
    }
}

fn own_learner(port: u16, applied_to: u64) -> RoleReport<LearnerStatusResponse> {
    let address = format!("http://127.0.0.1:{port}");
    RoleReport {
        address: address.parse().unwrap(),
        given: false,
        answer: Ok(LearnerStatusResponse {
            learner: u64::from(port),
            address,
            applied_to,
            digests: vec![digest(120, 7), digest(1024, 8)],
            ..LearnerStatusResponse::default()
        }),
    }
}

#[test]
fn own_words_count_more_than_old_reports() {
    let mut status = cluster(&[proposer(7101, false), proposer(7102, true), learner(7201, 1, &[])]);
    status.proposers = vec![
        own_proposer(7101, true, &[1, 2, 3]),
        own_proposer(7102, false, &[1, 2, 3]),
    ];
    status.learners = vec![own_learner(7201, 120)];
    let verdict = judge(&status);
    assert_eq!(problems(&status), "");
    let leader = verdict.leader.unwrap();
    assert_eq!(
        (leader.report.address.as_str(), leader.age_ms),
        ("http://127.0.0.1:7101", 0)
    );
    let learner = verdict.peers.iter().find_map(learner_progress).unwrap();
    assert_eq!(learner.applied_to, 120);
    assert!(verdict.peers.iter().all(|peer| peer.source == Source::Itself));
}

#[test]
fn learner_without_a_snapshot_is_degraded_with_the_reason() {
    let mut status = cluster(&[proposer(7101, true), learner(7201, 1, &[])]);
    let mut own = own_learner(7201, 120);
    let failure = SnapshotFailure {
        reason: "the state is too large".to_owned(),
        failing_ms: 61_500,
    };
    own.answer.as_mut().unwrap().snapshot_failure = Some(failure);
    status.learners = vec![own];
    let found = problems(&status);
    assert!(
        found.contains(
            "learner http://127.0.0.1:7201 has not been able to make a snapshot for 61 s: the state is too large"
        ),
        "{found}"
    );
}

#[test]
fn installing_learner_is_degraded_with_the_progress() {
    let mut status = cluster(&[proposer(7101, true), learner(7201, 1, &[])]);
    let mut own = own_learner(7201, 0);
    let answer = own.answer.as_mut().unwrap();
    answer.not_ready = "this learner installs a snapshot (120 of 340 MiB)".to_owned();
    answer.installing = Some(InstallingSnapshot {
        to: 1_000_000,
        received: 120 << 20,
        bytes: 340 << 20,
    });
    status.learners = vec![own];
    status.acceptors[0].answer.as_mut().unwrap().chosen_to = 1_000_500;
    let verdict = judge(&status);
    let peer = verdict.peers.iter().find(|peer| learner_progress(peer).is_some());
    assert_eq!(peer.unwrap().installed_percent, Some(35));
    let problems = problems(&status);
    assert!(
        problems.contains("is not ready: this learner installs a snapshot (120 of 340 MiB)"),
        "{problems}"
    );
}

#[test]
fn peer_that_does_not_answer_is_shown_by_the_latest_report_with_its_age() {
    let mut status = healthy();
    // Outside a container network the names of the processes do not resolve.
    let unknown = Cause::new(ErrorCode::Unavailable, "no connection within 250 ms");
    status.proposers = vec![silent(own_proposer(7102, false, &[]), unknown)];
    let verdict = judge(&status);
    assert_eq!(verdict.findings, []);
    let standby = verdict
        .peers
        .iter()
        .find(|peer| peer.report.peer == 7102)
        .unwrap();
    let cause = Some("no connection within 250 ms".to_owned());
    assert_eq!((&standby.source, standby.age_ms), (&Source::Report(cause), 12));
}

/// The process does not answer, for this cause.
fn silent<T>(report: RoleReport<T>, cause: Cause) -> RoleReport<T> {
    RoleReport {
        answer: Err(cause),
        ..report
    }
}

fn late() -> Cause {
    Cause::new(ErrorCode::DeadlineExceeded, "no answer within 250 ms")
}

#[test]
fn standby_that_accepts_connections_without_an_answer_is_a_finding_at_once() {
    let mut status = healthy();
    status.proposers = vec![
        own_proposer(7101, true, &[1, 2, 3]),
        silent(own_proposer(7102, false, &[]), late()),
    ];
    assert_eq!(
        problems(&status),
        "proposer http://127.0.0.1:7102 accepts connections, but does not answer\n"
    );
    assert_eq!(judge(&status).exit(), Exit::Clean);
}

#[test]
fn proposers_that_all_accept_connections_without_an_answer_are_no_leader() {
    let mut status = healthy();
    status.proposers = vec![
        silent(own_proposer(7101, true, &[]), late()),
        silent(own_proposer(7102, false, &[]), late()),
    ];
    assert!(problems(&status).starts_with("no proposer answers"));
    assert_eq!(judge(&status).exit(), Exit::Unavailable);
    // The other proposer can be out of reach of this command alone.
    let unknown = Cause::new(ErrorCode::Unavailable, "no such host");
    status.proposers[1] = silent(own_proposer(7102, false, &[]), unknown);
    assert_eq!(judge(&status).exit(), Exit::Clean);
}

#[test]
fn learners_that_all_give_no_answer_are_no_readers() {
    let mut status = healthy();
    let unknown = Cause::new(ErrorCode::Unavailable, "no such host");
    status.learners = vec![
        silent(own_learner(7201, 120), late()),
        silent(own_learner(7202, 120), unknown.clone()),
    ];
    let found = problems(&status);
    assert!(
        found.contains("no learner answers, so no client can read"),
        "{found}"
    );
    assert!(
        found.contains("learner http://127.0.0.1:7201 accepts connections, but does not answer"),
        "{found}"
    );
    // One learner answers.
    status.learners[1] = own_learner(7202, 120);
    assert!(!problems(&status).contains("no learner answers"));
    // This command reaches no learner, and other clients may.
    for learner in &mut status.learners {
        learner.answer = Err(unknown.clone());
    }
    assert_eq!(problems(&status), "");
}

#[test]
fn acceptor_not_counted_by_the_leader_is_a_finding() {
    let mut status = healthy();
    status.proposers = vec![own_proposer(7101, true, &[1, 3])];
    let found = problems(&status);
    assert!(
        found.contains(
            "a2 (http://127.0.0.1:7002) answers, but the leader http://127.0.0.1:7101 does not count this acceptor"
        ),
        "{found}"
    );
    assert!(
        found.contains("2 of 3 acceptors can vote, and 2 make a quorum"),
        "{found}"
    );
    assert!(judge(&status).contradicted);
}

#[test]
fn proposer_that_reaches_too_few_acceptors_is_a_finding() {
    let mut status = healthy();
    status.proposers = vec![
        own_proposer(7101, true, &[1, 2, 3]),
        own_proposer(7102, false, &[2]),
    ];
    assert_eq!(
        problems(&status),
        "proposer http://127.0.0.1:7102 is connected to 1 of the acceptors, and could not lead: a quorum is 2\n"
    );
}

#[test]
fn learner_that_left_without_a_word_is_a_finding_until_it_is_back() {
    let mut status = healthy();
    let gone = AttachedPeer {
        age_ms: 61_000,
        ..learner(7203, 100, &[])
    };
    change(&mut status, 1, |answer| answer.departed = vec![gone.clone()]);
    assert_eq!(
        problems(&status),
        "learner http://127.0.0.1:7203 is gone: its connections ended 61 s ago, without notice of a stop\n"
    );
    assert_eq!(judge(&status).digests, Digests::Equal(1024), "it is not compared");
    // Another process listens there by now.
    let mut back = learner(7203, 120, &[(120, 7)]);
    back.report.as_mut().unwrap().peer = 9;
    change(&mut status, 0, |answer| answer.attached.push(back));
    assert_eq!(problems(&status), "");
}

#[test]
fn stop_that_one_acceptor_heard_of_is_no_finding() {
    let mut status = healthy();
    let gone = AttachedPeer {
        age_ms: 61_000,
        ..learner(7203, 100, &[])
    };
    let stopped = |peer, age_ms| StoppedPeer {
        role: Role::Learner.into(),
        peer,
        age_ms,
        stopping: None,
    };
    change(&mut status, 1, |answer| answer.departed = vec![gone]);
    change(&mut status, 0, |answer| {
        answer.stopped = vec![stopped(7203, 61_400)];
    });
    assert_eq!(problems(&status), "");
    // The stop of another process, and the end of a stream of a process that went on.
    for other in [stopped(7204, 61_400), stopped(7203, 120_000)] {
        change(&mut status, 0, |answer| answer.stopped = vec![other]);
        assert!(
            problems(&status).contains("7203 is gone"),
            "{}",
            problems(&status)
        );
    }
}

#[test]
fn stop_report_hides_a_crash_only_if_the_process_said_that_it_stops() {
    let mut status = healthy();
    let gone = AttachedPeer {
        age_ms: 61_000,
        ..learner(7203, 100, &[])
    };
    change(&mut status, 1, |answer| answer.departed = vec![gone]);
    let mut with = |stopping, age_ms| {
        let stopped = StoppedPeer {
            role: Role::Learner.into(),
            peer: 7203,
            age_ms,
            stopping,
        };
        change(&mut status, 0, |answer| answer.stopped = vec![stopped]);
        problems(&status).contains("7203 is gone")
    };
    // A change of the era ended a stream, and the process crashed less than a second later.
    assert!(with(Some(false), 61_400));
    // Another acceptor noticed the lost stream long after the stop.
    assert!(!with(Some(true), 120_000));
}

#[test]
fn learner_cut_off_from_the_acceptors_is_a_finding() {
    let mut status = healthy();
    let gone = AttachedPeer {
        age_ms: 30_000,
        ..learner(7203, 100, &[])
    };
    change(&mut status, 1, |answer| answer.departed = vec![gone]);
    status.learners = vec![own_learner(7203, 100)];
    let found = problems(&status);
    assert!(
        found.contains("7203 answers, but is attached to no answering acceptor"),
        "{found}"
    );
}

#[test]
fn learner_that_is_not_ready_says_why() {
    let mut status = healthy();
    let mut catching_up = own_learner(7202, 90);
    catching_up.answer.as_mut().unwrap().not_ready = "it has 30 slots to apply".to_owned();
    status.learners = vec![catching_up];
    assert_eq!(
        problems(&status),
        "learner http://127.0.0.1:7202 is not ready: it has 30 slots to apply\n"
    );
}

#[test]
fn learner_whose_disk_fills_is_a_finding() {
    let mut status = healthy();
    let mut full = own_learner(7202, 120);
    full.answer.as_mut().unwrap().data_free_bytes = Some(1 << 20);
    status.learners = vec![full];
    let found = problems(&status);
    assert!(
        found.contains("learner http://127.0.0.1:7202 has only 1 MiB left"),
        "{found}"
    );
    let advice = judge(&status).findings[0].advice;
    assert!(advice.contains("the learner waits"), "{advice}");
}

#[test]
fn denied_certificate_is_named_with_the_certificate_to_give() {
    let mut status = cluster(&[]);
    let denial = "Acceptor/Status is for clients; this certificate says acceptor";
    for report in &mut status.acceptors {
        report.answer = Err(Cause::new(ErrorCode::PermissionDenied, denial));
    }
    let verdict = judge(&status);
    assert_eq!(
        verdict.findings[0].problem,
        format!("no acceptor answers this command; http://127.0.0.1:7001: {denial}")
    );
    for finding in &verdict.findings {
        assert!(
            finding
                .advice
                .contains("certificate of a client or of an operator"),
            "{finding:?}"
        );
    }
    // An acceptor that is down needs other advice.
    lose(&mut status, 0);
    let verdict = judge(&status);
    let silent = verdict
        .findings
        .iter()
        .find(|finding| finding.problem.contains("refused"));
    assert!(
        silent.unwrap().advice.contains("start the acceptor again"),
        "{silent:?}"
    );
}

#[test]
fn contradictions_found_by_acceptors_are_broken_and_say_what_to_do() {
    let mut status = healthy();
    let text = "the snapshot of learner 5 contradicts the digest of learner 9 below slot 16";
    for index in 0..2 {
        change(&mut status, index, |answer| {
            answer.contradictions = vec![text.to_owned()];
        });
    }
    let verdict = judge(&status);
    let [finding] = &verdict.findings[..] else {
        panic!("{:?}", verdict.findings)
    };
    assert_eq!(verdict.exit(), Exit::No);
    let expected = format!("acceptors found a wrong learner: a1: {text}; a2: {text}");
    assert_eq!(finding.problem, expected);
    assert!(finding.advice.contains("empty its data directory"));
}
