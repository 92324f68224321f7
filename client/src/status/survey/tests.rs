//! A survey of answers in every order: the asked processes, the quorum, and the listed processes.

use super::*;
use paxos_proto::v1::{AttachRequest, AttachedPeer, Configuration, Member, Stamp};

fn address(host: &str) -> Address {
    format!("http://{host}:1").parse().unwrap()
}

fn uuid(number: u8) -> Bytes {
    vec![number; 16].into()
}

/// The answer of acceptor `number`, in a cluster of five.
fn acceptor(number: u8) -> Result<RoleStatus, Cause> {
    let member = |number| Member {
        acceptor: uuid(number),
        address: address(&format!("a{number}")).to_string(),
        name: String::new(),
    };
    let proposer = AttachRequest {
        role: Role::Proposer.into(),
        address: address("p").to_string(),
        ..AttachRequest::default()
    };
    Ok(RoleStatus::Acceptor(Box::new(AcceptorStatusResponse {
        stamp: Some(Stamp {
            acceptor: uuid(number),
            ..Stamp::default()
        }),
        configuration: Some(Configuration {
            members: (1..=5).map(member).collect(),
            phase1: 3,
            phase2: 3,
            origin: None,
            era: 0,
            cluster_id: Default::default(),
        }),
        attached: vec![AttachedPeer {
            report: Some(proposer),
            age_ms: 3,
        }],
        ..AcceptorStatusResponse::default()
    })))
}

fn refused() -> Result<RoleStatus, Cause> {
    Err(Cause::unavailable("connection refused"))
}

/// A survey with these given acceptors.
fn given(hosts: &[&str]) -> Survey {
    let mut survey = Survey::default();
    for host in hosts {
        survey.add(Role::Acceptor, address(host), true, None).unwrap();
    }
    survey
}

fn asked(survey: &Survey, found: &[usize]) -> Vec<String> {
    let host = |&index: &usize| {
        let text = survey.targets[index].address.to_string();
        text.replace("http://", "").replace(":1", "")
    };
    found.iter().map(host).collect()
}

fn listed(survey: Survey) -> Vec<(String, bool)> {
    let status = survey.into_status(Duration::from_millis(250));
    let report = |report: &RoleReport<AcceptorStatusResponse>| {
        (
            report
                .address
                .to_string()
                .replace("http://", "")
                .replace(":1", ""),
            report.answer.is_ok(),
        )
    };
    status.acceptors.iter().map(report).collect()
}

#[test]
fn first_answer_names_the_members_that_were_not_given_and_the_peers() {
    let mut survey = given(&["a1", "a2", "a3"]);
    let found = survey.record(0, acceptor(1));
    assert_eq!(asked(&survey, &found), ["a4", "a5", "p"]);
    assert!(survey.record(1, acceptor(2)).is_empty(), "all are asked already");
}

#[test]
fn quorum_is_one_of_the_configuration_not_of_the_given_acceptors() {
    let mut survey = given(&["a1", "a2"]);
    assert!(!survey.has_quorum());
    survey.record(0, acceptor(1));
    survey.record(1, acceptor(2));
    assert!(!survey.has_quorum(), "three of five are needed");
    survey.record(2, acceptor(3));
    assert!(survey.has_quorum());
    assert!(!survey.is_complete());
}

#[test]
fn silent_member_is_listed_with_the_time_waited() {
    let mut survey = given(&["a1", "a2", "a3"]);
    for (index, number) in [(0, 1), (1, 2), (2, 3)] {
        survey.record(index, acceptor(number));
    }
    survey.record(3, refused());
    let status = survey.into_status(Duration::from_millis(250));
    let errors: Vec<_> = status
        .acceptors
        .iter()
        .filter_map(|report| report.answer.as_ref().err().map(ToString::to_string))
        .collect();
    assert_eq!(errors, ["connection refused", "no answer within 250 ms"]);
}

#[test]
fn peer_that_accepts_the_connection_differs_from_a_peer_out_of_reach() {
    for (connected, code) in [
        (true, ErrorCode::DeadlineExceeded),
        (false, ErrorCode::Unavailable),
    ] {
        let mut survey = given(&["a1"]);
        let found = survey.record(0, acceptor(1));
        let proposer = *found.last().unwrap();
        survey.targets[proposer]
            .connected
            .store(connected, Ordering::Relaxed);
        let status = survey.into_status(Duration::from_millis(250));
        assert_eq!(status.proposers[0].answer.as_ref().unwrap_err().code, code);
    }
}

#[test]
fn acceptors_given_by_other_addresses_than_they_advertise_are_listed_once() {
    // As from outside a container network: the advertised names lead nowhere.
    let hosts = ["h1", "h2", "h3", "h4", "h5"];
    let mut survey = given(&hosts);
    let found = survey.record(0, acceptor(1));
    assert_eq!(asked(&survey, &found), ["a2", "a3", "a4", "a5", "p"]);
    for (index, number) in [(1, 2), (2, 3), (3, 4)] {
        survey.record(index, acceptor(number));
    }
    assert!(!survey.is_complete(), "h5, a5 and p have not answered");
    survey.record(4, refused());
    let expected = hosts.map(|host| (host.to_owned(), host != "h5"));
    assert_eq!(listed(survey), expected, "h5 stands for a5");
}

#[test]
fn waiting_ends_when_every_member_has_answered_somewhere() {
    let mut survey = given(&["h1", "h2", "h3", "h4", "h5"]);
    for index in 0..5 {
        survey.record(index, acceptor(u8::try_from(index).unwrap() + 1));
    }
    let proposer = survey
        .targets
        .iter()
        .position(|target| target.role == Role::Proposer)
        .unwrap();
    survey.record(proposer, refused());
    assert!(survey.is_complete(), "a2 to a5 answered elsewhere");
    assert_eq!(listed(survey).len(), 5);
}

#[test]
fn number_of_processes_asked_is_bounded() {
    let mut survey = given(&["a1"]);
    let added = (0..2 * FOUND_MAX)
        .filter_map(|number| survey.add(Role::Learner, address(&format!("l{number}")), false, None));
    assert_eq!(added.count(), FOUND_MAX);
}

#[test]
fn blank_acceptor_answers_for_the_address_that_it_advertises() {
    let blank = |advertised: &str| {
        let answer = AcceptorStatusResponse {
            stamp: Some(Stamp {
                acceptor: uuid(9),
                ..Stamp::default()
            }),
            address: advertised.to_owned(),
            membership: Membership::Blank.into(),
            ..AcceptorStatusResponse::default()
        };
        Ok(RoleStatus::Acceptor(Box::new(answer)))
    };
    // As from outside a container network. The disk of a3 is lost, and h9 is new.
    let hosts = ["h1", "h2", "h3", "h4", "h5", "h9"];
    for (advertised, is_a3_listed) in [
        ("http://a3:1", false),
        ("https://a3:1", false),
        ("http://a9:1", true),
    ] {
        let mut survey = given(&hosts);
        for (index, number) in [(0, 1), (1, 2), (3, 4), (4, 5)] {
            survey.record(index, acceptor(number));
        }
        survey.record(2, blank(advertised));
        survey.record(5, blank("http://a9:1"));
        for index in 6..survey.targets.len() {
            survey.record(index, refused());
        }
        let listed = listed(survey);
        assert!(
            hosts
                .iter()
                .all(|host| listed.contains(&((*host).to_owned(), true)))
        );
        assert_eq!(
            listed.contains(&("a3".to_owned(), false)),
            is_a3_listed,
            "{listed:?}"
        );
    }
}
