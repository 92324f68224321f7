//! The gRPC service of a learner; the only maker of `Status`.

mod backup;
mod outcomes;
mod reads;
mod results;
mod status;
mod streams;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use futures::StreamExt as _;
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        machine::Machine,
        origin::Origin,
        slot::{Slot, Version},
    },
    peer::Address,
    service::{
        metrics::{Counter, DataDirSpace, UnreadyReason},
        server::{Room, deadline, received, room},
    },
    trace::{Span, SpanContext, Tracer},
    wire::status::{invalid_argument, out_of_range, overloaded, stopping, trimmed},
};
use paxos_proto::v1::{self as pb, learner_server::Learner, result_request};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    barrier::{Barrier, BarrierError},
    catch_up::CatchUp,
    changes,
    cluster::Cluster,
    disk::DiskSpace,
    history::History,
    install::InstallProgress,
    knowledge::Knowledge,
    progress::Progress,
    snapshots::SnapshotOrders,
    start_work::{StartStep, StartWork},
    subscribe::{self, applied_beyond},
    tails::LEADER_TIMEOUT,
};
use reads::{Consistency, ReadQuery};
use streams::ResponseStream;

/// Maximum number of concurrent subscribers. Their pages share the budget of outgoing bytes.
const SUBSCRIBERS_MAX: usize = 1_024;
/// Maximum number of concurrent watchers, as above.
const WATCHERS_MAX: usize = 1_024;
/// Maximum number of concurrent streams of outcomes: each holds at most 768 waiting queries, of some 64 bytes each.
const OUTCOME_STREAMS_MAX: usize = 512;
/// Maximum number of concurrent backups: each may hold a file of 4 GiB.
const BACKUPS_MAX: usize = 1;
/// Longest wait of a caller without a deadline.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The state available once the cluster is found.
#[derive(Debug)]
pub(crate) struct ServingState {
    pub(crate) cluster: Arc<Cluster>,
    /// The backup that the cluster began with, if any.
    pub(crate) origin: Option<Origin>,
    pub(crate) knowledge: Arc<Knowledge>,
    pub(crate) history: History,
    pub(crate) applied: watch::Receiver<Progress>,
    pub(crate) feed: watch::Receiver<Option<AcceptorUuid>>,
    pub(crate) barrier: Barrier,
    pub(crate) snapshots: SnapshotOrders,
    /// Cancelled when the state gives way to a snapshot, or the learner stops.
    pub(crate) stop: CancellationToken,
    /// Readers of a state that gives way to a snapshot learn the reason.
    pub(crate) installing: Arc<InstallProgress>,
    pub(crate) tracer: Tracer,
}

/// Serves readers. Cheap to clone; all clones share the same state.
#[derive(Clone, Debug)]
pub(crate) struct LearnerService {
    learner: u64,
    address: Address,
    /// `None` before the cluster is found, and while the learner installs a snapshot.
    opened: Arc<RwLock<Option<Arc<ServingState>>>>,
    installing: Arc<InstallProgress>,
    start_work: Arc<StartWork>,
    subscribers: Arc<Semaphore>,
    watchers: Arc<Semaphore>,
    outcome_streams: Arc<Semaphore>,
    backups: Arc<Semaphore>,
    reads_answered: Counter,
    catch_up: Arc<CatchUp>,
    disk: Arc<DiskSpace>,
    data_dir: DataDirSpace,
}

impl LearnerService {
    /// A service that answers only `Status` at first.
    pub(crate) fn new(
        learner: u64,
        address: Address,
        reads_answered: Counter,
        catch_up: Arc<CatchUp>,
        disk: Arc<DiskSpace>,
        data_dir: DataDirSpace,
    ) -> Self {
        Self {
            learner,
            address,
            opened: Arc::default(),
            installing: Arc::default(),
            start_work: Arc::default(),
            subscribers: Arc::new(Semaphore::new(SUBSCRIBERS_MAX)),
            watchers: Arc::new(Semaphore::new(WATCHERS_MAX)),
            outcome_streams: Arc::new(Semaphore::new(OUTCOME_STREAMS_MAX)),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
            reads_answered,
            catch_up,
            disk,
            data_dir,
        }
    }

