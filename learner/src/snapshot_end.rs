//! Where a snapshot for an acceptor ends: at a slot whose digests all learners report, if one comes soon. There the acceptor
//! can compare the snapshot with the reports of other learners. Decisions without a clock.
//!
//! Every learner reports the digests at the last multiples of [`DIGEST_SLOTS`], and at its position. A multiple of the largest
//! distance is best, because such a multiple stays in the reports longest. A log that moves slowly reaches none for long, so
//! a smaller distance is enough after a while. The position of a log that stands still is in the reports of all learners.

use std::time::Duration;

use paxos_common::{paxos::slot::Slot, snapshot::DIGEST_SLOTS};
use tokio::time::Instant;

/// How long a snapshot waits for a multiple of a larger distance, for each of [`DIGEST_SLOTS`].
const WAITS: [Duration; DIGEST_SLOTS.len()] =
    [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(1)];
/// How long the position stands still until all learners have reported it: learners report ten times a second.
const STANDS: Duration = Duration::from_millis(300);
/// Longest wait: then a snapshot ends anywhere.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Where a snapshot is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WantedEnd {
    /// At the present position.
    Present,
    /// See the head of this file.
    Common,
}

/// The request for a snapshot with a common end, if any.
#[derive(Debug)]
pub(crate) struct CommonEnd<T>(Option<WaitingRequest<T>>);

#[derive(Debug)]
struct WaitingRequest<T> {
    request: T,
    since: Instant,
    /// The position at this time.
    from: Slot,
}

impl<T> CommonEnd<T> {
    pub(crate) const NONE: Self = Self(None);

    /// Takes the place of an earlier request, whose caller is gone.
    pub(crate) fn wanted(&mut self, request: T, position: Slot, now: Instant) {
        self.0 = Some(WaitingRequest {
            request,
            since: now,
            from: position,
        });
    }

    /// The position is `to` now, and moves on at once. Returns the request if the snapshot is to end here.
    pub(crate) fn passes(&mut self, to: Slot, now: Instant) -> Option<T> {
        let ends = |waiting: &mut WaitingRequest<T>| {
            let waited = now.saturating_duration_since(waiting.since);
            let mut distances = DIGEST_SLOTS.iter().zip(WAITS);
            distances.any(|(&slots, wait)| waited >= wait && to.get().is_multiple_of(slots))
        };
        self.0.take_if(ends).map(|waiting| waiting.request)
    }

    /// When the snapshot is to end at the present position.
    pub(crate) fn due_at(&self, position: Slot) -> Option<Instant> {
        let waiting = self.0.as_ref()?;
        let stands = position == waiting.from;
        Some(waiting.since + if stands { STANDS } else { WAIT_MAX })
    }

    /// Returns the request if the snapshot is to end at the present position.
    pub(crate) fn stands(&mut self, position: Slot, now: Instant) -> Option<T> {
        self.due_at(position).filter(|at| *at <= now)?;
        self.0.take().map(|waiting| waiting.request)
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::slot;

    use super::*;

    /// The end of a snapshot that is wanted at this slot of a log with this number of slots a second, and the wait.
    fn end(from: u64, per_second: u32) -> (u64, Duration) {
        let begun = Instant::now();
        let mut end = CommonEnd::NONE;
        end.wanted((), slot(from), begun);
        for number in 1.. {
            let now = begun + Duration::from_secs(1) * number / per_second;
            let to = from + u64::from(number);
            if let Some(at) = end.due_at(slot(to - 1)).filter(|at| *at < now) {
                assert_eq!(end.stands(slot(to - 1), at), Some(()));
                return (to - 1, at - begun);
            }
            if end.passes(slot(to), now).is_some() {
                assert_eq!(end.due_at(slot(to)), None);
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
            (600, 22 * 256),
            (100, 164 * 32),
            (40, 162 * 32),
        ] {
            let (to, waited) = end(5_121, per_second);
            assert_eq!(to, expected, "{per_second} a second");
            assert!(waited < WAIT_MAX, "{per_second}: {waited:?}");
        }
    }

    #[test]
    fn snapshot_of_a_slow_log_ends_anywhere_after_the_longest_wait() {
        assert_eq!(end(5_025, 5), (5_035, WAIT_MAX));
    }

    #[test]
    fn position_that_stands_still_is_the_end_soon() {
        let begun = Instant::now();
        let mut end = CommonEnd::NONE;
        assert_eq!(end.due_at(slot(7)), None);
        end.wanted((), slot(7), begun);
        assert_eq!(end.stands(slot(7), begun), None);
        assert_eq!(end.stands(slot(7), begun + STANDS), Some(()));
        assert_eq!(end.stands(slot(7), begun + STANDS), None);
        // The position moves.
        end.wanted((), slot(7), begun);
        assert_eq!(end.passes(slot(8), begun), None);
        assert_eq!(end.stands(slot(8), begun + STANDS), None);
        assert_eq!(end.stands(slot(8), begun + WAIT_MAX), Some(()));
    }
}
