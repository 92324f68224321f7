//! The status of a cluster, for applications.

use std::time::Duration;

use bytes::Bytes;
use paxos_proto::v1::{AcceptorStatusResponse, LearnerStatusResponse, ProposerPhase, ProposerStatusResponse};

use crate::{
    Address, Slot,
    error::Cause,
    status::{ClusterReport, RoleReport},
};

/// The status of a cluster: every asked process, with its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterStatus {
    /// The acceptors given to the client, in the given order; then the other members in the acceptors' configuration.
    pub acceptors: Vec<ProcessStatus<AcceptorStatus>>,
    /// The proposers given to the client, or reported by an acceptor.
    pub proposers: Vec<ProcessStatus<ProposerStatus>>,
    /// The learners given to the client, or reported by an acceptor.
    pub learners: Vec<ProcessStatus<LearnerStatus>>,
}

/// The status of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStatus<T> {
    /// The asked address.
    pub address: Address,
    /// Whether the client was given this address. False: the address was found in an acceptor's answer.
    pub given: bool,
    /// The answer, or why there is none.
    pub answer: Result<T, Cause>,
}

/// The status of an acceptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AcceptorStatus {
    /// The name given to the acceptor, for people.
    pub id: String,
    /// The release of the software.
    pub software: String,
    /// The cluster; `None` before the cluster has formed.
    pub cluster_id: Option<Bytes>,
    /// Why the acceptor cannot vote now; `None` while the acceptor can vote.
    pub not_ready: Option<String>,
    /// Every slot below is known to be chosen.
    pub chosen_to: Slot,
    /// One past the last slot with a vote of the acceptor.
    pub voted_to: Slot,
    /// Number of requests that wait for the disk.
    pub queued: u64,
    /// How long the oldest of these requests has waited.
    pub waiting: Duration,
    /// The slowest commit of the last minute.
    pub slowest_commit: Duration,
}

/// The status of a proposer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProposerStatus {
    /// The release of the software.
    pub software: String,
    /// The cluster; `None` before the cluster has formed.
    pub cluster_id: Option<Bytes>,
    /// Why the proposer is not ready; `None` while the proposer is ready.
    pub not_ready: Option<String>,
    /// Whether the proposer leads.
    pub leads: bool,
    /// The leader known to the proposer.
    pub leader: Option<Address>,
    /// Every slot below is known to be chosen.
    pub chosen_to: Slot,
    /// Number of commands that wait for a slot.
    pub queued: u64,
}

/// The status of a learner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LearnerStatus {
    /// The release of the software.
    pub software: String,
    /// The cluster; `None` before the cluster has formed.
    pub cluster_id: Option<Bytes>,
    /// Why the learner is not ready; `None` while the learner is ready.
    pub not_ready: Option<String>,
    /// Every slot below is applied.
    pub applied_to: Slot,
    /// Every slot below is applied, and survives power loss on the disk of the learner.
    pub durable_to: Slot,
    /// Number of registers.
    pub registers: u64,
    /// Number of open sessions of clients.
    pub sessions: u64,
}

impl ClusterStatus {
    pub(crate) fn of(report: ClusterReport) -> Self {
        Self {
            acceptors: statuses(report.acceptors, AcceptorStatus::of),
            proposers: statuses(report.proposers, ProposerStatus::of),
            learners: statuses(report.learners, LearnerStatus::of),
        }
    }
}

fn statuses<M, T>(reports: Vec<RoleReport<M>>, of: impl Fn(M) -> T) -> Vec<ProcessStatus<T>> {
    let status = |report: RoleReport<M>| ProcessStatus {
        address: report.address,
        given: report.given,
        answer: report.answer.map(&of),
    };
    reports.into_iter().map(status).collect()
}

impl AcceptorStatus {
    fn of(message: AcceptorStatusResponse) -> Self {
        Self {
            id: message.id,
            software: message.software,
            cluster_id: message.stamp.and_then(|stamp| some_bytes(stamp.cluster_id)),
            not_ready: some_text(message.not_ready),
            chosen_to: slot(message.chosen_to),
            voted_to: slot(message.voted_to),
            queued: message.queued,
            waiting: Duration::from_millis(message.waiting_ms),
            slowest_commit: Duration::from_millis(message.slowest_commit_ms),
        }
    }
}

impl ProposerStatus {
    fn of(message: ProposerStatusResponse) -> Self {
        Self {
            leads: message.phase() == ProposerPhase::Leading,
            leader: message.leader_address.parse().ok(),
            software: message.software,
            cluster_id: some_bytes(message.cluster_id),
            not_ready: some_text(message.not_ready),
            chosen_to: slot(message.chosen_to),
            queued: message.queued,
        }
    }
}

impl LearnerStatus {
    fn of(message: LearnerStatusResponse) -> Self {
        Self {
            software: message.software,
            cluster_id: some_bytes(message.cluster_id),
            not_ready: some_text(message.not_ready),
            applied_to: slot(message.applied_to),
            durable_to: slot(message.durable_to),
            registers: message.registers,
            sessions: message.sessions,
        }
    }
}

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap_or(Slot::MAX)
}

fn some_text(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn some_bytes(bytes: Bytes) -> Option<Bytes> {
    Some(bytes).filter(|bytes| !bytes.is_empty())
}
