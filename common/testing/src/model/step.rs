//! A step of the cluster: one process takes an input, and the outputs are checked against the ledger.

use paxos_common::paxos::{message::AcceptAnswer, slot::Slot};

use super::{
    acceptor::{self, AcceptorNode, AcceptorStep},
    cluster::{Action, Cluster, State},
    learner::{self, LearnerNode, LearnerStep},
    ledger::{Broken, Saw},
    memo::Outcome,
    network::{Envelope, Message, Node},
    outputs::{Claim, Output, Outputs},
    proposer::{self, ProposerNode, ProposerStep},
    scenario::Spend,
    shared::{Shared, hash_of},
    sights::Sight,
};

/// The part of a state that a step replaces.
enum Changed {
    Acceptor(usize, Outcome<AcceptorNode>),
    Proposer(usize, Outcome<ProposerNode>),
    Learner(usize, Outcome<LearnerNode>),
}

impl Cluster {
    /// The state after an action; `None` if the state is unchanged.
    pub(crate) fn step(&self, last: &State, action: &Action) -> Option<State> {
        let changed = self.change(last, action)?;
        let (same, outputs) = match &changed {
            Changed::Acceptor(place, (node, outputs)) => (*node == last.acceptors[*place], outputs),
            Changed::Proposer(place, (node, outputs)) => (*node == last.proposers[*place], outputs),
            Changed::Learner(place, (node, outputs)) => (*node == last.learners[*place], outputs),
        };
        let known = |output: &Output| match output {
            Output::Send(envelope) => self.is_lost(last, envelope) || last.network.contains(envelope),
            Output::Claim(_) | Output::Saw(_) => true,
            Output::Broken(_) => false,
        };
        if same && outputs.iter().all(known) {
            return None;
        }
        let mut state = last.clone();
        if let Some(spend) = action.spends() {
            state.left.spend(spend);
        }
        if let Action::Deliver(envelope) = action
            && !matches!(changed, Changed::Learner(..))
        {
            state.network.delivered(envelope);
        }
        let mut has_changed_disk = false;
        let outputs = match changed {
            Changed::Acceptor(place, (node, outputs)) => {
                has_changed_disk = node.disk != last.acceptors[place].disk;
                state.acceptors[place] = node;
                outputs
            }
            Changed::Proposer(place, (node, outputs)) => {
                state.proposers[place] = node;
                self.look_for_duel(last, &state, place);
                outputs
            }
            Changed::Learner(place, (node, outputs)) => {
                state.learners[place] = node;
                outputs
            }
        };
        for output in outputs.iter() {
            self.bring_about(&mut state, output);
        }
        if has_changed_disk && self.scenario.trims() {
            let covered = self.check_covered(&state);
            fail(&mut state, covered);
        }
        Some(state)
    }

    /// Whether a message is lost at once: the message could only make a proposer do less. A proposer without the
    /// message may do nothing further anyway, so the model loses no behaviour.
    fn is_lost(&self, state: &State, envelope: &Envelope) -> bool {
        let Node::Proposer { place, run } = envelope.to else {
            return false;
        };
        let node = &state.proposers[place];
        let is_rejection = matches!(
            envelope.message,
            Message::PrepareRejected(..) | Message::Answer(_, _, AcceptAnswer::Rejected(_))
        ) && self.eras.len() == 1;
        // After stepping down, a proposer campaigns again or does nothing.
        node.run != run || (is_rejection && state.left.of(Spend::Campaign) == 0)
    }

