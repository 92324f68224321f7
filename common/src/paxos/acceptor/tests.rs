//! One test for each rule of the acceptor. The name of the test states the rule.

use bytes::Bytes;

use super::*;
use crate::paxos::{
    ballot::ProposerId,
    message::{
        Accept, AcceptAnswer, Leadership, Prepare, PrepareAnswer, Refused, Rejection, SLOTS_AHEAD_MAX,
    },
    slot::SlotRange,
};

mod contradictions;
mod damage;
mod eras;
mod forming;
mod trim;
mod watermark;

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

fn configuration(uuids: &[u128]) -> Configuration {
    let quorum = uuids.len() / 2 + 1;
    let members = uuids
        .iter()
        .map(|&number| (uuid(number), Arc::from(format!("http://{number}"))));
    Configuration::new(members, quorum, quorum).unwrap()
}

fn recovered() -> Recovered {
    Recovered {
        uuid: uuid(1),
        commit_counter: CommitCounter::new(7),
        membership: Membership::Formed(configuration(&[1, 2, 3])),
        promised: Ballot::ZERO,
        leader_address: Arc::from(""),
        known_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        voted_to: Slot::ZERO,
        least_version: 1,
        rows: BTreeMap::new(),
    }
}

/// An acceptor, with the rows to read from its disk.
#[derive(Debug)]
struct Fixture {
    core: Acceptor,
    disk: BTreeMap<Slot, (Ballot, Value)>,
}

impl Fixture {
    fn blank() -> Self {
        Self::with(recovered())
    }

    fn with(recovered: Recovered) -> Self {
        Self {
            core: Acceptor::recover(recovered, RunNumber::from_random(5)),
            disk: BTreeMap::new(),
        }
    }

    /// Decides a message in a separate group, and commits the group.
    fn accept(&mut self, message: &Accept) -> Result<AcceptAnswer, Violation> {
        let mut group = self.core.group();
        let below = self.below(message);
        let answer = self.core.accept(&mut group, message, &below);
        self.commit(group);
        answer
    }

    fn below(&self, message: &Accept) -> BTreeMap<Slot, HeldRow> {
        let read = |slot| {
            let (ballot, value): &(Ballot, Value) = self.disk.get(&slot)?;
            Some((slot, HeldRow::Accepted(*ballot, value.fingerprint())))
        };
        self.core.slots_to_read(message).filter_map(read).collect()
    }

    fn prepare(&mut self, round: u64) -> PrepareAnswer {
        let mut group = self.core.group();
        let answer = self.core.prepare(&mut group, &prepare(round));
        self.commit(group);
        answer
    }

    fn commit(&mut self, group: Group) {
        self.disk.extend(group.rows().clone());
        self.core.committed(group);
        self.disk = self.disk.split_off(&self.core.trimmed_to());
    }
}

fn prepare(round: u64) -> Prepare {
    Prepare {
        ballot: ballot(round),
        from: Slot::ZERO,
        address: Arc::from(format!("http://proposer-{round}")),
    }
}

