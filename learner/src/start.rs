//! The start of learning: finds the cluster, opens the log, installs a snapshot if needed, and starts every task but the
//! server.

use std::sync::Arc;

use paxos_common::{
    paxos::{identity::AcceptorUuid, message::Leadership, slot::Slot},
    peer::{Address, AddressBook, Dialer},
    service::{failure::Failure, shutdown::Shutdown},
    sqlite::DataDir,
    trace::Tracer,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::DropGuard;

use crate::{
    attach::Reporter,
    catch_up::CatchUp,
    cluster::Cluster,
    config::Config,
    connections::{Connections, FollowingTasks},
    cut_off::{CutOffCause, GivenUp, StartStanding, sources},
    disk::DiskSpace,
    fill,
    forming::Finder,
    give::{Giver, Wishes},
    history::History,
    install::{CutOffLearner, Installer},
    live::go_live_when_caught_up,
    metrics::Instruments,
    observe::ObserveContext,
    position::PositionWatch,
    progress::Progress,
    service::{LearnerService, ServingState},
    snapshot_file,
    snapshots::SnapshotMaker,
    store::{self, Log, Store, StoreOpening},
    survey,
    tails::Asker,
    trims::TrimBound,
};
use learning::LearningTasks;

mod learning;
mod reading;

/// Capacity of the queue of acceptors' first reports: more than a cluster has acceptors.
const GREETINGS_MAX: usize = 64;

/// How long the position of a running learner may stand still below the log of an acceptor, in stall timeouts: values
/// were taken from other acceptors meanwhile.
const STANDSTILL: u32 = 10;

/// Everything needed to start learning.
pub(crate) struct Starter {
    pub(crate) config: Config,
    /// Locked as long as the learner runs.
    pub(crate) directory: Arc<DataDir>,
    pub(crate) learner: u64,
    pub(crate) address: Address,
    pub(crate) service: LearnerService,
    pub(crate) catch_up: Arc<CatchUp>,
    pub(crate) disk: Arc<DiskSpace>,
    pub(crate) instruments: Instruments,
    pub(crate) shutdown: Shutdown,
    pub(crate) tracer: Tracer,
    /// Opens connections to the acceptors and the leader.
    pub(crate) dialer: Dialer,
}

/// The cluster, and everything known of its acceptors: kept from one start of learning to the next.
struct FoundCluster {
    cluster: Arc<Cluster>,
    trims: Arc<TrimBound>,
    /// The acceptors' wishes for snapshots.
    wishes: Arc<Wishes>,
}

/// A learner that learns: from a start of learning to the stop, or to an installation.
struct LearningSession {
    log: Log,
    applied: watch::Receiver<Progress>,
    /// Ends the tasks of the session.
    shutdown: Shutdown,
    /// The position of the learner, once cut off.
    cut_off: oneshot::Receiver<Slot>,
}

/// A cut off learner, and the progress to report during the installation.
struct InterruptedLearner {
    learner: CutOffLearner,
    progress: Progress,
}

/// The reports about an installation. They end with this value.
struct InstallReports {
    _end: DropGuard,
    /// The reports end with the progress.
    _progress: watch::Sender<Progress>,
}

impl Starter {
    /// Learns until the stop begins; returns the open log of the last session. A failure begins the stop.
    pub(crate) async fn learn_until_stop(self) -> Option<Log> {
        let learned = self.learn().await;
        learned.map_err(|failure| self.shutdown.fail(failure)).ok()?
    }

    /// Learns until the stop begins. A learner that is cut off ends all tasks but the service, installs a snapshot, and
    /// starts again.
    async fn learn(&self) -> Result<Option<Log>, Failure> {
        let stop = self.shutdown.token();
        let Some(found) = stop.run_until_cancelled(self.find()).await else {
            return Ok(None);
        };
        let found = found?;
        let (mut interrupted, mut given_up) = (None, GivenUp::default());
        loop {
            // Safe to cancel: files stay whole, and started tasks run on.
            let beginning = self.begin(&found, interrupted, given_up);
            let begun = stop.run_until_cancelled(beginning).await;
            let Some(session) = begun.transpose()? else {
                return Ok(None);
            };
            let Some(Ok(position)) = stop.run_until_cancelled(session.cut_off).await else {
                // The stop has begun, or a failure has ended the tasks, and so begun the stop.
                return Ok(Some(session.log));
            };
            // First of all, so that readers get the reason.
            self.service.close();
            session.shutdown.begin();
            if stop
                .run_until_cancelled(session.shutdown.drained())
                .await
                .is_none()
            {
                return Ok(Some(session.log));
            }
            if stop.run_until_cancelled(session.log.close()).await.is_none() {
                return Ok(Some(session.log));
            }
            given_up = given_up.cut_off_at(position);
            interrupted = Some(InterruptedLearner {
                learner: CutOffLearner {
                    position,
                    cause: CutOffCause::NotProved,
                },
                progress: session.applied.borrow().clone(),
            });
        }
    }

    /// Finds the cluster.
    async fn find(&self) -> Result<FoundCluster, Failure> {
        // First of all: the file may take the last space of the disk.
        snapshot_file::remove_unfinished(self.directory.path().to_owned()).await;
        let book = AddressBook::new(self.config.acceptors.clone(), self.dialer.clone());
        let finder = Finder {
            book: Arc::new(book),
            cluster: self.config.cluster,
            directory: &self.directory,
        };
        let configuration = finder.find().await.map_err(Failure::refused)?;
        let cluster = Arc::new(Cluster::new(&configuration, finder.book));
        self.catch_up.follow(cluster.follow());
        Ok(FoundCluster {
            trims: Arc::new(TrimBound::new(cluster.follow())),
            cluster,
            wishes: Arc::default(),
        })
    }

    /// Opens the log and starts every task, after the installation of a snapshot if one is needed.
    ///
    /// # Cancel safety
    /// Safe: files stay whole, and started tasks run on.
    async fn begin(
        &self,
        found: &FoundCluster,
        mut interrupted: Option<InterruptedLearner>,
        given_up: GivenUp,
    ) -> Result<LearningSession, Failure> {
        let FoundCluster { cluster, trims, .. } = found;
        let mut reporting = None;
        loop {
            if let Some(interrupted) = interrupted.take() {
                // The reports of an earlier installation would contradict the next reports.
                drop(reporting.take());
                reporting = Some(self.install(found, interrupted).await?);
            }
            let store = self.open_store(found).await?;
            let position = store.progress.applied_to();
            if let Some(stored) = &store.configuration {
                // The last slot may be a change that is not in force yet.
                cluster.adopt(stored, position);
            }
            let (standing, reports) = survey::ask_all(cluster, position, trims).await;
            if standing == StartStanding::CutOff {
                self.service.close();
                interrupted = Some(InterruptedLearner {
                    learner: CutOffLearner {
                        position,
                        cause: CutOffCause::NoAcceptorHas,
                    },
                    progress: store.progress.clone(),
                });
                store.close().await;
                continue;
            }
            // A random acceptor with the next slots, so that the learners spread over the acceptors.
            let serving: Vec<_> = reports
                .iter()
                .filter(|report| report.trimmed_to <= position)
                .map(|report| report.acceptor)
                .collect();
            let served_by = match serving.len() {
                0 => None,
                count => serving.get(rand::random_range(0..count)).copied(),
            };
            tracing::info!(%cluster, from = %position, "learning");
            let session = self.start_session(found, store, served_by, given_up);
            // Not before: meanwhile the reports keep acceptors from trimming the slots after the snapshot.
            drop(reporting);
            return Ok(session);
        }
    }

    /// Opens the files of this learner. Readers get the reason to wait.
    async fn open_store(&self, found: &FoundCluster) -> Result<store::OpenedStore, Failure> {
        let present = found.cluster.present();
        let opening = StoreOpening {
            directory: Arc::clone(&self.directory),
            cluster: found.cluster.id(),
            configuration: present.configuration(),
            disk: &self.disk,
            work: self.service.start_work(),
        };
        // Large, and rarely used.
        Ok(Box::pin(Store::open(opening)).await?)
    }

    /// Installs a snapshot, and reports this to the acceptors meanwhile, and until the returned value is dropped.
    async fn install(
        &self,
        found: &FoundCluster,
        interrupted: InterruptedLearner,
    ) -> Result<InstallReports, Failure> {
        let InterruptedLearner { learner, progress } = interrupted;
        // Known from the first report on, so that no acceptor asks this learner for a snapshot.
        let first = sources(learner.position, found.trims.fresh(std::time::Instant::now()));
        let first = first.first().map_or(Slot::ZERO, |source| source.trimmed_to);
        let (target, installing_to) = watch::channel(first);
        let (progress, applied) = watch::channel(progress);
        let tasks = self.shutdown.child();
        let reports = InstallReports {
            _end: tasks.token().clone().drop_guard(),
            _progress: progress,
        };
        let reporter = Reporter {
            installing_to,
            ..self.reporter(found, applied, &tasks)
        };
        let connections = Connections {
            cluster: Arc::clone(&found.cluster),
            reporter,
            following: None,
            shutdown: tasks.clone(),
        };
        tasks.spawn_until_stop(connections.keep());
        let installer = Installer {
            cluster: &found.cluster,
            trims: &found.trims,
            directory: &self.directory,
            disk: &self.disk,
            progress: self.service.installing(),
            target,
            installs: self.instruments.installs.clone(),
            tracer: self.tracer.clone(),
        };
        // A snapshot that was given up leaves a file, whole or not, and the next snapshot needs the space.
        Store::remove_unrecorded(&self.directory, found.cluster.id()).await;
        // Large, and rarely used.
        Box::pin(installer.run(learner)).await?;
        Ok(reports)
    }

    /// Starts every task but the server. Values come from the acceptor `served_by` first, if given.
    fn start_session(
        &self,
        found: &FoundCluster,
        store: store::OpenedStore,
        served_by: Option<AcceptorUuid>,
        given_up: GivenUp,
    ) -> LearningSession {
        let FoundCluster {
            cluster,
            trims,
            wishes,
        } = found;
        let shutdown = self.shutdown.child();
        let log = store.log.clone();
        let (learning, maker) = self.start_learning(found, store, &shutdown);
        let (leadership, leadership_seen) = watch::channel(fill::no_leader());
        let applied = learning.applied.clone();
        let (barrier, asker) = self.start_barrier(cluster, applied.clone(), leadership_seen, &shutdown);
        let (snapshots, maker) = SnapshotMaker::new(maker);
        let making = maker.run(shutdown.clone());
        shutdown.spawn_vital("maker of snapshots", making);
        let giver = Giver {
            learner: self.learner,
            cluster: Arc::clone(cluster),
            wishes: Arc::clone(wishes),
            snapshots: snapshots.clone(),
            durable: learning.knowledge.durable(),
            patience: self.config.upload_timeout,
            tracer: self.tracer.clone(),
        };
        shutdown.spawn_until_stop(giver.keep_giving());
        let (cut_off, cut_off_seen) = oneshot::channel();
        let position = PositionWatch {
            driver: learning.events.clone(),
            next: learning.next.clone(),
            trims: Arc::clone(trims),
            patience: self.config.stall_timeout * STANDSTILL,
            given_up,
            cluster: Arc::clone(cluster),
        };
        shutdown.spawn_until_stop(async move {
            if let Some(position) = position.until_cut_off().await {
                // Without a receiver, the stop has begun.
                let _ = cut_off.send(position);
            }
        });
        self.service.open(ServingState {
            origin: cluster.present().configuration().origin().cloned(),
            cluster: Arc::clone(cluster),
            history: History::new(&learning.knowledge, log.clone()),
            knowledge: Arc::clone(&learning.knowledge),
            applied: applied.clone(),
            feed: learning.feed.clone(),
            barrier,
            snapshots,
            stop: shutdown.token().clone(),
            installing: Arc::clone(self.service.installing()),
            tracer: self.tracer.clone(),
        });
        self.start_observing(found, learning, (leadership, asker), served_by, &shutdown);
        LearningSession {
            log,
            applied,
            shutdown,
            cut_off: cut_off_seen,
        }
    }

    /// Starts the tasks that follow the members, ask the members, and report to the members.
    fn start_observing(
        &self,
        found: &FoundCluster,
        learning: LearningTasks,
        (leadership, asker): (watch::Sender<Leadership>, Asker),
        served_by: Option<AcceptorUuid>,
        shutdown: &Shutdown,
    ) {
        let cluster = &found.cluster;
        let observer = ObserveContext {
            cluster: Arc::clone(cluster),
            driver: learning.events,
            next: learning.next,
            era: cluster.present().era(),
        };
        let (greetings_in, greetings) = mpsc::channel(GREETINGS_MAX);
        let reporter = Reporter {
            knowledge: Some(learning.knowledge),
            greetings: greetings_in,
            leadership,
            ..self.reporter(found, learning.applied.clone(), shutdown)
        };
        let connections = Connections {
            cluster: Arc::clone(cluster),
            reporter,
            following: Some(FollowingTasks {
                observer,
                asker,
                stalls: learning.stalls,
                feed: learning.feed,
                served_by,
            }),
            shutdown: shutdown.clone(),
        };
        shutdown.spawn_until_stop(connections.keep());
        let (applied, values) = (learning.applied, learning.values);
        let going_live = go_live_when_caught_up(Arc::clone(cluster), greetings, applied, values);
        shutdown.spawn_until_stop(going_live);
    }

    /// Reports about this learner, without state and without receivers of news.
    fn reporter(
        &self,
        found: &FoundCluster,
        applied: watch::Receiver<Progress>,
        shutdown: &Shutdown,
    ) -> Reporter {
        Reporter {
            cluster: Arc::clone(&found.cluster),
            learner: self.learner,
            started: Instant::now(),
            address: self.address.clone(),
            applied,
            knowledge: None,
            installing_to: watch::channel(Slot::ZERO).1,
            wishes: Arc::clone(&found.wishes),
            greetings: mpsc::channel(1).0,
            catch_up: Arc::clone(&self.catch_up),
            trims: Arc::clone(&found.trims),
            disk: Arc::clone(&self.disk),
            leadership: watch::channel(fill::no_leader()).0,
            shutdown: shutdown.clone(),
            process: self.shutdown.clone(),
        }
    }
}
