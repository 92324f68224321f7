//! Telemetry arrives over each protocol of OTLP, with and without TLS.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use opentelemetry_proto::tonic::collector::{
    metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use prost::Message as _;
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::collector::SpanCollector;
use crate::harness::{Cluster, Environment, until};

/// A certificate for this machine that no other machine trusts, and its key.
const CERTIFICATE: &str = include_str!("tls/certificate.pem");
const KEY: &str = include_str!("tls/key.pem");
const CERTIFICATE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/traces/tls/certificate.pem");

/// A collector over HTTP/1.1: records the names of received spans and metrics, by path.
#[derive(Clone, Default)]
struct HttpCollector(Arc<Mutex<BTreeSet<(String, String)>>>);

impl HttpCollector {
    /// Listens until the end of the test's process.
    fn start(tls: Option<Arc<ServerConfig>>) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let collector = Self::default();
        let serving = collector.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (serving, tls) = (serving.clone(), tls.clone());
                thread::spawn(move || {
                    let stream = stream.unwrap();
                    match tls {
                        None => serving.serve(BufReader::new(&stream), &stream),
                        Some(tls) => serving.serve_secure(stream, tls),
                    }
                });
            }
        });
        (collector, address)
    }

    fn serve_secure(&self, stream: TcpStream, tls: Arc<ServerConfig>) {
        let mut stream = StreamOwned::new(ServerConnection::new(tls).unwrap(), stream);
        while let Some(request) = read_request(&mut BufReader::with_capacity(1, &mut stream)) {
            self.take(request);
            answer(&mut stream);
        }
    }

    fn serve(&self, mut from: impl BufRead, mut to: impl Write) {
        while let Some(request) = read_request(&mut from) {
            self.take(request);
            answer(&mut to);
        }
    }

    fn take(&self, (path, body): (String, Vec<u8>)) {
        let names: Vec<_> = if path.ends_with("/v1/traces") {
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            let scopes = request.resource_spans.into_iter().flat_map(|of| of.scope_spans);
            scopes.flat_map(|of| of.spans).map(|span| span.name).collect()
        } else {
            let request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
            let scopes = request
                .resource_metrics
                .into_iter()
                .flat_map(|of| of.scope_metrics);
            scopes
                .flat_map(|of| of.metrics)
                .map(|metric| metric.name)
                .collect()
        };
        let mut seen = self.0.lock().unwrap();
        seen.extend(names.into_iter().map(|name| (path.clone(), name)));
    }

    fn has(&self, path: &str, name: &str) -> bool {
        self.0
            .lock()
            .unwrap()
            .contains(&(path.to_owned(), name.to_owned()))
    }
}

/// The path and the body of the next request; `None` at the end of the connection.
fn read_request(from: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("POST ") {
            path = rest.split(' ').next()?.to_owned();
        } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    Some((path, body))
}

fn answer(to: &mut impl Write) {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    to.write_all(answer.as_bytes()).unwrap();
    to.flush().unwrap();
}

fn tls() -> Arc<ServerConfig> {
    let certificates = CertificateDer::pem_slice_iter(CERTIFICATE.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key);
    Arc::new(config.unwrap())
}

/// A cluster that exports at once, and has ordered a value.
async fn cluster(mut environment: Environment) -> Cluster {
    environment.push(("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()));
    environment.push(("OTEL_METRIC_EXPORT_INTERVAL", "100".to_owned()));
    let cluster = Cluster::start_with(3, 1, 1, environment).await;
    cluster.client().put("key", "value").await.unwrap();
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_arrive_over_http_with_and_without_tls() {
    for (scheme, tls) in [("http", None), ("https", Some(tls()))] {
        let (collector, address) = HttpCollector::start(tls);
        let _cluster = cluster(vec![
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                format!("{scheme}://{address}/base"),
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf".to_owned()),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", CERTIFICATE_PATH.to_owned()),
        ])
        .await;
        until("a span arrives", async || {
            collector.has("/base/v1/traces", "acceptor.commit").then_some(())
        })
        .await;
        until("a metric arrives", async || {
            let metric = "paxos.acceptor.commit.duration";
            collector.has("/base/v1/metrics", metric).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_arrive_over_grpc_with_tls() {
    let collector = SpanCollector::start_with_tls(CERTIFICATE, KEY).await;
    let endpoint = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        format!("https://{}", collector.address),
    );
    let certificate = ("OTEL_EXPORTER_OTLP_CERTIFICATE", CERTIFICATE_PATH.to_owned());
    let trusting = cluster(vec![endpoint.clone(), certificate]).await;
    collector
        .span("a span arrives", |span| span.name == "acceptor.commit")
        .await;
    drop(trusting);
    // Without the certificate, the collector is not trusted, and nothing is sent.
    let wary = cluster(vec![endpoint]).await;
    until("the acceptor reports the collector", async || {
        let log = wary.acceptors[0].log();
        log.contains("the trace collector accepts no spans").then_some(())
    })
    .await;
}
