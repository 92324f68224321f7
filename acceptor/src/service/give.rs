//! Sends the bottom to readers: the snapshot that ends where the log of this acceptor begins.

use std::{io::ErrorKind, time::Duration};

use async_stream::try_stream;
use bytes::{Bytes, BytesMut};
use futures::Stream;
use paxos_common::{
    service::server::Room,
    wire::{self, status},
};
use paxos_proto::v1 as pb;
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    sync::{OwnedSemaphorePermit, mpsc},
};
use tonic::Status;

use super::{
    Inner,
    check::snapshot_id,
    rate::{BYTES_PER_SECOND_MIN, MinimumRate, TooSlow},
};
use crate::{
    snapshot::PART_BYTES_MAX,
    store::{Reader, snapshots::SnapshotId},
};

/// Maximum number of concurrent streams: each reads the disk as fast as the reader takes the parts.
pub(super) const GIVEN_MAX: usize = 4;
/// Maximum time between two parts. An installing learner writes each part to its disk first.
const PAUSE_MAX: Duration = Duration::from_mins(1);

impl<R: Reader> Inner<R> {
    /// The bottom, with its open file.
    pub(super) async fn open_bottom(&self) -> Result<(SnapshotId, File), Status> {
        loop {
            let bottom = self.shared.published().snapshots.bottom;
            let Some(id) = bottom.map(|bottom| bottom.id) else {
                return Err(status::not_wanted(
                    "this acceptor has no snapshot: its log begins at slot 0",
                ));
            };
            match self.snapshots.files.read(id).await {
                Ok(Some(file)) => return Ok((id, file)),
                Ok(None) => return Err(unreadable("the file is damaged")),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // Otherwise a trim has removed the file just now.
                    if self.snapshots.files.missing(id, || !self.is_replaced(id)) {
                        return Err(unreadable("the file is missing"));
                    }
                }
                Err(error) => return Err(unreadable(&error.to_string())),
            }
        }
    }

    fn is_replaced(&self, id: SnapshotId) -> bool {
        let bottom = self.shared.published().snapshots.bottom;
        bottom.is_none_or(|bottom| bottom.id != id)
    }
}

fn unreadable(reason: &str) -> Status {
    status::unavailable(
        &format!("the snapshot of this acceptor cannot be read ({reason}): ask another acceptor"),
        status::Fate::NotProposed,
    )
}

/// The parts of an open file. A task reads the file and limits the time: a reader that takes no part loses its place.
pub(super) fn parts<R: Reader>(
    inner: &Inner<R>,
    (id, file): (SnapshotId, File),
    place: OwnedSemaphorePermit,
    room: Room,
) -> impl Stream<Item = Result<pb::SnapshotResponse, Status>> + use<R> {
    let stamp = inner.shared.published().stamp;
    let (sender, mut receiver) = mpsc::channel(1);
    let reading = inner.shutdown.spawn(async move {
        let _place = place;
        read(id, file, sender).await
    });
    try_stream! {
        yield pb::SnapshotResponse {
            stamp: Some(wire::stamp(&stamp, Vec::new())),
            id: Some(snapshot_id(&id)),
            ..Default::default()
        };
        let mut left = id.bytes;
        while left > 0 {
            let len = part_len(left);
            if !room.take_now(len) {
                // The encoder keeps the last part until another message follows.
                yield pb::SnapshotResponse::default();
                room.take(len).await;
            }
            let Some(data) = receiver.recv().await else {
                break;
            };
            left -= data.len() as u64;
            let part = pb::SnapshotResponse { data, ..Default::default() };
            room.built(&part);
            yield part;
        }
        if left > 0 {
            reading.await.unwrap_or_else(|_| Err(status::stopping()))?;
        }
    }
}

fn part_len(left: u64) -> usize {
    PART_BYTES_MAX.min(usize::try_from(left).unwrap_or(usize::MAX))
}

/// Reads a file until its end, or until the reader is gone.
///
/// # Errors
/// The file cannot be read, or the reader is too slow.
async fn read(id: SnapshotId, mut file: File, parts: mpsc::Sender<Bytes>) -> Result<(), Status> {
    let mut rate = MinimumRate::default();
    let mut left = id.bytes;
    while left > 0 {
        // There is room once the reader has taken the last part. An error means: the reader is gone.
        let Ok(room) = rate.wait(parts.reserve(), PAUSE_MAX).await.map_err(too_slow)? else {
            return Ok(());
        };
        let mut part = BytesMut::zeroed(part_len(left));
        let read = file.read_exact(&mut part).await;
        read.map_err(|error| unreadable(&error.to_string()))?;
        left -= part.len() as u64;
        rate.moved(part.len());
        room.send(part.freeze());
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
fn too_slow(slow: TooSlow) -> Status {
    Status::deadline_exceeded(match slow {
        TooSlow::Silent => {
            let seconds = PAUSE_MAX.as_secs();
            format!("no part of the snapshot was taken for {seconds} s: read the snapshot again")
        }
        TooSlow::Slow => format!(
            "the snapshot was taken at less than {BYTES_PER_SECOND_MIN} bytes a second: read the snapshot again, and \
             faster"
        ),
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use paxos_common::paxos::slot::Slot;

    use super::*;
    use crate::{store::snapshots::SHA256_BYTES, testing::Cluster};

    #[tokio::test(start_paused = true)]
    async fn reader_that_takes_nothing_loses_its_place_after_a_minute() {
        let cluster = Cluster::start().await;
        let inner = &cluster.service.inner;
        let id = SnapshotId {
            to: Slot::new(9).unwrap(),
            sha256: [7; SHA256_BYTES],
            bytes: 4 * PART_BYTES_MAX as u64,
        };
        let bytes = vec![7; 4 * PART_BYTES_MAX];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bottom");
        std::fs::write(&path, &bytes).unwrap();
        let give = async || {
            let place = Inner::<crate::store::memory::MemoryDisk>::place(&inner.given, "places").unwrap();
            let file = File::open(&path).await.unwrap();
            Box::pin(parts(inner, (id, file), place, Room::default()))
        };
        let mut stalled = Vec::new();
        for _ in 0..GIVEN_MAX {
            let mut given = give().await;
            assert_eq!(given.next().await.unwrap().unwrap().id.unwrap().to, 9);
            stalled.push(given);
        }
        tokio::time::sleep(PAUSE_MAX / 2).await;
        assert_eq!(inner.given.available_permits(), 0);
        tokio::time::sleep(PAUSE_MAX).await;
        assert_eq!(inner.given.available_permits(), GIVEN_MAX);
        for given in &mut stalled {
            let last = given.collect::<Vec<_>>().await.pop().unwrap().unwrap_err();
            assert_eq!(last.code(), tonic::Code::DeadlineExceeded, "{last:?}");
        }
        // A reader with pauses gets the whole file.
        let mut given = give().await;
        let mut found = Vec::new();
        while let Some(part) = given.next().await {
            found.extend_from_slice(&part.unwrap().data);
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        assert_eq!(found, bytes);
        assert_eq!(inner.given.available_permits(), GIVEN_MAX);
    }
}
