//! Frames for observers: pages of the rows on disk, then live frames in the order of the commits.
//!
//! The worker pushes each commit's rows into a [`Ring`] of bounded bytes and never waits. An observer that falls out of
//! the ring goes back to pages, and need not start from the beginning. The observer has everything up to a commit with
//! a known `chosen_to`, and the value of a row below this watermark never changes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_stream::try_stream;
use futures::Stream;
use paxos_common::{
    paxos::{ballot::Ballot, identity::Stamp, message::Row, slot::Slot, value::Value},
    service::server::Room,
};
use tokio::sync::watch;

use crate::{
    peers::PeerReader,
    shared::Shared,
    store::{PAGE_BYTES_MAX, Reader, StoreError},
};

/// Maximum bytes of the values in the ring: some tens of milliseconds of the highest load, so a short stall costs no
/// page read; little compared with a process's memory.
const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Maximum number of commits in the ring; bounds the ring for small values.
const RING_FRAMES_MAX: usize = 4096;
/// Bytes of a row beside its value and trace context.
const ROW_BYTES: usize = 64;

/// Rows as of one commit.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) stamp: Stamp,
    /// Speaks for the rows of this frame alone: each row below holds the chosen value.
    pub(crate) chosen_to: Slot,
    pub(crate) trimmed_to: Slot,
    pub(crate) rows: Vec<Row>,
}

impl Frame {
    /// The empty frame after this frame of `bytes`, for lack of any other frame; none for a frame without room.
    fn follower(&self, bytes: usize) -> Option<Self> {
        let rows = Vec::new();
        (!Room::is_free(bytes)).then(|| Self { rows, ..*self })
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

/// The latest frames. A single writer pushes; any number of observers read, each at its own position.
#[derive(Debug)]
pub(crate) struct Ring {
    content: Mutex<Content>,
    /// Position behind the last frame.
    end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Content {
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
            chosen_to,
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

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
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

/// All votes from slot `from` on: first the stored votes, then new votes. The first frame comes at once, even without
/// rows. The stream holds a single frame at a time, and continues once the frame is taken. A large frame is built once
/// `room` has the bytes. A further frame follows soon, so the encoder releases the buffer: an empty frame, when there
/// is no news or no room.
pub(crate) fn observe<R: Reader>(
    reader: PeerReader<R>,
    shared: Arc<Shared>,
    from: Slot,
    room: Room,
) -> impl Stream<Item = Result<Frame, StoreError>> {
    try_stream! {
        let mut news = shared.ring.end.subscribe();
        let mut resume = from;
        // After the last large frame, until the next frame: the large frame's fields without the rows.
        let mut large: Option<Frame> = None;
        loop {
            // Read before the pages: commits made meanwhile may be sent twice, but are never left out.
            let mut position = shared.ring.end();
            let mut told_chosen_to = None;
            // The first unknown row of the pages.
            let mut doubt = None;
            loop {
                if !room.take_now(PAGE_BYTES_MAX) {
                    if let Some(empty) = large.take() {
                        yield empty;
                    }
                    room.take(PAGE_BYTES_MAX).await;
                }
                let page = reader.page(resume).await?;
                // Valid for the readable rows of the page; a frame sends no other rows.
                let chosen_to = page.known_to;
                told_chosen_to.get_or_insert(chosen_to);
                doubt = doubt.or_else(|| page.rows.iter().find(|row| row.accepted.is_none()).map(|row| row.slot));
                let mut stamp = shared.published().stamp;
                stamp.commit_counter = page.commit_counter;
                resume = page.next;
                let frame = Frame { stamp, chosen_to, trimmed_to: page.trimmed_to, rows: page.rows };
                let bytes = frame.rows.iter().map(row_bytes).sum();
                large = frame.follower(bytes);
                yield frame;
                if page.last {
                    break;
                }
            }
            loop {
                // Before the read: a push between the read and the wait is not missed.
                news.mark_unchanged();
                match shared.ring.read(position) {
                    // The frame is read again once there is room: until then nothing is held.
                    Ok(Some((frame, bytes, _))) if !room.is_enough(bytes) => {
                        drop(frame);
                        let bytes = bytes.max(PAGE_BYTES_MAX);
                        if !room.take_now(bytes) {
                            if let Some(empty) = large.take() {
                                yield empty;
                            }
                            room.take(bytes).await;
                        }
                    }
                    Ok(Some((mut frame, bytes, next))) => {
                        position = next;
                        told_chosen_to = Some(frame.chosen_to);
                        large = frame.follower(bytes);
                        frame.rows.retain(|row| row.slot >= from);
                        yield frame;
                    }
                    Ok(None) => match large.take() {
                        Some(empty) => yield empty,
                        // An error would mean a dropped ring, but `shared` holds the ring.
                        None => drop(news.changed().await),
                    },
                    Err(Lagged) => break,
                }
            }
            // An unknown row is sent once repaired, so the pages must not begin behind the row.
            let sound_to = told_chosen_to.unwrap_or(from).min(doubt.unwrap_or(Slot::MAX));
            resume = sound_to.max(from);
        }
    }
}

#[cfg(test)]
mod tests;
