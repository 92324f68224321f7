//! Digests of learners: which differ, and whether learners that differed agree again.
//!
//! A difference is remembered until the learners agree again: the learners may restart, and a person may look for the
//! wrong learner meanwhile. The memory of a difference ends with the process.

use bytes::Bytes;
use paxos_common::paxos::slot::Slot;

use super::LearnerReport;

/// Maximum number of remembered learners that differed.
const DIFFERING_MAX: usize = 128;

/// A digest of a learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportedDigest {
    /// The digest covers every slot below.
    pub(crate) to: Slot,
    pub(crate) log: Bytes,
    /// Empty: unknown.
    pub(crate) state: Bytes,
}

impl ReportedDigest {
    /// Whether a digest of the same slot contradicts this digest. An unknown digest contradicts nothing.
    fn contradicts(&self, other: &Self) -> bool {
        let differ = |one: &Bytes, other: &Bytes| !one.is_empty() && !other.is_empty() && one != other;
        differ(&self.log, &other.log) || differ(&self.state, &other.state)
    }

    fn is_complete(&self) -> bool {
        !self.log.is_empty() && !self.state.is_empty()
    }
}

/// The learner with a digest that contradicts `digest`, if any.
pub(crate) fn contradicting<'a>(
    learners: &'a [LearnerReport],
    digest: &ReportedDigest,
) -> Option<&'a LearnerReport> {
    learners.iter().find(|learner| {
        let mut digests = learner.digests.iter();
        digests.any(|reported| reported.to == digest.to && reported.contradicts(digest))
    })
}

/// Differences between learners, with a memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Differences {
    /// The highest slot with different digests.
    to: Option<Slot>,
    /// The learners whose digests differed.
    learners: Vec<DifferingLearner>,
}

/// A learner whose digest differed from the digest of another learner.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DifferingLearner {
    peer: u64,
    address: String,
}

impl DifferingLearner {
    /// Whether `report` is of the same process, or of a later process at the same address.
    fn is_of(&self, report: &LearnerReport) -> bool {
        self.peer == report.peer || (!self.address.is_empty() && self.address == report.address)
    }
}

impl Differences {
    /// The lowest slot with different digests, now or before. A difference of the past ends when all learners that
    /// differed have gone or agree with a second learner, and at least two attached learners agree, at the slot of the
    /// difference or later. Differences above `cap` are not remembered: no correct learner has such a digest for long.
    pub(super) fn look(&mut self, learners: &[LearnerReport], cap: Slot) -> Option<Slot> {
        let present = differing(learners);
        for (to, reports) in present.iter().filter(|(to, _)| *to <= cap) {
            self.to = self.to.max(Some(*to));
            for report in reports {
                self.remember(report);
            }
        }
        if let Some(&(lowest, _)) = present.first() {
            return Some(lowest);
        }
        let to = self.to?;
        if self.is_settled(learners, to) {
            *self = Self::default();
        }
        self.to
    }

    fn remember(&mut self, report: &LearnerReport) {
        self.learners.retain(|learner| !learner.is_of(report));
        self.learners.push(DifferingLearner {
            peer: report.peer,
            address: report.address.clone(),
        });
        let surplus = self.learners.len().saturating_sub(DIFFERING_MAX);
        self.learners.drain(..surplus);
    }

    /// No two digests differ now.
    fn is_settled(&self, learners: &[LearnerReport], to: Slot) -> bool {
        let agrees = |report: &LearnerReport| report.is_attached && agrees(report, learners, to);
        let is_settled = |learner: &DifferingLearner| {
            let mut reports = learners.iter().filter(|report| learner.is_of(report));
            reports.all(agrees)
        };
        learners.iter().any(agrees) && self.learners.iter().all(is_settled)
    }
}

/// Whether a second attached learner has the same digests, at slot `from` or later. No two digests differ.
fn agrees(report: &LearnerReport, learners: &[LearnerReport], from: Slot) -> bool {
    let complete = |report: &LearnerReport, to: Slot| {
        let mut digests = report.digests.iter();
        digests.any(|digest| digest.to == to && digest.is_complete())
    };
    let slots = report.digests.iter().map(|digest| digest.to);
    let mut slots = slots.filter(|&to| to >= from && complete(report, to));
    slots.any(|to| {
        let mut others = learners
            .iter()
            .filter(|other| other.is_attached && other.peer != report.peer);
        others.any(|other| complete(other, to))
    })
}

/// The slots with different digests, ascending, each with the learners that reported a digest there.
fn differing(learners: &[LearnerReport]) -> Vec<(Slot, Vec<&LearnerReport>)> {
    let of_learner = |report| {
        let report: &LearnerReport = report;
        report.digests.iter().map(move |digest| (digest, report))
    };
    let mut digests: Vec<_> = learners.iter().flat_map(of_learner).collect();
    digests.sort_by_key(|(digest, _)| digest.to);
    let at_same_slot = digests.chunk_by(|(one, _), (other, _)| one.to == other.to);
    let different = at_same_slot.filter(|digests| {
        // Digests may be unknown in part, so all are compared with the first known.
        let differ = |of: fn(&ReportedDigest) -> &Bytes| {
            let mut known = digests
                .iter()
                .map(|(digest, _)| of(digest))
                .filter(|bytes| !bytes.is_empty());
            let first = known.next();
            known.any(|bytes| Some(bytes) != first)
        };
        differ(|digest| &digest.log) || differ(|digest| &digest.state)
    });
    let slots = different.filter_map(|digests| {
        let (first, _) = digests.first()?;
        Some((first.to, digests.iter().map(|(_, report)| *report).collect()))
    });
    slots.collect()
}