    /// A process after an action.
    fn change(&self, last: &State, action: &Action) -> Option<Changed> {
        Some(match action {
            Action::Deliver(envelope) | Action::Repeat(envelope) => match envelope.to {
                Node::Acceptor(place) => self.acceptor(last, place, &acceptor::Input::Receive(envelope)),
                Node::Proposer { place, .. } => {
                    self.tell_proposer(last, place, &proposer::Input::Receive(envelope))
                }
                Node::Learner(place) => self.learner(last, place, &learner::Input::Receive(envelope)),
            },
            Action::Commit(place) => self.acceptor(last, *place, &acceptor::Input::Commit),
            Action::Crash(place) => self.acceptor(last, *place, &acceptor::Input::Crash),
            Action::ReadPage(place, reading) => {
                self.acceptor(last, *place, &acceptor::Input::ReadPage(*reading))
            }
            Action::Damage(place, slot) => self.acceptor(last, *place, &acceptor::Input::Damage(*slot)),
            Action::Show { acceptor, learner } => {
                let (learner, from) = (*learner, last.learners[*learner].core.next());
                self.acceptor(last, *acceptor, &acceptor::Input::Show { learner, from })
            }
            Action::Fire(place, timer) => self.tell_proposer(last, *place, &proposer::Input::Fire(*timer)),
            Action::Report { acceptor, proposer } => {
                let core = &last.acceptors[*acceptor].core;
                let report = proposer::Input::Report {
                    acceptor: *acceptor,
                    leadership: core.leadership(),
                    known_to: core.known_to(),
                    sound_to: core.chosen_to(),
                    trimmed_to: core.trimmed_to(),
                };
                self.tell_proposer(last, *proposer, &report)
            }
            Action::Silence(place) => self.tell_proposer(last, *place, &proposer::Input::Silence),
            Action::Fill(place, to) => self.tell_proposer(last, *place, &proposer::Input::Fill(*to)),
            Action::Restart(place) => {
                let run = last.proposers[*place].run + 1;
                let mut node = self.proposer(*place, run);
                self.tamper_with_restart(&last.proposers[*place], &mut node);
                Changed::Proposer(*place, (Shared::new(node), [].into()))
            }
            Action::Read(place) => self.learner(last, *place, &learner::Input::Read),
            Action::Limit(place) => self.learner(last, *place, &learner::Input::Limit),
            Action::SwitchFeed(place, feed) => self.learner(last, *place, &learner::Input::SwitchFeed(*feed)),
            Action::RestartLearner(place, stored) => {
                self.learner(last, *place, &learner::Input::Restart(*stored))
            }
            Action::Keep { acceptor, to } => {
                let snapshot = self.snapshot(last, *to)?;
                self.acceptor(last, *acceptor, &acceptor::Input::Keep(&snapshot))
            }
            Action::Trim(place) => self.acceptor(last, *place, &acceptor::Input::Trim),
            Action::Lose(place) => self.acceptor(last, *place, &acceptor::Input::Lose),
            Action::FillDisk(place) => self.acceptor(last, *place, &acceptor::Input::FillDisk),
            Action::Change(place) => {
                let change = self.next_change(&last.proposers[*place])?;
                self.tell_proposer(last, *place, &proposer::Input::Change(&change))
            }
            Action::Adopt { learner, acceptor } => {
                let shown = last.acceptors[*acceptor].core.membership();
                let electorate = shown.configuration()?.electorate();
                self.learner(last, *learner, &learner::Input::Adopt(&electorate))
            }
            Action::Install { learner, acceptor } => {
                let bottom = last.acceptors[*acceptor].disk.bottom.as_ref()?;
                self.learner(last, *learner, &learner::Input::Install(bottom))
            }
        })
    }

    fn acceptor(&self, last: &State, place: usize, input: &acceptor::Input<'_>) -> Changed {
        let node = &last.acceptors[place];
        let outcome = self.memory.acceptors.outcome(node, hash_of(input), || {
            let mut step = AcceptorStep {
                cluster: self,
                place,
                node: AcceptorNode::clone(node),
                outputs: Outputs::default(),
            };
            step.take(input);
            (Shared::new(step.node), step.outputs.into_shared())
        });
        Changed::Acceptor(place, outcome)
    }

    fn tell_proposer(&self, last: &State, place: usize, input: &proposer::Input<'_>) -> Changed {
        let node = &last.proposers[place];
        let outcome = self.memory.proposers.outcome(node, hash_of(input), || {
            let mut step = ProposerStep {
                cluster: self,
                place,
                node: ProposerNode::clone(node),
                outputs: Outputs::default(),
            };
            step.take(input);
            (Shared::new(step.node), step.outputs.into_shared())
        });
        Changed::Proposer(place, outcome)
    }

    fn learner(&self, last: &State, place: usize, input: &learner::Input<'_>) -> Changed {
        let node = &last.learners[place];
        let outcome = self.memory.learners.outcome(node, hash_of(input), || {
            let mut step = LearnerStep {
                cluster: self,
                node: LearnerNode::clone(node),
                outputs: Outputs::default(),
            };
            step.take(input);
            (Shared::new(step.node), step.outputs.into_shared())
        });
        Changed::Learner(place, outcome)
    }

