//! A collector: receives spans over OTLP like Jaeger, and shows spans as trees.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use crate::harness::{Environment, PATIENCE, until};

/// Time after which a trace is usually complete.
const SETTLED: Duration = Duration::from_secs(5);
/// Interval between looks at the spans.
const LOOK: Duration = Duration::from_millis(20);

/// Attributes by name, as text.
pub(crate) type Attributes = BTreeMap<String, String>;

/// A received span.
#[derive(Clone, Debug)]
pub(crate) struct SeenSpan {
    pub(crate) resource: Attributes,
    pub(crate) trace: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) parent: Vec<u8>,
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) attributes: Attributes,
    pub(crate) events: Vec<String>,
    /// Linked spans, by trace and id.
    pub(crate) links: Vec<(Vec<u8>, Vec<u8>)>,
    /// The error of a failed span.
    pub(crate) error: Option<String>,
}

impl SeenSpan {
    pub(crate) fn service(&self) -> &str {
        &self.resource["service.name"]
    }

    pub(crate) fn node(&self) -> &str {
        self.resource.get("paxos.node_id").map_or("", String::as_str)
    }

    pub(crate) fn key(&self) -> (Vec<u8>, Vec<u8>) {
        (self.trace.clone(), self.id.clone())
    }

    fn new(resource: &Attributes, span: Span) -> Self {
        let status = span.status.unwrap_or_default();
        Self {
            resource: resource.clone(),
            trace: span.trace_id,
            id: span.span_id,
            parent: span.parent_span_id,
            name: span.name,
            kind: match span.kind {
                2 => "server",
                3 => "client",
                _ => "internal",
            },
            began: span.start_time_unix_nano,
            ended: span.end_time_unix_nano,
            attributes: attributes(span.attributes),
            events: span.events.into_iter().map(|event| event.name).collect(),
            links: span
                .links
                .into_iter()
                .map(|link| (link.trace_id, link.span_id))
                .collect(),
            error: (status.code == StatusCode::Error as i32).then_some(status.message),
        }
    }
}

fn attributes(attributes: Vec<KeyValue>) -> Attributes {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => format!("{number:.3}"),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("no attribute of ours is {other:?}"),
    };
    attributes
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}

#[derive(Clone, Default)]
struct SpanInbox(Arc<Mutex<Vec<SeenSpan>>>);

#[tonic::async_trait]
impl TraceService for SpanInbox {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut inbox = self.0.lock().unwrap();
        for of_resource in request.into_inner().resource_spans {
            let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_spans {
                inbox.extend(
                    of_scope
                        .spans
                        .into_iter()
                        .map(|span| SeenSpan::new(&resource, span)),
                );
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A listening collector.
pub(crate) struct SpanCollector {
    pub(crate) address: SocketAddr,
    inbox: SpanInbox,
    serving: JoinHandle<()>,
}

impl SpanCollector {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(address, Server::builder()).await
    }

    /// A collector with TLS.
    pub(crate) async fn start_with_tls(certificate: &str, key: &str) -> Self {
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        let server = Server::builder().tls_config(tls).unwrap();
        Self::serve("127.0.0.1:0".parse().unwrap(), server).await
    }

    async fn serve(address: SocketAddr, mut server: Server) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inbox = SpanInbox::default();
        let service = TraceServiceServer::new(inbox.clone()).max_decoding_message_size(64 << 20);
        let serving = tokio::spawn(async move {
            server
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            inbox,
            serving,
        }
    }

    /// The environment of a process that exports here, and soon.
    pub(crate) fn environment(&self) -> Environment {
        environment(self.address)
    }

    /// All spans so far.
    pub(crate) fn spans(&self) -> Vec<SeenSpan> {
        self.inbox.0.lock().unwrap().clone()
    }

    /// Waits for a span.
    pub(crate) async fn span(&self, what: &str, is: impl Fn(&SeenSpan) -> bool) -> SeenSpan {
        until(what, async || self.spans().into_iter().find(&is)).await
    }

    /// Acts until a trace with a root span named `root` has this tree. A busy machine may need several attempts: the
    /// leader may step down meanwhile, and a read may find commands still to apply.
    pub(crate) async fn tree(&self, root: &str, expected: &str, act: impl AsyncFn()) -> Trace {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < PATIENCE {
            act().await;
            let acted = Instant::now();
            while acted.elapsed() < SETTLED {
                let spans = self.spans();
                let roots = spans
                    .iter()
                    .filter(|span| span.name == root && span.parent.is_empty());
                for root in roots {
                    let of_trace = spans.iter().filter(|span| span.trace == root.trace);
                    let trace = Trace(of_trace.cloned().collect());
                    last = trace.tree();
                    if last == expected {
                        return trace;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        panic!("no trace is as it should be; the last was\n{last}");
    }

    /// Waits until the trace with this root fulfils `is`. Returns the trace.
    pub(crate) async fn trace(&self, what: &str, root: &SeenSpan, is: impl Fn(&Trace) -> bool) -> Trace {
        until(what, async || {
            let trace = Trace(
                self.spans()
                    .into_iter()
                    .filter(|span| span.trace == root.trace)
                    .collect(),
            );
            is(&trace).then_some(trace)
        })
        .await
    }
}

impl Drop for SpanCollector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Exports to a collector at this address, and soon.
pub(crate) fn environment(address: SocketAddr) -> Environment {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
    ]
}

/// The spans of a trace.
#[derive(Debug)]
pub(crate) struct Trace(pub(crate) Vec<SeenSpan>);

impl Trace {
    /// The spans of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<&SeenSpan> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The only span of this name.
    pub(crate) fn only(&self, name: &str) -> &SeenSpan {
        let named = self.named(name);
        assert_eq!(named.len(), 1, "{name}: {named:?}");
        named[0]
    }

    pub(crate) fn children(&self, parent: &SeenSpan) -> Vec<&SeenSpan> {
        self.0.iter().filter(|span| span.parent == parent.id).collect()
    }

    pub(crate) fn parent(&self, span: &SeenSpan) -> Option<&SeenSpan> {
        self.0.iter().find(|other| other.id == span.parent)
    }

    /// The tree, a line for each span; equal subtrees are counted.
    pub(crate) fn tree(&self) -> String {
        let ids: BTreeSet<_> = self.0.iter().map(|span| &span.id).collect();
        let roots = self.0.iter().filter(|span| !ids.contains(&span.parent));
        let mut text = String::new();
        self.write(&mut text, 0, roots.collect());
        text
    }

    fn write(&self, text: &mut String, depth: usize, spans: Vec<&SeenSpan>) {
        let mut counted: BTreeMap<(String, String), usize> = BTreeMap::new();
        for span in spans {
            let mut below = String::new();
            self.write(&mut below, depth + 1, self.children(span));
            let error = if span.error.is_some() { " FAILED" } else { "" };
            let line = format!("{} [{} {}]{error}", span.name, span.service(), span.kind);
            *counted.entry((line, below)).or_default() += 1;
        }
        for ((line, below), count) in counted {
            let times = if count > 1 {
                format!(" x{count}")
            } else {
                String::new()
            };
            text.push_str(&format!("{}{line}{times}\n{below}", "  ".repeat(depth)));
        }
    }
}
