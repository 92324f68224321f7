//! Who speaks: acceptors, clusters, runs, stamps and witnesses.

use bytes::Bytes;
use paxos_proto::v1 as pb;

use super::{Malformed, number, required};
use crate::paxos::{
    identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber, Stamp},
    witness::{Run, Witnesses},
};

/// Reads an acceptor's uuid.
///
/// # Errors
/// The length is not 16 bytes.
pub fn acceptor_uuid(bytes: &[u8]) -> Result<AcceptorUuid, Malformed> {
    let length = || Malformed::Length {
        what: "acceptor",
        len: bytes.len(),
        expected: 16,
    };
    AcceptorUuid::from_slice(bytes).ok_or_else(length)
}

/// Reads a cluster id; empty is `None`.
///
/// # Errors
/// The length is neither 0 nor 16 bytes.
pub fn cluster_id(bytes: &[u8]) -> Result<Option<ClusterId>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = || Malformed::Length {
        what: "cluster_id",
        len: bytes.len(),
        expected: 16,
    };
    ClusterId::from_slice(bytes).map(Some).ok_or_else(length)
}

/// The stamp of an answer. `runs` is for the first answer of a call or stream.
pub fn stamp(stamp: &Stamp, runs: Vec<pb::Run>) -> pb::Stamp {
    pb::Stamp {
        cluster_id: stamp
            .cluster
            .map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes())),
        acceptor: Bytes::copy_from_slice(&stamp.acceptor.to_bytes()),
        run: stamp.run.get(),
        commit_counter: stamp.commit_counter.get(),
        runs,
    }
}

/// Reads the stamp of an answer, without the runs.
///
/// # Errors
/// The stamp is missing or malformed.
pub fn read_stamp(stamp: Option<&pb::Stamp>) -> Result<Stamp, Malformed> {
    let stamp = required(stamp, "stamp")?;
    Ok(Stamp {
        cluster: cluster_id(&stamp.cluster_id)?,
        acceptor: acceptor_uuid(&stamp.acceptor)?,
        run: RunNumber::from_random(stamp.run),
        commit_counter: CommitCounter::new(stamp.commit_counter),
    })
}

/// Reads an acceptor's list of runs, the present one last.
pub fn runs(runs: &[pb::Run]) -> Vec<Run> {
    let run = |run: &pb::Run| Run {
        run: RunNumber::from_random(run.run),
        commit_counter: CommitCounter::new(run.commit_counter),
    };
    runs.iter().map(run).collect()
}

/// Witnesses of acceptors, for the wire.
pub fn witnesses(witnesses: &Witnesses) -> Vec<pb::Witness> {
    let witness = |(acceptor, run, counter): (AcceptorUuid, RunNumber, CommitCounter)| pb::Witness {
        acceptor: Bytes::copy_from_slice(&acceptor.to_bytes()),
        run: run.get(),
        commit_counter: counter.get(),
    };
    witnesses.iter().map(witness).collect()
}

/// Reads a process's witnesses of acceptors.
///
/// # Errors
/// A uuid has not 16 bytes, or a number is above 2⁶³ − 1: heard numbers are stored, and never dropped.
pub fn read_witnesses(list: &[pb::Witness]) -> Result<Witnesses, Malformed> {
    let mut witnesses = Witnesses::default();
    for witness in list {
        let run = number("run", witness.run)?;
        let counter = number("commit_counter", witness.commit_counter)?;
        witnesses.hear(
            acceptor_uuid(&witness.acceptor)?,
            RunNumber::from_random(run),
            CommitCounter::new(counter),
        );
    }
    Ok(witnesses)
}
