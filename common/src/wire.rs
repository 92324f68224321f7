//! The wire format: conversion between messages of `paxos.v1` and types of the cores. Generated types go no deeper.

use std::sync::Arc;

use bytes::Bytes;
use paxos_proto::v1 as pb;

use crate::paxos::{
    acceptor::Membership,
    ballot::{Ballot, ProposerId},
    identity::{AcceptorUuid, ClusterId, CommitCounter, RunNumber, Stamp},
    machine::digest::StateDigest,
    message::{Accept, AcceptAnswer, Leadership, Prepare, PromisePage, Refused, Rejection, Row, VoteRange},
    quorum::{Configuration, InvalidConfiguration},
    slot::{OutOfRange, Slot, SlotRange, Version},
    value::{Fingerprint, Value},
    witness::{Run, Witnesses},
};

pub mod command;
pub mod heard;
pub mod snapshot;
pub mod status;
pub mod stored;

/// The version of the contract in this release: see `types.proto`.
pub const PROTOCOL_VERSION: u32 = 1;

/// Length in bytes of the digest of a log: SHA-256.
const DIGEST_BYTES: usize = 32;

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
}

fn required<T>(field: Option<T>, name: &'static str) -> Result<T, Malformed> {
    field.ok_or(Malformed::Missing(name))
}

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
        }
    }
}

impl TryFrom<pb::Ballot> for Ballot {
    type Error = Malformed;

