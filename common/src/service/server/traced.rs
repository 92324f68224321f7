//! Spans of single requests: continues the trace in the caller's metadata, or begins a trace.
//!
//! Requests on long streams carry contexts inside the messages, and the services make the spans.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use tonic::{
    Code, Extensions, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
};
use tracing::Instrument as _;

use super::observed::{AnswerObserver, observed};
use crate::trace::{
    Incoming, Span, SpanContext, Tracer,
    names::{TRACEPARENT, method},
};

/// The methods with a single request per call.
const METHODS: [&str; 6] = [
    method::PROPOSE,
    method::FILL,
    method::READ,
    method::RESULT,
    method::TAIL,
    method::PREPARE,
];

/// The span of a request, for the handler.
#[derive(Clone, Debug)]
struct Received(SpanContext);

/// The span of the request in this process; none for an untraced request.
pub fn received(extensions: &Extensions) -> Option<&SpanContext> {
    extensions.get::<Received>().map(|Received(context)| context)
}

/// Services with traced requests. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Traced<S> {
    services: S,
    tracer: Tracer,
}

impl<S> Traced<S> {
    pub(super) fn new(services: S, tracer: Tracer) -> Self {
        Self { services, tracer }
    }
}

impl<S> Service<http::Request<Body>> for Traced<S>
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
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(span) = self.begin(&request) else {
            return self.services.call(request);
        };
        request.extensions_mut().insert(Received(span.context().clone()));
        let log = span.log_span();
        let answering = self.services.call(request).instrument(log);
        Box::pin(async move {
            let span = ResultSpan(Some(span));
            Ok(observed(answering.await?, span))
        })
    }
}

impl<S> Traced<S> {
    fn begin(&self, request: &http::Request<Body>) -> Option<Span> {
        if !self.tracer.is_on() {
            return None;
        }
        let path = request.uri().path().strip_prefix('/')?;
        let method = METHODS.into_iter().find(|&method| method == path)?;
        let traceparent = request.headers().get(TRACEPARENT);
        let incoming = traceparent.map_or(Incoming::Absent, |value| Incoming::read(value.as_bytes()));
        self.tracer.serve(&incoming, method)
    }
}

/// A span that ends with the result of the request.
struct ResultSpan(Option<Span>);

impl ResultSpan {
    fn end(&mut self, code: Code, message: &str) {
        if let Some(mut span) = self.0.take() {
            span.answered(code, message);
            span.end();
        }
    }
}

impl AnswerObserver for ResultSpan {
    fn headers(&mut self, headers: &http::HeaderMap) {
        if let Some(status) = Status::from_header_map(headers) {
            self.end(status.code(), status.message());
        }
    }

    fn failed(&mut self, status: &Status) {
        self.end(status.code(), status.message());
    }

    fn ended(&mut self) {
        self.end(Code::Ok, "");
    }
}

impl Drop for ResultSpan {
    fn drop(&mut self) {
        self.end(Code::Cancelled, "the caller left before the answer");
    }
}
