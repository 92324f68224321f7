//! What proposers, acceptors and learners say to one another, in the words of the cores.

use std::{sync::Arc, time::Duration};

use super::{
    ballot::Ballot,
    slot::{Slot, SlotRange},
    value::Value,
};

/// How far above a leader's `chosen_to` a slot may be proposed (exclusive). Bounds what a dead leader can leave
/// behind, and so what a campaign has to read, and how far no-ops are filled in up to a vote: a vote further on is no
/// leader's of this protocol.
pub const SLOTS_AHEAD_MAX: u64 = 65_536;

/// Most numbered messages that a leader has unanswered on one `Accept` stream (inclusive): proposals, repairs and the
/// resignation. Heartbeats have no number and are not counted. An acceptor has room for more on each stream, and ends a
/// stream that exceeds the room.
pub const UNANSWERED_MAX: u64 = 32;

/// Phase 1a, from a candidate to an acceptor: promise this ballot, and report what you accepted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Prepare {
    /// The candidate's ballot.
    pub ballot: Ballot,
    /// First slot to report.
    pub from: Slot,
    /// Where other proposers reach the candidate.
    pub address: Arc<str>,
}

/// What an acceptor does with a [`Prepare`], once that is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PrepareAnswer {
    /// Promised: pages follow.
    Promised,
    /// Another ballot is promised.
    Rejected(Rejection),
    /// The sender's fault.
    Refused(Refused),
}

/// Phase 1b, from an acceptor to a candidate: one page of a promise, all of it read in one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromisePage {
    /// First slot that the page covers.
    pub from: Slot,
    /// Exclusive end of what the page covers. A covered slot without a row was not voted on.
    pub next: Slot,
    /// The page covers everything from `next` on too: nothing was voted on there.
    pub last: bool,
    /// Every slot below it was chosen, and the acceptor's own rows hold the chosen values.
    pub chosen_to: Slot,
    /// Every slot below it was chosen, whatever became of the acceptor's rows; at least `chosen_to`. A row here below it
    /// that can be read holds the chosen value.
    pub known_to: Slot,
    /// Every slot below it is gone from there.
    pub trimmed_to: Slot,
    /// One past the highest slot accepted; at least `trimmed_to`.
    pub voted_to: Slot,
    /// Ascending by slot.
    pub rows: Vec<Row>,
}

/// What an acceptor holds for one slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    /// The slot.
    pub slot: Slot,
    /// `None`: something is there and cannot be read; it must not be taken for nothing.
    pub accepted: Option<(Ballot, Value)>,
}

/// Phase 2a, from a leader to an acceptor. Without proposals and without a number it is a heartbeat; without proposals
/// and with a number it is a question for the acceptor's watermarks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Names the message in its answer, from 1 in each reign. 0: a heartbeat, which gets no answer.
    pub sequence: u64,
    /// Every slot below it is chosen. A candidate that is still paging sends 0, which claims nothing.
    pub chosen_to: Slot,
    /// All or nothing, ascending.
    pub proposals: Vec<(Slot, Value)>,
    /// Where other proposers reach the leader.
    pub address: Arc<str>,
    /// The leader is about to stop.
    pub resign: bool,
}

/// Phase 2b, from an acceptor to a leader, once it is durable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AcceptAnswer {
    /// All proposals of the message are on disk.
    Accepted {
        /// The slots of the message.
        slots: Vec<SlotRange>,
        /// One past the highest slot accepted there, at any ballot.
        voted_to: Slot,
        /// The acceptor's own watermark: its rows below are sound.
        chosen_to: Slot,
        /// Every slot below it is chosen, whatever became of the acceptor's rows; at least `chosen_to`.
        known_to: Slot,
    },
    /// Another ballot is promised.
    Rejected(Rejection),
    /// The sender's fault; its ballot stands.
    Refused(Refused),
    /// A proposal's slot is below what the acceptor still holds.
    Trimmed {
        /// Nothing below it is held.
        trimmed_to: Slot,
    },
    /// Too little space is left on the acceptor's disk: nothing was done. The sender sends the proposals again once the
    /// acceptor reports space.
    NoSpace,
}

/// Answer that carries the higher promised ballot, which the loser needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rejection {
    /// Above the ballot that was asked for.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub leader_address: Arc<str>,
}

/// The message breaks a bound that its sender could have kept; the sender's ballot stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Refused {
    /// Which bound, for people.
    pub reason: String,
    /// What the acceptor has promised.
    pub promised: Ballot,
}

/// What an acceptor's disk tells proposers and learners that attach: who leads, as far as it knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leadership {
    /// The highest ballot promised; [`Ballot::ZERO`] when none was.
    pub promised: Ballot,
    /// Where its proposer is reached.
    pub address: Arc<str>,
    /// Its proposer said that it stops.
    pub resigned: bool,
}

/// What an acceptor knows of the *heard proposer*: the sender of the highest ballot in an Accept or Prepare that the
/// acceptor has granted, or will grant as far as it can say now. Volatile, and evidence for failure detection alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heard {
    /// The highest ballot heard; [`Ballot::ZERO`] when none was.
    pub ballot: Ballot,
    /// Where its proposer is reached.
    pub address: Arc<str>,
    /// Time since bytes of its `Accept` stream or its Prepare arrived, by the acceptor's clock.
    pub silent: Duration,
    /// Time since its last `Accept` stream ended without the acceptor's doing, while none is open.
    pub ended: Option<Duration>,
    /// Its proposer said that it stops.
    pub resigned: bool,
    /// Grows with its work at this acceptor: value bytes that arrive, votes committed, page bytes sent.
    pub work: u64,
}

impl Heard {
    /// What an acceptor of an earlier release tells: when streams end and what work is done is not known.
    pub fn from_leadership(leadership: Leadership, silent: Duration) -> Self {
        let Leadership {
            promised,
            address,
            resigned,
        } = leadership;
        Self {
            ballot: promised,
            address,
            silent,
            ended: None,
            resigned,
            work: 0,
        }
    }
}

/// What an acceptor's answer to a report over `Attach` says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Word {
    /// The heard proposer.
    pub heard: Heard,
    /// Age of the oldest request that the acceptor has not decided and made durable; zero from earlier releases.
    pub waiting: Duration,
    /// The longest commit of the last minute; zero from earlier releases.
    pub slowest_commit: Duration,
    /// The acceptor's disk has space; true from earlier releases.
    pub has_space: bool,
    /// Every slot below it is chosen, whatever became of the acceptor's rows.
    pub known_to: Slot,
    /// One past the highest slot accepted there, at any ballot.
    pub voted_to: Slot,
}
