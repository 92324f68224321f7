//! When an acceptor asks for a snapshot, and when it trims its log: decisions without a disk, a network or a clock.
//!
//! An acceptor *asks* one attached learner for a snapshot if no snapshot is arriving, and a reason holds:
//!
//! | reason | end of the snapshot above | the trim |
//! | --- | --- | --- |
//! | the log has grown by a step, and no snapshot waits; never with `--retain-bytes all` | first slot of the log | when due |
//! | *behind*: a leader is active, and the sound watermark is below the leader's and has not moved for 10 s | sound watermark | at once |
//! | the file of the bottom is damaged | first slot of the log | at once |
//! | the disk is low on space; never with `--retain-bytes all` | first slot of the log | at once |
//!
//! A trim is *due* when the log has grown by one step since the waiting snapshot arrived. A step is the larger of
//! `--retain-bytes` and the size of the bottom. Every trim is held back:
//! - while an attached peer is of an earlier release, which knows no trimmed log;
//! - from different digests of two learners at the same slot until the learners agree again, because a snapshot might come
//!   from the wrong learner. For both reasons the acceptor asks for no snapshot either;
//! - in the first 10 s after the start, in which learners attach again; less with a shorter `--restart-max`.
//!
//! A trim that is due is also held back by a learner below the end of the snapshot, and after the start for the longest
//! restart (`--restart-max`), but only until the log has grown by two steps. A peer that departed within the longest restart still
//! counts, with the last report.
//!
//! An acceptor *outside*, which its configuration does not list, takes and trims to a snapshot above the sound watermark at
//! once: its leader brings one only if no member has the next row any more, and no learner attaches.
//!
//! A waiting snapshot above the cap for a minute counts for nothing, and the acceptor forgets the snapshot: a forged claim
//! had raised the cap. This holds for a damaged file too: at the next start the record would raise the cap again. Only time
//! with a leader counts: without a leader the cap does not move, and after a restart the record of the snapshot stands for
//! the claim of the leader before, so that a full acceptor can trim. An acceptor on a full disk that keeps the whole log is
//! not lifted.
//!
//! An acceptor low on space forgets no such snapshot: a new leader may claim less than the leader before. Usually a later
//! claim lets the acceptor trim to the snapshot. If a majority is full, no leader gets further: the acceptor has turned away
//! a proposal at or above the cap, and the cap has stood still for a minute since, or no leader is left. Then the record
//! stands for the earlier claim as after a restart, and the acceptor trims. A leader that only has nothing to order proves
//! nothing: then the acceptor waits.
//!
//! A snapshot that contradicts the digest of a learner is refused, and counts as such a difference. After this and any other
//! failed upload the acceptor pauses, and asks the next learner.
//!
//! A snapshot that waits while digests differ is *suspect*: the snapshot may come from the wrong learner. A suspect
//! snapshot counts for nothing, also once the learners agree again, and the acceptor forgets the snapshot. No snapshot is
//! recorded while digests differ.

use std::time::{Duration, Instant};

use paxos_common::paxos::slot::Slot;

use crate::{
    snapshot_change::ForgetReason,
    store::snapshots::{KeptSnapshots, SnapshotId},
};

mod contradiction;
mod digests;
mod hindrance;

pub(crate) use contradiction::Contradiction;
use digests::Differences;
pub(crate) use digests::{NamedLearner, ReportedDigest, contradicting};
pub(crate) use hindrance::Hindrance;
use hindrance::{answer, forbidden};

/// How long the sound watermark stays below the leader's before the acceptor counts as behind: a leader that repairs the
/// acceptor moves the watermark more often.
const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// How long an asked learner has for the beginning of an upload. Also the pause after an upload that failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long after the start nothing is trimmed at all: attached peers come back within seconds.
const ATTACH_MAX: Duration = Duration::from_secs(10);
/// How long a waiting snapshot may end above the cap: a leader repeats its claim in less.
const ABOVE_CAP_MAX: Duration = Duration::from_mins(1);

/// The part of the log that an acceptor keeps at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainBytes {
    /// This many bytes, and the log is trimmed.
    AtLeast(u64),
    /// The whole log.
    All,
}

