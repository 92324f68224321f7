//! The digests that learners reported lately: a snapshot that arrives ends below the latest reports.
//!
//! Every learner reports the digests at multiples of [`DIGEST_SLOTS`], and ends a snapshot for an acceptor at such a slot if
//! one comes soon. So another learner usually has a digest at the end of the snapshot.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use paxos_common::{paxos::slot::Slot, snapshot::DIGEST_SLOTS};

use crate::trim_policy::ReportedDigest;

/// Number of kept digests of a learner at multiples of each of [`DIGEST_SLOTS`], and at other slots: about a minute of a
/// busy log, because a snapshot is up to a minute old when its upload begins.
const DIGESTS_KEPT: usize = 1_024;
/// Number of learners with kept digests. All together take at most 4 MiB.
const LEARNERS_MAX: usize = 16;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct DigestMemory(BTreeMap<u64, LearnerDigests>);

/// The complete digests at a slot.
#[derive(Clone, Copy, Debug)]
struct KeptDigest {
    to: Slot,
    log: [u8; 32],
    state: [u8; 16],
}

/// The kept digests of a learner, each list ascending: at multiples of each of [`DIGEST_SLOTS`], then at other slots.
#[derive(Debug, Default)]
struct LearnerDigests([VecDeque<KeptDigest>; DIGEST_SLOTS.len() + 1]);

/// The list of a slot: of the largest distance with this multiple.
fn place(to: Slot) -> usize {
    let mut distances = DIGEST_SLOTS.iter();
    let place = distances.position(|&slots| to.get().is_multiple_of(slots));
    place.unwrap_or(DIGEST_SLOTS.len())
}

impl KeptDigest {
    /// None while a digest is unknown.
    fn of(digest: &ReportedDigest) -> Option<Self> {
        Some(Self {
            to: digest.to,
            log: digest.log.as_ref().try_into().ok()?,
            state: digest.state.as_ref().try_into().ok()?,
        })
    }
}

impl From<&KeptDigest> for ReportedDigest {
    fn from(KeptDigest { to, log, state }: &KeptDigest) -> Self {
        Self {
            to: *to,
            log: Bytes::copy_from_slice(log),
            state: Bytes::copy_from_slice(state),
        }
    }
}

impl DigestMemory {
    /// Keeps the digests of a report. More than [`LEARNERS_MAX`] learners are not remembered.
    pub(crate) fn reported(&mut self, peer: u64, digests: &[ReportedDigest]) {
        if self.0.len() >= LEARNERS_MAX && !self.0.contains_key(&peer) {
            return;
        }
        let mut known: Vec<_> = digests.iter().filter_map(KeptDigest::of).collect();
        known.sort_unstable_by_key(|digest| digest.to);
        let kept = self.0.entry(peer).or_default();
        for digest in known {
            kept.keep(digest);
        }
    }

    /// Forgets all other learners.
    pub(crate) fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        self.0.retain(|&peer, _| is_known(peer));
    }

    /// What a learner reported at this slot.
    pub(crate) fn at(&self, peer: u64, to: Slot) -> Option<ReportedDigest> {
        let kept = &self.0.get(&peer)?.0[place(to)];
        let found = kept.binary_search_by_key(&to, |digest| digest.to).ok()?;
        Some((&kept[found]).into())
    }
}

impl LearnerDigests {
    fn keep(&mut self, digest: KeptDigest) {
        let kept = &mut self.0[place(digest.to)];
        if kept.back().is_some_and(|latest| latest.to >= digest.to) {
            return;
        }
        if kept.len() == DIGESTS_KEPT {
            kept.pop_front();
        }
        kept.push_back(digest);
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;

    fn digest(to: u64, state: u8) -> ReportedDigest {
        ReportedDigest {
            to: slot(to),
            log: vec![8; 32].into(),
            state: vec![state; 16].into(),
        }
    }

    /// A memory of learner 1 with reports at these slots.
    fn reported(slots: impl IntoIterator<Item = u64>) -> DigestMemory {
        let mut memory = DigestMemory::default();
        for to in slots {
            memory.reported(1, &[digest(to, 1)]);
        }
        memory
    }

    #[test]
    fn earlier_digest_is_found_at_its_slot_alone() {
        let mut memory = reported([1_024, 1_280, 1_312, 1_313, 9_000]);
        for to in [1_024, 1_280, 1_312, 1_313, 9_000] {
            assert_eq!(memory.at(1, slot(to)), Some(digest(to, 1)), "{to}");
            assert_eq!(memory.at(2, slot(to)), None, "another learner");
        }
        for to in [992, 1_314, 1_536, 2_048, 9_001] {
            assert_eq!(memory.at(1, slot(to)), None, "{to}");
        }
        // The first digest at a slot stays, and an unknown digest is not kept.
        memory.reported(1, &[digest(9_002, 1), digest(9_000, 3)]);
        assert_eq!(memory.at(1, slot(9_000)), Some(digest(9_000, 1)));
        memory.reported(
            1,
            &[ReportedDigest {
                state: Bytes::new(),
                ..digest(10_000, 1)
            }],
        );
        assert_eq!(memory.at(1, slot(10_000)), None);
        // A report has the latest digest first.
        memory.reported(1, &[digest(10_304, 1), digest(10_272, 1), digest(10_240, 1)]);
        for to in [10_240, 10_272, 10_304] {
            assert_eq!(memory.at(1, slot(to)), Some(digest(to, 1)), "{to}");
        }
    }

    #[test]
    fn digests_at_small_distances_displace_no_digest_at_a_large_one() {
        let memory = reported((1..=40_000).map(|number| number * 32));
        assert_eq!(memory.at(1, slot(32)), None);
        assert_eq!(memory.at(1, slot(256 * 1_024)), Some(digest(256 * 1_024, 1)));
        assert_eq!(memory.at(1, slot(1_280_000)), Some(digest(1_280_000, 1)));
        let kept: Vec<_> = memory.0[&1].0.iter().map(VecDeque::len).collect();
        assert_eq!(kept, [DIGESTS_KEPT, DIGESTS_KEPT, DIGESTS_KEPT, 0]);
    }

    #[test]
    fn number_of_learners_is_bounded_and_a_learner_that_is_gone_gives_way() {
        let mut memory = DigestMemory::default();
        for peer in 0..LEARNERS_MAX as u64 {
            memory.reported(peer, &[digest(32, 1)]);
        }
        memory.reported(100, &[digest(32, 1)]);
        assert_eq!(memory.at(100, slot(32)), None);
        memory.retain(|peer| peer != 3);
        memory.reported(100, &[digest(32, 1)]);
        assert_eq!(memory.at(100, slot(32)), Some(digest(32, 1)));
        assert_eq!(memory.at(3, slot(32)), None);
    }
}
