//! Periodic work in step with the leader: due work is done when the next message of a proposer wakes the process.
//!
//! A wake-up costs an idle process more than the work. Without messages, a timer starts the work a little later.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Minimum time between two beats: a busy leader's stream brings thousands of chunks a second.
const BEATS_APART_MIN: Duration = Duration::from_millis(20);

/// Maximum wait of due work for a beat: the time of three heartbeats at the usual leader timeout.
const LATE_MAX: Duration = Duration::from_millis(150);

/// Beats with the arriving messages of proposers.
#[derive(Debug)]
pub(crate) struct Pulse(watch::Sender<Instant>);

impl Pulse {
    /// A pulse without a beat so far.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Instant::now()))
    }

    /// A message arrived. No beat if the last beat was a moment ago.
    pub(crate) fn beat(&self) {
        let now = Instant::now();
        self.0.send_if_modified(|last| {
            let is_beat = now.saturating_duration_since(*last) >= BEATS_APART_MIN;
            if is_beat {
                *last = now;
            }
            is_beat
        });
    }

    /// Changes at every beat.
    pub(crate) fn beats(&self) -> watch::Receiver<Instant> {
        self.0.subscribe()
    }

    /// Ticks about once in each interval, from now on.
    pub(crate) fn ticker(&self, interval: Duration) -> Ticker {
        Ticker {
            beats: self.beats(),
            interval,
            due: Instant::now(),
        }
    }
}

/// Ticks in step with a [`Pulse`].
#[derive(Debug)]
pub(crate) struct Ticker {
    beats: watch::Receiver<Instant>,
    interval: Duration,
    /// From now on, a beat brings the next tick.
    due: Instant,
}

impl Ticker {
    /// Returns once the interval has passed since the last tick, at the next beat or [`LATE_MAX`] later. The first tick
    /// comes at once.
    ///
    /// # Cancel safety
    /// Safe: a tick not returned is returned next time.
    pub(crate) async fn tick(&mut self) {
        while Instant::now() < self.due {
            // A new timer after each beat: the wheel of the runtime's timers wakes the process before an older timer is
            // due.
            tokio::select! {
                // Both arms only wait. An error means: no more beats come.
                Ok(()) = self.beats.changed() => {}
                () = sleep_until(self.due + LATE_MAX) => {}
            }
        }
        self.due = Instant::now() + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::advance;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    async fn ticks(ticker: &mut Ticker) -> bool {
        tokio::select! {
            biased;
            () = ticker.tick() => true,
            () = ready(()) => false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tick_comes_with_the_first_beat_after_the_interval() {
        let pulse = Pulse::new();
        let mut ticker = pulse.ticker(INTERVAL);
        assert!(ticks(&mut ticker).await, "the first tick comes at once");
        let begun = Instant::now();
        let tick = tokio::spawn(async move {
            ticker.tick().await;
            Instant::now()
        });
        for _ in 0..11 {
            tokio::task::yield_now().await;
            advance(Duration::from_millis(49)).await;
            pulse.beat();
        }
        assert_eq!(tick.await.unwrap() - begun, Duration::from_millis(11 * 49));
    }

    #[tokio::test(start_paused = true)]
    async fn without_beats_a_timer_brings_the_tick() {
        let pulse = Pulse::new();
        let mut ticker = pulse.ticker(INTERVAL);
        ticker.tick().await;
        let begun = Instant::now();
        ticker.tick().await;
        let waited = begun.elapsed();
        assert!(
            waited >= INTERVAL + LATE_MAX && waited < INTERVAL + LATE_MAX * 2,
            "{waited:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn messages_in_quick_succession_are_one_beat() {
        let pulse = Pulse::new();
        let mut beats = pulse.beats();
        let mut count = 0;
        for _ in 0..100 {
            advance(Duration::from_millis(1)).await;
            pulse.beat();
            count += usize::from(beats.has_changed().unwrap());
            beats.mark_unchanged();
        }
        assert_eq!(count, 5);
    }
}
