//! The network: everything that was ever sent, to be delivered in any order, or never, or more than once.
//!
//! A message that was sent stays, so loss needs no step of its own: nobody has to deliver. Neither do delay and
//! reordering. What brought something about counts as delivered: a repetition is a step that a scenario allows so many
//! times, because a leader asks for more with each answer that it takes for a new one. Learners alone may take in
//! everything any number of times.

use std::sync::Arc;

use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Prepare, PromisePage, Row},
    proposer::Scan,
    reading::Tail,
    slot::{Slot, SlotRange},
    value::Value,
};

use super::shared::Shared;

/// A process by its role and place. A proposer that was started anew is another process.
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
    // Acceptor to proposer.
    Page(Ballot, Option<Scan>, PromisePage),
    PrepareRejected(Ballot, Ballot),
    Answer(Ballot, u64, AcceptAnswer),
    Fetched(u64, Slot, Vec<(Slot, Value)>),
    // Learner to acceptor.
    Tail(u64),
    // Acceptor to learner.
    Tailed(u64, Tail),
    Votes(Ballot, SlotRange),
    Rows(Vec<Row>, Slot),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Envelope {
    pub(crate) from: Node,
    pub(crate) to: Node,
    pub(crate) message: Message,
}

/// A set, kept in the order of the hashes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Network(Arc<Vec<Sent>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) envelope: Shared<Envelope>,
    /// It was taken in, and brought something about.
    pub(crate) delivered: bool,
}

impl Network {
    pub(crate) fn empty() -> Self {
        Self(Arc::new(Vec::new()))
    }

    /// Whatever is under way is lost.
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
