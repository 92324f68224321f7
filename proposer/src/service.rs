//! The gRPC service of the proposer: checks requests, hands them to the driver, and words the answers.

use std::{borrow::Cow, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::Stream;
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        proposer::{Event, Pending, ProposalOutcome, Reason, RequestId},
        slot::Slot,
    },
    peer::{Address, Dialer},
    service::{
        config::version,
        server::{Rights, deadline, received, rights, sleep_until},
        shutdown::Shutdown,
    },
    tls::RoleName,
    trace::{Incoming, SpanContext, Tracer, names::TRACEPARENT, travelling},
    wire::{
        self,
        status::{self, Fate},
    },
};
use paxos_proto::v1::{self as pb, proposer_server::Proposer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

mod change;
mod conversation;

use crate::{
    input::Input,
    metrics::readiness,
    openings::Openings,
    requests::{self, OutcomeSender, RequestIds},
    state_limit,
    trace::Traces,
    view::{AcceptorLink, View},
};
use conversation::Conversation;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    inputs: mpsc::Sender<Input>,
    views: watch::Receiver<View>,
    address: Address,
    leader_timeout_ms: u32,
    state_bytes_max: u64,
    ids: Arc<RequestIds>,
    openings: Openings,
    shutdown: Shutdown,
    tracer: Tracer,
    dialer: Dialer,
}

impl Service {
    pub(crate) fn new(
        inputs: mpsc::Sender<Input>,
        views: watch::Receiver<View>,
        address: Address,
        (leader_timeout, state_bytes_max): (Duration, u64),
        shutdown: Shutdown,
        (tracer, dialer): (Tracer, Dialer),
    ) -> Self {
        Self {
            inputs,
            views,
            address,
            leader_timeout_ms: u32::try_from(leader_timeout.as_millis()).unwrap_or(u32::MAX),
            state_bytes_max,
            ids: Arc::default(),
            openings: Openings::default(),
            shutdown,
            tracer,
            dialer,
        }
    }

    /// The acceptors that delay commands; empty for none.
    fn late(&self) -> String {
        self.views.borrow().late.clone()
    }

    /// Address of the leader that commands are forwarded to; empty for none. Without news the result is `None`. `before`:
    /// the last address reported to the caller.
    fn leader_news(&self, before: Option<&str>) -> Option<String> {
        let view = self.views.borrow();
        let leader = match view.phase {
            pb::ProposerPhase::Leading => "",
            pb::ProposerPhase::Unspecified
            | pb::ProposerPhase::Forming
            | pb::ProposerPhase::Standby
            | pb::ProposerPhase::Campaigning => view.leader.as_deref().unwrap_or_default(),
        };
        (Some(leader) != before).then(|| leader.to_owned())
    }

