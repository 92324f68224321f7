//! The frame of every role: addresses, telemetry, readiness, metrics and probes, the gRPC server, and the end.

use std::{convert::Infallible, net::SocketAddr};

use opentelemetry::KeyValue;
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
    security::{Security, SecuritySettings},
    server::{Health, Server},
    shutdown::Shutdown,
    telemetry::Exporting,
};
use crate::{
    peer::{Address, Dialer, MessageLimits},
    tls::{RoleName, Tls},
    trace::Tracer,
};

/// The addresses of a role, and the security of its connections.
#[derive(Debug)]
pub struct RolePlace {
    /// The bound address.
    pub local: SocketAddr,
    /// The URL for other processes.
    pub address: Address,
    /// The security of all connections.
    pub security: Security,
}

impl RolePlace {
    /// The place of `role`, whose listener is bound. `advertise` is the URL for other processes; `None`: derived from
    /// the bound address. `peers` are the configured addresses of other processes.
    ///
    /// # Errors
    /// The listener has no address (70), no URL can be derived, or the connections cannot be secured as configured (2).
    pub fn of(
        role: RoleName,
        listener: &TcpListener,
        advertise: Option<&Address>,
        security: SecuritySettings,
        peers: &[Address],
    ) -> Result<Self, Failure> {
        let local = listener.local_addr().map_err(Failure::internal)?;
        let configured = advertise.into_iter().chain(peers);
        let security = Security::open(security, role, local, configured)?;
        Ok(Self {
            local,
            address: advertised(advertise, local, security.scheme())?,
            security,
        })
    }
}

/// What surrounds the work of a role, from the start of the process to its end.
#[derive(Debug)]
pub struct RoleFrame {
    /// The registry of the role. Register every instrument before [`Self::serve_metrics`].
    pub metrics: Metrics,
    exporting: Exporting,
    readiness: Readiness,
    security: Security,
    shutdown: Shutdown,
}

impl RoleFrame {
    /// Starts the telemetry. `node` is the name of this process in the cluster. The role is not ready yet.
    ///
    /// # Errors
    /// An `OTEL_` variable is invalid (2).
    pub fn start(
        role: RoleName,
        node: &str,
        security: &Security,
        shutdown: &Shutdown,
    ) -> Result<Self, Failure> {
        let role = role.as_str();
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
        if let Some(tls) = security.tls() {
            show_expiry(&metrics, tls.clone());
        }
        Ok(Self {
            metrics,
            exporting,
            readiness,
            security: security.clone(),
            shutdown: shutdown.clone(),
        })
    }

    /// Opens connections to other processes.
    pub fn dialer(&self) -> &Dialer {
        self.security.dialer()
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

    /// The server of the role's gRPC service: with limits of messages, secured, traced and measured. The server does not run
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
        let server = server.traced(self.tracer()).measured(&self.metrics);
        let server = match self.security.tls() {
            Some(tls) => server.secured(tls.clone(), &self.metrics),
            None => server,
        };
        Ok((server, health))
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

/// Shows how long the certificates of this process are valid.
fn show_expiry(metrics: &Metrics, tls: Tls) {
    metrics.observe(
        "paxos.tls.certificate_expires",
        "s",
        "Time until the certificate of this process expires, and until the first of its CA certificates expires",
        move || {
            let (own, ca) = tls.expires_in();
            let file = |name: &'static str| [KeyValue::new("file", name)];
            [(file("certificate"), own), (file("ca"), ca)]
        },
    );
}
