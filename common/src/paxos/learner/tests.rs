//! One test for each rule of learning. The name of the test states the rule.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::paxos::{ballot::ProposerId, quorum::Configuration, slot::SlotRange};

mod eras;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(round)).unwrap()
}

fn value(text: &'static str) -> Value {
    Value::from_stored(Bytes::from_static(text.as_bytes()), Bytes::new())
}

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn electorate(acceptors: u128, phase1: usize, phase2: usize) -> Electorate {
    let members = (1..=acceptors).map(|number| (uuid(number), Arc::from("http://a")));
    Configuration::new(members, phase1, phase2).unwrap().electorate()
}

/// Of three acceptors, from slot 0 on.
fn learner() -> Learner {
    Learner::new(electorate(3, 2, 2), Slot::ZERO)
}

fn row(number: u64, round: u64, text: &'static str) -> Row {
    Row {
        slot: slot(number),
        accepted: Some((ballot(round), value(text))),
    }
}

fn range(from: u64, to: u64) -> SlotRange {
    SlotRange {
        from: slot(from),
        to: slot(to),
    }
}

fn vote(learner: &mut Learner, acceptor: u128, round: u64, from: u64, to: u64) {
    let admission = learner.votes(uuid(acceptor), &unnamed(round, range(from, to)));
    assert_eq!(admission, Intake::Whole);
}

/// Votes as an acceptor of an earlier release shows them: without values.
fn unnamed(round: u64, slots: SlotRange) -> VoteRange {
    VoteRange {
        ballot: ballot(round),
        slots,
        values: Vec::new(),
    }
}

/// A vote for a value in slot 0.
fn vote_for(learner: &mut Learner, acceptor: u128, round: u64, text: &'static str) {
    let votes = VoteRange::collect(&[row(0, round, text)]);
    assert_eq!(learner.votes(uuid(acceptor), &votes[0]), Intake::Whole);
}

fn rows(learner: &mut Learner, rows: &[Row], frame_chosen_to: u64) {
    assert_eq!(learner.rows(rows, slot(frame_chosen_to)), Intake::Whole);
}

fn learned(learner: &mut Learner) -> Vec<(u64, &'static str)> {
    let texts = ["a", "b", "c", "d", "other"];
    let name = |(at, value): (Slot, Value)| {
        let text = texts.into_iter().find(|text| value.as_bytes() == text);
        (at.get(), text.unwrap_or_default())
    };
    learner.take_learned(usize::MAX).into_iter().map(name).collect()
}

#[test]
fn a_quorum_of_votes_at_one_ballot_and_the_row_make_a_value_learned() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "a")], 0);
    vote(&mut learner, 1, 1, 0, 1);
    assert_eq!(learned(&mut learner), []);
    vote(&mut learner, 2, 1, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
    assert_eq!(learner.next(), slot(1));
    assert!(!learner.knows_of_more());
}

#[test]
fn votes_for_two_values_at_one_ballot_are_not_added() {
    for (feed, others) in [("a", "other"), ("other", "a")] {
        let mut learner = learner();
        rows(&mut learner, &[row(0, 1, feed)], 0);
        vote_for(&mut learner, 1, 1, feed);
        vote_for(&mut learner, 2, 1, others);
        assert_eq!(learned(&mut learner), [], "one vote for each value");
        assert!(!learner.lacks_value());
        vote_for(&mut learner, 3, 1, others);
        assert_eq!(learned(&mut learner), [], "the chosen value is not here");
        assert!(learner.lacks_value(), "another feed is needed");
        learner.change_feed();
        rows(&mut learner, &[row(0, 1, others)], 0);
        assert_eq!(learned(&mut learner), [(0, others)]);
    }
}

