//! Which learner the acceptor asks for a snapshot, and for how long.

use std::time::{Duration, Instant};

use paxos_common::paxos::slot::Slot;

use super::{Facts, Hindrance, LearnerReport, SnapshotWish};

/// How long an asked learner has for the beginning of an upload. Also the pause after an upload that failed.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The questions so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions {
    asked: Option<Asked>,
    /// Number of the learner asked last.
    last_asked: Option<u64>,
    /// Number of failed uploads at the last question.
    failures: u64,
    /// No question before this time.
    pause: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: u64,
    until: Instant,
}

impl Questions {
    /// No snapshot is wanted. The next question goes to the lowest number.
    pub(super) fn end(&mut self) {
        self.asked = None;
        self.last_asked = None;
    }

    /// The learner to ask for a snapshot above a slot: the same learner until its time is over, then the next. Otherwise the
    /// reason for no question.
    pub(super) fn ask(&mut self, above: Slot, facts: &Facts<'_>) -> Result<SnapshotWish, Hindrance> {
        if facts.is_arriving {
            self.asked = None;
            return Err(Hindrance::Arrival);
        }
        let is_contested = |peer: u64| facts.contested.contains(&peer);
        if self.failures != facts.failures {
            self.failures = facts.failures;
            self.asked = None;
            // No pause after a contradiction: the giver is not asked again.
            let pauses = !self.last_asked.is_some_and(is_contested);
            self.pause = pauses.then_some(facts.now + ANSWER_MAX);
        }
        if self.pause.is_some_and(|until| facts.now < until) {
            return Err(Hindrance::Pause);
        }
        self.pause = None;
        let has_slots = |learner: &&LearnerReport| {
            learner.is_attached && learner.installing_to.is_none() && learner.applied_to > above
        };
        let able = || {
            let able = facts.learners.iter().filter(has_slots);
            able.filter(|learner| !is_contested(learner.peer))
        };
        let asked = self.asked.filter(|asked| facts.now < asked.until);
        let asked = asked.filter(|asked| able().any(|learner| learner.peer == asked.peer));
        let asked = asked.or_else(|| {
            let next = able().find(|learner| self.last_asked.is_none_or(|last| learner.peer > last));
            let peer = next.or_else(|| able().next())?.peer;
            let until = facts.now + ANSWER_MAX;
            Some(Asked { peer, until })
        });
        self.asked = asked;
        let Some(Asked { peer, .. }) = asked else {
            let contested = facts.learners.iter().find(has_slots);
            return Err(match contested {
                Some(learner) => Hindrance::Contested {
                    peer: learner.peer,
                    address: learner.address.clone(),
                },
                None => Hindrance::NoLearner { above },
            });
        };
        self.last_asked = Some(peer);
        Ok(SnapshotWish { peer, above })
    }
}

/// What an acceptor waits for that has asked for a snapshot. Without a leader, no claim lets the acceptor take a snapshot
/// above the cap.
pub(super) fn answer(SnapshotWish { peer, above }: SnapshotWish, facts: &Facts<'_>) -> Hindrance {
    let asked = facts.learners.iter().find(|learner| learner.peer == peer);
    match asked.map(|learner| learner.applied_to) {
        Some(to) if to > facts.cap && !facts.has_leader => Hindrance::Cap { to },
        Some(_) | None => {
            let address = asked.map(|learner| learner.address.clone()).unwrap_or_default();
            Hindrance::Answer { peer, address, above }
        }
    }
}
