//! Snapshots that contradict the digest of a learner, and the learners that gave these snapshots.
//!
//! A snapshot is compared with the digests of learners at its end: at its arrival, and while the snapshot waits, because a
//! learner may report this slot later. Without such a digest nothing is known about the snapshot, and the acceptor takes it.
//! A contradicted snapshot is refused, or forgotten. Its giver is *contested*: either the giver is wrong, or the learner
//! with the other digest. The acceptor does not ask the giver again until one of the two is gone, because a person has
//! emptied its data directory.

use std::fmt;

use tracing::warn;

use crate::{
    store::snapshots::SnapshotId,
    trim_policy::{LearnerReport, ReportedDigest},
};

pub(crate) mod memory;

/// What to do about a contradiction.
pub(crate) const ADVICE: &str = "Empty the data directory of the wrong learner, of two learners both";
/// Maximum number of remembered contradictions, the latest of each giver. An operator sees them all.
const CONTRADICTIONS_MAX: usize = 8;
/// Shown bytes of a digest, as in `paxos status`.
const DIGEST_BYTES_SHOWN: usize = 6;

/// The end of a snapshot, with the digests there, and the learner that gave the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GivenSnapshot {
    /// Number of the process; 0: not known.
    pub(crate) giver: u64,
    pub(crate) digest: ReportedDigest,
}

/// A snapshot, and a different digest of a learner at the end of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    pub(crate) given: GivenSnapshot,
    pub(crate) giver_address: String,
    /// Number of the learner with the different digest.
    pub(crate) witness: u64,
    pub(crate) witness_address: String,
    pub(crate) reported: ReportedDigest,
}

impl Contradiction {
    /// Whether either learner is gone.
    fn is_over(&self, learners: &[LearnerReport]) -> bool {
        let is_gone = |peer| learners.iter().all(|learner| learner.peer != peer);
        is_gone(self.witness) || (self.given.giver != 0 && is_gone(self.given.giver))
    }

    /// The giver, unless unknown. A learner that contradicts itself alone is asked again.
    fn contested(&self) -> Option<u64> {
        let giver = self.given.giver;
        (giver != 0 && giver != self.witness).then_some(giver)
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            given: GivenSnapshot { giver, digest },
            giver_address,
            witness,
            witness_address,
            reported,
        } = self;
        write!(formatter, "the snapshot")?;
        if *giver != 0 {
            write!(formatter, " of learner {giver} ({})", place(giver_address))?;
        }
        write!(
            formatter,
            " contradicts the digest of learner {witness} ({}) below slot {}: log {} and {}, state {} and {}",
            place(witness_address),
            digest.to,
            shown(&digest.log),
            shown(&reported.log),
            shown(&digest.state),
            shown(&reported.state)
        )
    }
}

fn place(address: &str) -> &str {
    if address.is_empty() { "no address" } else { address }
}

