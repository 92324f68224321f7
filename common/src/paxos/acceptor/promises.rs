//! Phase 1: promises, and the check of every ballot against the promise.

use std::sync::Arc;

use super::{Acceptor, Group};
use crate::paxos::{
    ballot::Ballot,
    message::{Leadership, Prepare, PrepareAnswer, Refused, Rejection},
};

/// Reason for not granting a ballot.
pub(super) enum NotGranted {
    /// A higher ballot is promised.
    Rejected(Rejection),
    /// The ballot is out of bounds.
    Refused(Refused),
}

impl Acceptor {
    /// Phase 1: promises a ballot unless a higher ballot is promised. An equal ballot is promised again, because its
    /// only owner may have lost the answer.
    pub fn prepare(&self, group: &mut Group, prepare: &Prepare) -> PrepareAnswer {
        match group.check_ballot(prepare.ballot) {
            Err(NotGranted::Rejected(rejection)) => return PrepareAnswer::Rejected(rejection),
            Err(NotGranted::Refused(refusal)) => return PrepareAnswer::Refused(refusal),
            Ok(()) => {}
        }
        // A Prepare at the promised ballot is a leader's question, and may arrive after the leader's resignation.
        group.resigned &= prepare.ballot == group.promised;
        group.promise(prepare.ballot, &prepare.address);
        PrepareAnswer::Promised
    }

    /// The highest promise.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// The leader, as far as this acceptor knows.
    pub fn leadership(&self) -> Leadership {
        Leadership {
            promised: self.promised,
            address: Arc::clone(&self.leader_address),
            resigned: self.resigned,
        }
    }
}

impl Group {
    /// Checks a ballot against the promise of the group.
    pub(super) fn check_ballot(&self, asked: Ballot) -> Result<(), NotGranted> {
        if asked < self.promised {
            return Err(NotGranted::Rejected(Rejection {
                promised: self.promised,
                leader_address: Arc::clone(&self.leader_address),
            }));
        }
        if asked.era() > self.promised.era() {
            let reason = format!(
                "ballot {asked} is of a later era than the configuration of this acceptor, era {}: install the configuration \
                 of era {} first",
                self.promised.era(),
                asked.era()
            );
            return Err(NotGranted::Refused(Refused {
                reason,
                promised: self.promised,
            }));
        }
        if !self.promised.admits_jump_to(asked) {
            let reason = format!(
                "round {} is more than 2^32 above the promised ballot {}: raise the round in smaller steps",
                asked.round(),
                self.promised
            );
            return Err(NotGranted::Refused(Refused {
                reason,
                promised: self.promised,
            }));
        }
        Ok(())
    }

    /// Raises the promise to this ballot. Does nothing if the promise is as high already.
    pub(super) fn promise(&mut self, ballot: Ballot, address: &Arc<str>) {
        if ballot > self.promised {
            self.promised = ballot;
            self.leader_address = Arc::clone(address);
            self.needs_commit = true;
        }
    }
}
