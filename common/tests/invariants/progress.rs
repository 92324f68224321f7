//! Invariant 11: when the faults stop, something proposed gets chosen, and every learner learns it.

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

    /// Whether every learner has what was proposed after the faults stopped, and all that is chosen.
    pub(crate) fn is_made(&self, chosen: &Chosen, learners: &Sequences) -> bool {
        let learned = learners.all_have();
        self.chosen_to.is_some_and(|to| learned >= to) && learned >= chosen.prefix()
    }
}
