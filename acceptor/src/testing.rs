//! For tests: an acceptor as a whole cluster, with worker and service, on a disk able to hang.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use paxos_common::{
    paxos::{
        acceptor::{Membership, Write},
        ballot::Ballot,
        detector::RequestKind,
        identity::{CommitCounter, RunNumber},
        message::Accept,
        quorum::Configuration,
        slot::Slot,
        value::Value,
        witness::Witnesses,
    },
    peer::MessageLimits as _,
    service::{failure::Failure, server::Server, shutdown::Shutdown},
    trace::Tracer,
    wire,
};
use paxos_proto::v1::{
    self as pb,
    acceptor_server::{Acceptor as _, AcceptorServer, SERVICE_NAME},
};
use paxos_test_values::{acceptor, ballot, cluster_of_one, slot};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, service::Routes};

use crate::{
    inbox::{AnswerSender, Inbox, PlacedReply, StreamMessage},
    metrics::Instruments,
    peers::PeerReader,
    queue::WorkerQueue,
    request::QueuedRequest,
    service::{Name, Service, ServiceParts},
    shared::Shared,
    snapshot::SnapshotFiles,
    store::{
        Reader as _, SpaceLevel, Store, StoreError, Swept,
        memory::{MemoryDisk, MemoryStore},
        snapshots::{KeptSnapshot, KeptSnapshots},
    },
    trace::MessageTrace,
    trim_policy::RetainBytes,
    trim_task::Snapshots,
    worker::Worker,
};

/// A store with commits that return only when the gate is open: until then the disk is ahead of memory.
#[derive(Debug)]
struct SlowToReturn {
    store: MemoryStore,
    gate: watch::Receiver<bool>,
    has_space: Arc<AtomicBool>,
    is_exhausted: Arc<AtomicBool>,
    fails_sweep: Arc<AtomicBool>,
}

impl Store for SlowToReturn {
    type Reader = MemoryDisk;

    async fn commit(&mut self, write: Write<'_>) -> Result<(), StoreError> {
        self.store.commit(write).await?;
        drop(self.gate.wait_for(|open| *open).await);
        Ok(())
    }

    async fn keep(&mut self, snapshot: KeptSnapshot) -> Result<(), StoreError> {
        self.store.keep(snapshot).await
    }

    async fn forget(&mut self) -> Result<(), StoreError> {
        self.store.forget().await
    }

    fn snapshots(&self) -> KeptSnapshots {
        self.store.snapshots()
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        if self.fails_sweep.load(Ordering::Relaxed) {
            return Err(StoreError::Sqlite(sqlx::Error::WorkerCrashed.into()));
        }
        self.store.sweep().await
    }

    async fn space(&mut self) -> SpaceLevel {
        if self.is_exhausted.load(Ordering::Relaxed) {
            SpaceLevel::Exhausted
        } else if self.has_space.load(Ordering::Relaxed) {
            SpaceLevel::Enough
        } else {
            SpaceLevel::Low
        }
    }

    async fn keep_wal_short(&mut self) -> Result<(), StoreError> {
        self.store.keep_wal_short().await
    }

    fn file(&self) -> &Path {
        self.store.file()
    }

    fn reader(&self) -> MemoryDisk {
        self.store.reader()
    }

    async fn close(self) {}
}

