//! One `ProposeStream`: reads the requests of a client, and sends the answers in the order of the outcomes.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    pin::{Pin, pin},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::proposer::{Event, ProposalOutcome, RequestId},
    service::server::Rights,
    trace::{
        Incoming, Span,
        names::{self, method},
    },
    wire::status,
};
use paxos_proto::v1::{self as pb, propose_stream_response::Answer};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tonic::{Code, Status};

use super::{Service, word};
use crate::{
    input::Input,
    requests::{self, OutcomeSender},
};

/// Maximum number of unanswered requests of one stream; at the limit no more requests are read from the stream.
const STREAM_REQUESTS_MAX: usize = 4_096;

/// Maximum number of answers in flight out of a stream: a client that does not read delays its own stream alone.
const STREAM_ANSWERS_MAX: usize = 1_024;

/// Maximum number of outcomes taken at once: the outcomes of several commits. Later outcomes wait for one pass of the
/// loop, so requests and deadlines have their turn.
const OUTCOMES_AT_ONCE: usize = 256;

/// Maximum time between the last answers of an ended driver. The driver answers every received request when it ends.
const LAST_ANSWERS_MAX: Duration = Duration::from_millis(500);

/// One `ProposeStream`.
pub(super) struct Conversation {
    service: Service,
    caller: Option<IpAddr>,
    rights: Rights,
    answers: mpsc::Sender<Result<pb::ProposeStreamResponse, Status>>,
    replies: mpsc::Sender<(RequestId, ProposalOutcome)>,
    outcomes: mpsc::Receiver<(RequestId, ProposalOutcome)>,
    open: HashMap<RequestId, OpenRequest>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// The leader's address as last reported to the client; `None` before the first answer.
    leader: Option<String>,
}

struct OpenRequest {
    tag: u64,
    span: Option<Span>,
    deadline: Option<Instant>,
    expired: bool,
}

impl Conversation {
    /// A conversation with a client, and the answers to send to the client.
    pub(super) fn new(
        service: Service,
        caller: Option<IpAddr>,
        rights: Rights,
    ) -> (Self, mpsc::Receiver<Result<pb::ProposeStreamResponse, Status>>) {
        let (answers, outbound) = mpsc::channel(STREAM_ANSWERS_MAX);
        let (replies, outcomes) = mpsc::channel(STREAM_REQUESTS_MAX);
        let conversation = Self {
            service,
            caller,
            rights,
            answers,
            replies,
            outcomes,
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            leader: None,
        };
        (conversation, outbound)
    }

    /// Runs until the client has sent all requests and has all answers, or is gone.
    pub(super) async fn run(
        mut self,
        mut requests: impl Stream<Item = Result<pb::ProposeStreamRequest, Status>> + Unpin,
    ) {
        let (inputs, answers) = (self.service.inputs.clone(), self.answers.clone());
        // Made once: each costs as much as a request.
        let mut driver_ended = pin!(inputs.closed());
        let mut client_gone = pin!(answers.closed());
        let mut timer = DeadlineTimer::new();
        let mut outcomes = Vec::new();
        let mut more = true;
        while more || !self.open.is_empty() {
            let next_deadline = self.deadlines.first().map(|&(at, _)| at);
            // Not left to the timer: its arm waits while messages are ready.
            if next_deadline.is_some_and(|at| at <= Instant::now()) {
                self.expire().await;
            }
            let goes_on = tokio::select! {
                // In this order, because the last arms cost more than a ready message.
                biased;
                // Receiving and waiting are cancel safe.
                1.. = self.outcomes.recv_many(&mut outcomes, OUTCOMES_AT_ONCE) => self.answer_all(&mut outcomes).await,
                request = requests.next(), if more && self.open.len() < STREAM_REQUESTS_MAX => match request {
                    Some(Ok(request)) => self.take(request).await,
                    None => { more = false; true }
                    Some(Err(status)) => {
                        let status = broken_off(status, !self.open.is_empty());
                        // A departed client does not hear the status.
                        let _ = self.answers.send(Err(status)).await;
                        false
                    }
                },
                () = timer.wait(next_deadline) => { self.expire().await; true }
                () = &mut client_gone => false,
                () = &mut driver_ended => { self.end().await; false }
            };
            if !goes_on {
                break;
            }
        }
        // Commands without a waiting caller need not be proposed.
        for request in self.open.into_keys() {
            let _ = self
                .service
                .inputs
                .send(Input::Core(Event::Cancelled(request)))
                .await;
        }
    }

