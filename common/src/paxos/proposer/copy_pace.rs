//! How a leader paces the copy of the log to a joiner: clients come first.
//!
//! A copy goes on stretch after stretch. If commands are under way at the end of a stretch, the copy rests many times as
//! long as the stretch took. So a copy takes little from the clients, whatever the machines. Few calls in flight are often
//! all answered at the end of a stretch, and the copy goes on at once. The copy of a short log ends before the first rest. The
//! rests of a long copy become shorter with time, so that every copy ends.
//!
//! A stretch may take long because processors or networks are slow, and not because it is large. So a rest is also bounded by
//! the bytes of the stretch: a cluster without a member's disk is repaired at a stated rate at least, less the time of the
//! stretches.

use std::time::Duration;

/// No rest before this time since the copy began.
const FIRST_REST_AFTER: Duration = Duration::from_secs(2);

/// The rest after a stretch, as a multiple of the time of the stretch.
const REST_FACTOR: u32 = 15;

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(2);

/// Rests alone never hold a copy below this number of bytes a second.
const BYTES_PER_SECOND_MIN: u64 = 2 * 1024 * 1024;

/// After this time the rests are half as long, and half again after each further such time.
const HALVED_AFTER: Duration = Duration::from_secs(60);

/// The pace of the copy to one joiner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CopyPace {
    /// The begin and the bytes of the stretch on its way.
    stretch: Option<(Duration, u64)>,
    rests_until: Duration,
}

impl CopyPace {
    /// The copy was not paced for a while: the length of the stretch on its way is not known.
    pub(super) fn paused(&mut self) {
        self.stretch = None;
    }

    /// Whether no stretch may begin now. `lasted`: the time since the copy began; `on_its_way`: the bytes of values sent in the
    /// stretch on its way; `is_busy`: commands wait for a slot, or for votes.
    pub(super) fn rests(
        &mut self,
        now: Duration,
        lasted: Duration,
        on_its_way: Option<u64>,
        is_busy: bool,
    ) -> bool {
        match (on_its_way, self.stretch) {
            (Some(bytes), known) => {
                let since = known.map_or(now, |(since, _)| since);
                self.stretch = Some((since, bytes));
            }
            (None, Some((since, bytes))) => {
                self.stretch = None;
                if is_busy && lasted >= FIRST_REST_AFTER {
                    self.rests_until = now + rest_after(now.saturating_sub(since), bytes, lasted);
                }
            }
            (None, None) => {}
        }
        on_its_way.is_none() && now < self.rests_until
    }
}

/// The rest after a stretch.
fn rest_after(stretch: Duration, bytes: u64, lasted: Duration) -> Duration {
    let halvings = lasted.as_secs() / HALVED_AFTER.as_secs();
    let factor = REST_FACTOR.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX));
    let rest = stretch * factor.unwrap_or(0);
    let by_bytes = Duration::from_millis(bytes.saturating_mul(1_000) / BYTES_PER_SECOND_MIN);
    rest.min(by_bytes).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Many: the bytes of a stretch bound no rest.
    const LARGE: u64 = 1 << 30;

    /// The length of the rest after a stretch of this length, in milliseconds, at this time since the begin of the copy.
    fn measured(stretch: u64, bytes: u64, lasted: Duration, is_busy: bool) -> u64 {
        let mut pace = CopyPace::default();
        assert!(!pace.rests(ms(1_000), lasted, None, is_busy), "the first stretch");
        // The values are not fetched yet.
        assert!(!pace.rests(ms(1_000), lasted, Some(0), is_busy));
        assert!(!pace.rests(ms(1_001), lasted, Some(bytes), is_busy));
        let ended = 1_000 + stretch;
        let rests = |pace: &mut CopyPace, after| pace.rests(ms(ended + after), lasted, None, is_busy);
        rests(&mut pace, 0);
        (0..10_000).take_while(|&after| rests(&mut pace, after)).count() as u64
    }

    #[test]
    fn copy_rests_in_proportion_to_its_stretches_while_commands_queue() {
        assert_eq!(measured(100, LARGE, ms(1_999), true), 0);
        assert_eq!(measured(100, LARGE, ms(2_000), true), 1_500);
        assert_eq!(measured(20, LARGE, ms(2_000), true), 300);
        assert_eq!(measured(100, LARGE, ms(2_000), false), 0);
        assert_eq!(measured(1_000, LARGE, ms(2_000), true), 2_000, "bounded");
    }

    #[test]
    fn slow_stretch_of_few_bytes_is_followed_by_a_short_rest() {
        assert_eq!(measured(1_000, 0, ms(2_000), true), 0);
        assert_eq!(measured(1_000, 300 * 1024, ms(2_000), true), 146);
        assert_eq!(measured(1_000, 1024 * 1024, ms(2_000), true), 500);
        assert_eq!(measured(2, 4 * 1024 * 1024, ms(2_000), true), 30, "a fast one");
    }

    #[test]
    fn rests_become_shorter_until_there_is_none() {
        let rests = [2, 59, 60, 120, 180, 240, 1 << 40]
            .map(|seconds| measured(100, LARGE, Duration::from_secs(seconds), true));
        assert_eq!(rests, [1_500, 1_500, 700, 300, 100, 0, 0]);
    }
}
