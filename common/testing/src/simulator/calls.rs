//! Callers of simulated proposers: answers, and forwarded commands.

use paxos_common::paxos::{
    proposer::{Event, Pending, ProposalOutcome, RequestId},
    value::EncodedCommand,
};
use rand::RngExt as _;

use super::{
    invariants::answers_leave_no_gap::answered,
    network::{Message, Node},
    statistics::Counted,
    world::World,
};

/// A caller and the caller's command.
pub(crate) struct Caller {
    pub(crate) node: Node,
    pub(crate) command: u64,
    pub(crate) answered: bool,
    pub(crate) cancelled: bool,
}

impl World<'_> {
    pub(crate) fn answer_caller(&mut self, proposer: usize, request: RequestId, outcome: ProposalOutcome) {
        let Some(caller) = self.proposers[proposer].requests.get_mut(&request) else {
            panic!("proposer {proposer} answers {request:?}, which nobody asked");
        };
        assert!(
            !caller.answered || caller.cancelled,
            "proposer {proposer} answers {request:?} twice"
        );
        let repeated = std::mem::replace(&mut caller.answered, true);
        let (node, command) = (caller.node, caller.command);
        match outcome {
            ProposalOutcome::Chosen(version) => {
                self.invariants.reads.acknowledged(command);
                answered(
                    &self.invariants.chosen,
                    &self.invariants.commands,
                    command,
                    version,
                );
                if version.offset > 0 {
                    self.statistics.count(Counted::AnswersAboveOne);
                }
            }
            ProposalOutcome::NotProposed(_) => self.invariants.commands.not_proposed(command),
            ProposalOutcome::Unknown => {}
        }
        if !repeated {
            let request = request.0;
            self.send(
                Node::Proposer(proposer),
                node,
                Message::Outcome { request, outcome },
            );
        }
    }

    pub(crate) fn forward(&mut self, proposer: usize, pending: Pending, address: &str) {
        assert!(!pending.forwarded, "a command is forwarded twice");
        self.statistics.count(Counted::Forwarded);
        let request = pending.request.0;
        let leader = (0..self.proposers.len()).find(|other| address == format!("proposer {other}"));
        let to = leader.expect("acceptors report only addresses of proposers");
        assert_ne!(to, proposer, "a proposer forwards to itself");
        let message = Message::Propose {
            request: pending.request.0,
            command: pending.command,
            forwarded: true,
        };
        self.send(Node::Proposer(proposer), Node::Proposer(to), message);
        self.tamper_with_forwarded(proposer, RequestId(request));
    }

    /// Takes the answer to a forwarded command. A command certainly not proposed is queued again, or the caller is
    /// answered.
    pub(crate) fn forward_answered(&mut self, proposer: usize, request: RequestId, outcome: ProposalOutcome) {
        let again = self.rng.random_bool(0.5);
        let process = &mut self.proposers[proposer];
        let Some(caller) = process.requests.get_mut(&request) else {
            return;
        };
        if caller.answered {
            return;
        }
        let process = &mut self.proposers[proposer];
        let Some(caller) = process.requests.get_mut(&request) else {
            return;
        };
        if matches!(outcome, ProposalOutcome::NotProposed(_)) && again && process.core.is_some() {
            let bytes = caller.command.to_le_bytes().to_vec();
            let command = EncodedCommand::from_batch_of_one(bytes.into());
            self.handle(proposer, Event::Proposed(Pending::new(request, command)));
        } else {
            caller.answered = true;
            let node = caller.node;
            self.handle(proposer, Event::ForwardAnswered(request));
            let request = request.0;
            self.send(
                Node::Proposer(proposer),
                node,
                Message::Outcome { request, outcome },
            );
        }
    }
}
