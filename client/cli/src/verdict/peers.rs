//! The leader, and the problems of each proposer and learner.

use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{Ballot, Role, attach_request::Progress};

use super::{
    DATA_FREE_LOW_BYTES, Finding, Severity, Subject, access,
    roster::{Peer, Source, learner},
};

/// Milliseconds without a sign of the leader at any acceptor, after which the leader does not lead: many times the
/// usual leader timeout.
pub(super) const LEADER_SILENT_MS: u64 = 2_000;
/// Age in milliseconds of the latest report at which a peer counts as stuck or cut off.
pub(super) const REPORT_OLD_MS: u64 = 5_000;

/// The same for a process that does not answer. Idle processes report every 2 s.
pub(super) const UNANSWERED_REPORT_OLD_MS: u64 = 3_000;
/// Lag in slots above which a learner is catching up or stuck: under load, a learner is at most a few hundred slots
/// behind.
const LAG_SLOTS: u64 = 10_000;

/// The proposer that leads at the highest ballot.
pub(super) fn leader_of(peers: &[Peer]) -> Option<Peer> {
    let ballot = |peer: &Peer| match &peer.report.progress {
        Some(Progress::Proposer(progress))
            if progress.leading && !peer.is_departed() && peer.age_ms < REPORT_OLD_MS =>
        {
            progress.ballot
        }
        Some(Progress::Proposer(_) | Progress::Learner(_)) | None => None,
    };
    let leading = peers.iter().filter_map(|peer| {
        let Ballot { era, round, proposer } = ballot(peer)?;
        Some(((era, round, proposer), peer))
    });
    leading
        .max_by_key(|(ballot, _)| *ballot)
        .map(|(_, peer)| peer.clone())
}

/// A finding if no proposer leads, as far as the answers show.
pub(super) fn leader_finding(
    status: &ClusterReport,
    peers: &[Peer],
    leader: Option<&Peer>,
) -> Option<Finding> {
    if leader.is_some_and(|leader| leader.is_silent) && all_are(peers, Role::Proposer, |peer| peer.is_silent)
    {
        return Some(Finding::unavailable(
            Subject::cluster(),
            "no proposer answers, and every proposer accepts connections",
            "the processes are paused, or their machines are overloaded: continue or restart the processes",
        ));
    }
    let silent_ms = status
        .answers()
        .filter_map(|answer| Some(answer.leadership.as_ref()?.silent_ms))
        .min();
    let (subject, problem) = match leader {
        None => (Subject::cluster(), "no proposer leads".to_owned()),
        Some(leader) => match silent_ms.filter(|silent| *silent > LEADER_SILENT_MS) {
            Some(silent) => {
                let address = &leader.report.address;
                let problem = format!("the leader {address} has been silent for {silent} ms");
                (leader.subject(), problem)
            }
            None => return None,
        },
    };
    Some(Finding {
        severity: Severity::Unavailable,
        subject,
        problem,
        advice: "an election takes less than a second when a proposer runs: ask again, then look at the proposers' logs",
    })
}

/// Whether the peers of this role that are not gone are all as described.
fn all_are(peers: &[Peer], role: Role, is: impl Fn(&Peer) -> bool) -> bool {
    let mut present = peers
        .iter()
        .filter(|peer| peer.report.role() == role && !peer.is_departed());
    present.all(is)
}

/// Problems of proposers and learners. `works`: a quorum of acceptors can vote; `quorum`: size of a quorum.
pub(super) fn findings(
    status: &ClusterReport,
    peers: &[Peer],
    works: bool,
    quorum: usize,
    chosen_to: u64,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_there = |role: Role| move |peer: &&Peer| peer.report.role() == role && !peer.is_departed();
    if works && !peers.iter().any(|peer| is_there(Role::Proposer)(&peer)) {
        findings.push(Finding::unavailable(
            Subject::cluster(),
            "no proposer is attached",
            "start one or more proposers with --acceptors naming all acceptors",
        ));
    }
    if works && !peers.iter().any(|peer| is_there(Role::Learner)(&peer)) {
        findings.push(Finding::degraded(
            Subject::cluster(),
            "no learner is attached, so no client can read",
            "start one or more learners with --acceptors naming all acceptors",
        ));
    }
    let is_silent_learner = |peer: &Peer| learner(peer).is_some() && peer.is_silent;
    if works
        && all_are(peers, Role::Learner, |peer| peer.source != Source::Itself)
        && peers.iter().any(is_silent_learner)
    {
        findings.push(Finding::degraded(
            Subject::cluster(),
            "no learner answers, so no client can read",
            "continue or restart the learners that accept connections without an answer, or start other learners",
        ));
    }
    findings.extend(given_and_absent(status, peers));
    for peer in peers {
        findings.extend(absence(peer));
        if peer.is_departed() {
            continue;
        }
        findings.extend(condition(peer, works.then_some(quorum), chosen_to));
        findings.extend(little_space(peer));
        findings.extend(no_snapshots(peer));
    }
    findings
}

