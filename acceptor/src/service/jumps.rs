//! Rate of large jumps of the promised round.
//!
//! Rounds end at 2^63 - 1: at the last round no proposer can campaign. A jump of the largest size, 2^32 rounds, uses up
//! a 2^31st part of all rounds. Proposers raise the round by a few, and need a large jump only after such jumps of a
//! foreign process.

use std::{num::NonZeroU32, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use paxos_common::{paxos::ballot::Ballot, wire::status};
use tokio::time::{Instant, sleep};
use tonic::Status;

/// Rounds above the promise, beyond which a jump is large: far more than the campaigns that an acceptor can miss.
const LARGE: u64 = 1 << 16;
/// Large jumps in a second, and at once after a pause. At this rate the rounds last for 8 years. A proposer that has to
/// follow a foreign process to a high round has the same rate, so the cluster is back after at most the time of the
/// attack.
pub(super) const PER_SECOND: u32 = 8;
/// Longest wait for a large jump.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Interval of attempts while waiting: shorter than the time between two jumps.
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(50);

/// The rate limit for large jumps of all callers together.
#[derive(Debug)]
pub(super) struct Jumps(DefaultDirectRateLimiter);

impl Default for Jumps {
    fn default() -> Self {
        let per_second = NonZeroU32::new(PER_SECOND).expect("a constant above 0");
        Self(RateLimiter::direct(Quota::per_second(per_second)))
    }
}

impl Jumps {
    /// Waits until a message at the ballot `asked` may reach an acceptor that has promised `promised`. Returns at once,
    /// unless the jump is large.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the jump is too early even after the longest wait.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub(super) async fn admit(&self, promised: Ballot, asked: Ballot) -> Result<(), Status> {
        if asked.round().saturating_sub(promised.round()) <= LARGE {
            return Ok(());
        }
        let until = Instant::now() + WAIT_MAX;
        while self.0.check().is_err() {
            if Instant::now() >= until {
                return Err(status::overloaded(&format!(
                    "the allowance of jumps by more than {LARGE} rounds ({PER_SECOND} a second)"
                )));
            }
            sleep(ATTEMPT_INTERVAL).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use paxos_test_values::ballot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn large_jumps_are_few_and_small_steps_are_free() {
        let jumps = Jumps::default();
        let (mut large, mut small) = (0, 0);
        for _ in 0..100 {
            // The clock of the test passes the longest wait at once; the clock of the limit does not.
            large += u32::from(jumps.admit(ballot(1), ballot(2 + LARGE)).await.is_ok());
            small += u32::from(jumps.admit(ballot(1), ballot(1 + LARGE)).await.is_ok());
        }
        assert_eq!(small, 100);
        assert!((PER_SECOND..50).contains(&large), "{large}");
        let late = jumps.admit(ballot(1), ballot(1 << 32)).await.unwrap_err();
        assert!(late.message().contains("8 a second"), "{late:?}");
    }
}
