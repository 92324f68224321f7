//! State of a proposer as shown to others.

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

/// State of this proposer for reports and `Status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) proposer: ProposerId,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) phase: ProposerPhase,
    pub(crate) ballot: Option<Ballot>,
    /// Address of the leader; possibly this proposer.
    pub(crate) leader: Option<String>,
    pub(crate) chosen_to: Slot,
    pub(crate) proposed_to: Slot,
    pub(crate) queued: usize,
    pub(crate) queued_bytes: usize,
    /// Open links, each with the last reported watermark.
    pub(crate) links: BTreeMap<AcceptorUuid, (Address, Slot)>,
    /// Number of acceptors in a quorum; 0 before the cluster is formed.
    pub(crate) quorum: usize,
    /// Acceptors that delayed commands when a caller last stopped waiting; empty for none.
    pub(crate) late: String,
    /// Acceptors not counted because of lost commits, and the loss of each.
    pub(crate) refused: BTreeMap<AcceptorUuid, String>,
}

impl View {
    /// Before the cluster is formed.
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
