//! The pace of sweeping: the share of the worker's time spent on deleting trimmed rows.

use std::time::Instant;

use paxos_common::paxos::slot::Slot;

/// One part in this number of the worker's time goes to sweeping: votes hardly notice.
const SHARE: u32 = 10;
/// One part in this number, while a whole step is unswept: the file must not grow by more than a step.
const SHARE_BEHIND: u32 = 3;

/// See the head of this file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SweepPace {
    due: Option<Instant>,
}

impl SweepPace {
    /// Rows may lie below the first slot of the log: after a trim, and at start.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.due.get_or_insert(now);
    }

    /// Time of the next sweep; none while everything is swept.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A sweep has ended. `unswept`: the estimated bytes of the trimmed rows left; none: no such row is left. `step`:
    /// bytes of the log between two trims.
    pub(crate) fn swept(&mut self, begun: Instant, ended: Instant, unswept: Option<u64>, step: u64) {
        self.due = unswept.map(|bytes| {
            let share = if bytes >= step { SHARE_BEHIND } else { SHARE };
            ended + ended.saturating_duration_since(begun) * (share - 1)
        });
    }
}

/// Estimated bytes of the rows from slot `lowest` to `trimmed_to`, in a log of `log_bytes` with rows from `lowest` to
/// `voted_to`: the rows count as equally large.
pub(crate) fn unswept_bytes(log_bytes: u64, lowest: Slot, trimmed_to: Slot, voted_to: Slot) -> u64 {
    let slots = |to: Slot| u128::from(to.get().saturating_sub(lowest.get()));
    let unswept = u128::from(log_bytes) * slots(trimmed_to) / slots(voted_to).max(1);
    u64::try_from(unswept).unwrap_or(u64::MAX).min(log_bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STEP: u64 = 1000;

    /// Share of the time spent sweeping, as one part in the returned number, if each sweep takes `took`.
    fn share(took: Duration, unswept: u64) -> u32 {
        let start = Instant::now();
        let mut pace = SweepPace::default();
        pace.begin(start);
        assert_eq!(pace.due(), Some(start));
        let mut spent = Duration::ZERO;
        let mut begun = start;
        for _ in 0..20 {
            spent += took;
            pace.swept(begun, begun + took, Some(unswept), STEP);
            begun = pace.due().unwrap();
        }
        u32::try_from(begun.duration_since(start).as_nanos() / spent.as_nanos()).unwrap()
    }

    #[test]
    fn sweeping_takes_a_tenth_of_the_time_or_a_third_while_a_step_is_unswept() {
        for took in [Duration::from_micros(300), Duration::from_secs(2)] {
            assert_eq!(share(took, 0), 10);
            assert_eq!(share(took, STEP - 1), 10);
            assert_eq!(share(took, STEP), 3);
            assert_eq!(share(took, u64::MAX), 3);
        }
    }

    #[test]
    fn nothing_is_due_once_all_is_swept_until_the_next_trim() {
        let now = Instant::now();
        let mut pace = SweepPace::default();
        assert_eq!(pace.due(), None);
        pace.begin(now);
        pace.swept(now, now, None, STEP);
        assert_eq!(pace.due(), None);
        let later = now + Duration::from_secs(1);
        pace.begin(later);
        // A trim during a pause does not end the pause.
        pace.swept(later, later + Duration::from_secs(1), Some(1), STEP);
        let due = pace.due();
        pace.begin(later + Duration::from_secs(2));
        assert_eq!((pace.due(), due), (due, Some(later + Duration::from_secs(10))));
    }

    #[test]
    fn unswept_bytes_are_the_trimmed_part_of_the_log() {
        let at = |slot| Slot::new(slot).unwrap();
        let unswept =
            |lowest, trimmed_to, voted_to| unswept_bytes(8000, at(lowest), at(trimmed_to), at(voted_to));
        assert_eq!(unswept(0, 25, 100), 2000);
        assert_eq!(unswept(20, 60, 100), 4000);
        // A lift beyond all rows, an empty log, a slot of a damaged row.
        assert_eq!(unswept(0, 100, 100), 8000);
        assert_eq!(unswept(100, 100, 100), 0);
        assert_eq!(unswept(100, 60, 80), 0);
        let huge = unswept_bytes(u64::MAX, Slot::ZERO, at(1 << 62), at(1 << 62));
        assert_eq!(huge, u64::MAX);
    }
}
