//! Spans of learning and applying what others trace: each value that is, on its way into this learner's state.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use paxos_common::{
    paxos::{slot::Slot, value::Value},
    trace::{Incoming, Span, SpanContext, Tracer, names},
};

/// Makes the spans of values. Cheap to clone; clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ValueTracer {
    tracer: Tracer,
    /// Values that are caught up with are old: nobody waits for them, and they are many.
    is_live: Arc<AtomicBool>,
}

impl ValueTracer {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self {
            tracer,
            is_live: Arc::default(),
        }
    }

    /// What this learner missed before it began is applied: values are traced from now on.
    pub(crate) fn go_live(&self) {
        self.is_live.store(true, Ordering::Relaxed);
    }

    /// Begins a span of this value's way; none when it is not traced.
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

/// Values that came in and are not known to be chosen. Bounded by the core's window.
#[derive(Debug)]
pub(crate) struct Learning {
    values: ValueTracer,
    spans: BTreeMap<Slot, Span>,
}

impl Learning {
    pub(crate) fn new(values: ValueTracer) -> Self {
        Self {
            values,
            spans: BTreeMap::new(),
        }
    }

    /// A value came in.
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
