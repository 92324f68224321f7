//! The learner: learns the chosen values, keeps the log in slot order, and shows the same log to every reader.
//!
//! ```text
//!  acceptor ──votes──▶ observe ─┐
//!  acceptor ──votes──▶ observe ─┼─▶ driver (owns the core) ─▶ apply ─▶ knowledge ─▶ service ─▶ readers
//!  acceptor ──votes──▶ observe ─┤                               │
//!     one   ──values─▶ observe ─┘                            persist (owns the store)
//!
//!  reader ──▶ service ──▶ barrier (owns the reads' core) ◀── tails ◀── acceptors
//!                            └─▶ fill ─▶ leading proposer
//! ```
//!
//! Every queue on the way is bounded: votes and values beyond the bound wait on the acceptor's disk.

mod acceptors;
mod apply;
mod attach;
mod barrier;
mod catch_up;
mod changes;
mod cluster;
mod config;
mod discover;
mod disk;
mod driver;
mod fill;
mod history;
mod knowledge;
mod metrics;
mod observe;
mod persist;
mod progress;
mod recent;
mod record;
mod service;
mod store;
mod subscribe;
mod tails;
mod trace;

use std::{path::PathBuf, sync::Arc, time::Duration};

use paxos_common::{
    paxos::{learner::Learner, message::Leadership, quorum::Tally},
    peer::{Address, MESSAGE_BYTES_MAX},
    service::{
        config::ListenArgs,
        failure::Failure,
        metrics::{Metrics, Readiness, serve},
        server::Server,
        shutdown::Shutdown,
        telemetry::Exporting,
    },
    sqlite::DataDir,
    trace::Tracer,
};
use paxos_proto::v1::learner_server::{LearnerServer, SERVICE_NAME};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tonic::service::Routes;

use acceptors::Acceptor;
use apply::Applier;
use attach::{Greeting, Reporter};
use barrier::{Barrier, barrier};
use catch_up::CatchUp;
use cluster::Cluster;
use disk::Disk;
use driver::Outlets;
use fill::Filler;
use history::History;
use knowledge::Knowledge;
use metrics::Instruments;
use observe::Observer;
use progress::Progress;
use service::{LearnerService, Opened};
use store::{Log, Store};
use tails::Asker;
use trace::ValueTracer;

pub use config::{Args, Config, PORT, STALL_TIMEOUT};

/// Longest duration of a stop: a commit, and the grace period of open calls.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Capacity of the queue of acceptors' first reports: more than a cluster has acceptors.
const GREETINGS_MAX: usize = 64;

/// Runs a learner until the stop begins.
///
/// Listens at once, and serves the log once the acceptors have reported the cluster.
///
/// # Errors
/// The addresses do not belong to the acceptors of a single cluster, the data directory belongs to another cluster or
/// is in use (exit 78), or the disk failed (exit 74).
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
    let listen = listener.local_addr().map_err(Failure::internal)?;
    let advertise = config.advertise.clone();
    let address = ListenArgs::<PORT> { listen, advertise }.advertised(listen)?;
    tracing::info!(%listen, %address, %config, "learner starts");

    let path = config.data_dir.clone();
    let (directory, temporary) = spawn_blocking(|| open_directory(path))
        .await
        .map_err(Failure::internal)??;

    // A name for people to distinguish learners; no logic depends on the name.
    let learner = rand::random::<u64>() >> 1;
    let exporting = Exporting::start("learner", &learner.to_string())?;
    let metrics = Metrics::new("learner", exporting.resource())?;
    let instruments = Instruments::new(&metrics);
    let catch_up = Arc::new(CatchUp::default());
    let disk = Arc::new(Disk::default());
    let service = LearnerService::new(
        learner,
        address.clone(),
        instruments.reads.clone(),
        Arc::clone(&catch_up),
        Arc::clone(&disk),
        instruments.data_dir.clone(),
    );
    let measuring = instruments
        .data_dir
        .clone()
        .keep_measured(directory.path().to_owned());
    shutdown.spawn(shutdown.token().clone().run_until_cancelled_owned(measuring));
    metrics::show(&metrics, &service, &catch_up);
    let readiness = Readiness::not_yet("this process is starting");
    let seen = service.clone();
    let keep = readiness.clone().keep(move || seen.readiness());
    shutdown.spawn(shutdown.token().clone().run_until_cancelled_owned(keep));
    serve(config.metrics, &metrics, &readiness, &shutdown).await?;
    let routes = Routes::new(
        LearnerServer::new(service.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX),
    );
    let (server, health) = Server::new(listener, SERVICE_NAME, routes).await?;
    let server = server.traced(exporting.tracer()).measured(&metrics);
    shutdown.spawn_vital("server", server.run(shutdown.clone()));
    shutdown.spawn(
        shutdown
            .token()
            .clone()
            .run_until_cancelled_owned(health.follow(readiness)),
    );

    let starter = Starter {
        config,
        learner,
        address,
        service,
        catch_up,
        disk,
        instruments,
        shutdown: shutdown.clone(),
        tracer: exporting.tracer(),
    };
    let log = match shutdown
        .token()
        .run_until_cancelled(starter.start(directory))
        .await
    {
        Some(Ok(log)) => Some(log),
        Some(Err(failure)) => {
            shutdown.fail(failure);
            None
        }
        None => None,
    };
    shutdown.begun().await;
    let result = shutdown.drain(STOP_GRACE).await;
    if let Some(log) = log {
        log.close().await;
    }
    remove(temporary).await;
    metrics.flush().await;
    exporting.stop().await;
    result
}

