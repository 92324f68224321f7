//! Outcomes of commands: queued, forwarded, refused, cancelled.

use super::*;

#[test]
fn standby_forwards_to_the_leader_and_keeps_commands_without_one() {
    let mut bench = Bench::new();
    bench.propose(1, "a");
    assert_eq!((bench.forwards(), bench.answers()), (vec![], vec![]));
    assert_eq!(bench.core.queued(), (1, 1));
    bench.report(1, ballot(3, 1), 10);
    assert_eq!(bench.forwards(), [(1, "http://leader".to_owned())]);
    assert_eq!(bench.core.queued(), (0, 0));
    bench.propose(2, "b");
    assert_eq!(bench.forwards(), [(2, "http://leader".to_owned())]);
}

#[test]
fn a_silent_resigned_or_nameless_leader_is_none_to_forward_to() {
    let leader = ballot(3, 1);
    for (promised, silent, resigned) in [
        (leader, 300, false),
        (leader, 10, true),
        (Ballot::ZERO, 10, false),
    ] {
        let mut bench = Bench::new();
        bench.reported(1, promised, silent, resigned);
        bench.propose(1, "a");
        assert_eq!(
            bench.forwards(),
            [],
            "{promised} silent for {silent} ms, resigned: {resigned}"
        );
    }
}

#[test]
fn forwards_to_the_highest_ballot_reported() {
    let mut bench = Bench::new();
    let mut old = word(ballot(2, 1), 1);
    old.heard.address = Arc::from("http://old");
    bench.say(1, old);
    bench.report(2, ballot(3, 2), 10);
    assert_eq!(bench.core.leader().as_deref(), Some("http://leader"));
}

#[test]
fn never_forwards_to_its_own_address_where_an_earlier_run_led() {
    let mut bench = Bench::new();
    let mut mine = word(ballot(3, 1), 1);
    mine.heard.address = Arc::from("http://me");
    bench.say(1, mine);
    bench.propose(1, "a");
    assert_eq!((bench.forwards(), bench.answers()), (vec![], vec![]));
}

#[test]
fn a_forwarded_command_is_proposed_or_refused_and_never_sent_on() {
    let mut bench = Bench::new();
    bench.report(1, ballot(3, 1), 10);
    bench.propose_forwarded(1, "a");
    assert_eq!(
        bench.answers(),
        [(1, ProposalOutcome::NotProposed(Reason::NotLeading))]
    );
    assert_eq!(bench.forwards(), []);

    // A candidate may lead in a moment, and otherwise refuses.
    let mut bench = Bench::new();
    bench.campaign();
    bench.propose_forwarded(2, "b");
    bench.propose(3, "c");
    assert_eq!(bench.answers(), []);
    bench.give_up();
    assert_eq!(
        bench.answers(),
        [(2, ProposalOutcome::NotProposed(Reason::NotLeading))]
    );
    assert_eq!(
        bench.core.queued().0,
        1,
        "its own callers' commands wait for a leader"
    );
}

#[test]
fn commands_that_find_no_leader_are_given_back() {
    let mut bench = Bench::new();
    bench.propose(1, "a");
    let (_, at_least, at_most) = bench.timer(Timer::Leaderless).unwrap();
    assert_eq!((at_least, at_most), (TIMEOUT * 10, TIMEOUT * 10));
    bench.propose(2, "b");
    assert_eq!(bench.timer(Timer::Leaderless), None, "it runs already");
    bench.fire(Timer::Leaderless);
    let not_leading = ProposalOutcome::NotProposed(Reason::NotLeading);
    assert_eq!(bench.answers(), [(1, not_leading), (2, not_leading)]);
    assert_eq!(bench.core.queued(), (0, 0));

    // A candidate without success is no leader either.
    bench.propose(3, "c");
    bench.campaign();
    bench.fire(Timer::Leaderless);
    assert_eq!(bench.answers(), [(3, not_leading)]);
}

#[test]
fn the_queue_is_bounded_in_commands_and_bytes() {
    let limits = Limits {
        queue_commands_max: 2,
        queue_bytes_max: 5,
        ..Limits::default()
    };
    let mut bench = Bench::with(limits, (3, 2, 2));
    bench.propose(1, "aaaa");
    bench.propose(2, "bb");
    assert_eq!(
        bench.answers(),
        [(2, ProposalOutcome::NotProposed(Reason::Overloaded))]
    );
    bench.propose(3, "c");
    assert_eq!(bench.answers(), []);
    bench.propose(4, "");
    assert_eq!(
        bench.answers(),
        [(4, ProposalOutcome::NotProposed(Reason::Overloaded))]
    );
    assert_eq!(bench.core.queued(), (2, 5));
}

#[test]
fn a_cancelled_command_that_still_waits_is_certainly_not_proposed() {
    let mut bench = Bench::new();
    bench.propose(1, "a");
    bench.handle(Event::Cancelled(RequestId(1)));
    assert_eq!(
        bench.answers(),
        [(1, ProposalOutcome::NotProposed(Reason::Cancelled))]
    );
    bench.lead();
    assert_eq!(
        bench
            .accepts()
            .iter()
            .map(|(_, accept)| accept.proposals.len())
            .sum::<usize>(),
        0
    );
}

#[test]
fn a_standby_that_is_to_stop_hands_over_at_once_and_refuses_what_it_has() {
    let mut bench = Bench::new();
    bench.propose(1, "a");
    bench.handle(Event::Resigned);
    assert_eq!(
        bench.answers(),
        [(1, ProposalOutcome::NotProposed(Reason::Stopping))]
    );
    assert!(bench.effects.contains(&Effect::HandedOver));
    bench.propose(2, "b");
    assert_eq!(
        bench.answers(),
        [(2, ProposalOutcome::NotProposed(Reason::Stopping))]
    );
    bench.report(1, ballot(3, 1), 300);
    bench.report(2, ballot(3, 1), 300);
    assert_eq!(bench.timer(Timer::Election), None);
}

#[test]
fn full_disks_refuse_further_values_but_hanging_disks_do_not() {
    let mut bench = Bench::new();
    let mine = bench.lead();
    for number in 1..=2 {
        bench.handle(Event::Alive {
            acceptor: uuid(number),
            ballot: mine,
            silent: Duration::ZERO,
            waiting: Duration::ZERO,
            has_space: false,
        });
    }
    bench.propose(1, "a");
    assert_eq!(bench.answers(), [], "one value is always under way");
    bench.propose(2, "b");
    assert_eq!(
        bench.answers(),
        [(2, ProposalOutcome::NotProposed(Reason::NoQuorum))]
    );
    let late: Vec<String> = bench.core.late().iter().map(Late::to_string).collect();
    assert_eq!(late.len(), 2, "{late:?}");
    assert!(late[0].ends_with("no space on its disk"), "{late:?}");
    // A disk that only hangs keeps values waiting, and causes no refusal.
    for number in 1..=2 {
        bench.handle(Event::Alive {
            acceptor: uuid(number),
            ballot: mine,
            silent: Duration::ZERO,
            waiting: Duration::from_secs(50),
            has_space: true,
        });
    }
    bench.propose(3, "c");
    assert_eq!(bench.answers(), []);
    let late = bench.core.late().iter().map(Late::to_string).next().unwrap();
    assert!(
        late.ends_with("its disk keeps a request waiting for 50000 ms"),
        "{late}"
    );
}
