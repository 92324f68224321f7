//! Every member of the configuration is judged, and the number of further acceptors that may be lost.

use super::*;

/// Makes a cluster of five members. The last two were not given, and do not answer.
fn five_of_which_two_are_dead(status: &mut ClusterReport) {
    let member = |number: u8| Member {
        acceptor: vec![number; 16].into(),
        address: format!("http://127.0.0.1:700{number}"),
        name: String::new(),
    };
    let configuration = Configuration {
        members: (1..=5).map(member).collect(),
        phase1: 3,
        phase2: 3,
        origin: None,
        era: 0,
        cluster_id: Default::default(),
    };
    for index in 0..3 {
        change(status, index, |answer| {
            answer.configuration = Some(configuration.clone());
        });
    }
    for number in 4..=5 {
        let mut dead = status.acceptors[0].clone();
        dead.address = member(number).address.parse().unwrap();
        dead.given = false;
        status.acceptors.push(dead);
        lose(status, usize::from(number) - 1);
    }
}

#[test]
fn member_that_only_another_cluster_names_is_not_expected() {
    let mut status = healthy();
    let mut strange = status.acceptors[0].clone();
    strange.address = "http://127.0.0.1:7009".parse().unwrap();
    strange.given = false;
    status.acceptors.push(strange);
    lose(&mut status, 3);
    change(&mut status, 0, |answer| {
        answer.stamp.as_mut().unwrap().cluster_id = vec![1; 16].into();
        let configuration = answer.configuration.as_mut().unwrap();
        configuration.members[1].address = "http://127.0.0.1:7009".to_owned();
    });
    let found = problems(&status);
    assert!(
        found.contains("belongs to another cluster") && !found.contains("7009"),
        "{found}"
    );
}

#[test]
fn blank_acceptors_that_receive_a_backup_wait_for_the_restore_and_for_no_proposer() {
    let mut status = healthy();
    for index in 0..3 {
        change(&mut status, index, |answer| {
            answer.membership = Membership::Blank.into();
            answer.configuration = None;
            answer.stamp = None;
        });
    }
    change(&mut status, 1, |answer| {
        answer.receiving = Some(SnapshotId::default());
    });
    let findings = judge(&status).findings;
    let (problem, advice) = (&findings[0].problem, findings[0].advice);
    assert!(problem.contains("is blank and receives a backup"), "{problem}");
    assert!(advice.contains("Start no proposer"), "{advice}");
}

#[test]
fn every_member_is_judged_though_only_some_were_given() {
    let mut status = healthy();
    five_of_which_two_are_dead(&mut status);
    let found = problems(&status);
    for problem in [
        "acceptor http://127.0.0.1:7004, a member that --acceptors does not list, does not answer",
        "acceptor http://127.0.0.1:7005, a member",
        "3 of 5 acceptors can vote, and 3 make a quorum: the loss of one more is an outage",
    ] {
        assert!(found.contains(problem), "{found}");
    }
    assert_eq!(judge(&status).exit(), Exit::Clean);
}

#[test]
fn members_that_do_not_answer_are_a_finding() {
    let mut status = healthy();
    five_of_which_two_are_dead(&mut status);
    status.acceptors.truncate(3);
    let found = problems(&status);
    assert!(
        found.contains(
            "members of the cluster do not answer; their addresses are http://127.0.0.1:7004, http"
        ),
        "{found}"
    );
}

#[test]
fn listed_address_with_a_blank_acceptor_is_no_unasked_member() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.set_membership(Membership::Blank);
        answer.configuration = None;
        let stamp = answer.stamp.as_mut().unwrap();
        stamp.acceptor = vec![9; 16].into();
        stamp.cluster_id = bytes::Bytes::new();
    });
    let found = problems(&status);
    assert!(found.contains("http://127.0.0.1:7001"), "{found}");
    assert!(!found.contains("do not answer"), "{found}");
}

#[test]
fn hung_disk_beside_a_dead_acceptor_is_no_quorum_and_both_are_named() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.waiting_ms = 30_000;
        answer.not_ready = "its disk has not finished a request for 30 seconds".to_owned();
    });
    let found = problems(&status);
    assert!(
        found.contains("a1 (http://127.0.0.1:7001) has kept a request waiting for its disk for 30000 ms")
    );
    assert!(found.contains("the loss of one more is an outage"), "{found}");
    lose(&mut status, 1);
    let verdict = judge(&status);
    assert_eq!(
        (verdict.exit(), verdict.votes),
        (Exit::Unavailable, vec![false, false, true])
    );
    let found = problems(&status);
    assert!(found.starts_with("no quorum: 1 of 3"), "{found}");
    assert!(found.contains("a1 (http://127.0.0.1:7001) has kept") && found.contains("7002 does not answer"));
}

#[test]
fn acceptor_that_is_not_ready_does_not_vote_and_its_own_reason_is_shown() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.not_ready = "its disk is elsewhere".to_owned();
    });
    let found = problems(&status);
    assert!(
        found.contains("a1 (http://127.0.0.1:7001) is not ready: its disk is elsewhere"),
        "{found}"
    );
    assert!(found.contains("2 of 3 acceptors can vote"), "{found}");
}

