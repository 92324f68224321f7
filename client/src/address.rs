//! The addresses of proposers and learners: as given, or as reported by the acceptors.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use paxos_common::peer::{Address, Dialer};
use paxos_proto::v1::{AttachedPeer, Configuration, Role, Stamp, attach_request::Progress};
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use crate::{
    config::ClientConfig,
    error::Cause,
    status::{AcceptorClients, ClusterReport},
};

mod followed;

use followed::AcceptorsLook;

/// Longest wait for an acceptor in a search for proposers or learners.
const SEARCH_PATIENCE: Duration = Duration::from_secs(1);
/// How long a failed address is tried last.
const SHUN: Duration = Duration::from_secs(2);
/// Age of a peer's last report, in milliseconds, from which the peer is tried after the other peers.
const REPORT_FRESH_MS: u64 = 5_000;
/// A live peer reports several times within this many milliseconds; a peer without such a report may have stopped.
const REPORT_RECENT_MS: u64 = 1_000;
/// Longest wait for an acceptor in a search for the leader.
const LEADER_PATIENCE: Duration = Duration::from_millis(500);

/// Acceptors without an answer that an error names, at most.
const CAUSES_MAX: usize = 16;

/// The leading proposer, as reported by the acceptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) address: Address,
    pub(crate) process: u64,
}

/// Finds addresses, best first.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Opens all connections of the client.
    pub(crate) dialer: Dialer,
    pub(crate) acceptors: AcceptorClients,
    proposers: Vec<Address>,
    learners: Vec<Address>,
    /// The members found through removed acceptors; `None`: the given acceptors are asked.
    followed: Mutex<Option<Arc<AcceptorClients>>>,
    /// Since when only removed acceptors answer.
    lost_since: Mutex<Option<Instant>>,
    /// The time of each address's last failure.
    failed: Mutex<HashMap<Address, Instant>>,
}

impl Directory {
    pub(crate) fn new(config: ClientConfig, dialer: Dialer) -> Self {
        Self {
            acceptors: AcceptorClients::new(&config.acceptors, &dialer),
            dialer,
            proposers: config.proposers,
            learners: config.learners,
            followed: Mutex::default(),
            lost_since: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Proposers to try, in order: the leader first, recently failed proposers last.
    ///
    /// # Errors
    /// No proposer is known; the cause says why.
    pub(crate) async fn proposers(&self) -> Result<Vec<Address>, Cause> {
        self.search(Role::Proposer, &self.proposers).await
    }

    /// The leader, as reported by a majority of the acceptors; `None` when the acceptors name no leader.
    ///
    /// # Cancel safety
    /// Safe: the call only reads.
    pub(crate) async fn leader(&self) -> Option<Leader> {
        let followed = self.followed();
        let acceptors = followed.as_deref().unwrap_or(&self.acceptors);
        leader(&acceptors.status(LEADER_PATIENCE, |_| true).await)
    }

    /// Proposers to ask whether they lead, in order, when the proposer `current` names `leader`. With proposers given to
    /// the client, only these: other proposers may be out of reach, and a given address may be an alias of the leader's.
    /// Proposers that failed a moment ago are left out.
    pub(crate) fn leader_candidates(&self, leader: &Address, current: &Address) -> Vec<Address> {
        let mut candidates = match &self.proposers[..] {
            [] => vec![leader.clone()],
            given => given.to_vec(),
        };
        candidates.retain(|address| address != current && !self.is_shunned(address));
        // Stable: the others stay in the order of preference.
        candidates.sort_by_key(|address| address != leader);
        candidates
    }

    /// Learners to try, in order; spread, so that not all clients choose the same learner.
    ///
    /// # Errors
    /// No learner is known; the cause says why.
    pub(crate) async fn learners(&self) -> Result<Vec<Address>, Cause> {
        self.search(Role::Learner, &self.learners).await
    }

    /// The proposers given to the client.
    pub(crate) fn given_proposers(&self) -> &[Address] {
        &self.proposers
    }

    /// The learners given to the client.
    pub(crate) fn given_learners(&self) -> &[Address] {
        &self.learners
    }

    /// Remembers that an address could not be reached, or makes no progress.
    pub(crate) fn shun(&self, address: &Address) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        failed.retain(|_, at| now.duration_since(*at) < SHUN);
        failed.insert(address.clone(), now);
    }

    /// Forgets the failure of an address.
    pub(crate) fn trust(&self, address: &Address) {
        self.failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(address);
    }

    /// Whether the address failed a moment ago.
    pub(crate) fn is_shunned(&self, address: &Address) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(address).is_some_and(|at| at.elapsed() < SHUN)
    }

    /// Whether the learners were given, so that no search is needed.
    pub(crate) fn has_fixed_learners(&self) -> bool {
        !self.learners.is_empty()
    }

    async fn search(&self, role: Role, given: &[Address]) -> Result<Vec<Address>, Cause> {
        let mut found = if given.is_empty() {
            let look = self.look(SEARCH_PATIENCE, |status| !attached(status, role).is_empty());
            let AcceptorsLook { status, lost } = look.await;
            let found = attached(&status, role);
            let count = found.len();
            let usable = found.into_iter().filter(|address| self.dialer.accepts(address));
            let found: Vec<_> = usable.collect();
            if found.is_empty() {
                return Err(lost.unwrap_or_else(|| none_found(&status, role, count)));
            }
            found
        } else {
            given.to_vec()
        };
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // Stable: within each half the order stays.
        found.sort_by_key(|address| {
            failed
                .get(address)
                .is_some_and(|at| now.duration_since(*at) < SHUN)
        });
        Ok(found)
    }
}