/// Opens the given directory, or makes a temporary directory, removed when the second element of the pair is dropped.
fn open_directory(path: Option<PathBuf>) -> Result<(DataDir, Option<TempDir>), Failure> {
    if let Some(path) = path {
        return Ok((DataDir::open(&path)?, None));
    }
    let temporary = tempfile::Builder::new()
        .prefix("paxos-learner-")
        .tempdir()
        .map_err(|error| Failure::storage(error).context("make a temporary data directory"))?;
    Ok((DataDir::open(temporary.path())?, Some(temporary)))
}

async fn remove(temporary: Option<TempDir>) {
    let Some(temporary) = temporary else {
        return;
    };
    let path = temporary.path().display().to_string();
    if let Ok(Err(error)) = spawn_blocking(|| temporary.close()).await {
        tracing::warn!(path, %error, "cannot remove the temporary data directory");
    }
}

/// Everything needed to start learning.
struct Starter {
    config: Config,
    learner: u64,
    address: Address,
    service: LearnerService,
    catch_up: Arc<CatchUp>,
    disk: Arc<Disk>,
    instruments: Instruments,
    shutdown: Shutdown,
    tracer: Tracer,
}

impl Starter {
    /// Finds the cluster, opens the log and starts every task.
    ///
    /// # Cancel safety
    /// Safe: a file being opened stays whole, and started tasks run on.
    async fn start(self, directory: DataDir) -> Result<Log, Failure> {
        let acceptors: Vec<_> = self.config.acceptors.iter().cloned().map(Acceptor::new).collect();
        let configuration = discover::discover(&acceptors).await.map_err(Failure::refused)?;
        let cluster = Arc::new(Cluster::new(&configuration, acceptors.clone()));
        let found = Store::open(directory, cluster.id(), &self.disk).await?;
        let from = found.progress.applied_to();
        self.catch_up.expect(cluster.electorate().quorums().phase1());
        tracing::info!(%cluster, %from, "learning");

        let (events_in, events) = mpsc::channel(driver::EVENTS_MAX);
        let (learned, batches) = mpsc::channel(driver::BATCHES_MAX);
        let (next, next_seen) = watch::channel(from);
        let (stalls, stalls_seen) = watch::channel(0);
        let (feed, feed_seen) = watch::channel(None);
        let (applied, applied_seen) = watch::channel(found.progress.clone());
        let (transactions, transactions_seen) = mpsc::channel(apply::TRANSACTIONS_MAX);
        let knowledge = Arc::new(Knowledge::new(found.machine));

        let core = Learner::new(cluster.electorate().clone(), from);
        let outlets = Outlets {
            learned,
            next,
            stalls,
            feed,
        };
        let values = ValueTracer::new(self.tracer.clone());
        let stall_timeout = self.config.stall_timeout;
        let shutdown = &self.shutdown;
        shutdown.spawn_vital(
            "driver",
            driver::run(
                core,
                events,
                outlets,
                values.clone(),
                stall_timeout,
                shutdown.clone(),
            ),
        );
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
        let writing = persist::run(
            found.store,
            Arc::clone(&knowledge),
            transactions_seen,
            self.instruments.clone(),
            Arc::clone(&self.disk),
        );
        shutdown.spawn_vital("writer", writing);

        let (leadership, leadership_seen) = watch::channel(fill::nobody_leads());
        let barrier = self.start_barrier(&cluster, &acceptors, applied_seen.clone(), leadership_seen);
        self.service.open(Opened {
            cluster: cluster.id(),
            history: History::new(Arc::clone(&knowledge), found.log.clone()),
            knowledge,
            applied: applied_seen.clone(),
            feed: feed_seen,
            barrier,
            tracer: self.tracer.clone(),
        });
        let observer = Observer {
            cluster: Arc::clone(&cluster),
            driver: events_in,
            next: next_seen,
        };
        let (greetings_in, greetings) = mpsc::channel(GREETINGS_MAX);
        let reporter = Reporter {
            cluster: Arc::clone(&cluster),
            learner: self.learner,
            address: self.address,
            applied: applied_seen.clone(),
            greetings: greetings_in,
            catch_up: Arc::clone(&self.catch_up),
            disk: Arc::clone(&self.disk),
            leadership,
            shutdown: shutdown.clone(),
        };
        let token = shutdown.token();
        for acceptor in &acceptors {
            let votes = observer.clone().follow_votes(Arc::clone(acceptor));
            shutdown.spawn(token.clone().run_until_cancelled_owned(votes));
            shutdown.spawn(reporter.clone().stay_attached(Arc::clone(acceptor)));
        }
        // A random acceptor, so that the learners spread over the acceptors.
        let first = rand::random_range(0..acceptors.len());
        let feeding = observer.follow_values(acceptors, first, stalls_seen);
        shutdown.spawn(token.clone().run_until_cancelled_owned(feeding));
        let going_live = go_live_when_caught_up(cluster, greetings, applied_seen, values);
        shutdown.spawn(token.clone().run_until_cancelled_owned(going_live));
        Ok(found.log)
    }

