//! Messages of one `Accept` stream that wait for the writer. They go when the stream is closed.
//!
//! A stream has room for more messages than a leader may have unanswered, so that the acceptor reads the stream whatever
//! its disk does. Of heartbeats one waits at most: a later one takes its place.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paxos_common::{
    paxos::{
        detector::Outcome,
        message::{Accept, AcceptAnswer, UNANSWERED_MAX},
        slot::Slot,
        witness::Witnesses,
    },
    wire::AcceptReply,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{ears::Claimed, trace::Traced};

/// Messages of one stream whose answers the transport has not taken.
pub(crate) const ROOM: usize = 64;
/// Bytes of values that wait for the writer from one stream: as many messages as a leader may have unanswered, each of the
/// size that leaders fill, and one of the largest.
pub(crate) const STREAM_BYTES_MAX: usize = 32 * MESSAGE_BYTES + MESSAGE_BYTES_MAX;
/// Bytes of values that leaders of every release put into one message, unless a single value has more.
const MESSAGE_BYTES: usize = 2 * 1024 * 1024;
/// What a proposal holds beside its value and trace context.
const PROPOSAL_BYTES: usize = 128;
const MESSAGE_BYTES_MAX: usize = paxos_common::server::MESSAGE_BYTES_MAX;

const _: () = assert!(
    ROOM as u64 > UNANSWERED_MAX,
    "a leader that keeps its bound is never cut off"
);

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Inbox(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    messages: VecDeque<Message>,
    weight: usize,
    heartbeat: Option<Message>,
}

/// A message on its way to the writer.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) accept: Accept,
    /// What the leader remembers of the acceptors; empty most of the time.
    pub(crate) witnesses: Witnesses,
    pub(crate) claimed: Claimed,
    pub(crate) place: Place,
    /// The message's bytes in the room that all streams share.
    pub(crate) bytes: Option<OwnedSemaphorePermit>,
    pub(crate) trace: Traced,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Place {
    /// The answer to a numbered message, with its place in the stream's room.
    Reserved(Answers, OwnedSemaphorePermit),
    /// A heartbeat is answered only when it is turned away, and if there is room.
    IfTurnedAway(Answers),
}

/// A stream's way back.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    room: Arc<Semaphore>,
    replies: mpsc::Sender<Reply>,
}

/// An answer; it gives its place back when the transport takes it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) reply: AcceptReply,
    _place: OwnedSemaphorePermit,
}

/// The stream has more messages, or bytes, unanswered than it has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overfull;

impl Answers {
    /// A way back, and its end.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Reply>) {
        let (replies, receiver) = mpsc::channel(ROOM);
        let room = Arc::new(Semaphore::new(ROOM));
        (Self { room, replies }, receiver)
    }

    /// A place for one answer.
    pub(crate) fn reserve(&self) -> Result<Place, Overfull> {
        let place = Arc::clone(&self.room).try_acquire_owned();
        Ok(Place::Reserved(self.clone(), place.map_err(|_| Overfull)?))
    }

    /// Sends an answer that no place was reserved for, if there is room.
    pub(crate) fn send_if_room(&self, reply: AcceptReply) {
        if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
            self.send(reply, place);
        }
    }

    fn send(&self, reply: AcceptReply, place: OwnedSemaphorePermit) {
        let _place = place;
        // The channel has as many places as the room. An error means that the stream is gone, and no client is left to
        // take the answer.
        drop(self.replies.try_send(Reply { reply, _place }));
    }
}

impl Place {
    /// Sends the answer; a stream that is gone does not get it.
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

impl Message {
    /// See [`weight`].
    pub(crate) fn weight(&self) -> usize {
        weight(&self.accept)
    }
}

/// What an answer says about the ballot of its request.
pub(crate) fn outcome(answer: &AcceptAnswer) -> Outcome {
    match answer {
        AcceptAnswer::Accepted { .. } | AcceptAnswer::Trimmed { .. } => Outcome::Granted,
        AcceptAnswer::Rejected(_) | AcceptAnswer::Refused(_) => Outcome::TurnedAway,
        AcceptAnswer::NoSpace => Outcome::NoSpace,
    }
}

/// Bytes that the proposals of a message hold.
pub(crate) fn weight(accept: &Accept) -> usize {
    let values = accept.proposals.iter();
    values
        .map(|(_, value)| PROPOSAL_BYTES + value.as_bytes().len() + value.traceparent().len())
        .sum()
}

/// Bytes of the values of a message for slots from `chosen_to` on.
pub(crate) fn new_bytes(accept: &Accept, chosen_to: Slot) -> usize {
    let values = accept.proposals.iter().filter(|(slot, _)| *slot >= chosen_to);
    values.map(|(_, value)| value.as_bytes().len()).sum()
}

impl Inbox {
    /// Whether a message of this weight fits.
    pub(crate) fn has_room(&self, weight: usize) -> bool {
        self.lock().weight + weight <= STREAM_BYTES_MAX
    }

    /// Puts a message behind the others. Returns whether the writer must come for it.
    pub(crate) fn push(&self, message: Message) -> bool {
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

    /// Puts a heartbeat in the place of one that waits. Returns whether the writer must come for it: not when it comes for
    /// the one before.
    ///
    /// The claims of both are true, so that the writer may see the later one in the place of the earlier: before messages
    /// that came between them.
    pub(crate) fn beat(&self, mut message: Message) -> bool {
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
        // What is dropped here takes another lock.
        drop(state);
        drop(before);
        is_first
    }

    /// Weight of the message that [`Self::take`] returns next.
    pub(crate) fn next_weight(&self) -> usize {
        self.lock().messages.front().map_or(0, Message::weight)
    }

    /// The oldest message; `None` when the stream was closed.
    pub(crate) fn take(&self) -> Option<Message> {
        let mut state = self.lock();
        let message = state.messages.pop_front()?;
        state.weight -= message.weight();
        Some(message)
    }

    /// The heartbeat that waits; `None` when the stream was closed.
    pub(crate) fn take_beat(&self) -> Option<Message> {
        self.lock().heartbeat.take()
    }

    /// Drops what waits, and takes nothing any more.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.weight = 0;
        let dropped = (std::mem::take(&mut state.messages), state.heartbeat.take());
        drop(state);
        drop(dropped);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