fn accept(round: u64, chosen_to: u64, proposals: &[(u64, &'static str)]) -> Accept {
    Accept {
        ballot: ballot(round),
        sequence: 1,
        chosen_to: slot(chosen_to),
        proposals: proposals
            .iter()
            .map(|&(number, text)| (slot(number), value(text)))
            .collect(),
        address: Arc::from(format!("http://proposer-{round}")),
        resign: false,
    }
}

fn rejection(round: u64) -> Rejection {
    Rejection {
        promised: ballot(round),
        leader_address: Arc::from(format!("http://proposer-{round}")),
    }
}

fn accepted(slots: &[(u64, u64)], voted_to: u64, chosen_to: u64) -> AcceptAnswer {
    accepted_knowing(slots, voted_to, chosen_to, chosen_to)
}

fn accepted_knowing(slots: &[(u64, u64)], voted_to: u64, chosen_to: u64, known_to: u64) -> AcceptAnswer {
    let range = |&(from, to)| SlotRange {
        from: slot(from),
        to: slot(to),
    };
    AcceptAnswer::Accepted {
        slots: slots.iter().map(range).collect(),
        voted_to: slot(voted_to),
        chosen_to: slot(chosen_to),
        known_to: slot(known_to),
    }
}

#[test]
fn rejects_prepare_and_accept_below_promise() {
    let mut acceptor = Fixture::blank();
    assert_eq!(acceptor.prepare(2), PrepareAnswer::Promised);
    let before = acceptor.core.clone();
    assert_eq!(acceptor.prepare(1), PrepareAnswer::Rejected(rejection(2)));
    assert_eq!(
        acceptor.accept(&accept(1, 0, &[(0, "a")])),
        Ok(AcceptAnswer::Rejected(rejection(2)))
    );
    assert_eq!(acceptor.core, before);
}

#[test]
fn promises_an_equal_ballot_again_without_writing() {
    let mut acceptor = Fixture::blank();
    acceptor.prepare(2);
    let mut group = acceptor.core.group();
    assert_eq!(
        acceptor.core.prepare(&mut group, &prepare(2)),
        PrepareAnswer::Promised
    );
    assert!(acceptor.core.write(&group).is_none());
}

#[test]
fn promise_names_its_proposer_and_is_written() {
    let acceptor = Fixture::blank();
    let mut group = acceptor.core.group();
    acceptor.core.prepare(&mut group, &prepare(3));
    let write = acceptor.core.write(&group).unwrap();
    assert_eq!(write.promised, ballot(3));
    assert!(write.promise_is_new);
    assert_eq!(**write.leader_address, *"http://proposer-3");
    assert_eq!(write.commit_counter, CommitCounter::new(8));
}

#[test]
fn accept_raises_the_promise() {
    let mut acceptor = Fixture::blank();
    acceptor.prepare(1);
    assert_eq!(
        acceptor.accept(&accept(4, 0, &[(0, "a")])),
        Ok(accepted(&[(0, 1)], 1, 0))
    );
    assert_eq!(acceptor.core.promised(), ballot(4));
    assert_eq!(acceptor.prepare(3), PrepareAnswer::Rejected(rejection(4)));
    assert_eq!(
        acceptor.accept(&accept(1, 0, &[(1, "b")])),
        Ok(AcceptAnswer::Rejected(rejection(4)))
    );
}

#[test]
fn rejection_waits_with_the_promise_of_its_group() {
    let acceptor = Fixture::blank();
    let mut group = acceptor.core.group();
    acceptor.core.prepare(&mut group, &prepare(5));
    let answer = acceptor
        .core
        .accept(&mut group, &accept(4, 0, &[(0, "a")]), &BTreeMap::new());
    assert_eq!(answer, Ok(AcceptAnswer::Rejected(rejection(5))));
    assert!(
        group.needs_commit(),
        "the rejection must wait for the promise it rests on"
    );
    assert_eq!(acceptor.core.promised(), Ballot::ZERO);
}

#[test]
fn requests_of_a_group_see_what_those_before_them_would_change() {
    let mut acceptor = Fixture::blank();
    let mut group = acceptor.core.group();
    let none = BTreeMap::new();
    let core = &acceptor.core;
    assert_eq!(
        core.accept(&mut group, &accept(1, 0, &[(0, "a"), (1, "b")]), &none),
        Ok(accepted(&[(0, 2)], 2, 0))
    );
    assert_eq!(
        core.accept(&mut group, &accept(1, 2, &[]), &none),
        Ok(accepted(&[], 2, 2))
    );
    assert_eq!(
        core.accept(&mut group, &accept(1, 0, &[(0, "other")]), &none),
        Err(Violation::SecondValueAtBallot {
            slot: slot(0),
            ballot: ballot(1)
        })
    );
    acceptor.commit(group);
    assert_eq!(acceptor.core.chosen_to(), slot(2));
}

#[test]
fn nothing_is_in_memory_before_the_commit_and_all_of_it_after() {
    let mut acceptor = Fixture::blank();
    let before = acceptor.core.clone();
    let mut group = acceptor.core.group();
    let message = accept(2, 1, &[(0, "a"), (3, "b")]);
    acceptor
        .core
        .accept(&mut group, &message, &BTreeMap::new())
        .unwrap();
    acceptor
        .core
        .store_configuration(&mut group, &configuration(&[1, 2, 3]))
        .unwrap();
    assert_eq!(acceptor.core, before);
    acceptor.commit(group);
    assert_eq!(acceptor.core.promised(), ballot(2));
    assert_eq!(acceptor.core.voted_to(), slot(4));
    assert_eq!(acceptor.core.chosen_to(), slot(1));
    assert_eq!(acceptor.core.stamp().commit_counter, CommitCounter::new(8));
}

#[test]
#[should_panic(expected = "a promise never decreases")]
fn a_group_that_would_lower_the_promise_ends_the_process() {
    let mut acceptor = Fixture::blank();
    let stale = acceptor.core.group();
    acceptor.prepare(1);
    acceptor.core.committed(stale);
}

#[test]
fn refuses_rounds_too_far_above_the_promise_and_names_it() {
    let mut acceptor = Fixture::blank();
    acceptor.prepare(1);
    let highest = 1 + Ballot::ROUND_JUMP_MAX;
    let prepared = acceptor.prepare(highest + 1);
    assert!(
        matches!(&prepared, PrepareAnswer::Refused(refused) if refused.promised == ballot(1)),
        "{prepared:?}"
    );
    let voted = acceptor.accept(&accept(highest + 1, 0, &[(0, "a")]));
    assert!(
        matches!(&voted, Ok(AcceptAnswer::Refused(refused)) if refused.promised == ballot(1)),
        "{voted:?}"
    );
    assert_eq!(acceptor.core.promised(), ballot(1));
    assert_eq!(acceptor.prepare(highest), PrepareAnswer::Promised);
}

#[test]
fn refuses_slots_too_far_above_the_leaders_watermark() {
    let mut acceptor = Fixture::blank();
    acceptor.prepare(1);
    let before = acceptor.core.clone();
    let answer = acceptor.accept(&accept(1, 10, &[(0, "a"), (10 + SLOTS_AHEAD_MAX, "b")]));
    assert!(
        matches!(&answer, Ok(AcceptAnswer::Refused(refused)) if refused.promised == ballot(1)),
        "{answer:?}"
    );
    assert_eq!(acceptor.core, before);
    let highest = 9 + SLOTS_AHEAD_MAX;
    assert_eq!(
        acceptor.accept(&accept(1, 10, &[(highest, "b")])),
        Ok(accepted(&[(highest, highest + 1)], highest + 1, 0))
    );
}

#[test]
fn refuses_what_is_trimmed_and_does_not_vote() {
    let mut acceptor = Fixture::with(Recovered {
        known_to: slot(5),
        trimmed_to: slot(5),
        voted_to: slot(5),
        ..recovered()
    });
    let answer = acceptor.accept(&accept(1, 5, &[(4, "a"), (5, "b")]));
    assert_eq!(answer, Ok(AcceptAnswer::Trimmed { trimmed_to: slot(5) }));
    assert_eq!(acceptor.core.promised(), Ballot::ZERO);
}

#[test]
fn a_second_value_at_a_ballot_is_a_violation_and_changes_nothing() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a")])).unwrap();
    let before = acceptor.core.clone();
    let message = accept(1, 0, &[(1, "b"), (0, "other")]);
    assert_eq!(
        acceptor.accept(&message),
        Err(Violation::SecondValueAtBallot {
            slot: slot(0),
            ballot: ballot(1)
        })
    );
    assert_eq!(acceptor.core, before);
}

#[test]
fn a_second_value_for_a_chosen_slot_is_a_violation_at_any_ballot() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a"), (1, "b")])).unwrap();
    acceptor.accept(&accept(1, 2, &[])).unwrap();
    assert_eq!(
        acceptor.accept(&accept(2, 2, &[(1, "other")])),
        Err(Violation::SecondValueForChosen {
            slot: slot(1),
            ballot: ballot(2)
        })
    );
}