#[test]
fn a_watermark_above_a_row_that_contradicts_the_votes_proves_nothing() {
    let mut learner = learner();
    vote_for(&mut learner, 2, 1, "a");
    vote_for(&mut learner, 3, 1, "a");
    rows(&mut learner, &[row(0, 1, "other")], 1);
    assert_eq!(learned(&mut learner), []);
    assert!(learner.lacks_value());
    learner.change_feed();
    rows(&mut learner, &[row(0, 1, "a")], 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn a_vote_of_an_earlier_release_counts_for_every_value() {
    for unnamed_first in [true, false] {
        let mut learner = learner();
        rows(&mut learner, &[row(0, 1, "a")], 0);
        let mut votes = [Some("a"), None];
        if unnamed_first {
            votes.reverse();
        }
        for (acceptor, text) in (1..).zip(votes) {
            match text {
                Some(text) => vote_for(&mut learner, acceptor, 1, text),
                None => vote(&mut learner, acceptor, 1, 0, 1),
            }
        }
        assert_eq!(learned(&mut learner), [(0, "a")]);
    }
}

#[test]
fn position_is_the_first_slot_not_learned() {
    let mut learner = learner();
    assert_eq!(learner.learned_to(), slot(0));
    rows(&mut learner, &[row(0, 1, "a"), row(1, 1, "b"), row(3, 1, "d")], 4);
    assert_eq!(
        (learner.learned_to(), learner.next()),
        (slot(2), slot(0)),
        "learned slots that wait to be handed out count, slots above a gap do not"
    );
    assert_eq!(learner.take_learned(1).len(), 1);
    assert_eq!(learner.learned_to(), slot(2));
    rows(&mut learner, &[row(2, 1, "c")], 0);
    assert_eq!(
        learner.learned_to(),
        slot(2),
        "a row without a quorum of votes is not learned"
    );
    vote(&mut learner, 1, 1, 2, 3);
    vote(&mut learner, 2, 1, 2, 3);
    assert_eq!(learner.learned_to(), slot(4));
    assert_eq!(learner.take_learned(9).len(), 3);
    assert_eq!((learner.learned_to(), learner.next()), (slot(4), slot(4)));
}

#[test]
fn votes_of_different_ballots_are_not_added() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 2, "a")], 0);
    for (acceptor, round) in [(1, 1), (2, 2), (3, 3)] {
        vote(&mut learner, acceptor, round, 0, 1);
    }
    assert_eq!(learned(&mut learner), []);
    vote(&mut learner, 1, 2, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn an_acceptor_counts_once_and_a_stranger_never() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "a")], 0);
    for _ in 0..3 {
        vote(&mut learner, 1, 1, 0, 1);
        vote(&mut learner, 9, 1, 0, 1);
    }
    assert_eq!(learned(&mut learner), []);
}

#[test]
fn flexible_quorums_decide_how_many_votes_are_enough() {
    let mut learner = Learner::new(electorate(4, 2, 3), Slot::ZERO);
    rows(&mut learner, &[row(0, 1, "a")], 0);
    vote(&mut learner, 1, 1, 0, 1);
    vote(&mut learner, 2, 1, 0, 1);
    assert_eq!(learned(&mut learner), []);
    vote(&mut learner, 4, 1, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn a_row_counts_from_the_ballot_of_the_quorum_on() {
    for (round, expected) in [(1, vec![]), (2, vec![(0, "a")]), (3, vec![(0, "a")])] {
        let mut learner = learner();
        vote(&mut learner, 1, 2, 0, 1);
        vote(&mut learner, 2, 2, 0, 1);
        rows(&mut learner, &[row(0, round, "a")], 0);
        assert_eq!(learned(&mut learner), expected, "a row of ballot {round}");
    }
}

#[test]
fn the_lowest_ballot_with_a_quorum_decides_which_rows_count() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 2, "a")], 0);
    vote(&mut learner, 1, 3, 0, 1);
    vote(&mut learner, 2, 3, 0, 1);
    assert_eq!(learned(&mut learner), []);
    // Late news of an earlier quorum: a value chosen then is chosen.
    vote(&mut learner, 1, 2, 0, 1);
    vote(&mut learner, 3, 2, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn an_older_row_does_not_replace_a_newer_one() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 2, "a"), row(0, 1, "other")], 0);
    vote(&mut learner, 1, 2, 0, 1);
    vote(&mut learner, 2, 2, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn a_newer_row_replaces_an_older_one() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "other"), row(0, 2, "a")], 0);
    vote(&mut learner, 1, 2, 0, 1);
    vote(&mut learner, 2, 2, 0, 1);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn a_frames_watermark_settles_its_own_rows() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "a"), row(1, 5, "b"), row(2, 1, "c")], 2);
    assert_eq!(learned(&mut learner), [(0, "a"), (1, "b")]);
}

#[test]
fn a_frames_watermark_says_nothing_of_rows_held_from_before() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "other")], 0);
    rows(&mut learner, &[row(1, 2, "b")], 2);
    assert_eq!(learned(&mut learner), [], "slot 0 may hold another value by now");
    rows(&mut learner, &[row(0, 2, "a")], 2);
    assert_eq!(learned(&mut learner), [(0, "a"), (1, "b")]);
}

#[test]
fn a_settled_value_is_not_replaced() {
    let mut learner = learner();
    rows(&mut learner, &[row(0, 1, "a")], 1);
    rows(&mut learner, &[row(0, 9, "other")], 0);
    assert_eq!(learned(&mut learner), [(0, "a")]);
}

