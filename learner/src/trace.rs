//! Spans of a learner's work in clients' traces: values on the way into the state, and the rounds that reads wait for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use paxos_common::{
    paxos::{reading::ReadId, slot::Slot, value::Value},
    trace::{Beginning, Incoming, Parent, Span, SpanContext, Tracer, names},
};

/// Makes the spans of values. Cheap to clone; all clones share the same state.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueTracer {
    tracer: Tracer,
    /// False during catch-up: old values are many, and no client waits for them.
    is_live: Arc<AtomicBool>,
}

impl ValueTracer {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            is_live: Arc::default(),
        }
    }

    /// All values missed before the start are applied: values are traced from now on.
    pub(crate) fn go_live(&self) {
        self.is_live.store(true, Ordering::Relaxed);
    }

    /// Begins a span for this value; `None` when the value is not traced.
    pub(crate) fn begin(&self, name: &'static str, slot: Slot, value: &Value) -> Option<Span> {
        let parent = self.parent(value)?;
        let mut span = self.tracer.below(Some(&parent), name)?;
        span.count(names::SLOT, slot.get());
        Some(span)
    }

    fn parent(&self, value: &Value) -> Option<SpanContext> {
        if value.traceparent().is_empty() || !self.tracer.is_on() || !self.is_live.load(Ordering::Relaxed) {
            return None;
        }
        Incoming::read(value.traceparent()).sampled()
    }
}

/// Received values not yet known to be chosen. Bounded by the core's window.
#[derive(Debug)]
pub(crate) struct LearningSpans {
    values: ValueTracer,
    spans: BTreeMap<Slot, Span>,
}

impl LearningSpans {
    pub(crate) fn new(values: ValueTracer) -> Self {
        Self {
            values,
            spans: BTreeMap::new(),
        }
    }

    /// A value was received.
    pub(crate) fn held(&mut self, slot: Slot, value: &Value) {
        if !self.spans.contains_key(&slot)
            && let Some(span) = self.values.begin("learner.learn", slot, value)
        {
            self.spans.insert(slot, span);
        }
    }

    /// Every slot below `next` is learned.
    pub(crate) fn learned(&mut self, next: Slot) {
        while let Some(entry) = self.spans.first_entry().filter(|entry| *entry.key() < next) {
            entry.remove().end();
        }
    }
}

/// The present round of questions, when a traced read waits for the round.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    tracer: Tracer,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    nonce: u64,
    span: Span,
    /// The traced reads of the round, each with its span.
    reads: Vec<(ReadId, SpanContext)>,
}

impl Rounds {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self { tracer, round: None }
    }

    /// Puts a question for `waiting` reads in all, among them the traced `reads`. Returns the parent span of the
    /// round's calls.
    pub(crate) fn ask(
        &mut self,
        nonce: u64,
        waiting: usize,
        reads: impl Iterator<Item = (ReadId, SpanContext)>,
    ) -> Option<SpanContext> {
        if self.round.as_ref().is_none_or(|round| round.nonce != nonce) {
            let reads: Vec<_> = reads.collect();
            let (_, first) = reads.first()?;
            let others = reads.iter().skip(1).map(|(_, context)| context.clone());
            let beginning = Beginning::new("learner.round", Parent::Span(first)).linked_to(others);
            let mut span = self.tracer.begin(beginning)?;
            span.count(names::READS, waiting);
            self.round = Some(Round { nonce, span, reads });
        }
        let round = self.round.as_ref()?;
        Some(round.span.context().clone())
    }

    /// A quorum has answered. For each traced read that waits on, begins the span of the wait until everything the read
    /// may have to show is applied.
    pub(crate) fn answered(&mut self, waits: impl Fn(ReadId) -> bool) -> Vec<(ReadId, Span)> {
        let Some(Round { span, reads, .. }) = self.round.take() else {
            return Vec::new();
        };
        span.end();
        let reads = reads.into_iter().filter(|(read, _)| waits(*read));
        let catching_up = reads.filter_map(|(read, context)| {
            let span = self.tracer.below(Some(&context), "learner.catch_up")?;
            Some((read, span))
        });
        catching_up.collect()
    }
}
