//! Reported runs: the runs of other acceptors, remembered as reported by leaders.

use std::collections::BTreeSet;

use super::{Acceptor, Group};
use crate::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::ACCEPTORS_MAX,
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

/// Limit of remembered acceptors outside the configuration: joiners, and members of the configurations before or after.
const OUTSIDERS_MAX: usize = 2 * ACCEPTORS_MAX;

impl Acceptor {
    /// Remembers the runs of acceptors reported by a leader: stored with the next commit, without a separate commit. Of each
    /// acceptor, the [`WITNESSED_RUNS_MAX`] runs with the highest counters are remembered.
    ///
    /// A joiner is remembered too: its disk is watched before its votes count. Of acceptors outside the configuration, the
    /// first 62 are remembered, and all others ignored.
    pub fn witness(
        &self,
        group: &mut Group,
        heard: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) {
        let Some(configuration) = self.membership.configuration() else {
            return;
        };
        let is_member = |acceptor: &AcceptorUuid| configuration.members().contains_key(acceptor);
        let held = self.witnesses.acceptors().chain(group.witnesses.acceptors());
        let mut outsiders: BTreeSet<AcceptorUuid> = held.filter(|acceptor| !is_member(acceptor)).collect();
        for (acceptor, run, counter) in heard {
            if acceptor == self.uuid {
                continue;
            }
            let has_room = is_member(&acceptor)
                || outsiders.contains(&acceptor)
                || (outsiders.len() < OUTSIDERS_MAX && outsiders.insert(acceptor));
            if has_room
                && self
                    .witnesses
                    .would_keep(acceptor, run, counter, WITNESSED_RUNS_MAX)
            {
                group.witnesses.hear(acceptor, run, counter);
            }
        }
        group.witnesses.bound(WITNESSED_RUNS_MAX);
    }

    /// The remembered runs of other acceptors.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }
}
