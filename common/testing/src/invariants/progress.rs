//! Invariant 11: when the faults stop, some proposed value gets chosen, every learner learns the value, and reads are
//! answered.

use std::collections::BTreeSet;

use paxos_common::paxos::slot::Slot;

use super::{chosen_is_final::Chosen, learners_agree::Sequences};

/// Limit of the time until a healed cluster makes progress, in leader timeouts. Proposers with many failed campaigns
/// draw a back-off of up to 32 leader timeouts. The rest is for the campaign, a duel or two, and the retries of
/// learners.
pub(crate) const LEADER_TIMEOUTS_MAX: u32 = 80;

/// Progress seen since the faults stopped.
#[derive(Default)]
pub(crate) struct Progress {
    healed: bool,
    chosen_to: Option<Slot>,
    /// Reads under way when the faults stopped, or requested at that moment.
    reads_due: BTreeSet<(usize, u64)>,
}

impl Progress {
    /// The faults stop.
    pub(crate) fn healed(&mut self) {
        self.healed = true;
    }

    /// A command proposed after the end of the faults is answered: the slot of the command and every slot below are
    /// chosen.
    pub(crate) fn answered(&mut self, slot: Slot) {
        if self.healed {
            self.chosen_to = self.chosen_to.max(Some(slot.next()));
        }
    }

    /// A read at a learner must be answered.
    pub(crate) fn read_due(&mut self, learner: usize, read: u64) {
        self.reads_due.insert((learner, read));
    }

    /// A learner has turned its readers away: it restarts from a snapshot.
    pub(crate) fn reads_lost(&mut self, learner: usize) {
        self.reads_due.retain(|(at, _)| *at != learner);
    }

    /// A read is answered, or the reader no longer waits.
    pub(crate) fn read_done(&mut self, learner: usize, read: u64) {
        self.reads_due.remove(&(learner, read));
    }

    /// Whether every due read is answered, and every learner has the commands answered after the end of the faults and
    /// every slot of the chosen prefix.
    pub(crate) fn is_made(&self, chosen: &Chosen, learners: &Sequences) -> bool {
        let learned = learners.all_have();
        let has_all = self.chosen_to.is_some_and(|to| learned >= to) && learned >= chosen.prefix();
        has_all && self.reads_due.is_empty()
    }
}
