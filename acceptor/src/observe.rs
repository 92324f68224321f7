//! Frames for observers: pages of the rows on disk, then live frames in the order of the commits.
//!
//! An observer that falls out of the [`Ring`](crate::ring::Ring) goes back to pages, and need not start from the
//! beginning. The observer has everything up to a commit with a reported `known_to`, and the value of a row below this
//! watermark never changes.

use std::sync::Arc;

use async_stream::try_stream;
use futures::Stream;
use paxos_common::{paxos::slot::Slot, service::server::Room};

use crate::{
    peers::PeerReader,
    ring::{Frame, Lagged},
    shared::Shared,
    store::{PAGE_BYTES_MAX, Reader, StoreError},
};

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
        let mut news = shared.ring.news();
        let mut resume = from;
        // After the last large frame, until the next frame: the large frame's fields without the rows.
        let mut large: Option<Frame> = None;
        loop {
            // Read before the pages: commits made meanwhile may be sent twice, but are never left out.
            let mut position = shared.ring.end();
            let mut known_to = None;
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
                // The watermark is valid for the readable rows of the page; a frame sends no other rows.
                known_to.get_or_insert(page.known_to);
                // The snapshot stands for an unknown row that a trim has passed meanwhile.
                doubt = doubt.filter(|slot| *slot >= page.trimmed_to);
                doubt = doubt.or_else(|| page.rows.iter().find(|row| row.accepted.is_none()).map(|row| row.slot));
                let mut stamp = shared.published().stamp;
                stamp.commit_counter = page.commit_counter;
                resume = page.next;
                let frame = Frame { stamp, known_to: page.known_to, trimmed_to: page.trimmed_to, rows: page.rows };
                let bytes = frame.bytes();
                large = frame.empty_after(bytes);
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
                        known_to = Some(frame.known_to);
                        large = frame.empty_after(bytes);
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
            let sound_to = known_to.unwrap_or(from).min(doubt.unwrap_or(Slot::MAX));
            resume = sound_to.max(from);
        }
    }
}

#[cfg(test)]
mod tests;
