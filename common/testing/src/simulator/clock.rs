//! Clocks of simulated processes: monotonic, and wrong by up to a quarter.

use std::time::Duration;

use super::world::Time;

/// The clock of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    shown: Time,
    since: Time,
    /// In percent of simulated time.
    rate: Time,
}

impl Default for Clock {
    fn default() -> Self {
        Self::started(0, 100)
    }
}

impl Clock {
    /// A clock that shows zero at `now`.
    pub(crate) fn started(now: Time, rate: Time) -> Self {
        Self {
            shown: 0,
            since: now,
            rate,
        }
    }

    /// Time since the start of the process, as shown by this clock.
    pub(crate) fn read(&self, now: Time) -> Duration {
        Duration::from_micros(self.shown + (now.saturating_sub(self.since)) * self.rate / 100)
    }

    /// Simulated duration of a delay on this clock.
    pub(crate) fn takes(&self, delay: Time) -> Time {
        delay * 100 / self.rate
    }

    /// Simulated time at the moment when this clock shows `shown`.
    pub(crate) fn when(&self, now: Time, shown: Duration) -> Time {
        let rest = shown.saturating_sub(self.read(now));
        now + self.takes(Time::try_from(rest.as_micros()).unwrap_or(Time::MAX / 200)) + 1
    }

    /// From now on, the clock is ahead by `ahead` and runs at a different rate.
    pub(crate) fn jump(&mut self, now: Time, rate: Time, ahead: Time) {
        self.shown = Time::try_from(self.read(now).as_micros()).unwrap_or(Time::MAX) + ahead;
        self.since = now;
        self.rate = rate;
    }
}
