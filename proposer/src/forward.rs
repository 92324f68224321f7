//! A standby's commands on their way to the leader: one stream to each leading proposer, marked as forwarded.

use std::{collections::HashMap, time::Duration};

use paxos_common::{
    paxos::{
        proposer::{Outcome, Pending, Reason},
        slot::Version,
    },
    peer::{Address, MESSAGE_BYTES_MAX, connect_lazy},
    status::{self, Fate},
    wire,
};
use paxos_proto::v1::{self as pb, propose_stream_response::Answer, proposer_client::ProposerClient};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::driver::Input;

/// Commands forwarded and not answered: as many as a leader takes of one stream.
const FORWARDS_MAX: usize = 2_048;

/// How long the leader may take to open the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of a forwarded command.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// The leader's word, or that we do not know.
    Told(Outcome),
    /// It did not reach a leader: it may be handed in again.
    Returned,
}

/// A stream to one leader.
#[derive(Debug)]
pub(crate) struct Forwarder {
    outbox: mpsc::Sender<(Pending, Option<Instant>)>,
}

impl Forwarder {
    /// Opens a stream in the background. What was certainly not proposed comes back as an [`Input::Forwarded`], and
    /// so do all outcomes.
    pub(crate) fn open(address: Address, inputs: mpsc::Sender<Input>) -> Self {
        let (outbox, inbox) = mpsc::channel(FORWARDS_MAX);
        tokio::spawn(forward(address, inbox, inputs));
        Self { outbox }
    }

    /// Sends a command on.
    ///
    /// # Errors
    /// Gives it back when the stream is broken or full.
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
    address: Address,
    mut inbox: mpsc::Receiver<(Pending, Option<Instant>)>,
    inputs: mpsc::Sender<Input>,
) {
    let mut open: HashMap<u64, Pending> = HashMap::new();
    let relayed = relay(&address, &mut inbox, &mut open, &inputs).await;
    let mut unread = false;
    if let Err(status) = relayed {
        tracing::debug!(%address, reason = status.message(), "the stream to the leader broke");
        // A proposer that stops says so when it has answered all that it had read.
        unread = status::fate_of(&status) == Some(Fate::NotProposed);
    }
    // Nothing more is taken; what waits in the channel was never sent.
    inbox.close();
    let unsent =
        std::iter::from_fn(|| inbox.try_recv().ok()).map(|(pending, _)| (pending, Forwarded::Returned));
    let fate = |pending| match unread {
        true => (pending, Forwarded::Returned),
        false => (pending, Forwarded::Told(Outcome::Unknown)),
    };
    let sent = open.into_values().map(fate);
    for (pending, forwarded) in sent.chain(unsent) {
        if inputs.send(Input::Forwarded(pending, forwarded)).await.is_err() {
            return;
        }
    }
}

/// Sends what comes in and passes on what comes back, until the stream breaks or nobody needs it.
async fn relay(
    address: &Address,
    inbox: &mut mpsc::Receiver<(Pending, Option<Instant>)>,
    open: &mut HashMap<u64, Pending>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), tonic::Status> {
    let mut client = ProposerClient::new(connect_lazy(address))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (requests, outbound) = mpsc::channel(FORWARDS_MAX);
    let opening = timeout(OPEN_TIMEOUT, client.propose_stream(ReceiverStream::new(outbound)));
    let mut answers = opening
        .await
        .map_err(|_| tonic::Status::unavailable("no answer"))??
        .into_inner();
    loop {
        tokio::select! {
            // Receiving from a channel and from a stream are cancel safe.
            next = inbox.recv(), if open.len() < FORWARDS_MAX => {
                let Some((pending, deadline)) = next else { return Ok(()) };
                let tag = pending.request.0;
                let request = request(&pending, deadline);
                open.insert(tag, pending);
                // The channel holds as many as may be open, so a full one is a broken one.
                requests.try_send(request).map_err(|_| tonic::Status::unavailable("the stream is closed"))?;
            }
            answer = answers.message() => {
                let Some(answer) = answer? else { return Ok(()) };
                let Some(pending) = open.remove(&answer.tag) else { continue };
                let forwarded = read(answer.answer);
                if inputs.send(Input::Forwarded(pending, forwarded)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

fn request(pending: &Pending, deadline: Option<Instant>) -> pb::ProposeStreamRequest {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()).as_millis());
    pb::ProposeStreamRequest {
        tag: pending.request.0,
        // It was encoded by this very process, so it decodes; an empty one would be refused by the leader.
        command: wire::command::decode(&pending.command).ok(),
        timeout_ms: left.map_or(0, |left| u32::try_from(left.max(1)).unwrap_or(u32::MAX)),
        traceparent: String::from_utf8_lossy(&pending.traceparent).into_owned(),
        forwarded: true,
    }
}

fn read(answer: Option<Answer>) -> Forwarded {
    let error = match answer {
        Some(Answer::Version(version)) => match Version::try_from(version) {
            Ok(version) => return Forwarded::Told(Outcome::Chosen(version)),
            Err(_) => return Forwarded::Told(Outcome::Unknown),
        },
        Some(Answer::Error(error)) => status::from_proto(&error),
        None => return Forwarded::Told(Outcome::Unknown),
    };
    match (status::fate_of(&error), error.code()) {
        (Some(Fate::NotProposed), Code::ResourceExhausted) => {
            Forwarded::Told(Outcome::NotProposed(Reason::Overloaded))
        }
        (Some(Fate::NotProposed), Code::DeadlineExceeded) => {
            Forwarded::Told(Outcome::NotProposed(Reason::Cancelled))
        }
        (Some(Fate::NotProposed), _) => Forwarded::Returned,
        (Some(Fate::OutcomeUnknown) | None, _) => Forwarded::Told(Outcome::Unknown),
    }
}
