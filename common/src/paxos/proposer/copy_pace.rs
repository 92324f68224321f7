//! How a leader paces the copy of the log to a joiner: clients come first.
//!
//! A copy goes on stretch after stretch. If commands are under way at the end of a stretch, the copy rests many times as
//! long as the stretch took. So a copy takes little from the clients, whatever the machines. Few calls in flight are often
//! all answered at the end of a stretch, and the copy goes on at once. The copy of a short log ends before the first rest. The
//! rests of a long copy become shorter with time, so that every copy ends.

use std::time::Duration;

/// No rest before this time since the copy began.
const FIRST_REST_AFTER: Duration = Duration::from_secs(2);

/// The rest after a stretch, as a multiple of the time of the stretch.
const REST_FACTOR: u32 = 15;

/// The longest rest.
const REST_MAX: Duration = Duration::from_secs(2);

/// After this time the rests are half as long, and half again after each further such time.
const HALVED_AFTER: Duration = Duration::from_secs(60);

/// The pace of the copy to one joiner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct CopyPace {
    /// The begin of the stretch on its way.
    stretch_since: Option<Duration>,
    rests_until: Duration,
}

impl CopyPace {
    /// The copy was not paced for a while: the length of the stretch on its way is not known.
    pub(super) fn paused(&mut self) {
        self.stretch_since = None;
    }

    /// Whether no stretch may begin now. `lasted`: the time since the copy began; `is_on_its_way`: a stretch is; `is_busy`:
    /// commands wait for a slot, or for votes.
    pub(super) fn rests(
        &mut self,
        now: Duration,
        lasted: Duration,
        is_on_its_way: bool,
        is_busy: bool,
    ) -> bool {
        match (is_on_its_way, self.stretch_since) {
            (true, None) => self.stretch_since = Some(now),
            (false, Some(since)) => {
                self.stretch_since = None;
                if is_busy && lasted >= FIRST_REST_AFTER {
                    let halvings = lasted.as_secs() / HALVED_AFTER.as_secs();
                    let factor = REST_FACTOR.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX));
                    let rest = now.saturating_sub(since) * factor.unwrap_or(0);
                    self.rests_until = now + rest.min(REST_MAX);
                }
            }
            (true, Some(_)) | (false, None) => {}
        }
        !is_on_its_way && now < self.rests_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The length of the rest after a stretch of this length, in milliseconds, at this time since the begin of the copy.
    fn rest_after(stretch: u64, lasted: Duration, is_busy: bool) -> u64 {
        let mut pace = CopyPace::default();
        assert!(
            !pace.rests(ms(1_000), lasted, false, is_busy),
            "the first stretch"
        );
        assert!(!pace.rests(ms(1_000), lasted, true, is_busy));
        let ended = 1_000 + stretch;
        let rests = |pace: &mut CopyPace, after| pace.rests(ms(ended + after), lasted, false, is_busy);
        rests(&mut pace, 0);
        (0..10_000).take_while(|&after| rests(&mut pace, after)).count() as u64
    }

    #[test]
    fn copy_rests_in_proportion_to_its_stretches_while_commands_queue() {
        assert_eq!(rest_after(100, ms(1_999), true), 0);
        assert_eq!(rest_after(100, ms(2_000), true), 1_500);
        assert_eq!(rest_after(20, ms(2_000), true), 300);
        assert_eq!(rest_after(100, ms(2_000), false), 0);
        assert_eq!(rest_after(1_000, ms(2_000), true), 2_000, "bounded");
    }

    #[test]
    fn rests_become_shorter_until_there_is_none() {
        let rests = [2, 59, 60, 120, 180, 240, 1 << 40]
            .map(|seconds| rest_after(100, Duration::from_secs(seconds), true));
        assert_eq!(rests, [1_500, 1_500, 700, 300, 100, 0, 0]);
    }
}
