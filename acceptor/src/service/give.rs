//! Streams of the bottom: the snapshot on which the log of this acceptor stands.

use std::{io::ErrorKind, sync::Arc};

use async_stream::try_stream;
use bytes::BytesMut;
use futures::Stream;
use paxos_common::{
    service::server::Room,
    wire::{self, status},
};
use paxos_proto::v1 as pb;
use tokio::{fs::File, io::AsyncReadExt as _, sync::OwnedSemaphorePermit};
use tonic::Status;

use super::{Inner, snapshot_id};
use crate::{
    snapshot::PART_BYTES_MAX,
    store::{Reader, snapshots::SnapshotId},
};

/// Maximum number of concurrent streams: each reads the disk as fast as the reader takes the parts.
pub(super) const GIVEN_MAX: usize = 4;

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
                // A trim has removed the file just now.
                Err(error) if error.kind() == ErrorKind::NotFound && self.is_replaced(id) => {}
                Ok(None) => return Err(unreadable("the file is damaged")),
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

/// The parts of an open file.
pub(super) fn parts<R: Reader>(
    inner: Arc<Inner<R>>,
    (id, mut file): (SnapshotId, File),
    place: OwnedSemaphorePermit,
    room: Room,
) -> impl Stream<Item = Result<pb::SnapshotResponse, Status>> {
    try_stream! {
        let _place = place;
        let stamp = inner.shared.published().stamp;
        yield pb::SnapshotResponse {
            stamp: Some(wire::stamp(&stamp, Vec::new())),
            id: Some(snapshot_id(&id)),
            ..Default::default()
        };
        let mut left = id.bytes;
        while left > 0 {
            let len = PART_BYTES_MAX.min(usize::try_from(left).unwrap_or(usize::MAX));
            if !room.take_now(len) {
                // The encoder keeps the last part until another message follows.
                yield pb::SnapshotResponse::default();
                room.take(len).await;
            }
            let mut part = BytesMut::zeroed(len);
            file.read_exact(&mut part).await.map_err(|error| unreadable(&error.to_string()))?;
            left -= len as u64;
            let part = pb::SnapshotResponse { data: part.freeze(), ..Default::default() };
            room.built(&part);
            yield part;
        }
    }
}
