//! Snapshots that contradict the digest of a learner: either the learner that gave the snapshot is wrong, or the learner
//! with the other digest. Without a digest at the end of a snapshot nothing is known, and the acceptor takes the snapshot.
//!
//! A snapshot is compared at its arrival, and while it waits, because a learner may report this slot later. A contradicted
//! snapshot is dropped, and counts as a difference of digests: nothing is trimmed until the learners agree again. No learner
//! is shut out, because the sender of a snapshot chooses the number of the giver.
//!
//! The memory ends with the process. So after a restart, a snapshot that waits since before is not compared any more, and
//! an arriving snapshot is compared only with the digests reported since.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use paxos_common::paxos::slot::Slot;
use tracing::warn;

use crate::{
    attach::Roster,
    store::snapshots::SnapshotId,
    trim_policy::{Contradiction, ReportedDigest},
};

/// What to do about a contradiction.
pub(crate) const ADVICE: &str = "Empty the data directory of the wrong learner, of two learners both";
/// Maximum number of remembered contradictions, the latest.
const RECENT_MAX: usize = 8;
/// How long a contradiction is shown at least: long enough for a person to look.
const RECENT_AGE_MAX: Duration = Duration::from_mins(10);

/// The latest contradictions, and the digests of the waiting snapshot.
#[derive(Debug, Default)]
pub(crate) struct Contradictions {
    /// The recorded snapshot that arrived last, with the number of the giver and the digests.
    kept: Option<(SnapshotId, u64, ReportedDigest)>,
    /// Not seen by the trim policy yet; bounded like `recent`.
    news: Vec<Contradiction>,
    /// The latest last, with the time of the latest occurrence.
    recent: VecDeque<(Contradiction, Instant)>,
}

impl Contradictions {
    /// The acceptor has recorded this snapshot as waiting.
    pub(crate) fn keeps(&mut self, id: SnapshotId, giver: u64, digest: ReportedDigest) {
        self.kept = Some((id, giver, digest));
    }

    /// Compares a snapshot with the digests of learners, and notes a contradiction.
    pub(crate) fn compare(
        &mut self,
        roster: &Roster,
        giver: u64,
        given: &ReportedDigest,
    ) -> Option<Contradiction> {
        let contradiction = roster.compare(giver, given)?;
        self.note(contradiction.clone(), Instant::now());
        Some(contradiction)
    }

    /// Compares the waiting snapshot, unless it is of an earlier run of this process. Returns all contradictions since the
    /// last call.
    pub(crate) fn look(&mut self, roster: &Roster, waiting: Option<SnapshotId>) -> Vec<Contradiction> {
        let kept = self.kept.clone().filter(|(id, ..)| Some(*id) == waiting);
        if let Some((_, giver, digest)) = kept {
            self.compare(roster, giver, &digest);
        }
        std::mem::take(&mut self.news)
    }

    /// Remembers a contradiction in place of earlier contradictions of the same learners, and logs a new one.
    fn note(&mut self, contradiction: Contradiction, now: Instant) {
        if !self.recent.iter().any(|(known, _)| *known == contradiction) {
            warn!("{contradiction}. The snapshot is dropped. {ADVICE}");
        }
        let is_other = |known: &Contradiction| {
            (&known.giver, &known.reporter) != (&contradiction.giver, &contradiction.reporter)
        };
        self.recent.retain(|(known, _)| is_other(known));
        self.news.retain(is_other);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        if self.news.len() == RECENT_MAX {
            self.news.remove(0);
        }
        self.recent.push_back((contradiction.clone(), now));
        self.news.push(contradiction);
    }

    /// For people: the contradictions of the last ten minutes, and all while digests differ below a slot.
    pub(crate) fn texts(&self, differ_below: Option<Slot>, now: Instant) -> Vec<String> {
        let shown = self.recent.iter().filter_map(|(known, at)| {
            let age = now.saturating_duration_since(*at);
            let text = format!("{known}. The snapshot was dropped {} s ago", age.as_secs());
            (age < RECENT_AGE_MAX || differ_below.is_some()).then_some(text)
        });
        let mut texts: Vec<_> = shown.collect();
        if let (Some(to), []) = (differ_below, &texts[..]) {
            texts.push(format!(
                "the digests of two learners differ below slot {to}, or the learners do not agree again yet"
            ));
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;
    use crate::trim_policy::NamedLearner;

    fn learner(peer: u64) -> NamedLearner {
        let address = format!("http://l:{peer}");
        NamedLearner { peer, address }
    }

    fn contradiction(giver: u64, reporter: u64) -> Contradiction {
        Contradiction {
            giver: learner(giver),
            given: ReportedDigest {
                to: slot(64),
                log: vec![0xab; 32].into(),
                state: vec![1; 16].into(),
            },
            reporter: learner(reporter),
        }
    }

    #[test]
    fn contradiction_names_both_learners_and_the_digests() {
        let mut contradiction = contradiction(1, 2);
        assert_eq!(
            contradiction.to_string(),
            "the snapshot of learner 1 (http://l:1) contradicts the digest of learner 2 (http://l:2) below slot 64: the \
             snapshot has log abababababab and state 010101010101"
        );
        contradiction.giver.address.clear();
        let text = contradiction.to_string();
        assert!(text.contains("the snapshot of learner 1 (no address)"), "{text}");
        contradiction.giver.peer = 0;
        let text = contradiction.to_string();
        assert!(
            text.contains("the snapshot of an unknown learner contradicts"),
            "{text}"
        );
        let long = NamedLearner {
            peer: u64::MAX,
            address: "h".repeat(256),
        };
        contradiction.giver = long.clone();
        contradiction.reporter = long;
        let mut contradictions = Contradictions::default();
        contradictions.note(contradiction, Instant::now());
        let texts = contradictions.texts(None, Instant::now());
        assert!(texts[0].len() < 1_024, "{texts:?}");
    }

    #[test]
    fn latest_contradictions_are_remembered_one_of_each_two_learners() {
        let mut contradictions = Contradictions::default();
        let now = Instant::now();
        for giver in 1..=20 {
            contradictions.note(contradiction(giver, 99), now);
            contradictions.note(contradiction(giver, 99), now);
        }
        let expected: Vec<_> = (13..=20).map(|giver| contradiction(giver, 99)).collect();
        let roster = Roster::new(RECENT_AGE_MAX);
        assert_eq!(contradictions.look(&roster, None), expected);
        assert_eq!(contradictions.look(&roster, None), []);
        assert_eq!(contradictions.texts(None, now).len(), RECENT_MAX);
    }

    #[test]
    fn contradiction_is_shown_for_ten_minutes_and_while_digests_differ() {
        let mut contradictions = Contradictions::default();
        let begun = Instant::now();
        let differ = Some(slot(64));
        assert_eq!(contradictions.texts(None, begun), [] as [&str; 0]);
        let [text] = &contradictions.texts(differ, begun)[..] else {
            panic!("one text")
        };
        assert!(text.contains("differ below slot 64"), "{text}");
        contradictions.note(contradiction(1, 2), begun);
        let later = begun + RECENT_AGE_MAX;
        for (differ_below, now, expected) in [
            (None, later - Duration::from_secs(1), Some("599 s ago")),
            (None, later, None),
            (differ, later, Some("dropped 600 s ago")),
        ] {
            let texts = contradictions.texts(differ_below, now);
            assert_eq!(texts.len(), usize::from(expected.is_some()), "{texts:?}");
            assert!(
                texts.iter().all(|text| text.ends_with(expected.unwrap())),
                "{texts:?}"
            );
        }
    }
}
