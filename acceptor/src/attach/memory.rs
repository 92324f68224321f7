//! The digests that learners reported a while ago. A snapshot that arrives usually ends below the latest reports.
//!
//! A learner is an address of streams and a number: a host can neither replace nor displace what learners of other
//! addresses reported. The memory is bounded, and ends with the process.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use paxos_common::{paxos::slot::Slot, snapshot::DIGEST_SLOTS};
use paxos_proto::v1 as pb;

use crate::trim_policy::{NamedLearner, ReportedDigest};

/// Maximum number of remembered learners: usual clusters have fewer. All together take about 1 MiB.
const LEARNERS_MAX: usize = 16;
/// Number of learners of one address that are remembered also when learners of other addresses need the places.
const OWNED_KEPT: usize = LEARNERS_MAX / 2;
/// Number of digests of a learner at multiples of each of [`DIGEST_SLOTS`], and at other slots, that no digest at other
/// distances displaces. Enough for a busy log: a snapshot is up to a minute old when its upload begins.
const DIGESTS_KEPT: [usize; DIGEST_SLOTS.len() + 1] = [640, 192, 160, 32];
/// Maximum number of digests of a learner.
const DIGESTS_MAX: usize = 1_024;

/// The address of streams, and the number of a learner.
pub(super) type LearnerKey = (Option<IpAddr>, u64);

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct DigestMemory(Vec<RememberedLearner>);

#[derive(Debug)]
struct RememberedLearner {
    key: LearnerKey,
    /// The address in the reports.
    address: String,
    /// Since when the learner is not attached.
    gone: Option<Instant>,
    /// In the order of [`DIGESTS_KEPT`].
    digests: [BTreeMap<Slot, KeptDigest>; DIGESTS_KEPT.len()],
}

/// A copy: the bytes of a message would keep the whole message in memory.
#[derive(Clone, Copy, Debug)]
struct KeptDigest {
    log: [u8; 32],
    /// `None`: unknown.
    state: Option<[u8; 16]>,
}

impl KeptDigest {
    fn at(self, to: Slot) -> ReportedDigest {
        ReportedDigest {
            to,
            log: Bytes::copy_from_slice(&self.log),
            state: self.state.map_or_else(Bytes::new, |state| state.to_vec().into()),
        }
    }
}

impl DigestMemory {
    /// Remembers the digests of a report, except digests above `cap`: no correct learner has such a digest for long.
    pub(super) fn reported(&mut self, key: LearnerKey, address: &str, digests: &[pb::Digest], cap: Slot) {
        let Some(learner) = self.place(key, address) else {
            return;
        };
        for digest in digests {
            let (Ok(to), Ok(log)) = (Slot::new(digest.to), digest.digest.as_ref().try_into()) else {
                continue;
            };
            let state = digest.state.as_ref().try_into().ok();
            if to <= cap {
                learner.keep(to, KeptDigest { log, state });
            }
        }
    }

    /// Forgets learners that have not been attached for this time, and learners in whose place a later process of the same
    /// address is attached: a person may have emptied the data directory.
    pub(super) fn forget(&mut self, attached: &HashSet<LearnerKey>, gone_max: Duration, now: Instant) {
        for learner in &mut self.0 {
            let is_attached = attached.contains(&learner.key);
            learner.gone = (!is_attached).then(|| learner.gone.unwrap_or(now));
        }
        let present = self.0.iter().filter(|learner| learner.gone.is_none());
        let present: HashSet<_> = present
            .filter(|learner| !learner.address.is_empty())
            .map(|learner| (learner.key.0, learner.address.clone()))
            .collect();
        self.0.retain(|learner| {
            let is_replaced = || present.contains(&(learner.key.0, learner.address.clone()));
            let is_past = |gone| now.saturating_duration_since(gone) >= gone_max || is_replaced();
            !learner.gone.is_some_and(is_past)
        });
    }

    /// The learners that reported a digest that contradicts `digest`.
    pub(super) fn contradicting(&self, digest: &ReportedDigest) -> impl Iterator<Item = NamedLearner> {
        let contradicts = |learner: &&RememberedLearner| {
            let kept = learner.digests[place_of(digest.to)].get(&digest.to);
            kept.is_some_and(|kept| kept.at(digest.to).contradicts(digest))
        };
        self.0.iter().filter(contradicts).map(|learner| NamedLearner {
            peer: learner.key.1,
            address: learner.address.clone(),
        })
    }

    /// The place of a learner; none if no learner gives way. A departed learner gives way to a learner of the same address.
    /// An address with more than [`OWNED_KEPT`] learners gives way to an address with fewer.
    fn place(&mut self, key: LearnerKey, address: &str) -> Option<&mut RememberedLearner> {
        let known = self.0.iter().position(|learner| learner.key == key);
        let index = match known {
            Some(index) => index,
            None if self.0.len() < LEARNERS_MAX => {
                self.0.push(RememberedLearner::new(key));
                self.0.len() - 1
            }
            None => {
                let index = self.giving_way(key.0)?;
                self.0[index] = RememberedLearner::new(key);
                index
            }
        };
        let learner = &mut self.0[index];
        if learner.address != address {
            address.clone_into(&mut learner.address);
        }
        Some(learner)
    }

