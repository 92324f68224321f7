//! A campaign: ballot, questions and end.

use super::*;

#[test]
fn prepares_at_every_acceptor_from_the_highest_watermark_heard_of() {
    let mut bench = Bench::new();
    let mut known = word(ballot(3, 1), 1);
    known.known_to = slot(9);
    bench.say(3, known);
    bench.handle(Event::Closed(uuid(3)));
    let mine = bench.campaign();
    assert_eq!(
        bench.prepares(),
        [(uuid(1), mine, slot(9)), (uuid(2), mine, slot(9))]
    );
    bench.handle(Event::Opened(uuid(3)));
    assert_eq!(bench.prepares(), [(uuid(3), mine, slot(9))]);
}

#[test]
fn never_uses_a_ballot_twice_even_for_a_second_campaign() {
    let mut bench = Bench::new();
    let first = bench.campaign();
    // Without answers the campaign fails, and no higher ballot is reported.
    bench.give_up();
    assert_eq!(*bench.core.phase(), Phase::Standby);
    let second = bench.campaign();
    assert!(second > first);
    assert_eq!(second.proposer(), id(7));
    bench.promise(1, second);
    bench.promise(2, second);
    bench.handle(Event::PrepareRejected {
        acceptor: uuid(1),
        ballot: second,
        promised: ballot(9, 1),
    });
    assert_eq!(bench.campaign(), ballot(10, 7), "above everything heard of");
}

#[test]
fn promises_of_another_ballot_or_of_a_stranger_are_dropped() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.promise(1, mine);
    bench.promise(2, ballot(1, 99));
    bench.promise(9, mine);
    assert!(matches!(bench.core.phase(), Phase::Campaigning(_)));
    bench.promise(2, mine);
    assert!(matches!(bench.core.phase(), Phase::Leading(_)));
}

#[test]
fn promises_of_an_acceptor_without_an_open_link_are_dropped() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.promise(1, mine);
    bench.handle(Event::Closed(uuid(2)));
    bench.promise(2, mine);
    assert!(matches!(bench.core.phase(), Phase::Campaigning(_)));
}

#[test]
fn rejected_candidate_waits_longer_and_exceeds_the_ballot_reported() {
    let mut bench = Bench::new();
    let mut longest = Duration::ZERO;
    for round in [5, 10, 15] {
        let mine = bench.campaign();
        bench.handle(Event::PrepareRejected {
            acceptor: uuid(1),
            ballot: mine,
            promised: ballot(round, 1),
        });
        assert_eq!(*bench.core.phase(), Phase::Standby);
        let (_, at_least, at_most) = bench.timer(Timer::Election).unwrap();
        assert!(at_least == Duration::ZERO && at_most > longest, "round {round}");
        longest = at_most;
    }
    assert_eq!(bench.campaign(), ballot(16, 7));
}

#[test]
fn a_rejection_of_an_earlier_ballot_does_not_end_the_campaign() {
    let mut bench = Bench::new();
    let first = bench.campaign();
    bench.give_up();
    let second = bench.campaign();
    bench.handle(Event::PrepareRejected {
        acceptor: uuid(1),
        ballot: first,
        promised: second,
    });
    assert_eq!(bench.core.ballot(), Some(second));
}

#[test]
fn a_candidate_gives_up_without_a_byte_of_a_promise_and_goes_on_with_one() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    let (_, at_least, _) = bench.timer(Timer::GiveUp).unwrap();
    assert_eq!(at_least, Duration::from_secs(5));
    bench.pass(4_000);
    bench.handle(Event::Bytes(uuid(1)));
    bench.pass(1_000);
    bench.fire(Timer::GiveUp);
    assert_eq!(bench.core.ballot(), Some(mine), "a page is on its way");
    let (_, at_least, _) = bench.timer(Timer::GiveUp).unwrap();
    assert_eq!(at_least, Duration::from_secs(4));
    bench.pass(4_000);
    bench.fire(Timer::GiveUp);
    assert_eq!(*bench.core.phase(), Phase::Standby);
    let [Notice::SteppedDown { why, .. }] = &bench.notices()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert_eq!(*why, End::NoPromise(Duration::from_secs(5)));
}

#[test]
fn patience_of_a_candidate_grows_up_to_a_minute() {
    let mut bench = Bench::new();
    let patience: Vec<u64> = (0..6)
        .map(|_| {
            bench.campaign();
            let (_, at_least, _) = bench.timer(Timer::GiveUp).unwrap();
            bench.give_up();
            at_least.as_secs()
        })
        .collect();
    assert_eq!(patience, [5, 10, 20, 40, 60, 60]);
}

#[test]
fn a_candidate_lets_acceptors_hear_it_while_it_pages() {
    let mut bench = Bench::new();
    let mine = bench.campaign();
    bench.fire(Timer::Heartbeat);
    let accepts = bench.accepts();
    assert_eq!(accepts.len(), 3);
    for (_, accept) in accepts {
        assert_eq!((accept.ballot, accept.chosen_to), (mine, Slot::ZERO));
        assert_eq!(accept.proposals, []);
    }
    assert!(bench.timer(Timer::Heartbeat).is_some(), "and again");
}

#[test]
fn timers_of_an_older_generation_are_void() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 300);
    bench.report(2, ballot(3, 1), 300);
    let (generation, ..) = bench.timer(Timer::Election).unwrap();
    bench.report(2, ballot(3, 1), 10);
    bench.report(2, ballot(3, 1), 300);
    assert_eq!(bench.handle(Event::Fired(Timer::Election, generation)), []);
}

#[test]
fn candidate_raises_a_low_acceptor_in_steps_that_it_accepts() {
    let mut bench = Bench::new();
    let high = ballot(3 * Ballot::ROUND_JUMP_MAX, 1);
    bench.report(3, high, 300);
    let mine = bench.campaign();
    assert!(mine > high);
    // Acceptor 1 has promised nothing so far: our ballot is too far above.
    let mut promised = Ballot::ZERO;
    bench.handle(Event::PrepareRefused {
        acceptor: uuid(1),
        promised,
    });
    for _ in 0..10 {
        let [(to, step, _)] = bench.prepares()[..] else {
            panic!("{:?}", bench.effects);
        };
        assert_eq!(to, uuid(1));
        assert!(promised.admits_jump_to(step) && promised < step && step <= mine);
        if step == mine {
            return;
        }
        promised = step;
        bench.promise(1, step);
        assert!(
            matches!(bench.core.phase(), Phase::Campaigning(_)),
            "a step is not our ballot"
        );
    }
    panic!("it never gets there");
}
