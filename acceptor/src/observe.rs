//! What observers are told: pages of what is on disk, then live frames in the order of the commits.
//!
//! The worker pushes each commit's rows into a [`Ring`] of bounded bytes and never waits. An observer that falls out of
//! the ring goes back to pages. It need not start from its beginning: all that it was told reaches up to a commit
//! whose `chosen_to` it knows, and below that watermark a row's value changes no more.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_stream::try_stream;
use futures::Stream;
use paxos_common::{
    paxos::{ballot::Ballot, identity::Stamp, message::Row, slot::Slot, value::Value},
    server::Room,
};
use tokio::sync::watch;

use crate::{
    peers::PeerReader,
    shared::Shared,
    store::{PAGE_BYTES_MAX, Reader, StoreError},
};

/// Bytes of the values that the ring keeps for observers: some tens of milliseconds of the highest load, so that a
/// short stall costs no page, and little beside a process's memory.
const RING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Commits that the ring keeps; bounds it when values are small.
const RING_FRAMES_MAX: usize = 4096;
/// What a row weighs beside its value and trace context.
const ROW_BYTES: usize = 64;

/// Rows as of one commit.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) stamp: Stamp,
    /// Speaks for the rows of this frame alone: each with a slot below it holds the chosen value.
    pub(crate) chosen_to: Slot,
    pub(crate) trimmed_to: Slot,
    pub(crate) rows: Vec<Row>,
}

impl Frame {
    /// The empty frame that follows this one of `bytes` when nothing else can; none if this one takes no room.
    fn follower(&self, bytes: usize) -> Option<Self> {
        let rows = Vec::new();
        (!Room::is_free(bytes)).then(|| Self { rows, ..*self })
    }
}

/// What a row weighs in a frame, in bytes; about as much as when it is encoded.
fn row_bytes(row: &Row) -> usize {
    let value = row.accepted.as_ref().map(|(_, value)| value_bytes(value));
    ROW_BYTES + value.unwrap_or_default()
}

fn value_bytes(value: &Value) -> usize {
    value.as_bytes().len() + value.traceparent().len()
}

/// The latest frames. One writer pushes; any number of observers read, each at its own position.
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

/// The frames from the position asked for on are not all there any more.
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

    /// The frames from `position` on, joined into one of about [`PAGE_BYTES_MAX`], its bytes, and the position behind
    /// them; none when there is nothing new.
    ///
    /// The joined frame has the watermark of its first part, which holds for the later parts' rows too: below it a
    /// row's value changes no more.
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

