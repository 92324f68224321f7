//! The gRPC service: checks messages, queries the worker or a reader, and puts the results on the wire.
//!
//! The only maker of `Status` in this crate. Long streams end when the process stops.

use std::{net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use paxos_common::{
    paxos::{
        acceptor::Membership,
        detector::RequestKind,
        identity::Stamp,
        message::{Prepare, PrepareAnswer},
        slot::Slot,
    },
    service::{
        metrics::UnreadyReason,
        server::{received, rights, room},
        shutdown::Shutdown,
    },
    trace::Tracer,
    wire::{self, CHANGES_VERSION, TRIMS_VERSION, heard::millis, status},
};
use paxos_proto::v1::{self as pb, acceptor_server::Acceptor};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    attach::{Attachment, Roster},
    hearing::{OfCall, WaitingClaim},
    metrics::Instruments,
    observe::observe,
    peers::PeerReader,
    queue::{NotQueued, WorkerQueue},
    request::{NoSpace, QueuedRequest},
    shared::Shared,
    store::{Reader, StoreError},
    trim_policy::{Hindrance, RetainBytes},
    trim_task::Snapshots,
};

mod accept;
mod check;
mod compare;
mod form;
mod give;
mod jumps;
mod keep;
mod parts;
mod rate;
mod seed;
mod streams;

use accept::OpenStreams;
use check::{check_address, check_ballot, check_least, check_older, check_version, malformed, snapshot_id};
use give::GIVEN_MAX;
use jumps::Jumps;
pub(crate) use parts::{Name, ServiceParts};
use streams::{allowed, attached, observe_frame, promise};

/// Maximum number of concurrent Observe streams: hundreds of learners with two each. All pages share the budget of
/// outgoing bytes.
const OBSERVERS_MAX: usize = 1024;
/// Maximum number of promises being read at once: far above the number of candidates. The pages have a separate budget.
const PROMISES_MAX: usize = 256;
/// Maximum number of promises in an answer to Status.
const PROMISES_TOLD: u32 = 100;
/// Maximum wait of Status for each item read from the disk.
const DISK_PATIENCE: Duration = Duration::from_millis(100);

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service's parts; cheap to clone.
#[derive(Debug)]
pub(crate) struct Service<R> {
    inner: Arc<Inner<R>>,
}

#[derive(Debug)]
struct Inner<R> {
    name: Name,
    queue: Arc<WorkerQueue>,
    streams: Arc<OpenStreams>,
    observers: Arc<Semaphore>,
    promises: Arc<Semaphore>,
    jumps: Jumps,
    /// Places of streams of the bottom.
    given: Arc<Semaphore>,
    shared: Arc<Shared>,
    reader: PeerReader<R>,
    snapshots: Arc<Snapshots>,
    roster: Arc<Roster>,
    instruments: Instruments,
    shutdown: Shutdown,
    tracer: Tracer,
}

impl<R> Clone for Service<R> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<R: Reader> Service<R> {
    pub(crate) fn new(parts: ServiceParts<R>) -> Self {
        let ServiceParts {
            name,
            queue,
            shared,
            reader,
            snapshots,
            instruments,
            shutdown,
            tracer,
        } = parts;
        let roster = Arc::new(Roster::new(snapshots.restart_max));
        Self {
            inner: Arc::new(Inner {
                name,
                queue,
                streams: Arc::default(),
                observers: Arc::new(Semaphore::new(OBSERVERS_MAX)),
                promises: Arc::new(Semaphore::new(PROMISES_MAX)),
                jumps: Jumps::default(),
                given: Arc::new(Semaphore::new(GIVEN_MAX)),
                shared,
                reader,
                snapshots,
                roster,
                instruments,
                shutdown,
                tracer,
            }),
        }
    }

    /// The attached peers.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.inner.roster)
    }

    /// Ends a stream when the process stops.
    fn until_stop<T: 'static>(
        &self,
        stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    ) -> Response<BoxStream<T>> {
        Response::new(Box::pin(
            stream.take_until(self.inner.shutdown.token().clone().cancelled_owned()),
        ))
    }
}

