//! The gRPC server of every role: limits, keep-alive, health, reflection, and a stop that does not hang.
//!
//! Limits on the resources used by callers:
//!
//! | what | bound | where |
//! | --- | --- | --- |
//! | connections | 768 | `server/incoming.rs` |
//! | open calls | 5,184: 3,072 clients or roles, 256 status, 64 reflection, 1,792 health | `server/shares.rs` |
//! | their tasks, streams and buffers, with unread answers up to 8 KiB | 152 MiB, 30 KiB each | `server/outgoing.rs` |
//! | incomplete large messages | 64 MiB, briefly 128 MiB | `server/partial.rs` |
//! | data that the calls have not read | 78 MiB | `server/windows.rs` |
//! | unread large answers | 112 MiB | `server/outgoing.rs` |
//! | buffers of TLS | 41 MiB: 768 of 36 KiB for incoming records, 13.5 MiB for outgoing | `server/greeting.rs` |
//!
//! Without TLS these are 406 MiB, and briefly 470 MiB, if callers use up all limits at once. A role without callers holds
//! some 30 MiB, and a learner also the registers. The memory limits of `docker-compose.yml` are 512 MiB for an acceptor
//! and for a proposer, and 1 GiB for a learner. With TLS the sum is above 512 MiB briefly: only acceptors, proposers and
//! learners, which are trusted, can use up the part of the cluster.
//!
//! With TLS each connection begins with a handshake, `server/handshakes.rs`, and each call needs a right of its caller,
//! `server/rights.rs`. Callers outside the cluster, clients and operators, together have at most half of the connections,
//! `server/outside.rs`, of the open calls, and of the unread large answers. A single connection of such a caller has at most
//! an eighth of this half of calls and answers. Outside callers at all their limits hold 76 + 64 + 39 + 56 + 21 MiB, which
//! is 256 MiB, and briefly 320 MiB: acceptors, proposers and learners find room beside them.
//!
//! One peer address has at most half of the connections and of the calls of each kind: `server/addresses.rs`.

use std::{net::SocketAddr, time::Duration};

use tokio::{net::TcpListener, time::timeout};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    service::{
        failure::Failure,
        metrics::{Metrics, Readiness},
        shutdown::Shutdown,
    },
    tls::Tls,
    trace::Tracer,
};

mod address_log;
mod addresses;
mod answers;
mod calls;
mod chunks;
mod connections;
mod deadline;
mod greeting;
mod handshakes;
mod incoming;
mod kinds;
mod measured;
mod observed;
mod outgoing;
mod outside;
mod partial;
mod rights;
mod served;
mod shares;
mod traced;
mod windows;

use calls::Limited;
use connections::ConnectionLimits;
use handshakes::{HandshakeCounts, Handshakes};
use incoming::IncomingConnections;
use measured::Measured;
use outside::OutsidePlaces;
use rights::{Authorized, DeniedCalls};
use traced::Traced;
use windows::{Servers, accept_plain};

pub use addresses::{may_take, owner_of};
pub use chunks::{Chunk, Chunks, chunks};
pub use deadline::{deadline, sleep_until};
pub use outgoing::{Room, room};
pub use rights::{Rights, may_call, rights};
pub use traced::received;

/// Limits for connections.
const CONNECTIONS: ConnectionLimits = ConnectionLimits {
    // Room for hundreds of peers and clients (each needs one), and below 1,024, the usual limit of open files per
    // process.
    connections: 768,
    // Clients connect to send a request.
    first_call: Duration::from_secs(10),
    // Longer than the pauses of an active client; a client that returns later connects again.
    unused: Duration::from_secs(300),
    // Long enough to be scheduled on a busy machine, and a short wait for the next connection.
    protected: Duration::from_millis(400),
    wide: windows::WIDE_MAX,
};
/// Limit of concurrent calls on one connection: several hundred concurrent unary calls are normal for a client.
const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// Limit, for each connection, of calls given up by the client before the server looked at the call. When deadlines
/// pass while this process does not run, a client may give up all open calls at once; a client with more is
/// disconnected.
const PENDING_RESETS_MAX: usize = STREAMS_PER_CONNECTION_MAX as usize;
/// Limit, for each connection, of calls ended by this server because of HTTP/2 violations, over the lifetime of the
/// connection.
const ERROR_RESETS_MAX: usize = 1024;
/// Interval of probes on an open connection, so that the connections and streams of a vanished machine are freed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A connection is closed when a probe stays unanswered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long calls may continue once the stop has begun: long streams end themselves on the same token.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// Reports over `grpc.health.v1` whether a role is ready. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    service: &'static str,
    /// The process as a whole (the service without a name) reports the same status as `service`.
    is_whole: bool,
}

