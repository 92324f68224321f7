//! One test for each rule of reading. The name of the test states the rule.

use std::sync::Arc;

use super::*;
use crate::paxos::quorum::Configuration;

mod eras;

const FIRST_NONCE: u64 = 70;

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn electorate(acceptors: u128, phase1: usize, phase2: usize) -> Electorate {
    let members = (1..=acceptors).map(|number| (uuid(number), Arc::from("http://a")));
    Configuration::new(members, phase1, phase2).unwrap().electorate()
}

/// Of three acceptors, with nothing applied.
fn reading() -> Reading {
    Reading::new(electorate(3, 2, 2), Slot::ZERO, FIRST_NONCE)
}

fn does(reading: &mut Reading, event: ReadEvent) -> Vec<ReadEffect> {
    reading.handle(event);
    reading.take_effects()
}

fn asked(reading: &mut Reading, read: u64) -> Vec<ReadEffect> {
    asked_together(reading, read, read + 1)
}

/// From `from`, inclusive, to `to`, exclusive.
fn asked_together(reading: &mut Reading, from: u64, to: u64) -> Vec<ReadEffect> {
    let (from, to) = (ReadId(from), ReadId(to));
    does(reading, ReadEvent::Asked { from, to })
}

/// An answer to the round of this number, from 0.
fn tailed(reading: &mut Reading, acceptor: u128, round: u64, voted_to: u64) -> Vec<ReadEffect> {
    let tail = Tail {
        voted_to: slot(voted_to),
        trimmed_to: Slot::ZERO,
    };
    let event = ReadEvent::Tailed {
        acceptor: uuid(acceptor),
        nonce: FIRST_NONCE + round,
        tail,
    };
    does(reading, event)
}

fn applied(reading: &mut Reading, to: u64) -> Vec<ReadEffect> {
    does(reading, ReadEvent::Applied(slot(to)))
}

fn ask(round: u64, acceptors: &[u128]) -> ReadEffect {
    ReadEffect::Ask {
        nonce: FIRST_NONCE + round,
        acceptors: acceptors.iter().copied().map(uuid).collect(),
    }
}

fn answer(read: u64) -> ReadEffect {
    ReadEffect::Answer(ReadId(read))
}

fn fired(reading: &mut Reading, generation: u64) -> Vec<ReadEffect> {
    does(reading, ReadEvent::Fired(generation))
}

/// The first `rounds` rounds are short: two acceptors answer with `voted_to` each time, and the timer ends the round.
fn short_rounds(reading: &mut Reading, rounds: u64, voted_to: u64) {
    for round in 0..rounds {
        assert_eq!(
            tailed(reading, 1, round, voted_to),
            [],
            "one alone proves nothing"
        );
        assert_eq!(tailed(reading, 2, round, voted_to), []);
        let next = [ask(round + 1, &[1, 2, 3]), ReadEffect::SetTimer(round + 1)];
        assert_eq!(fired(reading, round), next);
    }
}

#[test]
fn short_rounds_answer_nothing_and_many_of_them_end_all_reading() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    // Applied after the round began: the answers of this round need not cover these slots.
    applied(&mut reading, 9);
    let last = u64::from(SHORT_ROUNDS_MAX) - 1;
    short_rounds(&mut reading, last, 4);
    assert_eq!(tailed(&mut reading, 1, last, 4), []);
    let lost = ReadEffect::LostVotes {
        bound: slot(4),
        applied_to: slot(5),
    };
    assert_eq!(tailed(&mut reading, 2, last, 3), [lost]);
    assert_eq!(tailed(&mut reading, 3, last, 9), []);
    assert_eq!(asked(&mut reading, 2), []);
}

