//! When a standby campaigns because the leader is gone, and when a standby waits.

use super::*;
use crate::paxos::era::Era;

const MINE: u64 = 7;

fn ended(ballot: Ballot, millis: u64) -> ReportAnswer {
    let mut word = word(ballot, 30);
    word.heard.ended = Some(Duration::from_millis(millis));
    word
}

fn is_standby(bench: &Bench) -> bool {
    *bench.core.phase() == Phase::Standby
}

#[test]
fn only_answers_to_the_last_report_count() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    for number in 1..=3 {
        bench.report(number, leader, 300);
    }
    bench.pass(100);
    bench.fire(Timer::Election);
    assert!(bench.effects.contains(&Effect::ReportNow));
    assert!(is_standby(&bench), "what was said before does not count");
    // An answer to an earlier report comes late.
    bench.say_late(1, 50, word(leader, 300));
    bench.pass(10);
    bench.report(2, leader, 300);
    assert!(is_standby(&bench));
    bench.report(1, leader, 300);
    assert_eq!(bench.core.ballot(), Some(ballot(4, MINE)));
    let [
        Notice::Campaign {
            why: Why::Gone(said), ..
        },
    ] = &bench.notices()[..]
    else {
        panic!("{:?}", bench.effects);
    };
    let gone = Gone::Silent(Duration::from_millis(300));
    assert_eq!(*said, [(uuid(1), gone), (uuid(2), gone)]);
}

#[test]
fn first_campaign_of_a_cluster_names_no_leader() {
    let mut bench = Bench::new();
    for number in 1..=3 {
        bench.report(number, Ballot::ZERO, 900);
    }
    bench.pass(100);
    bench.fire(Timer::Election);
    for number in 1..=2 {
        bench.report(number, Ballot::ZERO, 1_000);
    }
    let [notice] = &bench.notices()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert_eq!(notice.label(), "none_known");
    assert!(
        notice
            .to_string()
            .ends_with("the cluster is new: no acceptor has heard of a leader")
    );
    // The first campaign of a later era, after a change of members whose leader died.
    let said = vec![(uuid(1), Gone::NoneKnown), (uuid(2), Gone::NoneKnown)];
    let ballot = ballot(1, 1).in_era(Era::new(5).unwrap());
    let why = Why::Gone(said);
    assert_eq!(
        Notice::Campaign { ballot, why }.to_string(),
        format!("campaign at ballot {ballot}: era 5 is new: no acceptor has heard of a leader in it")
    );
}

#[test]
fn a_leader_that_is_heard_again_after_the_wait_is_not_deposed() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    bench.report(1, leader, 300);
    bench.report(2, leader, 300);
    bench.pass(100);
    bench.fire(Timer::Election);
    // A second candidate was faster.
    let faster = ballot(4, 2);
    for number in 1..=3 {
        bench.report(number, faster, 5);
    }
    assert!(is_standby(&bench));
    bench.pass(200);
    bench.fire(Timer::Election);
    assert!(is_standby(&bench));
    assert_eq!(bench.core.leader().as_deref(), Some("http://leader"));
}

#[test]
fn answers_that_are_not_fresh_do_not_count() {
    let mut bench = Bench::new();
    bench.pass(1_000);
    bench.say_late(1, 200, word(ballot(3, 1), 300));
    bench.say_late(2, 200, word(ballot(3, 1), 300));
    assert_eq!(bench.timer(Timer::Election), None);
    bench.say_late(1, 199, word(ballot(3, 1), 300));
    bench.say_late(2, 199, word(ballot(3, 1), 300));
    assert!(bench.timer(Timer::Election).is_some());
}

#[test]
fn answers_that_waited_while_the_process_was_frozen_do_not_count() {
    let mut bench = Bench::new();
    for number in 1..=3 {
        bench.report(number, Ballot::ZERO, 900);
    }
    bench.pass(100);
    bench.fire(Timer::Election);
    // The process is frozen, the other proposers elect a leader, and the process finally reads the old answers.
    bench.pass(1_000);
    bench.say_late(1, 1_000, word(Ballot::ZERO, 900));
    bench.say_late(2, 1_000, word(Ballot::ZERO, 900));
    assert!(is_standby(&bench));
    bench.report(1, ballot(3, 1), 10);
    bench.fire(Timer::Election);
    assert!(is_standby(&bench));
    assert_eq!(bench.core.leader().as_deref(), Some("http://leader"));
}

#[test]
fn a_phase_2_quorum_must_answer_at_all() {
    // Two promises are enough; three votes are needed.
    let mut bench = Bench::with(Limits::default(), (4, 2, 3));
    let leader = ballot(3, 1);
    bench.report(1, leader, 300);
    bench.report(2, leader, 300);
    bench.fire(Timer::Election);
    assert!(is_standby(&bench), "no value would be chosen");
    bench.report(3, leader, 10);
    assert!(!is_standby(&bench), "the third hears the leader, and answers");
}

