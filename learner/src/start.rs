//! The start of learning: finds the cluster, opens the log, and starts every task but the server.

use std::{path::PathBuf, sync::Arc};

use paxos_common::{
    paxos::{identity::AcceptorUuid, learner::Learner, message::Leadership, quorum::Tally, slot::Slot},
    peer::Address,
    service::{failure::Failure, shutdown::Shutdown},
    sqlite::DataDir,
    trace::Tracer,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    acceptors::ListedAcceptor,
    apply::{self, Applier},
    attach::{Greeting, Reporter},
    barrier::{self, Barrier, barrier},
    catch_up::CatchUp,
    cluster::Cluster,
    config::Config,
    disk::DiskSpace,
    driver::{self, DriverEvent, DriverOutputs},
    fill::{self, Filler},
    forming,
    history::History,
    knowledge::Knowledge,
    metrics::Instruments,
    observe::ObserveContext,
    persist::Writer,
    progress::Progress,
    service::{LearnerService, ServingState},
    snapshots::{self, SnapshotMaker},
    store::{self, Log, Store},
    tails::{self, Asker},
    trace::ValueTracer,
    trims::TrimBound,
};

/// Capacity of the queue of acceptors' first reports: more than a cluster has acceptors.
const GREETINGS_MAX: usize = 64;

/// Everything needed to start learning.
pub(crate) struct Starter {
    pub(crate) config: Config,
    /// The data directory, for snapshot files.
    pub(crate) data_dir: PathBuf,
    pub(crate) learner: u64,
    pub(crate) address: Address,
    pub(crate) service: LearnerService,
    pub(crate) catch_up: Arc<CatchUp>,
    pub(crate) disk: Arc<DiskSpace>,
    pub(crate) instruments: Instruments,
    pub(crate) shutdown: Shutdown,
    pub(crate) tracer: Tracer,
}

/// What the other tasks use of the tasks that learn, apply and write.
struct LearningTasks {
    /// To the driver.
    events: mpsc::Sender<DriverEvent>,
    /// The first unlearned slot.
    next: watch::Receiver<Slot>,
    /// Counts up when values should come from another acceptor.
    stalls: watch::Receiver<u64>,
    /// The acceptor behind the value feed.
    feed: watch::Receiver<Option<AcceptorUuid>>,
    applied: watch::Receiver<Progress>,
    knowledge: Arc<Knowledge>,
    values: ValueTracer,
}

impl Starter {
    /// As [`Self::start`], but `None` when the stop begins first, or after a failure: the failure begins the stop.
    pub(crate) async fn start_until_stop(self, directory: DataDir) -> Option<Log> {
        let shutdown = self.shutdown.clone();
        let started = shutdown
            .token()
            .run_until_cancelled(self.start(directory))
            .await?;
        started.map_err(|failure| shutdown.fail(failure)).ok()
    }

    /// Finds the cluster, opens the log and starts every task.
    ///
    /// # Cancel safety
    /// Safe: a file being opened stays whole, and started tasks run on.
    async fn start(self, directory: DataDir) -> Result<Log, Failure> {
        let acceptors: Vec<_> = self
            .config
            .acceptors
            .iter()
            .cloned()
            .map(ListedAcceptor::new)
            .collect();
        // First of all: the files may take the last space of the disk.
        snapshots::remove_leftovers(self.data_dir.clone()).await;
        let configuration = forming::find(&acceptors).await.map_err(Failure::refused)?;
        let cluster = Arc::new(Cluster::new(&configuration, acceptors.clone()));
        let found = Store::open(directory, cluster.id(), &self.disk).await?;
        let from = found.progress.applied_to();
        self.catch_up.expect(cluster.electorate().quorums().phase1());
        tracing::info!(%cluster, %from, "learning");

        let log = found.log.clone();
        let trims = Arc::new(TrimBound::new(cluster.electorate().quorums().phase1()));
        let learning = self.start_learning(&cluster, found, &trims);
        let (leadership, leadership_seen) = watch::channel(fill::nobody_leads());
        let barrier = self.start_barrier(&cluster, &acceptors, learning.applied.clone(), leadership_seen);
        let (snapshots, maker) = SnapshotMaker::new(log.clone(), configuration, &self.data_dir);
        let making = maker.run(self.shutdown.clone());
        self.shutdown.spawn_vital("maker of snapshots", making);
        self.service.open(ServingState {
            cluster: cluster.id(),
            history: History::new(Arc::clone(&learning.knowledge), log.clone()),
            knowledge: Arc::clone(&learning.knowledge),
            applied: learning.applied.clone(),
            feed: learning.feed.clone(),
            barrier,
            snapshots,
            tracer: self.tracer.clone(),
        });
        self.start_observing(&cluster, acceptors, learning, leadership, trims);
        Ok(log)
    }

