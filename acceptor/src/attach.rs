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

use crate::retention::{LearnerReport, ReportedDigest};

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
}

#[derive(Debug)]
struct Attached {
    report: pb::AttachRequest,
    at: Instant,
}

impl Attached {
    /// Whether this is a report of the same process, or of a different process at the same address. An empty address is
    /// no address.
    fn is_of(&self, other: &pb::AttachRequest) -> bool {
        let report = &self.report;
        let is_at_same = !report.address.is_empty() && report.address == other.address;
        report.role == other.role && (report.peer == other.peer || is_at_same)
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
        self.leave(last.report.clone(), now);
        remember(&mut self.departed, Departed { last, at: now });
    }

    /// Records the last report of a peer.
    fn leave(&mut self, report: pb::AttachRequest, now: Instant) {
        if !self.is_attached(&report) {
            let last = Attached { report, at: now };
            remember(&mut self.left, Departed { last, at: now });
        }
    }

    fn is_attached(&self, report: &pb::AttachRequest) -> bool {
        let mut attached = self.peers.values().flatten();
        attached.any(|attached| attached.is_of(report))
    }

    fn forget(&mut self, now: Instant) {
        let is_younger = |departed: &Departed, age| now.saturating_duration_since(departed.at) < age;
        self.departed
            .retain(|departed| is_younger(departed, DEPARTED_AGE_MAX));
        let restart_max = self.restart_max;
        self.left.retain(|left| is_younger(left, restart_max));
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
        content.departed.retain(|departed| !departed.last.is_of(&report));
        content.left.retain(|left| !left.last.is_of(&report));
        let at = Instant::now();
        content.peers.insert(self.key, Some(Attached { report, at }));
    }

    /// The peer reports its stop, and is not listed as departed.
    pub(crate) fn leave(&self) {
        let mut content = self.roster.lock();
        if let Some(Some(last)) = content.peers.insert(self.key, None) {
            content.leave(last.report, Instant::now());
        }
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
mod tests {
    use super::*;

    const RESTART_MAX: Duration = Duration::from_mins(1);

    fn report(peer: u64, address: &str) -> pb::AttachRequest {
        pb::AttachRequest {
            role: pb::Role::Learner.into(),
            peer,
            address: address.into(),
            ..Default::default()
        }
    }

    #[test]
    fn roster_keeps_the_latest_report_of_each_attached_peer() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let (old, new, other) = (
            roster.attach(None).unwrap(),
            roster.attach(None).unwrap(),
            roster.attach(None).unwrap(),
        );
        old.report(report(1, "http://old:1"));
        new.report(report(1, "http://new:1"));
        other.report(report(2, "http://b:1"));
        let addresses = || -> Vec<String> {
            roster
                .peers()
                .into_iter()
                .map(|peer| peer.report.unwrap().address)
                .collect()
        };
        assert_eq!(addresses(), ["http://new:1", "http://b:1"]);
        drop(new);
        drop(other);
        assert_eq!(addresses(), ["http://old:1"]);
    }

    #[test]
    fn peer_that_leaves_without_a_word_is_remembered_until_it_is_back() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let departed = || -> Vec<_> {
            let departed = roster.departed().into_iter();
            departed.map(|peer| peer.report.unwrap().peer).collect()
        };
        let (killed, stopped, twice) = (
            roster.attach(None).unwrap(),
            roster.attach(None).unwrap(),
            roster.attach(None).unwrap(),
        );
        killed.report(report(1, "http://a:1"));
        stopped.report(report(2, "http://b:1"));
        twice.report(report(3, "http://c:1"));
        let again = roster.attach(None).unwrap();
        again.report(report(3, "http://c:1"));
        stopped.leave();
        drop((killed, stopped, twice));
        assert_eq!(
            departed(),
            [1],
            "one said that it stops, and one has another stream"
        );
        drop(again);
        assert_eq!(departed(), [3, 1]);
        let back = roster.attach(None).unwrap();
        back.report(report(3, "http://d:1"));
        assert_eq!(departed(), [1]);
        // Another process at the address.
        back.report(report(4, "http://a:1"));
        assert_eq!(departed(), [] as [u64; 0]);
    }

