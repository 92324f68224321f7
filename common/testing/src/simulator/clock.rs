//! Clocks of simulated processes: monotonic, and wrong by up to a quarter.

use std::time::Duration;

use super::world::Time;

/// A process's own clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    shown: Time,
    since: Time,
    /// In percent.
    rate: Time,
}

impl Default for Clock {
    fn default() -> Self {
        Self::started(0, 100)
    }
}

impl Clock {
    /// Shows zero at `now`.
    pub(crate) fn started(now: Time, rate: Time) -> Self {
        Self {
            shown: 0,
            since: now,
            rate,
        }
    }

    /// Time since the process started, as it sees it.
    pub(crate) fn read(&self, now: Time) -> Duration {
        Duration::from_micros(self.shown + (now.saturating_sub(self.since)) * self.rate / 100)
    }

    /// How long a delay on this clock takes.
    pub(crate) fn takes(&self, delay: Time) -> Time {
        delay * 100 / self.rate
    }

    /// When this clock will show `shown`.
    pub(crate) fn when(&self, now: Time, shown: Duration) -> Time {
        let rest = shown.saturating_sub(self.read(now));
        now + self.takes(Time::try_from(rest.as_micros()).unwrap_or(Time::MAX / 200)) + 1
    }

    /// It runs at another rate from now on, and is ahead of what it would have shown.
    pub(crate) fn jump(&mut self, now: Time, rate: Time, ahead: Time) {
        self.shown = Time::try_from(self.read(now).as_micros()).unwrap_or(Time::MAX) + ahead;
        self.since = now;
        self.rate = rate;
    }
}
