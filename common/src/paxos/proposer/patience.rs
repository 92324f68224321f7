//! Patience: the time without progress before a standby challenges, and before a candidate gives up.

use std::time::Duration;

/// Time without progress before the first challenge, and before a campaign is given up.
const PATIENCE_MIN: Duration = Duration::from_secs(5);

/// Longest time without progress after futile challenges or campaigns.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// Number of doublings from `PATIENCE_MIN` to `PATIENCE_MAX`.
const DOUBLINGS_MAX: u32 = 4;

/// Five seconds, doubled by each futile attempt, sixty seconds at most.
pub(super) fn patience(in_vain: u32) -> Duration {
    (PATIENCE_MIN * (1 << in_vain.min(DOUBLINGS_MAX))).min(PATIENCE_MAX)
}