impl Health {
    /// Reports to probes that the process as a whole serves, regardless of the role's own service.
    pub async fn set_live(&self) {
        self.reporter.set_service_status("", ServingStatus::Serving).await;
    }

    /// The same for the role's own service alone: the process as a whole keeps its status.
    #[must_use]
    pub fn of_service_alone(self) -> Self {
        Self {
            is_whole: false,
            ..self
        }
    }

    /// Reports to probes whether this role serves: its own service, and the process as a whole.
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.reporter.set_service_status(self.service, status).await;
        if self.is_whole {
            self.reporter.set_service_status("", status).await;
        }
    }

    /// Reports the role's readiness to probes, until the readiness can no longer change. Starts as not serving.
    pub async fn follow(self, readiness: Readiness) {
        let mut changes = readiness.changes();
        let mut serving = false;
        while changes.changed().await.is_ok() {
            let ready = changes.borrow_and_update().is_ok();
            // The reason may change more often.
            if serving != ready {
                serving = ready;
                self.set_serving(serving).await;
            }
        }
    }
}

/// A bound server of a role that does not run yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    routes: Routes,
    local: SocketAddr,
    service: &'static str,
    tracer: Tracer,
    measured: Measured,
    tls: Option<Tls>,
    handshakes: HandshakeCounts,
    denied_calls: DeniedCalls,
}

impl Server {
    /// Adds health and reflection to a role's services. `service` is the role's `NamedService::NAME`, its name for
    /// health. The health status is not serving until the role reports otherwise.
    ///
    /// First limit the messages of every service: [`MessageLimits`](crate::peer::MessageLimits).
    ///
    /// # Errors
    /// The listener has no address.
    pub async fn new(
        listener: TcpListener,
        service: &'static str,
        routes: Routes,
    ) -> Result<(Self, Health), Failure> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = Health {
            reporter,
            service,
            is_whole: true,
        };
        health.set_serving(false).await;

        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(paxos_proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let routes = routes
            .add_service(health_service)
            .add_service(reflection().build_v1().map_err(Failure::internal)?)
            .add_service(reflection().build_v1alpha().map_err(Failure::internal)?);
        let local = listener.local_addr().map_err(Failure::internal)?;
        Ok((
            Self {
                listener,
                routes,
                local,
                service,
                tracer: Tracer::off(),
                measured: Measured::default(),
                tls: None,
                handshakes: HandshakeCounts::default(),
                denied_calls: DeniedCalls::default(),
            },
            health,
        ))
    }

