//! Traces: the spans of this process, and the trace context that links them to spans of other processes.
//!
//! Only exported spans are made. Without an exporter or without sampling, the cost is one branch. The owner of the
//! exporter decides about sampling: `service::telemetry` in our processes, the application around the client library.

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

/// Names of spans and attributes: our own, and OpenTelemetry conventions newer than the crates.
pub mod names;

/// Instrumentation scope of this software's own spans.
pub const SCOPE: &str = "paxos";

/// A `traceparent` that marks a request as not traced, and carries nothing more.
pub const UNSAMPLED: &str = "00-00000000000000000000000000000001-0000000000000001-00";

/// Length in bytes of a W3C trace context, in its only version so far.
const TRACEPARENT_BYTES: usize = 55;

/// The trace context of a received message.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Incoming {
    /// No readable context: the receiver decides whether to begin a trace.
    #[default]
    Absent,
    /// The sender has decided against a trace.
    Unsampled,
    /// The message continues this span.
    Sampled(SpanContext),
}

impl Incoming {
    /// Reads a W3C `traceparent`. An invalid text counts as absent: a trace is no reason to refuse a request.
    pub fn read(traceparent: &[u8]) -> Self {
        // The usual case where few requests are sampled. The other fields have no use then.
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

    /// The span to continue, if any.
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

/// The W3C `traceparent` of a span; empty for an invalid context.
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

/// The encoding of a sampled context that travels with a value.
pub fn travelling(context: &SpanContext) -> Bytes {
    Bytes::from(traceparent(context))
}

/// The parent of a new span.
#[derive(Clone, Debug)]
pub enum Parent<'a> {
    /// No parent: the span begins a trace, if the trace is sampled.
    None,
    /// The span continues this span of a sampled trace.
    Span(&'a SpanContext),
}

/// Description of a span to begin.
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
    /// An internal span with this name below `parent`, starting now.
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

    /// Sets another kind.
    pub fn kind(self, kind: SpanKind) -> Self {
        Self { kind, ..self }
    }

    /// Describes an outgoing call; `method` is `SERVICE/METHOD`.
    pub fn calling(self, method: &'static str) -> Self {
        self.kind(SpanKind::Client).described_as(method)
    }

    fn described_as(self, method: &'static str) -> Self {
        Self {
            method: Some(method),
            ..self
        }
    }

    /// Sets an earlier start.
    pub fn since(self, at: SystemTime) -> Self {
        Self { at: Some(at), ..self }
    }

    /// Sets the id: drawn before with [`Tracer::draw`] and already sent to other processes.
    pub fn known_as(self, id: SpanId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Links related spans.
    pub fn linked_to(mut self, spans: impl IntoIterator<Item = SpanContext>) -> Self {
        self.links
            .extend(spans.into_iter().map(|span| Link::new(span, Vec::new(), 0)));
        self
    }
}

/// Limits how many of the requests sampled by their callers are traced here.
pub trait Admission: fmt::Debug + Send + Sync {
    /// Whether one more request is traced.
    fn admits(&self) -> bool;
}

/// Makes the spans of one role. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Made>>);

#[derive(Debug)]
struct Made {
    tracer: BoxedTracer,
    callers: Box<dyn Admission>,
    leaders: Box<dyn Admission>,
    /// Requests that were not admitted.
    refused: AtomicU64,
}

impl Tracer {
    /// A tracer that makes no spans.
    pub fn off() -> Self {
        Self(None)
    }

    /// Makes spans with this tracer. A request sampled by its caller is traced if `callers` admits the request; a
    /// leader's request for votes, if `leaders` admits the request.
    pub fn new(tracer: BoxedTracer, callers: Box<dyn Admission>, leaders: Box<dyn Admission>) -> Self {
        Self(Some(Arc::new(Made {
            tracer,
            callers,
            leaders,
            refused: AtomicU64::new(0),
        })))
    }

    /// Number of requests so far that were sampled by their callers but not traced here.
    pub fn refused(&self) -> u64 {
        let refused = self.0.as_ref().map(|made| made.refused.load(Ordering::Relaxed));
        refused.unwrap_or_default()
    }

    /// Whether an exporter is set up.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a span; none without an exporter, or in an unsampled trace.
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
        // Sampling is decided: an unrecorded span costs nothing further.
        let mut span = span.is_recording().then_some(Span(span))?;
        if let Some(method) = beginning.method {
            span.set(names::RPC_SYSTEM, "grpc");
            span.set(names::RPC_METHOD, method);
        }
        Some(span)
    }

    /// Begins an internal span below `parent`, if there is a parent.
    pub fn below(&self, parent: Option<&SpanContext>, name: &'static str) -> Option<Span> {
        self.begin(Beginning::new(name, Parent::Span(parent?)))
    }

    /// Begins the span of an outgoing call below `parent`, if there is a parent. `method` is `SERVICE/METHOD`.
    pub fn call(&self, parent: Option<&SpanContext>, method: &'static str) -> Option<Span> {
        self.begin(Beginning::new(method, Parent::Span(parent?)).calling(method))
    }

    /// Begins the span of a received request: continues the sender's span, or begins a trace if the message has no
    /// context. `method` is `SERVICE/METHOD`. A request beyond the rate at which callers may have requests sampled
    /// counts as not sampled.
    pub fn serve(&self, incoming: &Incoming, method: &'static str) -> Option<Span> {
        self.serve_if(incoming, method, |made| &*made.callers)
    }

    /// The same for a request of the leader, with the leader's own rate: a flood of other requests takes no trace from
    /// proposals.
    pub fn serve_leader(&self, incoming: &Incoming, method: &'static str) -> Option<Span> {
        self.serve_if(incoming, method, |made| &*made.leaders)
    }

    fn serve_if(
        &self,
        incoming: &Incoming,
        method: &'static str,
        admission: impl FnOnce(&Made) -> &dyn Admission,
    ) -> Option<Span> {
        let made = self.0.as_ref()?;
        let parent = match incoming {
            Incoming::Unsampled => return None,
            Incoming::Absent => Parent::None,
            Incoming::Sampled(context) => {
                if !admission(made).admits() {
                    made.refused.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
                Parent::Span(context)
            }
        };
        let beginning = Beginning::new(method, parent).kind(SpanKind::Server);
        self.begin(beginning.described_as(method))
    }

    /// Draws the context of a later span in the same trace as `parent`, so that other processes can get this context
    /// before the span begins; none without an exporter.
    pub fn draw(&self, parent: &SpanContext) -> Option<SpanContext> {
        self.0.as_ref()?;
        Some(SpanContext::new(
            parent.trace_id(),
            // Zero is the invalid id.
            SpanId::from(rand::random::<u64>().max(1)),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ))
    }
}

/// The current time, for spans that are made after their start.
pub fn now() -> SystemTime {
    opentelemetry::time::now()
}

/// A span, exported at its end: at the latest when the value is dropped.
#[derive(Debug)]
pub struct Span(opentelemetry::global::BoxedSpan);

impl Span {
    /// The span's trace context.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// The span's W3C `traceparent`, for other processes.
    pub fn traceparent(&self) -> String {
        traceparent(self.context())
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Adds an unsigned number. A number too large for an attribute becomes the largest possible value.
    pub fn count(&mut self, key: &'static str, number: impl TryInto<i64>) {
        self.set(key, number.try_into().unwrap_or(i64::MAX));
    }

    /// Adds an event.
    pub fn event(&mut self, name: &'static str) {
        self.0.add_event(name, Vec::new());
    }

    /// Links a related span.
    pub fn link(&mut self, span: SpanContext) {
        self.0.add_link(span, Vec::new());
    }

    /// Marks the span as failed: `kind` is one of few words, `reason` is for people.
    pub fn fail(&mut self, kind: &'static str, reason: impl Into<Cow<'static, str>>) {
        self.set(names::ERROR_TYPE, kind);
        self.0.set_status(Status::error(reason));
    }

    /// Records the gRPC status of the call, and the failure if the status is not OK.
    pub fn answered(&mut self, code: tonic::Code, message: &str) {
        let name = code_name(code);
        let (trace_id, span_id) = (self.context().trace_id(), self.context().span_id());
        tracing::debug!(%trace_id, %span_id, code = name, message, "call answered");
        self.set(names::RPC_STATUS_CODE, name);
        if code != tonic::Code::Ok {
            self.fail(name, message.to_owned());
        }
    }

    /// Ends the span now.
    pub fn end(mut self) {
        self.0.end();
    }

    /// A log span with this span's ids, for log events inside this span.
    pub fn log_span(&self) -> tracing::Span {
        let (trace_id, span_id) = (self.context().trace_id(), self.context().span_id());
        tracing::error_span!("traced", %trace_id, %span_id)
    }

    /// Sets the attributes of the process on the other side.
    pub fn peer(&mut self, address: &Address) {
        for attribute in names::peer(address) {
            self.0.set_attribute(attribute);
        }
    }
}

/// A gRPC status code, spelled as in the OpenTelemetry conventions.
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

/// Adds the trace context to a call's metadata, for the receiver.
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

/// Gives `id` to the next span of this thread, if its tracer asks [`known_id`].
fn with_id<T>(id: Option<SpanId>, make: impl FnOnce() -> T) -> T {
    NEXT_ID.set(id);
    let made = make();
    NEXT_ID.set(None);
    made
}

/// The id of the span that is being made, if other processes know this id already; for an `IdGenerator`.
pub fn known_id() -> Option<SpanId> {
    NEXT_ID.take()
}

#[cfg(test)]
mod tests;
