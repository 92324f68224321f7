//! When an acceptor asks for a snapshot, and when it trims its log: decisions without a disk, a network or a clock.
//!
//! An acceptor *asks* one attached learner for a snapshot if no snapshot is arriving, and a reason holds:
//!
//! | reason | end of the snapshot above | the trim |
//! | --- | --- | --- |
//! | the log has grown by a step, and no snapshot waits; never with `--retain-bytes all` | first slot of the log | when due |
//! | *behind*: a leader is active, and the own watermark is below the leader's and has not moved for 10 s | own watermark | at once |
//! | the file of the bottom is damaged | first slot of the log | at once |
//! | the disk is low on space; never with `--retain-bytes all` | first slot of the log | at once |
//!
//! A trim is *due* when the log has grown by one step since the waiting snapshot arrived. Two things hold a trim back:
//! attached learners with different digests at the same slot, until a person has acted; and, for a trim that is due, an
//! attached learner below the end of the snapshot, until the log has grown by two steps. While digests differ the
//! acceptor asks for no snapshot either: the snapshot might come from the wrong learner.
//!
//! A step is the larger of `--retain-bytes` and the size of the bottom.

use std::{
    fmt,
    time::{Duration, Instant},
};

use bytes::Bytes;
use paxos_common::paxos::slot::Slot;

use crate::store::snapshots::{KeptSnapshots, SnapshotId};

/// How long the own watermark stays below the leader's before the acceptor counts as behind: a leader that repairs the
/// acceptor moves the watermark more often.
const BEHIND_AFTER: Duration = Duration::from_secs(10);
/// How long an asked learner has for the beginning of an upload. Also the pause after an upload that failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The part of the log that an acceptor keeps at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainBytes {
    /// This many bytes, and the log is trimmed.
    AtLeast(u64),
    /// The whole log.
    All,
    /// The whole log; no snapshot is wanted or taken.
    Off,
}

/// An attached learner, as of its latest report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LearnerReport {
    /// Number of the process.
    pub(crate) peer: u64,
    pub(crate) address: String,
    /// Every slot below is applied.
    pub(crate) applied_to: Slot,
    /// End of the snapshot that the learner installs.
    pub(crate) installing_to: Option<Slot>,
    pub(crate) digests: Vec<ReportedDigest>,
}

impl LearnerReport {
    /// The first slot that the learner still needs.
    fn position(&self) -> Slot {
        self.installing_to.unwrap_or(self.applied_to).max(self.applied_to)
    }
}

/// A digest of a learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedDigest {
    /// The digest covers every slot below.
    pub(crate) to: Slot,
    pub(crate) log: Bytes,
    /// Empty: unknown.
    pub(crate) state: Bytes,
}

/// The facts of a moment.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) now: Instant,
    /// Bytes of the log; none while trimmed rows are being deleted.
    pub(crate) log_bytes: Option<u64>,
    /// The first slot of the log.
    pub(crate) trimmed_to: Slot,
    /// The own watermark.
    pub(crate) chosen_to: Slot,
    /// Cap of trims: the leader's watermark.
    pub(crate) cap: Slot,
    /// A leader is heard.
    pub(crate) has_leader: bool,
    /// The disk is low on space.
    pub(crate) is_low: bool,
    /// The recorded snapshots.
    pub(crate) snapshots: KeptSnapshots,
    /// The recorded snapshots whose file is missing or wrong.
    pub(crate) damaged: &'a [SnapshotId],
    /// A snapshot is arriving.
    pub(crate) is_arriving: bool,
    /// All attached learners, by number.
    pub(crate) learners: &'a [LearnerReport],
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
}

/// What the next trim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hindrance {
    /// No trim is wanted.
    KeepsAll,
    /// Trimmed rows are being deleted.
    Sweep,
    /// The log is still small.
    Growth { log_bytes: u64, wanted: u64 },
    /// Digests of attached learners differ.
    DifferentDigests { to: Slot },
    /// No attached learner can give the snapshot.
    NoLearner { above: Slot },
    /// A learner is asked, and no snapshot has arrived yet.
    Answer { peer: u64, above: Slot },
    /// A snapshot is arriving.
    Arrival,
    /// The leader has not reported yet that the slots of the snapshot are chosen.
    Cap { to: Slot },
    /// A learner is below the end of the snapshot.
    Learner {
        address: String,
        position: Slot,
        to: Slot,
    },
}

