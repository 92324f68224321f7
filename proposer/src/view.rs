//! How a proposer stands, as it shows itself to others.

use std::collections::BTreeMap;

use paxos_common::{
    paxos::{
        ballot::{Ballot, ProposerId},
        identity::{AcceptorUuid, ClusterId},
        slot::Slot,
    },
    peer::Address,
};
use paxos_proto::v1::ProposerPhase;

/// How this proposer stands, for reports and `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) proposer: ProposerId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) phase: ProposerPhase,
    pub(crate) ballot: Option<Ballot>,
    /// Where the leader is, this proposer included.
    pub(crate) leader: Option<String>,
    pub(crate) chosen_to: Slot,
    pub(crate) proposed_to: Slot,
    pub(crate) queued: usize,
    pub(crate) queued_bytes: usize,
    /// Open links, and the watermark last heard over each.
    pub(crate) links: BTreeMap<AcceptorUuid, (Address, Slot)>,
    /// How many acceptors make a quorum; 0 before there is a cluster.
    pub(crate) quorum: usize,
    /// Which acceptors kept commands waiting when a caller last stopped waiting; empty when none did.
    pub(crate) late: String,
    /// Acceptors that are not counted because they lost commits, and what each lost.
    pub(crate) refused: BTreeMap<AcceptorUuid, String>,
}

impl View {
    /// Before there is a cluster.
    pub(crate) fn forming(proposer: ProposerId) -> Self {
        Self {
            proposer,
            cluster: None,
            phase: ProposerPhase::Forming,
            ballot: None,
            leader: None,
            chosen_to: Slot::ZERO,
            proposed_to: Slot::ZERO,
            queued: 0,
            queued_bytes: 0,
            links: BTreeMap::new(),
            quorum: 0,
            late: String::new(),
            refused: BTreeMap::new(),
        }
    }
}
