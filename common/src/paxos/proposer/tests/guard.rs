//! A distrusted acceptor: asked for its runs again, passed over meanwhile, and counted again.

use super::*;
use crate::paxos::{
    identity::{CommitCounter, RunNumber},
    witness::{Run, Witnesses},
};

/// An acceptor shows runs after a second acceptor reported an empty table.
fn introduced(number: u128, runs: &[(u64, u64)], remembers: Witnesses) -> Event {
    let other = uuid(if number == 1 { 2 } else { 1 });
    with_others(number, runs, remembers, vec![(other, Witnesses::default())])
}

fn with_others(
    number: u128,
    runs: &[(u64, u64)],
    remembers: Witnesses,
    others: Vec<(AcceptorUuid, Witnesses)>,
) -> Event {
    let run = |&(run, counter)| Run {
        run: RunNumber::from_random(run),
        commit_counter: CommitCounter::new(counter),
    };
    Event::Introduced {
        acceptor: uuid(number),
        runs: runs.iter().map(run).collect(),
        remembers,
        others,
    }
}

#[test]
fn untrusted_acceptor_is_connected_again_until_its_disk_is_back() {
    let mut bench = Bench::with(Limits::default(), (3, 2, 2));
    let reopen = |number| Effect::Reopen(uuid(number));
    let known = Witnesses::from_iter([(uuid(3), RunNumber::from_random(1), CommitCounter::new(9))]);
    bench.handle(Event::Closed(uuid(3)));
    bench.handle(introduced(1, &[(5, 1)], known));
    // The opening comes a turn after the contradicting runs.
    for _ in 0..5 {
        let found = bench.handle(introduced(3, &[(1, 4), (2, 6)], Witnesses::default()));
        assert!(!found.contains(&reopen(3)), "it is not open yet: {found:?}");
        let opened = bench.handle(Event::Opened(uuid(3)));
        assert!(opened.contains(&reopen(3)), "{opened:?}");
    }
    let back = bench.handle(introduced(3, &[(1, 9), (7, 10)], Witnesses::default()));
    assert!(back.contains(&Effect::Readmitted(uuid(3))), "{back:?}");
    let opened = bench.handle(Event::Opened(uuid(3)));
    assert!(!opened.contains(&reopen(3)), "{opened:?}");
}

#[test]
fn new_run_counts_once_enough_other_acceptors_were_asked() {
    let mut bench = Bench::with(Limits::default(), (3, 2, 2));
    let reopen = Effect::Reopen(uuid(3));
    let nothing = Witnesses::default;
    bench.handle(Event::Closed(uuid(3)));
    bench.handle(with_others(3, &[(1, 4), (2, 6)], nothing(), vec![]));
    assert!(!bench.core.counts(uuid(3)));
    assert!(bench.handle(Event::Opened(uuid(3))).contains(&reopen));
    // The table of an acceptor outside the cluster does not count.
    let stranger = vec![(uuid(77), nothing())];
    bench.handle(with_others(3, &[(1, 4), (2, 6)], nothing(), stranger));
    assert!(bench.handle(Event::Opened(uuid(3))).contains(&reopen));
    // The second acceptor remembers a commit never heard of by this proposer.
    let beyond = Witnesses::from_iter([(uuid(3), RunNumber::from_random(1), CommitCounter::new(9))]);
    bench.handle(with_others(
        3,
        &[(1, 4), (2, 6)],
        nothing(),
        vec![(uuid(2), beyond)],
    ));
    assert!(bench.handle(Event::Opened(uuid(3))).contains(&reopen));
    assert!(!bench.core.counts(uuid(3)));
    let agrees = vec![(uuid(2), nothing())];
    bench.handle(with_others(3, &[(1, 9), (7, 10)], nothing(), agrees));
    assert!(!bench.handle(Event::Opened(uuid(3))).contains(&reopen));
    assert!(bench.core.counts(uuid(3)));
    // The same run needs no second question.
    bench.handle(Event::Closed(uuid(3)));
    bench.handle(with_others(3, &[(1, 9), (7, 12)], nothing(), vec![]));
    assert!(!bench.handle(Event::Opened(uuid(3))).contains(&reopen));
}
