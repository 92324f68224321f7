//! Lists and plans from invented answers.

use std::{sync::Arc, time::Duration};

use paxos_client::{
    Address, Cause, ErrorCode,
    raw::{AcceptorReport, ClusterReport},
};
use paxos_common::paxos::{identity::AcceptorUuid, quorum::Configuration};
use paxos_proto::v1 as pb;

use super::*;
use crate::member::look::{AskedPlan, Plan, RemovedAndAdded};

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(0xabcd << 112 | number << 96)
}

fn address(number: u128) -> String {
    format!("http://a{number}:1")
}

fn configuration() -> Configuration {
    let members = [1, 2, 3].map(|number| (uuid(number), address(number).as_str().into()));
    Configuration::new(members, 2, 2).unwrap()
}

/// The answer of acceptor `number` at the address of `place`.
fn answer(number: u128, place: u128, membership: pb::Membership) -> AcceptorReport {
    let configuration = configuration();
    let is_formed = membership == pb::Membership::Formed;
    let cluster = is_formed.then(|| configuration.cluster_id().as_bytes().to_vec());
    let status = pb::AcceptorStatusResponse {
        stamp: Some(pb::Stamp {
            cluster_id: cluster.unwrap_or_default().into(),
            acceptor: uuid(number).to_bytes().to_vec().into(),
            run: 1,
            commit_counter: 1,
            runs: vec![pb::Run {
                run: 1,
                commit_counter: 1,
            }],
        }),
        id: format!("acceptor-{number}"),
        address: address(place),
        membership: membership.into(),
        configuration: is_formed.then(|| pb::Configuration::from(&configuration)),
        chosen_to: 100 - u64::try_from(number).unwrap(),
        ..pb::AcceptorStatusResponse::default()
    };
    AcceptorReport {
        address: address(place).parse().unwrap(),
        given: true,
        answer: Ok(status),
    }
}

fn silent(place: u128) -> AcceptorReport {
    let address: Address = address(place).parse().unwrap();
    AcceptorReport {
        address,
        given: true,
        answer: Err(Cause::new(ErrorCode::Unavailable, "no connection")),
    }
}

fn look(acceptors: Vec<AcceptorReport>) -> MembersLook {
    MembersLook::of(&ClusterReport {
        acceptors,
        ..ClusterReport::default()
    })
    .unwrap()
}

fn formed(number: u128) -> AcceptorReport {
    answer(number, number, pb::Membership::Formed)
}

#[test]
fn healthy_members_need_no_command() {
    let look = look([1, 2, 3].map(formed).into());
    let text = text(&look);
    assert!(text.contains("era 0, 3 members, one may be lost"), "{text}");
    assert!(!text.contains("what to do"), "{text}");
    assert!(
        text.contains("quorums: 2 of 3 to elect a leader (phase 1), 2 of 3 to choose a value (phase 2)\n"),
        "{text}"
    );
    let row = "acceptor-3  abcd0003  http://a3:1  votes  2    0";
    let squeezed: Vec<_> = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .collect();
    assert!(squeezed.contains(&row.split_whitespace().collect()), "{text}");
}

/// Acceptor 9 takes the place of a lost disk, and acceptor 4 is new.
fn names_both_commands(text: &str) {
    assert!(
        text.contains("lost its disk\n    what to do: paxos member replace acceptor-9\n"),
        "{text}"
    );
    assert!(
        text.contains("what to do: paxos member add http://a4:1\n"),
        "{text}"
    );
}

#[test]
fn lost_disk_and_new_acceptor_come_with_their_commands() {
    let blank = pb::Membership::Blank;
    let look = look(vec![
        formed(1),
        formed(2),
        answer(9, 3, blank),
        answer(4, 4, blank),
    ]);
    let text = text(&look);
    assert!(text.contains("none may be lost"), "{text}");
    names_both_commands(&text);
    let rows = text.lines().filter(|line| line.starts_with("acceptor-9  "));
    assert_eq!(
        rows.count(),
        1,
        "the blank acceptor at the place of the lost disk is no row of its own: {text}"
    );
    let json = json(&look);
    assert_eq!(json["members"][2]["state"], "lost its disk");
    assert_eq!(
        json["members"][2]["what_to_do"],
        "paxos member replace acceptor-9"
    );
    assert_eq!(json["outside"][0]["address"], "http://a4:1");
    assert_eq!((&json["may_be_lost"], &json["era"]), (&0.into(), &"0".into()));
}

/// An answer at an address that the cluster does not know, as through a published port of a container.
fn published(mut report: AcceptorReport) -> AcceptorReport {
    let port = report.address.as_str().chars().filter(char::is_ascii_digit);
    let port: String = port.collect();
    report.address = format!("http://127.0.0.1:70{port}").parse().unwrap();
    report
}

