//! Invariant 6: learners' sequences are prefixes of each other, without gaps, across restarts and changes of feed.

use paxos_common::paxos::{slot::Slot, value::Value};

use super::chosen_is_final::Chosen;

/// The next slot of each learner.
pub(crate) struct Sequences {
    next: Vec<Slot>,
}

impl Sequences {
    pub(crate) fn new(learners: usize) -> Self {
        Self {
            next: vec![Slot::ZERO; learners],
        }
    }

    /// A learner restarts with the contents of its disk.
    pub(crate) fn restarted(&mut self, learner: usize, next: Slot) {
        assert!(
            next <= self.next[learner],
            "learner {learner} restarts at {next}, beyond what it had"
        );
        self.next[learner] = next;
    }

    /// A learner hands out a value. All learners agree with the chosen values, and so with each other.
    pub(crate) fn learned(&mut self, chosen: &Chosen, learner: usize, slot: Slot, value: &Value) {
        let next = &mut self.next[learner];
        assert_eq!(slot, *next, "learner {learner} leaves a gap, or repeats");
        assert_eq!(
            Some(value),
            chosen.value(slot),
            "learner {learner} learns what is not chosen in slot {slot}"
        );
        *next = next.next();
    }

    /// The end of the slots learned by every learner.
    pub(crate) fn all_have(&self) -> Slot {
        self.next.iter().copied().min().unwrap_or_default()
    }
}
