//! The gRPC face of a learner; the only maker of `Status`.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use paxos_common::{
    config,
    paxos::{
        identity::{AcceptorUuid, ClusterId},
        slot::Slot,
        value::Value,
    },
    peer::Address,
    status::{invalid_argument, overloaded, stopping, unimplemented},
    wire::{self, command::decode_value},
};
use paxos_proto::v1::{self as pb, learner_server::Learner};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tonic::{Request, Response, Status};

use crate::{
    apply::State,
    barrier::Barrier,
    store::{Log, ReadError},
    subscribe::{self, Page},
};

/// Subscribers at once: each may hold a page, of half a mebibyte, and what the transport buffers.
const SUBSCRIBERS_MAX: usize = 1_024;

/// What is there once the cluster is found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) cluster: ClusterId,
    pub(crate) log: Log,
    pub(crate) applied: watch::Receiver<State>,
    pub(crate) feed: watch::Receiver<Option<AcceptorUuid>>,
    /// Before linearizable reads.
    pub(crate) barrier: Barrier,
}

/// Serves readers. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct LearnerService {
    learner: u64,
    address: Address,
    opened: Arc<OnceLock<Opened>>,
    subscribers: Arc<Semaphore>,
}

impl LearnerService {
    /// Serves nothing but `Status` yet.
    pub(crate) fn new(learner: u64, address: Address) -> Self {
        Self {
            learner,
            address,
            opened: Arc::default(),
            subscribers: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
        }
    }

    /// Serves the log from now on.
    ///
    /// # Panics
    /// The second time.
    pub(crate) fn open(&self, opened: Opened) {
        assert!(self.opened.set(opened).is_ok(), "a learner opens one log");
    }
}

#[tonic::async_trait]
impl Learner for LearnerService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<pb::SubscribeResponse, Status>> + Send>>;

    async fn read(&self, _: Request<pb::ReadRequest>) -> Result<Response<pb::ReadResponse>, Status> {
        Err(unimplemented("Read"))
    }

    async fn result(&self, _: Request<pb::ResultRequest>) -> Result<Response<pb::ResultResponse>, Status> {
        Err(unimplemented("Result"))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(unimplemented("Watch"))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let from =
            Slot::new(request.into_inner().from).map_err(|error| invalid_argument(error.to_string()))?;
        let opened = self.opened.get().ok_or_else(|| {
            Status::unavailable("this learner has not found a formed cluster yet: retry, here or at another")
        })?;
        let permit = Arc::clone(&self.subscribers)
            .try_acquire_owned()
            .map_err(|_| overloaded("the list of subscribers"))?;
        let pages = subscribe::pages(opened.log.clone(), opened.applied.clone(), from);
        Ok(Response::new(Box::pin(responses(pages, permit))))
    }

    async fn status(
        &self,
        _: Request<pb::LearnerStatusRequest>,
    ) -> Result<Response<pb::LearnerStatusResponse>, Status> {
        let mut status = pb::LearnerStatusResponse {
            learner: self.learner,
            address: self.address.to_string(),
            software: config::version().to_owned(),
            subscribers: (SUBSCRIBERS_MAX - self.subscribers.available_permits()) as u64,
            ..Default::default()
        };
        if let Some(opened) = self.opened.get() {
            let state = opened.applied.borrow();
            let feed = opened.feed.borrow();
            status.cluster_id = Bytes::copy_from_slice(opened.cluster.as_bytes());
            status.applied_to = state.applied_to().get();
            // What is applied is shown after its commit.
            status.durable_to = status.applied_to;
            status.digests = state.digests();
            status.reads_waiting = opened.barrier.waiting();
            status.value_feed = feed.map_or_else(Bytes::new, |acceptor| {
                Bytes::copy_from_slice(&acceptor.to_bytes())
            });
        }
        Ok(Response::new(status))
    }
}

/// A subscriber's answers, ending in an error when the learner stops. The permit counts the subscriber.
fn responses(
    pages: impl Stream<Item = Result<Page, ReadError>> + Send,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<pb::SubscribeResponse, Status>> + Send {
    let stop = futures::stream::once(async { Err(stopping()) });
    pages
        .map(|page| {
            page.map_err(|error| read_failed(&error))
                .and_then(|page| response(&page))
        })
        .chain(stop)
        .inspect(move |_| {
            let _ = &permit;
        })
}

fn response(page: &Page) -> Result<pb::SubscribeResponse, Status> {
    let records = page.records.iter().map(record).collect::<Result<_, _>>()?;
    Ok(pb::SubscribeResponse {
        records,
        next: page.next.get(),
    })
}

fn record((slot, value): &(Slot, Value)) -> Result<pb::LogRecord, Status> {
    let decoded = decode_value(value).map_err(|error| {
        tracing::error!(%slot, %error, "a chosen value holds no commands");
        Status::internal(format!(
            "slot {slot} holds what this release cannot read: {error}"
        ))
    })?;
    Ok(pb::LogRecord {
        slot: slot.get(),
        value: Some(decoded),
        traceparent: wire::traceparent(value),
    })
}

/// Another learner may be able to answer, so UNAVAILABLE.
fn read_failed(error: &ReadError) -> Status {
    let advice = match error {
        ReadError::Damaged(_) => {
            "stop this learner and empty its data directory: it then learns everything again"
        }
        ReadError::Sqlite(_) => "ask another learner",
    };
    tracing::error!(%error, advice, "cannot read the log");
    Status::unavailable(format!("{error}; {advice}"))
}
