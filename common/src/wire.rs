//! The wire format: conversion between messages of `paxos.v1` and types of the cores. Generated types go no deeper.

use bytes::Bytes;
use paxos_proto::v1 as pb;

use crate::paxos::{
    ballot::{Ballot, ProposerId},
    era::Era,
    identity::ClusterId,
    message::{Leadership, Refused, Rejection, VoteRange},
    origin::InvalidOrigin,
    quorum::InvalidConfiguration,
    slot::{OutOfRange, Slot, SlotRange, Version},
    value::{Fingerprint, Value},
};

mod accept;
pub mod command;
pub mod election;
mod forming;
pub mod heard;
mod identity;
pub mod opener;
mod promise;
mod report;
pub mod snapshot;
pub mod status;
pub mod stored;

pub use crate::paxos::era::CHANGES_VERSION;
pub use accept::{AcceptReply, accept_request};
pub use forming::{membership, membership_state};
pub use identity::{acceptor_uuid, cluster_id, read_stamp, read_witnesses, runs, stamp, witnesses};
pub use promise::{prepare_request, rows};
pub use report::check_report;

/// The version of the contract in this release: see `types.proto`.
pub const PROTOCOL_VERSION: u32 = 3;
/// The first version that knows a log with a first slot above 0. Later versions know such a log as well: the number stays
/// when [`PROTOCOL_VERSION`] rises.
pub const TRIMS_VERSION: u32 = 2;

/// A message against the rules of its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A required field is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A number too large.
    #[error(transparent)]
    OutOfRange(#[from] OutOfRange),
    /// Bytes of the wrong length.
    #[error("{what} has {len} bytes and must have {expected}")]
    Length {
        /// Name of the field.
        what: &'static str,
        /// The received number of bytes.
        len: usize,
        /// The required number of bytes.
        expected: usize,
    },
    /// An empty or backward range of slots.
    #[error("slot range {from} to {to} is empty: `to` is exclusive and must be above `from`")]
    EmptyRange {
        /// Inclusive.
        from: u64,
        /// Exclusive.
        to: u64,
    },
    /// Votes that name some values, but not one for each slot.
    #[error(
        "a range of {slots} votes names {values} values: one value for each slot, or no value, must be named"
    )]
    VotedValues {
        /// The number of named values.
        values: usize,
        /// The number of slots.
        slots: u64,
    },
    /// Proposals not in ascending order of slots.
    #[error("proposals must ascend by slot: slot {0} follows an equal or higher slot")]
    NotAscending(Slot),
    /// A value that learners cannot apply.
    #[error(
        "the value of slot {slot} cannot be applied: {reason}. Propose an encoded Value with commands within the \
         limits"
    )]
    Value {
        /// The slot.
        slot: Slot,
        /// Why the value cannot be applied.
        reason: String,
    },
    /// A value of a later release: learners of this release would end at the value, once chosen.
    #[error(
        "the value of slot {slot} holds contents of a newer release: this acceptor reads values of protocol version \
         {PROTOCOL_VERSION} and older. Upgrade all acceptors first, then the learners, and the proposers last"
    )]
    Newer {
        /// The slot.
        slot: Slot,
    },
    /// A field with a meaning that this release does not support.
    #[error("{0} is reserved, and must be 0")]
    Reserved(&'static str),
    /// A list of acceptors that makes no valid configuration.
    #[error(transparent)]
    Configuration(#[from] InvalidConfiguration),
    /// An origin with an impossible base.
    #[error(transparent)]
    Origin(#[from] InvalidOrigin),
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed::Missing(name))
}

/// Checks that SQLite can hold the number: SQLite's integers are signed.
fn number(what: &'static str, number: u64) -> Result<u64, OutOfRange> {
    OutOfRange::check(what, number, i64::MAX as u64)
}

/// The head of every message to an acceptor; without a cluster while the cluster is unknown.
pub fn caller(cluster: Option<ClusterId>) -> pb::Caller {
    pb::Caller {
        protocol_version: PROTOCOL_VERSION,
        cluster_id: cluster.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes())),
    }
}

/// Text of a value's trace context, as sent.
pub fn traceparent(value: &Value) -> String {
    String::from_utf8_lossy(value.traceparent()).into_owned()
}

impl From<Ballot> for pb::Ballot {
    fn from(ballot: Ballot) -> Self {
        Self {
            round: ballot.round(),
            proposer: ballot.proposer().get(),
            era: ballot.era().get(),
        }
    }
}

impl TryFrom<pb::Ballot> for Ballot {
    type Error = Malformed;

