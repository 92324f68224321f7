//! The ring of live frames: the rows of the last commits, for any number of observers.
//!
//! The worker pushes each commit's rows into a [`Ring`] of bounded bytes and never waits for an observer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paxos_common::{
    paxos::{ballot::Ballot, identity::Stamp, message::Row, slot::Slot, value::Value},
    service::server::Room,
};
use tokio::sync::watch;

use crate::store::PAGE_BYTES_MAX;

/// Maximum bytes of the values in the ring: some tens of milliseconds of the highest load, so a short stall costs no
/// page read; little compared with a process's memory.
pub(crate) const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum number of commits in the ring; bounds the ring for small values.
const RING_FRAMES_MAX: usize = 4096;
/// Bytes of a row beside its value and trace context.
const ROW_BYTES: usize = 64;

/// Rows as of one commit.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) stamp: Stamp,
    /// Speaks for the rows of this frame alone: each row below holds the chosen value.
    pub(crate) known_to: Slot,
    pub(crate) trimmed_to: Slot,
    pub(crate) rows: Vec<Row>,
}

impl Frame {
    /// The empty frame after this frame of `bytes`, for lack of any other frame; none for a frame without room.
    pub(crate) fn empty_after(&self, bytes: usize) -> Option<Self> {
        let rows = Vec::new();
        (!Room::is_free(bytes)).then(|| Self { rows, ..*self })
    }

    /// Weight of the frame, in bytes; close to the encoded size.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.iter().map(row_bytes).sum()
    }
}

/// Weight of a row in a frame, in bytes; close to the encoded size.
fn row_bytes(row: &Row) -> usize {
    let value = row.accepted.as_ref().map(|(_, value)| value_bytes(value));
    ROW_BYTES + value.unwrap_or_default()
}

fn value_bytes(value: &Value) -> usize {
    value.as_bytes().len() + value.traceparent().len()
}

/// The latest frames. A single worker pushes; any number of observers read, each at its own position.
#[derive(Debug)]
pub(crate) struct Ring {
    content: Mutex<RingContent>,
    /// Position behind the last frame.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct RingContent {
    frames: VecDeque<(Arc<Frame>, usize)>,
    /// Position of the first frame kept.
    start: u64,
    bytes: usize,
}

/// Some frames from the requested position on are no longer in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lagged;

impl Default for Ring {
    fn default() -> Self {
        Self {
            content: Mutex::default(),
            end: watch::Sender::new(0),
        }
    }
}

impl Ring {
    /// Adds a commit's rows, in frames that each fit a message. Never waits for an observer.
    pub(crate) fn push(
        &self,
        stamp: Stamp,
        chosen_to: Slot,
        trimmed_to: Slot,
        rows: BTreeMap<Slot, (Ballot, Value)>,
    ) {
        let mut content = self.lock();
        let mut frame = Frame {
            stamp,
            known_to: chosen_to,
            trimmed_to,
            rows: Vec::new(),
        };
        let mut bytes = 0;
        for (slot, (ballot, value)) in rows {
            let weight = ROW_BYTES + value_bytes(&value);
            if bytes + weight > PAGE_BYTES_MAX && !frame.rows.is_empty() {
                let rows = std::mem::take(&mut frame.rows);
                content.push(Frame { rows, ..frame }, bytes);
                frame.rows = Vec::new();
                bytes = 0;
            }
            bytes += weight;
            frame.rows.push(Row {
                slot,
                accepted: Some((ballot, value)),
            });
        }
        content.push(frame, bytes);
        let end = content.end();
        drop(content);
        self.end.send_replace(end);
    }

    /// Position behind the last frame.
    pub(crate) fn end(&self) -> u64 {
        self.lock().end()
    }

    /// Changes with each new frame.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    /// The frames from `position` on, joined into a frame of about [`PAGE_BYTES_MAX`], with the frame's bytes and the
    /// position behind the joined frames; none without new frames.
    ///
    /// The joined frame has the watermark of the first part. The watermark is valid for the rows of the later parts
    /// too: the value of a row below the watermark never changes.
    pub(crate) fn read(&self, position: u64) -> Result<Option<(Frame, usize, u64)>, Lagged> {
        let content = self.lock();
        let skip = position.checked_sub(content.start).ok_or(Lagged)?;
        let mut frames = content
            .frames
            .iter()
            .skip(usize::try_from(skip).map_err(|_| Lagged)?);
        let Some((first, bytes)) = frames.next() else {
            return Ok(None);
        };
        let mut bytes = *bytes;
        let mut joined = Frame::clone(first);
        let mut position = position + 1;
        for (frame, weight) in frames {
            if bytes + weight > PAGE_BYTES_MAX {
                break;
            }
            bytes += weight;
            joined.stamp = frame.stamp;
            joined.rows.extend(frame.rows.iter().cloned());
            position += 1;
        }
        Ok(Some((joined, bytes, position)))
    }

    fn lock(&self) -> MutexGuard<'_, RingContent> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RingContent {
    fn end(&self) -> u64 {
        self.start + self.frames.len() as u64
    }

    fn push(&mut self, frame: Frame, bytes: usize) {
        self.frames.push_back((Arc::new(frame), bytes));
        self.bytes += bytes;
        while self.frames.len() > RING_FRAMES_MAX || self.bytes > RING_BYTES_MAX {
            let Some((_, bytes)) = self.frames.pop_front() else {
                break;
            };
            self.bytes -= bytes;
            self.start += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use paxos_common::paxos::{
        ballot::ProposerId,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
    };

    use super::*;

    fn rows(from: u64, to: u64, bytes: usize) -> BTreeMap<Slot, (Ballot, Value)> {
        let ballot = Ballot::new(1, ProposerId::from_random(1)).unwrap();
        let value = Value::from_stored(Bytes::from(vec![1; bytes]), Bytes::new());
        (from..to)
            .map(|at| (Slot::new(at).unwrap(), (ballot, value.clone())))
            .collect()
    }

    fn stamp() -> Stamp {
        Stamp {
            cluster: None,
            acceptor: AcceptorUuid::from_u128(1),
            run: RunNumber::from_random(1),
            commit_counter: CommitCounter::new(1),
        }
    }

    #[test]
    fn ring_is_bounded_in_bytes_and_frames() {
        let ring = Ring::default();
        for at in 0..RING_FRAMES_MAX as u64 + 10 {
            ring.push(stamp(), Slot::ZERO, Slot::ZERO, rows(at, at + 1, 1));
        }
        assert_eq!(ring.lock().frames.len(), RING_FRAMES_MAX);
        assert_eq!(ring.read(9).unwrap_err(), Lagged);
        assert!(ring.read(10).unwrap().is_some());
        for at in 0..20 {
            ring.push(stamp(), Slot::ZERO, Slot::ZERO, rows(at, at + 1, PAGE_BYTES_MAX));
        }
        assert!(ring.lock().bytes <= RING_BYTES_MAX);
        assert!(ring.read(ring.end()).unwrap().is_none());
    }

    #[test]
    fn large_commit_is_split_into_frames_that_fit_a_message() {
        let ring = Ring::default();
        ring.push(stamp(), Slot::ZERO, Slot::ZERO, rows(0, 10, PAGE_BYTES_MAX / 3));
        let (mut position, mut slots) = (0, Vec::new());
        while let Some((frame, _, next)) = ring.read(position).unwrap() {
            assert!(frame.rows.len() <= 3, "{}", frame.rows.len());
            slots.extend(frame.rows.iter().map(|row| row.slot.get()));
            position = next;
        }
        assert_eq!(slots, (0..10).collect::<Vec<_>>());
    }
}