/// A learner that is attached, or departed within the longest restart, as of the latest report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LearnerReport {
    /// Number of the process.
    pub(crate) peer: u64,
    pub(crate) address: String,
    pub(crate) is_attached: bool,
    /// Every slot below is applied.
    pub(crate) applied_to: Slot,
    /// End of the snapshot that the learner installs.
    pub(crate) installing_to: Option<Slot>,
    pub(crate) digests: Vec<ReportedDigest>,
}

impl LearnerReport {
    pub(crate) fn name(&self) -> NamedLearner {
        NamedLearner {
            peer: self.peer,
            address: self.address.clone(),
        }
    }

    /// The first slot that the learner still needs.
    fn position(&self) -> Slot {
        self.installing_to.unwrap_or(self.applied_to).max(self.applied_to)
    }
}

/// The facts of a moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) now: Instant,
    /// Bytes of the log; none while trimmed rows are being deleted, and while the size is not known.
    pub(crate) log_bytes: Option<u64>,
    /// The first slot of the log.
    pub(crate) trimmed_to: Slot,
    /// The sound watermark.
    pub(crate) chosen_to: Slot,
    /// Cap of trims: the leader's watermark.
    pub(crate) cap: Slot,
    /// A leader is heard.
    pub(crate) has_leader: bool,
    /// The present configuration does not list this acceptor.
    pub(crate) is_outside: bool,
    /// A proposal at or above the cap was turned away for lack of space, and the cap has not moved since.
    pub(crate) is_leader_stuck: bool,
    /// The disk is low on space.
    pub(crate) is_low: bool,
    /// The recorded snapshots.
    pub(crate) snapshots: KeptSnapshots,
    /// The recorded snapshots whose file is missing or wrong.
    pub(crate) damaged: &'a [SnapshotId],
    /// A snapshot is arriving.
    pub(crate) is_arriving: bool,
    /// Number of failed uploads since the start.
    pub(crate) failures: u64,
    /// All attached learners, by number, and learners departed within the longest restart.
    pub(crate) learners: &'a [LearnerReport],
    /// The snapshots that contradicted a learner since the last look.
    pub(crate) contradictions: &'a [Contradiction],
    /// The address of a peer of an earlier release, attached or departed within the longest restart.
    pub(crate) older_peer: Option<&'a str>,
}

