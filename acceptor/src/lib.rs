//! The acceptor: the role that votes, and remembers on disk. Acceptors start no calls and only answer.
//!
//! ```text
//! service ──▶ bounded queue ──▶ worker ──▶ core (decides) ──▶ store (one commit) ──▶ answers
//!    │                             └──▶ what memory shows, and the ring of live frames
//!    ├──▶ ears: which proposer is heard, whatever the disk does ──▶ attached proposers, *alive* to leaders
//!    └── pages of what is on disk, live frames, who leads
//! ```

mod attach;
mod commits;
pub mod config;
mod damage;
mod ears;
mod inbox;
mod metrics;
mod observe;
mod peers;
mod queue;
mod refusals;
mod request;
mod ring;
mod service;
mod shared;
pub mod store;
#[cfg(test)]
mod testing;
mod trace;
mod worker;

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::identity::RunNumber,
    service::{
        config::advertised,
        failure::Failure,
        metrics::{Metrics, Readiness, serve},
        server::{MESSAGE_BYTES_MAX, Server},
        shutdown::Shutdown,
        telemetry::Exporting,
    },
    sqlite::DataDir,
};
use paxos_proto::v1::acceptor_server::{AcceptorServer, SERVICE_NAME};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::info;

use crate::{
    config::Config,
    damage::scrub,
    metrics::Instruments,
    peers::PeerReader,
    queue::Queue,
    service::{Name, Service},
    shared::Shared,
    store::{Store as _, sqlite::SqliteStore},
    worker::Worker,
};

/// Maximum time for tasks to end once the server has stopped; includes the last commit.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Runs an acceptor on `listener` until `shutdown` begins.
///
/// # Errors
/// The directory cannot be used (74; 78 for a foreign directory), a commit failed (74), a peer broke the protocol (70).
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
    let local = listener.local_addr().map_err(Failure::internal)?;
    let address = advertised(config.advertise.as_ref(), local)?;
    let exporting = Exporting::start("acceptor", &config.id)?;
    let tracer = exporting.tracer();
    let metrics = Metrics::new("acceptor", exporting.resource())?;
    let instruments = Instruments::new(&metrics);
    let readiness = Readiness::not_yet("this process is starting");
    serve(config.metrics, &metrics, &readiness, &shutdown).await?;
    let directory = DataDir::open(&config.data_dir)?;
    let data_dir = directory.path().display().to_string();
    let run = RunNumber::from_random(rand::random());
    // The last step of opening makes the run durable. All other fallible steps of a start come before, so a failed
    // start leaves no run. Safe to cancel: the connection is closed with any open work. Opening may wait for another
    // process's lock.
    let opening = SqliteStore::open(directory, &config.id, run);
    let Some(opened) = shutdown.token().run_until_cancelled(opening).await else {
        return Ok(());
    };
    let (store, opened) =
        opened.map_err(|error| Failure::from(error).context(format!("open store in {data_dir}")))?;

    let reader = store.reader();
    let (counter, stop_counter) = (store.counter_file(), shutdown.token().clone());
    shutdown.spawn_vital("commit counter", async move {
        let synced = counter.keep_synced(stop_counter).await;
        synced.map_err(|error| Failure::from(error).context("sync the commit counter"))
    });
    let (worker, shared, queue) = Worker::new(store, opened, run, tracer.clone(), instruments.clone());
    instruments.show(&metrics, &shared, &queue);
    let (told, seen, ready) = (readiness.clone(), Arc::clone(&shared), instruments.clone());
    let queued = Arc::clone(&queue);
    shutdown.spawn(
        shutdown
            .token()
            .clone()
            .run_until_cancelled_owned(told.keep(move || ready.readiness(&seen, &queued))),
    );
    let measuring = instruments
        .data_dir()
        .clone()
        .keep_measured(data_dir.clone().into());
    shutdown.spawn(shutdown.token().clone().run_until_cancelled_owned(measuring));
    shutdown.spawn(watch(
        Arc::clone(&shared),
        Arc::clone(&queue),
        instruments.clone(),
        shutdown.token().clone(),
    ));
    let stop_scrub = shutdown.token().clone();
    shutdown.spawn_vital("scrub", scrub(reader.clone(), Arc::clone(&shared), stop_scrub));
    let reader = PeerReader::new(reader, Arc::clone(&shared), shutdown.clone());
    let published = shared.published();
    info!(
        node_id = config.id, acceptor = %published.stamp.acceptor, listen = %local, %address, data_dir,
        promised = %published.leadership.promised, chosen_to = published.chosen_to.get(),
        voted_to = published.voted_to.get(), formed = shared.formed().is_some(), "acceptor recovered"
    );

    // The worker outlives the server, so requests from before the stop are still answered.
    let stop_worker = CancellationToken::new();
    shutdown.spawn_vital("worker", worker.run(stop_worker.clone()));
    let service = Service::new(
        Name {
            id: config.id,
            address: address.to_string(),
        },
        queue,
        shared,
        reader,
        instruments,
        shutdown.clone(),
        tracer.clone(),
    );
    let service = AcceptorServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (server, health) = Server::new(listener, SERVICE_NAME, Routes::new(service)).await?;
    // The process as a whole serves from now on: a cluster is formed by calling its blank acceptors. The service of
    // this name serves once the acceptor can vote.
    health.set_live().await;
    let votes = health.clone().of_service_alone().follow(readiness);
    shutdown.spawn(shutdown.token().clone().run_until_cancelled_owned(votes));
    let served = server
        .traced(tracer)
        .measured(&metrics)
        .run(shutdown.clone())
        .await;
    health.set_serving(false).await;
    stop_worker.cancel();
    let drained = shutdown.drain(DRAIN_GRACE).await;
    metrics.flush().await;
    exporting.stop().await;
    drained.and(served)
}

/// Interval of checks of the queue.
const QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// Until `stop`: notifies attached proposers when the heard proposer falls silent, and logs long waits of requests.
async fn watch(shared: Arc<Shared>, queue: Arc<Queue>, instruments: Instruments, stop: CancellationToken) {
    let look = async {
        loop {
            sleep(QUEUE_INTERVAL).await;
            instruments.look_at_queue(&queue);
        }
    };
    tokio::select! {
        // All arms only wait.
        () = shared.ears.watch_silence() => {}
        () = look => {}
        () = stop.cancelled() => {}
    }
}