#[tokio::test]
async fn commands_name_the_addresses_of_the_cluster_when_asked_through_published_ports() {
    let blank = pb::Membership::Blank;
    let reports = [formed(1), formed(2), answer(9, 3, blank), answer(4, 4, blank)];
    let look = look(reports.map(published).into());
    let text = text(&look);
    names_both_commands(&text);
    assert!(!text.contains("127.0.0.1"), "{text}");

    let in_place = RemovedAndAdded {
        removed: vec![uuid(3)],
        added: vec![address(3).parse().unwrap()],
        is_in_place: true,
    };
    let plan = plan(&look, in_place).await;
    assert_eq!(*plan.request.add[0].acceptor, uuid(9).to_bytes());
    assert_eq!(
        plan.advice, "",
        "the blank acceptor answers, at its published port"
    );
}

#[test]
fn member_that_moved_is_named_with_its_address_and_the_command() {
    let moved = || answer(3, 7, pb::Membership::Formed);
    let mut seen = look(vec![formed(1), formed(2), moved()]);
    assert_eq!(seen.members[2].answers_at.as_deref(), Some("http://a7:1"));
    seen.members[2].listed_answers(None);
    let text = text(&seen);
    assert!(
        text.contains("acceptor-3 (abcd0003): answers elsewhere\n    what to do: the acceptor answers at http://a7:1, and"),
        "{text}"
    );
    assert!(
        text.contains("paxos member replace acceptor-3 --with http://a7:1\n"),
        "{text}"
    );
    let json = json(&seen);
    assert_eq!(json["members"][2]["state"], "answers elsewhere");
    assert_eq!(
        (&json["members"][2]["address"], &json["members"][2]["answers_at"]),
        (&"http://a3:1".into(), &"http://a7:1".into())
    );
    // An acceptor with two addresses has not moved.
    let mut seen = look(vec![formed(1), formed(2), moved()]);
    seen.members[2].listed_answers(Some(uuid(3)));
    assert_eq!(
        (seen.members[2].state, &seen.members[2].answers_at),
        (SeenState::Votes, &None)
    );
    let mut asked_at_listed = moved();
    asked_at_listed.address = address(3).parse().unwrap();
    let seen = look(vec![formed(1), formed(2), asked_at_listed]);
    assert_eq!(seen.members[2].answers_at, None);
}

#[test]
fn lost_member_of_a_cluster_that_got_tls_has_the_new_scheme() {
    let secure = |mut report: AcceptorReport| {
        let url = report.address.as_str().replace("http:", "https:");
        report.address = url.parse().unwrap();
        report.answer.as_mut().unwrap().address = url;
        report
    };
    let reports = [formed(1), formed(2), answer(9, 3, pb::Membership::Blank)];
    let look = look(reports.map(secure).into());
    let text = text(&look);
    assert!(
        text.contains("lost its disk\n    what to do: paxos member replace"),
        "{text}"
    );
    for url in ["http://a3:1", "https://a3:1"] {
        assert_eq!(look.member(url).unwrap().address, "https://a3:1");
    }
    assert_eq!(
        look.member("https://a1:1").unwrap().address,
        "http://a1:1",
        "as in the configuration"
    );
}

#[test]
fn blank_acceptor_with_the_address_of_a_living_member_is_listed() {
    let text = text(&look(vec![
        formed(1),
        formed(2),
        formed(3),
        published(answer(9, 3, pb::Membership::Blank)),
    ]));
    assert!(text.contains("one may be lost"), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("acceptor-9  ")),
        "{text}"
    );
}

#[test]
fn silent_members_and_a_missing_quorum_are_named() {
    let text = text(&look(vec![formed(1), silent(2), silent(3)]));
    assert!(text.contains("too few vote: no value is ordered"), "{text}");
    assert!(text.contains("paxos member replace abcd0002"), "{text}");
}

#[test]
fn acceptor_with_an_earlier_configuration_is_outside_the_latest() {
    let entry = |number: u128| (uuid(number), Arc::<str>::from(address(number)).into());
    let later = configuration().changed_to([1, 2, 4].map(entry), 2, 2).unwrap();
    let mut reports: Vec<_> = [1, 2, 3, 4].map(formed).into();
    for report in &mut reports[..2] {
        report.answer.as_mut().unwrap().configuration = Some((&later).into());
    }
    let look = look(reports);
    assert_eq!(look.outside.len(), 1);
    assert_eq!(look.outside[0].state, SeenState::Outside);
    assert_eq!(
        look.members[2].era,
        Some(0),
        "acceptor 4 has not heard of its era yet"
    );
}

#[test]
fn member_is_named_by_name_address_or_digits() {
    let look = look([1, 2, 3].map(formed).into());
    let found = |id: &str| {
        look.member(id)
            .map(|member| member.uuid)
            .map_err(|failure| failure.to_string())
    };
    for id in [
        "acceptor-2",
        "http://a2:1",
        "http://a2:1/",
        "abcd0002",
        "ABCD0002",
        "abcd0002-0000",
    ] {
        assert_eq!(found(id), Ok(uuid(2)), "{id}");
    }
    assert!(found("abcd").unwrap_err().contains("names 3 members"));
    for unknown in ["abc", "acceptor-9", "http://a9:1", ""] {
        assert!(
            found(unknown)
                .unwrap_err()
                .contains("the members are acceptor-1 (abcd0001)"),
            "{unknown}"
        );
    }
}

