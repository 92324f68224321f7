//! The simulated network: delay, loss, duplication, reordering, and one-way cuts.

use std::{collections::BTreeMap, time::Duration};

use paxos_common::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Prepare, PromisePage, ReportAnswer, Row, VoteRange},
    proposer::{ProposalOutcome, Scan},
    reading::Tail,
    slot::Slot,
    value::{EncodedCommand, Value},
    witness::Witnesses,
};
use rand::RngExt as _;

use super::{
    forms::{FormStep, Formed},
    knobs::{MILLISECOND, NetworkKnobs},
    statistics::Counted,
    world::{Happening, Time, World},
};

/// A process, by role and place. All clients share a place: clients never fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Node {
    Acceptor(usize),
    Proposer(usize),
    Learner(usize),
    Clients,
}

/// The contents observed by a reader.
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
    /// Asks for the acceptor's table of other acceptors' runs.
    Recall(u64),
    // Acceptor to proposer.
    /// With the sender's table of other acceptors' runs.
    Page(Ballot, Option<Scan>, PromisePage, Witnesses),
    PrepareRejected(Ballot, Ballot),
    PrepareRefused(Ballot),
    Answer(Ballot, u64, AcceptAnswer),
    /// Sent on a stream.
    Alive {
        ballot: Ballot,
        silent: Duration,
        waiting: Duration,
        has_space: bool,
    },
    /// The stream's call is answered.
    Opened,
    /// Answer to the report with this number, at once or with later news.
    Said(u64, ReportAnswer),
    Fetched(u64, Slot, Vec<(Slot, Value)>),
    /// The sender's table of other acceptors' runs, as the answer to the question with this number.
    Recalled(u64, Witnesses),
    // Learner to acceptor, and back.
    Observe(Kind, Slot),
    Votes(Vec<VoteRange>),
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
        outcome: ProposalOutcome,
    },
    Fill(Slot),
    // Proposer to acceptor, and back: a call about the configuration, numbered by the driver.
    Form(u64, FormStep),
    Formed(Formed),
}

impl Message {
    /// Calls are carried at most once. Messages of a message stream may be repeated here, although a real network does
    /// not repeat such messages.
    fn can_repeat(&self) -> bool {
        !matches!(
            self,
            Self::Propose { .. } | Self::Cancel { .. } | Self::Outcome { .. }
        )
    }
}

pub(crate) struct Network {
    pub(crate) knobs: NetworkKnobs,
    /// End of each one-way cut.
    pub(crate) cuts: BTreeMap<(Node, Node), Time>,
    /// Arrival time of the last message in each direction.
    last: BTreeMap<(Node, Node), Time>,
    /// Additional delay of each direction.
    pub(crate) distance: BTreeMap<(Node, Node), Time>,
    /// Bytes per millisecond, for slow directions.
    pub(crate) bandwidth: BTreeMap<(Node, Node), u64>,
    /// Time at which a slow direction has carried all earlier messages.
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
    /// Sends a message. The message may arrive late, more than once, or never.
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