impl<R> Inner<R> {
    /// Admits only members of this acceptor's cluster, and no caller while the acceptor does not vote.
    fn check_caller(&self, caller: Option<&pb::Caller>) -> Result<(), Status> {
        let asked = check_version(caller)?;
        let version = caller.map_or(0, |caller| caller.protocol_version);
        if version < CHANGES_VERSION {
            check_least(version, self.shared.least_version())?;
            if version < TRIMS_VERSION {
                check_older(self.shared.published().trimmed_to)?;
            }
        }
        match (self.shared.formed(), asked) {
            (Some(ours), Some(asked)) if ours == asked => Ok(()),
            (Some(_), None) => Err(status::invalid_argument("caller.cluster_id is missing")),
            (Some(ours), Some(asked)) => Err(status::wrong_cluster(format!(
                "this acceptor belongs to cluster {ours}, not {asked}"
            ))),
            (None, _) => Err(match &*self.shared.published().membership {
                Membership::Forming(_) => status::unavailable(
                    "this acceptor does not vote yet: its cluster is still forming",
                    status::Fate::NotProposed,
                ),
                Membership::Seeded(_) => status::wrong_cluster(
                    "this acceptor belongs to no cluster yet, and holds a backup: finish \"paxos restore\"",
                ),
                Membership::Blank | Membership::Formed(_) => status::wrong_cluster(
                    "this acceptor belongs to no cluster: the acceptor is new, or has lost its disk",
                ),
            }),
        }
    }

    /// The stamp of an answer, with the list of runs.
    fn stamp_with_runs(&self, stamp: &Stamp) -> pb::Stamp {
        let past = self.shared.past_runs().iter();
        let mut runs: Vec<_> = past
            .map(|(run, ended)| pb::Run {
                run: run.get(),
                commit_counter: ended.get(),
            })
            .collect();
        runs.push(pb::Run {
            run: stamp.run.get(),
            commit_counter: stamp.commit_counter.get(),
        });
        wire::stamp(stamp, runs)
    }

    /// Takes a place among the streams counted by `places`.
    fn place(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(places).try_acquire_owned();
        place.map_err(|_| status::overloaded(what))
    }

    /// Adds a peer to the roster, with the first report.
    fn attach(&self, report: pb::AttachRequest, address: Option<IpAddr>) -> Result<Attachment, Status> {
        let full = |_| status::overloaded("the list of attached peers");
        let attachment = self.roster.attach(address).map_err(full)?;
        attachment.report(report);
        Ok(attachment)
    }

    /// Hands a request to the worker and waits for the answer.
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, NoSpace>>) -> QueuedRequest,
    ) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        self.queue.push(command(sender)).map_err(|error| match error {
            NotQueued::Full => status::overloaded("the acceptor's queue"),
            NotQueued::Closed => status::stopping(),
        })?;
        let answer = answer.await.map_err(|_| status::stopping())?;
        answer.map_err(|NoSpace| status::overloaded("the acceptor's disk"))
    }
}

#[tonic::async_trait]
impl<R: Reader> Acceptor for Service<R> {
    async fn form(&self, request: Request<pb::FormRequest>) -> Result<Response<pb::FormResponse>, Status> {
        let rights = rights(request.extensions());
        Ok(Response::new(
            self.inner.form(request.into_inner(), rights).await?,
        ))
    }

    type PrepareStream = BoxStream<pb::PromisePage>;

