//! Spans of the application's operations, and of the calls behind each operation.
//!
//! The spans go to the application's own destination: the global tracer provider of the `opentelemetry` crate, as set
//! when the [`Client`](crate::Client) was made. The parent is the span that is current at the call. Without a provider,
//! nothing is recorded and nothing is sent to the cluster.

use std::{fmt, sync::Arc};

use opentelemetry::{
    Context,
    context::FutureExt as _,
    global::{self, BoxedTracer},
    trace::{SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _},
};
use paxos_common::{
    peer::Address,
    trace::{self, SCOPE, UNSAMPLED, names},
};
use tonic::{Code, Request};

/// Makes the spans of a client. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tracer(Arc<BoxedTracer>);

impl Tracer {
    /// The tracer of the global provider.
    pub(crate) fn global() -> Self {
        Self(Arc::new(global::tracer(SCOPE)))
    }

    /// Runs an operation of the application inside a new span.
    pub(crate) async fn operation<T, E: fmt::Display>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let span = self.0.build(SpanBuilder::from_name(name));
        let context = Context::current_with_span(span);
        let result = work.with_context(context.clone()).await;
        if let Err(error) = &result
            && context.span().is_recording()
        {
            context.span().set_status(Status::error(error.to_string()));
        }
        context.span().end();
        result
    }

    /// Begins a call, inside an operation.
    pub(crate) fn call(&self, method: &'static str) -> CallSpan {
        let current = Context::current();
        if current.has_active_span() && !current.span().span_context().is_sampled() {
            // The trace has decided against recording: only the decision is passed on.
            return CallSpan {
                context: current,
                is_own: false,
            };
        }
        let builder = SpanBuilder::from_name(method).with_kind(SpanKind::Client);
        let context = current.with_span(self.0.build(builder));
        let span = context.span();
        if span.is_recording() {
            span.set_attribute(names::attribute(names::RPC_SYSTEM, "grpc"));
            span.set_attribute(names::attribute(names::RPC_METHOD, method));
        }
        CallSpan {
            context,
            is_own: true,
        }
    }
}

/// A call of this library; the span ends on drop.
#[derive(Debug)]
pub(crate) struct CallSpan {
    context: Context,
    /// Whether the span of the context belongs to this call.
    is_own: bool,
}

impl CallSpan {
    /// Records the destination of the call.
    pub(crate) fn to(&self, address: &Address) {
        if self.is_recording() {
            for attribute in names::peer(address) {
                self.context.span().set_attribute(attribute);
            }
        }
    }

    fn is_recording(&self) -> bool {
        self.is_own && self.context.span().is_recording()
    }

    /// The trace context for the peer; empty when the application traces nothing. An unsampled call says so, for the
    /// whole trace.
    pub(crate) fn traceparent(&self) -> String {
        let span = self.context.span();
        let context = span.span_context();
        match (context.is_valid(), context.is_sampled()) {
            (false, _) => String::new(),
            (true, false) => UNSAMPLED.to_owned(),
            (true, true) => trace::traceparent(context),
        }
    }

    /// Adds the same context to metadata.
    pub(crate) fn inject<T>(&self, request: &mut Request<T>) {
        trace::inject(request, self.context().as_ref());
    }

    pub(crate) fn context(&self) -> Option<SpanContext> {
        let context = self.context.span().span_context().clone();
        context.is_valid().then_some(context)
    }

    /// Records the result of the call.
    pub(crate) fn answered(&self, code: Code, message: &str) {
        let span = self.context.span();
        if self.is_recording() {
            let name = trace::code_name(code);
            span.set_attribute(names::attribute(names::RPC_STATUS_CODE, name));
            if code != Code::Ok {
                span.set_attribute(names::attribute(names::ERROR_TYPE, name));
                span.set_status(Status::error(message.to_owned()));
            }
        }
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if self.is_own {
            self.context.span().end();
        }
    }
}
