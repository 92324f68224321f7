//! The digests that learners reported earlier: a snapshot that arrives ends below the latest reports, and is compared with
//! these digests.
//!
//! A learner of this release ends its snapshots at slots whose digests the other learners report: see [`DIGEST_SLOTS`]. So a
//! snapshot is *proved* by another learner with the same digests at its end. A snapshot that another learner would prove,
//! and does not, may be of a learner that lies about its state.

use std::collections::{BTreeMap, VecDeque};

use paxos_common::{paxos::slot::Slot, snapshot::DIGEST_SLOTS, sqlite::checksum};

use crate::trim_policy::{LearnerReport, ReportedDigest};

/// Number of kept digests of a learner at multiples of each of [`DIGEST_SLOTS`], and at other slots: some minutes of a busy
/// log, because a snapshot is up to a minute old when its upload begins. A digest takes 16 bytes.
const DIGESTS_KEPT: usize = 1_024;
/// Number of learners with kept digests.
const LEARNERS_MAX: usize = 16;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct DigestMemory(BTreeMap<u64, LearnerDigests>);

/// What the digests of learners say about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SnapshotProof {
    /// Another learner had the same digests.
    Proved,
    /// This learner had other digests.
    Contradicted { peer: u64, address: String },
    /// Other learners passed the end, and reported no digest there.
    Missing,
    /// No other learner passed the end while attached here.
    NoWitness,
}

impl SnapshotProof {
    pub(crate) fn contradicted(learner: &LearnerReport) -> Self {
        Self::Contradicted {
            peer: learner.peer,
            address: learner.address.clone(),
        }
    }
}

/// The sum of the digests at a slot.
type DigestAt = (Slot, i64);

/// The kept digests of a learner, ascending: at multiples of each of [`DIGEST_SLOTS`], then at other slots.
#[derive(Debug, Default)]
struct LearnerDigests([VecDeque<DigestAt>; DIGEST_SLOTS.len() + 1]);

/// The place of a slot: the largest distance with this multiple.
fn place(to: Slot) -> usize {
    let mut distances = DIGEST_SLOTS.iter();
    let place = distances.position(|&slots| to.get().is_multiple_of(slots));
    place.unwrap_or(DIGEST_SLOTS.len())
}

/// None while a digest is unknown.
fn sum(digest: &ReportedDigest) -> Option<i64> {
    let is_known = !digest.log.is_empty() && !digest.state.is_empty();
    is_known.then(|| checksum(&[&digest.log[..], &digest.state[..]]))
}

impl DigestMemory {
    /// Keeps the digests of a report. `is_attached`: the learners whose digests stay when there are too many.
    pub(crate) fn reported(
        &mut self,
        peer: u64,
        digests: &[ReportedDigest],
        is_attached: impl Fn(u64) -> bool,
    ) {
        if !self.0.contains_key(&peer) && self.0.len() >= LEARNERS_MAX {
            self.0.retain(|&peer, _| is_attached(peer));
            if self.0.len() >= LEARNERS_MAX {
                return;
            }
        }
        let kept = self.0.entry(peer).or_default();
        let mut known: Vec<DigestAt> = digests
            .iter()
            .filter_map(|digest| Some((digest.to, sum(digest)?)))
            .collect();
        known.sort_unstable();
        for digest in known {
            kept.keep(digest);
        }
    }

    /// What these learners, other than the sender, say about a snapshot with this digest at its end.
    pub(crate) fn look<'a>(
        &self,
        digest: &ReportedDigest,
        others: impl Iterator<Item = &'a LearnerReport>,
    ) -> SnapshotProof {
        let Some(found) = sum(digest) else {
            return SnapshotProof::NoWitness;
        };
        let mut proof = SnapshotProof::NoWitness;
        for learner in others {
            let Some(kept) = self.0.get(&learner.peer) else {
                continue;
            };
            match kept.at(digest.to) {
                Some(sum) if sum != found => return SnapshotProof::contradicted(learner),
                Some(_) => proof = SnapshotProof::Proved,
                None if proof == SnapshotProof::NoWitness && kept.has_passed(digest.to) => {
                    proof = SnapshotProof::Missing;
                }
                None => {}
            }
        }
        proof
    }
}

impl LearnerDigests {
    fn keep(&mut self, digest: DigestAt) {
        let kept = &mut self.0[place(digest.0)];
        if kept.back().is_some_and(|latest| latest.0 >= digest.0) {
            return;
        }
        if kept.len() == DIGESTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(digest);
    }

    fn at(&self, to: Slot) -> Option<i64> {
        let kept = &self.0[place(to)];
        let found = kept.binary_search_by_key(&to, |digest| digest.0).ok()?;
        Some(kept[found].1)
    }