    /// Whether this learner is ready, as reported by `/readyz`.
    pub(crate) fn readiness(&self) -> Result<(), UnreadyReason> {
        let step = self.start_work.look();
        // This step says more about the disk.
        if !matches!(step, Some(StartStep::NeedsSpace { .. })) {
            self.disk.look()?;
        }
        if let Some(step) = step {
            return Err(step.to_string().into());
        }
        if let Some(installing) = self.installing.look() {
            return Err(installing.to_string().into());
        }
        let applied_to = self.applied_to().unwrap_or(Slot::ZERO);
        self.catch_up.look(applied_to, std::time::Instant::now())
    }

    /// The progress of installations, for the task that installs.
    pub(crate) fn installing(&self) -> &Arc<InstallProgress> {
        &self.installing
    }

    /// The work of the start, for the task that opens the files.
    pub(crate) fn start_work(&self) -> &Arc<StartWork> {
        &self.start_work
    }

    /// Serves the log and the state from now on.
    pub(crate) fn open(&self, opened: ServingState) {
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
        self.installing.end();
    }

    /// Serves only `Status` from now on: an installation begins. Readers are answered with the reason.
    pub(crate) fn close(&self) {
        self.installing.begin();
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = None;
        // The next state may be older: a full disk, or damage, loses the end of this state.
        self.catch_up.begin_again();
    }

    /// Watermark of applied slots; `None` before the cluster is found.
    pub(crate) fn applied_to(&self) -> Option<Slot> {
        self.look().map(|opened| opened.applied_to())
    }

    /// Watermark of slots on disk; `None` before the cluster is found.
    pub(crate) fn durable_to(&self) -> Option<Slot> {
        let opened = self.look()?;
        Some(opened.knowledge.recent(|recent| recent.durable_to()))
    }

    /// The oldest kept slot of the log; `None` before the cluster is found.
    pub(crate) fn log_from(&self) -> Option<Slot> {
        self.look().map(|opened| opened.history.kept().from)
    }

    /// Number of registers with a value.
    pub(crate) fn registers(&self) -> u64 {
        let count = |opened: Arc<ServingState>| opened.knowledge.machine(|machine| machine.register_count());
        self.look().map_or(0, |opened| count(opened) as u64)
    }

    /// Size of the registers and recorded outcomes in bytes.
    pub(crate) fn state_bytes(&self) -> u64 {
        let opened = self.look();
        opened.map_or(0, |opened| opened.knowledge.machine(Machine::state_bytes))
    }

    fn look(&self) -> Option<Arc<ServingState>> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn opened(&self) -> Result<Arc<ServingState>, Status> {
        self.look().ok_or_else(|| {
            if let Some(step) = self.start_work.look() {
                return Status::unavailable(format!("{step}: retry, here or at another learner"));
            }
            installs(&self.installing).unwrap_or_else(|| {
                Status::unavailable(
                    "this learner has not found a formed cluster yet: retry, here or at another learner",
                )
            })
        })
    }

    /// The source of answers to reads of any consistency. Fails before the first catch-up of this learner, and while
    /// the disk is full: a learner with a full disk applies only as much as fits its memory.
    fn readable(&self) -> Result<Arc<ServingState>, Status> {
        let opened = self.opened()?;
        self.disk
            .look()
            .map_err(|reason| Status::unavailable(format!("{reason}: read at another learner")))?;
        let caught_up = self
            .catch_up
            .look_once(opened.applied_to(), std::time::Instant::now());
        caught_up.map(|()| opened).map_err(|reason| {
            Status::unavailable(format!(
                "this learner has not caught up since its start ({reason}): retry, here or at another learner"
            ))
        })
    }
}

/// UNAVAILABLE with the progress of the installation; `None` while the learner installs nothing.
fn installs(installing: &InstallProgress) -> Option<Status> {
    let state = installing.look()?;
    Some(Status::unavailable(format!(
        "{state}: retry, here or at another learner"
    )))
}