    async fn prepare(
        &self,
        request: Request<pb::PrepareRequest>,
    ) -> Result<Response<Self::PrepareStream>, Status> {
        let trace = received(request.extensions()).cloned();
        let room = room(request.extensions());
        let request = request.into_inner();
        self.inner.check_caller(request.caller.as_ref())?;
        let prepare = Prepare::try_from(request).map_err(malformed)?;
        check_ballot(prepare.ballot)?;
        check_address("proposer_address", &prepare.address)?;
        let (ballot, from) = (prepare.ballot, prepare.from);
        let place = Inner::<R>::place(&self.inner.promises, "the list of promises being read")?;
        let shared = &self.inner.shared;
        let promised = shared.published().leadership.promised;
        self.inner.jumps.admit(promised, ballot).await?;
        let is_turned_away = ballot < promised || !promised.admits_jump_to(ballot);
        let claimed = shared.hearing.queued(
            (ballot, &prepare.address, RequestKind::Prepare),
            false,
            is_turned_away,
        );
        let claimed = OfCall::new(claimed);
        let waiting = WaitingClaim(claimed.clone());
        let (stamp, answer) = self
            .inner
            .ask(|answer| QueuedRequest::Prepare {
                prepare,
                claimed,
                answer,
                trace,
            })
            .await?;
        drop(waiting);
        let refusal = match answer {
            PrepareAnswer::Promised => None,
            PrepareAnswer::Rejected(rejection) => Some(pb::promise_page::Answer::Rejected(rejection.into())),
            PrepareAnswer::Refused(refused) => Some(pb::promise_page::Answer::Refused(refused.into())),
        };
        Ok(match refusal {
            Some(answer) => {
                let stamp = Some(wire::stamp(&stamp, Vec::new()));
                let page = pb::PromisePage {
                    stamp,
                    ballot: Some(ballot.into()),
                    answer: Some(answer),
                    witnesses: Vec::new(),
                };
                self.until_stop(stream::iter([Ok(page)]))
            }
            None => {
                let pages = promise(Arc::clone(&self.inner), stamp, ballot, from, room);
                self.until_stop(pages.inspect(move |_| _ = &place))
            }
        })
    }

    type AcceptStream = BoxStream<pb::AcceptResponse>;

    async fn accept(
        &self,
        request: Request<Streaming<pb::AcceptRequest>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        Ok(self.until_stop(accept::accept(&self.inner, &extensions, requests)))
    }