#[test]
fn votes_that_are_covered_after_some_short_rounds_are_not_lost() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    let before_last = u64::from(SHORT_ROUNDS_MAX) - 1;
    short_rounds(&mut reading, before_last, 4);
    // The commit is released: the tails cover the vote.
    tailed(&mut reading, 1, before_last, 5);
    assert_eq!(tailed(&mut reading, 2, before_last, 5), [answer(1)]);
    // Later rounds are short for other slots, and the count begins again.
    applied(&mut reading, 6);
    asked(&mut reading, 2);
    tailed(&mut reading, 1, before_last + 1, 5);
    assert_eq!(tailed(&mut reading, 2, before_last + 1, 5), []);
    assert!(!reading.has_ended);
}

#[test]
fn another_quorum_that_answers_a_read_does_not_take_the_proof_away() {
    let mut reading = reading();
    applied(&mut reading, 5);
    let rounds = u64::from(SHORT_ROUNDS_MAX);
    let mut effects = Vec::new();
    asked(&mut reading, 0);
    for number in 0..rounds {
        // The first two acceptors have lost the vote, and the third has the vote.
        tailed(&mut reading, 1, 2 * number, 4);
        effects = tailed(&mut reading, 2, 2 * number, 4);
        fired(&mut reading, 2 * number);
        tailed(&mut reading, 1, 2 * number + 1, 4);
        let answered = tailed(&mut reading, 3, 2 * number + 1, 5);
        assert!(
            reading.has_ended || answered.contains(&answer(number)),
            "{answered:?}"
        );
        asked(&mut reading, number + 1);
    }
    assert!(
        matches!(effects[..], [ReadEffect::LostVotes { .. }]),
        "{effects:?}"
    );
}

#[test]
fn short_rounds_are_not_begun_faster_when_reads_come_and_go() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 4);
    assert_eq!(tailed(&mut reading, 2, 0, 4), []);
    assert_eq!(does(&mut reading, ReadEvent::Abandoned(ReadId(1))), []);
    assert_eq!(asked(&mut reading, 2), [], "the next round begins after L");
    assert_eq!(
        fired(&mut reading, 0),
        [ask(1, &[1, 2, 3]), ReadEffect::SetTimer(1)]
    );
    tailed(&mut reading, 1, 1, 4);
    tailed(&mut reading, 2, 1, 4);
    does(&mut reading, ReadEvent::Abandoned(ReadId(2)));
    assert_eq!(fired(&mut reading, 1), [], "no read waits");
    assert_eq!(
        asked(&mut reading, 3),
        [ask(2, &[1, 2, 3]), ReadEffect::SetTimer(2)]
    );
}

#[test]
fn later_answer_below_what_was_applied_makes_a_round_short() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 3);
    // The read waits for slot 8, and the third acceptor answers late.
    assert_eq!(tailed(&mut reading, 2, 0, 9), []);
    assert_eq!(tailed(&mut reading, 3, 0, 4), []);
    let missing = Missing {
        applied_to: slot(5),
        rounds: 1,
    };
    assert_eq!(reading.missing, Some(missing));
}

#[test]
fn bound_at_what_was_applied_when_its_round_began_is_sound() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 0);
    assert_eq!(tailed(&mut reading, 2, 0, 5), [answer(1)]);
}

#[test]
fn read_is_answered_once_all_slots_below_the_bound_are_applied() {
    let mut reading = reading();
    assert_eq!(
        asked(&mut reading, 1),
        [ask(0, &[1, 2, 3]), ReadEffect::SetTimer(0)]
    );
    assert_eq!(tailed(&mut reading, 1, 0, 4), []);
    assert_eq!(tailed(&mut reading, 2, 0, 5), []);
    assert_eq!(applied(&mut reading, 4), []);
    assert_eq!(applied(&mut reading, 5), [answer(1)]);
    assert_eq!(reading.waiting(), 0);
}

#[test]
fn what_is_applied_already_is_read_as_soon_as_a_quorum_answered() {
    let mut reading = reading();
    applied(&mut reading, 5);
    asked(&mut reading, 1);
    assert_eq!(tailed(&mut reading, 1, 0, 5), []);
    assert_eq!(tailed(&mut reading, 3, 0, 2), [answer(1)]);
}

