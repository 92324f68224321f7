//! Traces: the spans of this process, and the context that ties them to those of others.
//!
//! A span is made only where it will be exported: everything here is free, but for one branch, while nobody listens or a
//! trace is not sampled. Whoever sets up the exporter ([`crate::telemetry`] in our processes, the application around the
//! client library) decides what is sampled.

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use opentelemetry::{
    Context, KeyValue, Value,
    global::BoxedTracer,
    trace::{
        Link, Span as _, SpanBuilder, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
        Tracer as _,
    },
};

pub use opentelemetry::trace::{SpanContext, SpanId, SpanKind};

use crate::peer::Address;

/// Names of the spans and attributes that are not of the OpenTelemetry conventions, or are newer there than in crates.
pub mod names;

/// The name that this software gives its own spans' scope.
pub const SCOPE: &str = "paxos";

/// Tells the receiver that a request is not traced, and no more.
pub const UNSAMPLED: &str = "00-00000000000000000000000000000001-0000000000000001-00";

/// Bytes of a W3C trace context in its only version so far.
const TRACEPARENT_BYTES: usize = 55;

/// What a message says of the trace that it belongs to.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Incoming {
    /// Nothing, or what cannot be read: the receiver decides whether to begin a trace.
    #[default]
    Absent,
    /// Its sender has decided that it is not traced.
    Unsampled,
    /// It continues this span.
    Sampled(SpanContext),
}

impl Incoming {
    /// Reads a W3C `traceparent`. What is none counts as absent: a trace is no reason to refuse a request.
    pub fn read(traceparent: &[u8]) -> Self {
        // Most of them, where few are sampled; whatever else it says is of no use then.
        if traceparent.len() == TRACEPARENT_BYTES
            && traceparent.starts_with(b"00-")
            && traceparent.ends_with(b"-00")
        {
            return Self::Unsampled;
        }
        match parse(traceparent) {
            None => Self::Absent,
            Some(context) if context.is_sampled() => Self::Sampled(context),
            Some(_) => Self::Unsampled,
        }
    }

    /// The span to continue, if there is one.
    pub fn sampled(self) -> Option<SpanContext> {
        match self {
            Self::Sampled(context) => Some(context),
            Self::Absent | Self::Unsampled => None,
        }
    }
}

fn parse(traceparent: &[u8]) -> Option<SpanContext> {
    if traceparent.len() != TRACEPARENT_BYTES {
        return None;
    }
    let text = std::str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Digits are lower case by the specification.
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if version != "00" || !is_hex(trace, 32) || !is_hex(span, 16) || !is_hex(flags, 2) {
        return None;
    }
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(flags),
        true,
        TraceState::NONE,
    );
    context.is_valid().then_some(context)
}

/// The W3C `traceparent` of a span; empty for a span that is none.
pub fn traceparent(context: &SpanContext) -> String {
    if !context.is_valid() {
        return String::new();
    }
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    )
}

/// A sampled context as it travels with a value.
pub fn travelling(context: &SpanContext) -> Bytes {
    Bytes::from(traceparent(context))
}

/// Where a span belongs.
#[derive(Clone, Debug)]
pub enum Parent<'a> {
    /// It begins a trace, if that is sampled.
    None,
    /// It continues a span of a trace that is sampled.
    Span(&'a SpanContext),
}

/// A span to be.
#[derive(Clone, Debug)]
#[must_use]
pub struct Beginning<'a> {
    name: Cow<'static, str>,
    kind: SpanKind,
    parent: Parent<'a>,
    at: Option<SystemTime>,
    id: Option<SpanId>,
    links: Vec<Link>,
    method: Option<&'static str>,
}

impl<'a> Beginning<'a> {
    /// A span of this name below `parent`, internal, from now on.
    pub fn new(name: impl Into<Cow<'static, str>>, parent: Parent<'a>) -> Self {
        Self {
            name: name.into(),
            kind: SpanKind::Internal,
            parent,
            at: None,
            id: None,
            links: Vec::new(),
            method: None,
        }
    }

    /// Another kind.
    pub fn kind(self, kind: SpanKind) -> Self {
        Self { kind, ..self }
    }

    /// A call of ours; `method` is `SERVICE/METHOD`.
    pub fn calling(self, method: &'static str) -> Self {
        self.kind(SpanKind::Client).described_as(method)
    }

