//! Forwards a standby's commands to the leader: one stream to each leading proposer, marked as forwarded.

use std::{collections::HashMap, error::Error as _, pin::pin, time::Duration};

use paxos_common::{
    paxos::{
        proposer::{Pending, ProposalOutcome, Reason},
        slot::Version,
    },
    peer::{Address, Dialer},
    wire::{
        command,
        status::{self, Fate},
    },
};
use paxos_proto::v1::{self as pb, propose_stream_response::Answer, proposer_client::ProposerClient};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    forwarded::{ForwardedRequest, propose_stream},
    input::{Forwarded, Input},
};

/// Maximum number of forwarded commands without an answer: the limit of a leader for one stream.
const FORWARDS_MAX: usize = 2_048;

/// Maximum time for the leader to open the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval of the probes to a former leader with open answers, and timeout of each probe.
const FORMER_PROBE: Duration = Duration::from_millis(250);

/// Consecutive unanswered probes after which the open answers of a former leader are given up.
const FORMER_PROBES_MAX: u32 = 2;

/// Interval of an opening's checks for a new leader.
const OPENING_LOOK: Duration = Duration::from_millis(50);

/// A stream to one leader.
#[derive(Debug)]
pub(crate) struct Forwarder {
    outbox: mpsc::Sender<(Pending, Option<Instant>)>,
}

impl Forwarder {
    /// Opens a stream in the background. Outcomes, and commands certainly not proposed, come back as an
    /// [`Input::Forwarded`].
    pub(crate) fn open(address: Address, dialer: Dialer, inputs: mpsc::Sender<Input>) -> Self {
        let (outbox, inbox) = mpsc::channel(FORWARDS_MAX);
        tokio::spawn(forward((address, dialer), inbox, inputs));
        Self { outbox }
    }

    /// Forwards a command.
    ///
    /// # Errors
    /// Returns the command when the stream is broken or full (`true`: full).
    pub(crate) fn send(&self, pending: Pending, deadline: Option<Instant>) -> Result<(), (Pending, bool)> {
        self.outbox
            .try_send((pending, deadline))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full((pending, _)) => (pending, true),
                mpsc::error::TrySendError::Closed((pending, _)) => (pending, false),
            })
    }
}

async fn forward(
    (address, dialer): (Address, Dialer),
    mut inbox: mpsc::Receiver<(Pending, Option<Instant>)>,
    inputs: mpsc::Sender<Input>,
) {
    let mut open: HashMap<u64, Pending> = HashMap::new();
    let relayed = relay((&address, &dialer), &mut inbox, &mut open, &inputs).await;
    let mut unread = false;
    if let Err(status) = relayed {
        tracing::debug!(%address, reason = status.message(), "the stream to the leader broke");
        // A stopping proposer sends this status after answering every command read before.
        unread = status::fate_of(&status) == Some(Fate::NotProposed);
    }
    // Nothing more is taken; commands left in the channel were never sent.
    inbox.close();
    let unsent =
        std::iter::from_fn(|| inbox.try_recv().ok()).map(|(pending, _)| (pending, Forwarded::Returned));
    let fate = |pending| match unread {
        true => (pending, Forwarded::Returned),
        false => (pending, Forwarded::Decided(ProposalOutcome::Unknown)),
    };
    let sent = open.into_values().map(fate);
    for (pending, forwarded) in sent.chain(unsent) {
        if inputs.send(Input::Forwarded(pending, forwarded)).await.is_err() {
            return;
        }
    }
}

