//! An alarm: a timer that wakes the process when due, and at no other time.
//!
//! The timers of the runtime wake the process more often: a timer waits in a wheel with turns of 64 ms, and the process
//! also wakes at the start of the turn in which the timer is due. In a process that mostly waits, such wake-ups cost as
//! much as the work.

use std::time::Duration;

use tokio::time::Instant;

/// Cheap to wait for repeatedly until the same time. Without timers of the kernel, a timer of the runtime.
#[derive(Debug)]
pub struct Alarm {
    #[cfg(target_os = "linux")]
    timer: Option<kernel::KernelTimer>,
}

impl Alarm {
    /// An alarm that is not set.
    ///
    /// # Panics
    /// Outside a runtime.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "needs a runtime")]
    pub fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            timer: kernel::KernelTimer::new()
                .inspect_err(|error| tracing::debug!(%error, "no timer of the kernel"))
                .ok(),
        }
    }

    /// Waits until `at`; without a time, never returns.
    ///
    /// # Cancel safety
    /// Safe: this function only waits.
    pub async fn wait_until(&mut self, at: Option<Instant>) {
        let Some(at) = at else {
            return std::future::pending().await;
        };
        #[cfg(target_os = "linux")]
        if let Some(timer) = &mut self.timer {
            match timer.wait_until(at).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::debug!(%error, "the timer of the kernel failed");
                    self.timer = None;
                }
            }
        }
        tokio::time::sleep_until(at).await;
    }
}

/// Time from `now` to the next multiple of `interval`. Tasks that count from the same start share a wake-up.
pub fn until_next(now: Duration, interval: Duration) -> Duration {
    let into = now.as_nanos() % interval.as_nanos().max(1);
    interval.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX)))
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::{io, os::fd::OwnedFd};

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::{
        io::{Interest, unix::AsyncFd},
        time::Instant,
    };

    #[derive(Debug)]
    pub(super) struct KernelTimer {
        descriptor: AsyncFd<OwnedFd>,
        /// The time of the timer, unless the timer has rung.
        set_to: Option<Instant>,
    }

    impl KernelTimer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                deprecated,
                reason = "the successor is unsafe, because some types give away a descriptor that is not their own; \
                          `OwnedFd` does not"
            )]
            let descriptor = AsyncFd::with_interest(timer, Interest::READABLE)?;
            Ok(Self {
                descriptor,
                set_to: None,
            })
        }

        /// # Cancel safety
        /// Safe: the timer stays set, and the next call sets another time.
        pub(super) async fn wait_until(&mut self, at: Instant) -> io::Result<()> {
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(());
                }
                if self.set_to != Some(at) {
                    let set = Itimerspec {
                        it_interval: Timespec::default(),
                        it_value: Timespec::try_from(left).map_err(io::Error::other)?,
                    };
                    timerfd_settime(&self.descriptor, TimerfdTimerFlags::empty(), &set)?;
                    self.set_to = Some(at);
                }
                // A ring of an earlier time is possible: the loop then sets the timer again.
                self.descriptor.readable().await?.clear_ready();
                self.set_to = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::{runtime::Handle, task::yield_now};

    use super::*;

    #[test]
    fn moments_of_an_interval_are_its_multiples() {
        let millis = Duration::from_millis;
        for (now, wait) in [(0, 100), (1, 99), (99, 1), (100, 100), (250, 50)] {
            assert_eq!(until_next(millis(now), millis(100)), millis(wait), "at {now}");
        }
    }

    /// Begins to wait, and stops at once unless the alarm rings.
    async fn rings(alarm: &mut Alarm, at: Option<Instant>) -> bool {
        tokio::select! {
            biased;
            () = alarm.wait_until(at) => true,
            () = ready(()) => false,
        }
    }

    #[tokio::test]
    async fn alarm_rings_when_due_and_not_before() {
        let mut alarm = Alarm::new();
        let start = Instant::now();
        for millis in [5, 0, 9] {
            let at = start + Duration::from_millis(millis);
            alarm.wait_until(Some(at)).await;
            assert!(Instant::now() >= at);
        }
        assert!(!rings(&mut alarm, None).await);
    }

    #[tokio::test]
    async fn abandoned_wait_moves_no_later_ring() {
        let mut alarm = Alarm::new();
        let start = Instant::now();
        let (far, near) = (
            start + Duration::from_secs(3_600),
            start + Duration::from_millis(1),
        );
        assert!(!rings(&mut alarm, Some(far)).await);
        alarm.wait_until(Some(near)).await;
        // This alarm rings while no call waits.
        let missed = Instant::now() + Duration::from_millis(1);
        assert!(!rings(&mut alarm, Some(missed)).await);
        while Instant::now() < missed + Duration::from_millis(1) {
            yield_now().await;
        }
        let next = Instant::now() + Duration::from_millis(5);
        alarm.wait_until(Some(next)).await;
        assert!(Instant::now() >= next);
    }

    /// With a timer of the runtime, the process also wakes at the start of each turn of the wheel that holds the time.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn process_wakes_once_for_an_alarm() {
        let mut alarm = Alarm::new();
        let parked = || Handle::current().metrics().worker_park_count(0);
        // Turns of the wheel begin during each wait.
        for _ in 0..3 {
            let before = parked();
            alarm
                .wait_until(Some(Instant::now() + Duration::from_millis(70)))
                .await;
            assert_eq!(parked() - before, 1);
        }
    }
}