    fn giving_way(&self, owner: Option<IpAddr>) -> Option<usize> {
        let owned = |owner| {
            self.0
                .iter()
                .filter(move |learner| learner.key.0 == owner)
                .count()
        };
        let may_take_of = |other: Option<IpAddr>| owned(owner) < OWNED_KEPT && owned(other) > OWNED_KEPT;
        let learners = self.0.iter().enumerate();
        let candidates = learners.filter(|(_, learner)| {
            let other = learner.key.0;
            may_take_of(other) || other == owner && learner.gone.is_some()
        });
        // The first departed, or the last attached.
        let order = |(index, learner): &(usize, &RememberedLearner)| {
            (learner.gone.is_none(), learner.gone, Reverse(*index))
        };
        candidates.min_by_key(order).map(|(index, _)| index)
    }
}

impl RememberedLearner {
    fn new(key: LearnerKey) -> Self {
        Self {
            key,
            address: String::new(),
            gone: None,
            digests: Default::default(),
        }
    }

    /// Keeps the first digest at each slot. Beyond the limit, the oldest digest at the smallest distance with more digests
    /// than [`DIGESTS_KEPT`] is dropped.
    fn keep(&mut self, to: Slot, digest: KeptDigest) {
        self.digests[place_of(to)].entry(to).or_insert(digest);
        let count: usize = self.digests.iter().map(BTreeMap::len).sum();
        if count > DIGESTS_MAX {
            let mut lists = self.digests.iter_mut().zip(DIGESTS_KEPT).rev();
            if let Some((list, _)) = lists.find(|(list, kept)| list.len() > *kept) {
                list.pop_first();
            }
        }
    }
}