    fn try_from(ballot: pb::Ballot) -> Result<Self, Malformed> {
        Ok(Self::new(ballot.round, ProposerId::new(ballot.proposer)?)?)
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

impl From<&Configuration> for pb::Configuration {
    fn from(configuration: &Configuration) -> Self {
        let member = |(uuid, address): (&AcceptorUuid, &Arc<str>)| pb::Member {
            acceptor: Bytes::copy_from_slice(&uuid.to_bytes()),
            address: address.to_string(),
        };
        let count = |quorum: usize| u32::try_from(quorum).expect("at most ACCEPTORS_MAX");
        Self {
            members: configuration.members().iter().map(member).collect(),
            phase1: count(configuration.quorums().phase1()),
            phase2: count(configuration.quorums().phase2()),
        }
    }
}

impl TryFrom<pb::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(configuration: pb::Configuration) -> Result<Self, Malformed> {
        let members = configuration
            .members
            .into_iter()
            .map(|member| Ok((acceptor_uuid(&member.acceptor)?, Arc::from(member.address))))
            .collect::<Result<Vec<_>, Malformed>>()?;
        Ok(Self::new(
            members,
            configuration.phase1 as usize,
            configuration.phase2 as usize,
        )?)
    }
}

/// Reads the state of an acceptor in forming.
///
/// # Errors
/// The configuration does not fit the state.
pub fn membership(state: pb::Membership, stored: Option<pb::Configuration>) -> Result<Membership, Malformed> {
    let stored = || required(stored, "configuration")?.try_into();
    match state {
        pb::Membership::Unspecified => Err(Malformed::Missing("membership")),
        pb::Membership::Blank => Ok(Membership::Blank),
        pb::Membership::Forming => Ok(Membership::Forming(stored()?)),
        pb::Membership::Formed => Ok(Membership::Formed(stored()?)),
    }
}

/// The state of an acceptor in forming, for the wire.
pub fn membership_state(membership: &Membership) -> pb::Membership {
    match membership {
        Membership::Blank => pb::Membership::Blank,
        Membership::Forming(_) => pb::Membership::Forming,
        Membership::Formed(_) => pb::Membership::Formed,
    }
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

/// Checks that SQLite can hold the number: SQLite's integers are signed.
fn number(what: &'static str, number: u64) -> Result<u64, OutOfRange> {
    OutOfRange::check(what, number, i64::MAX as u64)
}

/// Checks the numbers and digests of a report. The report is kept unchanged, and shown to every caller that asks for
/// the attached processes.
///
/// # Errors
/// The first number above 2⁶³ − 1, or the first digest with a length other than 32 bytes, for a log, or 16 bytes or none,
/// for a state.
pub fn check_report(report: &pb::AttachRequest) -> Result<(), Malformed> {
    number("peer", report.peer)?;
    number("report", report.report)?;
    match &report.progress {
        Some(pb::attach_request::Progress::Proposer(progress)) => {
            progress.ballot.map(Ballot::try_from).transpose()?;
            number("chosen_to", progress.chosen_to)?;
            number("queued", progress.queued)?;
        }
        Some(pb::attach_request::Progress::Learner(progress)) => {
            number("applied_to", progress.applied_to)?;
            number("state_bytes", progress.state_bytes)?;
            for digest in &progress.digests {
                number("to", digest.to)?;
                let len = digest.digest.len();
                if len != DIGEST_BYTES {
                    return Err(Malformed::Length {
                        what: "digest",
                        len,
                        expected: DIGEST_BYTES,
                    });
                }
                let len = digest.state.len();
                if !digest.state.is_empty() && len != StateDigest::BYTES {
                    return Err(Malformed::Length {
                        what: "state",
                        len,
                        expected: StateDigest::BYTES,
                    });
                }
            }
        }
        None => {}
    }
    Ok(())
}

/// A candidate's message, for the wire.
pub fn prepare_request(prepare: &Prepare, cluster: ClusterId) -> pb::PrepareRequest {
    pb::PrepareRequest {
        caller: Some(caller(Some(cluster))),
        ballot: Some(prepare.ballot.into()),
        from: prepare.from.get(),
        proposer_address: prepare.address.to_string(),
    }
}

impl TryFrom<pb::PrepareRequest> for Prepare {
    type Error = Malformed;

    fn try_from(request: pb::PrepareRequest) -> Result<Self, Malformed> {
        Ok(Self {
            ballot: ballot(request.ballot)?,
            from: Slot::new(request.from)?,
            address: request.proposer_address.into(),
        })
    }
}

impl From<Row> for pb::Row {
    fn from(row: Row) -> Self {
        let slot = row.slot.get();
        match row.accepted {
            Some((ballot, value)) => Self {
                slot,
                ballot: Some(ballot.into()),
                traceparent: traceparent(&value),
                value: value.as_bytes().clone(),
                unknown: false,
            },
            None => Self {
                slot,
                unknown: true,
                ..Self::default()
            },
        }
    }
}

impl TryFrom<pb::Row> for Row {
    type Error = Malformed;

    fn try_from(row: pb::Row) -> Result<Self, Malformed> {
        let slot = Slot::new(row.slot)?;
        if row.unknown {
            return Ok(Self { slot, accepted: None });
        }
        let value = Value::from_stored(row.value, Bytes::from(row.traceparent));
        Ok(Self {
            slot,
            accepted: Some((ballot(row.ballot)?, value)),
        })
    }
}

/// Reads many rows.
///
/// # Errors
/// The first malformed row.
pub fn rows(rows: Vec<pb::Row>) -> Result<Vec<Row>, Malformed> {
    rows.into_iter().map(Row::try_from).collect()
}

/// The known watermark. Without this field, the sound watermark stands for the known one.
///
/// # Errors
/// A number is no slot.
pub fn known_to(known: u64, sound: u64) -> Result<Slot, Malformed> {
    Ok(Slot::new(known.max(sound))?)
}

impl From<PromisePage> for pb::Promise {
    fn from(page: PromisePage) -> Self {
        Self {
            chosen_to: page.chosen_to.get(),
            known_chosen_to: page.known_to.get(),
            trimmed_to: page.trimmed_to.get(),
            voted_to: page.voted_to.get(),
            rows: page.rows.into_iter().map(pb::Row::from).collect(),
            from: page.from.get(),
            next: page.next.get(),
            last: page.last,
        }
    }
}

impl TryFrom<pb::Promise> for PromisePage {
    type Error = Malformed;

    fn try_from(page: pb::Promise) -> Result<Self, Malformed> {
        Ok(Self {
            from: Slot::new(page.from)?,
            next: Slot::new(page.next)?,
            last: page.last,
            chosen_to: Slot::new(page.chosen_to)?,
            known_to: known_to(page.known_chosen_to, page.chosen_to)?,
            trimmed_to: Slot::new(page.trimmed_to)?,
            voted_to: Slot::new(page.voted_to)?,
            rows: rows(page.rows)?,
        })
    }
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

/// A leader's message, for the wire.
pub fn accept_request(accept: &Accept, cluster: ClusterId) -> pb::AcceptRequest {
    let proposal = |(slot, value): &(Slot, Value)| pb::Proposal {
        slot: slot.get(),
        value: value.as_bytes().clone(),
        traceparent: traceparent(value),
        found: !value.is_new(),
    };
    pb::AcceptRequest {
        caller: Some(caller(Some(cluster))),
        ballot: Some(accept.ballot.into()),
        sequence: accept.sequence,
        chosen_to: accept.chosen_to.get(),
        proposals: accept.proposals.iter().map(proposal).collect(),
        proposer_address: accept.address.to_string(),
        witnesses: Vec::new(),
        resign: accept.resign,
        trimmed_to: 0,
        traceparent: String::new(),
        alive_interval_ms: 0,
    }
}

impl TryFrom<pb::AcceptRequest> for Accept {
    type Error = Malformed;

    fn try_from(request: pb::AcceptRequest) -> Result<Self, Malformed> {
        if request.trimmed_to != 0 {
            return Err(Malformed::Reserved("trimmed_to"));
        }
        let mut proposals: Vec<(Slot, Value)> = Vec::with_capacity(request.proposals.len());
        for proposal in request.proposals {
            let slot = Slot::new(proposal.slot)?;
            if proposals.last().is_some_and(|&(last, _)| last >= slot) {
                return Err(Malformed::NotAscending(slot));
            }
            if let Err(error) = stored::check_value(&proposal.value) {
                if stored::is_newer(&proposal.value) {
                    return Err(Malformed::Newer { slot });
                }
                // A found value may be chosen already, and is proposed again whatever the bytes are.
                if !proposal.found {
                    let reason = error.to_string();
                    return Err(Malformed::Value { slot, reason });
                }
            }
            proposals.push((
                slot,
                Value::from_stored(proposal.value, Bytes::from(proposal.traceparent)),
            ));
        }
        Ok(Self {
            ballot: ballot(request.ballot)?,
            sequence: request.sequence,
            chosen_to: Slot::new(request.chosen_to)?,
            proposals,
            address: request.proposer_address.into(),
            resign: request.resign,
        })
    }
}

impl From<AcceptAnswer> for pb::accept_response::Answer {
    fn from(answer: AcceptAnswer) -> Self {
        match answer {
            AcceptAnswer::Accepted {
                slots,
                voted_to,
                chosen_to,
                known_to,
            } => Self::Accepted(pb::Accepted {
                slots: slots.into_iter().map(pb::SlotRange::from).collect(),
                voted_to: voted_to.get(),
                chosen_to: chosen_to.get(),
                known_chosen_to: known_to.get(),
            }),
            AcceptAnswer::Rejected(rejection) => Self::Rejected(rejection.into()),
            AcceptAnswer::Refused(refused) => Self::Refused(refused.into()),
            AcceptAnswer::Trimmed { trimmed_to } => Self::Trimmed(pb::Trimmed {
                trimmed_to: trimmed_to.get(),
            }),
            AcceptAnswer::NoSpace => Self::NoSpace(pb::NoSpace {}),
        }
    }
}

/// An acceptor's answer to an Accept, with the answered message and the acceptor's stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptReply {
    /// The answering acceptor.
    pub stamp: Stamp,
    /// The answered ballot.
    pub ballot: Ballot,
    /// The answered message.
    pub sequence: u64,
    /// The answer.
    pub answer: AcceptAnswer,
}

impl From<AcceptReply> for pb::AcceptResponse {
    fn from(reply: AcceptReply) -> Self {
        Self {
            stamp: Some(stamp(&reply.stamp, Vec::new())),
            ballot: Some(reply.ballot.into()),
            sequence: reply.sequence,
            answer: Some(reply.answer.into()),
        }
    }
}

impl TryFrom<pb::AcceptResponse> for AcceptReply {
    type Error = Malformed;

    fn try_from(response: pb::AcceptResponse) -> Result<Self, Malformed> {
        use pb::accept_response::Answer;
        let answer = match required(response.answer, "answer")? {
            Answer::Accepted(accepted) => AcceptAnswer::Accepted {
                slots: accepted
                    .slots
                    .into_iter()
                    .map(SlotRange::try_from)
                    .collect::<Result<_, _>>()?,
                voted_to: Slot::new(accepted.voted_to)?,
                chosen_to: Slot::new(accepted.chosen_to)?,
                known_to: known_to(accepted.known_chosen_to, accepted.chosen_to)?,
            },
            Answer::Rejected(rejected) => AcceptAnswer::Rejected(rejected.try_into()?),
            Answer::Refused(refused) => AcceptAnswer::Refused(refused.try_into()?),
            Answer::Trimmed(trimmed) => AcceptAnswer::Trimmed {
                trimmed_to: Slot::new(trimmed.trimmed_to)?,
            },
            Answer::NoSpace(pb::NoSpace {}) => AcceptAnswer::NoSpace,
            // Answers no request: see `heard::StreamAnswer`.
            Answer::Alive(_) => return Err(Malformed::Missing("answer to a request")),
        };
        Ok(Self {
            stamp: read_stamp(response.stamp.as_ref())?,
            ballot: ballot(response.ballot)?,
            sequence: response.sequence,
            answer,
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
