//! Requests that wait for their outcome: who is to be told, and until when.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use paxos_common::{
    paxos::proposer::{Outcome, Pending, RequestId},
    trace::SpanContext,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Draws request ids: never twice in one process.
#[derive(Debug, Default)]
pub(crate) struct RequestIds(AtomicU64);

impl RequestIds {
    pub(crate) fn draw(&self) -> RequestId {
        RequestId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where an outcome goes.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A call of its own.
    Call(oneshot::Sender<Outcome>),
    /// One of many on a stream. The channel has room for every request that the stream may have open.
    Stream(mpsc::Sender<(RequestId, Outcome)>),
}

/// A command on its way to the core, and whom to tell.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) pending: Pending,
    pub(crate) reply: Reply,
    /// When its caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// The span that it came in with, when it is traced.
    pub(crate) trace: Option<SpanContext>,
}

/// Requests that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Waiting(HashMap<RequestId, (Reply, Option<Instant>)>);

impl Waiting {
    pub(crate) fn add(&mut self, request: RequestId, reply: Reply, deadline: Option<Instant>) {
        self.0.insert(request, (reply, deadline));
    }

    /// Whether somebody still waits for it.
    pub(crate) fn contains(&self, request: RequestId) -> bool {
        self.0.contains_key(&request)
    }

    /// When its caller stops waiting.
    pub(crate) fn deadline(&self, request: RequestId) -> Option<Instant> {
        self.0.get(&request).and_then(|&(_, deadline)| deadline)
    }

    /// Tells the outcome to whoever still waits; the first outcome told is the only one.
    pub(crate) fn answer(&mut self, request: RequestId, outcome: Outcome) {
        match self.0.remove(&request) {
            // A caller that has gone does not mind.
            Some((Reply::Call(caller), _)) => drop(caller.send(outcome)),
            Some((Reply::Stream(stream), _)) => drop(stream.try_send((request, outcome))),
            None => {}
        }
    }
}
