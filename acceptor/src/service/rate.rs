//! The minimum rate of a snapshot on its way: a slow peer holds a place for a bounded time.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

/// Bytes a second that a peer must send or take on average. The largest snapshot takes less than five hours.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 256 * 1024;
/// Time that a peer may fall behind the minimum rate: longer than a restart of a network connection.
const SLACK: Duration = Duration::from_secs(30);

/// See the head of this file. Counts only the time of waiting for the peer: a slow disk of this acceptor is not the peer's
/// fault.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MinimumRate {
    waited: Duration,
    bytes: u64,
}

/// Why a peer loses its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooSlow {
    /// Nothing came for too long.
    Silent,
    /// The average rate is too low.
    Slow,
}

impl MinimumRate {
    /// Counts bytes of the snapshot as sent or taken by the peer.
    pub(super) fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Waits for the peer, at most `silence_max`.
    ///
    /// # Errors
    /// The peer is too slow.
    ///
    /// # Cancel safety
    /// As `event`. The time of a cancelled wait does not count.
    pub(super) async fn wait<T>(
        &mut self,
        event: impl Future<Output = T>,
        silence_max: Duration,
    ) -> Result<T, TooSlow> {
        let earned = Duration::from_millis(self.bytes * 1000 / BYTES_PER_SECOND_MIN);
        let left = (SLACK + earned).saturating_sub(self.waited);
        let begun = Instant::now();
        let result = timeout(left.min(silence_max), event).await;
        self.waited += begun.elapsed();
        result.map_err(|_| {
            if left < silence_max {
                TooSlow::Slow
            } else {
                TooSlow::Silent
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(10);

    /// Time until a peer that moves this many bytes in each interval loses its place; at most a day.
    async fn held(bytes: usize, interval: Duration) -> (Option<TooSlow>, Duration) {
        let begun = Instant::now();
        let mut rate = MinimumRate::default();
        while begun.elapsed() < Duration::from_hours(24) {
            if let Err(slow) = rate.wait(sleep(interval), SILENCE_MAX).await {
                return (Some(slow), begun.elapsed());
            }
            rate.moved(bytes);
        }
        (None, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn silent_peer_loses_its_place_soon() {
        let (slow, after) = held(1 << 20, Duration::from_secs(11)).await;
        assert_eq!((slow, after.as_secs()), (Some(TooSlow::Silent), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn peer_with_a_byte_in_each_part_loses_its_place_after_the_slack() {
        let (slow, after) = held(1, Duration::from_secs(9)).await;
        assert_eq!((slow, after.as_secs()), (Some(TooSlow::Slow), 30));
        // Half of the minimum rate, and twice the slack.
        let (slow, after) = held(128 * 1024, Duration::from_secs(1)).await;
        assert!(
            slow == Some(TooSlow::Slow) && (55..65).contains(&after.as_secs()),
            "{after:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn peer_at_the_minimum_rate_keeps_its_place() {
        assert_eq!(held(256 * 1024, Duration::from_secs(1)).await.0, None);
    }
}
