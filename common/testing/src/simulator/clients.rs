//! Simulated clients: each client creates its own commands and sends a command to any proposer. A command that may have
//! been ordered is sent again only inside a session.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    command::{Command, Operation},
    proposer::ProposalOutcome,
    value::EncodedCommand,
};
use rand::RngExt as _;

use super::{
    knobs::MILLISECOND,
    log::Happened,
    network::{Message, Node},
    sessions::{Book, ClientSession, opener_of, operation},
    statistics::Counted,
    world::{Happening, World},
};

#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) book: Book,
    requests: u64,
    waiting: BTreeMap<u64, Waiting>,
    sessions: BTreeMap<usize, ClientSession>,
    /// Number of unanswered commands of each client.
    in_flight: BTreeMap<usize, usize>,
}

struct Waiting {
    client: usize,
    /// The number under which the command was sent.
    number: u64,
    command: Command,
    /// The sequence of a session's command.
    sequence: Option<u64>,
    /// Whether the command was sent after the end of the faults.
    healed: bool,
    /// The receiving proposer.
    proposer: usize,
}

impl World<'_> {
    /// A client creates commands.
    pub(crate) fn client_due(&mut self, client: usize) {
        let commands = match self.clients.sessions.get_mut(&client) {
            Some(session) => {
                // Among commands in flight at the same time, any command may be ordered first.
                let count = if self.rng.random_bool(0.3) { 3 } else { 1 };
                let made = (0..count).map(|_| session.command(&mut self.rng));
                made.map(|(sequence, command)| (Some(sequence), command))
                    .collect()
            }
            None => {
                let operation = if self.rng.random_bool(0.5) {
                    Operation::OpenSession {
                        opener: opener_of(client),
                    }
                } else {
                    operation(&mut self.rng)
                };
                let session = None;
                vec![(None, Command { session, operation })]
            }
        };
        let commands = self.with_hijack(client, commands);
        self.clients.in_flight.insert(client, commands.len());
        for (sequence, command) in commands {
            self.ask_anew(client, sequence, command);
        }
    }

    /// Sometimes a client tries to use the session of a different client.
    fn with_hijack(
        &mut self,
        client: usize,
        mut commands: Vec<(Option<u64>, Command)>,
    ) -> Vec<(Option<u64>, Command)> {
        let mut others = self.clients.sessions.iter();
        let other = others.find(|(other, session)| **other != client && session.is_bound());
        if let Some((_, session)) = other
            && self.rng.random_bool(0.05)
        {
            commands.push((None, session.hijacked(opener_of(client), &mut self.rng)));
        }
        commands
    }

    /// A random proposer known to clients.
    fn some_target(&mut self) -> usize {
        match &self.knobs.targets {
            Some(targets) => targets[self.rng.random_range(0..targets.len())],
            None => self.rng.random_range(0..self.proposers.len()),
        }
    }

    /// Sends a command under a new number.
    fn ask_anew(&mut self, client: usize, sequence: Option<u64>, command: Command) {
        let number = self.clients.book.enter(command.clone());
        self.invariants.commands.asked(number);
        self.ask(Waiting {
            client,
            number,
            command,
            sequence,
            healed: self.healed_at.is_some(),
            proposer: 0,
        });
    }

    fn ask(&mut self, mut waiting: Waiting) {
        waiting.proposer = self.some_target();
        let proposer = Node::Proposer(waiting.proposer);
        self.clients.requests += 1;
        let request = self.clients.requests;
        let bytes = waiting.number.to_le_bytes().to_vec();
        let command = EncodedCommand::from_batch_of_one(bytes.into());
        self.clients.waiting.insert(request, waiting);
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
            self.now + self.knobs.client_patience,
            Happening::ClientTimeout { request },
        );
    }

    pub(crate) fn client_receives(&mut self, message: &Message) {
        let &Message::Outcome { request, outcome } = message else {
            // The answer to an invented ballot.
            return;
        };
        let Some(waiting) = self.clients.waiting.remove(&request) else {
            return;
        };
        match outcome {
            ProposalOutcome::Chosen(version) => {
                self.statistics.count(Counted::CommandsChosen);
                self.happened(Happened::Answered);
                if waiting.healed {
                    self.invariants.progress.answered(version.slot);
                }
                if let Operation::OpenSession { opener } = waiting.command.operation {
                    let session = ClientSession::opened(version, opener);
                    self.clients.sessions.insert(waiting.client, session);
                }
                self.settle(&waiting);
            }
            ProposalOutcome::Unknown => self.left_unknown(waiting),
            ProposalOutcome::NotProposed(_) => {
                self.statistics.count(Counted::CommandsNotProposed);
                self.ask(waiting);
            }
        }
    }

    /// No answer: the fate of the command is unknown.
    pub(crate) fn client_timeout(&mut self, request: u64) {
        if let Some(waiting) = self.clients.waiting.remove(&request) {
            // The call ends at the proposer, too.
            let to = Node::Proposer(waiting.proposer);
            self.deliver_later(Node::Clients, to, Message::Cancel { request });
            self.left_unknown(waiting);
        }
    }

    /// The command may have been ordered, or may be ordered later. Only a command of a session can be sent again.
    fn left_unknown(&mut self, waiting: Waiting) {
        self.statistics.count(Counted::CommandsUnknown);
        if waiting.sequence.is_some() && self.rng.random_bool(0.8) {
            self.ask_anew(waiting.client, waiting.sequence, waiting.command);
        } else {
            self.settle(&waiting);
        }
    }

    /// The client knows the outcome of the command, or gives up.
    fn settle(&mut self, waiting: &Waiting) {
        // A command without a sequence is outside of sessions, or belongs to a different client's session.
        if let (Some(_), Some(stamp), Some(session)) = (
            waiting.sequence,
            waiting.command.session,
            self.clients.sessions.get_mut(&waiting.client),
        ) {
            session.resolved(stamp.sequence);
            self.invariants.retries.resolved(stamp.session, stamp.sequence);
        }
        let in_flight = self.clients.in_flight.entry(waiting.client).or_default();
        *in_flight -= 1;
        if *in_flight == 0 {
            self.think(waiting.client);
        }
    }

    fn think(&mut self, client: usize) {
        // A healed cluster gets time to finish its pending commands.
        let at_least = if self.healed_at.is_some() {
            50 * MILLISECOND
        } else {
            0
        };
        let at = self.now + at_least + self.rng.random_range(0..=self.knobs.think_max);
        self.plan(at, Happening::ClientDue { client });
    }
}
