//! The reading side of an `Accept` stream: checks each message, and queues the message for the worker.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use paxos_common::{
    paxos::{
        ballot::Ballot,
        detector::{Ender, RequestKind},
        message::{Accept, AcceptAnswer, Refused, Rejection},
        slot::Slot,
        witness::Witnesses,
    },
    wire::{self, AcceptReply, Malformed, status},
};
use paxos_proto::v1 as pb;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::open::{Fault, OpenStream};
use crate::{
    inbox::{AnswerPlace, AnswerSender, ROOM, STREAM_BYTES_MAX, StreamMessage, new_bytes, weight},
    request::QueuedRequest,
    service::{
        Inner,
        check::{check_address, check_ballot, check_traceparent, malformed},
    },
    shared::Published,
    store::Reader,
    trace::MessageTrace,
};

/// Maximum bytes of a slot's value: a row plus message overhead must fit a message.
const VALUE_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Minimum and maximum time between two *alive* answers: a quarter of the shortest and longest leader timeout.
const INTERVAL_MIN: Duration = Duration::from_millis(5);
const INTERVAL_MAX: Duration = Duration::from_secs(15);

/// See the head of this file.
pub(super) struct AcceptFeed<R> {
    inner: Arc<Inner<R>>,
    open: Arc<OpenStream>,
    answers: AnswerSender,
    asked: Option<oneshot::Sender<Duration>>,
    /// The highest ballot received.
    ballot: Option<Ballot>,
    /// The highest watermark passed to the worker.
    told_to: Slot,
    counts_chunks: bool,
}

impl<R: Reader> AcceptFeed<R> {
    /// `asked` takes the interval requested by the first message. `counts_chunks`: the server reports arriving bytes;
    /// without such reports, whole messages count.
    pub(super) fn new(
        inner: Arc<Inner<R>>,
        open: Arc<OpenStream>,
        answers: AnswerSender,
        asked: oneshot::Sender<Duration>,
        counts_chunks: bool,
    ) -> Self {
        Self {
            inner,
            open,
            answers,
            asked: Some(asked),
            ballot: None,
            told_to: Slot::ZERO,
            counts_chunks,
        }
    }

    /// Reads until the stream ends. Returns the acceptor's reason for ending the stream, if the client must hear the
    /// reason.
    pub(super) async fn read(
        mut self,
        requests: impl Stream<Item = Result<pb::AcceptRequest, Status>>,
    ) -> Option<Fault> {
        let mut requests = pin!(requests);
        let open = Arc::clone(&self.open);
        let stop = self.inner.shutdown.token().clone();
        loop {
            let request = tokio::select! {
                // Safe to cancel: a message outside the queue was not decided, and no answer claimed a decision.
                request = requests.next() => request.transpose(),
                () = open.gone.cancelled() => return None,
                () = open.evicted.cancelled() => {
                    open.close(Ender::Acceptor);
                    return Some(Fault::AtOnce(status::overloaded("the list of Accept streams")));
                }
                () = stop.cancelled() => {
                    open.close(Ender::Acceptor);
                    return None;
                }
            };
            let fault = match request {
                Ok(Some(request)) => {
                    let admitted = tokio::select! {
                        // Cancel safe: only waits.
                        admitted = self.admit(&request) => admitted,
                        () = open.gone.cancelled() => return None,
                    };
                    match admitted.map_err(Fault::from).and_then(|()| self.take(request)) {
                        Ok(()) => continue,
                        Err(fault) => fault,
                    }
                }
                // The client has sent its last message, and may still wait for answers.
                Ok(None) => {
                    open.hearing.ended(open.id, Ender::Peer);
                    return None;
                }
                Err(status) if is_broken(&status) => {
                    open.close(Ender::Peer);
                    return None;
                }
                Err(status) => Fault::Behind(status),
            };
            match &fault {
                Fault::Behind(_) => open.hearing.ended(open.id, Ender::Acceptor),
                Fault::AtOnce(_) => open.close(Ender::Acceptor),
            }
            return Some(fault);
        }
    }

