//! Invariant 11: when the faults stop, something proposed gets chosen, every learner learns it, and reads are answered.

use std::collections::BTreeSet;

use paxos_common::paxos::slot::Slot;

use super::{chosen_is_final::Chosen, learners_agree::Sequences};

/// How long a healed cluster may take, in leader timeouts. The back-off of proposers that failed often is drawn from
/// up to 32 of them; the rest is for the campaign, a duel or two, and learners that look again.
pub(crate) const LEADER_TIMEOUTS_MAX: u32 = 80;

/// What was seen since the faults stopped.
#[derive(Default)]
pub(crate) struct Progress {
    healed: bool,
    chosen_to: Option<Slot>,
    /// Reads that were under way when the faults stopped, or asked right then.
    reads_due: BTreeSet<(usize, u64)>,
}

impl Progress {
    /// The faults stop.
    pub(crate) fn healed(&mut self) {
        self.healed = true;
    }

    /// A command that was proposed after the faults stopped is answered: it and everything below is chosen.
    pub(crate) fn answered(&mut self, slot: Slot) {
        if self.healed {
            self.chosen_to = self.chosen_to.max(Some(slot.next()));
        }
    }

    /// A read at a learner that must be answered.
    pub(crate) fn read_due(&mut self, learner: usize, read: u64) {
        self.reads_due.insert((learner, read));
    }

    /// A read is answered, or nobody waits for it any more.
    pub(crate) fn read_done(&mut self, learner: usize, read: u64) {
        self.reads_due.remove(&(learner, read));
    }

    /// Whether every learner has answered its readers, and has what was proposed after the faults stopped, and all that is chosen.
    pub(crate) fn is_made(&self, chosen: &Chosen, learners: &Sequences) -> bool {
        let learned = learners.all_have();
        let has_all = self.chosen_to.is_some_and(|to| learned >= to) && learned >= chosen.prefix();
        has_all && self.reads_due.is_empty()
    }
}
