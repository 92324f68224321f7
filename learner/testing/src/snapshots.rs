//! Snapshots of an acceptor of a test: sent to learners, and received from learners.

use bytes::Bytes;
use paxos_proto::v1::{self as pb, keep_request::Content};
use tonic::{Status, Streaming};

use crate::{AnswerStream, FakeAcceptor};

/// A snapshot in parts of 64 KiB.
#[derive(Clone, Debug, Default)]
pub struct SnapshotScript {
    /// The announced file.
    pub id: pb::SnapshotId,
    /// The sent bytes.
    pub file: Bytes,
    /// The stream stays open and silent after the announcement.
    pub is_muted: bool,
}

impl SnapshotScript {
    /// A whole snapshot that ends at this slot.
    pub fn whole(to: u64, file: Bytes) -> Self {
        let sha256 = file.slice(file.len() - 32..);
        let bytes = file.len() as u64;
        Self {
            id: pb::SnapshotId { to, sha256, bytes },
            file,
            is_muted: false,
        }
    }
}

/// An uploaded snapshot.
#[derive(Clone, Debug, Default)]
pub struct KeptSnapshot {
    /// The announced file.
    pub id: pb::SnapshotId,
    /// The received bytes.
    pub file: Bytes,
    /// Number of bytes in the largest part.
    pub part_bytes_max: usize,
}

impl FakeAcceptor {
    /// Receives a snapshot from a learner.
    pub(crate) async fn receive(
        &self,
        mut parts: Streaming<pb::KeepRequest>,
    ) -> Result<pb::KeepResponse, Status> {
        let begin = parts.message().await?.and_then(|part| part.content);
        let Some(Content::Begin(begin)) = begin else {
            panic!("an upload begins with `begin`");
        };
        let mut kept = KeptSnapshot {
            id: begin.id.unwrap(),
            ..KeptSnapshot::default()
        };
        let id = kept.id.clone();
        self.heard.send_modify(|heard| heard.keep_begins.push(id));
        if let Some(code) = self.script.borrow().keep_refused {
            return Err(Status::new(code, "refused by the test"));
        }
        let is_muted = self.script.borrow().keeps_muted;
        if is_muted {
            std::future::pending::<()>().await;
        }
        let mut file = Vec::new();
        while let Some(part) = parts.message().await? {
            let Some(Content::Data(data)) = part.content else {
                panic!("`begin` comes once");
            };
            kept.part_bytes_max = kept.part_bytes_max.max(data.len());
            file.extend_from_slice(&data);
        }
        assert_eq!(file.len() as u64, kept.id.bytes, "the upload is whole");
        kept.file = file.into();
        self.script.send_modify(|script| script.snapshot_wanted = None);
        self.heard.send_modify(|heard| heard.kept.push(kept));
        Ok(pb::KeepResponse {
            stamp: Some(self.stamp(None)),
        })
    }

    /// Sends the snapshot of the script to a learner.
    pub(crate) fn send_snapshot(&self) -> Result<AnswerStream<pb::SnapshotResponse>, Status> {
        self.heard.send_modify(|heard| heard.snapshots += 1);
        let Some(snapshot) = self.script.borrow().snapshot.clone() else {
            return Err(Status::failed_precondition("this acceptor has no snapshot"));
        };
        let stamp = self.stamp(None);
        let parts = async_stream::try_stream! {
            yield pb::SnapshotResponse {
                stamp: Some(stamp),
                id: Some(snapshot.id),
                data: Bytes::new(),
            };
            if snapshot.is_muted {
                std::future::pending::<()>().await;
            }
            for part in snapshot.file.chunks(64 * 1024) {
                yield pb::SnapshotResponse {
                    data: Bytes::copy_from_slice(part),
                    ..Default::default()
                };
            }
        };
        Ok(Box::pin(parts))
    }
}