/// The list of a slot: of the largest distance with this multiple.
fn place_of(to: Slot) -> usize {
    let mut distances = DIGEST_SLOTS.iter();
    let place = distances.position(|&slots| to.get().is_multiple_of(slots));
    place.unwrap_or(DIGEST_SLOTS.len())
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;

    const ADDRESS: &str = "http://l:1";
    const GONE_MAX: Duration = Duration::from_mins(1);

    fn digest(to: u64, state: u8) -> pb::Digest {
        pb::Digest {
            to,
            digest: vec![8; 32].into(),
            state: vec![state; 16].into(),
        }
    }

    /// A learner of this host.
    fn key(host: u8, peer: u64) -> LearnerKey {
        (Some([10, 0, 0, host].into()), peer)
    }

    /// The numbers of the learners with another state than 9 at this slot.
    fn differing(memory: &DigestMemory, to: u64) -> Vec<u64> {
        let digest = ReportedDigest {
            to: slot(to),
            log: vec![8; 32].into(),
            state: vec![9; 16].into(),
        };
        memory
            .contradicting(&digest)
            .map(|learner| learner.peer)
            .collect()
    }

    fn report(memory: &mut DigestMemory, key: LearnerKey, digests: &[pb::Digest]) {
        let address = format!("http://l:{}", key.1);
        memory.reported(key, &address, digests, slot(1 << 40));
    }

    #[test]
    fn earlier_digest_is_found_at_its_slot_alone() {
        let mut memory = DigestMemory::default();
        let learner = key(1, 1);
        // The latest first, as in a report. Later reports may reach back.
        report(
            &mut memory,
            learner,
            &[digest(1_313, 7), digest(1_312, 7), digest(1_280, 7)],
        );
        report(&mut memory, learner, &[digest(9_000, 7), digest(1_024, 7)]);
        for to in [1_024, 1_280, 1_312, 1_313, 9_000] {
            assert_eq!(differing(&memory, to), [1], "{to}");
        }
        for to in [992, 1_314, 1_536, 2_048, 9_001] {
            assert_eq!(differing(&memory, to), [] as [u64; 0], "{to}");
        }
        // The first digest at a slot stays. An unknown state differs from none.
        report(&mut memory, learner, &[digest(9_000, 9), digest(9_002, 9)]);
        assert_eq!(differing(&memory, 9_000), [1]);
        assert_eq!(differing(&memory, 9_002), [] as [u64; 0]);
        let unknown = |log| pb::Digest {
            digest: vec![log; 32].into(),
            state: Bytes::new(),
            ..digest(9_003, 0)
        };
        report(&mut memory, learner, &[unknown(8)]);
        assert_eq!(differing(&memory, 9_003), [] as [u64; 0]);
        report(&mut memory, key(1, 2), &[unknown(7)]);
        assert_eq!(differing(&memory, 9_003), [2], "the logs differ");
    }

    #[test]
    fn digest_above_the_cap_is_remembered_once_the_cap_has_reached_it() {
        let mut memory = DigestMemory::default();
        for (cap, expected) in [(63, &[][..]), (64, &[1])] {
            memory.reported(key(1, 1), ADDRESS, &[digest(64, 7)], slot(cap));
            assert_eq!(differing(&memory, 64), expected, "{cap}");
        }
    }

    #[test]
    fn digests_of_a_learner_are_bounded_and_a_small_distance_displaces_no_large_one() {
        let mut memory = DigestMemory::default();
        let count =
            |memory: &DigestMemory| -> Vec<_> { memory.0[0].digests.iter().map(BTreeMap::len).collect() };
        for number in 1..=640 {
            report(&mut memory, key(1, 1), &[digest(number * 1_024, 7)]);
        }
        for to in 1..=100_000 {
            report(&mut memory, key(1, 1), &[digest(to, 7)]);
        }
        assert_eq!(count(&memory), DIGESTS_KEPT);
        assert_eq!(DIGESTS_KEPT.iter().sum::<usize>(), DIGESTS_MAX);
        assert_eq!(differing(&memory, 1_024), [1]);
        assert_eq!(differing(&memory, 99_999), [1]);
        assert_eq!(differing(&memory, 99_900), [] as [u64; 0]);
        // A slow log has few large multiples, and all places are for the others.
        let mut memory = DigestMemory::default();
        for number in 1..=2_000 {
            report(&mut memory, key(1, 1), &[digest(number * 32, 7)]);
        }
        assert_eq!(count(&memory).iter().sum::<usize>(), DIGESTS_MAX);
        assert_eq!(differing(&memory, 1_201 * 32), [1]);
    }

    #[test]
    fn learner_is_remembered_while_attached_and_for_a_restart() {
        let begun = Instant::now();
        let mut memory = DigestMemory::default();
        let forget = |memory: &mut DigestMemory, attached: &[LearnerKey], seconds| {
            let attached = attached.iter().copied().collect();
            memory.forget(&attached, GONE_MAX, begun + Duration::from_secs(seconds));
        };
        report(&mut memory, key(1, 1), &[digest(64, 7)]);
        for (attached, seconds) in [
            (&[key(1, 1)][..], 1_000),
            (&[], 1_001),
            (&[key(1, 1)], 1_060),
            (&[], 1_070),
        ] {
            forget(&mut memory, attached, seconds);
        }
        // Neither the same number nor the same address of reports at another host takes the place.
        memory.reported(key(2, 1), ADDRESS, &[], slot(64));
        forget(&mut memory, &[key(2, 1)], 1_129);
        assert_eq!(differing(&memory, 64), [1]);
        forget(&mut memory, &[key(2, 1)], 1_130);
        assert_eq!(differing(&memory, 64), [] as [u64; 0]);
        // A later process of the same address is in the place of the earlier.
        report(&mut memory, key(3, 1), &[digest(64, 7)]);
        memory.reported(key(3, 2), ADDRESS, &[], slot(64));
        forget(&mut memory, &[key(3, 1), key(3, 2)], 1_200);
        assert_eq!(differing(&memory, 64), [1], "both are attached");
        forget(&mut memory, &[key(3, 2)], 1_201);
        assert_eq!(differing(&memory, 64), [] as [u64; 0]);
    }

    #[test]
    fn one_address_uses_all_places_and_displaces_no_learner_of_another_address() {
        let mut memory = DigestMemory::default();
        let reported = |memory: &mut DigestMemory, host, peers: std::ops::Range<u64>| {
            for peer in peers {
                report(memory, key(host, peer), &[digest(64, 7)]);
            }
        };
        reported(&mut memory, 1, 0..100);
        assert_eq!(differing(&memory, 64), Vec::from_iter(0..16), "the first stay");
        // Other addresses get half the places, and no more.
        reported(&mut memory, 2, 200..210);
        reported(&mut memory, 3, 300..310);
        reported(&mut memory, 1, 0..100);
        let left = differing(&memory, 64);
        assert_eq!(left.iter().filter(|peer| **peer < 100).count(), OWNED_KEPT);
        assert_eq!(left.iter().filter(|peer| **peer >= 200).count(), OWNED_KEPT);
        // A departed learner gives way to its own address alone.
        let gone = *left.iter().find(|peer| **peer < 100).unwrap();
        let attached = memory.0.iter().map(|learner| learner.key);
        let attached: HashSet<_> = attached.filter(|(_, peer)| *peer != gone).collect();
        memory.forget(&attached, GONE_MAX, Instant::now());
        reported(&mut memory, 4, 400..401);
        assert_eq!(differing(&memory, 64).len(), LEARNERS_MAX);
        assert!(differing(&memory, 64).contains(&gone));
        reported(&mut memory, 1, 500..502);
        assert!(!differing(&memory, 64).contains(&gone));
        assert!(differing(&memory, 64).contains(&500));
        assert!(!differing(&memory, 64).contains(&501));
    }
}