    #[test]
    fn peers_without_an_address_are_different_peers() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let (killed, stays) = (roster.attach(None).unwrap(), roster.attach(None).unwrap());
        killed.report(report(1, ""));
        stays.report(report(2, ""));
        drop(killed);
        stays.report(report(2, ""));
        let departed = roster.departed();
        assert_eq!(departed.len(), 1, "{departed:?}");
        assert_eq!(departed[0].report.as_ref().unwrap().peer, 1);
    }

    #[test]
    fn learner_that_comes_back_is_in_one_of_the_lists_at_every_moment() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let attach = |roster: &Arc<Roster>| {
            let attachment = roster.attach(None).unwrap();
            attachment.report(pb::AttachRequest {
                progress: Some(pb::attach_request::Progress::Learner(
                    pb::LearnerProgress::default(),
                )),
                ..report(1, "http://a:1")
            });
            attachment
        };
        drop(attach(&roster));
        let coming = Arc::clone(&roster);
        let comes_back = std::thread::spawn(move || {
            for _ in 0..20_000 {
                drop(attach(&coming));
            }
        });
        while !comes_back.is_finished() {
            assert_eq!(roster.learners().len(), 1);
        }
        comes_back.join().unwrap();
    }

    #[test]
    fn departed_learners_count_for_the_longest_restart_however_they_departed() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let attach = |peer: u64, version| {
            let attachment = roster.attach(None).unwrap();
            attachment.report(pb::AttachRequest {
                caller: Some(pb::Caller {
                    protocol_version: version,
                    ..Default::default()
                }),
                progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                    applied_to: 7,
                    ..Default::default()
                })),
                ..report(peer, &format!("http://l:{peer}"))
            });
            attachment
        };
        let learners = || -> Vec<_> {
            let learners = roster.learners().into_iter();
            learners
                .map(|learner| (learner.peer, learner.is_attached))
                .collect()
        };
        let killed = attach(1, 2);
        assert_eq!(roster.older_peer(), None, "version 2 knows trimmed logs forever");
        let stopped = attach(2, 1);
        assert_eq!(learners(), [(1, true), (2, true)]);
        assert_eq!(roster.older_peer().unwrap(), "http://l:2");
        stopped.leave();
        assert_eq!(roster.departed().len(), 0);
        drop((killed, stopped));
        assert_eq!(learners(), [(1, false), (2, false)]);
        assert_eq!(roster.older_peer().unwrap(), "http://l:2");
        let _back = attach(2, 2);
        assert_eq!(learners(), [(2, true), (1, false)]);
        assert_eq!(roster.older_peer(), None);
        roster.lock().forget(Instant::now() + RESTART_MAX);
        assert_eq!(roster.learners().len(), 1);
    }

    #[test]
    fn size_of_the_state_is_the_smallest_of_learners_close_to_the_end() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let attach = |peer, applied_to, state_bytes| {
            let attachment = roster.attach(None).unwrap();
            attachment.report(pb::AttachRequest {
                progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                    applied_to,
                    state_bytes,
                    ..Default::default()
                })),
                ..report(peer, "http://a:1")
            });
            attachment
        };
        let chosen_to = Slot::new(STATE_LAG_MAX + 10).unwrap();
        let _late = attach(1, 9, 5);
        let _older_release = attach(2, chosen_to.get(), 0);
        assert_eq!(roster.state_bytes(chosen_to), 0);
        let _wrong = attach(3, chosen_to.get(), i64::MAX as u64);
        let close = attach(4, 10, 700);
        assert_eq!(roster.state_bytes(chosen_to), 700);
        drop(close);
        assert_eq!(roster.state_bytes(chosen_to), i64::MAX as u64);
    }

    #[test]
    fn departed_peers_are_bounded_and_forgotten() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        for peer in 0..2 * DEPARTED_MAX {
            let attachment = roster.attach(None).unwrap();
            attachment.report(report(peer as u64, &format!("http://a:{peer}")));
        }
        assert_eq!(roster.departed().len(), DEPARTED_MAX);
        let mut content = roster.lock();
        content.forget(Instant::now() + DEPARTED_AGE_MAX);
        assert!(content.departed.is_empty());
    }

    #[test]
    fn roster_is_bounded_and_one_address_has_half() {
        let roster = Arc::new(Roster::new(RESTART_MAX));
        let attach = |number: u32| roster.attach(Some(IpAddr::from(number.to_be_bytes())));
        let mut greedy: Vec<_> = (0..ATTACHED_MAX / 2).map(|_| attach(1).unwrap()).collect();
        assert_eq!(attach(1).unwrap_err(), RosterFull);
        // 64 addresses with 8 streams each.
        let mut others: Vec<_> = (0..512).map(|number| attach(2 + number / 8).unwrap()).collect();
        assert_eq!(attach(999).unwrap_err(), RosterFull);
        others.pop();
        assert!(attach(999).is_ok());
        drop(others);
        greedy.pop();
        assert!(attach(1).is_ok());
        drop(greedy);
        assert!(roster.lock().owned.is_empty());
    }
}
