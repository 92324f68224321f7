//! Snapshots and trims of a modelled acceptor, and the installation of a snapshot at a learner.
//!
//! A snapshot comes from an ideal learner outside the model, which learns each slot at the moment of its choice: every
//! learner hands out the chosen values in order, and none earlier than this learner.

use paxos_common::paxos::{
    acceptor::{Acceptor, Group},
    message::{Accept, AcceptAnswer},
    slot::Slot,
    value::Value,
};

use super::{
    acceptor::{AcceptorNode, AcceptorStep, Answer, Open, place_of},
    cluster::{Action, Cluster, State},
    disk::{Disk, Snapshot},
    learner::LearnerStep,
    ledger::Broken,
    network::{Message, Node},
    outputs::Claim,
    sights::Sight,
};
use crate::bug::Bug;

impl Cluster {
    /// The snapshot of the slots below `to`, if these slots are chosen.
    pub(crate) fn snapshot(&self, state: &State, to: Slot) -> Option<Snapshot> {
        let mut values = if self.has_learner_ahead() {
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
        let cap = if self.has_no_cap() || self.has(Bug::RecordedAboveTheCap) {
            Slot::ZERO.plus(self.scenario.slots)
        } else {
            node.core.trim_cap()
        };
        from.to(cap.next())
    }

    fn has_no_cap(&self) -> bool {
        self.has(Bug::NoCapAndALearnerAhead)
            || self.has(Bug::NoCapAndALeaderLifts)
            || self.has(Bug::LiftAtALearnersWord)
    }

    /// Whether a learner hands out a slot that may not be chosen.
    fn has_learner_ahead(&self) -> bool {
        self.has(Bug::NoCapAndALearnerAhead) || self.has(Bug::RecordedAboveTheCap)
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
        // Without space, the record of the snapshot stands for the claim below which it was recorded.
        (to <= cap || self.has_no_cap() || node.is_full).then_some(to)
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

    /// Every chosen slot is covered by a phase-2 quorum of the era that chose the slot first.
    pub(crate) fn check_covered(&self, state: &State) -> Result<(), Broken> {
        let is_covered = |slot| {
            let Some((chosen_at, _)) = state.ledger.chosen(slot) else {
                return true;
            };
            let covers = state.acceptors.iter().filter(|node| node.covers(slot, chosen_at));
            let by = covers.map(|node| 1 << place_of(node.disk.uuid)).sum();
            state.ledger.is_quorum(chosen_at, by)
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
        if !self.cluster.has_learner_ahead() {
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
        let trim = if self.node.is_full {
            if to > self.node.core.trim_cap() {
                self.outputs.saw(Sight::TrimmedAboveCap);
            }
            Acceptor::trim_to_recorded
        } else {
            Acceptor::trim
        };
        if trim(&self.node.core, &mut open.group, to).is_err() {
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

    /// Answers a request that is not granted for lack of space. The claim of a leader is heard nevertheless, so that the
    /// acceptor can trim.
    pub(super) fn turn_away_for_space(
        &mut self,
        group: &mut Group,
        from: Node,
        message: &Message,
    ) -> Option<Answer> {
        let Message::Accept(accept) = message else {
            // The call fails without an answer.
            return None;
        };
        if accept.chosen_to > Slot::ZERO && accept.chosen_to != self.node.core.trim_cap() {
            self.outputs.saw(Sight::ClaimHeard);
        }
        self.node.core.hear_claim(group, accept);
        let answer = Message::Answer(accept.ballot, accept.sequence, AcceptAnswer::NoSpace);
        Some(Answer::Message(from, answer))
    }

    /// Notes a trim that has just become durable.
    pub(crate) fn look_at_trim(&mut self, before: &Disk) {
        let disk = &self.node.disk;
        if disk.trimmed_to > before.trimmed_to {
            self.outputs.saw(Sight::Trimmed);
            if disk.trimmed_to > self.node.core.known_to() {
                self.outputs.saw(Sight::Lifted);
                let configuration = disk.membership.configuration();
                if configuration.is_some_and(|own| !own.members().contains_key(&disk.uuid)) {
                    self.outputs.saw(Sight::JoinerLifted);
                }
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
        if self.cluster.has(Bug::SnapshotWithoutConfiguration) {
            self.restart_with(self.cluster.electorate.clone(), snapshot.to);
        } else {
            self.restart(snapshot.to);
        }
        let values = self.node.handed_out.clone();
        let applied = usize::try_from(snapshot.to.get()).unwrap_or(usize::MAX);
        let values = values.into_iter().take(applied).collect();
        self.outputs.claim(Claim::Snapshot(snapshot.to, values));
    }
}