    fn try_from(ballot: pb::Ballot) -> Result<Self, Malformed> {
        let era = Era::new(ballot.era)?;
        let ballot = Self::new(ballot.round, ProposerId::new(ballot.proposer)?)?;
        Ok(ballot.in_era(era))
    }
}

fn ballot(field: Option<pb::Ballot>) -> Result<Ballot, Malformed> {
    required(field, "ballot")?.try_into()
}

impl From<Version> for pb::Version {
    fn from(version: Version) -> Self {
        Self {
            slot: version.slot.get(),
            offset: version.offset.into(),
        }
    }
}

impl TryFrom<pb::Version> for Version {
    type Error = Malformed;

    fn try_from(wire: pb::Version) -> Result<Self, Malformed> {
        Ok(version(wire)?)
    }
}

fn version(version: pb::Version) -> Result<Version, OutOfRange> {
    let offset = OutOfRange::check("offset", version.offset.into(), u16::MAX.into())?;
    let offset = u16::try_from(offset).expect("checked to fit");
    Ok(Version {
        slot: Slot::new(version.slot)?,
        offset,
    })
}

impl From<SlotRange> for pb::SlotRange {
    fn from(range: SlotRange) -> Self {
        Self {
            from: range.from.get(),
            to: range.to.get(),
        }
    }
}

impl TryFrom<pb::SlotRange> for SlotRange {
    type Error = Malformed;

    fn try_from(range: pb::SlotRange) -> Result<Self, Malformed> {
        slot_range(range.from, range.to)
    }
}

fn slot_range(from: u64, to: u64) -> Result<SlotRange, Malformed> {
    if from < to {
        Ok(SlotRange {
            from: Slot::new(from)?,
            to: Slot::new(to)?,
        })
    } else {
        Err(Malformed::EmptyRange { from, to })
    }
}

impl From<VoteRange> for pb::VoteRange {
    fn from(votes: VoteRange) -> Self {
        Self {
            ballot: Some(votes.ballot.into()),
            from: votes.slots.from.get(),
            to: votes.slots.to.get(),
            values: votes.values.into_iter().map(Fingerprint::get).collect(),
        }
    }
}

impl TryFrom<pb::VoteRange> for VoteRange {
    type Error = Malformed;

    fn try_from(range: pb::VoteRange) -> Result<Self, Malformed> {
        let slots = slot_range(range.from, range.to)?;
        let count = range.to - range.from;
        if !range.values.is_empty() && range.values.len() as u64 != count {
            return Err(Malformed::VotedValues {
                values: range.values.len(),
                slots: count,
            });
        }
        Ok(Self {
            ballot: ballot(range.ballot)?,
            slots,
            values: range.values.into_iter().map(Fingerprint::from_wire).collect(),
        })
    }
}

/// The known watermark. Without this field, the sound watermark stands for the known one.
///
/// # Errors
/// A number is no slot.
pub fn known_to(known: u64, sound: u64) -> Result<Slot, Malformed> {
    Ok(Slot::new(known.max(sound))?)
}

impl From<Rejection> for pb::Rejected {
    fn from(rejection: Rejection) -> Self {
        Self {
            promised: Some(rejection.promised.into()),
            leader_address: rejection.leader_address.to_string(),
        }
    }
}

impl TryFrom<pb::Rejected> for Rejection {
    type Error = Malformed;

    fn try_from(rejected: pb::Rejected) -> Result<Self, Malformed> {
        Ok(Self {
            promised: ballot(rejected.promised)?,
            leader_address: rejected.leader_address.into(),
        })
    }
}

impl From<Refused> for pb::Refused {
    fn from(refused: Refused) -> Self {
        Self {
            reason: refused.reason,
            promised: Some(refused.promised.into()),
        }
    }
}

impl TryFrom<pb::Refused> for Refused {
    type Error = Malformed;

    fn try_from(refused: pb::Refused) -> Result<Self, Malformed> {
        Ok(Self {
            reason: refused.reason,
            promised: ballot(refused.promised)?,
        })
    }
}

/// The leadership, for the wire; the acceptor's adapter measures `silent_ms`.
pub fn leadership(leadership: &Leadership, silent_ms: u64) -> pb::Leadership {
    pb::Leadership {
        promised: Some(leadership.promised.into()),
        address: leadership.address.to_string(),
        silent_ms,
        resigned: leadership.resigned,
    }
}

impl TryFrom<pb::Leadership> for Leadership {
    type Error = Malformed;

    fn try_from(leadership: pb::Leadership) -> Result<Self, Malformed> {
        Ok(Self {
            promised: ballot(leadership.promised)?,
            address: leadership.address.into(),
            resigned: leadership.resigned,
        })
    }
}

#[cfg(test)]
mod tests;
