//! The network: every message ever sent, delivered in any order, or never, or more than once.
//!
//! A sent message stays in the network. Loss needs no step of its own, because no message has to be delivered. Delay
//! and reordering need no step either. A message with an effect counts as delivered. A second delivery is a separate
//! step, limited by the scenario, because a leader asks for more after each seemingly new answer. Only learners may
//! receive every message any number of times.

use std::sync::Arc;

use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Prepare, PromisePage, Row, VoteRange},
    proposer::Scan,
    quorum::Configuration,
    reading::Tail,
    slot::Slot,
    value::Value,
};

use super::shared::Shared;

/// A process by its role and place. A restarted proposer is a different process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    Acceptor(usize),
    Proposer { place: usize, run: usize },
    Learner(usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    // Proposer to acceptor.
    Prepare(Prepare, Option<Scan>),
    Accept(Accept),
    Fetch(u64, Slot, Slot),
    /// `Form`, with the installation of the proposer's configuration.
    Form(Arc<Configuration>),
    // Acceptor to proposer.
    Page(Ballot, Option<Scan>, PromisePage),
    PrepareRejected(Ballot, Ballot),
    Answer(Ballot, u64, AcceptAnswer),
    Fetched(u64, Slot, Vec<(Slot, Value)>),
    /// The configuration that the acceptor holds.
    Formed(Arc<Configuration>),
    /// A `Prepare` of a later era was refused; the acceptor's promise.
    PrepareRefused(Ballot),
    // Learner to acceptor.
    Tail(u64),
    // Acceptor to learner.
    Tailed(u64, Tail),
    Votes(VoteRange),
    Rows(Vec<Row>, Slot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: Node,
    pub(crate) to: Node,
    pub(crate) message: Message,
}

/// A set of messages in the order of their hashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(Arc<Vec<Sent>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) envelope: Shared<Envelope>,
    /// The message was received, and had an effect.
    pub(crate) delivered: bool,
}

impl Network {
    pub(crate) fn empty() -> Self {
        Self(Arc::new(Vec::new()))
    }

    /// Loses all messages under way.
    pub(crate) fn clear(&mut self) {
        *self = Self::empty();
    }

    pub(crate) fn contains(&self, envelope: &Shared<Envelope>) -> bool {
        self.place(envelope).is_ok()
    }

    pub(crate) fn send(&mut self, envelope: &Shared<Envelope>) {
        if let Err(place) = self.place(envelope) {
            let sent = Sent {
                envelope: envelope.clone(),
                delivered: false,
            };
            Arc::make_mut(&mut self.0).insert(place, sent);
        }
    }

    pub(crate) fn delivered(&mut self, envelope: &Shared<Envelope>) {
        if let Ok(place) = self.place(envelope) {
            Arc::make_mut(&mut self.0)[place].delivered = true;
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sent> {
        self.0.iter()
    }

    fn place(&self, envelope: &Shared<Envelope>) -> Result<usize, usize> {
        self.0
            .binary_search_by_key(&envelope.hash(), |sent| sent.envelope.hash())
    }
}
