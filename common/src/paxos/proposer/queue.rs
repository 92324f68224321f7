//! Commands waiting for a slot: bounded, first come, first served.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Limits, RequestId};
use crate::paxos::value::{EncodedCommand, Value};

/// A command with the data needed to answer its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pending {
    /// The request to answer.
    pub request: RequestId,
    /// The command to order.
    pub command: EncodedCommand,
    /// W3C trace context of the request; empty when unsampled.
    pub traceparent: Bytes,
    /// Forwarded by a standby: proposed here or refused, never forwarded again.
    pub forwarded: bool,
}

impl Pending {
    /// A command received here from a caller, not forwarded.
    pub fn new(request: RequestId, command: EncodedCommand) -> Self {
        Self {
            request,
            command,
            traceparent: Bytes::new(),
            forwarded: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CommandQueue {
    waiting: VecDeque<Pending>,
    bytes: usize,
    commands_max: usize,
    bytes_max: usize,
}

impl CommandQueue {
    pub(super) fn new(commands_max: usize, bytes_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            commands_max,
            bytes_max,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn has_room_for(&self, pending: &Pending) -> bool {
        self.waiting.len() < self.commands_max && self.bytes + size(pending) <= self.bytes_max
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.bytes += size(&pending);
        self.waiting.push_back(pending);
    }

    /// The next batch, with the requests in the order of offsets. The first sampled trace context becomes the context
    /// of the batch.
    pub(super) fn take_batch(&mut self, limits: &Limits) -> (Value, Vec<RequestId>) {
        let mut taken: Vec<Pending> = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.waiting.front() {
            bytes += size(first);
            if taken.len() == limits.batch_commands_max
                || (bytes > limits.batch_bytes_max && !taken.is_empty())
            {
                break;
            }
            taken.extend(self.pop());
        }
        let traceparent = taken
            .iter()
            .map(|pending| &pending.traceparent)
            .find(|context| !context.is_empty());
        let traceparent = traceparent.cloned().unwrap_or_default();
        let value = Value::batch(taken.iter().map(|pending| &pending.command), traceparent);
        (value, taken.into_iter().map(|pending| pending.request).collect())
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Pending> {
        self.bytes = 0;
        self.waiting.drain(..)
    }

    /// Removes a request; returns whether the request was queued.
    pub(super) fn remove(&mut self, request: RequestId) -> bool {
        !self.remove_where(|pending| pending.request == request).is_empty()
    }

    /// Removes the commands matching `is`, and returns the requests.
    pub(super) fn remove_where(&mut self, is: impl Fn(&Pending) -> bool) -> Vec<RequestId> {
        let (out, kept): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|pending| is(pending));
        self.bytes = kept.iter().map(size).sum();
        self.waiting = kept.into();
        out.into_iter().map(|pending| pending.request).collect()
    }

    fn pop(&mut self) -> Option<Pending> {
        let pending = self.waiting.pop_front()?;
        self.bytes -= size(&pending);
        Some(pending)
    }
}

fn size(pending: &Pending) -> usize {
    pending.command.as_bytes().len()
}
