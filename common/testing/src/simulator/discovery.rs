//! Discovery: the configuration that a starting process finds, and the check that every process has found the latest.

use std::sync::Arc;

use paxos_common::paxos::quorum::{Configuration, Electorate};
use rand::RngExt as _;

use super::world::World;

impl World<'_> {
    /// The configuration that a starting process finds: of a list of any era, the latest that an answering acceptor holds. The
    /// operator corrects lists that name lost disks alone.
    pub(crate) fn found_configuration(&mut self) -> Arc<Configuration> {
        if self.changes.is_none() {
            return Arc::new(self.configuration.clone());
        }
        let lists: Vec<Arc<Configuration>> = self.invariants.eras.were_in_force().cloned().collect();
        let mut found = Arc::clone(&lists[self.rng.random_range(0..lists.len())]);
        if self.is_stranded(&found.electorate()) {
            return Arc::clone(self.invariants.eras.latest());
        }
        loop {
            let members: Vec<usize> = found.members().keys().map(|&member| self.place(member)).collect();
            let mut later = Arc::clone(&found);
            for member in members {
                let answers = self.rng.random_bool(0.7);
                let core = self.acceptors[member].core.as_ref().filter(|_| answers);
                if let Some(held) = core.and_then(|core| core.membership().configuration())
                    && held.era() > later.era()
                {
                    later = Arc::new(held.clone());
                }
            }
            if later.era() == found.era() {
                return found;
            }
            found = later;
        }
    }

    /// Whether too few members are left to show a later configuration.
    pub(crate) fn is_stranded(&self, electorate: &Electorate) -> bool {
        let members = electorate.members().iter();
        let left = members.filter(|&&member| !self.acceptors[self.place(member)].is_as_good_as_lost());
        let quorums = electorate.quorums();
        left.count() < quorums.phase1().max(quorums.phase2())
    }

    /// The faults are over: the operator corrects the lists of stranded processes.
    pub(crate) fn correct_lists(&mut self) {
        if self.changes.is_none() {
            return;
        }
        for proposer in 0..self.proposers.len() {
            let core = self.proposers[proposer].core.as_ref();
            if core.is_some_and(|core| self.is_stranded(&core.configuration().electorate())) {
                self.stop_proposer(proposer);
                self.start_proposer(proposer);
            }
        }
        for learner in 0..self.learners.len() {
            let core = self.learners[learner].core.as_ref();
            if core.is_some_and(|core| self.is_stranded(core.electorate())) {
                self.crash_learner(learner);
                self.start_learner(learner);
            }
        }
    }

    /// Whether every process works with the latest configuration.
    pub(crate) fn has_switched(&self) -> bool {
        let era = self.invariants.eras.latest().era();
        let mut proposers = self.proposers.iter().filter_map(|process| process.core.as_ref());
        let mut learners = self.learners.iter().filter_map(|process| process.core.as_ref());
        proposers.all(|core| core.configuration().era() == era)
            && learners.all(|core| core.electorate().era() == era)
    }

    /// The state of every learner is the result of the slots that it has applied.
    pub(crate) fn compare_states(&mut self) {
        for learner in 0..self.learners.len() {
            let Some(core) = &self.learners[learner].core else {
                continue;
            };
            let applied_to = core.next();
            let replayed = self.replay(applied_to);
            assert!(
                self.learners[learner].state == replayed,
                "the state of learner {learner} is not the result of the slots below {applied_to}"
            );
        }
    }
}
