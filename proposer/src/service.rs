//! The gRPC service of the proposer: checks requests, hands them to the driver, and words the answers.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use paxos_common::{
    paxos::{
        proposer::{Event, Outcome, Pending, Reason, RequestId},
        slot::Slot,
    },
    peer::Address,
    service::{
        config::version,
        server::{deadline, received, sleep_until},
        shutdown::Shutdown,
    },
    trace::{
        Incoming, Span, SpanContext, Tracer,
        names::{self, TRACEPARENT, method},
        travelling,
    },
    wire::{
        self,
        status::{self, Fate},
    },
};
use paxos_proto::v1::{self as pb, propose_stream_response::Answer, proposer_server::Proposer};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    input::Input,
    metrics::readiness,
    openings::Openings,
    requests::{self, Reply, RequestIds},
    trace::Traces,
    view::View,
};

/// Maximum number of unanswered requests of one stream; at the limit no more requests are read from the stream.
const STREAM_REQUESTS_MAX: usize = 4_096;

/// Maximum number of answers in flight out of a stream: a client that does not read delays its own stream alone.
const STREAM_ANSWERS_MAX: usize = 1_024;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    inputs: mpsc::Sender<Input>,
    views: watch::Receiver<View>,
    address: Address,
    leader_timeout_ms: u32,
    ids: Arc<RequestIds>,
    openings: Openings,
    shutdown: Shutdown,
    tracer: Tracer,
}

impl Service {
    pub(crate) fn new(
        inputs: mpsc::Sender<Input>,
        views: watch::Receiver<View>,
        address: Address,
        leader_timeout: Duration,
        shutdown: Shutdown,
        tracer: Tracer,
    ) -> Self {
        Self {
            inputs,
            views,
            address,
            leader_timeout_ms: u32::try_from(leader_timeout.as_millis()).unwrap_or(u32::MAX),
            ids: Arc::default(),
            openings: Openings::default(),
            shutdown,
            tracer,
        }
    }

    /// The acceptors that delay commands; empty for none.
    fn late(&self) -> String {
        self.views.borrow().late.clone()
    }

    /// Makes a command for the core.
    fn pending(
        &self,
        command: Option<pb::Command>,
        trace: Option<&SpanContext>,
        forwarded: bool,
        caller: Option<IpAddr>,
    ) -> Result<Pending, Status> {
        if self.views.borrow().cluster.is_none() {
            return Err(status::unavailable(
                "the cluster is not formed yet",
                Fate::NotProposed,
            ));
        }
        let command = command.ok_or_else(|| status::invalid_argument("command is missing"))?;
        self.openings.admit(&command, caller)?;
        let command =
            wire::command::encode(command).map_err(|error| status::invalid_argument(error.to_string()))?;
        Ok(Pending {
            request: self.ids.draw(),
            command,
            traceparent: trace
                .map(|received| travelling(&Traces::draw(&self.tracer, received)))
                .unwrap_or_default(),
            forwarded,
        })
    }
}