    async fn take(&mut self, request: pb::ProposeStreamRequest) -> bool {
        let pb::ProposeStreamRequest {
            tag,
            command,
            timeout_ms,
            traceparent,
            forwarded,
        } = request;
        let mut incoming = Incoming::read(traceparent.as_bytes());
        if forwarded && incoming == Incoming::Absent {
            // The standby has decided.
            incoming = Incoming::Unsampled;
        }
        let span = self.service.tracer.serve(&incoming, method::PROPOSE_STREAM);
        let trace = match &span {
            Some(span) => Some(span.context().clone()),
            // Above the rate limit for callers.
            None if self.service.tracer.is_on() => None,
            // With tracing off, the caller's sampled context is passed on.
            None => incoming.sampled(),
        };
        let caller = (self.caller, &self.rights);
        let pending = self.service.pending(command, trace.as_ref(), forwarded, caller);
        let pending = match pending {
            Ok(pending) => pending,
            Err(status) => {
                end(span, &Err(status.clone()));
                return self.send(tag, Answer::Error(status::to_proto(&status))).await;
            }
        };
        let deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms.into()));
        let request = pending.request;
        let reply = OutcomeSender::Stream(self.replies.clone());
        let input = Input::Request(requests::ClientRequest {
            pending,
            reply,
            deadline,
            trace,
        });
        if self.service.inputs.send(input).await.is_err() {
            return self
                .send(tag, Answer::Error(status::to_proto(&status::stopping())))
                .await;
        }
        self.deadlines.extend(deadline.map(|at| (at, request)));
        self.open.insert(
            request,
            OpenRequest {
                tag,
                span,
                deadline,
                expired: false,
            },
        );
        true
    }

    /// Passes on the last answers of an ended driver, or of a driver about to end.
    async fn end(&mut self) {
        while !self.open.is_empty()
            && let Ok(Some((request, outcome))) = timeout(LAST_ANSWERS_MAX, self.outcomes.recv()).await
        {
            self.answer(request, outcome).await;
        }
        if self.open.is_empty() {
            // Requests beyond the answered requests were never read. A departed client does not hear the status.
            let _ = self.answers.send(Err(status::stopping())).await;
        }
    }

    /// Answers requests decided together, and empties the list.
    async fn answer_all(&mut self, outcomes: &mut Vec<(RequestId, ProposalOutcome)>) -> bool {
        for (request, outcome) in outcomes.drain(..) {
            if !self.answer(request, outcome).await {
                return false;
            }
        }
        true
    }

    async fn answer(&mut self, request: RequestId, outcome: ProposalOutcome) -> bool {
        let Some(open) = self.open.remove(&request) else {
            return true;
        };
        if let Some(at) = open.deadline {
            self.deadlines.remove(&(at, request));
        }
        let worded = word(outcome, open.expired, || self.service.late());
        end(open.span, &worded);
        let answer = match worded {
            Ok(version) => Answer::Version(version),
            Err(status) => Answer::Error(status::to_proto(&status)),
        };
        self.send(open.tag, answer).await
    }

    /// Requests an answer now for every request past its deadline.
    async fn expire(&mut self) {
        let now = Instant::now();
        while let Some(&(at, request)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(open) = self.open.get_mut(&request) {
                open.expired = true;
            }
            let cancelled = Input::Core(Event::Cancelled(request));
            // An ended driver has answered the request, or leaves the outcome open.
            let _ = self.service.inputs.send(cancelled).await;
        }
    }

    async fn send(&mut self, tag: u64, answer: Answer) -> bool {
        let leader_address = self.service.leader_news(self.leader.as_deref());
        if leader_address.is_some() {
            self.leader.clone_from(&leader_address);
        }
        self.answers
            .send(Ok(pb::ProposeStreamResponse {
                tag,
                answer: Some(answer),
                leader_address,
            }))
            .await
            .is_ok()
    }
}

/// A timer for the earliest deadline. Most requests are answered long before their deadlines, so a timer set for an
/// earlier request is kept, and wakes the stream too early once. Setting the timer for each request costs more.
struct DeadlineTimer {
    sleep: Pin<Box<Sleep>>,
    /// The time of the timer, unless the timer has rung.
    set_to: Option<Instant>,
}

impl DeadlineTimer {
    fn new() -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now())),
            set_to: None,
        }
    }

    /// Waits until `at`, or until an earlier time; without a time, never returns.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    async fn wait(&mut self, at: Option<Instant>) {
        let Some(at) = at else {
            return std::future::pending().await;
        };
        if self.set_to.is_none_or(|set_to| set_to > at) {
            self.sleep.as_mut().reset(at);
            self.set_to = Some(at);
        }
        self.sleep.as_mut().await;
        self.set_to = None;
    }
}

/// Final status of a stream with requests that broke off. The fate in the cause applies to the message cut off, and not
/// to commands read before and unanswered: on `NotProposed` a client would propose these again.
fn broken_off(cause: Status, owes_answers: bool) -> Status {
    if owes_answers {
        Status::new(cause.code(), cause.message())
    } else {
        cause
    }
}

/// Ends the span of a request on a stream with the request's result.
fn end(span: Option<Span>, worded: &Result<pb::Version, Status>) {
    let Some(mut span) = span else {
        return;
    };
    match worded {
        Ok(version) => {
            span.set(names::VERSION, format!("{}.{}", version.slot, version.offset));
            span.answered(Code::Ok, "");
        }
        Err(status) => span.answered(status.code(), status.message()),
    }
    span.end();
}

#[cfg(test)]
mod tests;
