//! Contradictions: a value against an acceptor's own vote, and the answer to such a value.

use std::{collections::BTreeMap, sync::Arc};

use super::{Acceptor, Group, HeldRow, promises::NotGranted};
use crate::paxos::{
    ballot::Ballot,
    message::{Accept, AcceptAnswer, Refused},
    slot::Slot,
    value::Value,
};

/// A breach of the protocol: a value that contradicts a vote of this acceptor. The sender is broken or forged, or a
/// sender of earlier messages was. The acceptor does not vote: see [`Acceptor::contradicted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// Two values at one ballot.
    #[error(
        "slot {slot}: a second value at ballot {ballot}; only one proposer may use this ballot, and only for one \
         value"
    )]
    SecondValueAtBallot {
        /// The slot.
        slot: Slot,
        /// The ballot of both values.
        ballot: Ballot,
    },
    /// A different value for a chosen slot.
    #[error("slot {slot} is chosen, but ballot {ballot} proposes another value for this slot")]
    SecondValueForChosen {
        /// The slot.
        slot: Slot,
        /// The ballot of the proposal.
        ballot: Ballot,
    },
}

impl Acceptor {
    /// Checks a proposal against the row held for its slot.
    ///
    /// # Errors
    /// When the value contradicts this acceptor's vote.
    pub(super) fn check_value(
        &self,
        group: &Group,
        ballot: Ballot,
        slot: Slot,
        value: &Value,
        below: &BTreeMap<Slot, HeldRow>,
    ) -> Result<(), Violation> {
        match self.held(group, slot, below) {
            Some(HeldRow::Accepted(_, fingerprint)) if fingerprint == value.fingerprint() => Ok(()),
            Some(HeldRow::Accepted(held, _)) if held == ballot => {
                Err(Violation::SecondValueAtBallot { slot, ballot })
            }
            Some(HeldRow::Accepted(..)) if slot < group.known_to => {
                Err(Violation::SecondValueForChosen { slot, ballot })
            }
            Some(HeldRow::Accepted(..) | HeldRow::Unknown) | None => Ok(()),
        }
    }

    /// The answer to an Accept that [`Self::accept`] found to breach the protocol.
    ///
    /// A message alone must not end the process: any caller may have sent the message, and may send the message again
    /// after each start. To not vote is safe at any time, because an acceptor may ignore any request.
    ///
    /// Two values at one ballot: this acceptor cannot know which of the values comes from the ballot's owner. A later
    /// watermark of this ballot could pass the wrong value. So the acceptor promises the next ballot of the same
    /// proposer, as if this proposer had campaigned and stopped: from then on, restarts included, the acceptor takes
    /// part in the contradicted ballot no more. The leader is rejected and campaigns again.
    ///
    /// Another value for a chosen slot, at a higher ballot: nothing changes here. To promise the ballot would depose
    /// the leader for a message that may be forged.
    pub fn contradicted(&self, group: &mut Group, accept: &Accept, violation: &Violation) -> AcceptAnswer {
        if let Violation::SecondValueAtBallot { ballot, .. } = violation {
            let address = Arc::clone(&group.leader_address);
            group.promise(ballot.next_of(ballot.proposer()), &address);
            group.resigned = false;
        }
        match group.check_ballot(accept.ballot) {
            Err(NotGranted::Rejected(rejection)) => AcceptAnswer::Rejected(rejection),
            // The slot is chosen with another value, or the ballot has the last round: no higher ballot exists.
            Err(NotGranted::Refused(_)) | Ok(()) => AcceptAnswer::Refused(Refused {
                reason: violation.to_string(),
                promised: group.promised,
            }),
        }
    }
}
