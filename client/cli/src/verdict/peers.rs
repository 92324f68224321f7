//! Proposers and learners, by their own answers and by the acceptors' reports, and the problems of each.

use std::collections::BTreeMap;

use paxos_client::{ErrorCode, raw::ClusterReport};
use paxos_proto::v1::{
    AttachRequest, Ballot, LearnerProgress, LearnerStatusResponse, ProposerPhase, ProposerProgress,
    ProposerStatusResponse, Role, attach_request::Progress,
};

use super::{DATA_FREE_LOW_BYTES, Finding, Severity, Subject};

/// Milliseconds without a sign of the leader at any acceptor, after which the leader does not lead: many times the
/// usual leader timeout.
pub(super) const LEADER_SILENT_MS: u64 = 2_000;
/// Age in milliseconds of the latest report at which a peer counts as stuck or cut off.
pub(super) const REPORT_OLD_MS: u64 = 5_000;
/// Age in milliseconds of a peer's latest report at which the peer is gone, if another process answers at the same
/// address.
const REPLACED_MS: u64 = 2_000;
/// Lag in slots above which a learner is catching up or stuck: under load, a learner is at most a few hundred slots
/// behind.
const LAG_SLOTS: u64 = 10_000;

/// The source of a peer's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The peer itself answered.
    Itself,
    /// An acceptor's report. The text says why the peer itself did not answer, if the peer was asked.
    Report(Option<String>),
    /// An acceptor that remembers the peer: the peer's stream has ended.
    Departed,
}

/// A proposer or learner.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Peer {
    pub(crate) report: AttachRequest,
    pub(crate) source: Source,
    /// The peer accepted the connection of this command, and did not answer in time.
    pub(crate) is_silent: bool,
    /// Age of `report`; 0 if the peer itself answered.
    pub(crate) age_ms: u64,
    /// Age of the peer's youngest report at an acceptor; `None` if no answering acceptor has a report.
    pub(crate) reported_ms: Option<u64>,
    /// Why the peer is not ready, in the peer's own words; empty if the peer is ready or did not answer.
    pub(crate) not_ready: String,
    /// The acceptors, by uuid, that a proposer is connected to and counts; `None` if the proposer did not report the
    /// acceptors.
    pub(crate) linked: Option<Vec<bytes::Bytes>>,
    /// Bytes that the peer can still write, if reported.
    pub(crate) data_free_bytes: Option<u64>,
}

impl Peer {
    fn of(report: AttachRequest, source: Source, age_ms: u64) -> Self {
        Self {
            report,
            reported_ms: (source != Source::Departed).then_some(age_ms),
            source,
            is_silent: false,
            age_ms,
            not_ready: String::new(),
            linked: None,
            data_free_bytes: None,
        }
    }

    pub(crate) fn is_departed(&self) -> bool {
        self.source == Source::Departed
    }

    pub(crate) fn role(&self) -> &'static str {
        match self.report.role() {
            Role::Proposer => "proposer",
            Role::Learner => "learner",
            Role::Acceptor | Role::Unspecified => "?",
        }
    }

    fn subject(&self) -> Subject {
        Subject {
            role: self.role(),
            name: self.report.address.clone(),
        }
    }

    /// Takes the state from the peer's own answer.
    fn answered(&mut self, own: Own) {
        self.report.software = own.software;
        self.report.progress = Some(own.progress);
        self.source = Source::Itself;
        self.is_silent = false;
        self.age_ms = 0;
        self.not_ready = own.not_ready;
        self.linked = own.linked;
        self.data_free_bytes = own.data_free_bytes;
    }
}

/// A peer's own answer.
struct Own {
    role: Role,
    number: u64,
    address: String,
    software: String,
    cluster_id: bytes::Bytes,
    progress: Progress,
    not_ready: String,
    linked: Option<Vec<bytes::Bytes>>,
    data_free_bytes: Option<u64>,
}