#[tonic::async_trait]
impl Proposer for Service {
    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        let deadline = deadline(request.metadata());
        let caller = request.remote_addr().map(|address| address.ip());
        // With tracing off, the caller's sampled context is passed on.
        let trace = received(request.extensions()).cloned().or_else(|| {
            let context = request
                .metadata()
                .get(TRACEPARENT)
                .filter(|_| !self.tracer.is_on());
            context.and_then(|context| Incoming::read(context.as_bytes()).sampled())
        });
        let pb::ProposeRequest { command, forwarded } = request.into_inner();
        let pending = self.pending(command, trace.as_ref(), forwarded, caller)?;
        let mut call = Call {
            request: pending.request,
            inputs: &self.inputs,
            answered: false,
        };
        let (reply, mut outcome) = oneshot::channel();
        let input = Input::Request(requests::Request {
            pending,
            reply: Reply::Call(reply),
            deadline,
            trace,
        });
        if let Err(error) = self.inputs.try_send(input) {
            call.answered = true;
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => status::overloaded("the proposer's queue"),
                mpsc::error::TrySendError::Closed(_) => status::stopping(),
            });
        }
        let (outcome, expired) = tokio::select! {
            // Receiving an answer and waiting are cancel safe.
            outcome = &mut outcome => (outcome, false),
            () = sleep_until(deadline) => {
                call.cancel().await;
                (outcome.await, true)
            }
        };
        call.answered = true;
        // A driver ended without an answer leaves the outcome open.
        let worded = word(outcome.unwrap_or(Outcome::Unknown), expired, || self.late());
        match worded {
            Ok(version) => Ok(Response::new(pb::ProposeResponse {
                version: Some(version),
            })),
            Err(status) => Err(status),
        }
    }

    type ProposeStreamStream = Pin<Box<dyn Stream<Item = Result<pb::ProposeStreamResponse, Status>> + Send>>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<pb::ProposeStreamRequest>>,
    ) -> Result<Response<Self::ProposeStreamStream>, Status> {
        let (answers, outbound) = mpsc::channel(STREAM_ANSWERS_MAX);
        let (replies, outcomes) = mpsc::channel(STREAM_REQUESTS_MAX);
        let conversation = Conversation {
            service: self.clone(),
            caller: request.remote_addr().map(|address| address.ip()),
            answers,
            replies,
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
        };
        self.shutdown
            .spawn(conversation.run(request.into_inner(), outcomes));
        Ok(Response::new(Box::pin(ReceiverStream::new(outbound))))
    }

    async fn fill(&self, request: Request<pb::FillRequest>) -> Result<Response<pb::FillResponse>, Status> {
        let to = Slot::new(request.into_inner().to)
            .map_err(|error| status::invalid_argument(error.to_string()))?;
        let view = self.views.borrow().clone();
        if view.phase != pb::ProposerPhase::Leading {
            return Err(status::no_leader(Fate::NotProposed));
        }
        if view.chosen_to < to {
            self.inputs
                .send(Input::Core(Event::FillWanted(to)))
                .await
                .map_err(|_| status::stopping())?;
        }
        Ok(Response::new(pb::FillResponse {
            chosen_to: view.chosen_to.get(),
        }))
    }

    async fn status(
        &self,
        _: Request<pb::ProposerStatusRequest>,
    ) -> Result<Response<pb::ProposerStatusResponse>, Status> {
        let view = self.views.borrow().clone();
        let not_ready = readiness(&view).err().map(Cow::into_owned).unwrap_or_default();
        let link = |(uuid, (address, chosen_to)): (_, (Address, Slot))| pb::AcceptorLink {
            acceptor: Bytes::copy_from_slice(&paxos_common::paxos::identity::AcceptorUuid::to_bytes(uuid)),
            address: address.to_string(),
            attached: true,
            chosen_to: chosen_to.get(),
        };
        Ok(Response::new(pb::ProposerStatusResponse {
            proposer: view.proposer.get(),
            address: self.address.to_string(),
            software: version().to_owned(),
            cluster_id: view
                .cluster
                .map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes())),
            phase: view.phase.into(),
            ballot: view.ballot.map(pb::Ballot::from),
            leader_address: view.leader.unwrap_or_default(),
            chosen_to: view.chosen_to.get(),
            proposed_to: view.proposed_to.get(),
            queued: view.queued as u64,
            queued_bytes: view.queued_bytes as u64,
            not_ready,
            leader_timeout_ms: self.leader_timeout_ms,
            acceptors: view.links.into_iter().map(link).collect(),
        }))
    }
}

/// A unary call during the wait for an outcome. A call dropped before the answer takes the command out of the queue
/// again, if the command is still there.
struct Call<'a> {
    request: RequestId,
    inputs: &'a mpsc::Sender<Input>,
    answered: bool,
}

impl Call<'_> {
    /// Requests an answer now, either way.
    async fn cancel(&self) {
        // An ended driver has dropped the reply; the drop is an answer too.
        let _ = self
            .inputs
            .send(Input::Core(Event::Cancelled(self.request)))
            .await;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // Best effort: a full driver will propose the command, as for any caller that goes away.
            let _ = self.inputs.try_send(Input::Core(Event::Cancelled(self.request)));
        }
    }
}