#[test]
fn a_stream_must_have_ended_for_a_while() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    bench.say(1, ended(leader, 0));
    bench.say(2, ended(leader, 5));
    let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    let part = TIMEOUT / 8;
    assert_eq!((at_least, at_most), (part, 2 * part), "the later one decides");
    bench.pass(25);
    bench.fire(Timer::Election);
    bench.pass(1);
    bench.say(1, ended(leader, 24));
    bench.say(2, ended(leader, 24));
    assert!(is_standby(&bench));
    bench.say(1, ended(leader, 26));
    bench.say(2, ended(leader, 31));
    assert!(!is_standby(&bench));
}

#[test]
fn a_stream_that_is_open_again_is_no_reason() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    bench.say(1, ended(leader, 0));
    bench.say(2, ended(leader, 0));
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    bench.report(1, leader, 1);
    bench.handle(Event::Fired(Timer::Election, generation));
    assert_eq!(bench.effects, []);
}

#[test]
fn wait_is_short_only_when_all_report_ended_or_resigned() {
    let mut bench = Bench::new();
    bench.reported(1, ballot(3, 1), 10, true);
    bench.say(2, ended(ballot(3, 1), 30));
    let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    assert_eq!((at_least, at_most), (Duration::ZERO, TIMEOUT / 8));
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 300);
    bench.say(2, ended(ballot(3, 1), 30));
    let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    assert_eq!((at_least, at_most), (Duration::ZERO, TIMEOUT));
}

#[test]
fn end_of_a_stream_counts_at_once_when_another_acceptor_heard_the_proposer_resign() {
    let leader = ballot(3, 1);
    for (resigned, counts) in [(leader, true), (ballot(2, 1), false)] {
        let mut bench = Bench::new();
        bench.say(1, ended(leader, 0));
        bench.reported(2, resigned, 10, true);
        let (_, at_least, _) = bench.timer(Timer::Election).unwrap();
        assert_eq!(at_least == Duration::ZERO, counts, "{at_least:?}");
        bench.pass(1);
        bench.fire(Timer::Election);
        bench.say(1, ended(leader, 1));
        bench.reported(2, resigned, 10, true);
        assert_eq!(is_standby(&bench), !counts);
    }
}

#[test]
fn the_wait_grows_while_nothing_is_chosen_and_is_short_again_afterwards() {
    let mut bench = Bench::new();
    let waits: Vec<u128> = (0..6)
        .map(|_| {
            bench.campaign();
            bench.give_up();
            bench.report(1, ballot(30, 1), 300);
            bench.report(2, ballot(30, 1), 300);
            let (_, _, at_most) = bench.timer(Timer::Election).unwrap();
            bench.report(1, ballot(30, 1), 1);
            at_most.as_millis()
        })
        .collect();
    assert_eq!(waits, [400, 800, 1_600, 2_000, 2_000, 2_000]);
    let mut chosen = word(ballot(30, 1), 1);
    chosen.known_to = slot(1);
    bench.say(1, chosen);
    bench.report(1, ballot(30, 1), 300);
    let (_, _, at_most) = bench.timer(Timer::Election).unwrap();
    assert_eq!(at_most, TIMEOUT);
}

#[test]
fn a_reign_in_which_something_was_chosen_is_no_failure() {
    for chosen in [false, true] {
        let mut bench = Bench::new();
        bench.lead();
        bench.propose(1, "a");
        if chosen {
            bench.vote(1, 0);
            bench.vote(2, 0);
        }
        bench.answer(3, 2, rejection(ballot(9, 1)));
        assert_eq!(bench.core.failures, u32::from(!chosen));
    }
}

#[test]
fn a_connection_that_broke_takes_its_word_along() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 300);
    bench.report(2, ballot(3, 1), 300);
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    bench.handle(Event::Closed(uuid(2)));
    bench.handle(Event::Fired(Timer::Election, generation));
    assert!(is_standby(&bench) && bench.effects.is_empty());
    // A late answer on the broken connection does not count either.
    bench.report(2, ballot(3, 1), 300);
    assert_eq!(bench.timer(Timer::Election), None);
}

#[test]
fn an_unknown_acceptor_is_not_listened_to() {
    let mut bench = Bench::new();
    bench.report(9, ballot(3, 1), 300);
    bench.report(1, ballot(3, 1), 300);
    assert_eq!(bench.timer(Timer::Election), None);
}

/// Two acceptors report the end of the leader's streams. Returns the number of the inquiry.
fn ask(bench: &mut Bench, leader: Ballot) -> u64 {
    bench.say(1, ended(leader, 0));
    assert_eq!(inquiry(bench), None, "fewer than a phase-1 quorum");
    bench.say(2, ended(leader, 0));
    inquiry(bench).expect("a phase-1 quorum reports the end")
}

