//! Snapshot files and their uploads.

use paxos_common::{
    paxos::{
        machine::Register,
        quorum::Configuration,
        slot::{Slot, Version},
    },
    snapshot::encoder::SnapshotEncoder,
    wire::{
        caller,
        snapshot::{LOG_DIGEST_BYTES, SnapshotHeader},
    },
};
use paxos_proto::v1::{self as pb, keep_request::Content};
use tonic::Status;

use super::{process::ProcessClient, slot};

/// Largest part of an upload in bytes.
pub const PART: usize = 256 * 1024;

/// A valid snapshot file of at least this length in bytes, with its identity.
pub fn file(configuration: &Configuration, to: u64, bytes: usize) -> (pb::SnapshotId, Vec<u8>) {
    let mut encoder = SnapshotEncoder::new(SnapshotHeader {
        cluster: configuration.cluster_id(),
        to: slot(to),
        log_digest: [7; LOG_DIGEST_BYTES],
        configuration: configuration.clone(),
    });
    let mut content = encoder.take();
    let mut key = 0u64;
    while content.len() < bytes {
        let left = bytes - content.len();
        let register = Register {
            value: vec![7; left.min(64 * 1024)].into(),
            version: Version {
                slot: Slot::ZERO,
                offset: 0,
            },
        };
        encoder.register(&key.to_be_bytes(), &register).unwrap();
        content.extend(encoder.take());
        key += 1;
    }
    let (last, summary) = encoder.finish().unwrap();
    content.extend(last);
    let id = pb::SnapshotId {
        to,
        sha256: summary.sha256.to_vec().into(),
        bytes: summary.bytes,
    };
    (id, content)
}

pub fn begin(configuration: &Configuration, id: &pb::SnapshotId, peer: u64) -> pb::KeepRequest {
    let begin = pb::KeepBegin {
        caller: Some(caller(Some(configuration.cluster_id()))),
        id: Some(id.clone()),
        peer,
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
