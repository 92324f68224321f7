//! Marks reported by the promises of a campaign, kept beside the core.

use std::collections::BTreeMap;

use paxos_common::paxos::{
    ballot::Ballot,
    identity::AcceptorUuid,
    message::{Prepare, PromisePage},
    slot::Slot,
};

/// Marks reported by the promises of the latest campaign, kept separately from the core.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Marks {
    pub(crate) ballot: Ballot,
    /// First requested slot.
    from: Slot,
    /// End of each acceptor's report without a gap. Pages after a lost page do not count.
    covered: BTreeMap<AcceptorUuid, Slot>,
    pub(crate) highest: Slot,
}

impl Marks {
    pub(crate) fn asked(&mut self, prepare: &Prepare) {
        if prepare.ballot > self.ballot {
            *self = Self {
                ballot: prepare.ballot,
                from: prepare.from,
                ..Self::default()
            };
        }
    }

    /// Takes in a page received by a candidate.
    pub(crate) fn answered(&mut self, acceptor: AcceptorUuid, ballot: Ballot, page: &PromisePage) {
        let covered = self.covered.entry(acceptor).or_insert(self.from);
        if ballot == self.ballot && page.from <= *covered {
            *covered = page.next.max(*covered);
            self.highest = self
                .highest
                .max(page.voted_to)
                .max(page.known_to)
                .max(page.trimmed_to);
        }
    }
}
