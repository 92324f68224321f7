//! The real worker and service on a disk whose readers see each commit before the commit call returns.

use std::{collections::BTreeMap, path::Path, pin::pin, task::Poll};

use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, poll};
use paxos_common::{
    paxos::{
        acceptor::{Membership, Write},
        ballot::{Ballot, ProposerId},
        identity::{AcceptorUuid, RunNumber},
        message::{Accept, AcceptAnswer, Prepare},
        quorum::Configuration,
        value::Value,
        witness::Witnesses,
    },
    shutdown::Shutdown,
    trace::Tracer,
    wire::{self, AcceptReply},
};
use paxos_proto::v1::{self as pb, acceptor_server::Acceptor as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use super::*;
use crate::{
    metrics::Instruments,
    service::Service,
    store::{
        Store, StoreError,
        memory::{MemoryDisk, MemoryStore},
    },
    trace::Traced,
    worker::{Command, Worker},
};

/// A store whose commits return only when the gate is open: until then the disk shows what memory does not.
#[derive(Debug)]
struct SlowToReturn {
    store: MemoryStore,
    gate: watch::Receiver<bool>,
}

impl Store for SlowToReturn {
    type Reader = MemoryDisk;

    async fn commit(&mut self, write: Write<'_>) -> Result<(), StoreError> {
        self.store.commit(write).await?;
        drop(self.gate.wait_for(|open| *open).await);
        Ok(())
    }

    async fn has_space(&mut self) -> bool {
        true
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

/// A cluster of one acceptor, formed, with its worker at work.
struct Cluster {
    configuration: Configuration,
    disk: MemoryDisk,
    gate: watch::Sender<bool>,
    queue: mpsc::Sender<Command>,
    service: Service<MemoryDisk>,
}

impl Cluster {
    async fn start() -> Self {
        let uuid = AcceptorUuid::from_u128(1);
        let configuration = Configuration::new([(uuid, "http://a:1".into())], 1, 1).unwrap();
        let disk = MemoryDisk::new(uuid);
        let run = RunNumber::from_random(1);
        let (mut store, _) = disk.open(run);
        form(&mut store, &configuration).await;
        let run = RunNumber::from_random(2);
        let (store, opened) = disk.open(run);
        let (gate, closed) = watch::channel(true);
        let store = SlowToReturn { store, gate: closed };
        let metrics = Instruments::new(&paxos_common::metrics::Metrics::unread());
        let (worker, shared, queue) = Worker::new(store, opened, run, Tracer::off(), metrics);
        tokio::spawn(worker.run(CancellationToken::new()));
        let reader = PeerReader::new(
            disk.clone(),
            Arc::clone(&shared),
            Shutdown::new(&CancellationToken::new()),
        );
        let service = Service::new(
            "a1".into(),
            "http://a:1".into(),
            queue.clone(),
            shared,
            reader,
            Shutdown::new(&CancellationToken::new()),
            Tracer::off(),
        );
        Self {
            configuration,
            disk,
            gate,
            queue,
            service,
        }
    }

    fn caller(&self) -> pb::Caller {
        wire::caller(Some(self.configuration.cluster_id()))
    }

    /// Sends a vote's request; returns where its answer comes.
    async fn accept(&self, slot: u64) -> mpsc::Receiver<AcceptReply> {
        let (answers, replies) = mpsc::channel(1);
        let answer = answers.reserve_owned().await.unwrap();
        let value = Value::from_stored(Bytes::from_static(b"v"), Bytes::new());
        let accept = Accept {
            ballot: ballot(1),
            sequence: 1,
            chosen_to: Slot::ZERO,
            proposals: vec![(Slot::new(slot).unwrap(), value)],
            address: "http://p:1".into(),
            resign: false,
        };
        let trace = Traced::begin(&Tracer::off(), "", &accept);
        let bytes = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let command = Command::Accept {
            accept,
            witnesses: Witnesses::default(),
            answer,
            bytes,
            trace,
        };
        self.queue.send(command).await.unwrap();
        replies
    }

    /// Returns once readers of the disk see a vote for a slot.
    async fn readable(&self, slot: u64) {
        while self
            .disk
            .page(Slot::new(slot).unwrap())
            .await
            .unwrap()
            .rows
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    }

    async fn voted_to(&self) -> u64 {
        let request = pb::TailRequest {
            caller: Some(self.caller()),
            nonce: 1,
        };
        let tail = self.service.tail(Request::new(request)).await.unwrap();
        tail.into_inner().voted_to
    }

    async fn observe(&self, kind: pb::ObserveKind) -> impl Stream<Item = Result<pb::ObserveFrame, Status>> {
        let request = pb::ObserveRequest {
            caller: Some(self.caller()),
            kind: kind.into(),
            from: 0,
        };
        let frames = self.service.observe(Request::new(request)).await.unwrap();
        frames.into_inner()
    }
}

async fn form(store: &mut MemoryStore, configuration: &Configuration) {
    let formed = Membership::Formed(configuration.clone());
    let write = Write {
        commit_counter: paxos_common::paxos::identity::CommitCounter::new(2),
        membership: Some(&formed),
        promised: Ballot::ZERO,
        promise_is_new: false,
        leader_address: &"".into(),
        chosen_to: Slot::ZERO,
        rows: &BTreeMap::new(),
        witnesses: &Witnesses::default(),
    };
    store.commit(write).await.unwrap();
}

/// Lets every other task of this one thread take so many turns that all has happened which can.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(7)).unwrap()
}

#[tokio::test]
async fn nothing_that_the_disk_shows_leaves_before_the_tail_covers_it() {
    let cluster = Cluster::start().await;
    cluster.gate.send_replace(false);
    let mut vote = cluster.accept(0).await;
    cluster.readable(0).await;

    let mut votes = pin!(cluster.observe(pb::ObserveKind::Votes).await);
    let mut values = pin!(cluster.observe(pb::ObserveKind::Values).await);
    settle().await;
    assert!(matches!(poll!(votes.next()), Poll::Pending));
    assert!(matches!(poll!(values.next()), Poll::Pending));
    settle().await;
    assert!(matches!(poll!(votes.next()), Poll::Pending));
    assert!(matches!(poll!(values.next()), Poll::Pending));
    assert_eq!(cluster.voted_to().await, 0);
    assert!(vote.try_recv().is_err());
    let status = cluster
        .service
        .status(Request::new(pb::AcceptorStatusRequest {}))
        .await;
    assert_eq!(status.unwrap().into_inner().promises, []);

    cluster.gate.send_replace(true);
    let frame = votes.next().await.unwrap().unwrap();
    assert_eq!(cluster.voted_to().await, 1);
    assert_eq!((frame.votes[0].from, frame.votes[0].to), (0, 1));
    let frame = values.next().await.unwrap().unwrap();
    assert_eq!(frame.rows.len(), 1);
    let answer = vote.recv().await.unwrap().answer;
    assert!(matches!(answer, AcceptAnswer::Accepted { .. }));
}

#[tokio::test]
async fn page_of_a_promise_waits_for_a_commit_that_follows_the_promise() {
    let cluster = Cluster::start().await;
    let (answer, promised) = oneshot::channel();
    let prepare = Prepare {
        ballot: ballot(1),
        from: Slot::ZERO,
        address: "http://p:1".into(),
    };
    let request = wire::prepare_request(&prepare, cluster.configuration.cluster_id());
    let command = Command::Prepare {
        prepare,
        answer,
        trace: None,
    };
    cluster.queue.send(command).await.unwrap();
    promised.await.unwrap().unwrap();

    // The same promise again changes nothing on the disk; the page is read while a vote is readable there.
    let pages = cluster.service.prepare(Request::new(request)).await.unwrap();
    cluster.gate.send_replace(false);
    let _vote = cluster.accept(0).await;
    cluster.readable(0).await;
    let mut pages = pages.into_inner();
    settle().await;
    assert!(pages.next().now_or_never().is_none());
    cluster.gate.send_replace(true);
    let page = pages.next().await.unwrap().unwrap();
    let Some(pb::promise_page::Answer::Promise(page)) = page.answer else {
        panic!("no promise: {page:?}");
    };
    assert_eq!(page.voted_to, 1);
    assert_eq!(cluster.voted_to().await, 1);
}
