//! Refused values: counted by reason, and logged once a minute for each reason, because any caller can send such values.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use paxos_common::{
    paxos::{acceptor::Violation, message::Accept},
    service::metrics::{Counter, Metrics},
};
use tracing::error;

use super::may_log;

/// See the head of this file.
#[derive(Clone, Debug)]
pub(super) struct RefusedValues {
    contradictions: CountedRefusals,
    newer: CountedRefusals,
}

/// The refusals for one reason.
#[derive(Clone, Debug)]
struct CountedRefusals {
    count: Counter,
    logged: Arc<Mutex<Option<Instant>>>,
}

impl RefusedValues {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let [contradictions, newer] = metrics
            .counters(
                "paxos.acceptor.refused_values",
                "Messages refused for a value: contradicts a vote of this acceptor, or belongs to a newer release",
                "reason",
                ["contradiction", "newer_release"],
            )
            .map(|count| CountedRefusals {
                count,
                logged: Arc::default(),
            });
        Self {
            contradictions,
            newer,
        }
    }

    /// A proposal contradicts a vote of this acceptor.
    pub(super) fn contradicted(&self, accept: &Accept, violation: &Violation) {
        if let Some(refused) = self.contradictions.add() {
            error!(
                refused,
                ballot = %accept.ballot,
                address = %accept.address,
                %violation,
                "refused a value that contradicts a vote of this acceptor: a proposer is broken, or a process other than \
                 the proposers sends to this acceptor. Check which processes can reach the acceptors"
            );
        }
    }

    /// A value belongs to a later release.
    pub(super) fn newer(&self, reason: &str) {
        if let Some(refused) = self.newer.add() {
            error!(refused, reason, "refused a value");
        }
    }
}

impl CountedRefusals {
    /// Counts one; returns the count when a line may be logged.
    fn add(&self) -> Option<u64> {
        self.count.increment();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        may_log(&mut logged, Instant::now()).then(|| self.count.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_counts_and_the_first_of_a_minute_is_logged() {
        let refusals = RefusedValues::new(&Metrics::unread());
        assert_eq!(refusals.newer.add(), Some(1));
        assert_eq!(refusals.newer.add(), None);
        assert_eq!(refusals.newer.count.get(), 2);
        assert_eq!(refusals.contradictions.add(), Some(1));
    }
}
