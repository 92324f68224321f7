//! Digests of learners: which differ, and whether learners that differed agree again.
//!
//! The digests of a snapshot count like reported digests: a snapshot that contradicts a learner is a difference between the
//! giver and the learner.
//!
//! A difference is remembered until the learners agree again: the learners may restart, and a person may look for the
//! wrong learner meanwhile. The memory of a difference ends with the process.

use bytes::Bytes;
use paxos_common::paxos::slot::Slot;

use super::{Contradiction, LearnerReport};

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
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        let differ = |one: &Bytes, other: &Bytes| !one.is_empty() && !other.is_empty() && one != other;
        differ(&self.log, &other.log) || differ(&self.state, &other.state)
    }

    fn is_complete(&self) -> bool {
        !self.log.is_empty() && !self.state.is_empty()
    }
}

/// The learners with a digest that contradicts `digest`.
pub(crate) fn contradicting<'a>(
    learners: &'a [LearnerReport],
    digest: &'a ReportedDigest,
) -> impl Iterator<Item = NamedLearner> + 'a {
    let contradicts = |learner: &&LearnerReport| {
        let mut digests = learner.digests.iter();
        digests.any(|reported| reported.to == digest.to && reported.contradicts(digest))
    };
    learners.iter().filter(contradicts).map(LearnerReport::name)
}

/// Differences between learners, with a memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Differences {
    /// The highest slot with different digests.
    to: Option<Slot>,
    /// The learners whose digests differed.
    learners: Vec<NamedLearner>,
}

/// A learner as shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedLearner {
    /// Number of the process; 0: unknown.
    pub(crate) peer: u64,
    /// Empty: unknown.
    pub(crate) address: String,
}

impl NamedLearner {
    /// Whether `other` is the same process, or a later process at the same address.
    fn is_same(&self, other: &Self) -> bool {
        self.peer == other.peer || (!self.address.is_empty() && self.address == other.address)
    }
}

impl Differences {
    /// The lowest slot with different digests, now or before. A difference of the past ends when all learners that
    /// differed have gone or agree with a second learner, and at least two attached learners agree, at the slot of the
    /// difference or later. Differences above `cap` are not remembered: no correct learner has such a digest for long.
    /// `contradictions`: the snapshots that contradicted a learner since the last look.
    pub(super) fn look(
        &mut self,
        learners: &[LearnerReport],
        contradictions: &[Contradiction],
        cap: Slot,
    ) -> Option<Slot> {
        let reported = differing(learners);
        let given = contradictions.iter().map(Contradiction::difference);
        let mut present: Vec<_> = reported.into_iter().chain(given).collect();
        present.sort_by_key(|(to, _)| *to);
        for (to, learners) in present.iter().filter(|(to, _)| *to <= cap) {
            self.to = self.to.max(Some(*to));
            for learner in learners {
                self.remember(learner);
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

    fn remember(&mut self, learner: &NamedLearner) {
        self.learners.retain(|known| !known.is_same(learner));
        self.learners.push(learner.clone());
        let surplus = self.learners.len().saturating_sub(DIFFERING_MAX);
        self.learners.drain(..surplus);
    }

    /// No two digests differ now.
    fn is_settled(&self, learners: &[LearnerReport], to: Slot) -> bool {
        let agrees = |report: &LearnerReport| report.is_attached && agrees(report, learners, to);
        let is_settled = |learner: &NamedLearner| {
            let mut reports = learners.iter().filter(|report| learner.is_same(&report.name()));
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
fn differing(learners: &[LearnerReport]) -> Vec<(Slot, Vec<NamedLearner>)> {
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
        Some((
            first.to,
            digests.iter().map(|(_, report)| report.name()).collect(),
        ))
    });
    slots.collect()
}
