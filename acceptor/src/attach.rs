//! Attached and departed peers, with the last reports: discovery and failure detection. No safety rests on the reports.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::slot::Slot,
    service::server::{may_take, owner_of},
    wire::{TRIMS_VERSION, heard::millis},
};
use paxos_proto::v1 as pb;

mod memory;

use crate::trim_policy::{Contradiction, LearnerReport, NamedLearner, ReportedDigest, contradicting};
use memory::{DigestMemory, LearnerKey};

/// Maximum number of concurrent Attach streams: hundreds of learners, each with a place left for an undetected dead
/// stream. The largest reports of all streams fill less than half an answer to Status. The streams of one address are at
/// most half: see [`may_take`].
pub(crate) const ATTACHED_MAX: usize = 1024;

/// Slots that a learner may lag behind with its report of the size of the state: a learner further behind may report far
/// too little.
const STATE_LAG_MAX: u64 = 65_536;

/// How long a peer departed without a leaving report is remembered: long enough for a person to look.
const DEPARTED_AGE_MAX: Duration = Duration::from_mins(10);
/// Maximum number of remembered peers, the latest first. Each takes the memory of one report.
const DEPARTED_MAX: usize = 64;

/// Every peer with an open Attach stream, and the peers departed without a leaving report.
#[derive(Debug)]
pub(crate) struct Roster(Mutex<RosterContent>);

#[derive(Debug, Default)]
struct RosterContent {
    /// Longest restart of a learner.
    restart_max: Duration,
    next_key: u64,
    peers: HashMap<u64, Option<Attached>>,
    /// Number of streams of each address.
    owned: HashMap<Option<IpAddr>, usize>,
    /// The latest first.
    departed: VecDeque<Departed>,
    /// Every peer departed within the longest restart, with or without a leaving report; the latest first.
    left: VecDeque<Departed>,
    /// The peers departed with a leaving report, the latest first.
    stopped: VecDeque<Departed>,
    /// Digests of learners, also of earlier reports.
    digests: DigestMemory,
}

#[derive(Debug)]
struct Attached {
    /// The address of the stream.
    owner: Option<IpAddr>,
    report: pb::AttachRequest,
    at: Instant,
}

impl Attached {
    fn key(&self) -> LearnerKey {
        (self.owner, self.report.peer)
    }

    /// Whether this is a report of the same process, or of a different process at the same address. An empty address is
    /// no address.
    fn is_of(&self, other: &pb::AttachRequest) -> bool {
        let report = &self.report;
        let is_at_same = !report.address.is_empty() && report.address == other.address;
        self.is_of_process(other) || report.role == other.role && is_at_same
    }

    /// Whether this is a report of the same process.
    fn is_of_process(&self, other: &pb::AttachRequest) -> bool {
        self.report.role == other.role && self.report.peer == other.peer
    }

    fn listed(&self) -> pb::AttachedPeer {
        pb::AttachedPeer {
            report: Some(self.report.clone()),
            age_ms: millis(self.at.elapsed()),
        }
    }
}

/// A departed peer.
#[derive(Debug)]
struct Departed {
    last: Attached,
    at: Instant,
}

/// There are too many streams already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RosterFull;

/// A stream's place in the roster; dropping the value frees the place.
#[derive(Debug)]
pub(crate) struct Attachment {
    roster: Arc<Roster>,
    key: u64,
    owner: Option<IpAddr>,
}

impl Roster {
    /// An empty list. A learner that left counts for the longest time of a restart.
    pub(crate) fn new(restart_max: Duration) -> Self {
        Self(Mutex::new(RosterContent {
            restart_max,
            ..RosterContent::default()
        }))
    }