    /// Starts the tasks behind linearizable reads.
    fn start_barrier(
        &self,
        cluster: &Arc<Cluster>,
        acceptors: &[Arc<Acceptor>],
        applied: watch::Receiver<Progress>,
        leadership: watch::Receiver<Leadership>,
    ) -> Barrier {
        let (tails_in, tails) = mpsc::channel(tails::TAILS_MAX);
        let (question, question_seen) = watch::channel(None);
        let (fill, wanted) = watch::channel(None);
        let rounds = self.instruments.read_rounds.clone();
        let outlets = barrier::Outlets {
            question,
            fill,
            rounds,
        };
        let electorate = cluster.electorate().clone();
        let (barrier, keeper) = barrier(
            electorate,
            tails,
            applied,
            Progress::applied_to,
            outlets,
            self.tracer.clone(),
        );
        let shutdown = &self.shutdown;
        shutdown.spawn_vital("barrier", keeper.run(shutdown.clone()));
        let asker = Asker {
            cluster: Arc::clone(cluster),
            question: question_seen,
            tails: tails_in,
            tracer: self.tracer.clone(),
        };
        let token = shutdown.token();
        for acceptor in acceptors {
            let asking = asker.clone().keep_asking(Arc::clone(acceptor));
            shutdown.spawn(token.clone().run_until_cancelled_owned(asking));
        }
        let filling = Filler { wanted, leadership }.keep_filling();
        shutdown.spawn(token.clone().run_until_cancelled_owned(filling));
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
    let mut told = Tally::default();
    let mut target = applied.borrow().applied_to();
    while told.count() < electorate.quorums().phase1() {
        let Some(Greeting { acceptor, chosen_to }) = greetings.recv().await else {
            return;
        };
        if told.add(electorate, acceptor) {
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

/// Lets unit tests use the acceptors of the integration tests.
#[cfg(test)]
extern crate self as paxos_learner;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
#[allow(dead_code, reason = "each test binary uses another part of it")]
mod support;