    /// Waits until the jump of the message's round is within the rate limit.
    async fn admit(&self, request: &pb::AcceptRequest) -> Result<(), Status> {
        self.inner.check_caller(request.caller.as_ref())?;
        let ballot = Ballot::try_from(request.ballot.unwrap_or_default()).map_err(malformed)?;
        let promised = self.inner.shared.published().leadership.promised;
        self.inner.jumps.admit(promised, ballot).await
    }

    /// Checks a message, and queues the message for the worker.
    fn take(&mut self, mut request: pb::AcceptRequest) -> Result<(), Fault> {
        let inner = Arc::clone(&self.inner);
        inner.check_caller(request.caller.as_ref())?;
        let said = wire::read_witnesses(&request.witnesses).map_err(malformed)?;
        let traceparent = std::mem::take(&mut request.traceparent);
        let alive_interval = u64::from(request.alive_interval_ms);
        let (ballot, sequence) = (request.ballot, request.sequence);
        let mut accept = match Accept::try_from(request) {
            Ok(accept) => accept,
            Err(newer @ Malformed::Newer { .. }) => {
                let ballot = Ballot::try_from(ballot.unwrap_or_default()).map_err(malformed)?;
                return self.refuse_newer(&newer, (ballot, sequence), alive_interval);
            }
            Err(error) => return Err(malformed(error).into()),
        };
        check_ballot(accept.ballot)?;
        check_address("proposer_address", &accept.address)?;
        check_values(&accept)?;
        self.hear(accept.ballot, Duration::from_millis(alive_interval));

        let published = inner.shared.published();
        let promised = published.leadership.promised;
        let is_stale = accept.ballot < promised;
        let is_turned_away = is_stale || !promised.admits_jump_to(accept.ballot);
        let witnesses = if is_turned_away {
            Witnesses::default()
        } else {
            inner.shared.unheard(&said)
        };
        let is_heartbeat = accept.sequence == 0 && accept.proposals.is_empty() && !accept.resign;
        if is_heartbeat && is_stale {
            self.reject(accept.ballot, published);
            return Ok(());
        }
        if is_heartbeat && witnesses.is_empty() && !self.is_news(&accept, &published) {
            return Ok(());
        }
        let place = if is_heartbeat {
            AnswerPlace::IfTurnedAway(self.answers.clone())
        } else {
            self.reserve()?
        };
        if is_stale {
            // The promise never decreases: the core will reject the message, and needs no values for the rejection.
            accept.proposals = Vec::new();
        }
        let hearing = &inner.shared.hearing;
        let claimed = hearing.queued(
            (accept.ballot, &accept.address, RequestKind::Accept),
            accept.resign,
            is_turned_away,
        );
        let weight = weight(&accept);
        if !self.open.inbox.has_room(weight) {
            let full = format!("this stream's room for {STREAM_BYTES_MAX} bytes of values");
            return Err(Fault::AtOnce(status::overloaded(&full)));
        }
        let is_heard = hearing.is_heard(accept.ballot);
        let bytes = inner.streams.room(is_heard, weight)?;
        if !is_turned_away {
            hearing.worked(accept.ballot, new_bytes(&accept, published.known_to) as u64);
        }
        // Without space nothing is granted, so a later heartbeat passes the watermark again.
        self.told_to = if published.no_space {
            Slot::ZERO
        } else {
            self.told_to.max(accept.chosen_to)
        };
        let trace = MessageTrace::begin(&inner.tracer, &traceparent, &accept, is_heard);
        let message = StreamMessage {
            accept,
            witnesses,
            claimed,
            place,
            bytes,
            trace,
        };
        let inbox = Arc::clone(&self.open.inbox);
        let command = if is_heartbeat {
            inbox.beat(message).then_some(QueuedRequest::Heartbeat(inbox))
        } else {
            inbox.push(message).then_some(QueuedRequest::Accept(inbox))
        };
        if let Some(command) = command
            && inner.queue.push(command).is_err()
        {
            return Err(status::stopping().into());
        }
        Ok(())
    }