    fn described_as(self, method: &'static str) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// It began earlier.
    pub fn since(self, at: SystemTime) -> Self {
        Self { at: Some(at), ..self }
    }

    /// It has this id, which was drawn before with [`Tracer::draw`] and was told to others.
    pub fn known_as(self, id: SpanId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// It has to do with these spans, too.
    pub fn linked_to(mut self, spans: impl IntoIterator<Item = SpanContext>) -> Self {
        self.links
            .extend(spans.into_iter().map(|span| Link::new(span, Vec::new(), 0)));
        self
    }
}

/// Decides which requests that their callers have sampled are traced here.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Whether one more is.
    fn admits(&self) -> bool;
}

/// Makes the spans of one role. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Made>>);

#[derive(Debug)]
struct Made {
    tracer: BoxedTracer,
    clients: Box<dyn Admission>,
    peers: Box<dyn Admission>,
    /// Requests that were not admitted.
    refused: AtomicU64,
}

impl Tracer {
    /// Makes none.
    pub fn off() -> Self {
        Self(None)
    }

    /// Makes spans with this tracer. A request that its caller has sampled is traced if `clients` admits the request, or
    /// `peers` for methods that roles call at each other.
    pub fn new(tracer: BoxedTracer, clients: Box<dyn Admission>, peers: Box<dyn Admission>) -> Self {
        Self(Some(Arc::new(Made {
            tracer,
            clients,
            peers,
            refused: AtomicU64::new(0),
        })))
    }

