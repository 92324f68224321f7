//! Streams of requests against a driver played by the test: deadlines, answers, the named leader, and the end.

use std::future::ready;

use paxos_common::{
    paxos::{ballot::ProposerId, identity::ClusterId, proposer::Pending, slot::Slot, slot::Version},
    peer::Dialer,
    service::shutdown::Shutdown,
    trace::Tracer,
    wire::{command::append, status::Fate},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{advance, error::Elapsed},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{requests::ClientRequest, view::View};

/// Requests that wait in a test at most.
const REQUESTS_MAX: usize = 2_048;

type Answers = mpsc::Receiver<Result<pb::ProposeStreamResponse, Status>>;

/// A conversation, with the test in the places of the client and of the driver.
struct Talk {
    inbox: mpsc::Receiver<Input>,
    answers: Answers,
    views: watch::Sender<View>,
    _running: JoinHandle<()>,
}

impl Talk {
    fn begin(
        requests: impl Stream<Item = Result<pb::ProposeStreamRequest, Status>> + Unpin + Send + 'static,
    ) -> Self {
        let mut view = View::forming(ProposerId::from_random(1));
        view.cluster = Some(ClusterId::from_bytes([1; 16]));
        let (views, shown) = watch::channel(view);
        let (inputs, inbox) = mpsc::channel(64);
        let service = Service::new(
            inputs,
            shown,
            "http://p:1".parse().unwrap(),
            (Duration::from_millis(200), u64::MAX),
            Shutdown::new(&CancellationToken::new()),
            (Tracer::off(), Dialer::default()),
        );
        let (conversation, answers) = Conversation::new(service, None, Rights::ALL);
        Self {
            inbox,
            answers,
            views,
            _running: tokio::spawn(conversation.run(requests)),
        }
    }

    /// The next input of the driver.
    async fn input(&mut self) -> Input {
        self.inbox.recv().await.unwrap()
    }

    /// The next request.
    async fn request(&mut self) -> (Pending, mpsc::Sender<(RequestId, ProposalOutcome)>) {
        waiting(self.input().await)
    }

    /// The tag, and the slot, of the next answer.
    async fn answer(&mut self) -> (u64, u64) {
        let answer = self.answers.recv().await.unwrap().unwrap();
        let Some(Answer::Version(version)) = answer.answer else {
            panic!("{answer:?}")
        };
        (answer.tag, version.slot)
    }
}

/// A request, and the receiver of the request's outcome.
fn waiting(input: Input) -> (Pending, mpsc::Sender<(RequestId, ProposalOutcome)>) {
    let Input::Request(ClientRequest {
        pending,
        reply: OutcomeSender::Stream(reply),
        ..
    }) = input
    else {
        panic!("{input:?}")
    };
    (pending, reply)
}

fn request(tag: u64, timeout_ms: u32) -> pb::ProposeStreamRequest {
    pb::ProposeStreamRequest {
        tag,
        command: Some(append("record".into())),
        timeout_ms,
        ..pb::ProposeStreamRequest::default()
    }
}

fn chosen(slot: u64) -> ProposalOutcome {
    let slot = Slot::new(slot).unwrap();
    ProposalOutcome::Chosen(Version { slot, offset: 0 })
}

#[tokio::test(start_paused = true)]
async fn timer_rings_at_the_latest_when_due() {
    let mut timer = DeadlineTimer::new();
    let start = Instant::now();
    let at = |millis| Some(start + Duration::from_millis(millis));
    let rings_now = async |timer: &mut DeadlineTimer, at| {
        tokio::select! {
            biased;
            () = timer.wait(at) => true,
            () = ready(()) => false,
        }
    };
    assert!(!rings_now(&mut timer, None).await);
    assert!(!rings_now(&mut timer, at(3_600_000)).await);
    // An earlier deadline sets the timer, and a later deadline leaves the timer.
    assert!(!rings_now(&mut timer, at(20)).await);
    for (wait, passed) in [(3_600_000, 20), (40, 40), (10, 40)] {
        timer.wait(at(wait)).await;
        // The runtime's timers have steps of a millisecond.
        let elapsed = start.elapsed().as_millis();
        assert!((passed..passed + 3).contains(&elapsed), "{elapsed} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn deadline_is_kept_while_requests_never_pause() {
    let endless = futures::stream::iter(0_u64..).map(|tag| Ok(request(tag, if tag == 0 { 5 } else { 0 })));
    let mut talk = Talk::begin(endless);
    let (first, _) = talk.request().await;
    for number in 1_u64.. {
        assert!(number < 1_000, "the request is not cancelled");
        let input = talk.input().await;
        if let Input::Core(Event::Cancelled(cancelled)) = input {
            assert_eq!(cancelled, first.request);
            break;
        }
        let (pending, reply) = waiting(input);
        reply.try_send((pending.request, chosen(number))).unwrap();
        // Like a driver, without a wait for the answer: the conversation may wait for room in the channel.
        while talk.answers.try_recv().is_ok() {}
        advance(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn requests_decided_together_are_all_answered() {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let mut talk = Talk::begin(ReceiverStream::new(incoming));
    for tag in [7, 8, 9] {
        requests.try_send(Ok(request(tag, 0))).unwrap();
    }
    let mut waiting = Vec::new();
    for _ in 0..3 {
        waiting.push(talk.request().await);
    }
    for (slot, (pending, reply)) in (20..).zip(&waiting) {
        reply.try_send((pending.request, chosen(slot))).unwrap();
    }
    for answer in [(7, 20), (8, 21), (9, 22)] {
        assert_eq!(talk.answer().await, answer);
    }
}

#[tokio::test]
async fn leader_is_named_at_first_then_at_each_change() {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let mut talk = Talk::begin(ReceiverStream::new(incoming));
    let follow = |phase, leader: &str| {
        let leader = Some(leader.to_owned());
        move |view: &mut View| (view.phase, view.leader) = (phase, leader)
    };
    let steps = [
        (follow(pb::ProposerPhase::Leading, "http://p:1"), Some("")),
        (follow(pb::ProposerPhase::Leading, "http://p:1"), None),
        (
            follow(pb::ProposerPhase::Standby, "http://q:1"),
            Some("http://q:1"),
        ),
        (follow(pb::ProposerPhase::Standby, "http://q:1"), None),
        (follow(pb::ProposerPhase::Leading, "http://p:1"), Some("")),
    ];
    for (step, named) in steps {
        talk.views.send_modify(step);
        requests.try_send(Ok(request(1, 0))).unwrap();
        let (pending, reply) = talk.request().await;
        reply.try_send((pending.request, chosen(1))).unwrap();
        let answer = talk.answers.recv().await.unwrap().unwrap();
        assert_eq!(answer.leader_address.as_deref(), named);
    }
}

#[tokio::test(start_paused = true)]
async fn ended_driver_leaves_no_answer_behind() {
    // With and without a deadline that is due at the end of the driver.
    for timeout_ms in [0, 5] {
        let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
        let mut talk = Talk::begin(ReceiverStream::new(incoming));
        requests.try_send(Ok(request(7, 0))).unwrap();
        requests.try_send(Ok(request(8, timeout_ms))).unwrap();
        let waiting = [talk.request().await, talk.request().await];
        // As the driver: the channel is closed first.
        talk.inbox.close();
        advance(Duration::from_millis(10)).await;
        tokio::task::yield_now().await;
        for (slot, (pending, reply)) in (20..).zip(&waiting) {
            reply.try_send((pending.request, chosen(slot))).unwrap();
        }
        assert_eq!(talk.answer().await, (7, 20));
        assert_eq!(talk.answer().await, (8, 21));
        let last = talk.answers.recv().await.unwrap().unwrap_err();
        assert_eq!(status::fate_of(&last), Some(Fate::NotProposed));
        assert!(talk.answers.recv().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn wait_for_an_ended_driver_is_bounded() {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let mut talk = Talk::begin(ReceiverStream::new(incoming));
    requests.try_send(Ok(request(7, 0))).unwrap();
    let _unanswered = talk.request().await;
    talk.inbox.close();
    let ended: Result<_, Elapsed> = timeout(LAST_ANSWERS_MAX * 2, talk.answers.recv()).await;
    // Nothing is said of the command: its outcome is open.
    assert!(ended.unwrap().is_none());
}

#[test]
fn stream_that_broke_off_says_nothing_of_commands_that_were_read_before() {
    let cut_off = || status::overloaded("room for messages that come in");
    assert_eq!(status::fate_of(&broken_off(cut_off(), true)), None);
    assert_eq!(broken_off(cut_off(), true).code(), cut_off().code());
    assert_eq!(
        status::fate_of(&broken_off(cut_off(), false)),
        Some(Fate::NotProposed)
    );
}
