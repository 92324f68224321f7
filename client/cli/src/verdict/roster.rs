//! The roster: every proposer and learner once, by the peer's own answer or by the acceptors' reports.

use std::collections::BTreeMap;

use paxos_client::{ErrorCode, raw::ClusterReport};
use paxos_proto::v1::{
    AttachRequest, AttachedPeer, InstallingSnapshot, LearnerProgress, LearnerStatusResponse, ProposerPhase,
    ProposerProgress, ProposerStatusResponse, Role, SnapshotFailure, attach_request::Progress,
};

use super::{Subject, majority::cluster_answer};

/// Age in milliseconds of a peer's latest report at which the peer is gone, if another process answers at the same
/// address.
const REPLACED_MS: u64 = 2_000;
/// For peers of an older release, which do not say whether a last report ends the process or only a stream: milliseconds by
/// which a peer's last report may seem younger than the report of its stop. The acceptors take both at different moments.
const STOPPED_APART_MS: u64 = 1_000;

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
    /// The oldest kept slot, if the peer is a learner and answered.
    pub(crate) log_from: Option<u64>,
    /// The arrived part of the snapshot in percent, if the peer is a learner that installs a snapshot and answered.
    pub(crate) installed_percent: Option<u64>,
    /// Why a learner makes no snapshots, if the peer is such a learner and answered.
    pub(crate) snapshot_failure: Option<SnapshotFailure>,
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
            log_from: None,
            installed_percent: None,
            snapshot_failure: None,
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

    pub(super) fn subject(&self) -> Subject {
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
        self.log_from = own.log_from;
        self.installed_percent = own.installed_percent;
        self.snapshot_failure = own.snapshot_failure;
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
    log_from: Option<u64>,
    installed_percent: Option<u64>,
    snapshot_failure: Option<SnapshotFailure>,
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
            log_from: None,
            installed_percent: None,
            snapshot_failure: None,
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
                state_bytes: answer.state_bytes,
                installing_to: answer.installing.as_ref().map_or(0, |installing| installing.to),
            }),
            not_ready: answer.not_ready.clone(),
            linked: None,
            data_free_bytes: answer.data_free_bytes,
            log_from: Some(answer.log_from),
            installed_percent: answer.installing.as_ref().map(percent),
            snapshot_failure: answer.snapshot_failure.clone(),
        }
    }
}

fn percent(installing: &InstallingSnapshot) -> u64 {
    let hundred = installing.received.saturating_mul(100);
    hundred.checked_div(installing.bytes).unwrap_or_default().min(100)
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
    let cluster = cluster_answer(status)
        .and_then(|answer| answer.stamp.as_ref())
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
        for departed in answer
            .departed
            .iter()
            .filter(|departed| !has_stopped(status, departed))
        {
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

/// Whether a departed peer reported its stop to an acceptor. The report may have missed the other acceptors.
fn has_stopped(status: &ClusterReport, departed: &AttachedPeer) -> bool {
    let Some(report) = &departed.report else {
        return false;
    };
    let mut stopped = status.answers().flat_map(|answer| &answer.stopped);
    stopped.any(|stopped| {
        let is_same = stopped.role == report.role && stopped.peer == report.peer;
        let has_ended = match stopped.stopping {
            // The number of a peer is of one process: after this report, no report of the process is a crash.
            Some(stopping) => stopping,
            None => stopped.age_ms <= departed.age_ms.saturating_add(STOPPED_APART_MS),
        };
        is_same && has_ended
    })
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
