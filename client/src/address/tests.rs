//! The addresses that reports lead to, and the reasons when there are none.

use super::*;
use crate::{code::ErrorCode, status::AcceptorReport};
use paxos_proto::v1::{AcceptorStatusResponse, AttachRequest, LearnerProgress, Member, ProposerProgress};

fn proposer(address: &str, leading: bool, age_ms: u64) -> AttachedPeer {
    AttachedPeer {
        report: Some(AttachRequest {
            role: Role::Proposer.into(),
            address: address.to_owned(),
            progress: Some(Progress::Proposer(ProposerProgress {
                leading,
                ..ProposerProgress::default()
            })),
            ..AttachRequest::default()
        }),
        age_ms,
    }
}

fn status(attached: Vec<AttachedPeer>) -> ClusterReport {
    let answer = AcceptorStatusResponse {
        attached,
        ..AcceptorStatusResponse::default()
    };
    ClusterReport {
        acceptors: vec![AcceptorReport {
            address: "http://a:1".parse().unwrap(),
            given: true,
            answer: Ok(answer),
        }],
        ..ClusterReport::default()
    }
}

#[test]
fn leader_is_tried_first_and_a_silent_peer_last() {
    let status = status(vec![
        proposer("http://silent:1", true, 60_000),
        proposer("http://standby:1", false, 10),
        proposer("http://leader:1", true, 10),
        proposer("not an address", true, 10),
    ]);
    let found: Vec<_> = attached(&status, Role::Proposer)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["http://leader:1", "http://standby:1", "http://silent:1"]);
    assert!(attached(&status, Role::Learner).is_empty());
}

#[test]
fn denial_of_an_acceptor_says_more_than_the_silence_of_the_others() {
    let failed = |address: &str, cause| AcceptorReport {
        address: address.parse().unwrap(),
        given: true,
        answer: Err(cause),
    };
    let denied = Cause::new(ErrorCode::PermissionDenied, "this certificate says acceptor");
    let mut report = ClusterReport {
        acceptors: vec![
            failed("https://silent:1", Cause::deadline()),
            failed("https://a:1", denied.clone()),
        ],
        ..ClusterReport::default()
    };
    let cause = none_found(&report, Role::Learner, 0);
    assert_eq!(cause, denied.at(&"https://a:1"));
    report.acceptors.pop();
    let cause = none_found(&report, Role::Learner, 0);
    assert!(
        !cause.is_permanent() && cause.message.contains("https://silent:1"),
        "{cause}"
    );
    // An answer counts more: the client has the right to ask.
    report.acceptors.extend(status(Vec::new()).acceptors);
    assert!(!none_found(&report, Role::Learner, 0).is_permanent());
}

