//! The first slots of the acceptors' logs, by recent reports, and the bound of the learned log: the lowest of these slots.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::paxos::{identity::AcceptorUuid, quorum::Electorate, slot::Slot};
use tokio::sync::watch;

/// How long an acceptor's report counts: acceptors report at least once every 2 s.
const FRESH: Duration = Duration::from_secs(5);

/// An acceptor's report of its first readable slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrimReport {
    pub(crate) acceptor: AcceptorUuid,
    pub(crate) trimmed_to: Slot,
}

/// The acceptors' latest reports of their first readable slots. Pure: callers give the time.
#[derive(Debug)]
struct TrimReports {
    /// How many acceptors have to report: a quorum that can elect a leader.
    quorum: usize,
    heard: BTreeMap<AcceptorUuid, (Slot, Instant)>,
}

impl TrimReports {
    fn new(quorum: usize) -> Self {
        let heard = BTreeMap::new();
        Self { quorum, heard }
    }

    /// The members from now on. The reports of other acceptors are forgotten.
    fn adopt(&mut self, electorate: &Electorate) {
        self.quorum = electorate.quorums().phase1();
        self.heard.retain(|&acceptor, _| electorate.includes(acceptor));
    }

    /// Takes an acceptor's report. Returns the lowest recent report; `None` while too few acceptors have reported
    /// recently.
    fn report(&mut self, acceptor: AcceptorUuid, trimmed_to: Slot, now: Instant) -> Option<Slot> {
        self.heard.insert(acceptor, (trimmed_to, now));
        let (count, lowest) = self.fresh(now).fold((0, trimmed_to), |(count, lowest), report| {
            (count + 1, lowest.min(report.trimmed_to))
        });
        (count >= self.quorum).then_some(lowest)
    }

    /// The recent reports, one of each acceptor.
    fn fresh(&self, now: Instant) -> impl Iterator<Item = TrimReport> {
        let all = self.heard.iter();
        all.filter(move |(_, (_, at))| now.saturating_duration_since(*at) < FRESH)
            .map(|(&acceptor, &(trimmed_to, _))| TrimReport { acceptor, trimmed_to })
    }

    /// The recent reports at or after `since`.
    fn since(&self, since: Instant, now: Instant) -> impl Iterator<Item = TrimReport> {
        self.fresh(now).filter(move |report| {
            self.heard
                .get(&report.acceptor)
                .is_some_and(|(_, at)| *at >= since)
        })
    }
}

/// The reports, and the bound of the learned log: learners delete the same rows as the acceptors. The bound never falls.
#[derive(Debug)]
pub(crate) struct TrimBound {
    reports: Mutex<TrimReports>,
    bound: watch::Sender<Slot>,
    /// The highest report ever.
    highest: watch::Sender<Slot>,
}

impl TrimBound {
    /// A bound at slot 0; `quorum` acceptors have to report before the bound rises.
    pub(crate) fn new(quorum: usize) -> Self {
        let reports = Mutex::new(TrimReports::new(quorum));
        let (bound, highest) = (watch::Sender::default(), watch::Sender::default());
        Self {
            reports,
            bound,
            highest,
        }
    }

    /// The members from now on: a quorum of them has to report before the bound rises.
    pub(crate) fn adopt(&self, electorate: &Electorate) {
        self.lock().adopt(electorate);
    }

    /// An acceptor reports its first readable slot.
    pub(crate) fn reported(&self, acceptor: AcceptorUuid, trimmed_to: Slot, now: Instant) {
        let mut reports = self.lock();
        let lowest = reports.report(acceptor, trimmed_to, now);
        raise(&self.highest, trimmed_to);
        if let Some(lowest) = lowest {
            raise(&self.bound, lowest);
        }
    }

    /// The recent reports, one of each acceptor.
    pub(crate) fn fresh(&self, now: Instant) -> Vec<TrimReport> {
        self.lock().fresh(now).collect()
    }