/// Sends commands and passes on their outcomes, until the stream breaks, or until nothing more is to be sent and every
/// sent command is answered.
async fn relay(
    (address, dialer): (&Address, &Dialer),
    inbox: &mut mpsc::Receiver<(Pending, Option<Instant>)>,
    open: &mut HashMap<u64, Pending>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), tonic::Status> {
    let (requests, outbound) = mpsc::channel(FORWARDS_MAX);
    let opening = propose_stream(dialer.to_proposer(address), ReceiverStream::new(outbound));
    let opening = timeout(OPEN_TIMEOUT, opening);
    let mut answers = tokio::select! {
        // Cancelled only when nothing was sent.
        opened = opening => opened.map_err(|_| tonic::Status::unavailable("no answer"))??,
        // Cancel safe: `closed` only checks.
        () = closed(inbox) => return Err(tonic::Status::unavailable("another proposer leads by now")),
    };
    let mut requests = Some(requests);
    let mut stopped = pin!(stopped(address, dialer));
    while requests.is_some() || !open.is_empty() {
        let (pending, forwarded) = tokio::select! {
            // Receiving from a channel and from a stream are cancel safe.
            next = inbox.recv(), if requests.is_some() && open.len() < FORWARDS_MAX => {
                let (Some((pending, deadline)), Some(sender)) = (next, &requests) else {
                    // A new proposer leads by now. Sent commands are still answered by this leader.
                    requests = None;
                    continue;
                };
                let tag = pending.request.0;
                // The channel has room for every open command, so a full channel is a broken channel.
                if sender.try_send(request(&pending, deadline)).is_ok() {
                    open.insert(tag, pending);
                    continue;
                }
                // Never sent. The fate of all other commands follows from the end of the answers.
                requests = None;
                (pending, Forwarded::Returned)
            }
            answer = answers.message() => {
                let Some(answer) = answer? else { return Ok(()) };
                let Some(pending) = open.remove(&answer.tag) else { continue };
                (pending, read(answer.answer))
            }
            // Not cancelled by the other arms: the same future is polled on. Without the probes, a stalled former
            // leader would keep outcomes open for any length of time.
            () = &mut stopped, if requests.is_none() => {
                return Err(tonic::Status::unavailable("the former leader does not answer any more"));
            }
        };
        if inputs.send(Input::Forwarded(pending, forwarded)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns once the channel accepts no more commands: a new proposer leads.
async fn closed(inbox: &mpsc::Receiver<(Pending, Option<Instant>)>) {
    while !inbox.is_closed() {
        sleep(OPENING_LOOK).await;
    }
}

/// Returns once the proposer at `address` leaves several consecutive probes unanswered, on a separate connection. A
/// slow proposer answers the probes.
async fn stopped(address: &Address, dialer: &Dialer) {
    let mut unanswered = 0;
    while unanswered < FORMER_PROBES_MAX {
        sleep(FORMER_PROBE).await;
        let mut client = ProposerClient::new(dialer.to_proposer(address));
        unanswered = match timeout(FORMER_PROBE, client.status(pb::ProposerStatusRequest {})).await {
            Ok(Ok(_)) => 0,
            // An error sent by the proposer itself is an answer; the transport's own errors have a source.
            Ok(Err(status)) if status.source().is_none() => 0,
            Ok(Err(_)) | Err(_) => unanswered + 1,
        };
    }
}

fn request(pending: &Pending, deadline: Option<Instant>) -> ForwardedRequest {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_millis());
    ForwardedRequest {
        tag: pending.request.0,
        // This process encoded the command; the leader would refuse an empty command.
        command: command::stored_form(&pending.command).unwrap_or_default(),
        timeout_ms: left.map_or(0, |left| u32::try_from(left.max(1)).unwrap_or(u32::MAX)),
        traceparent: String::from_utf8_lossy(&pending.traceparent).into_owned(),
        forwarded: true,
    }
}

fn read(answer: Option<Answer>) -> Forwarded {
    let error = match answer {
        Some(Answer::Version(version)) => match Version::try_from(version) {
            Ok(version) => return Forwarded::Decided(ProposalOutcome::Chosen(version)),
            Err(_) => return Forwarded::Decided(ProposalOutcome::Unknown),
        },
        Some(Answer::Error(error)) => status::from_proto(&error),
        None => return Forwarded::Decided(ProposalOutcome::Unknown),
    };
    match (status::fate_of(&error), error.code()) {
        (Some(Fate::NotProposed), Code::ResourceExhausted) => {
            Forwarded::Decided(ProposalOutcome::NotProposed(Reason::Overloaded))
        }
        (Some(Fate::NotProposed), Code::DeadlineExceeded) => {
            Forwarded::Decided(ProposalOutcome::NotProposed(Reason::Cancelled))
        }
        (Some(Fate::NotProposed), _) => Forwarded::Returned,
        (Some(Fate::OutcomeUnknown) | None, _) => Forwarded::Decided(ProposalOutcome::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::{StreamExt as _, stream::BoxStream};
    use paxos_common::paxos::{proposer::RequestId, slot::Slot, value::EncodedCommand};
    use pb::proposer_server::{Proposer, ProposerServer};
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status, Streaming};

    /// Answers each request in turn. After `answers` requests the stream is closed like a stopping leader's.
    struct FakeLeader {
        answers: usize,
    }

    #[tonic::async_trait]
    impl Proposer for FakeLeader {
        type ProposeStreamStream = BoxStream<'static, Result<pb::ProposeStreamResponse, Status>>;

        async fn propose_stream(
            &self,
            requests: Request<Streaming<pb::ProposeStreamRequest>>,
        ) -> Result<Response<Self::ProposeStreamStream>, Status> {
            let answered = requests.into_inner().take(self.answers).map(|request| {
                let answer = Some(Answer::Version(pb::Version { slot: 7, offset: 0 }));
                Ok(pb::ProposeStreamResponse {
                    tag: request?.tag,
                    answer,
                    ..pb::ProposeStreamResponse::default()
                })
            });
            let stopping = futures::stream::once(async { Err(status::stopping()) });
            Ok(Response::new(answered.chain(stopping).boxed()))
        }

        async fn propose(
            &self,
            _: Request<pb::ProposeRequest>,
        ) -> Result<Response<pb::ProposeResponse>, Status> {
            Err(Status::unimplemented("not forwarded so"))
        }

        type ChangeMembersStream = BoxStream<'static, Result<pb::ChangeMembersResponse, Status>>;

        async fn change_members(
            &self,
            _: Request<pb::ChangeMembersRequest>,
        ) -> Result<Response<Self::ChangeMembersStream>, Status> {
            Err(Status::unimplemented("not forwarded"))
        }

        async fn fill(&self, _: Request<pb::FillRequest>) -> Result<Response<pb::FillResponse>, Status> {
            Err(Status::unimplemented("not forwarded"))
        }

        async fn status(
            &self,
            _: Request<pb::ProposerStatusRequest>,
        ) -> Result<Response<pb::ProposerStatusResponse>, Status> {
            Err(Status::unimplemented("not asked"))
        }
    }

    async fn leader(answers: usize) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(ProposerServer::new(FakeLeader { answers }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        address.parse().unwrap()
    }

    fn pending(number: u64) -> Pending {
        Pending {
            request: RequestId(number),
            command: EncodedCommand::from_batch_of_one(Bytes::new()),
            traceparent: Bytes::new(),
            forwarded: false,
        }
    }

    #[tokio::test]
    async fn what_was_sent_is_still_answered_when_nothing_more_is_sent_that_way() {
        let (inputs, mut inbox) = mpsc::channel(16);
        let forwarder = Forwarder::open(leader(usize::MAX).await, Dialer::default(), inputs);
        for number in 0..3 {
            forwarder.send(pending(number), None).unwrap();
        }
        let version = Version {
            slot: Slot::new(7).unwrap(),
            offset: 0,
        };
        let mut forwarder = Some(forwarder);
        for _ in 0..3 {
            let input = inbox.recv().await;
            // The stream is open, and a new proposer leads by now.
            drop(forwarder.take());
            assert!(
                matches!(
                    input,
                    Some(Input::Forwarded(_, Forwarded::Decided(ProposalOutcome::Chosen(answered)))) if answered == version
                ),
                "{input:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_a_leader_that_stops_has_not_read_comes_back() {
        let (inputs, mut inbox) = mpsc::channel(16);
        let forwarder = Forwarder::open(leader(2).await, Dialer::default(), inputs);
        for number in 0..5 {
            // A command refused at once is handed in again, too.
            let _ = forwarder.send(pending(number), None);
        }
        let mut answered = Vec::new();
        for _ in 0..5 {
            let Some(Input::Forwarded(pending, forwarded)) = inbox.recv().await else {
                panic!("each has an outcome");
            };
            answered.push((pending.request.0, matches!(forwarded, Forwarded::Returned)));
        }
        answered.sort_unstable();
        assert_eq!(
            answered,
            [(0, false), (1, false), (2, true), (3, true), (4, true)]
        );
    }
}
