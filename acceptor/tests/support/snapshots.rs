//! Snapshot files and their uploads.

use paxos_common::{paxos::quorum::Configuration, wire::caller};
use paxos_proto::v1::{self as pb, keep_request::Content};
use paxos_test_values::snapshot_file;
use tonic::Status;

use super::{process::ProcessClient, slot};

/// Largest part of an upload in bytes.
pub const PART: usize = 256 * 1024;

/// A valid snapshot file of at least this length in bytes, with its identity.
pub fn file(configuration: &Configuration, to: u64, bytes: usize) -> (pb::SnapshotId, Vec<u8>) {
    let (summary, content) = snapshot_file(configuration, slot(to), bytes);
    let id = pb::SnapshotId {
        to,
        sha256: summary.sha256.to_vec().into(),
        bytes: summary.bytes,
    };
    (id, content)
}

/// The digests that a right learner reports at the end of [`file`].
pub fn digest_of(configuration: &Configuration, to: u64, bytes: usize) -> pb::Digest {
    let (summary, _) = snapshot_file(configuration, slot(to), bytes);
    pb::Digest {
        to,
        digest: summary.header.log_digest.to_vec().into(),
        state: summary.footer.digest.to_bytes().to_vec().into(),
    }
}

pub fn begin(configuration: &Configuration, id: &pb::SnapshotId, peer: u64) -> pb::KeepRequest {
    let begin = pb::KeepBegin {
        caller: Some(caller(Some(configuration.cluster_id()))),
        id: Some(id.clone()),
        peer,
        seed: false,
    };
    pb::KeepRequest {
        content: Some(Content::Begin(begin)),
    }
}

pub fn data(bytes: &[u8]) -> pb::KeepRequest {
    pb::KeepRequest {
        content: Some(Content::Data(bytes.to_vec().into())),
    }
}

/// Sends a whole file, as learner `peer`.
pub async fn keep(
    client: &mut ProcessClient,
    configuration: &Configuration,
    (id, content): &(pb::SnapshotId, Vec<u8>),
    peer: u64,
) -> Result<(), Status> {
    let parts: Vec<_> = [begin(configuration, id, peer)]
        .into_iter()
        .chain(content.chunks(PART).map(data))
        .collect();
    client.keep(tokio_stream::iter(parts)).await.map(drop)
}