/// UNAVAILABLE with the reason why this learner does not serve the state any more.
fn ended(installing: &InstallProgress) -> Status {
    installs(installing).unwrap_or_else(stopping)
}

impl ServingState {
    /// See [`ended`].
    fn ended(&self) -> Status {
        ended(&self.installing)
    }

    fn applied_to(&self) -> Slot {
        self.applied.borrow().applied_to()
    }

    /// Returns once everything that may have been acknowledged before the call is applied.
    async fn pass_barrier(&self, trace: Option<&SpanContext>) -> Result<(), Status> {
        let span = self.tracer.below(trace, "learner.barrier");
        let context = span.as_ref().map(|span| span.context().clone());
        match self.barrier.pass(context).await {
            Ok(_) => Ok(()),
            Err(BarrierError::Full) => Err(overloaded("the list of waiting reads")),
            Err(BarrierError::Stopping) => Err(self.ended()),
        }
    }

    /// Returns once `slot` is applied; fails when `slot` is beyond the tail of the cluster.
    ///
    /// Usually the wait is short. Only a longer wait is worth a question to the acceptors.
    async fn reach(&self, slot: Slot, trace: Option<&SpanContext>) -> Result<(), Status> {
        let span = self.tracer.below(trace, "learner.reach");
        let trace = span.as_ref().map(Span::context);
        let mut applied = self.applied.clone();
        match timeout(LEADER_TIMEOUT, applied_beyond(&mut applied, slot)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => return Err(self.ended()),
            Err(_) => {}
        }
        self.pass_barrier(trace).await?;
        let applied_to = self.applied_to();
        if slot < applied_to {
            return Ok(());
        }
        Err(beyond_the_log(slot, applied_to))
    }

    /// Fails when `version` belonged to the cluster before a restore, and is not in the backup: no later state has its effect.
    fn check_not_lost(&self, version: Version) -> Result<(), Status> {
        match self.origin.as_ref().and_then(|origin| origin.lost(version)) {
            None => Ok(()),
            Some(lost) => Err(out_of_range(format!(
                "version {version} was lost: the restored backup ended at slot {}",
                lost.ended_at
            ))),
        }
    }

    /// Fails when `slot` is below the kept log.
    fn check_kept(&self, slot: Slot) -> Result<(), Status> {
        let kept = self.history.kept();
        if slot < kept.from {
            return Err(trimmed(kept));
        }
        Ok(())
    }

    /// Fails when `slot` is below the kept log, or cannot be the continuation of an earlier answer.
    async fn begin_at(&self, slot: Slot) -> Result<(), Status> {
        self.check_kept(slot)?;
        if slot <= self.applied_to() {
            return Ok(());
        }
        self.pass_barrier(None).await?;
        let applied_to = self.applied_to();
        if slot <= applied_to {
            return Ok(());
        }
        Err(out_of_range(format!(
            "slot {slot} is beyond the log: begin at {applied_to} or below"
        )))
    }

    async fn read(
        &self,
        read: &ReadQuery,
        room: &Room,
        trace: Option<&SpanContext>,
    ) -> Result<pb::ReadResponse, Status> {
        match read.consistency {
            Consistency::Linearizable => self.pass_barrier(trace).await?,
            Consistency::AtLeast(version) => {
                self.check_not_lost(version)?;
                self.reach(version.slot, trace).await?;
            }
            Consistency::Local => {}
        }
        loop {
            let answer = self.knowledge.machine(|machine| read.answer(machine));
            let bytes = answer.encoded_len();
            if room.is_enough(bytes) {
                room.built(&answer);
                return Ok(answer);
            }
            // The answer is built again once there is room; until then no part of it is held.
            drop(answer);
            room.take_soon(bytes).await?;
        }
    }
}

fn beyond_the_log(slot: Slot, to: Slot) -> Status {
    out_of_range(format!(
        "slot {slot} is beyond the log: the log holds the slots below {to}"
    ))
}