#[test]
fn a_higher_ballot_replaces_a_value_that_was_never_chosen() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a")])).unwrap();
    assert_eq!(
        acceptor.accept(&accept(2, 0, &[(0, "other")])),
        Ok(accepted(&[(0, 1)], 1, 0))
    );
    assert_eq!(acceptor.disk[&slot(0)], (ballot(2), value("other")));
}

#[test]
fn repeated_proposal_is_accepted_without_writing() {
    let mut acceptor = Fixture::blank();
    let message = accept(1, 0, &[(0, "a")]);
    let first = acceptor.accept(&message);
    let mut group = acceptor.core.group();
    assert_eq!(
        acceptor.core.accept(&mut group, &message, &BTreeMap::new()),
        first
    );
    assert!(acceptor.core.write(&group).is_none());
}

#[test]
fn rows_below_the_watermark_are_judged_from_the_disk() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a"), (1, "b")])).unwrap();
    acceptor.accept(&accept(1, 2, &[])).unwrap();
    let again = accept(2, 2, &[(0, "a"), (1, "b"), (2, "c")]);
    let read: Vec<Slot> = acceptor.core.slots_to_read(&again).collect();
    assert_eq!(read, [slot(0), slot(1)]);
    assert_eq!(acceptor.accept(&again), Ok(accepted(&[(0, 3)], 3, 2)));
    assert_eq!(
        acceptor.disk[&slot(0)].0,
        ballot(2),
        "a repaired row is of the leader's ballot"
    );
}