    fn look_for_duel(&self, last: &State, state: &State, place: usize) {
        let others = || (0..state.proposers.len()).filter(|&other| other != place);
        if state.proposers[place].leads()
            && !last.proposers[place].leads()
            && others().any(|other| state.proposers[other].leads())
        {
            self.sights.saw(Sight::Duel);
        }
    }

    fn bring_about(&self, state: &mut State, output: &Output) {
        match output {
            Output::Send(envelope) => {
                if !self.is_lost(state, envelope) {
                    state.network.send(envelope);
                }
            }
            Output::Saw(sight) => self.sights.saw(*sight),
            Output::Broken(broken) => fail(state, Err(*broken)),
            Output::Claim(claim) => {
                let borne_out = self.judge(state, claim);
                fail(state, borne_out);
            }
        }
    }

    fn judge(&self, state: &mut State, claim: &Claim) -> Result<(), Broken> {
        match claim {
            Claim::Proposes {
                ballot,
                slot,
                value,
                is_own,
                may_be_new,
                is_repair,
            } => {
                let is_new = !state.ledger.was_proposed_below(*ballot, *slot, value);
                if value.change().is_some() && !is_new && !may_be_new {
                    self.sights.saw(Sight::ChangeCarriedOn);
                }
                if value.is_noop() {
                    self.sights.saw(Sight::Noop);
                    if state.ledger.had_change_below(*ballot, *slot) {
                        self.sights.saw(Sight::ChangeVoid);
                    }
                } else if !is_new && !is_own {
                    self.sights.saw(Sight::CarriedOver);
                }
                let chosen_at = state.ledger.chosen(*slot).map(|(ballot, _)| ballot);
                if *is_repair && chosen_at.is_some_and(|at| at < *ballot) {
                    self.sights.saw(Sight::Repair);
                }
                if is_new && !value.is_noop() && !may_be_new {
                    return Err(Broken::NewSlotsStartAbove);
                }
                state
                    .ledger
                    .change(|ledger| ledger.proposes(*ballot, *slot, value))
            }
            Claim::Votes {
                acceptor,
                ballot,
                slot,
                value,
            } => {
                let voted = state
                    .ledger
                    .change(|ledger| ledger.votes(*acceptor, *ballot, *slot, value));
                self.look_at_chosen(state, *slot);
                self.look_at_era(state, *ballot, *slot);
                voted
            }
            Claim::Watermark(claimed) => state.ledger.watermark(*claimed),
            Claim::InForce(configuration) => self.judge_force(state, configuration),
            Claim::Hold(values) => state.ledger.hold(values),
            Claim::Snapshot(to, values) => state.ledger.snapshot(*to, values),
            Claim::Answers(version, command) => state
                .ledger
                .change(|ledger| ledger.answers(*version, &[*command])),
            Claim::Learns(slot, value) => state.ledger.learns(*slot, value),
            Claim::ReadBegins(learner, read) => {
                state.ledger.change(|ledger| ledger.read_begins(*learner, *read));
                Ok(())
            }
            Claim::ReadEnds(learner, read, values) => {
                let ended = state
                    .ledger
                    .change(|ledger| ledger.read_ends(*learner, *read, values));
                ended.map(|saw| self.look_at_read(&saw))
            }
        }
    }

    fn look_at_read(&self, saw: &Saw) {
        self.sights.saw(Sight::Read);
        if saw.earlier_write {
            self.sights.saw(Sight::ReadAfterWrite);
        }
        if saw.overlapping_write {
            self.sights.saw(Sight::ReadOverlapsWrite);
        }
        if saw.earlier_write && saw.failover {
            self.sights.saw(Sight::ReadAfterFailover);
        }
    }

    fn look_at_chosen(&self, state: &State, slot: Slot) {
        if state.ledger.chosen(slot).is_some() {
            self.sights.saw(Sight::Chosen);
            if slot.get() > 0 && state.ledger.chosen(Slot::ZERO).is_none() {
                self.sights.saw(Sight::ChosenAboveGap);
            }
        }
    }
}

fn fail(state: &mut State, outcome: Result<(), Broken>) {
    if let Err(broken) = outcome {
        state.broken.get_or_insert(broken);
    }
}