/// The number of the inquiry among the effects.
fn inquiry(bench: &Bench) -> Option<u64> {
    let number = |effect: &Effect| {
        let Effect::Inquire {
            number, ballot: of, ..
        } = effect
        else {
            return None;
        };
        assert_eq!(*of, ballot(3, 1));
        Some(*number)
    };
    bench.effects.iter().find_map(number)
}

fn answered(bench: &mut Bench, number: u64, answer: InquiryAnswer) {
    bench.handle(Event::InquiryAnswered { number, answer });
}

#[test]
fn leader_that_accepts_connections_is_gone_only_after_its_silence() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    let number = ask(&mut bench, leader);
    answered(&mut bench, number, InquiryAnswer::Connected);
    for millis in [50, 100, 150] {
        bench.pass(50);
        bench.fire(Timer::Election);
        for acceptor in [1, 2] {
            bench.say(acceptor, ended(leader, millis));
        }
        assert!(is_standby(&bench), "after {millis} ms");
        assert_eq!(inquiry(&bench), None, "asked once");
    }
    let silent = |bench: &mut Bench| {
        for acceptor in [1, 2] {
            let mut word = word(leader, 200);
            word.heard.ended = Some(Duration::from_millis(190));
            bench.say(acceptor, word);
        }
    };
    silent(&mut bench);
    let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    assert_eq!((at_least, at_most), (Duration::ZERO, TIMEOUT));
    bench.pass(50);
    bench.fire(Timer::Election);
    silent(&mut bench);
    assert!(!is_standby(&bench));
}

#[test]
fn dead_leader_is_gone_at_once() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    let number = ask(&mut bench, leader);
    answered(&mut bench, number, InquiryAnswer::Connected);
    answered(&mut bench, number, InquiryAnswer::Gone);
    let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
    assert_eq!((at_least, at_most), (Duration::ZERO, TIMEOUT / 8));
    bench.pass(1);
    bench.fire(Timer::Election);
    bench.say(1, ended(leader, 1));
    bench.say(2, ended(leader, 1));
    assert!(!is_standby(&bench));
}

#[test]
fn a_running_wait_is_shorter_once_the_leader_is_known_to_be_dead() {
    let mut bench = Bench::new();
    let number = ask(&mut bench, ballot(3, 1));
    let (_, at_least, _) = bench.timer(Timer::Election).unwrap();
    assert_eq!(at_least, TIMEOUT / 8);
    answered(&mut bench, number, InquiryAnswer::Gone);
    let (_, at_least, _) = bench.timer(Timer::Election).unwrap();
    assert_eq!(at_least, Duration::ZERO);
}

#[test]
fn an_answer_to_an_earlier_inquiry_does_not_count() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    let earlier = ask(&mut bench, leader);
    bench.report(1, leader, 1);
    let later = {
        bench.say(1, ended(leader, 0));
        inquiry(&bench).expect("the streams have ended a second time")
    };
    assert_ne!(earlier, later);
    answered(&mut bench, earlier, InquiryAnswer::Gone);
    bench.pass(1);
    bench.fire(Timer::Election);
    bench.say(1, ended(leader, 1));
    bench.say(2, ended(leader, 1));
    assert!(is_standby(&bench));
}

#[test]
fn an_answer_about_one_leader_says_nothing_about_the_next() {
    let mut bench = Bench::new();
    let number = ask(&mut bench, ballot(3, 1));
    answered(&mut bench, number, InquiryAnswer::Connected);
    let next = ballot(4, 2);
    let say = |bench: &mut Bench| {
        for acceptor in [1, 2] {
            bench.say(acceptor, ended(next, 30));
        }
    };
    say(&mut bench);
    bench.pass(1);
    bench.fire(Timer::Election);
    say(&mut bench);
    assert!(
        !is_standby(&bench),
        "the end counts after L / 8, as without an answer"
    );
}

#[test]
fn a_resigned_leader_is_not_asked() {
    let mut bench = Bench::new();
    bench.reported(1, ballot(3, 1), 10, true);
    bench.reported(2, ballot(3, 1), 10, true);
    assert_eq!(inquiry(&bench), None);
}

#[test]
fn an_answer_outlives_the_reports_that_led_to_the_inquiry() {
    let mut bench = Bench::new();
    let leader = ballot(3, 1);
    let number = ask(&mut bench, leader);
    answered(&mut bench, number, InquiryAnswer::Connected);
    // No answer of an acceptor is fresh for some time.
    bench.pass(300);
    for acceptor in [1, 2] {
        bench.say(acceptor, ended(leader, 100));
    }
    assert_eq!(inquiry(&bench), None);
    assert_eq!(bench.timer(Timer::Election), None);
}
