//! Refusals: the latest reports of proposers that do not count this acceptor.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Validity of a refusal. A proposer repeats the refusal about twice a second.
const AGE_MAX: Duration = Duration::from_secs(5);

/// Maximum number of remembered refusals, the latest first. Each takes at most 1 KiB.
const REFUSALS_MAX: usize = 64;

/// The reasons of proposers, by number of the proposer.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<BTreeMap<u64, (Instant, String)>>);

impl Refusals {
    /// Takes a proposer's report with the reason. An empty reason: the proposer reports no refusal, and an earlier
    /// refusal of the same proposer ends.
    pub(crate) fn report(&self, proposer: u64, reason: String) {
        let mut refusals = self.lock();
        if reason.is_empty() {
            refusals.remove(&proposer);
            return;
        }
        refusals.insert(proposer, (Instant::now(), reason));
        if refusals.len() > REFUSALS_MAX {
            let oldest = refusals.iter().min_by_key(|(_, (at, _))| *at);
            if let Some(oldest) = oldest.map(|(&proposer, _)| proposer) {
                refusals.remove(&oldest);
            }
        }
    }

    /// The latest valid reason.
    pub(crate) fn latest(&self) -> Option<String> {
        let refusals = self.lock();
        let (at, reason) = refusals.values().max_by_key(|(at, _)| *at)?;
        (at.elapsed() < AGE_MAX).then(|| reason.clone())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (Instant, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_ends_with_the_next_report_of_the_same_proposer_without_a_reason() {
        let refusals = Refusals::default();
        refusals.report(1, "it lost commits".to_owned());
        refusals.report(2, String::new());
        assert_eq!(refusals.latest().as_deref(), Some("it lost commits"));
        refusals.report(1, String::new());
        assert_eq!(refusals.latest(), None);
    }

    #[test]
    fn remembered_refusals_are_bounded() {
        let refusals = Refusals::default();
        for proposer in 0..1_000 {
            refusals.report(proposer, format!("reason of {proposer}"));
        }
        assert_eq!(refusals.lock().len(), REFUSALS_MAX);
        assert_eq!(refusals.latest().as_deref(), Some("reason of 999"));
    }
}
