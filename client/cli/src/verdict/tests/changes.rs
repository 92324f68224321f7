//! A change of members under way, by the leader's answer or by the eras of the acceptors.

use super::*;
use paxos_client::raw::RoleReport;
use paxos_proto::v1::{
    ChangeMembersResponse, Copying, ProposerPhase, ProposerStatusResponse, change_members_response::Stage,
};
use serde_json::json;

fn member(number: u8) -> Member {
    Member {
        acceptor: vec![number; 16].into(),
        address: format!("http://127.0.0.1:700{number}"),
        name: format!("a{number}"),
    }
}

/// The configuration after `era` changes.
fn later(members: &[u8], era: u64) -> Configuration {
    Configuration {
        members: members.iter().copied().map(member).collect(),
        phase1: 2,
        phase2: 2,
        era,
        ..Configuration::default()
    }
}

/// The leader copies the log to acceptor 4, in the place of acceptor 3.
fn copying() -> ClusterReport {
    let mut status = healthy();
    let answer = ProposerStatusResponse {
        proposer: 7101,
        address: "http://127.0.0.1:7101".to_owned(),
        phase: ProposerPhase::Leading.into(),
        chosen_to: 120,
        ballot: Some(Ballot {
            round: 3,
            proposer: 77,
            era: 0,
        }),
        acceptors: (1..=3)
            .map(|number| paxos_proto::v1::AcceptorLink {
                acceptor: vec![number; 16].into(),
                attached: true,
                ..Default::default()
            })
            .collect(),
        change: Some(ChangeMembersResponse {
            stage: Some(Stage::Copying(Copying {
                slots: 41,
                of: 100,
                bytes: 0,
            })),
            waited_ms: None,
        }),
        change_to: Some(later(&[1, 2, 4], 1)),
        change_ms: Some(12_345),
        ..ProposerStatusResponse::default()
    };
    status.proposers = vec![RoleReport {
        address: "http://127.0.0.1:7101".parse().unwrap(),
        given: false,
        answer: Ok(answer),
    }];
    status
}

#[test]
fn change_under_way_is_shown_with_its_acceptors_step_and_time() {
    let change = judge(&copying()).change.unwrap();
    assert_eq!(
        change.in_words(),
        "change of members to era 1 under way for 12 s: coming: a4 (04040404) at http://127.0.0.1:7004; going: a3 \
         (03030303) at http://127.0.0.1:7003; step: copying 41 % (41 of 100 slots); leader: http://127.0.0.1:7101"
    );
    let shown = change.json();
    assert_eq!((&shown["era"], &shown["step"]), (&json!("1"), &json!("copying")));
    assert_eq!(shown["since_ms"], "12345");
    assert_eq!(shown["added"][0]["address"], "http://127.0.0.1:7004");
    assert_eq!(shown["removed"][0]["name"], "a3");
    assert_eq!(shown["progress"]["copying"]["slots"], "41");
    assert_eq!(judge(&healthy()).change, None);
}

#[test]
fn joiner_of_the_change_under_way_is_no_finding() {
    let mut status = copying();
    let mut joiner = status.acceptors[0].clone();
    joiner.address = "http://127.0.0.1:7004".parse().unwrap();
    joiner.answer.as_mut().unwrap().stamp.as_mut().unwrap().acceptor = vec![4; 16].into();
    status.acceptors.push(joiner);
    assert_eq!(problems(&status), "");
    status.proposers.clear();
    assert!(problems(&status).contains("is no member in era 0"));
}

#[test]
fn change_of_a_proposer_of_an_older_release_is_shown_without_the_acceptors() {
    let mut status = copying();
    let answer = status.proposers[0].answer.as_mut().unwrap();
    (answer.change_to, answer.change_ms) = (None, None);
    let words = judge(&status).change.unwrap().in_words();
    assert!(
        words.starts_with("change of members under way: step: copying 41 %"),
        "{words}"
    );
}

#[test]
fn switch_without_a_new_leader_is_shown_by_the_eras_of_the_acceptors() {
    let mut status = healthy();
    change(&mut status, 0, |answer| {
        answer.configuration = Some(later(&[1, 2, 4], 1));
    });
    let words = judge(&status).change.unwrap().in_words();
    assert!(
        words.contains("to era 1")
            && words.contains("step: switching, 1 of 3 members have the new configuration"),
        "{words}"
    );
    assert!(
        words.contains("coming: a4") && words.contains("going: a3"),
        "{words}"
    );
    // A candidate of the new era: the acceptors in the earlier era are late.
    change(&mut status, 0, |answer| {
        let promised = answer.leadership.as_mut().unwrap().promised.as_mut().unwrap();
        promised.era = 1;
    });
    assert_eq!(judge(&status).change, None);
}