    /// The reports at or after a moment that are recent, one of each acceptor.
    pub(crate) fn heard_since(&self, since: Instant) -> Vec<TrimReport> {
        self.lock().since(since, Instant::now()).collect()
    }

    /// Follows the highest report.
    pub(crate) fn follow_highest(&self) -> watch::Receiver<Slot> {
        self.highest.subscribe()
    }

    /// Follows the bound.
    pub(crate) fn follow(&self) -> watch::Receiver<Slot> {
        self.bound.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, TrimReports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn raise(watched: &watch::Sender<Slot>, to: Slot) {
    watched.send_if_modified(|slot| {
        let rises = to > *slot;
        *slot = to.max(*slot);
        rises
    });
}

#[cfg(test)]
mod tests {
    use paxos_test_values::{acceptor, slot};

    use super::*;
    use crate::cluster::electorate_of;

    #[test]
    fn bound_is_the_lowest_recent_report_of_a_quorum() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut reports = TrimReports::new(2);
        let mut report =
            |number, trimmed_to, at| reports.report(acceptor(number), slot(trimmed_to), after(at));
        assert_eq!(report(1, 10, 0), None);
        // The same acceptor twice is no quorum.
        assert_eq!(report(1, 20, 1), None);
        assert_eq!(report(2, 30, 2), Some(slot(20)));
        assert_eq!(report(3, 5, 3), Some(slot(5)));
        // Only the latest report of an acceptor counts.
        assert_eq!(report(3, 40, 4), Some(slot(20)));
        // Acceptor 1 has been away for too long.
        assert_eq!(report(2, 30, 5_000), Some(slot(20)));
        assert_eq!(report(2, 30, 5_001), Some(slot(30)));
        // And now acceptor 3: a single acceptor is no quorum.
        assert_eq!(report(2, 50, 5_004), None);
        assert_eq!(report(1, 25, 5_005), Some(slot(25)));
    }

    #[test]
    fn report_from_before_a_moment_is_recent_and_not_heard_since() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut reports = TrimReports::new(2);
        reports.report(acceptor(1), slot(10), after(0));
        reports.report(acceptor(2), slot(20), after(100));
        let ends = |found: Vec<TrimReport>| -> Vec<_> {
            found.iter().map(|report| report.trimmed_to.get()).collect()
        };
        assert_eq!(ends(reports.fresh(after(200)).collect()), [10, 20]);
        assert_eq!(ends(reports.since(after(100), after(200)).collect()), [20]);
        // The acceptor repeats its report.
        reports.report(acceptor(1), slot(10), after(300));
        assert_eq!(ends(reports.since(after(100), after(400)).collect()), [10, 20]);
        assert_eq!(ends(reports.since(after(100), after(5_200)).collect()), [10]);
    }

    #[test]
    fn bound_never_falls() {
        let bound = TrimBound::new(1);
        let mut seen = bound.follow();
        let now = Instant::now();
        bound.reported(acceptor(1), slot(7), now);
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), slot(7));
        bound.reported(acceptor(2), slot(3), now);
        assert!(!seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), slot(7));
    }

    #[test]
    fn reports_of_removed_acceptors_hold_back_nothing() {
        let bound = TrimBound::new(2);
        let now = Instant::now();
        for (number, trimmed_to) in [(1, 10), (2, 20), (3, 5)] {
            bound.reported(acceptor(number), slot(trimmed_to), now);
        }
        assert_eq!(*bound.follow().borrow(), slot(10));
        bound.adopt(&electorate_of([1, 2, 4, 6, 7]));
        assert_eq!(bound.fresh(now).len(), 2);
        bound.reported(acceptor(1), slot(40), now);
        assert_eq!(*bound.follow().borrow(), slot(10), "two of five are no quorum");
        bound.reported(acceptor(4), slot(30), now);
        assert_eq!(*bound.follow().borrow(), slot(20));
    }
}
