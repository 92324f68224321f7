//! Two values at one ballot: every vote of small clusters, every set of reports, every size of quorums.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::paxos::{
    ballot::ProposerId,
    quorum::{Configuration, Quorums},
};

const HIGH: u64 = 2;
const LOW: u64 = 1;

/// A row of an acceptor: the round and the value.
type Held = Option<(u64, &'static str)>;

const HELD: [Held; 5] = [
    None,
    Some((HIGH, "a")),
    Some((HIGH, "b")),
    Some((LOW, "a")),
    Some((LOW, "b")),
];

fn uuid(place: usize) -> AcceptorUuid {
    AcceptorUuid::from_u128(place as u128 + 1)
}

fn electorate(quorums: Quorums) -> Electorate {
    let members = (0..quorums.acceptors()).map(|place| (uuid(place), Arc::from("http://a:1")));
    let configuration = Configuration::new(members, quorums.phase1(), quorums.phase2());
    configuration.unwrap().electorate()
}

fn row(round: u64, text: &'static str) -> (Ballot, Value) {
    let ballot = Ballot::new(round, ProposerId::from_random(7)).unwrap();
    (
        ballot,
        Value::from_stored(Bytes::from_static(text.as_bytes()), Bytes::new()),
    )
}

fn text(value: &Value) -> &str {
    std::str::from_utf8(value.as_bytes()).unwrap()
}

/// The required value after the acceptors of `reports`, a bit for each place, have reported.
fn required(electorate: &Electorate, held: &[Held], reports: u32) -> (SlotVotes, Option<String>) {
    let mut votes = SlotVotes::default();
    let mut reported = Tally::default();
    for (place, held) in held
        .iter()
        .enumerate()
        .filter(|(place, _)| reports & (1 << place) != 0)
    {
        reported.add(electorate, uuid(place));
        if let Some((round, value)) = *held {
            votes.take(electorate, uuid(place), row(round, value), false);
        }
    }
    let value = votes
        .required(electorate, || reported)
        .map(|value| text(value).to_owned());
    (votes, value)
}

fn voters(held: &[Held], round: u64, value: &str) -> usize {
    held.iter().filter(|held| **held == Some((round, value))).count()
}

/// Every assignment of rows to `acceptors` acceptors.
fn assignments(acceptors: usize) -> Vec<Vec<Held>> {
    (0..acceptors).fold(vec![Vec::new()], |assigned, _| {
        let with_next = |held: &Vec<Held>| HELD.map(|next| [&held[..], &[next]].concat());
        assigned.iter().flat_map(with_next).collect()
    })
}

fn all_quorums(acceptors: usize) -> impl Iterator<Item = Quorums> {
    let sizes = (1..=acceptors).flat_map(move |phase1| (1..=acceptors).map(move |phase2| (phase1, phase2)));
    sizes.filter_map(move |(phase1, phase2)| Quorums::new(acceptors, phase1, phase2).ok())
}

#[test]
fn no_value_replaces_a_chosen_value_of_the_same_ballot() {
    for quorums in (1..=4).flat_map(all_quorums) {
        let electorate = electorate(quorums);
        let acceptors = quorums.acceptors();
        let everyone = (1_u32 << acceptors) - 1;
        for held in assignments(acceptors) {
            let chosen: Vec<&str> = ["a", "b"]
                .into_iter()
                .filter(|value| voters(&held, HIGH, value) >= quorums.phase2())
                .collect();
            for reports in 0..=everyone {
                if (reports.count_ones() as usize) < quorums.phase1() {
                    continue;
                }
                let (_, required) = required(&electorate, &held, reports);
                let case = format!("{quorums:?} {held:?} {reports:b} {required:?}");
                if let [chosen] = chosen[..] {
                    let is_open = required.is_none() && reports != everyone;
                    assert!(is_open || required.as_deref() == Some(chosen), "{case}");
                }
                if reports == everyone {
                    let is_empty = held.iter().all(Option::is_none);
                    assert_eq!(required.is_none(), is_empty, "{case}");
                }
            }
            // Two values with a phase-2 quorum each: only where two phase-2 quorums can miss each other.
            assert!(
                chosen.len() < 2 || 2 * quorums.phase2() <= acceptors,
                "{quorums:?} {held:?}"
            );
        }
    }
}

#[test]
fn a_single_value_at_the_highest_ballot_is_required_at_once() {
    let electorate = electorate(Quorums::majority(3).unwrap());
    let held = [Some((LOW, "b")), Some((HIGH, "a")), None];
    assert_eq!(required(&electorate, &held, 0b011).1.as_deref(), Some("a"));
}

#[test]
fn order_of_reports_changes_nothing() {
    let electorate = electorate(Quorums::majority(3).unwrap());
    for held in assignments(3) {
        let (votes, _) = required(&electorate, &held, 0b111);
        let mut backwards = SlotVotes::default();
        for (place, held) in held.iter().enumerate().rev() {
            if let Some((round, value)) = *held {
                backwards.take(&electorate, uuid(place), row(round, value), false);
            }
        }
        assert_eq!(votes, backwards, "{held:?}");
    }
}

#[test]
fn vote_at_a_lower_ballot_decides_which_value_was_taken_over() {
    let electorate = electorate(Quorums::majority(3).unwrap());
    for taken_over in ["a", "b"] {
        let held = [Some((HIGH, "a")), Some((HIGH, "b")), Some((LOW, taken_over))];
        assert_eq!(required(&electorate, &held, 0b111).1.as_deref(), Some(taken_over));
    }
}

#[test]
fn watermarks_that_pass_two_values_are_no_knowledge() {
    let electorate = electorate(Quorums::majority(3).unwrap());
    let mut votes = SlotVotes::default();
    assert_eq!(votes.known(), None);
    votes.take(&electorate, uuid(0), row(HIGH, "a"), true);
    votes.take(&electorate, uuid(1), row(HIGH, "b"), false);
    assert_eq!(votes.known().map(text), Some("a"));
    votes.take(&electorate, uuid(1), row(HIGH, "b"), true);
    assert_eq!(votes.known(), None);
}

#[test]
fn bytes_of_a_value_are_held_once() {
    let electorate = electorate(Quorums::majority(3).unwrap());
    let mut votes = SlotVotes::default();
    let held = [(HIGH, "a"), (LOW, "a"), (HIGH, "bc")];
    let taken = (0..)
        .zip(held)
        .map(|(place, (round, value))| votes.take(&electorate, uuid(place), row(round, value), false));
    assert_eq!(taken.collect::<Vec<_>>(), [1, 0, 2]);
    assert_eq!(votes.bytes(), 3);
}
