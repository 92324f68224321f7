//! Serves `/metrics`, `/livez` and `/readyz` over HTTP/1 to any caller, and lets no caller block the others.

use std::{collections::VecDeque, convert::Infallible, io::ErrorKind, net::SocketAddr, time::Duration};

use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Metrics, Readiness};
use crate::{
    escape::escape,
    service::{config::MetricsListen, failure::Failure, process, shutdown::Shutdown},
};

/// Limit of concurrent connections. A further connection ends the oldest, so that long-held connections lock no caller
/// out.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last: each serves a single request within milliseconds.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// How long the head of a request may take to arrive.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Largest head of a request, in bytes; the smallest limit that hyper allows.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Pause after a failed accept. Usual cause: no free file descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves at `listen`, if enabled, until the stop begins. Returns the bound address.
///
/// # Errors
/// A given address cannot be bound. If a default address is in use, for example by another role of this machine, the
/// role runs without metrics.
///
/// # Panics
/// Outside a Tokio runtime.
pub async fn serve(
    listen: MetricsListen,
    metrics: &Metrics,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Result<Option<SocketAddr>, Failure> {
    let listener = match listen {
        MetricsListen::Off => return Ok(None),
        MetricsListen::At(address) => {
            let bound = process::bind(address).await;
            bound.map_err(|failure| failure.context("serve metrics"))?
        }
        MetricsListen::Usual(address) => match process::bind(address).await {
            Ok(listener) => listener,
            Err(failure) => {
                tracing::warn!(
                    %failure,
                    "no metrics are served; give --metrics-listen ADDRESS to serve metrics at another address"
                );
                return Ok(None);
            }
        },
    };
    let local = listener.local_addr().map_err(Failure::internal)?;
    tracing::info!(listen = %local, "serving /metrics, /livez and /readyz");
    let serving = accept(listener, metrics.clone(), readiness.clone());
    shutdown.spawn_until_stop(serving);
    Ok(Some(local))
}

async fn accept(listener: TcpListener, metrics: Metrics, readiness: Readiness) {
    let mut open = OpenConnections::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.make_room();
                let serving = serve_one(stream, metrics.clone(), readiness.clone());
                open.0.push_back(tokio::spawn(serving).abort_handle());
            }
            Err(error) => {
                // A connection given up by the peer before the accept is no fault.
                if error.kind() != ErrorKind::ConnectionAborted {
                    tracing::debug!(%error, "cannot accept a connection for metrics");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Open connections, the oldest first.
#[derive(Default)]
struct OpenConnections(VecDeque<AbortHandle>);

impl OpenConnections {
    fn make_room(&mut self) {
        self.0.retain(|connection| !connection.is_finished());
        if self.0.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
    }
}

impl Drop for OpenConnections {
    fn drop(&mut self) {
        for connection in &self.0 {
            connection.abort();
        }
    }
}

async fn serve_one(stream: TcpStream, metrics: Metrics, readiness: Readiness) {
    let service = service_fn(|request| {
        let response = respond(&request, &metrics, &readiness);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_MAX, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for metrics broke"),
        Err(_) => tracing::debug!("a connection for metrics was slow"),
    }
}

fn respond(request: &Request<Incoming>, metrics: &Metrics, readiness: &Readiness) -> Response<String> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match metrics.text() {
            Ok(text) => (StatusCode::OK, text),
            Err(failure) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{failure}\n")),
        },
        // The answer proves that the working thread runs.
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "alive\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match readiness.get() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            // The reason may have text of a peer.
            Err(reason) => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {}\n", escape(&reason)),
            ),
        },
        (_, "/metrics" | "/livez" | "/readyz") => (
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n".to_owned(),
        ),
        _ => (
            StatusCode::NOT_FOUND,
            "/metrics, /livez and /readyz are served here\n".to_owned(),
        ),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let text = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    fn shutdown() -> Shutdown {
        Shutdown::new(&CancellationToken::new())
    }

    async fn start(readiness: &Readiness, shutdown: &Shutdown) -> SocketAddr {
        let metrics = Metrics::unread();
        let bound = serve(MetricsListen::At(ANY), &metrics, readiness, shutdown).await;
        bound.unwrap().unwrap()
    }

    async fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(format!("{head}\r\nhost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_report_the_state_and_wrong_requests_what_is_served() {
        let (readiness, shutdown) = (Readiness::not_yet("it starts"), shutdown());
        let address = start(&readiness, &shutdown).await;
        for (head, status, body) in [
            ("GET /livez HTTP/1.1", "200", "alive"),
            ("GET /readyz HTTP/1.1", "503", "not ready: it starts"),
            ("GET /metrics HTTP/1.1", "200", "paxos_build_info"),
            ("HEAD /metrics HTTP/1.1", "200", ""),
            ("POST /metrics HTTP/1.1", "405", "only GET"),
            ("GET / HTTP/1.1", "404", "/readyz"),
            ("PRI * HTTP/2.0", "", ""),
            ("what is this", "400", ""),
        ] {
            let answer = ask(address, head).await;
            let expected = format!("HTTP/1.1 {status}");
            assert!(
                status.is_empty() || answer.starts_with(&expected),
                "{head}: {answer}"
            );
            assert!(answer.contains(body), "{head}: {answer}");
        }
        readiness.set(Err("a peer reports: a\nready\u{1b}[31m".into()));
        let answer = ask(address, "GET /readyz HTTP/1.1").await;
        let line = "\r\n\r\nnot ready: a peer reports: a\\nready\\u{1b}[31m\n";
        assert!(answer.ends_with(line), "{answer:?}");
        readiness.set(Ok(()));
        assert!(
            ask(address, "GET /readyz HTTP/1.1")
                .await
                .ends_with("\r\n\r\nready\n")
        );
        shutdown.begin();
        shutdown.drain(HEAD_MAX).await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn held_connections_keep_no_client_out() {
        let (readiness, shutdown) = (Readiness::not_yet("it starts"), shutdown());
        let address = start(&readiness, &shutdown).await;
        let mut held = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /met").await.unwrap();
            held.push(stream);
        }
        assert!(ask(address, "GET /livez HTTP/1.1").await.contains("alive"));
        // The oldest connections were closed.
        let mut nothing = [0];
        let read = held[0].read(&mut nothing).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }

    #[tokio::test]
    async fn head_that_never_ends_is_refused() {
        let (readiness, shutdown) = (Readiness::not_yet("it starts"), shutdown());
        let address = start(&readiness, &shutdown).await;
        let long = format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(HEAD_BYTES_MAX - 100));
        assert!(ask(address, &long).await.contains(" 200 "));
        let too_long = format!("GET /metrics HTTP/1.1\r\nx: {}", "x".repeat(HEAD_BYTES_MAX));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(too_long.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
    }

    #[tokio::test]
    async fn taken_address_is_an_error_only_when_it_was_asked_for() {
        let taken = process::bind(ANY).await.unwrap();
        let address = taken.local_addr().unwrap();
        let (metrics, readiness) = (Metrics::unread(), Readiness::not_yet("it starts"));
        let serve = async |listen| serve(listen, &metrics, &readiness, &shutdown()).await;
        assert_eq!(serve(MetricsListen::Usual(address)).await.unwrap(), None);
        assert_eq!(serve(MetricsListen::Off).await.unwrap(), None);
        let failure = serve(MetricsListen::At(address)).await.unwrap_err();
        assert_eq!(failure.code, crate::service::failure::Exit::Usage);
        assert!(failure.to_string().contains(&address.to_string()), "{failure}");
    }
}