/// The leading proposer of the highest ballot, among recent reports. A leader replaced during a pause still counts as
/// leading in its last report, at a lower ballot.
fn leader(status: &ClusterReport) -> Option<Leader> {
    let peers = status.answers().flat_map(|answer| &answer.attached);
    let leading = peers.filter_map(|AttachedPeer { report, age_ms }| {
        let report = report.as_ref().filter(|_| *age_ms < REPORT_FRESH_MS)?;
        let Some(Progress::Proposer(progress)) = report
            .progress
            .as_ref()
            .filter(|_| report.role() == Role::Proposer)
        else {
            return None;
        };
        let ballot = progress.ballot.unwrap_or_default();
        let leader = Leader {
            address: report.address.parse().ok()?,
            process: report.peer,
        };
        progress
            .leading
            .then_some(((ballot.era, ballot.round, ballot.proposer), leader))
    });
    leading
        .max_by_key(|(ballot, _)| *ballot)
        .map(|(_, leader)| leader)
}

/// The latest report of a peer, among the reports at all acceptors.
struct Seen {
    age_ms: u64,
    /// Whether the learner refuses reads now: no catch-up since its start, or a full disk.
    refuses_reads: bool,
}

impl Seen {
    fn is_fresh(&self) -> bool {
        self.age_ms < REPORT_FRESH_MS
    }
}

/// The peers of a role named by any acceptor: the leader first, then recently reported peers, in random order. A
/// learner that refuses reads is named only when no recently reported learner serves reads: the refusal then gives the
/// reason.
fn attached(status: &ClusterReport, role: Role) -> Vec<Address> {
    let leader = leader(status).map(|leader| leader.address);
    let mut peers: HashMap<Address, Seen> = HashMap::new();
    for AttachedPeer { report, age_ms } in status.answers().flat_map(|answer| &answer.attached) {
        let Some(report) = report.as_ref().filter(|report| report.role() == role) else {
            continue;
        };
        let Ok(address) = report.address.parse() else {
            continue;
        };
        let refuses_reads =
            matches!(&report.progress, Some(Progress::Learner(learner)) if learner.refuses_reads);
        let seen = Seen {
            age_ms: *age_ms,
            refuses_reads,
        };
        let latest = peers.entry(address).or_insert(Seen {
            age_ms: u64::MAX,
            refuses_reads,
        });
        if seen.age_ms < latest.age_ms {
            *latest = seen;
        }
    }
    let mut peers: Vec<_> = peers.into_iter().collect();
    if peers
        .iter()
        .any(|(_, seen)| seen.is_fresh() && !seen.refuses_reads)
    {
        peers.retain(|(_, seen)| !seen.refuses_reads);
    }
    peers.shuffle(&mut rand::rng());
    peers.sort_by_key(|(address, seen)| {
        let is_recent = seen.age_ms < REPORT_RECENT_MS;
        (!seen.is_fresh(), leader.as_ref() != Some(address), !is_recent)
    });
    peers.into_iter().map(|(address, _)| address).collect()
}

/// No process of the role can be used; `ignored`: the number of those whose addresses have the other scheme.
fn none_found(status: &ClusterReport, role: Role, ignored: usize) -> Cause {
    let role = if role == Role::Learner {
        "learner"
    } else {
        "proposer"
    };
    if ignored > 0 {
        return Cause::unavailable(format!(
            "the acceptors name {ignored} {role}s, and no address of these has the scheme of the acceptors: with TLS \
             every process advertises https://"
        ));
    }
    let failed = status
        .acceptors
        .iter()
        .filter_map(|report| Some((&report.address, report.answer.as_ref().err()?)));
    // A denial says more than the silence of another acceptor: the client needs another certificate.
    match failed.clone().min_by_key(|(_, cause)| !cause.is_permanent()) {
        Some((address, cause)) if status.answers().next().is_none() => {
            if cause.is_permanent() {
                return cause.clone().at(address);
            }
            let causes = failed.map(|(address, cause)| format!("{address}: {cause}"));
            let causes: Vec<_> = causes.take(CAUSES_MAX).collect();
            Cause::unavailable(format!("no acceptor answers; {}", causes.join("; ")))
        }
        Some(_) | None => Cause::unavailable(format!(
            "no acceptor knows a {role}: start a {role}, or give the address of a {role}"
        )),
    }
}

/// The latest configuration that an acceptor reports, if no acceptor that answers is a member there. An acceptor that was away
/// at its removal still reports an earlier configuration. `None` for acceptors of several clusters.
fn members_elsewhere(status: &ClusterReport) -> Option<&Configuration> {
    let stamps: Vec<_> = status
        .answers()
        .filter_map(|answer| answer.stamp.as_ref())
        .collect();
    let configurations = status
        .answers()
        .filter_map(|answer| answer.configuration.as_ref());
    let latest = configurations.max_by_key(|configuration| configuration.era)?;
    let is_member = |stamp: &&Stamp| {
        latest
            .members
            .iter()
            .any(|member| member.acceptor == stamp.acceptor)
    };
    let is_one_cluster = stamps
        .windows(2)
        .all(|pair| pair[0].cluster_id == pair[1].cluster_id);
    (is_one_cluster && !stamps.iter().any(is_member)).then_some(latest)
}

#[cfg(test)]
mod tests;
