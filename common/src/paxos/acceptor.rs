//! The acceptor: promises and votes. The acceptor answers after the change is durable.
//!
//! The core decides in *groups*. A [`Group`] stands for one SQL commit. First, requests are decided into the group in
//! sequence: each request sees the changes of the requests before it. Then the store makes the group durable. Then
//! [`Acceptor::committed`] updates the memory. Only then may the answers leave, unchanged. If the commit fails, no
//! answer leaves, memory stays as before, and the process ends.
//!
//! Each rule has a file:
//!
//! | file | rule |
//! | --- | --- |
//! | `promises.rs` | phase 1: to promise a ballot, and to reject lower ballots |
//! | `votes.rs` | phase 2: to vote for values, and to raise the watermarks over the votes |
//! | `contradictions.rs` | a value that contradicts a vote gets no vote |
//! | `groups.rs` | durable before said: groups, commits and memory |
//! | `membership.rs` | no vote before the cluster is formed |
//! | `eras.rs` | the configuration of a later era ends the eras before |
//! | `seed.rs` | a blank acceptor with a backup joins the restored cluster only |
//! | `trims.rs` | the log begins where a snapshot ends |
//! | `damage.rs` | a damaged row is no vote |
//! | `reported_runs.rs` | other acceptors' runs are remembered, so that a lost disk is noticed |
//! | `recovery.rs` | the state at the start of a run |
//!
//! Sources: *Paxos Made Simple* §2.2 (P1a, P2a) and §2.5; *Flexible Paxos* §3.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber, Stamp},
    quorum::Configuration,
    slot::Slot,
    value::{Fingerprint, Value},
    witness::Witnesses,
};

mod contradictions;
mod damage;
mod eras;
mod groups;
mod membership;
mod promises;
mod recovery;
mod reported_runs;
mod seed;
mod trims;
mod votes;

pub use contradictions::Violation;
use damage::Damaged;
pub use eras::InstallRefusal;
pub use groups::Write;
pub use membership::{FormRefusal, Membership};
pub use recovery::Recovered;
pub use reported_runs::news_of_runs;
pub use seed::{Seed, SeedRefusal, SeedUse};
pub use trims::TrimRefusal;

/// What memory keeps of a row: enough to judge the next message about the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldRow {
    /// Accepted at this ballot, with a value of this fingerprint.
    Accepted(Ballot, Fingerprint),
    /// The row exists but fails its checksum.
    Unknown,
}

/// The acceptor's state machine. Membership, promise, votes and trims in memory are never ahead of the disk. `known_to`
/// may be ahead: a true claim about durable rows, which may be stored late. `resigned`, `claimed_to` and `damaged` are
/// not stored.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    uuid: AcceptorUuid,
    run: RunNumber,
    commit_counter: CommitCounter,
    membership: Membership,
    promised: Ballot,
    leader_address: Arc<str>,
    /// Not stored: after a restart, the silence of the proposer shows the same.
    resigned: bool,
    known_to: Slot,
    /// Never above `known_to` and `voted_to`.
    trimmed_to: Slot,
    voted_to: Slot,
    /// The watermark of the last Accept that carried a claim and was not below the promise; at least `known_to`. Not
    /// durable: leaders repeat the claim, and a recorded snapshot stands for a claim. No bound separates a forged claim from the claim of a leader far ahead, so a
    /// claim lasts only until the next claim.
    claimed_to: Slot,
    /// See [`Self::least_version`].
    least_version: u32,
    /// Rows at or above `known_to`: at most [`SLOTS_AHEAD_MAX`](super::message::SLOTS_AHEAD_MAX) beyond a leader's watermark.
    rows: BTreeMap<Slot, HeldRow>,
    /// Rows below `known_to` found to be damaged. Not durable: damage is found again.
    damaged: Damaged,
    /// The remembered runs of other acceptors.
    witnesses: Witnesses,
    /// The part of `witnesses` that is not on disk yet: stored with the next commit.
    unwritten_witnesses: Witnesses,
}

/// Everything that one commit makes durable, and the state of memory after the commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    membership: Option<Membership>,
    promised: Ballot,
    leader_address: Arc<str>,
    resigned: bool,
    known_to: Slot,
    trimmed_to: Slot,
    voted_to: Slot,
    claimed_to: Slot,
    least_version: u32,
    rows: BTreeMap<Slot, (Ballot, Value)>,
    /// Remembered runs of other acceptors, as far as not on disk yet.
    witnesses: Witnesses,
    /// Whether something in the group must be on disk before an answer may leave.
    needs_commit: bool,
}

impl Acceptor {
    /// The oldest protocol version whose callers this acceptor serves: 1, until the members of the cluster change.
    pub fn least_version(&self) -> u32 {
        self.least_version
    }

    /// Stamp of an answer: this acceptor, the present run and the last commit.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            cluster: self.membership.configuration().map(Configuration::cluster_id),
            acceptor: self.uuid,
            run: self.run,
            commit_counter: self.commit_counter,
        }
    }
}

#[cfg(test)]
mod tests;
