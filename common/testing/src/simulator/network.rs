//! The simulated network: delay, loss, duplication, reordering, and ways that are cut in one direction.

use std::{collections::BTreeMap, time::Duration};

use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Prepare, PromisePage, Row, Word},
    proposer::{Outcome, Scan},
    reading::Tail,
    slot::{Slot, SlotRange},
    value::{EncodedCommand, Value},
    witness::Witnesses,
};
use rand::RngExt as _;

use super::{
    knobs::{MILLISECOND, NetworkKnobs},
    statistics::Counted,
    world::{Happening, Time, World},
};

/// A process, by its role and place. Clients share one place: they never fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Acceptor(usize),
    Proposer(usize),
    Learner(usize),
    Clients,
}

/// What a reader observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Votes,
    Values,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Message {
    // Proposer to acceptor.
    Prepare(Prepare, Option<Scan>),
    Accept(Accept, Witnesses),
    FetchChosen(u64, Slot, Slot),
    /// A report.
    Ask(u64),
    /// What does it remember of others?
    Recall(u64),
    // Acceptor to proposer.
    /// With what its sender remembers of others.
    Page(Ballot, Option<Scan>, PromisePage, Witnesses),
    PrepareRejected(Ballot, Ballot),
    PrepareRefused(Ballot),
    Answer(Ballot, u64, AcceptAnswer),
    /// On a stream.
    Alive {
        ballot: Ballot,
        silent: Duration,
        waiting: Duration,
        has_space: bool,
    },
    /// The stream's call is answered.
    Opened,
    /// What an acceptor says to the report of that number, or later.
    Said(u64, Word),
    Fetched(u64, Slot, Vec<(Slot, Value)>),
    /// What its sender remembers of others, answering that question.
    Recalled(u64, Witnesses),
    // Learner to acceptor, and back.
    Observe(Kind, Slot),
    Votes(Vec<(Ballot, SlotRange)>),
    Rows(Vec<Row>, Slot),
    Tail(u64),
    Tailed(u64, Tail),
    // Callers of a proposer (clients, and other proposers) and its answers.
    Propose {
        request: u64,
        command: EncodedCommand,
        forwarded: bool,
    },
    Cancel {
        request: u64,
    },
    Outcome {
        request: u64,
        outcome: Outcome,
    },
    Fill(Slot),
}

impl Message {
    /// Calls are carried once or not at all; what is in a stream of messages may be repeated here, which is more
    /// than a real network does.
    fn can_repeat(&self) -> bool {
        !matches!(
            self,
            Self::Propose { .. } | Self::Cancel { .. } | Self::Outcome { .. }
        )
    }
}

pub(crate) struct Network {
    pub(crate) knobs: NetworkKnobs,
    /// One-way cuts, by when they end.
    pub(crate) cuts: BTreeMap<(Node, Node), Time>,
    /// When the last message of each way arrives.
    last: BTreeMap<(Node, Node), Time>,
    /// What each way takes longer than the others.
    pub(crate) distance: BTreeMap<(Node, Node), Time>,
    /// Bytes in a millisecond, of ways that are slow.
    pub(crate) bandwidth: BTreeMap<(Node, Node), u64>,
    /// Until when a slow way carries what was sent before.
    pub(crate) busy: BTreeMap<(Node, Node), Time>,
}

impl Network {
    pub(crate) fn new(knobs: NetworkKnobs) -> Self {
        Self {
            knobs,
            cuts: BTreeMap::new(),
            last: BTreeMap::new(),
            distance: BTreeMap::new(),
            bandwidth: BTreeMap::new(),
            busy: BTreeMap::new(),
        }
    }
}

impl World<'_> {
    /// Sends a message, which may not arrive, or more than once, or late.
    pub(crate) fn send(&mut self, from: Node, to: Node, mut message: Message) {
        if !self.tamper_with_sent(from, to, &mut message) {
            return;
        }
        let cut = self
            .network
            .cuts
            .get(&(from, to))
            .is_some_and(|&until| until > self.now);
        if cut || self.rng.random_bool(self.network.knobs.loss) {
            self.statistics.count(Counted::MessagesDropped);
            self.note(|| format!("{from:?} → {to:?} lost: {message:?}"));
            self.call_broke(from, to, &message);
            return;
        }
        if message.can_repeat() && self.rng.random_bool(self.network.knobs.duplication) {
            self.statistics.count(Counted::MessagesDuplicated);
            self.deliver_later(from, to, message.clone());
        }
        self.deliver_later(from, to, message);
    }

    pub(crate) fn deliver_later(&mut self, from: Node, to: Node, message: Message) {
        let knobs = &self.network.knobs;
        let mut at = self.now + self.rng.random_range(knobs.delay_min..=knobs.delay_max);
        at += self
            .network
            .distance
            .get(&(from, to))
            .copied()
            .unwrap_or_default();
        if self.rng.random_bool(knobs.long_delay) {
            at += self.rng.random_range(0..=1_000 * MILLISECOND);
            self.statistics.count(Counted::MessagesDelayed);
        }
        let last = self.network.last.entry((from, to)).or_default();
        if at <= *last {
            if self.rng.random_bool(knobs.reordering) {
                self.statistics.count(Counted::MessagesReordered);
            } else {
                at = *last + 1;
            }
        }
        *last = at.max(*last);
        let stamp = self.stamp(from);
        let deliver = Happening::Deliver {
            from,
            to,
            message,
            stamp,
        };
        self.plan(at, deliver);
    }
}