/// The plan of a command line.
async fn plan(look: &MembersLook, named: RemovedAndAdded) -> Plan {
    let client = paxos_client::Client::connect([address(1)]).unwrap();
    let asked = AskedPlan {
        named,
        quorums: None,
        force: false,
    };
    // The added acceptor does not answer here.
    look.plan(&client, asked, Duration::from_millis(1)).await.unwrap()
}

#[tokio::test]
async fn plan_names_what_happens_and_knows_its_result() {
    let look = look([1, 2, 3].map(formed).into());
    let replace = RemovedAndAdded {
        removed: vec![uuid(3)],
        added: vec!["http://127.0.0.1:9".parse().unwrap()],
        is_in_place: false,
    };
    let plan = plan(&look, replace).await;
    assert_eq!(
        plan.headline,
        "replacing acceptor-3 (abcd0003) by the acceptor at http://127.0.0.1:9; the cluster serves meanwhile"
    );
    assert_eq!(plan.off, ["acceptor-3 (abcd0003)"]);
    assert_eq!(
        (
            plan.request.era,
            plan.request.remove.len(),
            plan.request.add.len()
        ),
        (0, 1, 1)
    );
    let place = |number: u128, place: &str| (uuid(number), Arc::<str>::from(place).into());
    let joined = place(7, "http://127.0.0.1:9");
    let member = |number: u128| place(number, &address(number));
    let made = |members: [_; 3]| configuration().changed_to(members, 2, 2).unwrap();
    assert!(plan.makes(&made([member(1), member(2), joined.clone()])));
    for other in [
        made([member(1), member(3), joined.clone()]),
        made([member(1), member(2), place(7, "http://other:1")]),
        configuration(),
        made([member(1), member(2), joined.clone()])
            .changed_to([member(1), member(2), joined], 2, 2)
            .unwrap(),
    ] {
        assert!(!plan.makes(&other), "{other:?}");
    }
}

#[test]
fn acceptor_of_another_cluster_is_not_to_be_stopped() {
    let mut stranger = answer(4, 4, pb::Membership::Formed);
    let stamp = stranger.answer.as_mut().unwrap().stamp.as_mut().unwrap();
    stamp.cluster_id = vec![7; 16].into();
    let reports = [formed(1), formed(2), formed(3), stranger];
    let text = text(&look(reports.into()));
    assert!(
        text.contains(": of another cluster\n    what to do: correct --acceptors"),
        "{text}"
    );
    assert!(!text.contains("may be stopped"), "{text}");
}

#[test]
fn joiner_of_a_change_under_way_joins_and_may_not_be_stopped() {
    let mut later = pb::Configuration::from(&configuration());
    later.era = 1;
    later.members[2].acceptor = uuid(4).to_bytes().to_vec().into();
    later.members[2].address = address(4);
    let leader = pb::ProposerStatusResponse {
        address: "http://p:1".to_owned(),
        change: Some(pb::ChangeMembersResponse {
            stage: Some(pb::change_members_response::Stage::Deciding(pb::Deciding {
                accepted: 1,
                of: 2,
            })),
            waited_ms: None,
        }),
        change_to: Some(later),
        ..pb::ProposerStatusResponse::default()
    };
    let report = ClusterReport {
        acceptors: vec![formed(1), formed(2), silent(3), formed(4)],
        proposers: vec![paxos_client::raw::RoleReport {
            address: "http://p:1".parse().unwrap(),
            given: false,
            answer: Ok(leader),
        }],
        ..ClusterReport::default()
    };
    let look = MembersLook::of(&report).unwrap();
    let text = text(&look);
    assert!(
        text.contains("change of members to era 1 under way: coming: acceptor-4 (abcd0004) at http://a4:1"),
        "{text}"
    );
    assert!(text.contains("step: deciding, 1 of 2 new members"), "{text}");
    assert!(
        !text.contains("may be stopped") && !text.contains("member replace"),
        "{text}"
    );
    let json = json(&look);
    assert_eq!(json["outside"][0]["state"], "joins");
    assert_eq!(json["change"]["step"], "deciding");
}

#[test]
fn list_without_an_answer_says_why() {
    let denied = "this certificate says client";
    let reports = [ErrorCode::PermissionDenied; 3].map(|code| AcceptorReport {
        answer: Err(Cause::new(code, denied)),
        ..silent(1)
    });
    let report = ClusterReport {
        acceptors: reports.into(),
        ..ClusterReport::default()
    };
    let failure = format!("{:?}", MembersLook::of(&report).unwrap_err());
    assert!(
        failure.contains("http://a1:1") && failure.contains(denied),
        "{failure}"
    );
}

#[test]
fn silence_of_every_acceptor_is_named_with_each_cause_and_what_to_do() {
    let report = ClusterReport {
        acceptors: vec![silent(1), silent(2)],
        ..ClusterReport::default()
    };
    let failure = MembersLook::of(&report).unwrap_err();
    let said = failure.to_string();
    assert!(
        said.starts_with(
            "no acceptor answers: http://a1:1: no connection; http://a2:1: no connection. What to do: start"
        ),
        "{said}"
    );
    assert_eq!(failure.code, paxos_common::service::failure::Exit::Unavailable);
}
