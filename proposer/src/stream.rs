//! The `Accept` stream of a ballot to an acceptor, on a separate connection: reopened after each break.

use std::{pin::pin, time::Duration};

use futures::StreamExt as _;
use paxos_common::{
    paxos::{
        ballot::Ballot,
        identity::{AcceptorUuid, ClusterId, RunNumber},
        message::{Accept, UNANSWERED_MAX},
        proposer::Event,
    },
    peer::{
        Address, Backoff, Dialer, MessageLimits as _,
        acceptor::{Unusable, answer_within},
    },
    wire::{
        self,
        heard::{Alive, StreamAnswer},
    },
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    input::{Input, Outgoing, StreamReport},
    link::check,
    witnessing::Witnessing,
};

/// Maximum number of messages in flight into a stream: the core's unanswered messages, the first message of the stream,
/// and a heartbeat.
const OUTBOX_MAX: usize = 34;
const _: () = assert!(OUTBOX_MAX as u64 == UNANSWERED_MAX + 2);

/// Maximum time for an acceptor to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Maximum time for an acceptor to answer the last messages of a stopping proposer.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

/// Open time after which a broken stream is reopened without a wait.
const LASTING: Duration = Duration::from_secs(1);

/// An acceptor's address, and the run of the last introduction; none while the acceptor must show its runs again.
pub(crate) type StreamTarget = Option<(Address, RunNumber)>;

/// Shared by all streams of a proposer.
#[derive(Clone, Debug)]
pub(crate) struct StreamContext {
    pub(crate) dialer: Dialer,
    pub(crate) cluster: ClusterId,
    /// Interval of an acceptor's `Alive` reports.
    pub(crate) alive_interval: Duration,
    pub(crate) inputs: mpsc::Sender<Input>,
}

/// The driver's end of a stream. Dropping it shuts the connection at once.
#[derive(Debug)]
pub(crate) struct Stream {
    /// None while the stream is not open.
    outbox: Option<mpsc::Sender<Outgoing>>,
    /// The witnesses sent to the acceptor.
    witnessing: Witnessing,
    end: oneshot::Sender<()>,
}

/// Result of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The message is on its way.
    Yes,
    /// The message was a heartbeat, and more messages wait to be sent: the acceptor hears from the leader anyway.
    NotNeeded,
    /// The stream is not open.
    NotOpen,
    /// No room: the acceptor was sent more messages than may stay unanswered.
    NoRoom,
}

impl Stream {
    /// A stream for opening in the background, and the opening task. `first` is the first message of each opening.
    pub(crate) fn open(
        acceptor: AcceptorUuid,
        first: Accept,
        place: watch::Receiver<StreamTarget>,
        context: StreamContext,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (end, ended) = oneshot::channel();
        let stream = Self {
            outbox: None,
            witnessing: Witnessing::default(),
            end,
        };
        let keeper = StreamKeeper {
            acceptor,
            first,
            place,
            context,
        };
        (stream, keeper.run(ended))
    }

    pub(crate) fn opened(&mut self, outbox: mpsc::Sender<Outgoing>) {
        self.outbox = Some(outbox);
        self.witnessing = Witnessing::default();
    }

    pub(crate) fn broke(&mut self) {
        self.outbox = None;
    }

    /// Sends a message; `complete` adds the rest, and is called only when the message goes out.
    pub(crate) fn send(
        &mut self,
        accept: Accept,
        complete: impl FnOnce(Accept, &mut Witnessing) -> Outgoing,
    ) -> Sent {
        let Some(outbox) = &self.outbox else {
            return Sent::NotOpen;
        };
        if is_heartbeat(&accept) && outbox.capacity() < outbox.max_capacity() {
            return Sent::NotNeeded;
        }
        match outbox.try_send(complete(accept, &mut self.witnessing)) {
            Ok(()) => Sent::Yes,
            Err(mpsc::error::TrySendError::Full(_)) => Sent::NoRoom,
            // The report of the break is on its way to the driver.
            Err(mpsc::error::TrySendError::Closed(_)) => Sent::NotOpen,
        }
    }

    /// Sends nothing more on the connection: the acceptor ends the connection after the last answer, and the stream is
    /// reopened.
    pub(crate) fn restart(&mut self) {
        self.outbox = None;
    }

    /// Ends the stream once the acceptor has answered the sent messages, or soon after.
    pub(crate) fn end_after_answers(self) {
        // An ended task needs no signal.
        let _ = self.end.send(());
    }
}

/// A message without an answer: nothing is lost when the message is not sent.
fn is_heartbeat(accept: &Accept) -> bool {
    accept.sequence == 0 && accept.proposals.is_empty() && !accept.resign
}

/// Whether the acceptor refuses a message of the stream: the next stream meets the same refusal.
fn is_refusal(broken: &Unusable) -> bool {
    let Unusable::Call(status) = broken else {
        return broken.is_refusal();
    };
    matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument)
}

/// Keeps a stream open.
struct StreamKeeper {
    acceptor: AcceptorUuid,
    first: Accept,
    place: watch::Receiver<StreamTarget>,
    context: StreamContext,
}

