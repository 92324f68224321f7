//! Invariant 4: a chosen slot's value never changes, and is what every later ballot proposes there.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, slot::Slot, value::Value};

use super::one_value_per_ballot::Proposals;

/// What is chosen, as one who sees every disk knows it.
#[derive(Default)]
pub(crate) struct Chosen {
    values: BTreeMap<Slot, (Ballot, Value)>,
    prefix: Slot,
}

impl Chosen {
    /// A quorum has voted for `value` at `ballot`.
    pub(crate) fn chosen(&mut self, ballot: Ballot, slot: Slot, value: &Value, proposals: &Proposals) {
        for (later, proposed) in proposals.above(ballot, slot) {
            assert_eq!(
                proposed, value,
                "slot {slot} is chosen at {ballot}, and another value was proposed at {later}"
            );
        }
        let entry = self.values.entry(slot).or_insert_with(|| (ballot, value.clone()));
        assert_eq!(
            entry.1, *value,
            "the chosen value of slot {slot} changes at {ballot}"
        );
        entry.0 = entry.0.min(ballot);
        while self.values.contains_key(&self.prefix) {
            self.prefix = self.prefix.next();
        }
    }

    /// A leader proposes something.
    pub(crate) fn proposed(&self, ballot: Ballot, slot: Slot, value: &Value) {
        if let Some((chosen_at, chosen)) = self.values.get(&slot)
            && *chosen_at < ballot
        {
            assert_eq!(
                value, chosen,
                "slot {slot} is chosen at {chosen_at}, and another value is proposed at {ballot}"
            );
        }
    }

    /// The chosen value of a slot.
    pub(crate) fn value(&self, slot: Slot) -> Option<&Value> {
        self.values.get(&slot).map(|(_, value)| value)
    }

    /// Every slot below it is chosen.
    pub(crate) fn prefix(&self) -> Slot {
        self.prefix
    }

    /// How many slots are chosen.
    pub(crate) fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// How many of them hold no command.
    pub(crate) fn noops(&self) -> u64 {
        self.values.values().filter(|(_, value)| value.is_noop()).count() as u64
    }
}
