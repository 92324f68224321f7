//! Starts the tasks that learn, apply, write and make snapshots.

use std::sync::Arc;

use paxos_common::{
    paxos::{era::Era, identity::AcceptorUuid, learner::Learner, slot::Slot},
    service::shutdown::Shutdown,
};
use tokio::sync::{mpsc, watch};

use super::{FoundCluster, Starter};
use crate::{
    apply::{self, Applier},
    driver::{self, DriverEvent, DriverOutputs},
    knowledge::Knowledge,
    log_growth::LogGrowth,
    persist::{Writer, WriterInputs},
    progress::Progress,
    snapshots::MakerInputs,
    store,
    trace::ValueTracer,
};

/// What the other tasks use of the tasks that learn, apply and write.
pub(super) struct LearningTasks {
    /// To the driver.
    pub(super) events: mpsc::Sender<DriverEvent>,
    /// The first unlearned slot.
    pub(super) next: watch::Receiver<Slot>,
    /// Counts up when values should come from another acceptor.
    pub(super) stalls: watch::Receiver<u64>,
    /// The acceptor behind the value feed.
    pub(super) feed: watch::Receiver<Option<AcceptorUuid>>,
    pub(super) applied: watch::Receiver<Progress>,
    pub(super) knowledge: Arc<Knowledge>,
    pub(super) values: ValueTracer,
}

impl Starter {
    /// Starts the tasks that learn, apply and write. Also returns the inputs of the maker of snapshots.
    pub(super) fn start_learning(
        &self,
        cluster: &FoundCluster,
        found: store::OpenedStore,
        shutdown: &Shutdown,
    ) -> (LearningTasks, MakerInputs) {
        let from = found.progress.applied_to();
        let (events_in, events) = mpsc::channel(driver::EVENTS_MAX);
        let (learned, batches) = mpsc::channel(driver::BATCHES_MAX);
        let (next, next_seen) = watch::channel(from);
        let (stalls, stalls_seen) = watch::channel(0);
        let (feed, feed_seen) = watch::channel(None);
        let (applied, applied_seen) = watch::channel(found.progress.clone());
        let (transactions, transactions_seen) = mpsc::channel(apply::TRANSACTIONS_MAX);
        let (views, views_seen) = mpsc::channel(1);
        let (records, records_seen) = mpsc::channel(1);
        let snapshot = found.snapshot.as_ref().map_or(0, |file| file.summary.bytes);
        let growth = LogGrowth::new(self.config.log_bytes_min, found.log_bytes, snapshot);
        let growth = Arc::new(growth);
        let knowledge = Arc::new(Knowledge::new(found.machine));
        let values = ValueTracer::new(self.tracer.clone());

        let core = Learner::new(cluster.cluster.present().electorate().clone(), from);
        let outputs = DriverOutputs {
            learned,
            next,
            stalls,
            feed,
        };
        let stall_timeout = self.config.stall_timeout;
        let (traced, stop) = (values.clone(), shutdown.clone());
        let driving = driver::run(core, events, outputs, traced, stall_timeout, stop);
        shutdown.spawn_vital("driver", driving);
        let applier = Applier {
            knowledge: Arc::clone(&knowledge),
            progress: found.progress,
            cluster: Arc::clone(&cluster.cluster),
            stored_era: found.configuration.map_or(Era::FIRST, |stored| stored.era()),
            applied,
            transactions,
            views: views_seen,
            commit_interval: apply::COMMIT_INTERVAL,
            values: values.clone(),
            commands: self.instruments.commands.clone(),
            unreadable: self.instruments.unreadable.clone(),
        };
        shutdown.spawn_vital("applier", applier.run(batches));
        let writer = Writer::new(
            found.store,
            Arc::clone(&knowledge),
            self.instruments.clone(),
            Arc::clone(&self.disk),
            Arc::clone(&growth),
        );
        let received = WriterInputs {
            transactions: transactions_seen,
            bound: cluster.trims.follow(),
            records: records_seen,
        };
        shutdown.spawn_vital("writer", writer.run(received));
        let maker = MakerInputs {
            cluster: Arc::clone(&cluster.cluster),
            directory: self.directory.path().to_owned(),
            views,
            records,
            growth,
            last: found.snapshot,
        };
        let tasks = LearningTasks {
            events: events_in,
            next: next_seen,
            stalls: stalls_seen,
            feed: feed_seen,
            applied: applied_seen,
            knowledge,
            values,
        };
        (tasks, maker)
    }
}