    /// Takes a place for a peer at this address.
    pub(crate) fn attach(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Attachment, RosterFull> {
        let owner = address.map(owner_of);
        let mut content = self.lock();
        let owned = content.owned.get(&owner).copied().unwrap_or_default();
        if !may_take(ATTACHED_MAX, content.peers.len(), owned) {
            return Err(RosterFull);
        }
        content.owned.insert(owner, owned + 1);
        let key = content.next_key;
        content.next_key += 1;
        content.peers.insert(key, None);
        Ok(Attachment {
            roster: Arc::clone(self),
            key,
            owner,
        })
    }

    /// The latest report of each peer, by role and number. A peer with a new stream beside an undetected dead stream is
    /// listed once.
    pub(crate) fn peers(&self) -> Vec<pb::AttachedPeer> {
        let content = self.lock();
        content.latest().into_iter().map(Attached::listed).collect()
    }

    /// The attached learners, by number, then the learners departed within the longest restart.
    pub(crate) fn learners(&self) -> Vec<LearnerReport> {
        // A single moment: a learner that comes back is in one of the lists.
        let mut content = self.lock();
        content.forget(Instant::now());
        let attached = content.latest().into_iter();
        let attached = attached.filter_map(|peer| learner_report(peer.report.clone(), true));
        let left = content.left.iter();
        let left = left.filter_map(|left| learner_report(left.last.report.clone(), false));
        attached.chain(left).collect()
    }

    /// Compares the digests of a snapshot with all digests of the learners of [`Self::learners`], also of earlier reports.
    /// Of several contradictions, one with another learner than the giver is returned.
    pub(crate) fn compare(&self, giver: u64, given: &ReportedDigest) -> Option<Contradiction> {
        let learners = self.learners();
        let content = self.lock();
        let reporters = contradicting(&learners, given).chain(content.digests.contradicting(given));
        let reporter = reporters.min_by_key(|reporter| reporter.peer == giver)?;
        let attached = learners.iter().find(|learner| giver > 0 && learner.peer == giver);
        let address = attached.map_or_else(String::new, |learner| learner.address.clone());
        Some(Contradiction {
            giver: NamedLearner { peer: giver, address },
            given: given.clone(),
            reporter,
        })
    }

    /// The address of a peer of a release that knows no trimmed log, attached or departed within the longest restart.
    pub(crate) fn older_peer(&self) -> Option<String> {
        let mut content = self.lock();
        content.forget(Instant::now());
        let is_older = |attached: &&Attached| {
            let caller = attached.report.caller.as_ref();
            caller.is_some_and(|caller| caller.protocol_version < TRIMS_VERSION)
        };
        let peers = content.peers.values().flatten();
        let mut peers = peers.chain(content.left.iter().map(|left| &left.last));
        Some(peers.find(is_older)?.report.address.clone())
    }

    /// The peers departed within the last ten minutes without [`Attachment::leave`], the latest first.
    pub(crate) fn departed(&self) -> Vec<pb::AttachedPeer> {
        let mut content = self.lock();
        content.forget(Instant::now());
        content
            .departed
            .iter()
            .map(|departed| departed.last.listed())
            .collect()
    }

    /// The peers that reported their stop within the last ten minutes, the latest first.
    pub(crate) fn stopped(&self) -> Vec<pb::StoppedPeer> {
        let mut content = self.lock();
        let now = Instant::now();
        content.forget(now);
        let stopped = content.stopped.iter().map(|stopped| pb::StoppedPeer {
            role: stopped.last.report.role,
            peer: stopped.last.report.peer,
            age_ms: millis(now.saturating_duration_since(stopped.at)),
            stopping: stopped.last.report.stopping,
        });
        stopped.collect()
    }

    /// Size of the registers and recorded outcomes in bytes, for the limit of the state; 0: unknown. Every slot below
    /// `chosen_to` is chosen.
    ///
    /// The smallest report counts, of learners that have applied almost everything: one learner with a wrong size cannot
    /// stop all writes.
    pub(crate) fn state_bytes(&self, chosen_to: Slot) -> u64 {
        let content = self.lock();
        let size = |attached: &Attached| match &attached.report.progress {
            Some(pb::attach_request::Progress::Learner(progress)) => {
                let is_close = progress.applied_to.saturating_add(STATE_LAG_MAX) >= chosen_to.get();
                Some(progress.state_bytes).filter(|&bytes| bytes > 0 && is_close)
            }
            Some(pb::attach_request::Progress::Proposer(_)) | None => None,
        };
        let peers = content.peers.values().flatten();
        peers.filter_map(size).min().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, RosterContent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The report of a learner; none for another peer.
fn learner_report(report: pb::AttachRequest, is_attached: bool) -> Option<LearnerReport> {
    let Some(pb::attach_request::Progress::Learner(progress)) = report.progress else {
        return None;
    };
    let digest = |digest: pb::Digest| {
        Some(ReportedDigest {
            to: Slot::new(digest.to).ok()?,
            log: digest.digest,
            state: digest.state,
        })
    };
    Some(LearnerReport {
        peer: report.peer,
        address: report.address,
        is_attached,
        applied_to: Slot::new(progress.applied_to).ok()?,
        installing_to: Slot::new(progress.installing_to)
            .ok()
            .filter(|to| *to > Slot::ZERO),
        digests: progress.digests.into_iter().filter_map(digest).collect(),
    })
}

impl RosterContent {
    /// The latest report of each peer, by role and number.
    fn latest(&self) -> Vec<&Attached> {
        let mut latest: HashMap<(i32, u64), &Attached> = HashMap::new();
        for attached in self.peers.values().flatten() {
            let peer = latest
                .entry((attached.report.role, attached.report.peer))
                .or_insert(attached);
            if attached.at > peer.at {
                *peer = attached;
            }
        }
        let mut peers: Vec<_> = latest.into_values().collect();
        peers.sort_by_key(|peer| (peer.report.role, peer.report.peer));
        peers
    }

    /// Records the end of a stream; `last` is the peer's last report.
    fn depart(&mut self, last: Attached, now: Instant) {
        if self.is_attached(&last.report) {
            return;
        }
        self.leave(&last, now);
        remember(&mut self.departed, Departed { last, at: now });
    }

    /// Records the last report of a peer.
    fn leave(&mut self, last: &Attached, now: Instant) {
        if !self.is_attached(&last.report) {
            let last = Attached {
                owner: last.owner,
                report: last.report.clone(),
                at: now,
            };
            remember(&mut self.left, Departed { last, at: now });
        }
    }

    /// Records that a peer ends a stream on purpose. Earlier streams of the same process have ended, too, although this
    /// acceptor may not have noticed. A later stream goes on, and so does a stream from another address: another process may
    /// claim the number of the peer.
    fn end_on_purpose(&mut self, key: u64, stopping: Option<bool>, now: Instant) {
        let Some(Some(mut last)) = self.peers.insert(key, None) else {
            return;
        };
        last.report.stopping = stopping;
        for (_, earlier) in self.peers.iter_mut().filter(|(other, _)| **other < key) {
            earlier.take_if(|earlier| earlier.owner == last.owner && earlier.is_of_process(&last.report));
        }
        self.leave(&last, now);
        let mut attached = self.peers.values().flatten();
        if !attached.any(|attached| attached.is_of_process(&last.report)) {
            remember(&mut self.stopped, Departed { last, at: now });
        }
    }

    fn is_attached(&self, report: &pb::AttachRequest) -> bool {
        let mut attached = self.peers.values().flatten();
        attached.any(|attached| attached.is_of(report))
    }

    fn forget(&mut self, now: Instant) {
        let is_younger = |departed: &Departed, age| now.saturating_duration_since(departed.at) < age;
        for departed in [&mut self.departed, &mut self.stopped] {
            departed.retain(|departed| is_younger(departed, DEPARTED_AGE_MAX));
        }
        let restart_max = self.restart_max;
        self.left.retain(|left| is_younger(left, restart_max));
        let attached = self.peers.values().flatten().map(Attached::key).collect();
        self.digests.forget(&attached, restart_max, now);
    }
}

/// Adds a departed peer in place of an earlier process at the same address.
fn remember(departed: &mut VecDeque<Departed>, peer: Departed) {
    departed.retain(|other| !other.last.is_of(&peer.last.report));
    departed.truncate(DEPARTED_MAX - 1);
    departed.push_front(peer);
}

impl Attachment {
    /// Takes the peer's latest report.
    pub(crate) fn report(&self, report: pb::AttachRequest) {
        let mut content = self.roster.lock();
        let RosterContent {
            departed,
            left,
            stopped,
            ..
        } = &mut *content;
        for list in [departed, left, stopped] {
            list.retain(|departed| !departed.last.is_of(&report));
        }
        let owner = self.owner;
        let at = Instant::now();
        let attached = Attached { owner, report, at };
        content.peers.insert(self.key, Some(attached));
    }

    /// Remembers the digests of the latest report, except digests above the cap of trims.
    pub(crate) fn remember(&self, cap: Slot) {
        let mut content = self.roster.lock();
        let RosterContent { peers, digests, .. } = &mut *content;
        if let Some(Some(attached)) = peers.get(&self.key)
            && let Some(pb::attach_request::Progress::Learner(progress)) = &attached.report.progress
        {
            digests.reported(attached.key(), &attached.report.address, &progress.digests, cap);
        }
    }

    /// The peer ends the stream on purpose, and is not listed as departed. `stopping`: as in the report.
    pub(crate) fn leave(&self, stopping: Option<bool>) {
        let now = Instant::now();
        self.roster.lock().end_on_purpose(self.key, stopping, now);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut content = self.roster.lock();
        if let Some(owned) = content.owned.get_mut(&self.owner) {
            *owned -= 1;
            if *owned == 0 {
                content.owned.remove(&self.owner);
            }
        }
        if let Some(Some(last)) = content.peers.remove(&self.key) {
            content.depart(last, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;
