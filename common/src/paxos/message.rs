//! What proposers, acceptors and learners say to one another, in the words of the cores.

use std::sync::Arc;

use super::{
    ballot::Ballot,
    slot::{Slot, SlotRange},
    value::Value,
};

/// How far above a leader's `chosen_to` a slot may be proposed (exclusive). Bounds what a dead leader can leave
/// behind, and so what a campaign has to read.
pub const SLOTS_AHEAD_MAX: u64 = 65_536;

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

/// Phase 2a, from a leader to an acceptor. Without proposals a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Accept {
    /// The leader's ballot.
    pub ballot: Ballot,
    /// Names the message in its answer.
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
    /// Too little space is left on the acceptor's disk: nothing was done, and the sender is not granted anything. To
    /// it this is a missing answer; heartbeats show when there is space again.
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