    /// Whether the learner passed a slot while its digests were kept. Digests at other slots are not kept for as long as
    /// digests at multiples of the smallest distance.
    fn has_passed(&self, to: Slot) -> bool {
        let kept = &self.0[place(to).min(DIGEST_SLOTS.len() - 1)];
        let first = kept.front().is_some_and(|first| first.0 <= to);
        let latest = self
            .0
            .iter()
            .filter_map(|kept| kept.back())
            .map(|latest| latest.0);
        first && latest.max().is_some_and(|latest| latest >= to)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_test_values::slot;

    use super::*;

    fn digest(to: u64, state: &'static [u8]) -> ReportedDigest {
        ReportedDigest {
            to: slot(to),
            log: Bytes::from_static(b"log"),
            state: Bytes::from_static(state),
        }
    }

    /// A memory of learner 1 with reports at these slots.
    fn reported(slots: impl IntoIterator<Item = u64>) -> DigestMemory {
        let mut memory = DigestMemory::default();
        for to in slots {
            memory.reported(1, &[digest(to, b"right")], |_| true);
        }
        memory
    }

    fn learner(peer: u64) -> LearnerReport {
        LearnerReport {
            peer,
            address: format!("http://l:{peer}"),
            is_attached: true,
            applied_to: Slot::ZERO,
            installing_to: None,
            digests: Vec::new(),
        }
    }

    /// What these learners say about a snapshot.
    fn ask(memory: &DigestMemory, to: u64, state: &'static [u8], peers: &[u64]) -> SnapshotProof {
        let learners: Vec<_> = peers.iter().copied().map(learner).collect();
        memory.look(&digest(to, state), learners.iter())
    }

    fn look(memory: &DigestMemory, to: u64, state: &'static [u8]) -> SnapshotProof {
        ask(memory, to, state, &[7, 1])
    }

    #[test]
    fn snapshot_is_proved_or_contradicted_by_an_earlier_digest() {
        let memory = reported([1_024, 1_280, 1_312, 1_313, 9_000]);
        for to in [1_024, 1_280, 1_312, 1_313] {
            assert_eq!(look(&memory, to, b"right"), SnapshotProof::Proved, "{to}");
            let contradicted = SnapshotProof::contradicted(&learner(1));
            assert_eq!(look(&memory, to, b"wrong"), contradicted, "{to}");
        }
    }

    #[test]
    fn snapshot_that_ends_where_no_learner_reports_is_missing_a_proof() {
        let memory = reported([1_024, 1_280, 1_312, 1_313, 2_048]);
        assert_eq!(look(&memory, 1_314, b"wrong"), SnapshotProof::Missing);
        assert_eq!(look(&memory, 1_344, b"wrong"), SnapshotProof::Missing);
        assert_eq!(look(&memory, 1_536, b"wrong"), SnapshotProof::Missing);
        // The learner attached above the end, or is below the end.
        assert_eq!(look(&memory, 1_000, b"wrong"), SnapshotProof::NoWitness);
        assert_eq!(look(&memory, 2_049, b"wrong"), SnapshotProof::NoWitness);
        assert_eq!(ask(&memory, 1_314, b"wrong", &[7]), SnapshotProof::NoWitness);
        // A digest that is not known proves nothing.
        let mut memory = memory;
        memory.reported(1, &[digest(3_000, b"")], |_| true);
        assert_eq!(look(&memory, 3_000, b"right"), SnapshotProof::NoWitness);
    }

    #[test]
    fn proof_of_another_learner_outweighs_a_missing_proof() {
        let mut memory = reported([32, 96]);
        memory.reported(2, &[digest(64, b"right"), digest(32, b"right")], |_| true);
        assert_eq!(ask(&memory, 64, b"right", &[1]), SnapshotProof::Missing);
        assert_eq!(ask(&memory, 64, b"right", &[1, 2]), SnapshotProof::Proved);
        assert_eq!(ask(&memory, 64, b"right", &[2, 1]), SnapshotProof::Proved);
    }

    #[test]
    fn memory_is_bounded() {
        let memory = reported((1..=3_000).map(|number| number * 1_024));
        assert_eq!(memory.0[&1].0[0].len(), DIGESTS_KEPT);
        assert_eq!(look(&memory, 1_024, b"wrong"), SnapshotProof::NoWitness);
        assert_eq!(look(&memory, 3_000 * 1_024, b"right"), SnapshotProof::Proved);
        // Learners that are gone give way, and learners that are attached do not.
        let mut memory = DigestMemory::default();
        for peer in 0..LEARNERS_MAX as u64 {
            memory.reported(peer, &[digest(32, b"right")], |_| true);
        }
        memory.reported(100, &[digest(32, b"right")], |_| true);
        assert!(!memory.0.contains_key(&100));
        memory.reported(100, &[digest(32, b"right")], |peer| peer != 3);
        assert!(memory.0.contains_key(&100) && !memory.0.contains_key(&3));
    }
}
