//! Values for the unit tests of all crates: slots, ballots, acceptors, clusters of one acceptor, snapshot files. And
//! [`power_cuts`], for tests of processes with files.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]
#![expect(
    clippy::missing_panics_doc,
    reason = "every helper of a test panics when the test fails"
)]

use paxos_common::{
    paxos::{
        ballot::{Ballot, ProposerId},
        identity::AcceptorUuid,
        machine::Register,
        quorum::Configuration,
        slot::{Slot, Version},
    },
    snapshot::{SnapshotSummary, encoder::SnapshotEncoder},
    wire::snapshot::{LOG_DIGEST_BYTES, SnapshotHeader},
};

pub mod power_cuts;

/// Largest value in [`snapshot_file`], in bytes.
const VALUE_BYTES: usize = 64 * 1024;

/// A slot.
pub fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// A ballot of a single proposer.
pub fn ballot(round: u64) -> Ballot {
    Ballot::new(round, ProposerId::from_random(7)).unwrap()
}

/// The uuid of an acceptor.
pub fn acceptor(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

/// A cluster of one acceptor.
pub fn cluster_of_one(uuid: AcceptorUuid) -> Configuration {
    Configuration::new([(uuid, "http://a:1".into())], 1, 1).unwrap()
}

/// A valid snapshot file of at least this length in bytes.
pub fn snapshot_file(configuration: &Configuration, to: Slot, bytes: usize) -> (SnapshotSummary, Vec<u8>) {
    let mut encoder = SnapshotEncoder::new(SnapshotHeader {
        cluster: configuration.cluster_id(),
        to,
        log_digest: [7; LOG_DIGEST_BYTES],
        configuration: configuration.clone(),
    });
    let mut content = encoder.take();
    let mut key = 0u64;
    while content.len() < bytes {
        let left = bytes - content.len();
        let register = Register {
            value: vec![7; left.min(VALUE_BYTES)].into(),
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
    (summary, content)
}
