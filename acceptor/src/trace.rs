//! Spans of the worker's work: each message of a leader from arrival to answer, and the commits shared by messages.

use std::time::Instant;

use paxos_common::{
    paxos::{
        acceptor::Group,
        message::{Accept, AcceptAnswer},
    },
    trace::{
        Beginning, Incoming, Parent, Span, SpanContext, Tracer,
        names::{self, method},
    },
};

/// A leader's message in the worker, if the message is traced.
#[derive(Debug, Default)]
pub(crate) struct MessageTrace(Option<(Span, Instant)>);

impl MessageTrace {
    /// A message arrived; `traceparent` is the message's trace context, empty most of the time. `of_leader`: the sender
    /// is the heard proposer.
    pub(crate) fn begin(tracer: &Tracer, traceparent: &str, accept: &Accept, of_leader: bool) -> Self {
        if traceparent.is_empty() {
            return Self(None);
        }
        let Incoming::Sampled(parent) = Incoming::read(traceparent.as_bytes()) else {
            return Self(None);
        };
        let parent = Incoming::Sampled(parent);
        let begun = if of_leader {
            tracer.serve_leader(&parent, method::ACCEPT)
        } else {
            tracer.serve(&parent, method::ACCEPT)
        };
        let Some(mut span) = begun else {
            return Self(None);
        };
        span.set(names::BALLOT, accept.ballot.to_string());
        if let Some((slot, _)) = accept.proposals.first() {
            span.count(names::SLOT, slot.get());
        }
        span.count(names::SLOTS, accept.proposals.len());
        Self(Some((span, Instant::now())))
    }

    /// The worker takes the message out of its queue.
    pub(crate) fn taken(&mut self) {
        if let Some((span, queued_at)) = &mut self.0 {
            span.set(names::QUEUED_MS, queued_at.elapsed().as_secs_f64() * 1e3);
        }
    }

    /// Context of the message's span.
    pub(crate) fn context(&self) -> Option<SpanContext> {
        self.0.as_ref().map(|(span, _)| span.context().clone())
    }

    /// The message is answered.
    pub(crate) fn answered(self, answer: &AcceptAnswer) {
        if let Some((mut span, _)) = self.0 {
            let (word, is_granted) = (answer.word(), answer.is_accepted());
            span.set(names::ANSWER, word);
            span.answered(tonic::Code::Ok, "");
            if !is_granted {
                span.fail(word, "");
            }
            span.end();
        }
    }
}

/// Begins the span of a commit for the traced requests among `requests` requests: below the first, linked to the rest.
/// None without a traced request.
pub(crate) fn commit(
    tracer: &Tracer,
    traced: &mut Vec<SpanContext>,
    group: &Group,
    requests: usize,
) -> Option<Span> {
    let mut traced = traced.drain(..);
    let first = traced.next()?;
    let beginning = Beginning::new("acceptor.commit", Parent::Span(&first)).linked_to(traced);
    let mut span = tracer.begin(beginning)?;
    let rows = group.rows();
    let bytes: usize = rows.values().map(|(_, value)| value.as_bytes().len()).sum();
    span.count(names::SLOTS, rows.len());
    span.count(names::BYTES, bytes);
    span.count(names::REQUESTS, requests);
    Some(span)
}
