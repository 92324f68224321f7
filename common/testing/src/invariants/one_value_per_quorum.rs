//! Invariant 1: at most one value of a slot is ever accepted by a phase-2 quorum at one ballot. The quorum is a quorum of the
//! ballot's era.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, slot::Slot, value::Value};

use super::eras_are_kept::Eras;

/// Every vote ever made durable, overwritten votes included.
#[derive(Default)]
pub(crate) struct Votes {
    votes: BTreeMap<(Slot, Ballot), BTreeMap<usize, Value>>,
}

impl Votes {
    /// Records a vote. Returns whether exactly this vote completed a quorum.
    pub(crate) fn voted(
        &mut self,
        eras: &Eras,
        acceptor: usize,
        ballot: Ballot,
        slot: Slot,
        value: &Value,
    ) -> bool {
        let (era, phase2) = (ballot.era(), eras.phase2(ballot.era()));
        let votes = self.votes.entry((slot, ballot)).or_default();
        if let Some(before) = votes.insert(acceptor, value.clone()) {
            assert_eq!(
                before, *value,
                "acceptor {acceptor} voted for two values of slot {slot} at {ballot}"
            );
            return false;
        }
        if !eras.includes(era, acceptor) {
            return false;
        }
        let counted = || votes.iter().filter(|(voter, _)| eras.includes(era, **voter));
        let count = |value: &Value| counted().filter(|(_, other)| *other == value).count();
        let quorums: Vec<&Value> = counted()
            .map(|(_, value)| value)
            .filter(|value| count(value) >= phase2)
            .collect();
        assert!(
            quorums.windows(2).all(|pair| pair[0] == pair[1]),
            "two values of slot {slot} have a quorum at {ballot}"
        );
        count(value) == phase2
    }
}
