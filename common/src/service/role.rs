//! The frame of every role: addresses, telemetry, readiness, metrics and probes, the gRPC server, and the end.

use std::{convert::Infallible, net::SocketAddr};

use tokio::net::TcpListener;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::Routes,
};

use super::{
    config::{MetricsListen, advertised},
    failure::Failure,
    metrics::{self, Metrics, Readiness, UnreadyReason},
    server::{Health, Server},
    shutdown::Shutdown,
    telemetry::Exporting,
};
use crate::{
    peer::{Address, MessageLimits},
    trace::Tracer,
};

/// The bound address of a role, and the URL for other processes: `advertise`, or the URL of the bound address.
///
/// # Errors
/// The listener has no address (70), or no URL was given and no URL can be derived (2).
pub fn addresses(
    listener: &TcpListener,
    advertise: Option<&Address>,
) -> Result<(SocketAddr, Address), Failure> {
    let local = listener.local_addr().map_err(Failure::internal)?;
    Ok((local, advertised(advertise, local)?))
}

/// What surrounds the work of a role, from the start of the process to its end.
#[derive(Debug)]
pub struct RoleFrame {
    /// The registry of the role. Register every instrument before [`Self::serve_metrics`].
    pub metrics: Metrics,
    exporting: Exporting,
    readiness: Readiness,
    shutdown: Shutdown,
}

impl RoleFrame {
    /// Starts the telemetry. `role` is `acceptor`, `proposer` or `learner`; `node` is the name of this process in the
    /// cluster. The role is not ready yet.
    ///
    /// # Errors
    /// An `OTEL_` variable is invalid (2).
    pub fn start(role: &'static str, node: &str, shutdown: &Shutdown) -> Result<Self, Failure> {
        let exporting = Exporting::start(role, node)?;
        let metrics = Metrics::new(role, exporting.resource())?;
        let readiness = Readiness::not_yet("this process is starting");
        let shown = readiness.clone();
        metrics.gauge(
            "paxos.ready",
            "",
            "1 while this process is ready, as /readyz says; otherwise 0",
            move || u64::from(shown.get().is_ok()),
        );
        Ok(Self {
            metrics,
            exporting,
            readiness,
            shutdown: shutdown.clone(),
        })
    }

    /// The tracer of the role.
    pub fn tracer(&self) -> Tracer {
        self.exporting.tracer()
    }

    /// Reports the result of `look` as the readiness of the role, until the stop begins. `look` must not block.
    pub fn report_readiness(&self, look: impl Fn() -> Result<(), UnreadyReason> + Send + 'static) {
        let readiness = self.readiness.clone();
        self.shutdown.spawn_until_stop(readiness.keep(look));
    }

    /// Serves metrics and probes until the stop begins.
    ///
    /// # Errors
    /// As [`metrics::serve`].
    pub async fn serve_metrics(&self, listen: MetricsListen) -> Result<(), Failure> {
        let served = metrics::serve(listen, &self.metrics, &self.readiness, &self.shutdown).await;
        served.map(|_| ())
    }

    /// The server of the role's gRPC service: with limits of messages, traced and measured. The server does not run
    /// yet, and the health status is not serving until [`Self::report_health`].
    ///
    /// # Errors
    /// The listener has no address (70).
    pub async fn server<S>(&self, listener: TcpListener, service: S) -> Result<(Server, Health), Failure>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + MessageLimits
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let routes = Routes::new(service.with_message_limits());
        let (server, health) = Server::new(listener, S::NAME, routes).await?;
        Ok((server.traced(self.tracer()).measured(&self.metrics), health))
    }

    /// Reports the readiness of the role over `grpc.health.v1`, until the stop begins.
    pub fn report_health(&self, health: Health) {
        let following = health.follow(self.readiness.clone());
        self.shutdown.spawn_until_stop(following);
    }

    /// Sends the last measurements and spans, for at most two seconds. Call once every task of the role has ended.
    pub async fn end(self) {
        tokio::join!(self.metrics.flush(), self.exporting.stop());
    }
}