impl From<&ProposerStatusResponse> for Own {
    fn from(answer: &ProposerStatusResponse) -> Self {
        let leading = answer.phase() == ProposerPhase::Leading;
        let linked = answer
            .acceptors
            .iter()
            .filter(|link| link.attached)
            .map(|link| link.acceptor.clone());
        Self {
            role: Role::Proposer,
            number: answer.proposer,
            address: answer.address.clone(),
            software: answer.software.clone(),
            cluster_id: answer.cluster_id.clone(),
            progress: Progress::Proposer(ProposerProgress {
                leading,
                ballot: answer.ballot,
                chosen_to: answer.chosen_to,
                queued: answer.queued,
                leader_timeout_ms: answer.leader_timeout_ms,
            }),
            not_ready: answer.not_ready.clone(),
            linked: Some(linked.collect()),
            data_free_bytes: None,
        }
    }
}

impl From<&LearnerStatusResponse> for Own {
    fn from(answer: &LearnerStatusResponse) -> Self {
        Self {
            role: Role::Learner,
            number: answer.learner,
            address: answer.address.clone(),
            software: answer.software.clone(),
            cluster_id: answer.cluster_id.clone(),
            progress: Progress::Learner(LearnerProgress {
                applied_to: answer.applied_to,
                digests: answer.digests.clone(),
                // The answer says why the learner is not ready, but not whether the learner refuses reads.
                refuses_reads: !answer.not_ready.is_empty(),
            }),
            not_ready: answer.not_ready.clone(),
            linked: None,
            data_free_bytes: answer.data_free_bytes,
        }
    }
}

/// The learner's part of a report.
pub(crate) fn learner(peer: &Peer) -> Option<&LearnerProgress> {
    match &peer.report.progress {
        Some(Progress::Learner(progress)) => Some(progress),
        Some(Progress::Proposer(_)) | None => None,
    }
}

/// A peer's reported watermark.
pub(super) fn watermark(peer: &Peer) -> u64 {
    match &peer.report.progress {
        Some(Progress::Proposer(proposer)) => proposer.chosen_to,
        Some(Progress::Learner(learner)) => learner.applied_to,
        None => 0,
    }
}

/// Every proposer and learner, each once: by the peer's own answer, by the youngest report, or as remembered by
/// acceptors.
pub(super) fn roster(status: &ClusterReport) -> Vec<Peer> {
    let mut peers = reported(status);
    let cluster = status
        .answers()
        .filter_map(|answer| answer.stamp.as_ref())
        .find(|stamp| !stamp.cluster_id.is_empty())
        .map(|stamp| &stamp.cluster_id);
    let proposers = status.proposers.iter().map(|report| {
        let answer = report.answer.as_ref();
        (Role::Proposer, report.address.as_str(), answer.map(Own::from))
    });
    let learners = status.learners.iter().map(|report| {
        let answer = report.answer.as_ref();
        (Role::Learner, report.address.as_str(), answer.map(Own::from))
    });
    for (role, asked_at, answer) in proposers.chain(learners) {
        match answer {
            Ok(own) if own.cluster_id.is_empty() || cluster.is_none_or(|id| *id == own.cluster_id) => {
                take_in(&mut peers, asked_at, own);
            }
            Ok(_) => no_answer(
                &mut peers,
                role,
                asked_at,
                "a process of another cluster answers there",
                false,
            ),
            Err(cause) => {
                // A process that refuses the connection, or is not found, has another code.
                let is_silent = cause.code == ErrorCode::DeadlineExceeded;
                no_answer(&mut peers, role, asked_at, &cause.to_string(), is_silent);
            }
        }
    }
    peers.sort_by(|one, other| {
        let key = |peer: &Peer| (peer.report.role, peer.report.address.clone(), peer.report.peer);
        key(one).cmp(&key(other))
    });
    peers
}

