//! The progress of one call over the learners: the learners asked so far, the next learner, and the latest failure.

use std::{sync::Arc, time::Duration};

use paxos_common::peer::{Address, Backoff};
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, error::Elapsed, sleep, timeout_at},
};
use tonic::Status;

use super::{
    CALLS_MAX, Learners,
    roster::{KnownLearner, Members},
};
use crate::{
    error::{Cause, TrimmedAnswer, Unanswered, longer},
    trimmed::TrimmedRounds,
};

/// Longest wait for a learner before another learner is asked: at the first attempt, and at most. The wait doubles with
/// each attempt of a call, so that a cluster of slow learners still answers.
const ATTEMPT_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));
/// Pauses after all learners have failed, from the shortest to the longest.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The learners that must answer that a slot is not kept any more, before a call ends with this answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrimmedBy {
    /// One learner.
    Any,
    /// All learners: see [`TrimmedRounds`].
    All,
}

/// The room of a call beside other calls. `None`: the call began alone, and needs no room.
pub(super) type HedgeRoom<'a> = Option<SemaphorePermit<'a>>;

/// The learner asked next.
pub(super) struct NextLearner<'a> {
    pub(super) member: Arc<KnownLearner>,
    pub(super) room: HedgeRoom<'a>,
    /// No other learner needs a turn before the deadline.
    is_last: bool,
}

