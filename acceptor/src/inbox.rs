//! Messages of an `Accept` stream waiting for the worker. Dropped when the stream is closed.
//!
//! A stream has room for more messages than a leader may have unanswered, so the acceptor reads the stream
//! independently of the disk. At most one heartbeat waits: a later heartbeat replaces the earlier.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paxos_common::{
    paxos::{
        detector::Settlement,
        message::{Accept, AcceptAnswer, UNANSWERED_MAX},
        slot::Slot,
        witness::Witnesses,
    },
    peer::MESSAGE_BYTES_MAX,
    wire::AcceptReply,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{hearing::Claimed, trace::MessageTrace};

/// Maximum number of messages of a stream without an answer taken by the transport.
pub(crate) const ROOM: usize = 64;
/// Maximum bytes of values waiting for the worker from a stream: the unanswered messages of a leader, each filled to
/// the leaders' limit, and a message of the maximum size.
pub(crate) const STREAM_BYTES_MAX: usize = 32 * MESSAGE_BYTES + MESSAGE_BYTES_MAX;
/// Maximum bytes of values in a message, for leaders of every release; a single larger value is the exception.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of a proposal beside its value and trace context.
const PROPOSAL_BYTES: usize = 128;

const _: () = assert!(
    ROOM as u64 > UNANSWERED_MAX,
    "the room must exceed a leader's limit of unanswered messages"
);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<InboxState>);

#[derive(Debug, Default)]
struct InboxState {
    is_closed: bool,
    messages: VecDeque<StreamMessage>,
    weight: usize,
    heartbeat: Option<StreamMessage>,
}

/// A message in flight to the worker.
#[derive(Debug)]
pub(crate) struct StreamMessage {
    pub(crate) accept: Accept,
    /// The leader's memory of the acceptors; empty most of the time.
    pub(crate) witnesses: Witnesses,
    pub(crate) claimed: Claimed,
    pub(crate) place: AnswerPlace,
    /// The message's bytes in the room shared by all streams.
    pub(crate) bytes: Option<OwnedSemaphorePermit>,
    pub(crate) trace: MessageTrace,
}

/// Destination of an answer.
#[derive(Debug)]
pub(crate) enum AnswerPlace {
    /// The answer to a numbered message, with its place in the stream's room.
    Reserved(AnswerSender, OwnedSemaphorePermit),
    /// A heartbeat is answered only when turned away, and only if there is room.
    IfTurnedAway(AnswerSender),
}

/// A stream's channel for answers.
#[derive(Clone, Debug)]
pub(crate) struct AnswerSender {
    room: Arc<Semaphore>,
    replies: mpsc::Sender<PlacedReply>,
}

/// An answer. Its place becomes free when the transport takes the answer.
#[derive(Debug)]
pub(crate) struct PlacedReply {
    pub(crate) reply: AcceptReply,
    _place: OwnedSemaphorePermit,
}

/// The stream has more unanswered messages, or bytes, than room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overfull;

impl AnswerSender {
    /// The sending end and the receiving end of a new channel for answers.
    pub(crate) fn new() -> (Self, mpsc::Receiver<PlacedReply>) {
        let (replies, receiver) = mpsc::channel(ROOM);
        let room = Arc::new(Semaphore::new(ROOM));
        (Self { room, replies }, receiver)
    }

    /// Reserves a place for an answer.
    pub(crate) fn reserve(&self) -> Result<AnswerPlace, Overfull> {
        let place = Arc::clone(&self.room).try_acquire_owned();
        Ok(AnswerPlace::Reserved(self.clone(), place.map_err(|_| Overfull)?))
    }

    /// Sends an answer without a reserved place, if there is room.
    pub(crate) fn send_if_room(&self, reply: AcceptReply) {
        if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
            self.send(reply, place);
        }
    }

    fn send(&self, reply: AcceptReply, place: OwnedSemaphorePermit) {
        let _place = place;
        // The channel has as many places as the room. An error means: the stream is gone, and no client is left to take
        // the answer.
        drop(self.replies.try_send(PlacedReply { reply, _place }));
    }
}

