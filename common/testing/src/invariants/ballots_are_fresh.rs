//! No two campaigns share a ballot, whether in a single run or in two runs. Much of invariant 2 rests on this rule.

use std::collections::BTreeSet;

use paxos_common::paxos::ballot::Ballot;

/// Every ballot used in a campaign.
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
