//! An acceptor that is not trusted: asked for its runs again, passed over meanwhile, and counted again.

use super::*;
use crate::paxos::{
    identity::{CommitCounter, RunNumber},
    witness::{Run, Witnesses},
};

fn introduced(number: u128, runs: &[(u64, u64)], remembers: Witnesses) -> Event {
    let run = |&(run, counter)| Run {
        run: RunNumber::from_random(run),
        commit_counter: CommitCounter::new(counter),
    };
    Event::Introduced {
        acceptor: uuid(number),
        runs: runs.iter().map(run).collect(),
        remembers,
    }
}

#[test]
fn a_connection_to_an_acceptor_that_is_not_trusted_is_opened_again_until_its_right_disk_is_back() {
    let mut bench = Bench::with(Limits::default(), (3, 2, 2));
    let reopen = |number| Effect::Reopen(uuid(number));
    let known = Witnesses::from_iter([(uuid(3), RunNumber::from_random(1), CommitCounter::new(9))]);
    bench.tell(Event::Closed(uuid(3)));
    bench.tell(introduced(1, &[(5, 1)], known));
    // The opening comes one turn after the runs that contradict.
    for _ in 0..5 {
        let found = bench.tell(introduced(3, &[(1, 4), (2, 6)], Witnesses::default()));
        assert!(!found.contains(&reopen(3)), "it is not open yet: {found:?}");
        let opened = bench.tell(Event::Opened(uuid(3)));
        assert!(opened.contains(&reopen(3)), "{opened:?}");
    }
    let back = bench.tell(introduced(3, &[(1, 9), (7, 10)], Witnesses::default()));
    assert!(back.contains(&Effect::Readmitted(uuid(3))), "{back:?}");
    let opened = bench.tell(Event::Opened(uuid(3)));
    assert!(!opened.contains(&reopen(3)), "{opened:?}");
}