#[test]
fn an_unreadable_row_proves_nothing() {
    let mut learner = learner();
    let unknown = Row {
        slot: slot(0),
        accepted: None,
    };
    rows(&mut learner, &[unknown], 1);
    vote(&mut learner, 1, 1, 0, 1);
    vote(&mut learner, 2, 1, 0, 1);
    assert_eq!(learned(&mut learner), []);
    assert!(learner.lacks_value());
}

#[test]
fn values_are_handed_out_in_order_without_gaps_and_once() {
    let mut learner = learner();
    rows(&mut learner, &[row(2, 1, "c"), row(1, 1, "b")], 3);
    assert_eq!(learned(&mut learner), []);
    assert!(learner.knows_of_more());
    assert!(!learner.lacks_value(), "nothing says that slot 0 is chosen");
    rows(&mut learner, &[row(0, 1, "a")], 3);
    assert_eq!(learner.take_learned(2).len(), 2);
    assert_eq!(learned(&mut learner), [(2, "c")]);
    rows(&mut learner, &[row(0, 1, "a"), row(3, 1, "d")], 4);
    assert_eq!(learned(&mut learner), [(3, "d")]);
}

#[test]
fn begins_at_the_first_slot_that_its_disk_does_not_hold() {
    let mut learner = Learner::new(electorate(3, 2, 2), slot(2));
    rows(&mut learner, &[row(0, 1, "a"), row(1, 1, "b"), row(2, 1, "c")], 3);
    vote(&mut learner, 1, 1, 0, 2);
    assert_eq!(learned(&mut learner), [(2, "c")]);
}

#[test]
fn votes_beyond_the_window_are_given_again_and_counted_once() {
    let mut learner = learner();
    let beyond = WINDOW_SLOTS;
    assert_eq!(
        learner.votes(uuid(1), &unnamed(1, range(0, beyond + 1))),
        Intake::Later
    );
    assert_eq!(
        learner.rows(&[row(0, 1, "a"), row(beyond, 1, "b")], slot(beyond + 1)),
        Intake::Later
    );
    assert_eq!(learned(&mut learner), [(0, "a")]);
    assert_eq!(
        learner.votes(uuid(1), &unnamed(1, range(0, beyond + 1))),
        Intake::Whole
    );
    rows(&mut learner, &[row(0, 1, "a"), row(beyond, 1, "b")], beyond + 1);
    assert_eq!(learner.next(), slot(1));
}

#[test]
fn values_held_are_bounded_in_bytes_but_the_next_one_is_always_admitted() {
    let large = Bytes::from(vec![7; WINDOW_BYTES / 2 + 1]);
    let large_row = |number| Row {
        slot: slot(number),
        accepted: Some((ballot(1), Value::from_stored(large.clone(), Bytes::new()))),
    };
    let mut learner = learner();
    rows(&mut learner, &[large_row(1)], 0);
    assert_eq!(learner.rows(&[large_row(2)], Slot::ZERO), Intake::Later);
    rows(&mut learner, &[large_row(0)], 1);
    assert_eq!(learner.take_learned(usize::MAX).len(), 1);
    // Handed-out values make room; held values do not.
    rows(&mut learner, &[large_row(1)], 2);
    assert_eq!(learner.take_learned(usize::MAX).len(), 1);
    rows(&mut learner, &[large_row(2)], 3);
    assert_eq!(learner.take_learned(usize::MAX).len(), 1);
}

#[test]
fn another_feed_starts_over_and_votes_stay() {
    let mut learner = learner();
    vote(&mut learner, 1, 1, 0, 1);
    vote(&mut learner, 2, 1, 0, 1);
    rows(&mut learner, &[row(1, 1, "b")], 2);
    assert!(learner.lacks_value());
    learner.change_feed();
    assert!(learner.lacks_value(), "votes are facts");
    rows(&mut learner, &[row(0, 1, "a")], 0);
    assert_eq!(
        learned(&mut learner),
        [(0, "a")],
        "the row of the old feed is gone"
    );
    rows(&mut learner, &[row(1, 2, "b")], 2);
    assert_eq!(learned(&mut learner), [(1, "b")]);
}

#[test]
fn a_change_of_feed_makes_room_again() {
    let large = Bytes::from(vec![7; WINDOW_BYTES]);
    let large_row = |number| Row {
        slot: slot(number),
        accepted: Some((ballot(1), Value::from_stored(large.clone(), Bytes::new()))),
    };
    let mut learner = learner();
    rows(&mut learner, &[large_row(1)], 0);
    assert_eq!(learner.rows(&[large_row(2)], Slot::ZERO), Intake::Later);
    learner.change_feed();
    rows(&mut learner, &[large_row(2)], 0);
}
