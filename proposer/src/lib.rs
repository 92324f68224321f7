//! The proposer: takes commands and has them ordered.
//!
//! [`run`] finds or forms the cluster behind the acceptors' addresses (`formation`). Then the driver (`driver`) runs
//! the core of [`paxos_common::paxos::proposer`]; the core makes all decisions. The proposer keeps a link to every
//! acceptor: reports about itself, and `Attach` (`link`; `ask` for occasional calls). A candidate or leader also has an
//! `Accept` stream to every acceptor, on a separate connection (`stream`). Callers come in through `service`; a
//! standby's commands go out through `forward`.
//!
//! ```text
//! service ──▶ driver ─┬─▶ link (one per acceptor) ──────────────┬─▶ acceptors
//!                     ├─▶ stream (one per acceptor and ballot) ─┘
//!                     └─▶ forward ──▶ the leading proposer
//! ```

mod ask;
mod clock;
mod config;
mod driver;
mod formation;
mod forward;
mod input;
mod link;
mod metrics;
mod openings;
mod requests;
mod service;
mod stream;
mod timers;
mod trace;
mod view;
mod witnessing;

use std::time::Duration;

use paxos_common::{
    paxos::{
        ballot::ProposerId,
        proposer::{Limits, Proposer, Settings},
    },
    peer::MESSAGE_BYTES_MAX,
    service::{
        failure::Failure,
        metrics::{Metrics, Readiness, serve},
        server::Server,
        shutdown::Shutdown,
        telemetry::Exporting,
    },
    trace::{Beginning, Parent},
};
use paxos_proto::v1::proposer_server::ProposerServer;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

pub use config::{Args, Config};

/// Maximum time of a stop: to complete the work in flight, and to notify the acceptors.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Maximum number of requests and answers in flight to the driver: enough to form a batch at any time, and few enough
/// to show a full core to callers at once.
const INPUTS_MAX: usize = 4_096;

/// Runs a proposer on a bound listener until the stop begins.
///
/// # Errors
/// With exit code 78 when the acceptors are no cluster and cannot become a cluster; with 70 for faults of ours.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), Failure> {
    let local = listener.local_addr().map_err(Failure::internal)?;
    let address = config.listen.advertised(local)?;
    let id = ProposerId::from_random(rand::random());
    tracing::info!(%id, %address, %local, acceptors = ?config.acceptors, leader_timeout = ?config.leader_timeout,
        "proposer starts");

    let exporting = Exporting::start("proposer", &id.to_string())?;
    let tracer = exporting.tracer();
    let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
    let (views, view) = watch::channel(view::View::forming(id));
    let metrics = Metrics::new("proposer", exporting.resource())?;
    let instruments = metrics::Instruments::new(&metrics, &view);
    let readiness = Readiness::not_yet("this process is starting");
    let seen = view.clone();
    let keep = readiness.clone().keep(move || metrics::readiness(&seen.borrow()));
    shutdown.spawn(shutdown.token().clone().run_until_cancelled_owned(keep));
    serve(config.metrics, &metrics, &readiness, &shutdown).await?;
    let service = service::Service::new(
        inputs.clone(),
        view,
        address.clone(),
        config.leader_timeout,
        shutdown.clone(),
        tracer.clone(),
    );
    let service = ProposerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routes = tonic::service::Routes::new(service);
    let name = <ProposerServer<service::Service> as tonic::server::NamedService>::NAME;
    let (server, health) = Server::new(listener, name, routes).await?;

    // The service answers UNAVAILABLE until the cluster is formed. The service stops after the driver, so requests in
    // flight can still be answered.
    let serving = Shutdown::new(&CancellationToken::new());
    let server = server.traced(tracer.clone()).measured(&metrics);
    serving.spawn_vital("server", server.run(serving.clone()));
    shutdown.spawn(
        shutdown
            .token()
            .clone()
            .run_until_cancelled_owned(health.follow(readiness)),
    );
    let core = async {
        let forming = tracer.begin(Beginning::new("proposer.form", Parent::None));
        let formed = formation::form(&config.acceptors, &shutdown).await;
        if let (Some(mut span), Err(failure)) = (forming, &formed) {
            span.fail("refused", failure.to_string());
        }
        let Some(cluster) = formed? else {
            return Ok(());
        };
        let settings = Settings {
            leader_timeout: config.leader_timeout,
            limits: Limits::default(),
        };
        let electorate = cluster.configuration.electorate();
        let proposer = Proposer::new(id, address.as_str().into(), electorate, settings);
        let timeout = config.leader_timeout;
        driver::Driver::new(proposer, cluster, address, timeout, views, tracer, instruments)
            .run(inputs, inbox, &shutdown)
            .await
    };
    let result = tokio::select! {
        // Each arm ends the role: the other arm's work is no longer wanted.
        result = core => result,
        () = serving.begun() => Ok(()),
    };
    shutdown.begin();
    let served = serving.drain(STOP_GRACE).await;
    let result = result.and(served).and(shutdown.drain(STOP_GRACE).await);
    metrics.flush().await;
    exporting.stop().await;
    tracing::info!("proposer stopped");
    result
}