#[test]
fn cluster_that_needs_every_acceptor_has_none_to_lose() {
    let mut status = healthy();
    for index in 0..3 {
        change(&mut status, index, |answer| {
            answer.configuration.as_mut().unwrap().phase2 = 3;
        });
    }
    assert_eq!(problems(&status), "");
}

#[test]
fn disks_that_fill_are_findings_before_they_are_full() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.data_free_bytes = Some(DATA_FREE_LOW_BYTES);
    });
    assert_eq!(problems(&status), "");
    change(&mut status, 0, |answer| answer.data_free_bytes = Some(200 << 20));
    let found = problems(&status);
    assert!(
        found.contains("a1 (http://127.0.0.1:7001) has only 200 MiB left"),
        "{found}"
    );
}

#[test]
fn findings_name_whom_they_are_about() {
    let mut status = healthy();
    change(&mut status, 0, |answer| answer.damaged_rows = 3);
    lose(&mut status, 1);
    let subjects: Vec<_> = judge(&status)
        .findings
        .into_iter()
        .map(|finding| (finding.subject.role, finding.subject.name))
        .collect();
    let subject = |role, name: &str| (role, name.to_owned());
    assert_eq!(
        subjects,
        [
            subject("acceptor", "http://127.0.0.1:7002"),
            subject("acceptor", "a1"),
            subject("cluster", "")
        ]
    );
}

/// The finding when the third acceptor is blank and new, asked at one address and advertising another address.
fn third_is_blank(asked_at: &str, advertised: &str) -> Finding {
    let mut status = healthy();
    status.acceptors[2].address = asked_at.parse().unwrap();
    change(&mut status, 2, |answer| {
        answer.set_membership(Membership::Blank);
        answer.address = advertised.to_owned();
        answer.configuration = None;
        let stamp = answer.stamp.as_mut().unwrap();
        stamp.acceptor = vec![9; 16].into();
        stamp.cluster_id = bytes::Bytes::new();
    });
    judge(&status).findings.remove(0)
}

#[test]
fn blank_acceptor_has_lost_its_disk_when_asked_at_or_advertising_the_address_of_a_silent_member() {
    let (place, published) = ("http://127.0.0.1:7003", "http://127.77.0.1:7003");
    for (asked_at, advertised) in [
        (place, place),
        (published, place),
        (place, published),
        (place, ""),
    ] {
        let finding = third_is_blank(asked_at, advertised);
        assert!(
            finding
                .problem
                .contains("the member at this address has lost its disk"),
            "{asked_at} {advertised}: {finding:?}"
        );
        assert!(finding.advice.contains("replace the member"), "{finding:?}");
    }
}

#[test]
fn blank_acceptor_at_no_address_of_a_silent_member_may_be_new() {
    let (new, living) = ("http://127.0.0.1:7009", "http://127.0.0.1:7001");
    for (asked_at, advertised) in [(new, new), (new, living), (living, new)] {
        let finding = third_is_blank(asked_at, advertised);
        assert!(
            finding
                .problem
                .contains("the acceptor is new, or a member has lost its disk"),
            "{asked_at} {advertised}: {finding:?}"
        );
        assert!(finding.advice.contains("`paxos member add`"), "{finding:?}");
    }
}

#[test]
fn acceptor_that_refuses_the_certificate_needs_another_certificate_and_no_start() {
    let mut status = healthy();
    let cause = Cause::new(ErrorCode::PermissionDenied, "for clients and operators");
    status.acceptors[0].answer = Err(cause);
    let finding = judge(&status).findings.remove(0);
    assert!(
        finding.problem.contains("7001 does not answer: for clients"),
        "{finding:?}"
    );
    assert!(
        finding
            .advice
            .contains("Give the certificate of a client or of an operator"),
        "{finding:?}"
    );
}

#[test]
fn quorums_that_need_every_member_to_lead_are_healthy_and_say_why_none_may_be_lost() {
    let mut status = healthy();
    for index in 0..3 {
        change(&mut status, index, |answer| {
            let configuration = answer.configuration.as_mut().unwrap();
            (configuration.phase1, configuration.phase2) = (3, 1);
        });
    }
    let verdict = judge(&status);
    assert_eq!(verdict.findings, []);
    let words = verdict.tolerance.in_words();
    assert!(words.contains("because the quorums were chosen so"), "{words}");
    // The leader goes on after a loss.
    lose(&mut status, 0);
    let verdict = judge(&status);
    assert_eq!(verdict.exit(), Exit::Clean);
    let found = problems(&status);
    assert!(found.contains("too few to elect another leader (3)"), "{found}");
    assert!(!found.contains("no quorum"), "{found}");
    let mut status = cluster(&[proposer(7101, false), learner(7201, 120, &[])]);
    for index in 0..3 {
        change(&mut status, index, |answer| {
            let configuration = answer.configuration.as_mut().unwrap();
            (configuration.phase1, configuration.phase2) = (3, 1);
        });
    }
    lose(&mut status, 0);
    assert_eq!(judge(&status).exit(), Exit::Unavailable, "no leader goes on");
}
