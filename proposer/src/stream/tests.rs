//! Streams to a fake acceptor.

use std::sync::{Arc, Mutex};

use futures::{StreamExt as _, stream::BoxStream};
use paxos_common::paxos::{
    ballot::ProposerId,
    identity::{CommitCounter, Stamp},
    slot::Slot,
    value::Value,
};
use pb::acceptor_server::{Acceptor, AcceptorServer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;

fn ballot() -> Ballot {
    Ballot::new(3, ProposerId::from_random(1)).unwrap()
}

fn accept(sequence: u64, values: u64) -> Accept {
    let slot = |number| Slot::new(number).unwrap();
    Accept {
        ballot: ballot(),
        sequence,
        chosen_to: Slot::ZERO,
        proposals: (0..values).map(|number| (slot(number), Value::noop())).collect(),
        address: "http://p:1".into(),
        resign: false,
    }
}

fn plain(accept: Accept, _: &mut Witnessing) -> Outgoing {
    Outgoing {
        accept,
        witnesses: Vec::new(),
        traceparent: String::new(),
    }
}

#[test]
fn heartbeat_is_sent_only_when_no_other_message_waits() {
    let (end, _ended) = oneshot::channel();
    let mut stream = Stream {
        outbox: None,
        witnessing: Witnessing::default(),
        end,
    };
    assert_eq!(stream.send(accept(0, 0), plain), Sent::NotOpen);
    let (outbox, mut inbox) = mpsc::channel(OUTBOX_MAX);
    stream.opened(outbox);
    assert_eq!(stream.send(accept(0, 0), plain), Sent::Yes);
    assert_eq!(stream.send(accept(0, 0), plain), Sent::NotNeeded);
    for sequence in 1..=UNANSWERED_MAX {
        assert_eq!(stream.send(accept(sequence, 1), plain), Sent::Yes);
    }
    assert_eq!(stream.send(accept(0, 0), plain), Sent::NotNeeded);
    assert_eq!(
        stream.send(accept(UNANSWERED_MAX + 1, 0), plain),
        Sent::Yes,
        "the room of the first message"
    );
    assert_eq!(stream.send(accept(UNANSWERED_MAX + 2, 1), plain), Sent::NoRoom);
    while inbox.try_recv().is_ok() {}
    let resignation = Accept {
        resign: true,
        ..accept(0, 0)
    };
    assert_eq!(stream.send(resignation.clone(), plain), Sent::Yes);
    assert_eq!(stream.send(resignation, plain), Sent::Yes, "it is no heartbeat");
    stream.restart();
    assert_eq!(stream.send(accept(1, 1), plain), Sent::NotOpen);
}

/// Takes streams in turn, and passes each to the test with the received messages.
#[derive(Clone)]
struct FakeStreams {
    streams: mpsc::Sender<Taken>,
    run: Arc<Mutex<RunNumber>>,
}

/// A stream taken by the acceptor.
struct Taken {
    requests: Streaming<pb::AcceptRequest>,
    answers: mpsc::Sender<Result<pb::AcceptResponse, Status>>,
    run: RunNumber,
}

impl Taken {
    async fn read(&mut self) -> pb::AcceptRequest {
        self.requests.message().await.unwrap().expect("a message")
    }

    async fn say_alive(&self) {
        let alive = Alive {
            stamp: Stamp {
                cluster: Some(cluster()),
                acceptor: acceptor(),
                run: self.run,
                commit_counter: CommitCounter::new(1),
            },
            ballot: ballot(),
            silent: Duration::from_millis(7),
            waiting: Duration::ZERO,
            has_space: true,
        };
        self.answers.send(Ok(alive.into())).await.unwrap();
    }
}

fn cluster() -> ClusterId {
    ClusterId::from_bytes([9; 16])
}

fn acceptor() -> AcceptorUuid {
    AcceptorUuid::from_u128(1)
}

type StreamAnswers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Acceptor for FakeStreams {
    type AcceptStream = StreamAnswers<pb::AcceptResponse>;
    type PrepareStream = StreamAnswers<pb::PromisePage>;
    type ObserveStream = StreamAnswers<pb::ObserveFrame>;
    type AttachStream = StreamAnswers<pb::AttachResponse>;
    type SnapshotStream = StreamAnswers<pb::SnapshotResponse>;

    async fn accept(
        &self,
        requests: Request<Streaming<pb::AcceptRequest>>,
    ) -> Result<Response<Self::AcceptStream>, Status> {
        let (answers, outbox) = mpsc::channel(8);
        let taken = Taken {
            requests: requests.into_inner(),
            answers,
            run: *self.run.lock().unwrap(),
        };
        drop(self.streams.send(taken).await);
        Ok(Response::new(ReceiverStream::new(outbox).boxed()))
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

    async fn keep(
        &self,
        _: Request<Streaming<pb::KeepRequest>>,
    ) -> Result<Response<pb::KeepResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn status(
        &self,
        _: Request<pb::AcceptorStatusRequest>,
    ) -> Result<Response<pb::AcceptorStatusResponse>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

/// A stream to a fake acceptor, and both ends of all channels.
struct Scene {
    stream: Option<Stream>,
    taken: mpsc::Receiver<Taken>,
    inputs: mpsc::Receiver<Input>,
    place: watch::Sender<StreamTarget>,
    run: Arc<Mutex<RunNumber>>,
    address: Address,
}

impl Scene {
    async fn begin() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = format!("http://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let (streams, taken) = mpsc::channel(16);
        let run = Arc::new(Mutex::new(RunNumber::from_random(5)));
        let fake = FakeStreams {
            streams,
            run: Arc::clone(&run),
        };
        let server = tonic::transport::Server::builder()
            .add_service(AcceptorServer::new(fake))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let place = watch::Sender::new(None);
        let (sender, inputs) = mpsc::channel(16);
        let context = StreamContext {
            dialer: Dialer::default(),
            cluster: cluster(),
            alive_interval: Duration::from_millis(50),
            inputs: sender,
        };
        let (stream, keeping) = Stream::open(acceptor(), accept(0, 0), place.subscribe(), context);
        tokio::spawn(keeping);
        Self {
            stream: Some(stream),
            taken,
            inputs,
            place,
            run,
            address,
        }
    }

    /// The acceptor shows its runs: streams may be opened.
    fn introduce(&self) {
        let run = *self.run.lock().unwrap();
        self.place.send_replace(Some((self.address.clone(), run)));
    }

    async fn report(&mut self) -> StreamReport {
        match self.inputs.recv().await {
            Some(Input::Stream(of, at, reported)) if (of, at) == (acceptor(), ballot()) => reported,
            other => panic!("{other:?}"),
        }
    }

    async fn opened(&mut self) -> Taken {
        let StreamReport::Opened(outbox) = self.report().await else {
            panic!("it is not open");
        };
        self.stream.as_mut().unwrap().opened(outbox);
        self.taken.recv().await.unwrap()
    }
}

#[tokio::test]
async fn broken_stream_is_opened_again_with_its_first_message() {
    let mut scene = Scene::begin().await;
    scene.introduce();
    for _ in 0..2 {
        let mut taken = scene.opened().await;
        let first = taken.read().await;
        assert_eq!((first.sequence, first.alive_interval_ms), (0, 50));
        assert!(first.proposals.is_empty());
        scene.stream.as_mut().unwrap().send(accept(1, 1), plain);
        let second = taken.read().await;
        assert_eq!((second.sequence, second.alive_interval_ms), (1, 0));
        taken.say_alive().await;
        let said = scene.report().await;
        let silent = Duration::from_millis(7);
        assert!(
            matches!(&said, StreamReport::Answered(_, event) if matches!(**event, Event::Alive { silent: reported, .. } if reported == silent)),
            "{said:?}"
        );
        drop(taken);
        assert!(matches!(scene.report().await, StreamReport::Broke));
    }
}

#[tokio::test]
async fn dropped_stream_ends_at_the_acceptor_although_messages_are_unread() {
    let mut scene = Scene::begin().await;
    scene.introduce();
    let mut taken = scene.opened().await;
    scene.stream.as_mut().unwrap().send(accept(1, 1), plain);
    scene.stream = None;
    taken.answers.closed().await;
    while let Ok(Some(_)) = taken.requests.message().await {}
    assert!(scene.inputs.recv().await.is_none(), "its task has ended");
}

#[tokio::test]
async fn stream_that_ends_after_its_answers_delivers_the_last_message() {
    let mut scene = Scene::begin().await;
    scene.introduce();
    let mut taken = scene.opened().await;
    let mut stream = scene.stream.take().unwrap();
    let resignation = Accept {
        resign: true,
        ..accept(2, 0)
    };
    assert_eq!(stream.send(resignation, plain), Sent::Yes);
    stream.end_after_answers();
    assert!(!taken.read().await.resign);
    assert!(taken.read().await.resign);
    assert!(
        taken.requests.message().await.unwrap().is_none(),
        "an orderly end"
    );
    drop(taken);
    assert!(scene.inputs.recv().await.is_none(), "its task has ended");
}

#[tokio::test]
async fn acceptor_that_restarted_must_show_its_runs_before_its_answers_count() {
    let mut scene = Scene::begin().await;
    scene.introduce();
    let taken = scene.opened().await;
    let restarted = RunNumber::from_random(6);
    *scene.run.lock().unwrap() = restarted;
    drop(taken);
    assert!(matches!(scene.report().await, StreamReport::Broke));
    let taken = scene.opened().await;
    taken.say_alive().await;
    assert!(matches!(scene.report().await, StreamReport::Broke), "another run");
    scene.introduce();
    loop {
        let taken = scene.opened().await;
        taken.say_alive().await;
        match scene.report().await {
            StreamReport::Answered(stamp, _) => break assert_eq!(stamp.run, restarted),
            // The stream was opened before the introduction.
            StreamReport::Broke => {}
            StreamReport::Opened(_) => panic!("it is open"),
        }
    }
    scene.place.send_replace(None);
    assert!(
        matches!(scene.report().await, StreamReport::Broke),
        "it must show its runs again"
    );
}

#[test]
fn refusing_acceptor_needs_a_person_and_stopping_acceptor_does_not() {
    for status in [
        Status::failed_precondition("the value belongs to a newer release"),
        Status::invalid_argument("the value has too many bytes"),
    ] {
        assert!(is_refusal(&Unusable::Call(status)));
    }
    for status in [
        Status::unavailable("stopping"),
        Status::resource_exhausted("full"),
    ] {
        assert!(!is_refusal(&Unusable::Call(status)));
    }
    assert!(!is_refusal(&Unusable::Silent) && is_refusal(&Unusable::Blank));
}
