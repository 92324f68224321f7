//! Judges the reported state of the cluster: membership, working order, and what to do about problems.

use paxos_client::raw::ClusterReport;
use paxos_common::service::failure::Exit;

mod acceptors;
mod access;
mod changes;
mod digests;
mod majority;
mod peers;
mod places;
mod roster;
mod tolerance;
mod unformed;

pub(crate) use changes::PendingChange;
pub(crate) use digests::Digests;
pub(crate) use majority::{cluster_answer, era_of};
pub(crate) use places::{is_same_place, lost_member};
pub(crate) use roster::{Peer, Source, learner};
pub(crate) use tolerance::Tolerance;

/// Free bytes on the file system of a data directory, below which an operator should act. An acceptor stops voting
/// below 32 MiB. The alert PaxosDiskFilling has the same limit.
const DATA_FREE_LOW_BYTES: u64 = 256 << 20;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The cluster works, but an operator should look.
    Degraded,
    /// No command can be ordered now.
    Unavailable,
    /// A guarantee of the cluster is broken.
    Broken,
}

/// The subject of a finding: a process or the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// `acceptor`, `proposer`, `learner` or `cluster`.
    pub(crate) role: &'static str,
    /// The operators' name of an acceptor, or an address; empty for the cluster.
    pub(crate) name: String,
}

impl Subject {
    /// The cluster as a whole.
    fn cluster() -> Self {
        Self {
            role: "cluster",
            name: String::new(),
        }
    }
}

/// A problem, and advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) subject: Subject,
    pub(crate) problem: String,
    pub(crate) advice: &'static str,
}

impl Finding {
    fn degraded(subject: Subject, problem: impl Into<String>, advice: &'static str) -> Self {
        Self {
            severity: Severity::Degraded,
            subject,
            problem: problem.into(),
            advice,
        }
    }

    fn unavailable(subject: Subject, problem: impl Into<String>, advice: &'static str) -> Self {
        Self {
            severity: Severity::Unavailable,
            ..Self::degraded(subject, problem, advice)
        }
    }
}

/// The state of the whole cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) findings: Vec<Finding>,
    pub(crate) digests: Digests,
    /// The leading proposer; `None` without a leader.
    pub(crate) leader: Option<Peer>,
    /// Proposers and learners, each once, by role and address.
    pub(crate) peers: Vec<Peer>,
    /// Whether each acceptor of the status can vote, in the same order.
    pub(crate) votes: Vec<bool>,
    /// The members that can vote, and the quorums; all 0 while no acceptor knows a configuration.
    pub(crate) tolerance: Tolerance,
    /// The highest reported watermark.
    pub(crate) chosen_to: u64,
    /// The change of members under way.
    pub(crate) change: Option<PendingChange>,
    /// Two processes contradict each other. A process may have restarted between the answers: ask again before
    /// believing the contradiction.
    pub(crate) contradicted: bool,
}

impl Verdict {
    pub(crate) fn exit(&self) -> Exit {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None | Some(Severity::Degraded) => Exit::Clean,
            Some(Severity::Unavailable) => Exit::Unavailable,
            Some(Severity::Broken) => Exit::No,
        }
    }
}

pub(crate) fn judge(status: &ClusterReport) -> Verdict {
    let peers = roster::roster(status);
    let leader = peers::leader_of(&peers);
    let digests = digests::compare(
        peers
            .iter()
            .filter(|peer| !peer.is_departed())
            .filter_map(learner),
    );
    let reported = status
        .answers()
        .map(|answer| answer.chosen_to)
        .chain(peers.iter().map(roster::watermark));
    let chosen_to = reported.max().unwrap_or(0);

    let change = changes::pending(status);
    let judged = acceptors::judge(status, leader.as_ref(), change.as_ref());
    let mut findings = judged.findings;
    let works = findings
        .iter()
        .all(|finding| finding.severity == Severity::Degraded);
    if works {
        findings.extend(peers::leader_finding(status, &peers, leader.as_ref()));
    }
    findings.extend(peers::findings(
        status,
        &peers,
        works,
        judged.tolerance.quorum(),
        chosen_to,
    ));
    findings.extend(digests::finding(digests, &peers));
    findings.extend(digests::contradictions(status));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Verdict {
        findings,
        digests,
        leader,
        peers,
        votes: judged.votes,
        tolerance: judged.tolerance,
        chosen_to,
        change,
        contradicted: judged.contradicted,
    }
}

#[cfg(test)]
pub(crate) mod tests;
