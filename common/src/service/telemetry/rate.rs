//! Limits the rate of traces that callers request, so that callers cannot have all requests traced.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::trace::Admission;

/// Limit, per second, of requests that are traced because the caller says so. With some ten spans each, a collector
/// takes this many without effort, and people look at far fewer. The methods between roles have the same limit: any
/// stranger can call these methods.
pub(super) const CALLERS_PER_SECOND: NonZeroU32 = NonZeroU32::new(500).expect("not zero");
/// The same for the leader's requests to an acceptor for votes: more than a leader sends, so that the traces of
/// proposals are complete.
pub(super) const LEADERS_PER_SECOND: NonZeroU32 = NonZeroU32::new(5_000).expect("not zero");

/// The rate of one kind of caller.
#[derive(Debug)]
pub(super) struct Rate(DefaultDirectRateLimiter);

impl Rate {
    /// This many per second, and the number of two seconds at once.
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        let burst = per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1));
        Self(RateLimiter::direct(
            Quota::per_second(per_second).allow_burst(burst),
        ))
    }
}

impl Admission for Rate {
    fn admits(&self) -> bool {
        self.0.check().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_is_admitted_and_little_beyond() {
        let rate = Rate::new(CALLERS_PER_SECOND);
        let begun = std::time::Instant::now();
        let admitted = (0..3_000).filter(|_| rate.admits()).count();
        let later = begun.elapsed().as_millis() / 2;
        assert!(
            (1_000..=1_001 + later).contains(&(admitted as u128)),
            "{admitted}"
        );
    }
}
