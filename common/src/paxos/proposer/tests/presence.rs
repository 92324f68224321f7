//! Presence of acceptors: when a leader steps down, and when a candidate gives up.

use super::{super::presence::absent_after, lead::accepted, *};

/// For `seconds` seconds, the acceptors `there` report presence, and `silent` milliseconds without bytes from here.
fn live(bench: &mut Bench, seconds: u64, there: &[u128], silent: u64) {
    for _ in 0..20 * seconds {
        bench.pass(50);
        let Some(ballot) = bench.core.ballot() else { return };
        for &number in there {
            bench.handle(alive(uuid(number), ballot, silent));
        }
        bench.fire(Timer::Heartbeat);
    }
}

#[test]
fn a_leader_stays_while_a_phase_2_quorum_is_there_whatever_the_disks_do() {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    live(&mut bench, 60, &[1, 2], 1_900);
    assert!(
        bench.leads(),
        "not a vote came in a minute, and that is no reason"
    );
    assert_eq!(bench.answers(), []);
}

#[test]
fn a_leader_steps_down_without_a_phase_2_quorum_after_d_and_not_before() {
    for (there, silent) in [(&[1][..], 0), (&[1, 2], 2_000), (&[1, 9], 0)] {
        let mut bench = Bench::new();
        let mine = bench.lead();
        bench.propose(1, "a");
        live(&mut bench, 3, &[1, 2, 3], 0);
        let rest = if silent > 0 { 1 } else { 40 };
        for step in 1..=rest {
            assert!(bench.leads(), "{there:?} after {step} steps");
            bench.pass(50);
            for &number in there {
                bench.handle(alive(uuid(number), mine, silent));
            }
            bench.fire(Timer::Heartbeat);
        }
        assert!(!bench.leads(), "{there:?} {silent}");
        assert_eq!(bench.answers(), [(1, ProposalOutcome::Unknown)]);
        let [Notice::SteppedDown { led: true, why, .. }] = &bench.notices()[..] else {
            panic!("{:?}", bench.effects);
        };
        assert!(
            matches!(why, End::Alone { needed: 2, absent } if absent.len() >= 2),
            "{why:?}"
        );
    }
}

#[test]
fn leader_that_is_alone_gives_back_what_waits_at_once() {
    let mut bench = Bench::with_batches_in_flight(1);
    bench.lead();
    live(&mut bench, 3, &[1, 2, 3], 0);
    bench.propose(1, "proposed");
    bench.propose(2, "waits");
    for _ in 1..=40 {
        bench.pass(50);
        bench.fire(Timer::Heartbeat);
    }
    assert!(!bench.leads());
    let waited = ProposalOutcome::NotProposed(Reason::NotLeading);
    assert_eq!(bench.answers(), [(1, ProposalOutcome::Unknown), (2, waited)]);
}

#[test]
fn d_is_a_longer_leader_timeout() {
    assert_eq!(absent_after(Duration::from_millis(200)), Duration::from_secs(2));
    assert_eq!(absent_after(Duration::from_secs(3)), Duration::from_secs(3));
}

#[test]
fn what_has_arrived_is_taken_in_before_presence_is_judged() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.pass(10_000);
    bench.core.at(bench.now);
    let generation = *bench.core.generations.get(&Timer::Heartbeat).unwrap();
    bench.core.handle(Event::Fired(Timer::Heartbeat, generation));
    for number in 1..=2 {
        bench.core.handle(alive(uuid(number), mine, 0));
    }
    bench.core.flush();
    assert!(bench.leads());
}

#[test]
fn time_in_which_this_process_stood_still_does_not_count() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    bench.pass(10_000);
    bench.core.at(bench.now);
    bench.core.stood_still(Duration::from_secs(10));
    // Silence during the pause is not the acceptors' fault.
    bench.handle(alive(uuid(1), mine, 10_000));
    let [Notice::StoodStill(lasted)] = &bench.notices()[..] else {
        panic!("{:?}", bench.effects);
    };
    assert_eq!(*lasted, Duration::from_secs(10));
    bench.fire(Timer::Heartbeat);
    assert!(bench.leads());
    live(&mut bench, 1, &[], 0);
    assert!(bench.leads());
    live(&mut bench, 2, &[], 0);
    assert!(!bench.leads());
}

#[test]
fn pages_rows_and_answers_show_that_an_acceptor_is_there() {
    for number in 1..=4 {
        let mut bench = Bench::new();
        let mine = bench.lead();
        bench.pass(1_900);
        for acceptor in [1, 2].map(uuid) {
            let sequence = 0;
            let event = match number {
                1 => Event::Bytes(acceptor),
                2 => Event::Answered {
                    acceptor,
                    ballot: mine,
                    sequence,
                    answer: accepted(&[], 0),
                },
                3 => alive(acceptor, ballot(1, 99), 0),
                _ => Event::Reported {
                    acceptor,
                    sent: bench.now,
                    answer: word(mine, 0),
                },
            };
            bench.handle(event);
        }
        bench.pass(200);
        bench.fire(Timer::Heartbeat);
        assert_eq!(bench.leads(), number <= 2, "{number}");
    }
}

#[test]
fn acceptor_of_an_earlier_release_is_present_by_its_heartbeats() {
    let mut bench = Bench::new();
    bench.lead();
    for _ in 0..100 {
        bench.pass(50);
        for number in 1..=2 {
            bench.answer(number, 0, accepted(&[], 0));
        }
        bench.fire(Timer::Heartbeat);
    }
    assert!(bench.leads());
}

#[test]
fn flexible_quorums_decide_how_many_must_be_there() {
    // Three promises and two votes are needed.
    for (there, leads, campaigns) in [
        (&[1][..], false, false),
        (&[1, 2], true, false),
        (&[1, 2, 3], true, true),
    ] {
        let bench = || {
            let mut bench = Bench::with(Limits::default(), (4, 3, 2));
            bench.report(3, Ballot::ZERO, 300);
            bench
        };
        let mut leader = bench();
        let mine = leader.campaign();
        for number in 1..=3 {
            leader.promise(number, mine);
        }
        assert!(leader.leads());
        live(&mut leader, 3, there, 0);
        assert_eq!(leader.leads(), leads, "{there:?}");
        let mut candidate = bench();
        candidate.campaign();
        live(&mut candidate, 3, there, 0);
        assert_eq!(candidate.core.ballot().is_some(), campaigns, "{there:?}");
    }
}

#[test]
fn candidate_gives_up_unless_a_quorum_is_there() {
    let mut bench = Bench::new();
    bench.campaign();
    live(&mut bench, 4, &[1, 2], 0);
    assert!(bench.core.ballot().is_some(), "their disks hang");
    let mut bench = Bench::new();
    bench.campaign();
    live(&mut bench, 3, &[1], 0);
    assert_eq!(*bench.core.phase(), Phase::Standby);
}
