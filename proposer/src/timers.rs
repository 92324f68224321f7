//! The core's timers: a deadline each. The delay is drawn at random from the core's range.

use std::{collections::BTreeMap, time::Duration};

use paxos_common::paxos::proposer::{Event, Timer};
use rand::RngExt as _;
use tokio::time::Instant;

/// Deadline and generation of each timer.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeMap<Timer, (Instant, u64)>);

impl Timers {
    /// Sets a timer, in place of the older generation.
    pub(crate) fn set(&mut self, timer: Timer, generation: u64, at_least: Duration, at_most: Duration) {
        let spread = at_most.saturating_sub(at_least);
        let delay = at_least + spread.mul_f64(rand::rng().random::<f64>());
        self.0.insert(timer, (Instant::now() + delay, generation));
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines().map(|(_, at)| at).min()
    }

    /// The deadline of each timer. A check waits for the next heartbeat: both share a wake-up of the process.
    fn deadlines(&self) -> impl Iterator<Item = (Timer, Instant)> {
        let heartbeat = self.0.get(&Timer::Heartbeat).map(|&(at, _)| at);
        self.0.iter().map(move |(&timer, &(at, _))| {
            let shared = heartbeat.filter(|_| timer == Timer::Check);
            (timer, shared.map_or(at, |heartbeat| at.max(heartbeat)))
        })
    }

    /// Removes the due timers and returns them as events.
    pub(crate) fn due(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let due = self.deadlines().filter(|&(_, at)| at <= now);
        let due: Vec<Timer> = due.map(|(timer, _)| timer).collect();
        due.into_iter()
            .filter_map(|timer| {
                self.0
                    .remove(&timer)
                    .map(|(_, generation)| Event::Fired(timer, generation))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_waits_for_the_next_heartbeat() {
        let mut timers = Timers::default();
        let set = |timers: &mut Timers, timer, generation, seconds| {
            let delay = Duration::from_secs(seconds);
            timers.set(timer, generation, delay, delay);
        };
        set(&mut timers, Timer::Check, 1, 0);
        let alone = timers.due();
        assert_eq!(alone, [Event::Fired(Timer::Check, 1)], "no heartbeat comes");

        set(&mut timers, Timer::Check, 2, 0);
        set(&mut timers, Timer::Heartbeat, 3, 3_600);
        assert_eq!(timers.due(), []);
        assert!(timers.next().is_some_and(|at| at > Instant::now()));

        set(&mut timers, Timer::Heartbeat, 4, 0);
        let both = timers.due();
        assert_eq!(
            both,
            [Event::Fired(Timer::Heartbeat, 4), Event::Fired(Timer::Check, 2)]
        );
        assert_eq!(timers.next(), None);
    }
}