/// See the head of this file.
pub(super) struct Asking<'a> {
    learners: &'a Learners,
    trimmed_by: TrimmedBy,
    deadline: Instant,
    patience: Duration,
    pause: Backoff,
    /// The learners of this round, with the calls in flight.
    tried: Vec<Address>,
    trimmed: TrimmedRounds,
    /// The learners of the calls in flight, and the beginnings of the calls.
    waiting: Vec<(Arc<KnownLearner>, Instant)>,
    hedge_at: Instant,
    /// After a failure beside other calls in flight: the retry takes the room of the failed call.
    retry: Option<HedgeRoom<'a>>,
    /// The latest failure.
    last: Cause,
    /// The longest wait requested by a learner in this round.
    requested: Option<Duration>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(learners: &'a Learners, trimmed_by: TrimmedBy, deadline: Instant) -> Self {
        Self {
            learners,
            trimmed_by,
            deadline,
            patience: ATTEMPT_PATIENCE.0,
            pause: Backoff::new(ROUND_PAUSE.0, ROUND_PAUSE.1),
            tried: Vec::new(),
            trimmed: TrimmedRounds::default(),
            waiting: Vec::new(),
            hedge_at: Instant::now(),
            retry: None,
            last: Cause::deadline(),
            requested: None,
        }
    }

    /// When another learner is asked beside the calls in flight.
    pub(super) fn hedge_at(&self) -> Instant {
        self.hedge_at
    }

    /// The learners of the calls in flight, and the beginnings of the calls.
    pub(super) fn waiting(&self) -> &[(Arc<KnownLearner>, Instant)] {
        &self.waiting
    }

    /// The learner asked next while no call is in flight. Pauses between two rounds.
    ///
    /// # Errors
    /// The deadline comes first, the slot is not kept any more, or the client needs another certificate.
    pub(super) async fn next_alone(&mut self) -> Result<NextLearner<'a>, Unanswered> {
        self.retry = None;
        loop {
            let members = match timeout_at(self.deadline, self.learners.roster.members()).await {
                Ok(Ok(members)) => members,
                Ok(Err(cause)) if cause.is_permanent() => return Err(Unanswered::Refused(cause)),
                Ok(Err(cause)) => {
                    self.last = cause;
                    Members::default()
                }
                Err(_elapsed) => return Err(Unanswered::Unavailable(self.last.clone())),
            };
            if let Some(member) = self.learners.choose(&members, &self.tried) {
                return Ok(NextLearner {
                    member,
                    room: None,
                    // Another learner, if any, must have a turn before the deadline.
                    is_last: members.len() <= self.tried.len() + 1,
                });
            }
            self.end_round().await?;
        }
    }

    /// Ends a round without an answer, and pauses before the next round.
    async fn end_round(&mut self) -> Result<(), Unanswered> {
        if let Some(trimmed) = self.trimmed.end_round(self.tried.len()) {
            return Err(Unanswered::Trimmed(trimmed));
        }
        self.tried.clear();
        self.learners.roster.expire();
        let delay = longer(self.pause.next_delay(), self.requested.take());
        if Instant::now() + delay >= self.deadline {
            return Err(Unanswered::Unavailable(self.last.clone()));
        }
        sleep(delay).await;
        Ok(())
    }

    /// The learner asked next beside `calls` calls in flight: after a failure, or when the answers are late.
    pub(super) fn next_beside(&mut self, calls: usize) -> Option<NextLearner<'a>> {
        let learners = self.learners;
        let room = if let Some(room) = self.retry.take() {
            room
        } else if Instant::now() >= self.hedge_at && calls < CALLS_MAX {
            self.hedge_at = Instant::now() + learners.hedge.wait();
            Some(learners.hedge.room()?)
        } else {
            return None;
        };
        let (members, _) = learners.roster.known();
        Some(NextLearner {
            member: learners.choose(&members, &self.tried)?,
            room,
            is_last: true,
        })
    }

    /// A call to this learner begins. Returns the longest wait for the answer.
    pub(super) fn begin(&mut self, next: &NextLearner<'_>) -> Duration {
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        self.tried.push(next.member.address.clone());
        self.waiting.push((Arc::clone(&next.member), now));
        self.hedge_at = now + self.learners.hedge.wait();
        self.patience.min(if next.is_last { left } else { left / 2 })
    }

    /// A call has ended. Returns its duration.
    pub(super) fn ended(&mut self, member: &Arc<KnownLearner>) -> Duration {
        let begun = self
            .waiting
            .iter()
            .position(|(waiting, _)| Arc::ptr_eq(waiting, member));
        begun.map_or(Duration::ZERO, |begun| {
            self.waiting.swap_remove(begun).1.elapsed()
        })
    }

    /// A call has failed: another learner is asked in the same room.
    ///
    /// # Errors
    /// The failure ends the call: every learner would answer the same, or the deadline has passed.
    pub(super) fn failed(
        &mut self,
        member: &KnownLearner,
        failure: Result<Status, Elapsed>,
        room: HedgeRoom<'a>,
    ) -> Result<(), Unanswered> {
        let cause = match failure {
            Ok(status) => {
                if let Some(answer) = TrimmedAnswer::of(&status) {
                    return self.found_trimmed(member, answer, room);
                }
                if let Some(unanswered) = Unanswered::judge(&status) {
                    return Err(unanswered);
                }
                Cause::of(&status)
            }
            Err(_elapsed) => {
                member.slowness.found(Instant::now());
                Cause::deadline()
            }
        };
        self.requested = self.requested.max(cause.retry_delay);
        self.last = cause.at(&member.address);
        if Instant::now() >= self.deadline {
            return Err(Unanswered::Unavailable(self.last.clone()));
        }
        tracing::debug!(cause = %self.last, "asking another learner");
        self.learners.directory.shun(&member.address);
        self.patience = (2 * self.patience).min(ATTEMPT_PATIENCE.1);
        self.retry = Some(room);
        Ok(())
    }

    /// A learner does not keep the slot any more.
    fn found_trimmed(
        &mut self,
        member: &KnownLearner,
        answer: TrimmedAnswer,
        room: HedgeRoom<'a>,
    ) -> Result<(), Unanswered> {
        match self.trimmed_by {
            TrimmedBy::Any => Err(Unanswered::Trimmed(answer)),
            TrimmedBy::All => {
                self.last = answer.cause.clone().at(&member.address);
                self.trimmed.add(answer);
                self.retry = Some(room);
                Ok(())
            }
        }
    }
}
