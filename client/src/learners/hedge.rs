//! When another learner is asked although the first has not answered yet: a *hedge*. The first answer counts.
//!
//! Every learner's answer stands for itself: an answer to a linearizable read is right whichever learner gives it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Shortest wait for an answer before another learner is asked too: many times the duration of a read.
const WAIT_MIN: Duration = Duration::from_millis(150);
/// The same wait as a multiple of the usual duration of a call, so that a slow cluster does not get twice the calls.
const WAIT_FACTOR: u32 = 4;
/// Limit of a client's hedges in flight (inclusive): a bound on the additional load.
const HEDGES_MAX: usize = 64;
/// How long a learner that was found slow is asked last: at first, and at most. The time doubles each time that the
/// learner is found slow again.
const AVOIDANCE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(64));

/// Decides for all calls of a client.
#[derive(Debug)]
pub(super) struct Hedge {
    /// Smoothed duration of answered calls, in microseconds.
    usual: AtomicU64,
    room: Semaphore,
}

impl Default for Hedge {
    fn default() -> Self {
        Self {
            usual: AtomicU64::new(0),
            room: Semaphore::new(HEDGES_MAX),
        }
    }
}

impl Hedge {
    /// How long a call waits for an answer before it asks another learner too.
    pub(super) fn wait(&self) -> Duration {
        let usual = Duration::from_micros(self.usual.load(Ordering::Relaxed));
        WAIT_MIN.max(usual * WAIT_FACTOR)
    }

    /// A call was answered after this time.
    pub(super) fn answered(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let usual = self.usual.load(Ordering::Relaxed);
        // A lost update between two calls costs a sample.
        self.usual.store(usual - usual / 8 + took / 8, Ordering::Relaxed);
    }

    /// Room for a hedge, while the client has fewer than the limit.
    pub(super) fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.room.try_acquire().ok()
    }
}

/// Whether a learner that waited this long is slow, beside another learner that answered after `other`. All learners
/// may wait for the same event in the cluster: a little longer is not slow.
pub(super) fn is_slow(waited: Duration, other: Duration) -> bool {
    waited >= WAIT_MIN.max(other * WAIT_FACTOR)
}

/// What is remembered of a slow learner.
#[derive(Debug, Default)]
pub(super) struct Slowness(Mutex<Option<FoundSlow>>);

#[derive(Clone, Copy, Debug)]
struct FoundSlow {
    until: Instant,
    avoidance: Duration,
}

impl Slowness {
    /// The learner did not answer in time, or another learner answered much earlier.
    pub(super) fn found(&self, now: Instant) {
        let mut slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Several calls in flight find the learner slow at the same time: this counts once.
        if slow.is_some_and(|slow| now < slow.until) {
            return;
        }
        let avoidance = slow.map_or(AVOIDANCE.0, |slow| (slow.avoidance * 2).min(AVOIDANCE.1));
        *slow = Some(FoundSlow {
            until: now + avoidance,
            avoidance,
        });
    }

    /// The learner answered in time.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        let slow = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slow.is_some_and(|slow| now < slow.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_grows_with_the_usual_duration_of_calls() {
        let hedge = Hedge::default();
        assert_eq!(hedge.wait(), WAIT_MIN);
        for _ in 0..100 {
            hedge.answered(Duration::from_secs(1));
        }
        assert!(hedge.wait() > Duration::from_secs(3), "{:?}", hedge.wait());
        for _ in 0..100 {
            hedge.answered(Duration::from_millis(1));
        }
        assert_eq!(hedge.wait(), WAIT_MIN);
    }

    #[test]
    fn hedges_of_a_client_are_bounded() {
        let hedge = Hedge::default();
        let hedges: Vec<_> = (0..HEDGES_MAX).map(|_| hedge.room().unwrap()).collect();
        assert!(hedge.room().is_none());
        drop(hedges);
        assert!(hedge.room().is_some());
    }

    #[test]
    fn learner_that_waits_for_the_same_event_is_not_slow() {
        let second = Duration::from_secs(1);
        assert!(!is_slow(second + WAIT_MIN, second));
        assert!(is_slow(WAIT_MIN, Duration::from_millis(2)));
        assert!(!is_slow(WAIT_MIN / 2, Duration::ZERO));
    }

    #[test]
    fn learner_found_slow_again_is_avoided_longer_until_it_answers_in_time() {
        let slowness = Slowness::default();
        let mut now = Instant::now();
        let mut avoided = Vec::new();
        for _ in 0..8 {
            slowness.found(now);
            // Another call finds the same.
            slowness.found(now);
            let mut seconds = 0;
            while slowness.is_avoided(now) {
                now += Duration::from_secs(1);
                seconds += 1;
            }
            avoided.push(seconds);
        }
        assert_eq!(avoided, [2, 4, 8, 16, 32, 64, 64, 64]);
        slowness.forget();
        slowness.found(now);
        assert!(!slowness.is_avoided(now + AVOIDANCE.0));
    }
}
