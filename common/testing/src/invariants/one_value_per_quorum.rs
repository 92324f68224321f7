//! Invariant 1: at most one value of a slot is ever accepted by a phase-2 quorum at one ballot.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, slot::Slot, value::Value};

/// Every vote ever made durable, overwritten votes included.
pub(crate) struct Votes {
    phase2: usize,
    votes: BTreeMap<(Slot, Ballot), BTreeMap<usize, Value>>,
}

impl Votes {
    pub(crate) fn new(phase2: usize) -> Self {
        Self {
            phase2,
            votes: BTreeMap::new(),
        }
    }

    /// Records a vote. Returns whether exactly this vote completed a quorum.
    pub(crate) fn voted(&mut self, acceptor: usize, ballot: Ballot, slot: Slot, value: &Value) -> bool {
        let votes = self.votes.entry((slot, ballot)).or_default();
        if let Some(before) = votes.insert(acceptor, value.clone()) {
            assert_eq!(
                before, *value,
                "acceptor {acceptor} voted for two values of slot {slot} at {ballot}"
            );
            return false;
        }
        let quorums: Vec<&Value> = votes
            .values()
            .filter(|value| votes.values().filter(|other| other == value).count() >= self.phase2)
            .collect();
        assert!(
            quorums.windows(2).all(|pair| pair[0] == pair[1]),
            "two values of slot {slot} have a quorum at {ballot}"
        );
        votes.values().filter(|other| *other == value).count() == self.phase2
    }
}
