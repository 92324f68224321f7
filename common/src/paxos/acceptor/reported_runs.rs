//! Reported runs: the runs of other acceptors, remembered as reported by leaders.

use std::collections::BTreeSet;

use super::{Acceptor, Group};
use crate::paxos::{
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    quorum::{ACCEPTORS_MAX, Configuration},
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};

/// Limit of remembered acceptors outside the configuration: joiners, and members of the configurations before or after.
const OUTSIDERS_MAX: usize = 2 * ACCEPTORS_MAX;

/// The part of a leader's table that an acceptor stores, and has not stored yet: news about other acceptors. Of each acceptor,
/// the [`WITNESSED_RUNS_MAX`] runs with the highest counters are remembered.
///
/// A joiner is remembered too: its disk is watched before its votes count. Of acceptors outside the configuration, the first 62
/// are remembered, and all others ignored. `held`: what the acceptor remembers already, on disk and on the way to the disk.
pub fn news_of_runs(
    own: AcceptorUuid,
    configuration: &Configuration,
    held: [&Witnesses; 2],
    heard: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
) -> Witnesses {
    let is_member = |acceptor: &AcceptorUuid| configuration.members().contains_key(acceptor);
    let remembered = held.into_iter().flat_map(Witnesses::acceptors);
    let mut outsiders: BTreeSet<AcceptorUuid> = remembered.filter(|acceptor| !is_member(acceptor)).collect();
    let mut news = Witnesses::default();
    for (acceptor, run, counter) in heard {
        if acceptor == own {
            continue;
        }
        let has_room = is_member(&acceptor)
            || outsiders.contains(&acceptor)
            || (outsiders.len() < OUTSIDERS_MAX && outsiders.insert(acceptor));
        if has_room && held[0].would_keep(acceptor, run, counter, WITNESSED_RUNS_MAX) {
            news.hear(acceptor, run, counter);
        }
    }
    news.bound(WITNESSED_RUNS_MAX);
    news
}

impl Acceptor {
    /// Remembers the runs of acceptors reported by a leader: stored with the next commit, without a separate commit. See
    /// [`news_of_runs`].
    pub fn witness(
        &self,
        group: &mut Group,
        heard: impl IntoIterator<Item = (AcceptorUuid, RunNumber, CommitCounter)>,
    ) {
        let Some(configuration) = self.membership.configuration() else {
            return;
        };
        let held = [&self.witnesses, &group.witnesses];
        let news = news_of_runs(self.uuid, configuration, held, heard);
        group.witnesses.merge(news.iter());
        group.witnesses.bound(WITNESSED_RUNS_MAX);
    }

    /// The remembered runs of other acceptors.
    pub fn witnesses(&self) -> &Witnesses {
        &self.witnesses
    }
}
