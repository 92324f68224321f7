//! Measures the duration of calls by method and code, and counts the open calls.
//!
//! The code is the code of the answer. Two endings have no answer code. Leaving an opened stream is the client's usual
//! way to end the stream: OK. Leaving before any answer gives up the call: CANCELLED.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use opentelemetry::KeyValue;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{
    Code, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
};

use super::observed::{AnswerObserver, observed};
use crate::{
    service::metrics::{Durations, Metrics},
    trace::names::{RPC_METHOD, RPC_STATUS_CODE, RPC_SYSTEM},
};

/// Label of all methods without their own label.
const OTHER: &str = "_OTHER";
/// The health service, part of every role.
const HEALTH: &str = "grpc.health.v1.Health/";
/// Names of the codes of gRPC, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The instruments of calls: none without metrics.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured(Option<Arc<Instruments>>);

#[derive(Debug)]
struct Instruments {
    durations: Durations,
    /// Methods by path.
    methods: HashMap<String, Arc<Method>>,
    other: Arc<Method>,
}

/// One method, or all unknown methods.
struct Method {
    name: KeyValue,
    /// Whether the answer is a stream, which lasts until the client leaves.
    is_stream: bool,
    /// Calls whose answer is not complete.
    open: AtomicI64,
    /// Labels by code; made in advance, so that calls make none.
    labels: [[KeyValue; 3]; CODES.len()],
}

impl fmt::Debug for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Method").field(&self.name).finish()
    }
}

impl Method {
    fn new(name: String, is_stream: bool) -> Arc<Self> {
        let name: Arc<str> = name.into();
        let name = KeyValue::new(RPC_METHOD, name);
        let labels = CODES.map(|code| {
            [
                KeyValue::new(RPC_SYSTEM, "grpc"),
                name.clone(),
                KeyValue::new(RPC_STATUS_CODE, code),
            ]
        });
        Arc::new(Self {
            name,
            is_stream,
            open: AtomicI64::new(0),
            labels,
        })
    }
}

impl Measured {
    /// Distinguishes the methods of `service` and of the health service.
    pub(super) fn by(metrics: &Metrics, service: &str) -> Self {
        let durations = metrics.durations(
            "rpc.server.call.duration",
            "Time from the start of a call to the end of the answer; long for a stream",
        );
        let methods: HashMap<_, _> = methods()
            .filter(|(name, _)| [service, HEALTH].into_iter().any(|known| name.starts_with(known)))
            .map(|(name, is_stream)| (format!("/{name}"), Method::new(name, is_stream)))
            .collect();
        let other = Method::new(OTHER.to_owned(), false);
        let mut read: Vec<_> = methods.values().chain([&other]).cloned().collect();
        read.sort_by_key(|method| method.name.value.to_string());
        metrics.observe(
            "paxos.rpc.open_calls",
            "",
            "Calls without a complete answer; streams stay open for a long time",
            move || {
                let open = |method: &Arc<Method>| {
                    let open = method.open.load(Ordering::Relaxed);
                    ([method.name.clone()], u64::try_from(open).unwrap_or(0))
                };
                read.iter().map(open).collect::<Vec<_>>()
            },
        );
        Self(Some(Arc::new(Instruments {
            durations,
            methods,
            other,
        })))
    }

    pub(super) fn around<S>(self, services: S) -> Calls<S> {
        Calls {
            services,
            measured: self,
        }
    }

    fn open(&self, path: &str) -> Option<MeasuredCall> {
        let instruments = Arc::clone(self.0.as_ref()?);
        let method = instruments.methods.get(path).unwrap_or(&instruments.other);
        let method = Arc::clone(method);
        method.open.fetch_add(1, Ordering::Relaxed);
        Some(MeasuredCall {
            instruments,
            method,
            begun: Instant::now(),
            is_opened: false,
            code: None,
        })
    }
}

/// The methods of our services and of the health service, as `package.Service/Method`, and whether the answer is a
/// stream.
fn methods() -> impl Iterator<Item = (String, bool)> {
    [
        paxos_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
    ]
    .into_iter()
    .flat_map(|set| FileDescriptorSet::decode(set).unwrap_or_default().file)
    .flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("{package}.{}", service.name());
            let named = move |method: prost_types::MethodDescriptorProto| {
                (format!("{name}/{}", method.name()), method.server_streaming())
            };
            service.method.into_iter().map(named)
        })
    })
}

