//! The first slots of the acceptors' logs, by recent reports, and the bound of the learned log: the lowest of these slots.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::paxos::{identity::AcceptorUuid, slot::Slot};
use tokio::sync::watch;

use crate::cluster::EraMembers;

/// How long an acceptor's report counts: acceptors report at least once every 2 s.
const FRESH: Duration = Duration::from_secs(5);

/// An acceptor's report of its first readable slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TrimReport {
    pub(crate) acceptor: AcceptorUuid,
    pub(crate) trimmed_to: Slot,
}

/// The acceptors' latest reports of their first readable slots. Pure: callers give the time, and the present members.
#[derive(Debug, Default)]
struct TrimReports {
    heard: BTreeMap<AcceptorUuid, (Slot, Instant)>,
}

impl TrimReports {
    /// Forgets the reports of acceptors that are no members.
    fn keep_members(&mut self, present: &EraMembers) {
        self.heard
            .retain(|&acceptor, _| present.electorate().includes(acceptor));
    }

    /// Takes an acceptor's report. Returns the lowest recent report; `None` while too few acceptors have reported
    /// recently: a quorum that can elect a leader.
    fn report(
        &mut self,
        acceptor: AcceptorUuid,
        trimmed_to: Slot,
        present: &EraMembers,
        now: Instant,
    ) -> Option<Slot> {
        self.heard.insert(acceptor, (trimmed_to, now));
        self.keep_members(present);
        let (count, lowest) = self.fresh(now).fold((0, trimmed_to), |(count, lowest), report| {
            (count + 1, lowest.min(report.trimmed_to))
        });
        (count >= present.quorum()).then_some(lowest)
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
///
/// Only reports of present members count, at each look: no report of a removed acceptor counts beside a report in the next era.
#[derive(Debug)]
pub(crate) struct TrimBound {
    present: watch::Receiver<Arc<EraMembers>>,
    reports: Mutex<TrimReports>,
    bound: watch::Sender<Slot>,
    /// The highest report ever.
    highest: watch::Sender<Slot>,
}

impl TrimBound {
    /// A bound at slot 0. A quorum of the present members has to report before the bound rises.
    pub(crate) fn new(present: watch::Receiver<Arc<EraMembers>>) -> Self {
        let (bound, highest) = (watch::Sender::default(), watch::Sender::default());
        Self {
            present,
            reports: Mutex::default(),
            bound,
            highest,
        }
    }

    /// An acceptor reports its first readable slot.
    pub(crate) fn reported(&self, acceptor: AcceptorUuid, trimmed_to: Slot, now: Instant) {
        let mut reports = self.lock();
        let present = self.present.borrow();
        if !present.electorate().includes(acceptor) {
            return;
        }
        let lowest = reports.report(acceptor, trimmed_to, &present, now);
        drop(present);
        raise(&self.highest, trimmed_to);
        if let Some(lowest) = lowest {
            raise(&self.bound, lowest);
        }
    }

    /// The recent reports, one of each member.
    pub(crate) fn fresh(&self, now: Instant) -> Vec<TrimReport> {
        self.of_members().fresh(now).collect()
    }

    /// The reports at or after a moment that are recent, one of each member.
    pub(crate) fn heard_since(&self, since: Instant) -> Vec<TrimReport> {
        self.of_members().since(since, Instant::now()).collect()
    }

    /// Follows the highest report.
    pub(crate) fn follow_highest(&self) -> watch::Receiver<Slot> {
        self.highest.subscribe()
    }

    /// Follows the bound.
    pub(crate) fn follow(&self) -> watch::Receiver<Slot> {
        self.bound.subscribe()
    }

    fn of_members(&self) -> MutexGuard<'_, TrimReports> {
        let mut reports = self.lock();
        reports.keep_members(&self.present.borrow());
        reports
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
    use crate::cluster::{change_to, cluster_with};

    #[test]
    fn bound_is_the_lowest_recent_report_of_a_quorum() {
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let present = cluster_with([1, 2, 3]).present();
        let mut reports = TrimReports::default();
        let mut report =
            |number, trimmed_to, at| reports.report(acceptor(number), slot(trimmed_to), &present, after(at));
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
        let present = cluster_with([1, 2, 3]).present();
        let mut reports = TrimReports::default();
        reports.report(acceptor(1), slot(10), &present, after(0));
        reports.report(acceptor(2), slot(20), &present, after(100));
        let ends = |found: Vec<TrimReport>| -> Vec<_> {
            found.iter().map(|report| report.trimmed_to.get()).collect()
        };
        assert_eq!(ends(reports.fresh(after(200)).collect()), [10, 20]);
        assert_eq!(ends(reports.since(after(100), after(200)).collect()), [20]);
        // The acceptor repeats its report.
        reports.report(acceptor(1), slot(10), &present, after(300));
        assert_eq!(ends(reports.since(after(100), after(400)).collect()), [10, 20]);
        assert_eq!(ends(reports.since(after(100), after(5_200)).collect()), [10]);
    }

    #[test]
    fn bound_never_falls() {
        let bound = TrimBound::new(cluster_with([1]).follow());
        let mut seen = bound.follow();
        let now = Instant::now();
        bound.reported(acceptor(1), slot(7), now);
        assert!(seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), slot(7));
        bound.reported(acceptor(1), slot(3), now);
        assert!(!seen.has_changed().unwrap());
        assert_eq!(*seen.borrow_and_update(), slot(7));
    }

    #[test]
    fn only_reports_of_present_members_count_from_the_change_on() {
        let cluster = cluster_with([1, 2, 3]);
        let bound = TrimBound::new(cluster.follow());
        let now = Instant::now();
        for (number, trimmed_to) in [(1, 10), (2, 20), (3, 5)] {
            bound.reported(acceptor(number), slot(trimmed_to), now);
        }
        assert_eq!(*bound.follow().borrow(), slot(10));
        change_to(&cluster, [1, 2, 4, 6, 7]);
        assert_eq!(bound.fresh(now).len(), 2);
        // A late report of a removed acceptor.
        bound.reported(acceptor(3), slot(90), now);
        assert_eq!(*bound.follow_highest().borrow(), slot(20));
        bound.reported(acceptor(1), slot(40), now);
        assert_eq!(*bound.follow().borrow(), slot(10), "two of five are no quorum");
        bound.reported(acceptor(4), slot(30), now);
        assert_eq!(*bound.follow().borrow(), slot(20));
    }
}
