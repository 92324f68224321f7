//! Simulated clients: commands of their own making, sent to any proposer, retried only when that is safe.

use std::collections::BTreeMap;

use paxos_common::paxos::{proposer::Outcome, value::EncodedCommand};
use rand::RngExt as _;

use super::{
    knobs::{LEADER_TIMEOUT, MILLISECOND},
    network::{Message, Node},
    statistics::Counted,
    world::{Happening, World, micros},
};

#[derive(Default)]
pub(crate) struct Clients {
    commands: u64,
    requests: u64,
    waiting: BTreeMap<u64, Waiting>,
}

struct Waiting {
    client: usize,
    command: u64,
    /// It was made up after the faults stopped.
    healed: bool,
}

impl World<'_> {
    /// A client makes up a command.
    pub(crate) fn client_due(&mut self, client: usize) {
        self.clients.commands += 1;
        let command = self.clients.commands;
        self.invariants.commands.asked(command);
        let waiting = Waiting {
            client,
            command,
            healed: self.healed_at.is_some(),
        };
        self.ask(waiting);
    }

    fn ask(&mut self, waiting: Waiting) {
        self.clients.requests += 1;
        let request = self.clients.requests;
        let bytes = waiting.command.to_le_bytes().to_vec();
        let command = EncodedCommand::from_batch_of_one(bytes.into());
        self.clients.waiting.insert(request, waiting);
        let proposer = Node::Proposer(self.rng.random_range(0..self.proposers.len()));
        let propose = Message::Propose {
            request,
            command,
            forwarded: false,
        };
        self.send(Node::Clients, proposer, propose);
        if self.rng.random_bool(0.05) {
            self.send(Node::Clients, proposer, Message::Cancel { request });
        }
        self.plan(
            self.now + micros(LEADER_TIMEOUT) * 5,
            Happening::ClientTimeout { request },
        );
    }

    pub(crate) fn client_receives(&mut self, message: &Message) {
        let &Message::Outcome { request, outcome } = message else {
            panic!("not for a client: {message:?}");
        };
        let Some(waiting) = self.clients.waiting.remove(&request) else {
            return;
        };
        match outcome {
            Outcome::Chosen(version) => {
                self.statistics.count(Counted::CommandsChosen);
                if waiting.healed {
                    self.invariants.progress.answered(version.slot);
                }
                self.think(waiting.client);
            }
            // Retrying would order it twice, if it was ordered.
            Outcome::Unknown => {
                self.statistics.count(Counted::CommandsUnknown);
                self.think(waiting.client);
            }
            Outcome::NotProposed(_) => {
                self.statistics.count(Counted::CommandsNotProposed);
                self.ask(waiting);
            }
        }
    }

    /// No answer: the fate of the command is unknown.
    pub(crate) fn client_timeout(&mut self, request: u64) {
        if let Some(waiting) = self.clients.waiting.remove(&request) {
            self.statistics.count(Counted::CommandsUnknown);
            self.think(waiting.client);
        }
    }

    fn think(&mut self, client: usize) {
        // A healed cluster is left time to finish what it has.
        let at_least = if self.healed_at.is_some() {
            50 * MILLISECOND
        } else {
            0
        };
        let at = self.now + at_least + self.rng.random_range(0..=self.knobs.think_max);
        self.plan(at, Happening::ClientDue { client });
    }
}
