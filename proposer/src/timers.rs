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
        self.0.values().map(|&(at, _)| at).min()
    }

    /// Removes the due timers and returns them as events.
    pub(crate) fn due(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let due: Vec<Timer> = self
            .0
            .iter()
            .filter(|&(_, &(at, _))| at <= now)
            .map(|(&timer, _)| timer)
            .collect();
        due.into_iter()
            .filter_map(|timer| {
                self.0
                    .remove(&timer)
                    .map(|(_, generation)| Event::Fired(timer, generation))
            })
            .collect()
    }
}
