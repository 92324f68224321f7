//! Keeps the tasks with connections to the members: all begin again when the members change.

use std::sync::Arc;

use paxos_common::{paxos::identity::AcceptorUuid, service::shutdown::Shutdown};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    attach::Reporter,
    cluster::{Cluster, EraMembers},
    driver::DriverEvent,
    observe::ObserveContext,
    tails::Asker,
};

/// The tasks of a learner that learns, beside the reports.
pub(crate) struct FollowingTasks {
    pub(crate) observer: ObserveContext,
    pub(crate) asker: Asker,
    /// Counts up when values should come from another acceptor.
    pub(crate) stalls: watch::Receiver<u64>,
    /// The acceptor behind the value feed.
    pub(crate) feed: watch::Receiver<Option<AcceptorUuid>>,
    /// Values come from this acceptor first, if given.
    pub(crate) served_by: Option<AcceptorUuid>,
}

/// The tasks with connections to the members.
pub(crate) struct Connections {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) reporter: Reporter,
    /// `None` while the learner installs a snapshot.
    pub(crate) following: Option<FollowingTasks>,
    /// Ends the tasks.
    pub(crate) shutdown: Shutdown,
}

/// The running tasks of an era.
struct EraTasks {
    /// Ends the tasks that follow and ask.
    stop: CancellationToken,
    /// The stream of reports to each member.
    reports: Vec<ReportTask>,
}

struct ReportTask {
    acceptor: AcceptorUuid,
    /// Ends the stream after a last report: this learner leaves the acceptor.
    leave: Shutdown,
    /// Ends the stream at once.
    stop: CancellationToken,
}

impl EraTasks {
    /// Ends the tasks. Acceptors that are no members of the next era get a last report: this learner leaves.
    fn end(self, next: &EraMembers) {
        self.stop.cancel();
        for report in self.reports {
            if next.electorate().includes(report.acceptor) {
                report.stop.cancel();
            } else {
                report.leave.begin();
            }
        }
    }
}

impl Connections {
    /// Keeps the tasks until the stop begins.
    ///
    /// # Cancel safety
    /// Safe: the tasks end with the stop.
    pub(crate) async fn keep(mut self) {
        let mut eras = self.cluster.follow();
        let mut ending: Option<EraTasks> = None;
        loop {
            let present = Arc::clone(&eras.borrow_and_update());
            let Some(tasks) = self.begin(&present).await else {
                return;
            };
            // Not before: a stop meanwhile ends the reports of the earlier era with a last report.
            if let Some(earlier) = ending.replace(tasks) {
                earlier.end(&present);
            }
            // No error: `self` has the sender.
            let _ = eras.changed().await;
        }
    }

    /// Starts the tasks of an era; `None` once the driver is gone.
    async fn begin(&mut self, present: &EraMembers) -> Option<EraTasks> {
        let stop = CancellationToken::new();
        if let Some(following) = &mut self.following {
            // Before any stream opens: the core would not count the votes of a later era.
            let adopts = DriverEvent::Adopt(present.electorate().clone());
            following.observer.driver.send(adopts).await.ok()?;
            following.begin(present, &self.shutdown, &stop);
        }
        let reports = present.acceptors().iter().map(|acceptor| {
            let report = ReportTask {
                acceptor: acceptor.uuid(),
                leave: self.shutdown.child(),
                stop: CancellationToken::new(),
            };
            let reporter = Reporter {
                shutdown: report.leave.clone(),
                ..self.reporter.clone()
            };
            let attached = reporter.stay_attached(Arc::clone(acceptor));
            let (leave, stop) = (report.leave.clone(), report.stop.clone());
            report.leave.spawn(async move {
                // Safe to cancel: the stream ends.
                Box::pin(stop.run_until_cancelled(attached)).await;
                leave.begin();
            });
            report
        });
        let reports = reports.collect();
        Some(EraTasks { stop, reports })
    }
}

impl FollowingTasks {
    fn begin(&mut self, present: &EraMembers, shutdown: &Shutdown, stop: &CancellationToken) {
        let observer = ObserveContext {
            era: present.era(),
            ..self.observer.clone()
        };
        let acceptors = present.acceptors();
        for acceptor in acceptors {
            let votes = observer.clone().follow_votes(Arc::clone(acceptor));
            shutdown.spawn_until_stop(stop.clone().run_until_cancelled_owned(votes));
            let tails = self.asker.clone().keep_asking(Arc::clone(acceptor));
            shutdown.spawn_until_stop(stop.clone().run_until_cancelled_owned(tails));
        }
        let preferred = self.served_by.take().or(*self.feed.borrow());
        let first = acceptors
            .iter()
            .position(|acceptor| Some(acceptor.uuid()) == preferred);
        let first = first.unwrap_or_else(|| rand::random_range(0..acceptors.len()));
        let values = observer.follow_values(acceptors.to_vec(), first, self.stalls.clone());
        shutdown.spawn_until_stop(stop.clone().run_until_cancelled_owned(values));
    }
}
