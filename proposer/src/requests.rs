//! Requests without an outcome yet: the receiver and the deadline of each.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use paxos_common::{
    paxos::proposer::{Pending, ProposalOutcome, RequestId},
    trace::SpanContext,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Draws request ids: never the same id twice in one process.
#[derive(Debug, Default)]
pub(crate) struct RequestIds(AtomicU64);

impl RequestIds {
    pub(crate) fn draw(&self) -> RequestId {
        RequestId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Receiver of an outcome.
#[derive(Debug)]
pub(crate) enum OutcomeSender {
    /// A unary call.
    Call(oneshot::Sender<ProposalOutcome>),
    /// A request on a stream. The channel has room for every request that the stream may have open.
    Stream(mpsc::Sender<(RequestId, ProposalOutcome)>),
}

/// A command in flight to the core, with the receiver of the outcome.
#[derive(Debug)]
pub(crate) struct ClientRequest {
    pub(crate) pending: Pending,
    pub(crate) reply: OutcomeSender,
    /// End of the caller's wait.
    pub(crate) deadline: Option<Instant>,
    /// The span of a traced request.
    pub(crate) trace: Option<SpanContext>,
}

/// Requests without an answer yet.
#[derive(Debug, Default)]
pub(crate) struct WaitingRequests(HashMap<RequestId, (OutcomeSender, Option<Instant>)>);

impl WaitingRequests {
    pub(crate) fn add(&mut self, request: RequestId, reply: OutcomeSender, deadline: Option<Instant>) {
        self.0.insert(request, (reply, deadline));
    }

    /// Whether the request's caller still waits.
    pub(crate) fn contains(&self, request: RequestId) -> bool {
        self.0.contains_key(&request)
    }

    /// End of the wait of the request's caller.
    pub(crate) fn deadline(&self, request: RequestId) -> Option<Instant> {
        self.0.get(&request).and_then(|&(_, deadline)| deadline)
    }

    /// Sends the outcome to a waiting caller. Later outcomes of the request are dropped.
    pub(crate) fn answer(&mut self, request: RequestId, outcome: ProposalOutcome) {
        match self.0.remove(&request) {
            // A departed caller needs no answer.
            Some((OutcomeSender::Call(caller), _)) => drop(caller.send(outcome)),
            Some((OutcomeSender::Stream(stream), _)) => drop(stream.try_send((request, outcome))),
            None => {}
        }
    }
}
