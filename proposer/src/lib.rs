//! The proposer: takes commands and has them ordered.
//!
//! [`run`] finds or forms the cluster behind the acceptors' addresses (`forming`). Then the driver (`driver`) runs
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

mod addresses;
mod ask;
mod bring;
mod changes;
mod clock;
mod config;
mod driver;
mod forming;
mod forward;
mod forwarded;
mod input;
mod link;
mod members;
mod metrics;
mod openings;
mod requests;
mod returned;
mod service;
mod state_limit;
mod stream;
mod timers;
mod trace;
mod view;
mod witnessing;

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::{
        ballot::ProposerId,
        proposer::{Limits, Proposer, Settings},
    },
    service::{
        failure::Failure,
        role::{RoleFrame, RolePlace},
        shutdown::Shutdown,
    },
    tls::RoleName,
    trace::{Beginning, Parent},
};
use paxos_proto::v1::proposer_server::ProposerServer;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{driver::Driver, metrics::Instruments, service::Service, view::View};

pub use config::{Args, Config, METRICS_PORT, PORT};

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
    let (role, advertise) = (RoleName::Proposer, config.advertise.as_ref());
    let place = RolePlace::of(
        role,
        &listener,
        advertise,
        config.security.clone(),
        &config.acceptors,
    )?;
    let RolePlace {
        local,
        address,
        security,
    } = place;
    let id = ProposerId::from_random(rand::random());
    let timeout = config.leader_timeout;
    tracing::info!(%id, %address, %local, acceptors = ?config.acceptors, leader_timeout = ?timeout, "proposer starts");

    let frame = RoleFrame::start(role, &id.to_string(), &security, &shutdown)?;
    let (inputs, inbox) = mpsc::channel(INPUTS_MAX);
    let (views, view) = watch::channel(View::forming(id));
    let instruments = Instruments::new(&frame.metrics, &view);
    let seen = view.clone();
    frame.report_readiness(move || metrics::readiness(&seen.borrow()));
    frame.serve_metrics(config.metrics).await?;
    let (own, stop, tracer) = (address.clone(), shutdown.clone(), frame.tracer());
    let service = Service::new(
        inputs.clone(),
        view,
        own,
        (timeout, config.state_bytes_max),
        stop,
        (tracer, frame.dialer().clone()),
    );
    let (server, health) = frame.server(listener, ProposerServer::new(service)).await?;
    // The service answers UNAVAILABLE until the cluster is formed. The service stops after the driver, so requests in
    // flight can still be answered.
    let serving = Shutdown::new(&CancellationToken::new());
    serving.spawn_vital("server", server.run(serving.clone()));
    frame.report_health(health);

    let core = async {
        let Some(cluster) = form_cluster(&config, &frame, &shutdown).await? else {
            return Ok(());
        };
        let settings = Settings {
            leader_timeout: timeout,
            limits: Limits::default(),
        };
        let configuration = Arc::new(cluster.configuration.clone());
        let proposer = Proposer::new(id, address.as_str().into(), configuration, settings);
        let tracer = frame.tracer();
        let driver = Driver::new(proposer, &cluster, address, timeout, views, tracer, instruments);
        driver.run(inputs, inbox, &shutdown).await
    };
    let result = tokio::select! {
        // Each arm ends the role: the other arm's work is no longer wanted.
        result = core => result,
        () = serving.begun() => Ok(()),
    };
    shutdown.begin();
    let served = serving.drain(STOP_GRACE).await;
    let drained = shutdown.drain(STOP_GRACE).await;
    frame.end().await;
    tracing::info!("proposer stopped");
    result.and(served).and(drained)
}

/// Waits until a cluster is formed, with a span; `None` when the stop begins first.
async fn form_cluster(
    config: &Config,
    frame: &RoleFrame,
    shutdown: &Shutdown,
) -> Result<Option<forming::FormedCluster>, Failure> {
    let span = frame
        .tracer()
        .begin(Beginning::new("proposer.form", Parent::None));
    let formed = forming::form(&config.acceptors, config.cluster, frame.dialer(), shutdown).await;
    if let (Some(mut span), Err(failure)) = (span, &formed) {
        span.fail("refused", failure.to_string());
    }
    formed
}
