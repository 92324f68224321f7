//! Eras of simulated learners: the members whose votes count, found at a start, in a change, or at an acceptor.

use paxos_common::paxos::{learner::Learner, quorum::Electorate, reading::ReadEvent};
use rand::RngExt as _;

use super::{network::Message, statistics::Counted, world::World};
use crate::bug::Bug;

impl World<'_> {
    /// Places of the members of a learner's configuration.
    pub(crate) fn members_of(&self, learner: usize) -> Vec<usize> {
        let core = self.learners[learner].core.as_ref();
        let electorate = core.map_or(&self.electorate, Learner::electorate);
        let members = electorate.members().iter();
        members.map(|&member| self.place(member)).collect()
    }

    /// A random acceptor to read values from.
    pub(crate) fn some_feed(&mut self, learner: usize) -> usize {
        let members = self.members_of(learner);
        members[self.rng.random_range(0..members.len())]
    }

    /// The members that a starting learner works with: from the disk, or a later configuration that an acceptor shows.
    pub(crate) fn electorate_at_start(&mut self, learner: usize) -> Electorate {
        if self.changes.is_none() || self.tampering.has(Bug::LearnerForgetsItsEra) {
            return self.electorate.clone();
        }
        let found = self.found_configuration().electorate();
        match &self.learners[learner].stored_electorate {
            Some(stored) if stored.era() >= found.era() => stored.clone(),
            // An old list may lead on as well.
            Some(stored) if !self.is_stranded(stored) && self.rng.random_bool(0.5) => stored.clone(),
            Some(_) | None => found,
        }
    }

    /// An acceptor shows its configuration to a learner. Returns whether the learner adopts it, and opens all streams again.
    pub(crate) fn learner_sees(&mut self, learner: usize, acceptor: usize) -> bool {
        let shown = self.acceptors[acceptor].core.as_ref();
        let shown = shown.and_then(|core| core.membership().configuration());
        let process = &mut self.learners[learner];
        let (Some(shown), Some(core)) = (shown, &mut process.core) else {
            return false;
        };
        let adopts = core.adopt(&shown.electorate());
        if adopts {
            self.learner_adopted(learner);
        }
        adopts
    }

    /// A learner works in a later era: all streams are opened again, and a fresh round of questions begins.
    pub(crate) fn learner_adopted(&mut self, learner: usize) {
        let feed = self.some_feed(learner);
        let process = &mut self.learners[learner];
        let Some(core) = &process.core else { return };
        let (electorate, next) = (core.electorate().clone(), core.next());
        let is_member = |acceptor| electorate.includes(acceptor);
        process.guard.adopt(electorate.quorums(), is_member);
        process.shown.clear();
        process.feed = feed;
        self.statistics.count(Counted::LearnersAdopted);
        self.note(|| format!("learner {learner} adopts era {}, at {next}", electorate.era()));
        if self.tampering.has(Bug::ReadKeepsItsBound) {
            self.tell_readers(learner, ReadEvent::Applied(next));
        }
        self.readers_adopt(learner, &electorate, next);
        self.observe(learner);
    }

    /// Checks that a learner's era is not below a change that the learner has applied.
    pub(crate) fn look_at_era(&mut self, learner: usize) {
        if let Some(core) = &self.learners[learner].core {
            let (era, applied_to) = (core.electorate().era(), core.next());
            self.invariants.eras.learner(learner, era, applied_to);
        }
    }

    /// With a planted bug: a learner adopts a configuration as soon as a row holds the change.
    pub(crate) fn adopts_chosen(&mut self, learner: usize, message: &Message) -> bool {
        let Message::Rows(rows, _) = message else {
            return false;
        };
        if !self.tampering.has(Bug::LearnerAdoptsChosen) {
            return false;
        }
        let values = rows.iter().filter_map(|row| row.accepted.as_ref());
        let change = values.filter_map(|(_, value)| value.change()).next_back();
        let process = &mut self.learners[learner];
        let adopts = match (change, &mut process.core) {
            (Some(change), Some(core)) => core.adopt(&change.electorate()),
            (Some(_) | None, _) => false,
        };
        if adopts {
            self.learner_adopted(learner);
        }
        adopts
    }
}