/// The peers named by acceptors, each by the youngest report.
fn reported(status: &ClusterReport) -> Vec<Peer> {
    let mut peers: BTreeMap<(i32, String, u64), Peer> = BTreeMap::new();
    let mut youngest = |report: &Option<AttachRequest>, source: Source, age_ms: u64| {
        let Some(report) = report.clone() else { return };
        let key = (report.role, report.address.clone(), report.peer);
        let peer = Peer::of(report, source, age_ms);
        // The report of an acceptor with the peer attached wins over the memory of an acceptor that lost the peer.
        let rank = |peer: &Peer| (peer.is_departed(), peer.age_ms);
        match peers.get(&key) {
            Some(known) if rank(known) <= rank(&peer) => {}
            Some(_) | None => _ = peers.insert(key, peer),
        }
    };
    for answer in status.answers() {
        for attached in &answer.attached {
            youngest(&attached.report, Source::Report(None), attached.age_ms);
        }
        for departed in &answer.departed {
            youngest(&departed.report, Source::Departed, departed.age_ms);
        }
    }
    let peers: Vec<_> = peers.into_values().collect();
    // Another process at the same address is the same peer, restarted.
    let is_back = |gone: &Peer| {
        peers.iter().any(|peer| {
            !peer.is_departed()
                && peer.report.role == gone.report.role
                && peer.report.address == gone.report.address
        })
    };
    let left = peers.iter().filter(|peer| !peer.is_departed() || !is_back(peer));
    left.cloned().collect()
}

/// Adds the answer of the process asked at this address.
fn take_in(peers: &mut Vec<Peer>, asked_at: &str, own: Own) {
    let is_role = |peer: &Peer| peer.report.role() == own.role;
    let by_number = |peer: &Peer| is_role(peer) && own.number != 0 && peer.report.peer == own.number;
    let by_address = |peer: &Peer| is_role(peer) && own.number == 0 && peer.report.address == asked_at;
    // Removes earlier processes at this address.
    peers.retain(|peer| {
        by_number(peer)
            || by_address(peer)
            || !is_role(peer)
            || peer.report.address != asked_at
            || peer.source == Source::Itself
            || !peer.is_departed() && peer.age_ms < REPLACED_MS
    });
    if let Some(peer) = peers.iter_mut().find(|peer| by_number(peer) || by_address(peer)) {
        peer.answered(own);
        return;
    }
    let report = AttachRequest {
        role: own.role.into(),
        peer: own.number,
        address: if own.address.is_empty() {
            asked_at.to_owned()
        } else {
            own.address.clone()
        },
        ..AttachRequest::default()
    };
    let mut peer = Peer::of(report, Source::Itself, 0);
    peer.reported_ms = None;
    peer.answered(own);
    peers.push(peer);
}

fn no_answer(peers: &mut [Peer], role: Role, asked_at: &str, cause: &str, is_silent: bool) {
    let asked = peers
        .iter_mut()
        .filter(|peer| peer.report.role() == role && peer.report.address == asked_at);
    for peer in asked.filter(|peer| peer.source == Source::Report(None)) {
        peer.source = Source::Report(Some(cause.to_owned()));
        peer.is_silent = is_silent;
    }
}

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
    let leading = peers
        .iter()
        .filter_map(|peer| ballot(peer).map(|Ballot { round, proposer }| ((round, proposer), peer)));
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
            "start the process, or correct --proposers and --learners",
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
        (Source::Report(_), Some(age)) if age >= REPORT_OLD_MS => (
            format!("{role} {address} has not reported for {age} ms"),
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
    let lag = learner(peer).map_or(0, |learner| chosen_to.saturating_sub(learner.applied_to));
    if lag > LAG_SLOTS {
        return Some(Finding::degraded(
            peer.subject(),
            format!("{role} {address} is {lag} slots behind"),
            "the learner catches up by itself, and readers find newer values at other learners: ask again; if this \
             number does not shrink, look at the learner's log",
        ));
    }
    (learner(peer).is_some() && !peer.not_ready.is_empty()).then(|| {
        Finding::degraded(
            peer.subject(),
            format!("{role} {address} is not ready: {}", peer.not_ready),
            "readers use other learners: ask again; if this stays, look at the learner's log and at the network to \
             the acceptors",
        )
    })
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