/// Answers before the caller's deadline, or reports that the deadline has passed.
async fn in_time<T>(
    metadata: &MetadataMap,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let limit = deadline(metadata).unwrap_or_else(|| Instant::now() + WAIT_MAX);
    match timeout_at(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(
            "the deadline passed before this learner was up to date; retry, here or at another learner",
        )),
    }
}

fn admit(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
    Arc::clone(places)
        .try_acquire_owned()
        .map_err(|_| overloaded(what))
}

#[tonic::async_trait]
impl Learner for LearnerService {
    type OutcomesStream = ResponseStream<pb::OutcomesResponse>;
    type WatchStream = ResponseStream<pb::WatchResponse>;
    type SubscribeStream = ResponseStream<pb::SubscribeResponse>;
    type BackupStream = ResponseStream<pb::BackupResponse>;

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<pb::ReadResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let (trace, room) = (received(&extensions), room(&extensions));
        let read = ReadQuery::new(request)?;
        let answer = in_time(&metadata, self.readable()?.read(&read, &room, trace)).await?;
        self.reads_answered.increment();
        Ok(Response::new(answer))
    }

    async fn result(
        &self,
        request: Request<pb::ResultRequest>,
    ) -> Result<Response<pb::ResultResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let (trace, room) = (received(&extensions), room(&extensions));
        let opened = self.readable()?;
        let answer = match request.command {
            None => {
                return Err(invalid_argument(
                    "the request names no command: give a version or a session stamp",
                ));
            }
            Some(result_request::Command::Version(version)) => {
                let version = reads::read_version(version)?;
                in_time(&metadata, opened.result_of(version, &room, trace)).await?
            }
            Some(result_request::Command::Session(mut stamp)) => {
                results::bind(&mut stamp, &extensions);
                in_time(&metadata, opened.result_of_session(&stamp, &room, trace)).await?
            }
        };
        Ok(Response::new(answer))
    }

    async fn outcomes(
        &self,
        request: Request<Streaming<pb::OutcomesRequest>>,
    ) -> Result<Response<Self::OutcomesStream>, Status> {
        let opened = self.readable()?;
        let permit = admit(&self.outcome_streams, "the list of streams of outcomes")?;
        let answers = outcomes::stream(self.clone(), opened, request.into_inner());
        let answers = answers.inspect(move |_| {
            let _ = &permit;
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let room = room(&extensions);
        let target = streams::read_target(request.target)?;
        let opened = self.opened()?;
        let from = match request.from {
            Some(from) => reads::read_version(from)?,
            None => {
                // A lagging learner would begin in the past.
                in_time(&metadata, opened.pass_barrier(None)).await?;
                Version {
                    slot: opened.applied_to(),
                    offset: 0,
                }
            }
        };
        let permit = admit(&self.watchers, "the list of watchers")?;
        in_time(&MetadataMap::new(), opened.begin_at(from.slot)).await?;
        let pages = subscribe::pages(
            opened.history.clone(),
            opened.applied.clone(),
            from.slot,
            room.clone(),
        );
        let changes = changes::changes(pages, target, from, room.clone());
        Ok(Response::new(streams::watch(changes, opened, permit, room)))
    }

    async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let room = room(request.extensions());
        let from =
            Slot::new(request.into_inner().from).map_err(|error| invalid_argument(error.to_string()))?;
        let opened = self.opened()?;
        let permit = admit(&self.subscribers, "the list of subscribers")?;
        in_time(&MetadataMap::new(), opened.begin_at(from)).await?;
        let (history, applied) = (opened.history.clone(), opened.applied.clone());
        let pages = subscribe::pages(history, applied, from, room.clone());
        Ok(Response::new(streams::subscription(pages, opened, permit, room)))
    }

    async fn backup(
        &self,
        request: Request<pb::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let room = room(request.extensions());
        let opened = self.readable()?;
        let permit = admit(&self.backups, "the list of running backups of this learner")?;
        Ok(Response::new(backup::stream(opened, permit, room)))
    }

    async fn status(
        &self,
        _: Request<pb::LearnerStatusRequest>,
    ) -> Result<Response<pb::LearnerStatusResponse>, Status> {
        Ok(Response::new(self.own_status()))
    }
}