/// Addresses from --proposers and --learners without an answering process.
fn given_and_absent(status: &ClusterReport, peers: &[Peer]) -> Vec<Finding> {
    let proposers = status.proposers.iter().filter(|report| report.given);
    let proposers = proposers.map(|report| ("proposer", &report.address, report.answer.as_ref().err()));
    let learners = status.learners.iter().filter(|report| report.given);
    let learners = learners.map(|report| ("learner", &report.address, report.answer.as_ref().err()));
    let absent = proposers.chain(learners).filter_map(|(role, address, cause)| {
        let is_listed = |peer: &Peer| peer.role() == role && peer.report.address == address.as_str();
        let cause = cause.filter(|_| !peers.iter().any(is_listed))?;
        let name = address.to_string();
        Some(Finding::degraded(
            Subject { role, name },
            format!("{role} {address} does not answer: {cause}"),
            access::advice(cause).unwrap_or("start the process, or correct --proposers and --learners"),
        ))
    });
    absent.collect()
}

/// A peer that is gone, or without a report to an acceptor for too long.
fn absence(peer: &Peer) -> Option<Finding> {
    let (role, address) = (peer.role(), &peer.report.address);
    let (problem, advice) = match (&peer.source, peer.reported_ms) {
        (Source::Departed, _) => (
            format!(
                "{role} {address} is gone: its connections ended {} s ago, without notice of a stop",
                peer.age_ms / 1_000
            ),
            "the process was killed, has crashed or is cut off: look at its log, and start it again if needed. The \
             acceptors list the process for 10 minutes",
        ),
        (Source::Itself, Some(age)) if age >= REPORT_OLD_MS => (
            format!("{role} {address} answers, but has not reported to an acceptor for {age} ms"),
            "the process cannot reach the acceptors: look at its log and at the network to the acceptors",
        ),
        (Source::Itself, None) => (
            format!("{role} {address} answers, but is attached to no answering acceptor"),
            "the process cannot reach the acceptors, or has other addresses: look at its log and at its --acceptors",
        ),
        (Source::Report(_), _) if peer.is_silent => (
            format!("{role} {address} accepts connections, but does not answer"),
            "the process is paused, or overloaded: look at its log and its machine. Until the process answers, the \
             cluster has one process fewer",
        ),
        (Source::Report(_), Some(age)) if age >= UNANSWERED_REPORT_OLD_MS => (
            format!("{role} {address} does not answer, and has not reported for {age} ms"),
            "the process is paused, overloaded or cut off: look at its log",
        ),
        (Source::Itself | Source::Report(_), _) => return None,
    };
    Some(Finding::degraded(peer.subject(), problem, advice))
}

/// A present peer of no use, or of reduced use.
fn condition(peer: &Peer, quorum: Option<usize>, chosen_to: u64) -> Option<Finding> {
    let (role, address) = (peer.role(), &peer.report.address);
    if let (Some(linked), Some(quorum)) = (&peer.linked, quorum)
        && linked.len() < quorum
    {
        return Some(Finding::degraded(
            peer.subject(),
            format!(
                "{role} {address} is connected to {} of the acceptors, and could not lead: a quorum is {quorum}",
                linked.len()
            ),
            "the proposer's log says why other acceptors are not connected: look at this log and at the network",
        ));
    }
    let not_ready = || {
        Finding::degraded(
            peer.subject(),
            format!("{role} {address} is not ready: {}", peer.not_ready),
            "readers use other learners: ask again; if this stays, look at the learner's log and at the network to \
             the acceptors",
        )
    };
    if peer.installed_percent.is_some() {
        return Some(not_ready());
    }
    let lag = learner(peer).map_or(0, |learner| chosen_to.saturating_sub(learner.applied_to));
    if lag > LAG_SLOTS {
        return Some(Finding::degraded(
            peer.subject(),
            format!("{role} {address} is {lag} slots behind"),
            "the learner catches up by itself, and readers find newer values at other learners: ask again; if this \
             number does not shrink, look at the learner's log",
        ));
    }
    (learner(peer).is_some() && !peer.not_ready.is_empty()).then(not_ready)
}

fn little_space(peer: &Peer) -> Option<Finding> {
    let free = peer.data_free_bytes.filter(|free| *free < DATA_FREE_LOW_BYTES)?;
    Some(Finding::degraded(
        peer.subject(),
        format!(
            "{} {} has only {} MiB left on the file system of its data directory",
            peer.role(),
            peer.report.address,
            free >> 20
        ),
        "free some space there, or use a larger disk: without space the learner waits and refuses reads, and continues by \
         itself once there is space",
    ))
}

/// A learner that makes no snapshots: acceptors and the learner itself keep the log meanwhile.
fn no_snapshots(peer: &Peer) -> Option<Finding> {
    let failure = peer.snapshot_failure.as_ref()?;
    let (role, address) = (peer.role(), &peer.report.address);
    let (reason, seconds) = (&failure.reason, failure.failing_ms / 1_000);
    Some(Finding::degraded(
        peer.subject(),
        format!("{role} {address} has not been able to make a snapshot for {seconds} s: {reason}"),
        "until a learner makes a snapshot, the log of this learner grows, and so do the logs of acceptors without another \
         learner to ask: free space on the learner's disk, or delete registers if the state is too large for a snapshot",
    ))
}