    /// Starts the tasks that learn, apply and write.
    fn start_learning(
        &self,
        cluster: &Cluster,
        found: store::OpenedStore,
        trims: &TrimBound,
    ) -> LearningTasks {
        let from = found.progress.applied_to();
        let (events_in, events) = mpsc::channel(driver::EVENTS_MAX);
        let (learned, batches) = mpsc::channel(driver::BATCHES_MAX);
        let (next, next_seen) = watch::channel(from);
        let (stalls, stalls_seen) = watch::channel(0);
        let (feed, feed_seen) = watch::channel(None);
        let (applied, applied_seen) = watch::channel(found.progress.clone());
        let (transactions, transactions_seen) = mpsc::channel(apply::TRANSACTIONS_MAX);
        let knowledge = Arc::new(Knowledge::new(found.machine));
        let values = ValueTracer::new(self.tracer.clone());
        let shutdown = &self.shutdown;

        let core = Learner::new(cluster.electorate().clone(), from);
        let outlets = DriverOutputs {
            learned,
            next,
            stalls,
            feed,
        };
        let stall_timeout = self.config.stall_timeout;
        let (traced, stop) = (values.clone(), shutdown.clone());
        let driving = driver::run(core, events, outlets, traced, stall_timeout, stop);
        shutdown.spawn_vital("driver", driving);
        let applier = Applier {
            knowledge: Arc::clone(&knowledge),
            progress: found.progress,
            applied,
            transactions,
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
        );
        shutdown.spawn_vital("writer", writer.run(transactions_seen, trims.follow()));
        LearningTasks {
            events: events_in,
            next: next_seen,
            stalls: stalls_seen,
            feed: feed_seen,
            applied: applied_seen,
            knowledge,
            values,
        }
    }

    /// Starts the tasks that follow the acceptors and report to the acceptors.
    fn start_observing(
        &self,
        cluster: &Arc<Cluster>,
        acceptors: Vec<Arc<ListedAcceptor>>,
        learning: LearningTasks,
        leadership: watch::Sender<Leadership>,
        trims: Arc<TrimBound>,
    ) {
        let observer = ObserveContext {
            cluster: Arc::clone(cluster),
            driver: learning.events,
            next: learning.next,
        };
        let (greetings_in, greetings) = mpsc::channel(GREETINGS_MAX);
        let shutdown = &self.shutdown;
        let reporter = Reporter {
            cluster: Arc::clone(cluster),
            learner: self.learner,
            started: Instant::now(),
            address: self.address.clone(),
            applied: learning.applied.clone(),
            knowledge: learning.knowledge,
            greetings: greetings_in,
            catch_up: Arc::clone(&self.catch_up),
            trims,
            disk: Arc::clone(&self.disk),
            leadership,
            shutdown: shutdown.clone(),
        };
        for acceptor in &acceptors {
            shutdown.spawn_until_stop(observer.clone().follow_votes(Arc::clone(acceptor)));
            shutdown.spawn(reporter.clone().stay_attached(Arc::clone(acceptor)));
        }
        // A random acceptor, so that the learners spread over the acceptors.
        let first = rand::random_range(0..acceptors.len());
        shutdown.spawn_until_stop(observer.follow_values(acceptors, first, learning.stalls));
        let (applied, values) = (learning.applied, learning.values);
        let going_live = go_live_when_caught_up(Arc::clone(cluster), greetings, applied, values);
        shutdown.spawn_until_stop(going_live);
    }

    /// Starts the tasks behind linearizable reads.
    fn start_barrier(
        &self,
        cluster: &Arc<Cluster>,
        acceptors: &[Arc<ListedAcceptor>],
        applied: watch::Receiver<Progress>,
        leadership: watch::Receiver<Leadership>,
    ) -> Barrier {
        let (tails_in, tails) = mpsc::channel(tails::TAILS_MAX);
        let (question, question_seen) = watch::channel(None);
        let (fill, wanted) = watch::channel(None);
        let rounds = self.instruments.read_rounds.clone();
        let outlets = barrier::ReadingOutputs {
            question,
            fill,
            rounds,
        };
        let electorate = cluster.electorate().clone();
        let (barrier, keeper) = barrier(electorate, tails, applied, outlets, self.tracer.clone());
        let shutdown = &self.shutdown;
        shutdown.spawn_vital("barrier", keeper.run(shutdown.clone()));
        let asker = Asker {
            cluster: Arc::clone(cluster),
            question: question_seen,
            tails: tails_in,
            tracer: self.tracer.clone(),
        };
        for acceptor in acceptors {
            let asking = asker.clone().keep_asking(Arc::clone(acceptor));
            shutdown.spawn_until_stop(asking);
        }
        let filling = Filler { wanted, leadership }.keep_filling();
        shutdown.spawn_until_stop(filling);
        barrier
    }
}

/// Begins to trace single values once this learner has applied everything known to be chosen at the time of attaching.
///
/// A phase-1 quorum of acceptors has to report first. Chosen and acknowledged slots, a leader's watermark included,
/// become known to some acceptor of the quorum sooner or later. A single acceptor may have been away for long.
async fn go_live_when_caught_up(
    cluster: Arc<Cluster>,
    mut greetings: mpsc::Receiver<Greeting>,
    mut applied: watch::Receiver<Progress>,
    values: ValueTracer,
) {
    let electorate = cluster.electorate();
    let mut reported = Tally::default();
    let mut target = applied.borrow().applied_to();
    while reported.count() < electorate.quorums().phase1() {
        let Some(Greeting { acceptor, chosen_to }) = greetings.recv().await else {
            return;
        };
        if reported.add(electorate, acceptor) {
            target = target.max(chosen_to);
        }
    }
    drop(greetings);
    if applied
        .wait_for(|state| state.applied_to() >= target)
        .await
        .is_ok()
    {
        tracing::info!(%target, "caught up");
        values.go_live();
    }
}