#[test]
fn each_acceptor_counts_once_and_strangers_never() {
    let mut reading = reading();
    asked(&mut reading, 1);
    assert_eq!(tailed(&mut reading, 1, 0, 0), []);
    assert_eq!(tailed(&mut reading, 1, 0, 0), []);
    assert_eq!(tailed(&mut reading, 9, 0, 0), []);
    assert_eq!(tailed(&mut reading, 2, 0, 0), [answer(1)]);
}

#[test]
fn the_bound_is_the_one_of_the_lowest_quorum() {
    let mut reading = reading();
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 9);
    tailed(&mut reading, 2, 0, 3);
    assert_eq!(applied(&mut reading, 3), []);
    // The third answer makes a second quorum, without any vote from 3 on.
    assert_eq!(tailed(&mut reading, 3, 0, 2), [answer(1)]);
}

#[test]
fn the_phase_1_quorum_counts() {
    let mut reading = Reading::new(electorate(4, 3, 2), Slot::ZERO, FIRST_NONCE);
    asked(&mut reading, 1);
    assert_eq!(tailed(&mut reading, 1, 0, 0), []);
    assert_eq!(tailed(&mut reading, 2, 0, 0), []);
    assert_eq!(tailed(&mut reading, 3, 0, 0), [answer(1)]);
}

#[test]
fn what_was_trimmed_had_been_voted_for() {
    let mut reading = reading();
    asked(&mut reading, 1);
    for acceptor in [1, 2] {
        let tail = Tail {
            voted_to: Slot::ZERO,
            trimmed_to: slot(6),
        };
        let event = ReadEvent::Tailed {
            acceptor: uuid(acceptor),
            nonce: FIRST_NONCE,
            tail,
        };
        assert_eq!(does(&mut reading, event), []);
    }
    assert_eq!(applied(&mut reading, 5), []);
    assert_eq!(applied(&mut reading, 6), [answer(1)]);
}

#[test]
fn reads_that_come_in_together_share_the_round_that_begins_then() {
    let mut reading = reading();
    assert_eq!(
        asked_together(&mut reading, 1, 4),
        [ask(0, &[1, 2, 3]), ReadEffect::SetTimer(0)]
    );
    tailed(&mut reading, 1, 0, 0);
    assert_eq!(tailed(&mut reading, 2, 0, 0), [answer(1), answer(2), answer(3)]);
}

#[test]
fn no_round_begins_without_a_read() {
    let mut reading = reading();
    assert_eq!(asked_together(&mut reading, 1, 1), []);
}

#[test]
fn read_that_arrives_during_a_round_waits_for_the_next() {
    let mut reading = reading();
    asked(&mut reading, 1);
    assert_eq!(asked(&mut reading, 2), []);
    assert_eq!(asked(&mut reading, 3), []);
    tailed(&mut reading, 1, 0, 0);
    assert_eq!(tailed(&mut reading, 2, 0, 0), [answer(1), ask(1, &[1, 2, 3])]);
    tailed(&mut reading, 1, 1, 0);
    assert_eq!(tailed(&mut reading, 2, 1, 0), [answer(2), answer(3)]);
}

#[test]
fn answers_to_an_earlier_round_are_dropped() {
    let mut reading = reading();
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 0);
    tailed(&mut reading, 2, 0, 0);
    assert_eq!(asked(&mut reading, 2)[0], ask(1, &[1, 2, 3]));
    assert_eq!(tailed(&mut reading, 3, 0, 0), []);
    assert_eq!(tailed(&mut reading, 1, 1, 7), []);
    assert_eq!(tailed(&mut reading, 2, 0, 0), []);
    assert_eq!(tailed(&mut reading, 3, 1, 7), []);
    assert_eq!(applied(&mut reading, 7), [answer(2)]);
}