    /// Requests so far that their callers had sampled, and that are not traced here.
    pub fn refused(&self) -> u64 {
        let refused = self.0.as_ref().map(|made| made.refused.load(Ordering::Relaxed));
        refused.unwrap_or_default()
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span; none when nobody listens or its trace is not sampled.
    pub fn begin(&self, beginning: Beginning<'_>) -> Option<Span> {
        let tracer = &self.0.as_ref()?.tracer;
        let context = match beginning.parent {
            Parent::None => Context::new(),
            Parent::Span(parent) => Context::new().with_remote_span_context(parent.clone()),
        };
        let builder = SpanBuilder {
            name: beginning.name,
            span_kind: Some(beginning.kind),
            start_time: beginning.at,
            links: (!beginning.links.is_empty()).then_some(beginning.links),
            ..SpanBuilder::default()
        };
        let span = with_id(beginning.id, || tracer.build_with_context(builder, &context));
        // Sampling is decided: what is not recorded costs nothing further.
        let mut span = span.is_recording().then_some(Span(span))?;
        if let Some(method) = beginning.method {
            span.set(names::RPC_SYSTEM, "grpc");
            span.set(names::RPC_METHOD, method);
        }
        Some(span)
    }

    /// Begins an internal span below another, if there is one.
    pub fn below(&self, parent: Option<&SpanContext>, name: &'static str) -> Option<Span> {
        self.begin(Beginning::new(name, Parent::Span(parent?)))
    }

    /// Begins the span of a call of ours below another span, if there is one. `method` is `SERVICE/METHOD`.
    pub fn call(&self, parent: Option<&SpanContext>, method: &'static str) -> Option<Span> {
        self.begin(Beginning::new(method, Parent::Span(parent?)).calling(method))
    }

    /// Begins the span of a request that came in: continues what its sender began, or begins a trace when it said
    /// nothing of one. `method` is `SERVICE/METHOD`. A request beyond the rate at which callers may have requests sampled
    /// counts as not sampled.
    pub fn serve(&self, incoming: &Incoming, method: &'static str) -> Option<Span> {
        let made = self.0.as_ref()?;
        let parent = match incoming {
            Incoming::Unsampled => return None,
            Incoming::Absent => Parent::None,
            Incoming::Sampled(context) => {
                let admission = if names::method::OF_PEERS.contains(&method) {
                    &made.peers
                } else {
                    &made.clients
                };
                if !admission.admits() {
                    made.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Parent::Span(context)
            }
        };
        let beginning = Beginning::new(method, parent).kind(SpanKind::Server);
        self.begin(beginning.described_as(method))
    }

    /// Draws the context of a span that will begin later, in the same trace as `parent`, so that it can be told to
    /// others before; none when nobody listens.
    pub fn draw(&self, parent: &SpanContext) -> Option<SpanContext> {
        self.0.as_ref()?;
        Some(SpanContext::new(
            parent.trace_id(),
            // Zero is the one id that is none.
            SpanId::from(rand::random::<u64>().max(1)),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ))
    }
}

/// What time it is, for spans that begin before they are made.
pub fn now() -> SystemTime {
    opentelemetry::time::now()
}

/// A span that is exported when it ends, which is when it is dropped at the latest.
#[derive(Debug)]
pub struct Span(opentelemetry::global::BoxedSpan);

impl Span {
    /// Who it is.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// As it is told to others.
    pub fn traceparent(&self) -> String {
        traceparent(self.context())
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Adds an unsigned number; one beyond what an attribute holds is told as the largest that it holds.
    pub fn count(&mut self, key: &'static str, number: impl TryInto<i64>) {
        self.set(key, number.try_into().unwrap_or(i64::MAX));
    }

    /// Something happened.
    pub fn event(&mut self, name: &'static str) {
        self.0.add_event(name, Vec::new());
    }

    /// It has to do with this span, too.
    pub fn link(&mut self, span: SpanContext) {
        self.0.add_link(span, Vec::new());
    }

    /// It failed: `kind` is one of few words, `reason` is for people.
    pub fn fail(&mut self, kind: &'static str, reason: impl Into<Cow<'static, str>>) {
        self.set(names::ERROR_TYPE, kind);
        self.0.set_status(Status::error(reason));
    }

    /// A call came to this: the gRPC status, its failure included.
    pub fn answered(&mut self, code: tonic::Code, message: &str) {
        let name = code_name(code);
        let (trace_id, span_id) = (self.context().trace_id(), self.context().span_id());
        tracing::debug!(%trace_id, %span_id, code = name, message, "call answered");
        self.set(names::RPC_STATUS_CODE, name);
        if code != tonic::Code::Ok {
            self.fail(name, message.to_owned());
        }
    }

    /// Ends it now.
    pub fn end(mut self) {
        self.0.end();
    }

    /// For log events inside it: they then carry its ids.
    pub fn log_span(&self) -> tracing::Span {
        let (trace_id, span_id) = (self.context().trace_id(), self.context().span_id());
        tracing::error_span!("traced", %trace_id, %span_id)
    }

    /// The process on the other side.
    pub fn peer(&mut self, address: &Address) {
        for attribute in names::peer(address) {
            self.0.set_attribute(attribute);
        }
    }
}

/// A gRPC status code as the conventions write it.
pub fn code_name(code: tonic::Code) -> &'static str {
    match code {
        tonic::Code::Ok => "OK",
        tonic::Code::Cancelled => "CANCELLED",
        tonic::Code::Unknown => "UNKNOWN",
        tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
        tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        tonic::Code::NotFound => "NOT_FOUND",
        tonic::Code::AlreadyExists => "ALREADY_EXISTS",
        tonic::Code::PermissionDenied => "PERMISSION_DENIED",
        tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
        tonic::Code::Aborted => "ABORTED",
        tonic::Code::OutOfRange => "OUT_OF_RANGE",
        tonic::Code::Unimplemented => "UNIMPLEMENTED",
        tonic::Code::Internal => "INTERNAL",
        tonic::Code::Unavailable => "UNAVAILABLE",
        tonic::Code::DataLoss => "DATA_LOSS",
        tonic::Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Tells the receiver of a call which span it belongs to, in its metadata.
pub fn inject<T>(request: &mut tonic::Request<T>, context: Option<&SpanContext>) {
    let text = context.map(traceparent).unwrap_or_default();
    if let Ok(value) = tonic::metadata::MetadataValue::from_str(&text)
        && !text.is_empty()
    {
        request.metadata_mut().insert(names::TRACEPARENT, value);
    }
}

thread_local! {
    static NEXT_ID: Cell<Option<SpanId>> = const { Cell::new(None) };
}

/// Has the next span of this thread get `id`, if its tracer asks [`known_id`].
fn with_id<T>(id: Option<SpanId>, make: impl FnOnce() -> T) -> T {
    NEXT_ID.set(id);
    let made = make();
    NEXT_ID.set(None);
    made
}

/// The id that the span must get which is being made, if others know it already; for an `IdGenerator`.
pub fn known_id() -> Option<SpanId> {
    NEXT_ID.take()
}

#[cfg(test)]
mod tests;