impl fmt::Display for Hindrance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        match self {
            Self::KeepsAll => write!(formatter, "nothing: this acceptor keeps the whole log"),
            Self::Sweep => write!(formatter, "the deletion of trimmed rows"),
            Self::Growth { log_bytes, wanted } => {
                let (log, wanted) = (log_bytes / MIB, wanted.div_ceil(MIB));
                write!(formatter, "more log: the log has {log} MiB of {wanted} MiB")
            }
            Self::DifferentDigests { to } => write!(
                formatter,
                "a person: the digests of two learners differ below slot {to}. Empty the data directory of the wrong \
                 learner, of two learners both"
            ),
            Self::NoLearner { above } => write!(
                formatter,
                "a learner: no attached learner can give a snapshot above slot {above}. Start a learner"
            ),
            Self::Answer { peer, above } => {
                write!(formatter, "a snapshot above slot {above} from learner {peer}")
            }
            Self::Arrival => write!(formatter, "the arriving snapshot"),
            Self::Cap { to } => write!(
                formatter,
                "the leader: not all slots below slot {to} are known as chosen"
            ),
            Self::Learner {
                address,
                position,
                to,
            } => write!(
                formatter,
                "learner {address}, which has the slots below {position}: the trim goes to slot {to}"
            ),
        }
    }
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Retention {
    retain: RetainBytes,
    /// The own watermark, and the time of its last move.
    moved: Option<(Slot, Instant)>,
    asked: Option<Asked>,
    /// Number of the learner asked last.
    last_asked: Option<u64>,
    was_arriving: bool,
    /// No question before this time.
    pause: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: u64,
    until: Instant,
}

/// The smallest step of the log between two trims, in bytes.
pub(crate) fn step(retain: RetainBytes, snapshots: &KeptSnapshots) -> u64 {
    let bottom = snapshots.bottom.map_or(0, |bottom| bottom.id.bytes);
    match retain {
        RetainBytes::AtLeast(bytes) => bytes.max(bottom),
        RetainBytes::All | RetainBytes::Off => u64::MAX,
    }
}

impl Retention {
    pub(crate) fn new(retain: RetainBytes) -> Self {
        Self {
            retain,
            moved: None,
            asked: None,
            last_asked: None,
            was_arriving: false,
            pause: None,
        }
    }

    /// Decides. Call this about once a second, and after each arrival.
    pub(crate) fn look(&mut self, facts: &Facts<'_>) -> TrimDecision {
        if self.retain == RetainBytes::Off {
            return TrimDecision {
                waits_for: Some(Hindrance::KeepsAll),
                ..TrimDecision::default()
            };
        }
        if self.moved.is_none_or(|(slot, _)| slot != facts.chosen_to) {
            self.moved = Some((facts.chosen_to, facts.now));
        }
        let trim = self.trim(facts);
        let above = self.wanted_above(facts);
        let is_different = matches!(trim, Err(Hindrance::DifferentDigests { .. }));
        let wish = match above.filter(|_| !is_different) {
            Some(above) => self.ask(above, facts),
            None => {
                self.asked = None;
                self.last_asked = None;
                None
            }
        };
        self.was_arriving = facts.is_arriving;
        let hindrance = match (&trim, above) {
            (Ok(_), _) => None,
            (Err(hindrance @ Hindrance::DifferentDigests { .. }), _) => Some(hindrance.clone()),
            (Err(_), _) if facts.is_arriving => Some(Hindrance::Arrival),
            (Err(_), Some(above)) => Some(wish.map_or(Hindrance::NoLearner { above }, |wish| {
                let SnapshotWish { peer, above } = wish;
                Hindrance::Answer { peer, above }
            })),
            (Err(hindrance), None) => Some(hindrance.clone()),
        };
        TrimDecision {
            wish,
            trim: trim.ok(),
            waits_for: hindrance,
        }
    }