#[test]
fn heartbeat_writes_nothing_unless_the_promise_rises() {
    let mut acceptor = Fixture::blank();
    acceptor.accept(&accept(1, 0, &[(0, "a")])).unwrap();
    let mut group = acceptor.core.group();
    let none = BTreeMap::new();
    let answer = acceptor.core.accept(&mut group, &accept(1, 1, &[]), &none);
    assert_eq!(answer, Ok(accepted(&[], 1, 1)));
    assert!(
        acceptor.core.write(&group).is_none(),
        "the watermark rides on the next commit"
    );
    let answer = acceptor.core.accept(&mut group, &accept(2, 0, &[]), &none);
    assert_eq!(answer, Ok(accepted(&[], 1, 1)));
    assert_eq!(acceptor.core.write(&group).unwrap().promised, ballot(2));
}

#[test]
fn resignation_is_reported_until_another_proposer_is_promised() {
    let mut acceptor = Fixture::blank();
    let resign = Accept {
        resign: true,
        ..accept(1, 0, &[])
    };
    acceptor.accept(&resign).unwrap();
    assert!(acceptor.core.leadership().resigned);
    acceptor.prepare(1);
    assert!(
        acceptor.core.leadership().resigned,
        "what a leader had asked before is overtaken by its goodbye"
    );
    acceptor.prepare(2);
    assert_eq!(
        acceptor.core.leadership(),
        Leadership {
            promised: ballot(2),
            address: Arc::from("http://proposer-2"),
            resigned: false
        }
    );
    acceptor.accept(&resign).unwrap();
    assert!(
        !acceptor.core.leadership().resigned,
        "who is rejected says nothing about the leader"
    );
}

#[test]
fn restart_keeps_promise_rows_and_watermark_in_a_new_run() {
    let mut acceptor = Fixture::with(Recovered {
        promised: ballot(3),
        leader_address: Arc::from("http://proposer-3"),
        known_to: slot(1),
        voted_to: slot(3),
        rows: BTreeMap::from([(slot(2), HeldRow::Accepted(ballot(3), value("c").fingerprint()))]),
        ..recovered()
    });
    assert_eq!(acceptor.core.stamp().run, RunNumber::from_random(5));
    assert_eq!(acceptor.prepare(2), PrepareAnswer::Rejected(rejection(3)));
    assert_eq!(
        acceptor.accept(&accept(3, 3, &[(2, "other")])),
        Err(Violation::SecondValueAtBallot {
            slot: slot(2),
            ballot: ballot(3)
        })
    );
    assert_eq!(
        acceptor.accept(&accept(3, 3, &[(1, "b")])),
        Ok(accepted(&[(1, 2)], 3, 3))
    );
}