/// The first digits of a digest.
fn shown(digest: &[u8]) -> String {
    if digest.is_empty() {
        return "unknown".to_owned();
    }
    let bytes = digest.iter().take(DIGEST_BYTES_SHOWN);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// The remembered contradictions, and the digests of the waiting snapshot. The memory ends with the process.
#[derive(Debug, Default)]
pub(crate) struct Contests {
    kept: Option<(SnapshotId, GivenSnapshot)>,
    contradictions: Vec<Contradiction>,
}

impl Contests {
    /// The acceptor records this snapshot as waiting.
    pub(crate) fn keeps(&mut self, id: SnapshotId, given: GivenSnapshot) {
        self.kept = Some((id, given));
    }

    /// The digests of a waiting snapshot; none for a snapshot of an earlier run of this process.
    pub(crate) fn given(&self, waiting: SnapshotId) -> Option<GivenSnapshot> {
        let (id, given) = self.kept.as_ref()?;
        (*id == waiting).then(|| given.clone())
    }

    /// Remembers a contradiction, and logs a new one.
    pub(crate) fn remember(&mut self, contradiction: Contradiction) {
        if self.contradictions.contains(&contradiction) {
            return;
        }
        warn!("{contradiction}. The snapshot is dropped. {ADVICE}");
        let giver = contradiction.given.giver;
        self.contradictions.retain(|known| known.given.giver != giver);
        if self.contradictions.len() == CONTRADICTIONS_MAX {
            self.contradictions.remove(0);
        }
        self.contradictions.push(contradiction);
    }

    /// Forgets what is over. Returns the numbers of the contested learners.
    pub(crate) fn contested(&mut self, learners: &[LearnerReport]) -> Vec<u64> {
        self.contradictions.retain(|known| !known.is_over(learners));
        self.contradictions
            .iter()
            .filter_map(Contradiction::contested)
            .collect()
    }

    /// The contradiction of a contested learner.
    pub(crate) fn of(&self, peer: u64) -> Option<&Contradiction> {
        let mut known = self.contradictions.iter();
        known.find(|known| known.contested() == Some(peer))
    }

    /// The remembered contradictions, for people.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.contradictions.iter().map(Contradiction::to_string).collect()
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;

    fn learner(peer: u64) -> LearnerReport {
        LearnerReport {
            peer,
            address: format!("http://l:{peer}"),
            is_attached: true,
            applied_to: slot(100),
            installing_to: None,
            digests: Vec::new(),
        }
    }

    fn contradiction(giver: u64, witness: u64) -> Contradiction {
        let digest = |state: u8| ReportedDigest {
            to: slot(64),
            log: vec![0xab; 32].into(),
            state: vec![state; 16].into(),
        };
        Contradiction {
            given: GivenSnapshot {
                giver,
                digest: digest(1),
            },
            giver_address: format!("http://l:{giver}"),
            witness,
            witness_address: format!("http://l:{witness}"),
            reported: digest(2),
        }
    }

    #[test]
    fn giver_is_contested_until_either_learner_is_gone() {
        let learners = [learner(1), learner(2), learner(3)];
        let mut contests = Contests::default();
        contests.remember(contradiction(1, 2));
        contests.remember(contradiction(2, 1));
        // Neither a caller without a number nor a learner that contradicts itself.
        contests.remember(contradiction(0, 2));
        contests.remember(contradiction(3, 3));
        assert_eq!(contests.contested(&learners), [1, 2]);
        assert_eq!(contests.texts().len(), 4);
        assert_eq!(contests.of(1), Some(&contradiction(1, 2)));
        assert_eq!(contests.of(3), None);
        assert_eq!(contests.contested(&learners[..2]), [1, 2]);
        assert_eq!(contests.contested(&learners[1..]), [] as [u64; 0]);
        assert_eq!(contests.contradictions, [contradiction(0, 2)]);
        assert_eq!(contests.contested(&learners[2..]), [] as [u64; 0]);
        assert_eq!(contests.contradictions, []);
    }

    #[test]
    fn contradiction_names_both_learners_and_all_digests() {
        assert_eq!(
            contradiction(1, 2).to_string(),
            "the snapshot of learner 1 (http://l:1) contradicts the digest of learner 2 (http://l:2) below slot 64: log \
             abababababab and abababababab, state 010101010101 and 020202020202"
        );
        let unknown = contradiction(0, 2).to_string();
        assert!(unknown.starts_with("the snapshot contradicts"), "{unknown}");
    }

    #[test]
    fn latest_contradictions_are_remembered_one_of_each_giver() {
        let mut contests = Contests::default();
        for giver in 1..=20 {
            contests.remember(contradiction(giver, 99));
            contests.remember(contradiction(giver, 98));
        }
        let known = contests.contradictions.iter();
        let known: Vec<_> = known.map(|known| (known.given.giver, known.witness)).collect();
        let expected: Vec<_> = (13..=20).map(|giver| (giver, 98)).collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn digests_belong_to_the_snapshot_that_waits() {
        let id = |to| SnapshotId {
            to: slot(to),
            sha256: [7; 32],
            bytes: 9,
        };
        let mut contests = Contests::default();
        assert_eq!(contests.given(id(64)), None);
        let given = contradiction(1, 2).given;
        contests.keeps(id(64), given.clone());
        assert_eq!(contests.given(id(64)), Some(given));
        assert_eq!(contests.given(id(65)), None);
    }
}
