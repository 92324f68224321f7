//! New members that lose their disks: what they reported before puts no change in force.

use super::*;
use crate::paxos::{
    identity::{CommitCounter, RunNumber},
    witness::{Run, Witnesses},
};

/// Acceptor 4 shows its runs, after acceptors 1 and 2 reported empty tables.
fn introduced(runs: &[(u64, u64)]) -> Event {
    let run = |&(run, counter)| Run {
        run: RunNumber::from_random(run),
        commit_counter: CommitCounter::new(counter),
    };
    Event::Introduced {
        acceptor: uuid(4),
        runs: runs.iter().map(run).collect(),
        remembers: Witnesses::default(),
        others: [1, 2].map(|other| (uuid(other), Witnesses::default())).into(),
    }
}

fn heard(run: u64, counter: u64) -> Event {
    Event::Heard {
        acceptor: uuid(4),
        run: RunNumber::from_random(run),
        commit_counter: CommitCounter::new(counter),
    }
}

/// The process of acceptor 4 that answers first.
const FIRST_RUN: &[(u64, u64)] = &[(1, 3)];
/// A process of acceptor 4 on an older copy of its disk.
const OLDER_COPY: &[(u64, u64)] = &[(1, 4), (2, 5)];

/// Leads with slot 0 chosen. Acceptor 4 joins, and holds slot 0.
fn copying() -> (Bench, Arc<Configuration>) {
    let mut bench = Bench::new();
    bench.lead();
    bench.propose(1, "a");
    let configuration = next(&bench, &[1, 2, 4], 2, 2);
    let change = change_to(&configuration);
    bench.handle(Event::ChangeMembers(ChangeRequest { change }));
    bench.handle(introduced(FIRST_RUN));
    bench.handle(Event::Opened(uuid(4)));
    assert!(bench.core.counts(uuid(4)));
    bench.vote(1, 0);
    bench.vote(3, 0);
    bench.answer(4, 0, marked(&[(0, 1)], 1, 1));
    bench.handle(heard(1, 9));
    (bench, configuration)
}

fn watermark_of_joiner(bench: &Bench) -> Option<Slot> {
    let Phase::Leading(lead) = bench.core.phase() else {
        panic!("it leads")
    };
    lead.sound_to(uuid(4))
}

#[test]
fn vote_of_a_joiner_with_a_closed_link_ends_the_reign_once_its_disk_is_lost() {
    let (mut bench, _) = copying();
    // The link closes before the change is proposed, and the stream stays.
    bench.handle(Event::Closed(uuid(4)));
    bench.answer(1, 0, marked(&[], 1, 1));
    assert_eq!(bench.sent_to(4), [(1, value("change"))]);
    bench.answer(4, 0, marked(&[(1, 2)], 2, 1));
    assert!(bench.leads());
    bench.handle(introduced(OLDER_COPY));
    assert!(!bench.leads(), "a vote of the lost disk was counted");
    assert_eq!(bench.adopted(), None);
}

#[test]
fn watermark_of_a_lost_disk_counts_for_no_later_change() {
    let (mut bench, _) = copying();
    assert_eq!(watermark_of_joiner(&bench), Some(slot(1)));
    bench.handle(introduced(OLDER_COPY));
    assert!(bench.leads(), "no vote of a joiner has counted yet");
    assert_eq!(watermark_of_joiner(&bench), None);
}

#[test]
fn watermark_of_a_joiner_counts_for_no_later_change_once_its_change_is_given_up() {
    let (mut bench, _) = copying();
    for _ in 0..60 {
        bench.pass(200);
        let ballot = bench.core.ballot().unwrap();
        for number in [1, 2, 3] {
            bench.handle(alive(uuid(number), ballot, 0));
        }
        bench.fire(Timer::Check);
    }
    assert_eq!(
        bench.core.change_stage(),
        None,
        "the joiner was silent, or too slow"
    );
    assert!(bench.leads());
    assert_eq!(watermark_of_joiner(&bench), None);
    assert!(!bench.core.counted.contains(&uuid(4)));
}