impl StreamKeeper {
    /// Runs until the driver drops the other end, and for a moment longer on the driver's request.
    async fn run(mut self, mut end: oneshot::Receiver<()>) {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(200));
        let mut at_once = true;
        let mut is_logged = false;
        loop {
            let mut opened_at = None;
            let broken = match self.serve(&mut end, &mut opened_at).await {
                Ok(()) => return,
                Err(broken) => broken,
            };
            tracing::debug!(acceptor = %self.acceptor, ballot = %self.first.ballot, reason = %broken,
                "an Accept stream broke");
            if is_refusal(&broken) && !std::mem::replace(&mut is_logged, true) {
                tracing::error!(acceptor = %self.acceptor, ballot = %self.first.ballot, reason = %broken,
                    "an acceptor refuses the messages of this leader");
            }
            if opened_at.is_some() && !self.report(StreamReport::Broke).await {
                return;
            }
            if opened_at.is_some_and(|at: Instant| at.elapsed() >= LASTING) {
                backoff.reset();
                at_once = true;
            }
            if std::mem::take(&mut at_once) {
                continue;
            }
            tokio::select! {
                // All arms only wait.
                _ = &mut end => return,
                () = sleep(backoff.next_delay()) => {}
                _ = self.place.changed() => {}
            }
        }
    }

    /// Opens the stream and passes on the answers, until the stream breaks (an error) or the driver has ended the
    /// stream.
    async fn serve(
        &mut self,
        end: &mut oneshot::Receiver<()>,
        opened_at: &mut Option<Instant>,
    ) -> Result<(), Unusable> {
        let mut places = self.place.clone();
        let introduced = async {
            let place = places.wait_for(Option::is_some).await.ok()?;
            place.clone()
        };
        let place = tokio::select! {
            // Both arms only wait.
            _ = &mut *end => return Ok(()),
            place = introduced => place,
        };
        // None: the driver has ended.
        let Some((address, run)) = place else {
            return Ok(());
        };
        // Dropped on every return, which shuts the connection.
        let (channel, _socket) = self.context.dialer.dedicated(&address);
        let mut client = AcceptorClient::new(channel).with_message_limits();
        let (outbox, requests) = mpsc::channel(OUTBOX_MAX);
        let first = Outgoing {
            accept: self.first.clone(),
            witnesses: Vec::new(),
            traceparent: String::new(),
        };
        // The channel is empty.
        let _ = outbox.try_send(first);
        let requests = into_requests(requests, self.context.cluster, self.context.alive_interval);
        let opening = answer_within(OPEN_TIMEOUT, client.accept(requests));
        let mut answers = tokio::select! {
            // The first arm ends the call.
            _ = &mut *end => return Ok(()),
            opened = opening => opened?.into_inner(),
        };
        *opened_at = Some(Instant::now());
        if !self.report(StreamReport::Opened(outbox)).await {
            return Ok(());
        }
        let moved = async {
            let is_elsewhere = |place: &StreamTarget| *place != Some((address.clone(), run));
            places.wait_for(is_elsewhere).await.is_ok()
        };
        let mut moved = pin!(moved);
        loop {
            let report = tokio::select! {
                // Receiving and waiting are cancel safe.
                answer = answers.message() => self.said(answer?, run)?,
                ending = &mut *end => {
                    if ending.is_ok() {
                        // The driver has dropped the outbox: the acceptor ends the stream after the last answer.
                        let last_words = async { while let Ok(Some(_)) = answers.message().await {} };
                        let heard = timeout(LAST_WORDS_MAX, last_words).await.is_ok();
                        tracing::debug!(acceptor = %self.acceptor, heard, "last words");
                    }
                    return Ok(());
                }
                moved = &mut moved => return if moved { Err(Unusable::Distrusted) } else { Ok(()) },
            };
            if !self.report(report).await {
                return Ok(());
            }
        }
    }

    fn said(&self, answer: Option<pb::AcceptResponse>, run: RunNumber) -> Result<StreamReport, Unusable> {
        let answer = answer.ok_or(Unusable::Closed)?;
        let stamp = check(answer.stamp.as_ref(), (self.acceptor, run), self.context.cluster)?;
        let event = match StreamAnswer::try_from(answer)? {
            StreamAnswer::Reply(reply) => Event::Answered {
                acceptor: self.acceptor,
                ballot: reply.ballot,
                sequence: reply.sequence,
                answer: reply.answer,
            },
            StreamAnswer::Alive(Alive {
                silent,
                waiting,
                has_space,
                ..
            }) => Event::Alive {
                acceptor: self.acceptor,
                ballot: self.first.ballot,
                silent,
                waiting,
                has_space,
            },
        };
        Ok(StreamReport::Answered(stamp, Box::new(event)))
    }

    /// False when the driver has ended.
    async fn report(&self, report: StreamReport) -> bool {
        let input = Input::Stream(self.acceptor, self.first.ballot, report);
        self.context.inputs.send(input).await.is_ok()
    }
}

/// The outgoing messages of a stream; the first message sets the interval of the acceptor's `Alive` reports.
fn into_requests(
    outbox: mpsc::Receiver<Outgoing>,
    cluster: ClusterId,
    alive_interval: Duration,
) -> impl futures::Stream<Item = pb::AcceptRequest> + Send + 'static {
    let millis = u32::try_from(alive_interval.as_millis()).unwrap_or(u32::MAX);
    let mut alive_interval_ms = millis.max(1);
    ReceiverStream::new(outbox).map(move |outgoing| pb::AcceptRequest {
        witnesses: outgoing.witnesses,
        traceparent: outgoing.traceparent,
        alive_interval_ms: std::mem::take(&mut alive_interval_ms),
        ..wire::accept_request(&outgoing.accept, cluster)
    })
}

/// The streams of a proposer, by ballot and acceptor: of the present ballot, and for a moment of the ballot before.
pub(crate) type StreamsByAcceptor = std::collections::BTreeMap<(Ballot, AcceptorUuid), Stream>;

#[cfg(test)]
mod tests;