/// One `ProposeStream`.
struct Conversation {
    service: Service,
    caller: Option<IpAddr>,
    answers: mpsc::Sender<Result<pb::ProposeStreamResponse, Status>>,
    replies: mpsc::Sender<(RequestId, Outcome)>,
    open: HashMap<RequestId, Open>,
    deadlines: BTreeSet<(Instant, RequestId)>,
}

struct Open {
    tag: u64,
    span: Option<Span>,
    deadline: Option<Instant>,
    expired: bool,
}

impl Conversation {
    /// Runs until the client has sent all requests and has all answers, or is gone.
    async fn run(
        mut self,
        mut requests: Streaming<pb::ProposeStreamRequest>,
        mut outcomes: mpsc::Receiver<(RequestId, Outcome)>,
    ) {
        let inputs = self.service.inputs.clone();
        let mut more = true;
        while more || !self.open.is_empty() {
            let next_deadline = self.deadlines.first().map(|&(at, _)| at);
            let goes_on = tokio::select! {
                // Receiving and waiting are cancel safe.
                request = requests.message(), if more && self.open.len() < STREAM_REQUESTS_MAX => match request {
                    Ok(Some(request)) => self.take(request).await,
                    Ok(None) => { more = false; true }
                    Err(status) => {
                        let status = broken_off(status, !self.open.is_empty());
                        // A departed client does not hear the status.
                        let _ = self.answers.send(Err(status)).await;
                        false
                    }
                },
                Some((request, outcome)) = outcomes.recv() => self.answer(request, outcome).await,
                () = sleep_until(next_deadline) => self.expire().await,
                () = self.answers.closed() => false,
                () = inputs.closed() => {
                    // The driver has ended, after answering every possible request.
                    while let Ok((request, outcome)) = outcomes.try_recv() {
                        self.answer(request, outcome).await;
                    }
                    if self.open.is_empty() {
                        // Requests beyond the answered requests were never read. A departed client does not hear the
                        // status.
                        let _ = self.answers.send(Err(status::stopping())).await;
                    }
                    false
                }
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
        let pending = self
            .service
            .pending(command, trace.as_ref(), forwarded, self.caller);
        let pending = match pending {
            Ok(pending) => pending,
            Err(status) => {
                end(span, &Err(status.clone()));
                return self.send(tag, Answer::Error(status::to_proto(&status))).await;
            }
        };
        let deadline = (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms.into()));
        let request = pending.request;
        let reply = Reply::Stream(self.replies.clone());
        let input = Input::Request(requests::Request {
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
            Open {
                tag,
                span,
                deadline,
                expired: false,
            },
        );
        true
    }

    async fn answer(&mut self, request: RequestId, outcome: Outcome) -> bool {
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
    async fn expire(&mut self) -> bool {
        let now = Instant::now();
        while let Some(&(at, request)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            if let Some(open) = self.open.get_mut(&request) {
                open.expired = true;
            }
            if self
                .service
                .inputs
                .send(Input::Core(Event::Cancelled(request)))
                .await
                .is_err()
            {
                return false;
            }
        }
        true
    }

    async fn send(&self, tag: u64, answer: Answer) -> bool {
        self.answers
            .send(Ok(pb::ProposeStreamResponse {
                tag,
                answer: Some(answer),
            }))
            .await
            .is_ok()
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

/// An outcome in the words of the contract. `late` names the acceptors behind a delay.
fn word(outcome: Outcome, expired: bool, late: impl FnOnce() -> String) -> Result<pb::Version, Status> {
    Err(match outcome {
        Outcome::Chosen(version) => return Ok(version.into()),
        Outcome::Unknown if expired => status::deadline(Fate::OutcomeUnknown, &late()),
        Outcome::Unknown => status::no_leader(Fate::OutcomeUnknown),
        Outcome::NotProposed(Reason::Overloaded) => status::overloaded("the proposer's queue"),
        Outcome::NotProposed(Reason::NoQuorum) => status::no_quorum(&late()),
        Outcome::NotProposed(Reason::NotLeading) => status::no_leader(Fate::NotProposed),
        Outcome::NotProposed(Reason::Cancelled) => status::deadline(Fate::NotProposed, &late()),
        Outcome::NotProposed(Reason::Stopping) => status::stopping(),
    })
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
