//! Where a snapshot of a running learner ends: at a slot at which other learners report their digests too, so that
//! acceptors can compare the snapshot. Decisions without a clock.
//!
//! Every learner reports the digests at the last slots that are multiples of [`DIGEST_SLOTS`], and at its position. The
//! position of a log that stands still is in the reports of all learners. While the log moves, a multiple of the largest
//! distance is best, because such a multiple stays in the reports longest. A log that moves slowly reaches none for long,
//! so a smaller distance is enough after a while.

use std::time::Duration;

use paxos_common::{paxos::slot::Slot, snapshot::DIGEST_SLOTS};
use tokio::time::Instant;

/// How long a learner waits for a multiple of the distance before each of [`DIGEST_SLOTS`].
const WAITS: [Duration; DIGEST_SLOTS.len()] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(2)];
/// How long the position stands still before it counts as reported by all learners: learners report ten times a second.
const STANDS: Duration = Duration::from_millis(300);
/// Longest wait: then a snapshot ends anywhere.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A request to keep the state, and the moves of the position.
#[derive(Debug)]
pub(crate) struct SnapshotEnd<T> {
    request: Option<(T, Instant)>,
    /// The time of the last move of the position.
    moved: Instant,
}

impl<T> SnapshotEnd<T> {
    /// The position has not moved since `now`, or longer.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            request: None,
            moved: now,
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.request.is_some()
    }

    pub(crate) fn wanted(&mut self, request: T, now: Instant) {
        self.request = Some((request, now));
    }

    /// The position is `to` now, and moves on at once. Returns the request if the snapshot is to end here.
    pub(crate) fn passes(&mut self, to: Slot, now: Instant) -> Option<T> {
        self.moved = now;
        let is_good = |&mut (_, since): &mut (T, Instant)| {
            let waited = now.saturating_duration_since(since);
            let mut distances = DIGEST_SLOTS.iter().zip(WAITS);
            distances.any(|(&slots, wait)| waited >= wait && to.get().is_multiple_of(slots))
        };
        self.request.take_if(is_good).map(|(request, _)| request)
    }

    /// When the snapshot is to end at the present position.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let (_, since) = self.request.as_ref()?;
        Some((self.moved + STANDS).min(*since + WAIT_MAX))
    }

    /// The request, if the snapshot is to end at the present position.
    pub(crate) fn stands(&mut self, now: Instant) -> Option<T> {
        self.due_at().filter(|at| *at <= now)?;
        self.request.take().map(|(request, _)| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The end of a snapshot that is wanted at this slot of a log with this number of slots a second, and the wait.
    fn end(from: u64, per_second: u32) -> (u64, Duration) {
        let begun = Instant::now();
        let mut end = SnapshotEnd::new(begun);
        end.wanted((), begun);
        for number in 1.. {
            let now = begun + Duration::from_secs(1) * number / per_second;
            let to = from + u64::from(number);
            if let Some(at) = end.due_at().filter(|at| *at < now) {
                assert_eq!(end.stands(at), Some(()));
                return (to - 1, at - begun);
            }
            if end.passes(Slot::new(to).unwrap(), now).is_some() {
                assert!(!end.is_wanted());
                return (to, now - begun);
            }
        }
        unreachable!("a snapshot ends");
    }

    #[test]
    fn snapshot_ends_at_the_largest_distance_that_the_log_reaches_soon() {
        for (per_second, expected) in [
            (20_000, 6 * 1_024),
            (3_000, 6 * 1_024),
            (600, 23 * 256),
            (100, 167 * 32),
            (20, 162 * 32),
        ] {
            let (to, waited) = end(5_121, per_second);
            assert_eq!(to, expected, "{per_second} a second");
            assert!(waited < Duration::from_secs(4), "{per_second}: {waited:?}");
        }
    }

    #[test]
    fn snapshot_of_a_slow_log_ends_at_its_position() {
        assert_eq!(end(5_001, 2), (5_001, STANDS));
        // The log moves, and reaches no multiple within the longest wait.
        assert_eq!(end(5_025, 5), (5_050, WAIT_MAX));
    }

    #[test]
    fn position_that_stands_still_for_long_is_the_end_at_once() {
        let begun = Instant::now();
        let mut end = SnapshotEnd::new(begun);
        assert_eq!(end.due_at(), None);
        let now = begun + STANDS;
        end.wanted((), now);
        assert_eq!(end.stands(now), Some(()));
        assert_eq!(end.stands(now), None);
        // The position moves while a snapshot is wanted.
        end.wanted((), now);
        assert_eq!(end.passes(Slot::new(7).unwrap(), now), None);
        assert_eq!(end.stands(now), None);
        assert_eq!(end.stands(now + STANDS), Some(()));
    }
}