/// A call during its answer. Dropping this value records the call.
#[derive(Debug)]
struct MeasuredCall {
    instruments: Arc<Instruments>,
    method: Arc<Method>,
    begun: Instant,
    /// The head of the answer has arrived.
    is_opened: bool,
    code: Option<usize>,
}

impl AnswerObserver for MeasuredCall {
    fn headers(&mut self, headers: &http::HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()) as usize);
        }
    }

    fn failed(&mut self, status: &Status) {
        self.code = Some(status.code() as usize);
    }

    /// An answer without a code is judged when this value is dropped.
    fn ended(&mut self) {}
}

impl Drop for MeasuredCall {
    fn drop(&mut self) {
        self.method.open.fetch_sub(1, Ordering::Relaxed);
        let left = if self.method.is_stream && self.is_opened {
            Code::Ok
        } else {
            Code::Cancelled
        };
        let code = self.code.unwrap_or(left as usize);
        if let Some(labels) = self.method.labels.get(code) {
            self.instruments
                .durations
                .record_with(self.begun.elapsed(), labels);
        }
    }
}

/// A role's services, measured.
#[derive(Clone, Debug)]
pub(super) struct Calls<S> {
    services: S,
    measured: Measured,
}

impl<S> Service<http::Request<Body>> for Calls<S>
where
    S: Service<
            http::Request<Body>,
            Response = http::Response<Body>,
            Error = Infallible,
            Future = BoxFuture<http::Response<Body>, Infallible>,
        >,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let open = self.measured.open(request.uri().path());
        Answering {
            answer: self.services.call(request),
            open,
        }
    }
}

/// A call before the head of the answer.
pub(super) struct Answering {
    answer: BoxFuture<http::Response<Body>, Infallible>,
    open: Option<MeasuredCall>,
}

impl Future for Answering {
    type Output = Result<http::Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = self.answer.as_mut().poll(context)? else {
            return Poll::Pending;
        };
        let Some(mut open) = self.open.take() else {
            return Poll::Ready(Ok(answer));
        };
        open.is_opened = true;
        Poll::Ready(Ok(observed(answer, open)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_timed_by_method_and_code() {
        let metrics = Metrics::unread();
        let measured = Measured::by(&metrics, "paxos.v1.Learner/");
        let begin = |path: &str| measured.open(path).unwrap();
        begin("/paxos.v1.Learner/Read").code = Some(Code::Ok as usize);
        drop(begin("/paxos.v1.Learner/Read"));
        drop((begin("/a/b"), begin("/c/d")));
        let _watching = begin("/paxos.v1.Learner/Watch");
        drop(begin("/paxos.v1.Learner/Subscribe"));
        begin("/paxos.v1.Learner/Subscribe").is_opened = true;
        let mut failed = begin("/paxos.v1.Learner/Subscribe");
        (failed.is_opened, failed.code) = (true, Some(Code::Unavailable as usize));
        drop(failed);
        let text = metrics.text().unwrap();
        let label = |method: &str, code: &str| {
            format!(
                "rpc_server_call_duration_seconds_count{{rpc_method=\"{method}\",rpc_response_status_code=\"{code}\",\
                 rpc_system_name=\"grpc\"}}"
            )
        };
        for line in [
            label("paxos.v1.Learner/Read", "OK") + " 1",
            label("paxos.v1.Learner/Read", "CANCELLED") + " 1",
            label(OTHER, "CANCELLED") + " 2",
            label("paxos.v1.Learner/Subscribe", "CANCELLED") + " 1",
            label("paxos.v1.Learner/Subscribe", "OK") + " 1",
            label("paxos.v1.Learner/Subscribe", "UNAVAILABLE") + " 1",
            "paxos_rpc_open_calls{rpc_method=\"paxos.v1.Learner/Watch\"} 1".to_owned(),
            "paxos_rpc_open_calls{rpc_method=\"paxos.v1.Learner/Read\"} 0".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is missing in:\n{text}");
        }
    }
}
