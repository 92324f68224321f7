//! The switch to the next era: the leader campaigns at once, and its links are opened again.

use super::*;

/// The leader of era 0 puts a change to acceptors 1, 2 and 4 in force, and no link of era 1 is open.
fn switched() -> Bench {
    let (mut bench, _) = ending();
    bench.answer(4, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.adopted(), Some(1));
    bench
}

/// What an acceptor of era 1 has heard before any campaign of the era.
fn before_any_round() -> Ballot {
    Ballot::before(Era::FIRST.next())
}

/// Heartbeats, four in each leader timeout, until this proposer steps down. Returns the milliseconds.
fn steps_down_after(bench: &mut Bench) -> u64 {
    for passed in (50..=5_000).step_by(50) {
        bench.pass(50);
        bench.fire(Timer::Heartbeat);
        if matches!(bench.core.phase(), Phase::Standby) {
            return passed;
        }
    }
    panic!("it campaigns on without any acceptor");
}

#[test]
fn links_closed_by_the_switch_have_as_long_to_open_as_connected_acceptors_to_answer() {
    assert_eq!(steps_down_after(&mut switched()), 2_000);
    // An acceptor that opens late is enough for nothing: a quorum is two of three.
    let mut bench = switched();
    bench.pass(1_900);
    for number in [1, 4] {
        bench.handle(Event::Opened(uuid(number)));
        bench.say(number, word(before_any_round(), 300));
    }
    bench.pass(1_000);
    bench.fire(Timer::Heartbeat);
    assert!(matches!(bench.core.phase(), Phase::Campaigning(_)));
}

#[test]
fn acceptors_lost_before_the_switch_get_no_time_to_open() {
    let (mut bench, _) = ending();
    bench.answer(4, 0, marked(&[(1, 2)], 2, 1));
    bench.answer(1, 0, marked(&[(1, 2)], 2, 1));
    for number in [1, 2, 4] {
        bench.handle(Event::Closed(uuid(number)));
    }
    bench.answer(3, 0, marked(&[(1, 2)], 2, 1));
    assert_eq!(bench.adopted(), Some(1));
    assert_eq!(steps_down_after(&mut bench), 50);
}

/// The leader that has switched, and the link to acceptor 1, opened more than a leader timeout later.
fn late() -> Bench {
    let mut bench = switched();
    bench.pass(250);
    bench.handle(Event::Opened(uuid(1)));
    assert_eq!((bench.prepares(), bench.asked_streams()), (vec![], vec![]));
    assert!(bench.effects.contains(&Effect::ReportNow));
    bench
}

#[test]
fn late_link_gives_way_to_a_live_proposer_of_the_same_round() {
    let mut bench = late();
    let other = ballot(1, 3).in_era(Era::FIRST.next());
    assert!(other < bench.core.ballot().unwrap());
    bench.say(1, word(other, 50));
    assert!(matches!(bench.core.phase(), Phase::Standby));
    assert!(bench.notices().iter().any(|notice| notice.label() == "overtaken"));
    // Later, the other proposer is gone like any leader.
    bench.handle(Event::Opened(uuid(4)));
    for number in [1, 4] {
        bench.say(number, word(other, 300));
    }
    assert!(bench.timer(Timer::Election).is_some());
}

#[test]
fn late_link_asks_for_a_promise_when_no_later_proposer_lives() {
    let round_of_another = ballot(1, 3).in_era(Era::FIRST.next());
    // An earlier link of this campaign may have brought its own ballot to the acceptor.
    let own = late().core.ballot().unwrap();
    for (heard, silent) in [(before_any_round(), 50), (round_of_another, 300), (own, 50)] {
        let mut bench = late();
        bench.say_late(1, 200, word(heard, silent));
        assert_eq!(bench.prepares(), [], "an old answer");
        bench.say(1, word(heard, silent));
        assert_eq!(bench.prepares(), [(uuid(1), own, slot(1))]);
        assert_eq!(bench.asked_streams(), [(uuid(1), own)]);
        bench.say(1, word(heard, silent));
        assert_eq!(bench.prepares(), [], "asked once");
    }
}

#[test]
fn late_link_asks_for_a_promise_when_reports_are_slow_for_two_leader_timeouts() {
    let mut bench = late();
    let own = bench.core.ballot().unwrap();
    for (passed, asked) in [(399, vec![]), (1, vec![(uuid(1), own, slot(1))]), (50, vec![])] {
        bench.pass(passed);
        bench.fire(Timer::Heartbeat);
        assert_eq!(bench.prepares(), asked);
    }
    bench.say(1, word(before_any_round(), 300));
    assert_eq!(bench.prepares(), [], "asked once");
}

#[test]
fn late_link_that_closes_asks_for_nothing() {
    let mut bench = late();
    bench.handle(Event::Closed(uuid(1)));
    bench.pass(400);
    bench.fire(Timer::Heartbeat);
    assert_eq!((bench.prepares(), bench.asked_streams()), (vec![], vec![]));
}

#[test]
fn early_link_asks_for_a_promise_at_once() {
    let mut bench = switched();
    bench.pass(150);
    bench.handle(Event::Opened(uuid(1)));
    let own = bench.core.ballot().unwrap();
    assert_eq!(bench.prepares(), [(uuid(1), own, slot(1))]);
}

#[test]
fn acceptor_with_a_late_link_gets_a_stream_once_its_candidate_leads() {
    let mut bench = switched();
    let own = bench.core.ballot().unwrap();
    for number in [1, 4] {
        bench.handle(Event::Opened(uuid(number)));
    }
    bench.pass(250);
    bench.handle(Event::Opened(uuid(2)));
    assert_eq!(bench.asked_streams(), []);
    bench.promise(1, own);
    bench.promise(4, own);
    assert!(bench.leads());
    assert_eq!(bench.asked_streams(), [(uuid(2), own)]);
}

#[test]
fn acceptor_of_an_earlier_era_is_opened_again_and_not_driven_up() {
    let mut bench = Bench::new();
    let configuration = next(&bench, &[1, 2, 3], 2, 2);
    bench.handle(Event::LaterConfiguration(configuration));
    bench.handle(Event::Opened(uuid(1)));
    bench.handle(Event::PrepareRefused {
        acceptor: uuid(1),
        promised: ballot(9, 2),
    });
    assert!(bench.reopens(1));
    assert_eq!(bench.prepares(), []);
}

#[test]
fn member_that_is_added_again_right_after_its_removal_gets_a_stream() {
    let mut bench = switched();
    let ballot = bench.core.ballot().unwrap();
    for number in [1, 2, 3, 4] {
        bench.handle(Event::Opened(uuid(number)));
    }
    bench.promise(1, ballot);
    bench.promise(4, ballot);
    assert!(matches!(bench.core.phase(), Phase::Leading(_)));
    let again = next(&bench, &[1, 2, 3, 4], 3, 2);
    bench.handle(Event::ChangeMembers(ChangeRequest {
        change: change_to(&again),
    }));
    assert_eq!(bench.asked_streams(), [(uuid(3), ballot)]);
}