/// Everything accepted from slot `from` on: first what is held, then what follows. The first frame comes at once, even
/// when it has no rows. Holds one frame at a time; it goes on when that is taken. A large frame is built once `room` has
/// its bytes, and is followed by another frame soon, so that the encoder lets go of its buffer: an empty frame, when there
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
        // After a large frame that no other has followed: what it said beside its rows.
        let mut large: Option<Frame> = None;
        loop {
            // Taken before the pages are read: what is committed meanwhile may be told twice, but not left out.
            let mut position = shared.ring.end();
            let mut told_chosen_to = None;
            // The first row of the pages that was unknown.
            let mut doubt = None;
            loop {
                if !room.take_now(PAGE_BYTES_MAX) {
                    if let Some(empty) = large.take() {
                        yield empty;
                    }
                    room.take(PAGE_BYTES_MAX).await;
                }
                let page = reader.page(resume).await?;
                // It holds for the rows of the page that can be read, which are all that a frame tells.
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
                // Before the look, so that a push between the look and the wait is not missed.
                news.mark_unchanged();
                match shared.ring.read(position) {
                    // It is read again once there is room: until then nothing is held.
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
                        // An error means that the ring is gone, and `shared` holds it.
                        None => drop(news.changed().await),
                    },
                    Err(Lagged) => break,
                }
            }
            // A row that was unknown is told once it is repaired, so the pages must not begin behind it.
            let sound_to = told_chosen_to.unwrap_or(from).min(doubt.unwrap_or(Slot::MAX));
            resume = sound_to.max(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use futures::{FutureExt as _, StreamExt as _};
    use paxos_common::paxos::{
        acceptor::Write,
        ballot::ProposerId,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
    };
    use paxos_common::{shutdown::Shutdown, trace::Tracer};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        store::{
            Store as _,
            memory::{MemoryDisk, MemoryStore},
        },
        worker::Worker,
    };

    fn slot(number: u64) -> Slot {
        Slot::new(number).unwrap()
    }

    fn rows(from: u64, to: u64, bytes: usize) -> BTreeMap<Slot, (Ballot, Value)> {
        let ballot = Ballot::new(1, ProposerId::from_random(1)).unwrap();
        let value = Value::from_stored(Bytes::from(vec![1; bytes]), Bytes::new());
        (from..to).map(|at| (slot(at), (ballot, value.clone()))).collect()
    }

    fn stamp(shared: &Shared) -> Stamp {
        shared.published().stamp
    }

    /// Commits rows and shows them, as the worker does.
    async fn commit(
        store: &mut MemoryStore,
        shared: &Shared,
        rows: BTreeMap<Slot, (Ballot, Value)>,
        chosen_to: u64,
    ) {
        let write = Write {
            commit_counter: CommitCounter::new(1),
            membership: None,
            promised: Ballot::ZERO,
            promise_is_new: false,
            leader_address: &"".into(),
            chosen_to: slot(chosen_to),
            rows: &rows,
            witnesses: &paxos_common::paxos::witness::Witnesses::default(),
        };
        store.commit(write).await.unwrap();
        shared.ring.push(stamp(shared), slot(chosen_to), Slot::ZERO, rows);
    }

    fn start() -> (MemoryDisk, MemoryStore, Arc<Shared>) {
        let disk = MemoryDisk::new(AcceptorUuid::from_u128(1));
        let run = RunNumber::from_random(1);
        let (store, opened) = disk.open(run);
        let (_, shared, _) = Worker::new(
            store,
            opened,
            run,
            Tracer::off(),
            crate::metrics::Instruments::new(&paxos_common::metrics::Metrics::unread()),
        );
        let (store, _) = disk.open(run);
        (disk, store, shared)
    }

    #[tokio::test]
    async fn ring_is_bounded_in_bytes_and_frames_and_tells_who_fell_out() {
        let (_, _, shared) = start();
        let ring = Ring::default();
        for at in 0..RING_FRAMES_MAX as u64 + 10 {
            ring.push(stamp(&shared), Slot::ZERO, Slot::ZERO, rows(at, at + 1, 1));
        }
        assert_eq!(ring.lock().frames.len(), RING_FRAMES_MAX);
        assert_eq!(ring.read(9).unwrap_err(), Lagged);
        assert!(ring.read(10).unwrap().is_some());
        for at in 0..20 {
            ring.push(
                stamp(&shared),
                Slot::ZERO,
                Slot::ZERO,
                rows(at, at + 1, PAGE_BYTES_MAX),
            );
        }
        assert!(ring.lock().bytes <= RING_BYTES_MAX);
        assert!(ring.read(ring.end()).unwrap().is_none());
    }

    #[tokio::test]
    async fn large_commit_is_told_in_frames_that_each_fit_a_message() {
        let (_, _, shared) = start();
        let ring = Ring::default();
        ring.push(
            stamp(&shared),
            Slot::ZERO,
            Slot::ZERO,
            rows(0, 10, PAGE_BYTES_MAX / 3),
        );
        let (mut position, mut slots) = (0, Vec::new());
        while let Some((frame, _, next)) = ring.read(position).unwrap() {
            assert!(frame.rows.len() <= 3, "{}", frame.rows.len());
            slots.extend(frame.rows.iter().map(|row| row.slot.get()));
            position = next;
        }
        assert_eq!(slots, (0..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn observer_that_fell_out_of_the_ring_is_told_of_a_row_that_was_unknown() {
        let (disk, mut store, shared) = start();
        let mut damaged = rows(0, 5, 1);
        let lost = damaged.remove_entry(&slot(2)).unwrap();
        commit(&mut store, &shared, damaged, 5).await;
        let mut frames = pin!(observe(
            PeerReader::new(
                disk,
                Arc::clone(&shared),
                Shutdown::new(&CancellationToken::new())
            ),
            Arc::clone(&shared),
            slot(0),
            Room::default()
        ));
        let mut told = async || -> Option<Vec<(u64, bool)>> {
            let frame = frames.next().now_or_never()?.unwrap().unwrap();
            let row = |row: &Row| (row.slot.get(), row.accepted.is_some());
            Some(frame.rows.iter().map(row).collect())
        };
        let held = [(0, true), (1, true), (2, false), (3, true), (4, true)];
        assert_eq!(told().await, Some(held.to_vec()));
        commit(&mut store, &shared, rows(5, 6, 1), 5).await;
        assert_eq!(told().await, Some(vec![(5, true)]));
        // The repair falls out of the ring before it is taken.
        commit(&mut store, &shared, BTreeMap::from([lost]), 6).await;
        let count = (RING_BYTES_MAX / PAGE_BYTES_MAX) as u64 + 1;
        for at in 6..6 + count {
            commit(&mut store, &shared, rows(at, at + 1, PAGE_BYTES_MAX), 6).await;
        }
        assert_eq!(told().await.unwrap().first(), Some(&(2, true)));
    }

    #[tokio::test]
    async fn large_frame_is_followed_by_an_empty_one_and_a_small_frame_is_not() {
        let (disk, mut store, shared) = start();
        commit(&mut store, &shared, rows(0, 1, PAGE_BYTES_MAX / 2), 1).await;
        let stop = Shutdown::new(&CancellationToken::new());
        let reader = PeerReader::new(disk, Arc::clone(&shared), stop);
        let room = Room::default();
        let mut frames = pin!(observe(reader, Arc::clone(&shared), slot(0), room));
        let mut told = async || -> Option<usize> {
            let frame = frames.next().now_or_never()?.unwrap().unwrap();
            Some(frame.rows.len())
        };
        assert_eq!(
            [told().await, told().await, told().await],
            [Some(1), Some(0), None]
        );
        commit(&mut store, &shared, rows(1, 2, PAGE_BYTES_MAX / 2), 2).await;
        assert_eq!(
            [told().await, told().await, told().await],
            [Some(1), Some(0), None]
        );
        commit(&mut store, &shared, rows(2, 4, 1), 4).await;
        assert_eq!([told().await, told().await], [Some(2), None]);
    }

    #[tokio::test]
    async fn large_frame_is_followed_by_an_empty_one_while_there_is_no_room() {
        let (disk, mut store, shared) = start();
        commit(&mut store, &shared, rows(0, 3, PAGE_BYTES_MAX), 3).await;
        let stop = Shutdown::new(&CancellationToken::new());
        let reader = PeerReader::new(disk, Arc::clone(&shared), stop);
        let [room, other] = Room::of_pool(2 * PAGE_BYTES_MAX);
        let mut frames = pin!(observe(reader, Arc::clone(&shared), slot(0), room.clone()));
        let mut told = async || -> Option<usize> {
            let frame = frames.next().now_or_never()?.unwrap().unwrap();
            Some(frame.rows.len())
        };
        for _ in 0..2 {
            // The page is handed over, and others take its room.
            assert_eq!(told().await, Some(1));
            room.give_back();
            assert!(other.take_now(2 * PAGE_BYTES_MAX));
            assert_eq!([told().await, told().await], [Some(0), None]);
            other.give_back();
        }
        assert_eq!([told().await, told().await], [Some(1), Some(0)]);
        room.give_back();
        // The same for live frames.
        commit(&mut store, &shared, rows(3, 4, PAGE_BYTES_MAX), 3).await;
        commit(&mut store, &shared, rows(4, 5, PAGE_BYTES_MAX), 3).await;
        assert_eq!(told().await, Some(1));
        room.give_back();
        assert!(other.take_now(2 * PAGE_BYTES_MAX));
        assert_eq!([told().await, told().await], [Some(0), None]);
        other.give_back();
        assert_eq!([told().await, told().await], [Some(1), Some(0)]);
    }

    #[tokio::test]
    async fn observer_that_fell_out_of_the_ring_pages_again_from_the_watermark_it_knows() {
        let (disk, mut store, shared) = start();
        commit(&mut store, &shared, rows(0, 5, 1), 3).await;
        let mut frames = pin!(observe(
            PeerReader::new(
                disk,
                Arc::clone(&shared),
                Shutdown::new(&CancellationToken::new())
            ),
            Arc::clone(&shared),
            slot(1),
            Room::default()
        ));
        let mut told = async || -> Option<(u64, Vec<u64>)> {
            let frame = frames.next().now_or_never()?.unwrap().unwrap();
            Some((
                frame.chosen_to.get(),
                frame.rows.iter().map(|row| row.slot.get()).collect(),
            ))
        };
        assert_eq!(told().await, Some((3, vec![1, 2, 3, 4])));
        assert_eq!(told().await, None);
        commit(&mut store, &shared, rows(5, 6, 1), 4).await;
        assert_eq!(told().await, Some((4, vec![5])));
        // Two commits that were not taken are told as one, with the watermark of the first.
        commit(&mut store, &shared, rows(6, 7, 1), 5).await;
        commit(&mut store, &shared, rows(7, 8, 1), 6).await;
        assert_eq!(told().await, Some((5, vec![6, 7])));
        let count = (RING_BYTES_MAX / PAGE_BYTES_MAX) as u64 + 1;
        for at in 8..8 + count {
            commit(&mut store, &shared, rows(at, at + 1, PAGE_BYTES_MAX), 7).await;
        }
        let mut slots = Vec::new();
        while let Some((_, more)) = told().await {
            slots.extend(more);
        }
        assert_eq!(slots, (5..8 + count).collect::<Vec<_>>());
    }
}
