//! Whether a requested slot is gone: judges the answers of all learners, round by round.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::TrimmedAnswer;

/// How long a learner without an answer may still have the slot: the usual time of a restart.
const ABSENCE_MAX: Duration = Duration::from_secs(2);

/// The answers of learners that do not keep the requested slot any more.
///
/// Learners keep different parts of the log, so that a single answer is not enough. The slot is gone once every learner of
/// a round has said so. A listed learner that gives no answer cannot hide this for long: the slot is also gone once the
/// other learners have said so, round after round, for [`ABSENCE_MAX`].
#[derive(Debug, Default)]
pub(crate) struct TrimmedRounds {
    /// Answers of this round.
    count: usize,
    /// The answer of the learner that keeps most, in this round.
    longest: Option<TrimmedAnswer>,
    /// End of the first round with such answers; each round since had such answers.
    since: Option<Instant>,
}

impl TrimmedRounds {
    /// Adds the answer of a learner.
    pub(crate) fn add(&mut self, answer: TrimmedAnswer) {
        self.count += 1;
        self.longest = Some(answer.or_longer(self.longest.take()));
    }

    /// Ends a round in which `asked` learners were asked, and none had the slot. Returns the answer of the learner that
    /// keeps most, if the slot is gone.
    pub(crate) fn end_round(&mut self, asked: usize) -> Option<TrimmedAnswer> {
        let Self {
            count,
            longest,
            since,
        } = std::mem::take(self);
        let longest = longest?;
        let since = since.unwrap_or_else(Instant::now);
        if count == asked || since.elapsed() >= ABSENCE_MAX {
            return Some(longest);
        }
        self.since = Some(since);
        None
    }
}

#[cfg(test)]
mod tests {
    use paxos_common::{
        paxos::slot::Slot,
        wire::status::{self, KeptSlots},
    };
    use tokio::time::advance;

    use super::*;

    fn answer(from: u64) -> TrimmedAnswer {
        let [from, to] = [from, 100].map(|slot| Slot::new(slot).unwrap());
        TrimmedAnswer::of(&status::trimmed(KeptSlots { from, to })).unwrap()
    }

    fn ended(rounds: &mut TrimmedRounds, answers: &[u64], asked: usize) -> Option<u64> {
        answers.iter().for_each(|&from| rounds.add(answer(from)));
        rounds.end_round(asked).map(|answer| answer.kept.from.get())
    }

    #[tokio::test(start_paused = true)]
    async fn slot_is_gone_after_a_unanimous_round_or_two_seconds_of_incomplete_rounds() {
        let mut rounds = TrimmedRounds::default();
        assert_eq!(ended(&mut rounds, &[], 0), None);
        assert_eq!(ended(&mut rounds, &[], 2), None);
        assert_eq!(ended(&mut rounds, &[50, 40, 60], 3), Some(40));
        // One of three learners gives no answer.
        for last in [Some(50), None] {
            let mut rounds = TrimmedRounds::default();
            assert_eq!(ended(&mut rounds, &[50, 40], 3), None);
            advance(ABSENCE_MAX - Duration::from_millis(1)).await;
            assert_eq!(ended(&mut rounds, &[50], 3), None);
            if last.is_none() {
                // No learner answers in between.
                assert_eq!(ended(&mut rounds, &[], 3), None);
            }
            advance(Duration::from_millis(1)).await;
            assert_eq!(ended(&mut rounds, &[50], 3), last);
        }
    }
}