    /// Makes a command for the core.
    fn pending(
        &self,
        command: Option<pb::Command>,
        trace: Option<&SpanContext>,
        forwarded: bool,
        (caller, rights): (Option<IpAddr>, &Rights),
    ) -> Result<Pending, Status> {
        if forwarded {
            // Only proposers forward commands.
            rights.check(&[RoleName::Proposer], "a forwarded command")?;
        }
        if self.views.borrow().cluster.is_none() {
            return Err(status::unavailable(
                "the cluster is not formed yet",
                Fate::NotProposed,
            ));
        }
        let mut command = command.ok_or_else(|| status::invalid_argument("command is missing"))?;
        state_limit::admit(&command, self.views.borrow().state_bytes, self.state_bytes_max)?;
        self.openings.admit(&command, caller)?;
        // The proposer that forwarded a command has bound the command to the caller.
        if let Some(name) = rights.caller_name().filter(|_| !forwarded) {
            wire::opener::bind_command(&mut command, name);
        }
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
        let rights = rights(request.extensions());
        // With tracing off, the caller's sampled context is passed on.
        let trace = received(request.extensions()).cloned().or_else(|| {
            let context = request
                .metadata()
                .get(TRACEPARENT)
                .filter(|_| !self.tracer.is_on());
            context.and_then(|context| Incoming::read(context.as_bytes()).sampled())
        });
        let pb::ProposeRequest { command, forwarded } = request.into_inner();
        let pending = self.pending(command, trace.as_ref(), forwarded, (caller, &rights))?;
        let mut call = UnaryCall {
            request: pending.request,
            inputs: &self.inputs,
            answered: false,
        };
        let (reply, mut outcome) = oneshot::channel();
        let input = Input::Request(requests::ClientRequest {
            pending,
            reply: OutcomeSender::Call(reply),
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
        let worded = word(outcome.unwrap_or(ProposalOutcome::Unknown), expired, || {
            self.late()
        });
        match worded {
            Ok(version) => Ok(Response::new(pb::ProposeResponse {
                version: Some(version),
                leader_address: self.leader_news(None).unwrap_or_default(),
            })),
            Err(status) => Err(status),
        }
    }

    type ProposeStreamStream = Pin<Box<dyn Stream<Item = Result<pb::ProposeStreamResponse, Status>> + Send>>;

    async fn propose_stream(
        &self,
        request: Request<Streaming<pb::ProposeStreamRequest>>,
    ) -> Result<Response<Self::ProposeStreamStream>, Status> {
        let caller = request.remote_addr().map(|address| address.ip());
        let rights = rights(request.extensions());
        let (conversation, answers) = Conversation::new(self.clone(), caller, rights);
        let requests = request.into_inner();
        self.shutdown.spawn(conversation.run(requests));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
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

    type ChangeMembersStream = ReceiverStream<Result<pb::ChangeMembersResponse, Status>>;

    async fn change_members(
        &self,
        request: Request<pb::ChangeMembersRequest>,
    ) -> Result<Response<Self::ChangeMembersStream>, Status> {
        let answers = self.change(request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn status(
        &self,
        _: Request<pb::ProposerStatusRequest>,
    ) -> Result<Response<pb::ProposerStatusResponse>, Status> {
        let view = self.views.borrow().clone();
        let not_ready = readiness(&view).err().map(Cow::into_owned).unwrap_or_default();
        let link = |(uuid, link): (AcceptorUuid, AcceptorLink)| pb::AcceptorLink {
            acceptor: Bytes::copy_from_slice(&uuid.to_bytes()),
            address: link.address.to_string(),
            attached: true,
            chosen_to: link.chosen_to.get(),
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
            configuration: view.configuration.as_deref().map(pb::Configuration::from),
            change_to: view
                .change
                .as_ref()
                .map(|change| pb::Configuration::from(&*change.configuration)),
            change_ms: view
                .change
                .as_ref()
                .and_then(|change| Some(wire::heard::millis(change.begun?.elapsed()))),
            change: view.change.and_then(|change| {
                change::answer_of(&change.stage, &change.configuration, change.taken).ok()
            }),
        }))
    }
}

/// A unary call during the wait for an outcome. A call dropped before the answer takes the command out of the queue
/// again, if the command is still there.
struct UnaryCall<'a> {
    request: RequestId,
    inputs: &'a mpsc::Sender<Input>,
    answered: bool,
}

impl UnaryCall<'_> {
    /// Requests an answer now, either way.
    async fn cancel(&self) {
        // An ended driver has dropped the reply; the drop is an answer too.
        let _ = self
            .inputs
            .send(Input::Core(Event::Cancelled(self.request)))
            .await;
    }
}

impl Drop for UnaryCall<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // Best effort: a full driver will propose the command, as for any caller that goes away.
            let _ = self.inputs.try_send(Input::Core(Event::Cancelled(self.request)));
        }
    }
}

/// An outcome in the words of the contract. `late` names the acceptors behind a delay.
fn word(
    outcome: ProposalOutcome,
    expired: bool,
    late: impl FnOnce() -> String,
) -> Result<pb::Version, Status> {
    Err(match outcome {
        ProposalOutcome::Chosen(version) => return Ok(version.into()),
        ProposalOutcome::Unknown if expired => status::deadline(Fate::OutcomeUnknown, &late()),
        ProposalOutcome::Unknown => status::no_leader(Fate::OutcomeUnknown),
        ProposalOutcome::NotProposed(Reason::Overloaded) => status::overloaded("the proposer's queue"),
        ProposalOutcome::NotProposed(Reason::NoQuorum) => status::no_quorum(&late()),
        ProposalOutcome::NotProposed(Reason::NotLeading) => status::no_leader(Fate::NotProposed),
        ProposalOutcome::NotProposed(Reason::Cancelled) => status::deadline(Fate::NotProposed, &late()),
        ProposalOutcome::NotProposed(Reason::Stopping) => status::stopping(),
    })
}
