//! No two campaigns share a ballot, whether of two runs or of one. Much of invariant 2 rests on it.

use std::collections::BTreeSet;

use paxos_common::paxos::ballot::Ballot;

/// Every ballot that anybody campaigned at.
#[derive(Default)]
pub(crate) struct Ballots(BTreeSet<Ballot>);

impl Ballots {
    /// A campaign begins.
    pub(crate) fn campaign(&mut self, ballot: Ballot) {
        assert!(
            self.0.insert(ballot),
            "ballot {ballot} is used for a second campaign"
        );
    }
}