/// A formed cluster of one acceptor, with a running worker.
pub(crate) struct Cluster {
    pub(crate) configuration: Configuration,
    pub(crate) disk: MemoryDisk,
    /// While the gate is shut, no commit returns.
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) has_space: Arc<AtomicBool>,
    /// Not even trims have space.
    pub(crate) is_exhausted: Arc<AtomicBool>,
    /// Every sweep fails.
    pub(crate) fails_sweep: Arc<AtomicBool>,
    pub(crate) worker: JoinHandle<Result<(), Failure>>,
    pub(crate) queue: Arc<WorkerQueue>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) service: Service<MemoryDisk>,
    shutdown: Shutdown,
    /// Holds the snapshot files.
    directory: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let uuid = acceptor(1);
        let configuration = cluster_of_one(uuid);
        let disk = MemoryDisk::new(uuid);
        let run = RunNumber::from_random(1);
        let (mut store, _) = disk.open(run);
        form(&mut store, &configuration).await;
        Self::start_on(disk, configuration, RunNumber::from_random(2), true)
    }

    /// A blank acceptor, a member of no cluster yet.
    pub(crate) fn start_blank() -> Self {
        let uuid = acceptor(1);
        let (disk, configuration) = (MemoryDisk::new(uuid), cluster_of_one(uuid));
        Self::start_on(disk, configuration, RunNumber::from_random(1), true)
    }

    /// A new run on the disk of this cluster, as after a kill.
    pub(crate) fn restart(&self, has_space: bool) -> Self {
        self.worker.abort();
        let (disk, configuration) = (self.disk.clone(), self.configuration.clone());
        Self::start_on(disk, configuration, RunNumber::from_random(3), has_space)
    }

    fn start_on(disk: MemoryDisk, configuration: Configuration, run: RunNumber, has_space: bool) -> Self {
        let (store, opened) = disk.open(run);
        let (gate, closed) = watch::channel(true);
        let has_space = Arc::new(AtomicBool::new(has_space));
        let (is_exhausted, fails_sweep) = (Arc::default(), Arc::default());
        let store = SlowToReturn {
            store,
            gate: closed,
            has_space: Arc::clone(&has_space),
            is_exhausted: Arc::clone(&is_exhausted),
            fails_sweep: Arc::clone(&fails_sweep),
        };
        let metrics = Instruments::new(&paxos_common::service::metrics::Metrics::unread());
        let shutdown = Shutdown::new(&CancellationToken::new());
        let directory = tempfile::tempdir().unwrap();
        let files = SnapshotFiles::open(directory.path(), &store.snapshots());
        let snapshots = Arc::new(Snapshots::new(files, RetainBytes::All, Duration::from_mins(1)));
        let (worker, shared, queue) = Worker::new(
            store,
            opened,
            run,
            RetainBytes::All,
            Tracer::off(),
            metrics.clone(),
        );
        let worker = tokio::spawn(worker.run(CancellationToken::new()));
        let hearing = Arc::clone(&shared.hearing);
        shutdown.spawn_until_stop(async move { hearing.watch_silence().await });
        let reader = PeerReader::new(disk.clone(), Arc::clone(&shared), shutdown.clone());
        let service = Service::new(ServiceParts {
            name: Name {
                id: "a1".into(),
                address: "http://a:1".into(),
            },
            queue: Arc::clone(&queue),
            shared: Arc::clone(&shared),
            reader,
            snapshots,
            instruments: metrics,
            shutdown: shutdown.clone(),
            tracer: Tracer::off(),
        });
        Self {
            configuration,
            disk,
            gate,
            has_space,
            is_exhausted,
            fails_sweep,
            worker,
            queue,
            shared,
            service,
            shutdown,
            directory,
        }
    }

    /// The directory of the snapshot files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Serves the acceptor on a port of this machine, like the role.
    pub(crate) async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = AcceptorServer::new(self.service.clone()).with_message_limits();
        let (server, _) = Server::new(listener, SERVICE_NAME, Routes::new(service))
            .await
            .unwrap();
        tokio::spawn(server.run(self.shutdown.clone()));
        address
    }

    pub(crate) fn caller(&self) -> pb::Caller {
        wire::caller(Some(self.configuration.cluster_id()))
    }

    /// Sends the request for a vote to the worker; returns the receiver of the answer.
    pub(crate) fn accept(&self, slot: u64) -> mpsc::Receiver<PlacedReply> {
        self.accept_all(slot..slot + 1, 0)
    }

    /// Sends the request for votes to the worker, from a leader with the watermark `chosen_to`; returns the receiver of
    /// the answer.
    pub(crate) fn accept_all(&self, slots: Range<u64>, chosen_to: u64) -> mpsc::Receiver<PlacedReply> {
        self.accept_at(ballot(1), slots, chosen_to)
    }

    /// As [`Self::accept_all`], from the leader of this ballot.
    pub(crate) fn accept_at(
        &self,
        ballot: Ballot,
        slots: Range<u64>,
        chosen_to: u64,
    ) -> mpsc::Receiver<PlacedReply> {
        let (answers, replies) = AnswerSender::new();
        let value = Value::from_stored(Bytes::from_static(b"v"), Bytes::new());
        let proposals = slots.map(|number| (slot(number), value.clone()));
        let accept = Accept {
            ballot,
            sequence: 1,
            chosen_to: slot(chosen_to),
            proposals: proposals.collect(),
            address: "http://p:1".into(),
            resign: false,
        };
        let trace = MessageTrace::begin(&Tracer::off(), "", &accept, true);
        let request = (accept.ballot, &accept.address, RequestKind::Accept);
        let claimed = self.shared.hearing.queued(request, false, false);
        let inbox = Arc::new(Inbox::default());
        inbox.push(StreamMessage {
            accept,
            witnesses: Witnesses::default(),
            claimed,
            place: answers.reserve().unwrap(),
            bytes: None,
            trace,
        });
        self.queue.push(QueuedRequest::Accept(inbox)).unwrap();
        replies
    }

    /// Returns once readers of the disk see a vote for a slot.
    pub(crate) async fn readable(&self, number: u64) {
        while self.disk.page(slot(number)).await.unwrap().rows.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn voted_to(&self) -> u64 {
        let request = pb::TailRequest {
            caller: Some(self.caller()),
            nonce: 1,
        };
        let tail = self.service.tail(Request::new(request)).await.unwrap();
        tail.into_inner().voted_to
    }
}

async fn form(store: &mut MemoryStore, configuration: &Configuration) {
    let formed = Membership::Formed(configuration.clone());
    let write = Write {
        commit_counter: CommitCounter::new(2),
        membership: Some(&formed),
        promised: Ballot::ZERO,
        promise_is_new: false,
        leader_address: &"".into(),
        known_to: Slot::ZERO,
        trimmed_to: Slot::ZERO,
        rows: &BTreeMap::new(),
        witnesses: &Witnesses::default(),
        least_version: 1,
    };
    store.commit(write).await.unwrap();
}

/// Gives every other task of this thread 1,000 turns: enough for everything possible without new input.
pub(crate) async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}