    /// Traces single requests with `tracer`: see [`received`]. Call this before [`Self::measured`].
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }

    /// Measures the duration of calls in `metrics`, and counts the open calls.
    #[must_use]
    pub fn measured(self, metrics: &Metrics) -> Self {
        let tracer = self.tracer.clone();
        metrics.counted(
            "paxos.traces.refused",
            "Requests sampled by their callers but not traced: above the rate limit for callers",
            move || tracer.refused(),
        );
        let measured = Measured::by(metrics, self.service);
        Self { measured, ..self }
    }

    /// Accepts only connections with TLS, and only calls that the certificates of the callers allow. `metrics` counts
    /// handshakes and refused calls.
    #[must_use]
    pub fn secured(self, tls: Tls, metrics: &Metrics) -> Self {
        Self {
            tls: Some(tls),
            handshakes: HandshakeCounts::by(metrics),
            denied_calls: DeniedCalls::by(metrics),
            ..self
        }
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until the stop begins, then lets open calls finish during a short grace period. After a failure there is
    /// no grace.
    ///
    /// Endless streams must end on the same token. Calls that outlast the grace are cut off when the runtime ends.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Failure> {
        let mut incoming = IncomingConnections::new(self.listener, CONNECTIONS);
        let services = Limited::new(self.routes.prepare());
        let services = Authorized::new(services, self.tls.is_some(), self.denied_calls);
        let services = Traced::new(services, self.tracer);
        let outside = OutsidePlaces::new(CONNECTIONS.connections, CONNECTIONS.protected);
        let services = self.measured.around(services);
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
            .http2_max_local_error_reset_streams(Some(ERROR_RESETS_MAX))
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT));
        let accept = async move |servers: Servers| match self.tls {
            None => accept_plain(incoming, servers).await,
            Some(tls) => {
                let mut handshakes = Handshakes::new(tls, self.handshakes, outside, servers);
                handshakes.run(&mut incoming).await;
            }
        };
        let server = windows::serve(server, services, accept, shutdown.token().clone());
        let mut server = Box::pin(server);
        let result = tokio::select! {
            // The other arm does not cancel the server: the server is polled there too.
            result = &mut server => result,
            // `begun` only waits.
            () = shutdown.begun() => {
                // A failed role answers nothing any more.
                let grace = if shutdown.has_failed() { Duration::ZERO } else { STOP_GRACE };
                match timeout(grace, &mut server).await {
                    Ok(result) => result,
                    Err(_) => {
                        tracing::debug!("cutting off calls still open after the grace period");
                        Ok(())
                    }
                }
            },
        };
        result.map_err(|error| Failure::internal(anyhow::Error::new(error).context("serve")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    use crate::peer::{Address, Dialer};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic_health::pb::{HealthCheckRequest, health_check_response, health_client::HealthClient};

    const SERVICE: &str = "paxos.v1.Acceptor";

    #[tokio::test]
    async fn reports_serving_only_once_set_and_stops_with_a_stream_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = Shutdown::new(&CancellationToken::new());
        let (server, health) = Server::new(listener, SERVICE, Routes::default()).await.unwrap();
        let address: Address = format!("http://{}", server.local_addr()).parse().unwrap();
        let running = tokio::spawn(server.run(shutdown.clone()));

        let mut client = HealthClient::new(Dialer::default().connect_lazy(&address, None));
        let request = || HealthCheckRequest {
            service: SERVICE.to_owned(),
        };
        let mut watch = client.watch(request()).await.unwrap().into_inner();
        let first = watch.message().await.unwrap().unwrap();
        assert_eq!(first.status(), health_check_response::ServingStatus::NotServing);
        health.set_serving(true).await;
        let second = watch.message().await.unwrap().unwrap();
        assert_eq!(second.status(), health_check_response::ServingStatus::Serving);
        let overall = client
            .check(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(overall.status(), health_check_response::ServingStatus::Serving);

        shutdown.begin();
        running.await.unwrap().unwrap();
        drop(watch);
    }

    #[tokio::test]
    async fn process_is_live_whatever_its_service_says() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = Shutdown::new(&CancellationToken::new());
        let (server, health) = Server::new(listener, SERVICE, Routes::default()).await.unwrap();
        let address: Address = format!("http://{}", server.local_addr()).parse().unwrap();
        let running = tokio::spawn(server.run(shutdown.clone()));
        let client = HealthClient::new(Dialer::default().connect_lazy(&address, None));
        let check = async |service: &str| {
            let service = service.to_owned();
            let answer = client.clone().check(HealthCheckRequest { service }).await;
            answer.unwrap().into_inner().status() == health_check_response::ServingStatus::Serving
        };
        health.set_live().await;
        assert_eq!((check("").await, check(SERVICE).await), (true, false));
        let votes = health.clone().of_service_alone();
        votes.set_serving(true).await;
        assert_eq!((check("").await, check(SERVICE).await), (true, true));
        votes.set_serving(false).await;
        assert_eq!((check("").await, check(SERVICE).await), (true, false));
        health.set_serving(false).await;
        assert!(!check("").await);
        shutdown.begin();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn messages_of_probes_above_16_kib_are_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = Shutdown::new(&CancellationToken::new());
        let (server, _health) = Server::new(listener, SERVICE, Routes::default()).await.unwrap();
        let address: Address = format!("http://{}", server.local_addr()).parse().unwrap();
        let running = tokio::spawn(server.run(shutdown.clone()));
        let client = HealthClient::new(Dialer::default().connect_lazy(&address, None));
        // Before the name of the service, a message has three bytes.
        for (bytes, code) in [
            (16 * 1024 - 3, Code::NotFound),
            (16 * 1024 - 2, Code::InvalidArgument),
        ] {
            let service = "x".repeat(bytes);
            let refusal = client
                .clone()
                .check(HealthCheckRequest { service })
                .await
                .unwrap_err();
            assert_eq!(refusal.code(), code, "{refusal}");
        }
        shutdown.begin();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn deadlines_passed_while_the_server_is_blocked_end_no_other_call() {
        // More than the default limit of the HTTP/2 library, which is 20.
        const CALLS: usize = 200;
        let (address, stop) = (
            tokio::sync::oneshot::channel(),
            Shutdown::new(&CancellationToken::new()),
        );
        let (stand_still, standing_still) = std::sync::mpsc::sync_channel::<()>(0);
        let (go_on, going_on) = std::sync::mpsc::sync_channel::<()>(0);
        let serving = stop.clone();
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (server, health) = Server::new(listener, SERVICE, Routes::default()).await.unwrap();
                address.0.send((server.local_addr(), health)).unwrap();
                let blocking = async {
                    // This thread runs nothing more meanwhile, as in a stopped process.
                    while standing_still.try_recv().is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    going_on.recv().unwrap();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    result = server.run(serving) => result.unwrap(),
                    () = blocking => {}
                }
            });
        });
        let (local, health) = address.1.await.unwrap();
        let address = format!("http://{local}").parse::<Address>().unwrap();
        let channel = Dialer::default().connect_lazy(&address, None);
        let mut client = HealthClient::new(channel);
        let request = || HealthCheckRequest {
            service: SERVICE.to_owned(),
        };
        let mut watch = client.watch(request()).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();

        stand_still.send(()).unwrap();
        let calls = (0..CALLS).map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let check = client.check(HealthCheckRequest::default());
                timeout(Duration::from_millis(50), check).await.is_err()
            })
        });
        for call in calls.collect::<Vec<_>>() {
            assert!(call.await.unwrap(), "the server is paused");
        }
        go_on.send(()).unwrap();
        client.check(request()).await.unwrap();
        health.set_serving(true).await;
        let next = watch.message().await.unwrap().unwrap();
        assert_eq!(next.status(), health_check_response::ServingStatus::Serving);
        stop.begin();
        server.join().unwrap();
    }

    #[tokio::test]
    async fn open_calls_are_given_no_time_after_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = Shutdown::new(&CancellationToken::new());
        let (server, _health) = Server::new(listener, SERVICE, Routes::default()).await.unwrap();
        let address: Address = format!("http://{}", server.local_addr()).parse().unwrap();
        let running = tokio::spawn(server.run(shutdown.clone()));
        let request = HealthCheckRequest {
            service: SERVICE.to_owned(),
        };
        let mut client = HealthClient::new(Dialer::default().connect_lazy(&address, None));
        let mut watch = client.watch(request).await.unwrap().into_inner();
        watch.message().await.unwrap().unwrap();

        let failed_at = Instant::now();
        shutdown.fail(Failure::storage(anyhow::anyhow!("disk failed")));
        running.await.unwrap().unwrap();
        assert!(
            failed_at.elapsed() < STOP_GRACE / 2,
            "it took {:?}",
            failed_at.elapsed()
        );
        drop(watch);
    }
}