    type ObserveStream = BoxStream<pb::ObserveFrame>;

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let room = room(request.extensions());
        let request = request.into_inner();
        let inner = Arc::clone(&self.inner);
        inner.check_caller(request.caller.as_ref())?;
        let kind = request.kind();
        if kind == pb::ObserveKind::Unspecified {
            return Err(status::invalid_argument(
                "kind is missing: ask for votes or values",
            ));
        }
        let from = Slot::new(request.from).map_err(|error| malformed(error.into()))?;
        let place = Inner::<R>::place(&inner.observers, "the list of observers")?;
        let frames = observe(
            inner.reader.clone(),
            Arc::clone(&inner.shared),
            from,
            room.clone(),
        );
        Ok(self.until_stop(frames.map(move |frame| {
            let _ = &place;
            let frame = frame.map_err(|error| read_failed(&error))?;
            let frame = observe_frame(wire::stamp(&frame.stamp, Vec::new()), frame, kind);
            room.built(&frame);
            Ok(frame)
        })))
    }

    async fn tail(&self, request: Request<pb::TailRequest>) -> Result<Response<pb::TailResponse>, Status> {
        let request = request.into_inner();
        self.inner.check_caller(request.caller.as_ref())?;
        let published = self.inner.shared.published();
        Ok(Response::new(pb::TailResponse {
            stamp: Some(wire::stamp(&published.stamp, Vec::new())),
            nonce: request.nonce,
            voted_to: published.voted_to.get(),
            trimmed_to: published.trimmed_to.get(),
        }))
    }

    type AttachStream = BoxStream<pb::AttachResponse>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let address = request.remote_addr().map(|address| address.ip());
        let rights = rights(request.extensions());
        let reports = request.into_inner().map(move |report| allowed(report?, &rights));
        Ok(self.until_stop(attached(Arc::clone(&self.inner), reports, address)))
    }

    async fn keep(
        &self,
        request: Request<Streaming<pb::KeepRequest>>,
    ) -> Result<Response<pb::KeepResponse>, Status> {
        let trace = received(request.extensions()).cloned();
        let rights = rights(request.extensions());
        let kept = keep::keep(Arc::clone(&self.inner), trace, rights, request.into_inner()).await?;
        Ok(Response::new(kept))
    }

    type SnapshotStream = BoxStream<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let room = room(request.extensions());
        let inner = Arc::clone(&self.inner);
        inner.check_caller(request.into_inner().caller.as_ref())?;
        let place = Inner::<R>::place(&inner.given, "the list of readers of the snapshot")?;
        let bottom = inner.open_bottom().await?;
        Ok(self.until_stop(give::parts(&inner, bottom, place, room)))
    }

    async fn status(
        &self,
        _request: Request<pb::AcceptorStatusRequest>,
    ) -> Result<Response<pb::AcceptorStatusResponse>, Status> {
        let inner = &self.inner;
        let published = inner.shared.published();
        // A hanging disk must not delay operators' queries.
        let promises = match timeout(DISK_PATIENCE, inner.reader.promises(PROMISES_TOLD)).await {
            Ok(promises) => promises.map_err(|error| read_failed(&error))?,
            Err(_elapsed) => Vec::new(),
        };
        let wal_bytes = timeout(DISK_PATIENCE, inner.reader.wal_bytes()).await;
        let heard = inner.shared.hearing.heard();
        let arriving = inner.snapshots.files.arriving();
        let damaged = inner.snapshots.files.damaged_of(&published.snapshots);
        let decision = inner.snapshots.decision();
        let contradictions = inner
            .snapshots
            .contradictions()
            .texts(decision.differ_below, std::time::Instant::now());
        let waits_for = decision.waits_for;
        let promises = promises.into_iter().map(|promise| pb::PastPromise {
            ballot: Some(promise.ballot.into()),
            address: promise.address,
            wall_time_ms: promise.wall_time_ms,
        });
        Ok(Response::new(pb::AcceptorStatusResponse {
            stamp: Some(inner.stamp_with_runs(&published.stamp)),
            id: inner.name.id.clone(),
            address: inner.name.address.clone(),
            software: paxos_common::service::config::version().to_owned(),
            membership: wire::membership_state(&published.membership).into(),
            configuration: published.membership.configuration().map(Into::into),
            leadership: Some(wire::leadership(&published.leadership, millis(heard.silent))),
            chosen_to: published.chosen_to.get(),
            known_chosen_to: published.known_to.get(),
            voted_to: published.voted_to.get(),
            trimmed_to: published.trimmed_to.get(),
            queued: inner.queue.len() as u64,
            attached: inner.roster.peers(),
            promises: promises.collect(),
            wal_bytes: wal_bytes.unwrap_or_default(),
            no_space: published.no_space,
            damaged_rows: published.damaged_rows,
            witnesses: wire::witnesses(&inner.shared.witnesses()),
            heard: Some(heard.into()),
            waiting_ms: millis(inner.queue.waiting()),
            slowest_commit_ms: millis(inner.instruments.slowest_commit()),
            not_ready: inner
                .instruments
                .readiness(&inner.shared, &inner.queue)
                .err()
                .map(UnreadyReason::into_owned)
                .unwrap_or_default(),
            departed: inner.roster.departed(),
            stopped: inner.roster.stopped(),
            data_size_bytes: inner.instruments.data_dir().size_bytes(),
            data_free_bytes: inner.instruments.data_dir().free_bytes(),
            snapshots: published
                .snapshots
                .iter()
                .map(|kept| snapshot_id(&kept.id))
                .collect(),
            receiving: arriving.map(|(id, _)| snapshot_id(&id)),
            received: arriving.map_or(0, |(_, bytes)| bytes),
            log_bytes: inner.instruments.file_bytes().used,
            free_bytes: inner.instruments.file_bytes().free,
            damaged_snapshots: damaged.iter().map(|id| id.to.get()).collect(),
            retain_bytes: match inner.snapshots.retain_bytes {
                RetainBytes::AtLeast(bytes) => bytes,
                RetainBytes::All => u64::MAX,
            },
            waits_for_person: waits_for.as_ref().is_some_and(Hindrance::needs_person),
            waits_for: waits_for
                .map(|hindrance| hindrance.to_string())
                .unwrap_or_default(),
            contradictions,
        }))
    }
}

fn read_failed(error: &StoreError) -> Status {
    tracing::error!(%error, "reading the store failed");
    Status::internal(format!("reading the store failed: {error}"))
}

#[cfg(test)]
mod tests;
