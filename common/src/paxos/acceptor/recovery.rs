//! The start of a run: the acceptor's state as stored on the disk.

use std::{collections::BTreeMap, sync::Arc};

use super::{Acceptor, HeldRow, Membership, damage::Damaged};
use crate::paxos::{
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    slot::Slot,
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

/// State returned by a store at start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovered {
    /// The acceptor's uuid.
    pub uuid: AcceptorUuid,
    /// Counter of the last commit on disk.
    pub commit_counter: CommitCounter,
    /// The stored progress in forming.
    pub membership: Membership,
    /// The highest promise.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub leader_address: Arc<str>,
    /// The stored watermark. Memory may have been ahead of this watermark.
    pub known_to: Slot,
    /// Slots below are trimmed: no row is held there.
    pub trimmed_to: Slot,
    /// One past the highest row; at least `trimmed_to`.
    pub voted_to: Slot,
    /// The oldest protocol version whose callers this acceptor serves, from 1.
    pub least_version: u32,
    /// The rows at or above `known_to`.
    pub rows: BTreeMap<Slot, HeldRow>,
}

impl Acceptor {
    /// Starts a new run from the state of a store. The run number must be durable before the first answer.
    pub fn recover(recovered: Recovered, run: RunNumber) -> Self {
        let Recovered {
            uuid,
            commit_counter,
            membership,
            promised,
            leader_address,
            known_to,
            trimmed_to,
            voted_to,
            least_version,
            rows,
        } = recovered;
        Self {
            uuid,
            run,
            commit_counter,
            membership,
            promised,
            leader_address,
            resigned: false,
            known_to,
            trimmed_to,
            voted_to,
            claimed_to: known_to,
            least_version,
            rows,
            damaged: Damaged::new(),
            witnesses: Witnesses::default(),
            unwritten_witnesses: Witnesses::default(),
        }
    }

    /// Restores the stored runs of other acceptors.
    #[must_use]
    pub fn remembering(mut self, witnesses: Witnesses) -> Self {
        self.witnesses = witnesses;
        self.witnesses.bound(WITNESSED_RUNS_MAX);
        self
    }
}
