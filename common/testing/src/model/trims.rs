//! Snapshots and trims of a modelled acceptor, and the installation of a snapshot at a learner.
//!
//! A snapshot comes from an ideal learner outside the model, which learns each slot at the moment of its choice: every
//! learner hands out the chosen values in order, and none earlier than this learner.

use paxos_common::paxos::{message::Accept, slot::Slot, value::Value};

use super::{
    acceptor::{AcceptorNode, AcceptorStep, Open},
    cluster::{Action, Cluster, State},
    disk::{Disk, Snapshot},
    learner::LearnerStep,
    ledger::Broken,
    outputs::Claim,
    sights::Sight,
};
use crate::bug::Bug;

impl Cluster {
    /// The snapshot of the slots below `to`, if these slots are chosen.
    pub(crate) fn snapshot(&self, state: &State, to: Slot) -> Option<Snapshot> {
        let mut values = if self.has(Bug::NoCapAndALearnerAhead) {
            // The faulty learner makes up the value of its last slot.
            let mut values = state.ledger.result(Slot::ZERO.plus(to.get() - 1))?;
            values.push(Value::noop());
            values
        } else {
            state.ledger.result(to)?
        };
        if self.has(Bug::StateOfAnotherMoment) {
            values.pop();
        }
        Some(Snapshot {
            to,
            values,
            is_whole: !self.has(Bug::TrimBeforeTheFileIsWhole),
        })
    }

    /// The ends of snapshots that an acceptor takes.
    fn wanted(&self, node: &AcceptorNode) -> impl Iterator<Item = Slot> + use<> {
        let waiting = node
            .disk
            .waiting
            .as_ref()
            .map_or(Slot::ZERO, |waiting| waiting.to);
        let from = node.disk.trimmed_to.max(waiting).next();
        let cap = if self.has_no_cap() {
            Slot::ZERO.plus(self.scenario.slots)
        } else {
            node.core.trim_cap()
        };
        from.to(cap.next())
    }

    fn has_no_cap(&self) -> bool {
        self.has(Bug::NoCapAndALearnerAhead) || self.has(Bug::NoCapAndALeaderLifts)
    }

    /// The slot to which an acceptor may trim now.
    fn trim_to(&self, node: &AcceptorNode) -> Option<Slot> {
        let cap = node.core.trim_cap();
        if self.has(Bug::RowsDroppedWithoutSnapshot) {
            return (node.disk.trimmed_to < cap).then_some(cap);
        }
        let to = node.disk.waiting.as_ref()?.to;
        let to = if self.has(Bug::TrimOneAboveTheSnapshot) {
            to.next()
        } else {
            to
        };
        (to <= cap || self.has_no_cap()).then_some(to)
    }

    pub(crate) fn trim_actions(&self, state: &State, place: usize, actions: &mut Vec<Action>) {
        let node = &state.acceptors[place];
        for to in self.wanted(node) {
            if self.snapshot(state, to).is_some() {
                actions.push(Action::Keep { acceptor: place, to });
            }
        }
        let is_free = node.open.is_none() || self.scenario.groups;
        if is_free && self.trim_to(node).is_some() {
            actions.push(Action::Trim(place));
        }
    }

    pub(crate) fn install_actions(&self, state: &State, learner: usize, actions: &mut Vec<Action>) {
        let position = state.learners[learner].core.learned_to();
        for (acceptor, node) in state.acceptors.iter().enumerate() {
            if node.disk.trimmed_to > position {
                actions.push(Action::Install { learner, acceptor });
            }
        }
    }

    /// Every chosen slot is covered by a phase-2 quorum.
    pub(crate) fn check_covered(&self, state: &State) -> Result<(), Broken> {
        let is_covered = |slot| {
            let Some((chosen_at, _)) = state.ledger.chosen(slot) else {
                return true;
            };
            let covers = state
                .acceptors
                .iter()
                .filter(|node| node.disk.covers(slot, chosen_at));
            covers.count() >= self.scenario.phase2
        };
        let mut slots = Slot::ZERO.to(Slot::ZERO.plus(self.scenario.slots));
        if slots.all(is_covered) {
            Ok(())
        } else {
            Err(Broken::ChosenIsCovered)
        }
    }
}

impl AcceptorStep<'_> {
    /// Records a snapshot as waiting: one commit, beside the groups of the core.
    pub(crate) fn keep(&mut self, snapshot: &Snapshot) {
        if !self.cluster.has(Bug::NoCapAndALearnerAhead) {
            self.outputs
                .claim(Claim::Snapshot(snapshot.to, snapshot.values.clone()));
        }
        self.node.disk.waiting = Some(snapshot.clone());
    }

    /// Decides a trim into the open group, or into a new group.
    pub(crate) fn trim(&mut self) {
        let Some(to) = self.cluster.trim_to(&self.node) else {
            return;
        };
        let open = self.node.open.take();
        let mut open = open.unwrap_or_else(|| Open::new(self.node.core.group()));
        if self.cluster.has_no_cap() {
            self.forge_claim(&mut open, to);
        }
        if self.node.core.trim(&mut open.group, to).is_err() {
            self.outputs.broken(Broken::NoProcessHalts);
        }
        if self.cluster.has(Bug::OldFileUnlinkedBeforeTheCommit) {
            self.node.disk.bottom = None;
        }
        open.trims = true;
        self.node.open = Some(open);
    }

    /// Takes a claim out of the air, so that the cap does not hold.
    fn forge_claim(&self, open: &mut Open, to: Slot) {
        let claim = Accept {
            ballot: self.node.core.promised(),
            sequence: 0,
            chosen_to: to,
            proposals: Vec::new(),
            address: "".into(),
            resign: false,
        };
        let granted = self
            .node
            .core
            .accept(&mut open.group, &claim, &Default::default());
        granted.expect("a heartbeat breaks nothing");
    }

    /// Notes a trim that has just become durable.
    pub(crate) fn look_at_trim(&mut self, before: &Disk) {
        let disk = &self.node.disk;
        if disk.trimmed_to > before.trimmed_to {
            self.outputs.saw(Sight::Trimmed);
            if disk.trimmed_to > self.node.core.known_to() {
                self.outputs.saw(Sight::Lifted);
            }
        }
    }

    /// At every moment the disk may be all that is left.
    pub(crate) fn check_bottom(&mut self) {
        if !self.node.disk.has_bottom() {
            self.outputs.broken(Broken::TrimsRestOnSnapshots);
        }
    }
}

impl LearnerStep<'_> {
    /// Restarts from a snapshot.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        self.outputs.saw(Sight::Installed);
        if !self.cluster.has(Bug::LearnerJumpsWithoutSnapshot) {
            let held = self.node.handed_out.len().min(snapshot.values.len());
            if self.node.handed_out[..held] != snapshot.values[..held] {
                self.outputs.broken(Broken::LearnersAgree);
            }
            self.node.handed_out.extend_from_slice(&snapshot.values[held..]);
        }
        self.restart(snapshot.to);
        let values = self.node.handed_out.clone();
        let applied = usize::try_from(snapshot.to.get()).unwrap_or(usize::MAX);
        let values = values.into_iter().take(applied).collect();
        self.outputs.claim(Claim::Snapshot(snapshot.to, values));
    }
}
