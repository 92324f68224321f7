//! Invariant 4: a chosen slot's value never changes, and every later ballot proposes the chosen value there.

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, era::Era, slot::Slot, value::Value};

use super::one_value_per_ballot::Proposals;

/// The chosen values, as known to an observer of every disk.
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

    /// A leader proposes a value.
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

    /// The lowest ballot that chose a slot.
    pub(crate) fn ballot(&self, slot: Slot) -> Option<Ballot> {
        self.values.get(&slot).map(|(ballot, _)| *ballot)
    }

    /// The first slot above `slot` that was chosen in an era.
    pub(crate) fn first_above(&self, slot: Slot, era: Era) -> Option<Slot> {
        let mut above = self.values.range(slot.next()..);
        above
            .find(|(_, (ballot, _))| ballot.era() == era)
            .map(|(&above, _)| above)
    }

    /// The chosen value of a slot.
    pub(crate) fn value(&self, slot: Slot) -> Option<&Value> {
        self.values.get(&slot).map(|(_, value)| value)
    }

    /// The end of the chosen prefix: every slot below is chosen.
    pub(crate) fn prefix(&self) -> Slot {
        self.prefix
    }

    /// Number of chosen slots.
    pub(crate) fn count(&self) -> u64 {
        self.values.len() as u64
    }

    /// Number of chosen slots without a command.
    pub(crate) fn noops(&self) -> u64 {
        self.values.values().filter(|(_, value)| value.is_noop()).count() as u64
    }
}