impl AnswerPlace {
    /// Sends the answer, or drops the answer when the stream is gone.
    pub(crate) fn send(self, reply: AcceptReply) {
        match self {
            Self::Reserved(answers, place) => answers.send(reply, place),
            Self::IfTurnedAway(answers) => match reply.answer {
                AcceptAnswer::Rejected(_) | AcceptAnswer::Refused(_) => answers.send_if_room(reply),
                AcceptAnswer::Accepted { .. } | AcceptAnswer::Trimmed { .. } | AcceptAnswer::NoSpace => {}
            },
        }
    }
}

impl StreamMessage {
    /// See [`weight`].
    pub(crate) fn weight(&self) -> usize {
        weight(&self.accept)
    }
}

/// Meaning of an answer for the request's ballot.
pub(crate) fn outcome(answer: &AcceptAnswer) -> Settlement {
    match answer {
        AcceptAnswer::Accepted { .. } | AcceptAnswer::Trimmed { .. } => Settlement::Granted,
        AcceptAnswer::Rejected(_) | AcceptAnswer::Refused(_) => Settlement::TurnedAway,
        AcceptAnswer::NoSpace => Settlement::NoSpace,
    }
}

/// Bytes held by the proposals of a message.
pub(crate) fn weight(accept: &Accept) -> usize {
    let values = accept.proposals.iter();
    values
        .map(|(_, value)| PROPOSAL_BYTES + value.as_bytes().len() + value.traceparent().len())
        .sum()
}

/// Bytes of the values of a message for slots from `known_to` on.
pub(crate) fn new_bytes(accept: &Accept, known_to: Slot) -> usize {
    let values = accept.proposals.iter().filter(|(slot, _)| *slot >= known_to);
    values.map(|(_, value)| value.as_bytes().len()).sum()
}

impl Inbox {
    /// Whether a message of this weight fits.
    pub(crate) fn has_room(&self, weight: usize) -> bool {
        self.lock().weight + weight <= STREAM_BYTES_MAX
    }

    /// Appends a message. Returns whether the worker must be notified.
    pub(crate) fn push(&self, message: StreamMessage) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            drop(state);
            drop(message);
            return false;
        }
        state.weight += message.weight();
        state.messages.push_back(message);
        true
    }

    /// Replaces the waiting heartbeat, if any. Returns whether the worker must be notified: not when a heartbeat waited
    /// already.
    ///
    /// The claims of both heartbeats are true. So the worker may see the later heartbeat in the place of the earlier:
    /// before messages that arrived between the two.
    pub(crate) fn beat(&self, mut message: StreamMessage) -> bool {
        let mut state = self.lock();
        if state.is_closed {
            drop(state);
            drop(message);
            return false;
        }
        let before = state.heartbeat.take();
        let is_first = before.is_none();
        if let Some(before) = &before {
            message.witnesses.merge(before.witnesses.iter());
            message.accept.chosen_to = message.accept.chosen_to.max(before.accept.chosen_to);
        }
        state.heartbeat = Some(message);
        // Dropping takes a second lock.
        drop(state);
        drop(before);
        is_first
    }

    /// Weight of the next message of [`Self::take`].
    pub(crate) fn next_weight(&self) -> usize {
        self.lock().messages.front().map_or(0, StreamMessage::weight)
    }

    /// The oldest message; `None` when the stream was closed.
    pub(crate) fn take(&self) -> Option<StreamMessage> {
        let mut state = self.lock();
        let message = state.messages.pop_front()?;
        state.weight -= message.weight();
        Some(message)
    }

    /// The waiting heartbeat; `None` when the stream was closed.
    pub(crate) fn take_beat(&self) -> Option<StreamMessage> {
        self.lock().heartbeat.take()
    }

    /// Drops all waiting messages, and takes no more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.weight = 0;
        let dropped = (std::mem::take(&mut state.messages), state.heartbeat.take());
        drop(state);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