    /// The waiting snapshot, if a trim to its end may happen now; otherwise the hindrance.
    fn trim(&self, facts: &Facts<'_>) -> Result<SnapshotId, Hindrance> {
        if let Some(to) = difference(facts.learners) {
            return Err(Hindrance::DifferentDigests { to });
        }
        let step = step(self.retain, &facts.snapshots);
        let Some((waiting, begun_at)) = facts.waiting() else {
            return Err(match (self.retain, facts.log_bytes) {
                (RetainBytes::All | RetainBytes::Off, _) => Hindrance::KeepsAll,
                (RetainBytes::AtLeast(_), None) => Hindrance::Sweep,
                (RetainBytes::AtLeast(_), Some(log_bytes)) => Hindrance::Growth {
                    log_bytes,
                    wanted: step,
                },
            });
        };
        if waiting.to > facts.cap {
            return Err(Hindrance::Cap { to: waiting.to });
        }
        let lifts = waiting.to > facts.chosen_to && self.is_behind(facts);
        if lifts || facts.bottom_is_damaged() || self.needs_space(facts) {
            return Ok(waiting);
        }
        if self.retain == RetainBytes::All {
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
        let below = facts
            .learners
            .iter()
            .find(|learner| learner.position() < waiting.to);
        match below {
            Some(learner) if log_bytes < due.saturating_add(step) => Err(Hindrance::Learner {
                address: learner.address.clone(),
                position: learner.position(),
                to: waiting.to,
            }),
            Some(_) | None => Ok(waiting),
        }
    }

    /// The slot above which a new snapshot must end; none without a reason for a snapshot.
    fn wanted_above(&self, facts: &Facts<'_>) -> Option<Slot> {
        let has_grown = match self.retain {
            RetainBytes::All | RetainBytes::Off => false,
            RetainBytes::AtLeast(_) => facts
                .log_bytes
                .is_some_and(|bytes| bytes >= step(self.retain, &facts.snapshots)),
        };
        let above = if self.is_behind(facts) {
            facts.chosen_to
        } else if has_grown || facts.bottom_is_damaged() || self.needs_space(facts) {
            facts.trimmed_to
        } else {
            return None;
        };
        let waits = facts.waiting().is_some_and(|(waiting, _)| waiting.to > above);
        (!waits).then_some(above)
    }

    fn is_behind(&self, facts: &Facts<'_>) -> bool {
        let stands = self
            .moved
            .is_some_and(|(_, at)| facts.now.saturating_duration_since(at) >= BEHIND_AFTER);
        facts.has_leader && facts.chosen_to < facts.cap && stands
    }

    /// Whether a trim shall make space on the disk.
    fn needs_space(&self, facts: &Facts<'_>) -> bool {
        facts.is_low && self.retain != RetainBytes::All
    }

    /// The learner to ask for a snapshot above a slot: the same learner until its time is over, then the next.
    fn ask(&mut self, above: Slot, facts: &Facts<'_>) -> Option<SnapshotWish> {
        if facts.is_arriving {
            self.asked = None;
            return None;
        }
        if self.was_arriving {
            // The upload failed: with success there would be no reason left.
            self.pause = Some(facts.now + ANSWER_MAX);
        }
        if self.pause.is_some_and(|until| facts.now < until) {
            return None;
        }
        self.pause = None;
        let able = |learner: &&LearnerReport| learner.installing_to.is_none() && learner.applied_to > above;
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
        let peer = asked?.peer;
        self.last_asked = Some(peer);
        Some(SnapshotWish { peer, above })
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

/// The lowest slot at which the digests of two learners differ.
fn difference(learners: &[LearnerReport]) -> Option<Slot> {
    let mut digests: Vec<_> = learners.iter().flat_map(|learner| &learner.digests).collect();
    digests.sort_by_key(|digest| digest.to);
    let at_same_slot = digests.chunk_by(|one, other| one.to == other.to);
    let mut differing = at_same_slot.filter(|digests| {
        let differ = |of: fn(&ReportedDigest) -> &Bytes| {
            let mut known = digests
                .iter()
                .map(|digest| of(digest))
                .filter(|bytes| !bytes.is_empty());
            let first = known.next();
            known.any(|bytes| Some(bytes) != first)
        };
        differ(|digest| &digest.log) || differ(|digest| &digest.state)
    });
    Some(differing.next()?.first()?.to)
}

#[cfg(test)]
mod tests;
