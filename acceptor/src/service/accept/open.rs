//! The open `Accept` streams, and the room shared by the streams.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paxos_common::{
    paxos::{
        ballot::Ballot,
        detector::{Ender, StreamId},
    },
    wire::status,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    hearing::Hearing,
    inbox::{Inbox, STREAM_BYTES_MAX},
};

/// Maximum number of streams: several for each of many proposers. Beyond the limit, the stream with the lowest ballot
/// is cut off.
pub(crate) const STREAMS_MAX: usize = 256;
/// Maximum bytes waiting for the worker from all streams of the heard proposer: a stream, and a reopened stream while
/// the end of the first is not noticed.
const HEARD_BYTES_MAX: usize = 2 * STREAM_BYTES_MAX;
/// Maximum bytes waiting for the worker from all other streams.
const OTHER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// All open streams, and the room shared by the streams.
#[derive(Debug)]
pub(crate) struct OpenStreams {
    open: Mutex<BTreeMap<StreamId, Entry>>,
    heard_bytes: Arc<Semaphore>,
    other_bytes: Arc<Semaphore>,
}

#[derive(Debug)]
struct Entry {
    /// The highest ballot received; [`Ballot::ZERO`] before the first message.
    ballot: Ballot,
    evicted: CancellationToken,
}

impl Default for OpenStreams {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            heard_bytes: Arc::new(Semaphore::new(HEARD_BYTES_MAX)),
            other_bytes: Arc::new(Semaphore::new(OTHER_BYTES_MAX)),
        }
    }
}

impl OpenStreams {
    /// Takes a place for a new stream. When all places are taken, the oldest stream with the lowest ballot is cut off.
    pub(super) fn open(self: &Arc<Self>, hearing: &Arc<Hearing>) -> Arc<OpenStream> {
        let (id, evicted) = (hearing.draw_stream(), CancellationToken::new());
        let mut open = self.lock();
        while open.len() >= STREAMS_MAX {
            let lowest = open.iter().min_by_key(|(id, entry)| (entry.ballot, **id));
            let Some(lowest) = lowest.map(|(id, _)| *id) else {
                break;
            };
            if let Some(entry) = open.remove(&lowest) {
                entry.evicted.cancel();
            }
        }
        let entry = Entry {
            ballot: Ballot::ZERO,
            evicted: evicted.clone(),
        };
        open.insert(id, entry);
        drop(open);
        Arc::new(OpenStream {
            id,
            streams: Arc::clone(self),
            hearing: Arc::clone(hearing),
            inbox: Arc::default(),
            evicted,
            gone: CancellationToken::new(),
        })
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Reserves room for this number of bytes.
    pub(super) fn room(&self, is_heard: bool, bytes: usize) -> Result<Option<OwnedSemaphorePermit>, Fault> {
        if bytes == 0 {
            return Ok(None);
        }
        let (room, what) = if is_heard {
            (&self.heard_bytes, "the acceptor's room for the leader's values")
        } else {
            (
                &self.other_bytes,
                "the acceptor's room for values of proposers other than the leader",
            )
        };
        let full = |()| Fault::AtOnce(status::overloaded(what));
        let bytes = u32::try_from(bytes).map_err(|_| full(()))?;
        let permit = Arc::clone(room).try_acquire_many_owned(bytes);
        permit.map(Some).map_err(|_| full(()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<StreamId, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open stream. The stream's place is free again when both tasks have ended.
#[derive(Debug)]
pub(super) struct OpenStream {
    pub(super) id: StreamId,
    streams: Arc<OpenStreams>,
    pub(super) hearing: Arc<Hearing>,
    pub(super) inbox: Arc<Inbox>,
    /// The stream's place is needed for a new stream.
    pub(super) evicted: CancellationToken,
    /// The transport has dropped the answers.
    pub(super) gone: CancellationToken,
}

impl OpenStream {
    /// A higher ballot than before was received.
    pub(super) fn spoke(&self, ballot: Ballot) {
        if let Some(entry) = self.streams.lock().get_mut(&self.id) {
            entry.ballot = ballot;
        }
    }

    /// The stream has ended: the failure detector is notified, and messages waiting for the worker are dropped.
    pub(super) fn close(&self, by: Ender) {
        self.hearing.ended(self.id, by);
        self.inbox.close();
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.id);
    }
}

/// Why the acceptor ends a stream.
#[derive(Debug)]
pub(super) enum Fault {
    /// A message is at fault: earlier messages are answered first.
    Behind(Status),
    /// The stream takes too much room: waiting messages are dropped.
    AtOnce(Status),
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Behind(status)
    }
}