#[test]
fn a_read_keeps_the_smallest_bound_of_the_rounds_begun_after_it_came_in() {
    let mut reading = reading();
    asked(&mut reading, 1);
    asked(&mut reading, 2);
    tailed(&mut reading, 1, 0, 3);
    assert_eq!(tailed(&mut reading, 2, 0, 3), [ask(1, &[1, 2, 3])]);
    // A higher bound binds the second read only.
    tailed(&mut reading, 1, 1, 8);
    assert_eq!(tailed(&mut reading, 2, 1, 8), []);
    assert_eq!(applied(&mut reading, 3), [answer(1)]);
    // A lower bound serves every waiting read.
    assert_eq!(asked(&mut reading, 3), [ask(2, &[1, 2, 3])]);
    tailed(&mut reading, 2, 2, 3);
    assert_eq!(tailed(&mut reading, 3, 2, 3), [answer(2), answer(3)]);
}

#[test]
fn read_that_waits_too_long_asks_again_and_has_the_leader_fill() {
    let mut reading = reading();
    asked(&mut reading, 1);
    tailed(&mut reading, 1, 0, 3);
    tailed(&mut reading, 2, 0, 3);
    assert_eq!(
        does(&mut reading, ReadEvent::Fired(0)),
        [
            ReadEffect::Fill(slot(3)),
            ask(1, &[1, 2, 3]),
            ReadEffect::SetTimer(1)
        ]
    );
    // The answers of the first round stay valid.
    assert_eq!(applied(&mut reading, 3), [answer(1)]);
}

#[test]
fn round_that_no_quorum_answers_is_asked_again_not_restarted() {
    let mut reading = reading();
    asked(&mut reading, 1);
    tailed(&mut reading, 2, 0, 0);
    assert_eq!(
        does(&mut reading, ReadEvent::Fired(0)),
        [ask(0, &[1, 3]), ReadEffect::SetTimer(1)]
    );
    assert_eq!(tailed(&mut reading, 3, 0, 0), [answer(1)]);
}

#[test]
fn a_read_that_came_in_after_the_timer_was_set_waits_for_the_next() {
    let mut reading = reading();
    asked(&mut reading, 1);
    asked(&mut reading, 2);
    assert_eq!(does(&mut reading, ReadEvent::Abandoned(ReadId(1))), []);
    assert_eq!(does(&mut reading, ReadEvent::Fired(0)), [ReadEffect::SetTimer(1)]);
    assert_eq!(does(&mut reading, ReadEvent::Fired(1)).len(), 2);
}

#[test]
fn a_timer_of_an_earlier_generation_is_ignored() {
    let mut reading = reading();
    asked(&mut reading, 1);
    does(&mut reading, ReadEvent::Abandoned(ReadId(1)));
    assert_eq!(
        asked(&mut reading, 2),
        [ask(1, &[1, 2, 3]), ReadEffect::SetTimer(1)]
    );
    assert_eq!(does(&mut reading, ReadEvent::Fired(0)), []);
}

#[test]
fn reads_beyond_the_most_are_turned_away_until_others_leave() {
    let mut reading = reading();
    let most = READS_MAX as u64;
    asked_together(&mut reading, 0, most - 1);
    let away = [most, most + 1].map(|read| ReadEffect::TurnAway(ReadId(read)));
    assert_eq!(asked_together(&mut reading, most - 1, most + 2), away);
    assert_eq!(reading.waiting(), READS_MAX);
    does(&mut reading, ReadEvent::Abandoned(ReadId(5)));
    assert_eq!(asked(&mut reading, most + 2), []);
}

#[test]
#[should_panic(expected = "numbered in order")]
fn reads_come_in_by_their_numbers() {
    let mut reading = reading();
    asked(&mut reading, 2);
    asked(&mut reading, 2);
}
