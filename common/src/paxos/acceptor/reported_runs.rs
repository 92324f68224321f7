//! Reported runs: the runs of other acceptors, remembered as reported by leaders.

use super::{Acceptor, Group};
use crate::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

impl Acceptor {
    /// Remembers the runs of acceptors reported by a leader: stored with the next commit, without a separate commit.
    /// Acceptors outside the cluster are ignored. Of each member, the [`WITNESSED_RUNS_MAX`] runs with the highest
    /// counters are remembered.
    pub fn witness(
        &self,
        group: &mut Group,
        heard: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) {
        let is_member = |acceptor: &AcceptorUuid| {
            let configuration = self.membership.configuration();
            configuration.is_some_and(|configuration| configuration.members().contains_key(acceptor))
        };
        for (acceptor, run, counter) in heard {
            let is_other = acceptor != self.uuid && is_member(&acceptor);
            if is_other
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
