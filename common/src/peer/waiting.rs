//! The warning of a process that finds no cluster: after a bounded time, with the cause at each address.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::paxos::{acceptor::Membership, forming::FormReport};

/// Time without a cluster after which the process warns: acceptors that start together with the process answer earlier.
const WARN_AFTER: Duration = Duration::from_secs(10);

/// Minimum time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_mins(1);

/// A search for the cluster that has not ended: the latest cause at each asked address.
#[derive(Debug)]
pub struct ClusterWait {
    begun: Instant,
    warned_at: Option<Instant>,
    causes: BTreeMap<Arc<str>, String>,
}

impl ClusterWait {
    /// A search that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            begun: now,
            warned_at: None,
            causes: BTreeMap::new(),
        }
    }

    /// The acceptor at this address answered, and is no end of the search yet.
    pub fn answered(&mut self, address: &str, membership: &Membership) {
        let cause = match membership {
            Membership::Blank => "a blank acceptor answers".to_owned(),
            Membership::Seeded(_) => "a blank acceptor with a backup answers".to_owned(),
            Membership::Forming(list) => {
                format!(
                    "an acceptor of cluster {} answers, which is not formed yet",
                    list.cluster_id()
                )
            }
            Membership::Formed(list) => {
                format!(
                    "a member of cluster {} answers, era {}",
                    list.cluster_id(),
                    list.era()
                )
            }
        };
        self.causes.insert(address.into(), cause);
    }

    /// No usable answer came from this address.
    pub fn failed(&mut self, address: &str, reason: impl Display) {
        self.causes.insert(address.into(), reason.to_string());
    }

    /// Takes the answer from an address, or the reason for none.
    pub fn heard<E: Display>(&mut self, address: &str, answer: Result<&FormReport, E>) {
        match answer {
            Ok(report) => self.answered(address, &report.membership),
            Err(reason) => self.failed(address, reason),
        }
    }

    /// Warns once the search has lasted for 10 s, and then once a minute. `last_list`: the members that the process knew last;
    /// empty for none.
    pub fn warn_if_due(&mut self, now: Instant, last_list: &str) {
        let Some(causes) = self.due(now) else { return };
        let waited = now.duration_since(self.begun).as_secs();
        if last_list.is_empty() {
            tracing::warn!(
                causes,
                "no cluster is found at the given addresses for {waited} s: start the acceptors, or correct --acceptors"
            );
        } else {
            tracing::warn!(
                causes,
                last_list,
                "no member of the cluster is found for {waited} s, neither at the given addresses nor at the last known ones: \
                 start the acceptors, or correct --acceptors"
            );
        }
    }

    /// The cause at each address, if a warning is due.
    fn due(&mut self, now: Instant) -> Option<String> {
        let is_due = match self.warned_at {
            None => now.duration_since(self.begun) >= WARN_AFTER,
            Some(at) => now.duration_since(at) >= WARN_INTERVAL,
        };
        if !is_due {
            return None;
        }
        self.warned_at = Some(now);
        let causes = self.causes.iter();
        let causes = causes.map(|(address, cause)| format!("{address}: {cause}"));
        Some(causes.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_is_warned_of_after_ten_seconds_then_once_a_minute_with_each_cause() {
        let begun = Instant::now();
        let mut wait = ClusterWait::new(begun);
        wait.failed("http://a:1", "no answer");
        wait.failed("http://b:1", "connection refused");
        wait.answered("http://b:1", &Membership::Blank);
        let at = |seconds| begun + Duration::from_secs(seconds);
        let due: Vec<_> = (0..=140)
            .filter(|second| wait.due(at(*second)).is_some())
            .collect();
        assert_eq!(due, [10, 70, 130]);
        assert_eq!(
            wait.due(at(200)).unwrap(),
            "http://a:1: no answer; http://b:1: a blank acceptor answers"
        );
    }
}
