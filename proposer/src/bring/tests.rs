//! Uploads between two fake acceptors.

use std::sync::Mutex;

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use paxos_common::{
    paxos::identity::{CommitCounter, Stamp},
    trace::Tracer,
};
use pb::acceptor_server::{Acceptor, AcceptorServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;

const CLUSTER: ClusterId = ClusterId::from_bytes([9; 16]);

/// An acceptor that sends a snapshot of these parts, or takes one.
#[derive(Clone, Debug, Default)]
struct FakeSnapshots {
    number: u128,
    parts: Vec<Bytes>,
    kept: Arc<Mutex<Vec<Content>>>,
    /// Why every upload is refused; empty for none.
    refusal: &'static str,
}

impl FakeSnapshots {
    fn stamp(&self) -> Option<pb::Stamp> {
        let stamp = Stamp {
            cluster: Some(CLUSTER),
            acceptor: AcceptorUuid::from_u128(self.number),
            run: RunNumber::from_random(5),
            commit_counter: CommitCounter::new(1),
        };
        Some(wire::stamp(&stamp, Vec::new()))
    }

    async fn serve(self) -> Placed {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let acceptor = AcceptorUuid::from_u128(self.number);
        let server = tonic::transport::Server::builder()
            .add_service(AcceptorServer::new(self))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Placed {
            acceptor,
            address: address.parse().unwrap(),
            run: RunNumber::from_random(5),
        }
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Acceptor for FakeSnapshots {
    type AcceptStream = Answers<pb::AcceptResponse>;
    type PrepareStream = Answers<pb::PromisePage>;
    type ObserveStream = Answers<pb::ObserveFrame>;
    type AttachStream = Answers<pb::AttachResponse>;
    type SnapshotStream = Answers<pb::SnapshotResponse>;

    async fn keep(
        &self,
        parts: Request<Streaming<pb::KeepRequest>>,
    ) -> Result<Response<pb::KeepResponse>, Status> {
        if !self.refusal.is_empty() {
            return Err(Status::failed_precondition(self.refusal));
        }
        let mut parts = parts.into_inner();
        while let Some(part) = parts.message().await? {
            self.kept.lock().unwrap().extend(part.content);
        }
        let stamp = self.stamp();
        Ok(Response::new(pb::KeepResponse { stamp }))
    }

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let first = pb::SnapshotResponse {
            stamp: self.stamp(),
            id: Some(id()),
            data: Bytes::new(),
        };
        let data = |data: &Bytes| pb::SnapshotResponse {
            data: data.clone(),
            ..pb::SnapshotResponse::default()
        };
        let parts: Vec<_> = self.parts.iter().map(data).collect();
        let all = std::iter::once(first).chain(parts).map(Ok);
        Ok(Response::new(stream::iter(all).boxed()))
    }

    async fn accept(
        &self,
        _: Request<Streaming<pb::AcceptRequest>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn form(&self, _: Request<pb::FormRequest>) -> Result<Response<pb::FormResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn prepare(&self, _: Request<pb::PrepareRequest>) -> Result<Response<Self::PrepareStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn observe(&self, _: Request<pb::ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn attach(
        &self,
        _: Request<Streaming<pb::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn tail(&self, _: Request<pb::TailRequest>) -> Result<Response<pb::TailResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn status(
        &self,
        _: Request<pb::AcceptorStatusRequest>,
    ) -> Result<Response<pb::AcceptorStatusResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

fn id() -> pb::SnapshotId {
    pb::SnapshotId {
        to: 7,
        sha256: Bytes::from_static(&[3; 32]),
        bytes: 5,
    }
}

fn upload(source: Placed, joiner: Placed) -> Upload {
    Upload {
        source,
        joiner,
        cluster: CLUSTER,
        dialer: Dialer::default(),
        taken: Arc::default(),
    }
}

fn source() -> FakeSnapshots {
    let parts = ["ab", "", "cde"].map(|part| Bytes::from_static(part.as_bytes()));
    FakeSnapshots {
        number: 1,
        parts: parts.to_vec(),
        ..FakeSnapshots::default()
    }
}

fn joiner() -> FakeSnapshots {
    FakeSnapshots {
        number: 4,
        ..FakeSnapshots::default()
    }
}

#[tokio::test]
async fn joiner_gets_the_whole_snapshot_of_the_member() {
    let joiner = joiner();
    let kept = Arc::clone(&joiner.kept);
    let upload = upload(source().serve().await, joiner.serve().await);
    assert_eq!(upload.run(None).await.unwrap(), 5);
    let begin = pb::KeepBegin {
        caller: Some(wire::caller(Some(CLUSTER))),
        id: Some(id()),
        peer: 0,
        seed: false,
    };
    let data = |data: &'static str| Content::Data(Bytes::from_static(data.as_bytes()));
    assert_eq!(
        *kept.lock().unwrap(),
        [Content::Begin(begin), data("ab"), data("cde")]
    );
    assert_eq!(upload.taken.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn upload_to_or_from_another_acceptor_fails() {
    let (from, to) = (source().serve().await, joiner().serve().await);
    let other = Placed {
        acceptor: AcceptorUuid::from_u128(8),
        ..from.clone()
    };
    let failed = upload(other, to.clone()).run(None).await.unwrap_err();
    assert!(matches!(failed, Unusable::Stranger(_)), "{failed}");
    let restarted = Placed {
        run: RunNumber::from_random(6),
        ..to
    };
    let failed = upload(from, restarted).run(None).await.unwrap_err();
    assert!(matches!(failed, Unusable::Unshown), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn end_of_a_refused_upload_is_reported_after_a_pause() {
    let refusing = FakeSnapshots {
        refusal: "not behind",
        ..joiner()
    };
    let upload = upload(source().serve().await, refusing.serve().await);
    let (inputs, mut inbox) = mpsc::channel(1);
    let begun = tokio::time::Instant::now();
    let traced = TaskTracer {
        tracer: Tracer::off(),
        context: None,
    };
    bring(upload, inputs, traced).await;
    assert!(begun.elapsed() >= PAUSE);
    let joiner = AcceptorUuid::from_u128(4);
    match inbox.recv().await {
        Some(Input::Core(Event::SnapshotBrought(brought))) => assert_eq!(brought, joiner),
        other => panic!("{other:?}"),
    }
}