    /// Answers a message with a value that this release cannot read. The stream goes on: this acceptor hears the leader,
    /// and the leader goes on with the votes of other acceptors.
    fn refuse_newer(
        &mut self,
        newer: &Malformed,
        (ballot, sequence): (Ballot, u64),
        alive_interval: u64,
    ) -> Result<(), Fault> {
        check_ballot(ballot)?;
        self.hear(ballot, Duration::from_millis(alive_interval));
        let reason = newer.to_string();
        self.inner.instruments.newer(&reason);
        let published = self.inner.shared.published();
        let promised = published.leadership.promised;
        let answer = if ballot < promised {
            AcceptAnswer::Rejected(Rejection {
                promised,
                leader_address: published.leadership.address,
            })
        } else {
            AcceptAnswer::Refused(Refused { reason, promised })
        };
        self.reserve()?.send(AcceptReply {
            stamp: published.stamp,
            ballot,
            sequence,
            answer,
        });
        Ok(())
    }

    /// A place for an answer in the stream's room.
    fn reserve(&self) -> Result<AnswerPlace, Fault> {
        let full = format!("this stream's room for {ROOM} unanswered messages");
        let place = self.answers.reserve();
        place.map_err(|_| Fault::AtOnce(status::overloaded(&full)))
    }

    /// Reports the stream's ballot to the failure detector.
    fn hear(&mut self, ballot: Ballot, alive_interval: Duration) {
        let hearing = &self.inner.shared.hearing;
        let asked = (!alive_interval.is_zero()).then(|| alive_interval.clamp(INTERVAL_MIN, INTERVAL_MAX));
        let is_first = self.ballot.is_none();
        let asked = asked.filter(|_| is_first);
        if self.ballot < Some(ballot) {
            hearing.opened(self.open.id, ballot, asked);
            self.ballot = Some(ballot);
            self.open.spoke(ballot);
        } else if !self.counts_chunks {
            hearing.chunk(self.open.id, 0);
        }
        // The channel closes when no interval is requested.
        if let (Some(sender), Some(asked)) = (self.asked.take(), asked) {
            _ = sender.send(asked);
        }
    }

    /// Whether the worker needs to see a heartbeat.
    fn is_news(&self, accept: &Accept, published: &Published) -> bool {
        accept.ballot > published.leadership.promised
            || accept.chosen_to > self.told_to.max(published.known_to)
            // The sender resigned before, and leads after all.
            || published.leadership.resigned
    }

    /// Answers a heartbeat below the promise at once: the promise is durable, and the worker may be busy.
    fn reject(&self, ballot: Ballot, published: Published) {
        let rejection = Rejection {
            promised: published.leadership.promised,
            leader_address: published.leadership.address,
        };
        self.answers.send_if_room(AcceptReply {
            stamp: published.stamp,
            ballot,
            sequence: 0,
            answer: AcceptAnswer::Rejected(rejection),
        });
    }
}

/// Whether the client or the network has broken the stream off. Otherwise the server or the decoder refused the input.
fn is_broken(status: &Status) -> bool {
    // A refusal of the server is a status at the end of the chain, behind wrapping errors.
    let cause = std::error::Error::source(status);
    let root = std::iter::successors(cause, |error| error.source()).last();
    root.is_some_and(|root| !root.is::<Status>())
        || !matches!(
            status.code(),
            Code::InvalidArgument
                | Code::FailedPrecondition
                | Code::ResourceExhausted
                | Code::OutOfRange
                | Code::Unimplemented
                | Code::Internal
        )
}

fn check_values(accept: &Accept) -> Result<(), Status> {
    for (slot, value) in &accept.proposals {
        check_traceparent(value.traceparent().len())?;
        let length = value.as_bytes().len();
        if length > VALUE_BYTES_MAX {
            return Err(status::invalid_argument(format!(
                "the value of slot {slot} has {length} bytes: at most {VALUE_BYTES_MAX} are allowed"
            )));
        }
    }
    Ok(())
}
