//! The core's time: time since this process began to drive the core, and stalls of the process.

use std::time::Duration;

use tokio::time::Instant;

/// Counts from creation. Copies count alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// Begins to count.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub(crate) fn now(self) -> Duration {
        self.0.elapsed()
    }
}

/// Duration of a stall of this process, if any: a wake-up due at `due` came more than a quarter of the leader timeout
/// late. A stopped process, a paused machine and a starved processor look alike.
pub(crate) fn stood_still(due: Option<Instant>, now: Instant, leader_timeout: Duration) -> Option<Duration> {
    let late = now.saturating_duration_since(due?);
    (late > leader_timeout / 4).then_some(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_up_a_quarter_of_the_timeout_late_shows_a_frozen_process() {
        let timeout = Duration::from_millis(200);
        let due = Instant::now();
        let after = |millis| stood_still(Some(due), due + Duration::from_millis(millis), timeout);
        assert_eq!(after(0), None);
        assert_eq!(after(50), None);
        assert_eq!(after(51), Some(Duration::from_millis(51)));
        let early = stood_still(Some(due + timeout), due, timeout);
        assert_eq!(early, None, "something came in before");
        assert_eq!(stood_still(None, due, timeout), None, "nothing was due");
    }
}