#[test]
fn learner_that_refuses_reads_is_named_only_when_no_other_is_there() {
    let learner = |address: &str, refuses_reads, age_ms| AttachedPeer {
        report: Some(AttachRequest {
            role: Role::Learner.into(),
            address: address.to_owned(),
            progress: Some(Progress::Learner(LearnerProgress {
                refuses_reads,
                ..LearnerProgress::default()
            })),
            ..AttachRequest::default()
        }),
        age_ms,
    };
    let named = |peers| {
        let found = attached(&status(peers), Role::Learner);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let new = || learner("http://new:1", true, 10);
    assert_eq!(
        named(vec![new(), learner("http://old:1", false, 10)]),
        ["http://old:1"]
    );
    assert_eq!(named(vec![new()]), ["http://new:1"]);
    // The learner had caught up before a restart, according to an earlier report.
    let before = || learner("http://new:1", false, 900);
    assert_eq!(
        named(vec![before(), new(), learner("http://old:1", false, 10)]),
        ["http://old:1"]
    );
    // The only learner that had caught up is silent.
    let silent = learner("http://silent:1", false, 60_000);
    assert_eq!(named(vec![new(), silent]), ["http://new:1", "http://silent:1"]);
}

#[test]
fn leader_is_the_leading_proposer_at_the_highest_ballot() {
    let at_round = |mut peer: AttachedPeer, round| {
        let report = peer.report.as_mut().unwrap();
        let Some(Progress::Proposer(progress)) = &mut report.progress else {
            panic!("it is a proposer")
        };
        progress.ballot = Some(paxos_proto::v1::Ballot {
            round,
            proposer: 1,
            era: 0,
        });
        peer
    };
    let status = status(vec![
        at_round(proposer("http://paused:1", true, 700), 4),
        at_round(proposer("http://leader:1", true, 20), 5),
        at_round(proposer("http://standby:1", false, 20), 6),
        at_round(proposer("http://gone:1", true, 60_000), 7),
    ]);
    assert_eq!(leader(&status).unwrap().address.as_str(), "http://leader:1");
    assert_eq!(attached(&status, Role::Proposer)[0].as_str(), "http://leader:1");
}

#[test]
fn leader_is_searched_for_among_the_given_proposers_alone() {
    let address = |text: &str| text.parse::<Address>().unwrap();
    let [one, two, three, outside] = [
        "http://one:1",
        "http://two:1",
        "http://three:1",
        "http://outside:1",
    ]
    .map(address);
    let given = |proposers: &[&Address]| {
        let config = ClientConfig {
            proposers: proposers.iter().copied().cloned().collect(),
            ..ClientConfig::default()
        };
        Directory::new(config, Dialer::default())
    };
    let directory = given(&[&one, &two, &three]);
    assert_eq!(
        directory.leader_candidates(&three, &one),
        [three.clone(), two.clone()]
    );
    assert_eq!(
        directory.leader_candidates(&outside, &one),
        [two.clone(), three.clone()],
        "one of the addresses may be an alias"
    );
    directory.shun(&three);
    assert_eq!(directory.leader_candidates(&three, &one), [two]);
    assert_eq!(given(&[&one]).leader_candidates(&outside, &one), []);
    assert_eq!(given(&[]).leader_candidates(&outside, &one), [outside]);
}

#[tokio::test]
async fn address_that_failed_is_tried_last_until_it_is_trusted_again() {
    let proposers: Vec<Address> = vec!["http://one:1".parse().unwrap(), "http://two:1".parse().unwrap()];
    let config = ClientConfig {
        proposers: proposers.clone(),
        ..ClientConfig::default()
    };
    let directory = Directory::new(config, Dialer::default());
    assert_eq!(directory.proposers().await.unwrap(), proposers);
    directory.shun(&proposers[0]);
    assert_eq!(
        directory.proposers().await.unwrap(),
        [proposers[1].clone(), proposers[0].clone()]
    );
    directory.trust(&proposers[0]);
    assert_eq!(directory.proposers().await.unwrap(), proposers);
}

#[test]
fn removed_acceptors_name_the_members() {
    let member = |number: u8| Member {
        acceptor: vec![number; 16].into(),
        address: format!("http://{number}:1"),
        name: String::new(),
    };
    let answer = |number: u8, era: u64, members: &[u8]| AcceptorStatusResponse {
        stamp: Some(Stamp {
            acceptor: vec![number; 16].into(),
            ..Stamp::default()
        }),
        configuration: Some(Configuration {
            members: members.iter().copied().map(member).collect(),
            era,
            ..Configuration::default()
        }),
        ..AcceptorStatusResponse::default()
    };
    let named = |answers: Vec<AcceptorStatusResponse>| {
        let report = |answer| AcceptorReport {
            address: "http://a:1".parse().unwrap(),
            given: true,
            answer: Ok(answer),
        };
        let status = ClusterReport {
            acceptors: answers.into_iter().map(report).collect(),
            ..ClusterReport::default()
        };
        let members = members_elsewhere(&status)?.members.iter();
        Some(members.map(|member| member.address.clone()).collect::<Vec<_>>())
    };
    // Acceptor 3 has not heard of its removal.
    for (era, members) in [(4, [3, 4]), (4, [2, 4]), (0, [3, 4])] {
        let members = named(vec![answer(1, 5, &[4, 6]), answer(3, era, &members)]);
        assert_eq!(members.unwrap(), ["http://4:1", "http://6:1"]);
    }
    let with_member = vec![answer(1, 5, &[4, 6]), answer(4, 4, &[3, 4])];
    let mut other_cluster = vec![answer(1, 5, &[4, 6]), answer(3, 4, &[2, 4])];
    other_cluster[1].stamp.as_mut().unwrap().cluster_id = vec![9; 16].into();
    let blank = vec![AcceptorStatusResponse::default()];
    for other in [with_member, other_cluster, blank, Vec::new()] {
        assert_eq!(named(other), None);
    }
}