/// A question for a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotWish {
    /// Number of the asked learner.
    pub(crate) peer: u64,
    /// The snapshot ends above this slot.
    pub(crate) above: Slot,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TrimDecision {
    /// The question to repeat in every answer to the learner.
    pub(crate) wish: Option<SnapshotWish>,
    /// The waiting snapshot to trim to, once its file is checked.
    pub(crate) trim: Option<SnapshotId>,
    /// What the next trim waits for; none if it waits for nothing.
    pub(crate) waits_for: Option<Hindrance>,
    /// The acceptor is behind, or outside: every caller may send a snapshot above this slot.
    pub(crate) lift_above: Option<Slot>,
    /// The waiting snapshot counts for nothing: it has ended above the cap for too long, or is suspect.
    pub(crate) ignores_waiting: bool,
    /// The waiting snapshot that is suspect, or has ended above the cap for too long: its record and its file go.
    pub(crate) forget: Option<(SnapshotId, ForgetReason)>,
    /// Digests of learners differ below this slot, or differed and do not agree again yet: no snapshot is recorded.
    pub(crate) differ_below: Option<Slot>,
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct TrimPolicy {
    retain_bytes: RetainBytes,
    /// Longest restart of a learner: for this time after the start no trim is due.
    restart_max: Duration,
    /// Time of the first look.
    begun: Option<Instant>,
    /// The sound watermark, and the time of its last move.
    moved: Option<(Slot, Instant)>,
    /// The cap, and the time of its last move.
    cap_moved: Option<(Slot, Instant)>,
    differences: Differences,
    /// The waiting snapshot, with the fewest bytes of the log since its arrival. The record may have more: the log of a
    /// sweep in progress.
    begun_at: Option<(SnapshotId, u64)>,
    /// The waiting snapshot above the cap, and since when.
    above_cap: Option<(SnapshotId, Instant)>,
    /// The snapshot that waited while digests differed, as long as its record stays.
    suspect: Option<SnapshotId>,
    asked: Option<Asked>,
    /// Number of the learner asked last.
    last_asked: Option<u64>,
    /// Number of failed uploads at the last look.
    failures: u64,
    /// No question before this time.
    pause: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: u64,
    until: Instant,
}

/// The smallest step of the log between two trims, in bytes.
pub(crate) fn step(retain_bytes: RetainBytes, snapshots: &KeptSnapshots) -> u64 {
    let bottom = snapshots.bottom.map_or(0, |bottom| bottom.id.bytes);
    match retain_bytes {
        RetainBytes::AtLeast(bytes) => bytes.max(bottom),
        RetainBytes::All => u64::MAX,
    }
}

impl TrimPolicy {
    pub(crate) fn new(retain_bytes: RetainBytes, restart_max: Duration) -> Self {
        Self {
            retain_bytes,
            restart_max,
            begun: None,
            moved: None,
            cap_moved: None,
            differences: Differences::default(),
            begun_at: None,
            above_cap: None,
            suspect: None,
            asked: None,
            last_asked: None,
            failures: 0,
            pause: None,
        }
    }

    /// Decides. Call this about once a second, and after each arrival.
    pub(crate) fn look(&mut self, facts: &Facts<'_>) -> TrimDecision {
        // Also sees a difference while another reason holds a trim back.
        let differences = &mut self.differences;
        let differ_below = differences.look(facts.learners, facts.contradictions, facts.cap);
        self.suspect(facts, differ_below.is_some());
        self.remember(facts);
        let forbidden = forbidden(facts, differ_below);
        let trim = match &forbidden {
            Some(hindrance) => Err(hindrance.clone()),
            None => self.trim(facts),
        };
        let wish = match self.wanted_above(facts) {
            Some(above) if forbidden.is_none() => Some(self.ask(above, facts)),
            above => {
                self.asked = None;
                // The next question goes to the next learner, also after a difference.
                self.last_asked = self.last_asked.filter(|_| above.is_some());
                None
            }
        };
        let waits_for = match (&trim, &wish) {
            (Ok(_), _) => None,
            (Err(_), _) if facts.is_arriving && forbidden.is_none() => Some(Hindrance::Arrival),
            (Err(_), Some(Ok(wish))) => Some(answer(*wish, facts)),
            (Err(_), Some(Err(hindrance))) | (Err(hindrance), None) => Some(hindrance.clone()),
        };
        let wish = wish.and_then(Result::ok);
        let is_lifted = forbidden.is_none() && self.may_be_lifted(facts);
        TrimDecision {
            wish,
            trim: trim.ok(),
            waits_for,
            lift_above: is_lifted.then_some(facts.chosen_to),
            ignores_waiting: self.stuck(facts).is_some() || self.suspect.is_some(),
            forget: self.forget(facts),
            differ_below,
        }
    }

    fn forget(&self, facts: &Facts<'_>) -> Option<(SnapshotId, ForgetReason)> {
        if let Some(id) = self.suspect {
            return Some((id, ForgetReason::Suspect));
        }
        let stuck = self.stuck(facts).filter(|_| !facts.is_low);
        stuck.map(|id| (id, ForgetReason::AboveCap))
    }

    /// Remembers a snapshot that waits while digests differ.
    fn suspect(&mut self, facts: &Facts<'_>, differ: bool) {
        let waiting = facts.snapshots.waiting.map(|waiting| waiting.id);
        self.suspect = waiting.filter(|id| differ || self.suspect == Some(*id));
    }

    /// The waiting snapshot, unless damaged or suspect, with the bytes of the log at its arrival.
    fn waiting(&self, facts: &Facts<'_>) -> Option<(SnapshotId, u64)> {
        facts.waiting().filter(|(id, _)| self.suspect != Some(*id))
    }

    fn remember(&mut self, facts: &Facts<'_>) {
        self.begun.get_or_insert(facts.now);
        if self.moved.is_none_or(|(slot, _)| slot != facts.chosen_to) {
            self.moved = Some((facts.chosen_to, facts.now));
        }
        if self.cap_moved.is_none_or(|(slot, _)| slot != facts.cap) {
            self.cap_moved = Some((facts.cap, facts.now));
        }
        self.begun_at = self.waiting(facts).map(|(waiting, recorded)| {
            let known = self.begun_at.filter(|(id, _)| *id == waiting);
            let known = known.map_or(recorded, |(_, bytes)| bytes);
            (waiting, facts.log_bytes.unwrap_or(known).min(known))
        });
        // Without a leader the cap does not move. A damaged file counts too: its record raises the cap at the next start.
        let waiting = facts.snapshots.waiting.map(|waiting| waiting.id);
        let above = waiting.filter(|id| facts.has_leader && id.to > facts.cap);
        self.above_cap = above.map(|waiting| {
            let known = self.above_cap.filter(|(id, _)| *id == waiting);
            known.unwrap_or((waiting, facts.now))
        });
    }

    /// The waiting snapshot, if a trim to its end may happen now; otherwise the hindrance.
    fn trim(&self, facts: &Facts<'_>) -> Result<SnapshotId, Hindrance> {
        let step = step(self.retain_bytes, &facts.snapshots);
        let (Some((waiting, _)), Some((_, begun_at))) = (self.waiting(facts), self.begun_at) else {
            return Err(match (self.retain_bytes, facts.log_bytes) {
                (RetainBytes::All, _) => Hindrance::KeepsAll,
                (RetainBytes::AtLeast(_), None) => Hindrance::Sweep,
                (RetainBytes::AtLeast(_), Some(log_bytes)) => Hindrance::Growth {
                    log_bytes,
                    wanted: step,
                },
            });
        };
        if waiting.to > facts.cap && !self.record_stands_for_claim(facts) {
            return Err(Hindrance::Cap { to: waiting.to });
        }
        let lifts = waiting.to > facts.chosen_to && self.may_be_lifted(facts);
        if lifts || facts.bottom_is_damaged() || self.needs_space(facts) {
            return if self.is_attaching(facts) {
                Err(Hindrance::Start)
            } else {
                Ok(waiting)
            };
        }
        if self.retain_bytes == RetainBytes::All {
            return Err(Hindrance::KeepsAll);
        }
        let log_bytes = facts.log_bytes.ok_or(Hindrance::Sweep)?;
        let due = begun_at.saturating_add(step);
        if log_bytes < due {
            return Err(Hindrance::Growth {
                log_bytes,
                wanted: due,
            });
        }
        let is_long = log_bytes >= due.saturating_add(step);
        if self.is_attaching(facts) || (self.is_younger(facts, self.restart_max) && !is_long) {
            return Err(Hindrance::Start);
        }
        let below = facts
            .learners
            .iter()
            .find(|learner| learner.position() < waiting.to);
        match below {
            Some(learner) if !is_long => Err(Hindrance::Learner {
                address: learner.address.clone(),
                position: learner.position(),
                to: waiting.to,
            }),
            Some(_) | None => Ok(waiting),
        }
    }

    /// Whether learners may still attach again after the start.
    fn is_attaching(&self, facts: &Facts<'_>) -> bool {
        !facts.is_outside && self.is_younger(facts, ATTACH_MAX.min(self.restart_max))
    }

    /// Whether the process started less than this time ago.
    fn is_younger(&self, facts: &Facts<'_>, age: Duration) -> bool {
        self.begun
            .is_none_or(|begun| facts.now.saturating_duration_since(begun) < age)
    }

    /// The waiting snapshot, if it has ended above the cap for too long.
    fn stuck(&self, facts: &Facts<'_>) -> Option<SnapshotId> {
        let (id, since) = self.above_cap?;
        let is_trimmed_to = self.record_stands_for_claim(facts) && !facts.is_damaged(id);
        (facts.now.saturating_duration_since(since) >= ABOVE_CAP_MAX && !is_trimmed_to).then_some(id)
    }

    /// Whether an acceptor low on space trims to a waiting snapshot above the cap: no leader is left, or the leader gets no
    /// further.
    fn record_stands_for_claim(&self, facts: &Facts<'_>) -> bool {
        let stands = self
            .cap_moved
            .is_some_and(|(_, at)| facts.now.saturating_duration_since(at) >= ABOVE_CAP_MAX);
        stands && self.needs_space(facts) && (facts.is_leader_stuck || !facts.has_leader)
    }

    /// The slot above which a new snapshot must end; none without a reason for a snapshot.
    fn wanted_above(&self, facts: &Facts<'_>) -> Option<Slot> {
        let has_grown = match self.retain_bytes {
            RetainBytes::All => false,
            RetainBytes::AtLeast(_) => facts
                .log_bytes
                .is_some_and(|bytes| bytes >= step(self.retain_bytes, &facts.snapshots)),
        };
        let above = if self.is_behind(facts) {
            facts.chosen_to
        } else if has_grown || facts.bottom_is_damaged() || self.needs_space(facts) {
            facts.trimmed_to
        } else {
            return None;
        };
        let waits = self.waiting(facts).is_some_and(|(waiting, _)| waiting.to > above);
        (!waits || self.stuck(facts).is_some()).then_some(above)
    }

    fn is_behind(&self, facts: &Facts<'_>) -> bool {
        let stands = self
            .moved
            .is_some_and(|(_, at)| facts.now.saturating_duration_since(at) >= BEHIND_AFTER);
        stands && self.lacks_slots(facts)
    }

    /// Whether any caller may send a snapshot that lifts this acceptor.
    fn may_be_lifted(&self, facts: &Facts<'_>) -> bool {
        self.is_behind(facts) || (facts.is_outside && self.lacks_slots(facts))
    }

    /// Whether an active leader has reported slots that this acceptor lacks.
    fn lacks_slots(&self, facts: &Facts<'_>) -> bool {
        let keeps_all = facts.is_low && self.retain_bytes == RetainBytes::All;
        facts.has_leader && facts.chosen_to < facts.cap && !keeps_all
    }

    /// Whether a trim shall make space on the disk.
    fn needs_space(&self, facts: &Facts<'_>) -> bool {
        facts.is_low && self.retain_bytes != RetainBytes::All
    }

    /// The learner to ask for a snapshot above a slot: the same learner until its time is over, then the next. Otherwise the
    /// reason for no question.
    fn ask(&mut self, above: Slot, facts: &Facts<'_>) -> Result<SnapshotWish, Hindrance> {
        if facts.is_arriving {
            self.asked = None;
            return Err(Hindrance::Arrival);
        }
        if self.failures != facts.failures {
            self.failures = facts.failures;
            self.asked = None;
            self.pause = Some(facts.now + ANSWER_MAX);
        }
        if self.pause.is_some_and(|until| facts.now < until) {
            return Err(Hindrance::Pause);
        }
        self.pause = None;
        let able = |learner: &&LearnerReport| {
            learner.is_attached && learner.installing_to.is_none() && learner.applied_to > above
        };
        let able = || facts.learners.iter().filter(able);
        let asked = self.asked.filter(|asked| facts.now < asked.until);
        let asked = asked.filter(|asked| able().any(|learner| learner.peer == asked.peer));
        let asked = asked.or_else(|| {
            let next = able().find(|learner| self.last_asked.is_none_or(|last| learner.peer > last));
            let peer = next.or_else(|| able().next())?.peer;
            let until = facts.now + ANSWER_MAX;
            Some(Asked { peer, until })
        });
        self.asked = asked;
        let Asked { peer, .. } = asked.ok_or(Hindrance::NoLearner { above })?;
        self.last_asked = Some(peer);
        Ok(SnapshotWish { peer, above })
    }
}

impl Facts<'_> {
    fn is_damaged(&self, id: SnapshotId) -> bool {
        self.damaged.contains(&id)
    }

    fn bottom_is_damaged(&self) -> bool {
        self.snapshots
            .bottom
            .is_some_and(|bottom| self.is_damaged(bottom.id))
    }

    /// The waiting snapshot, unless damaged, with the bytes of the log at its arrival.
    fn waiting(&self) -> Option<(SnapshotId, u64)> {
        let waiting = self.snapshots.waiting?;
        (!self.is_damaged(waiting.id)).then_some((waiting.id, waiting.log_bytes))
    }
}

#[cfg(test)]
mod tests;
