//! Invariant 2: each (slot, ballot) has at most one value.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, slot::Slot, value::Value};

/// Every proposal ever made.
#[derive(Default)]
pub(crate) struct Proposals {
    by_slot: BTreeMap<Slot, BTreeMap<Ballot, Value>>,
}

impl Proposals {
    /// Records a proposal. Returns whether the proposal is new.
    pub(crate) fn proposed(&mut self, ballot: Ballot, slot: Slot, value: &Value) -> bool {
        let at_slot = self.by_slot.entry(slot).or_default();
        match at_slot.get(&ballot) {
            Some(before) => {
                assert_eq!(
                    before, value,
                    "two values of slot {slot} are proposed at {ballot}"
                );
                false
            }
            None => {
                at_slot.insert(ballot, value.clone());
                true
            }
        }
    }

    /// The value proposed for a slot at a ballot.
    pub(crate) fn value(&self, ballot: Ballot, slot: Slot) -> Option<&Value> {
        self.by_slot.get(&slot)?.get(&ballot)
    }

    /// A vote must be for the proposed value.
    pub(crate) fn voted(&self, ballot: Ballot, slot: Slot, value: &Value) {
        let proposed = self.by_slot.get(&slot).and_then(|at_slot| at_slot.get(&ballot));
        assert_eq!(
            proposed,
            Some(value),
            "slot {slot} was voted on at {ballot}, and not for what was proposed"
        );
    }

    /// The values proposed for a slot above a ballot.
    pub(crate) fn above(&self, ballot: Ballot, slot: Slot) -> impl Iterator<Item = (Ballot, &Value)> {
        self.by_slot
            .get(&slot)
            .into_iter()
            .flatten()
            .map(|(&at, value)| (at, value))
            .filter(move |&(at, _)| at > ballot)
    }
}
