//! Phase 2: Accept, and the answers to an Accept.

use bytes::Bytes;
use paxos_proto::v1 as pb;

use super::{Malformed, ballot, caller, known_to, read_stamp, required, stamp, stored, traceparent};
use crate::paxos::{
    ballot::Ballot,
    identity::{ClusterId, Stamp},
    message::{Accept, AcceptAnswer},
    slot::{Slot, SlotRange},
    value::Value,
};

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
                let is_change = || {
                    stored::value(proposal.value.clone(), Bytes::new())
                        .change()
                        .is_some()
                };
                if !proposal.found && !is_change() {
                    let reason = error.to_string();
                    return Err(Malformed::Value { slot, reason });
                }
            }
            proposals.push((
                slot,
                stored::value(proposal.value, Bytes::from(proposal.traceparent)),
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
