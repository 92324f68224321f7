//! State shown by the worker to the rest of the process: never more than the acceptor has answered for.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use paxos_common::paxos::{
    acceptor::{Acceptor, Membership, news_of_runs},
    identity::{ClusterId, CommitCounter, RunNumber, Stamp},
    message::Leadership,
    slot::Slot,
    witness::{WITNESSED_RUNS_MAX, Witnesses},
};
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::{
    hearing::Hearing, refusals::Refusals, ring::Ring, snapshot_change::SnapshotChange,
    store::snapshots::KeptSnapshots,
};

/// State in memory as of the last commit with released answers.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) stamp: Stamp,
    pub(crate) membership: Arc<Membership>,
    pub(crate) leadership: Leadership,
    /// The acceptor's rows below are sound.
    pub(crate) chosen_to: Slot,
    /// Every slot below is chosen, damaged rows included.
    pub(crate) known_to: Slot,
    pub(crate) trimmed_to: Slot,
    pub(crate) voted_to: Slot,
    /// Rows found damaged below the watermark, and not accepted again yet.
    pub(crate) damaged_rows: u64,
    /// Too little space is left on the disk.
    pub(crate) no_space: bool,
    /// The recorded snapshot files.
    pub(crate) snapshots: KeptSnapshots,
    /// The cap on trims: leaders have reported every slot below as chosen.
    pub(crate) trim_cap: Slot,
    /// One past the highest slot whose proposal was turned away for lack of space since the cap last moved; 0 without one.
    pub(crate) turned_away_to: Slot,
    /// Trimmed rows may be left in the file.
    pub(crate) is_sweeping: bool,
    /// The oldest protocol version whose callers are served.
    pub(crate) least_version: u32,
}

impl Published {
    /// Whether this acceptor has a configuration that does not list this acceptor: it joins, or was removed.
    pub(crate) fn is_outside(&self) -> bool {
        match &*self.membership {
            Membership::Formed(configuration) => !configuration.members().contains_key(&self.stamp.acceptor),
            Membership::Blank | Membership::Seeded(_) | Membership::Forming(_) => false,
        }
    }
}

/// State shown by the worker to the rest of the process.
#[derive(Debug)]
pub(crate) struct Shared {
    published: Mutex<Published>,
    /// The cluster, once this acceptor votes in one; never changes again.
    formed: OnceLock<ClusterId>,
    leadership: watch::Sender<Leadership>,
    /// The stamp of `published`, for tasks that wait for a commit.
    released: watch::Sender<Stamp>,
    past_runs: Vec<(RunNumber, CommitCounter)>,
    /// Remembered runs of other acceptors.
    witnesses: Mutex<Witnesses>,
    /// The proposers that do not count this acceptor.
    pub(crate) refusals: Refusals,
    /// Live frames for observers.
    pub(crate) ring: Ring,
    /// The failure detector: hears the proposers.
    pub(crate) hearing: Arc<Hearing>,
    /// Takes the slots of rows found damaged or gone by a reader.
    pub(crate) damage: mpsc::Sender<Vec<Slot>>,
    /// Takes changes of the recorded snapshots.
    pub(crate) snapshot_changes: mpsc::Sender<SnapshotChange>,
}

impl Shared {
    /// The state of a core just recovered.
    pub(crate) fn new(
        core: &Acceptor,
        past_runs: Vec<(RunNumber, CommitCounter)>,
        witnesses: Witnesses,
        damage: mpsc::Sender<Vec<Slot>>,
        snapshot_changes: mpsc::Sender<SnapshotChange>,
    ) -> Self {
        Self {
            published: Mutex::new(Published {
                stamp: core.stamp(),
                membership: Arc::new(core.membership().clone()),
                leadership: core.leadership(),
                chosen_to: core.chosen_to(),
                known_to: core.known_to(),
                trimmed_to: core.trimmed_to(),
                voted_to: core.voted_to(),
                damaged_rows: 0,
                no_space: false,
                snapshots: KeptSnapshots::default(),
                trim_cap: core.trim_cap(),
                turned_away_to: Slot::ZERO,
                is_sweeping: true,
                least_version: core.least_version(),
            }),
            formed: core.formed_cluster().map_or_else(OnceLock::new, OnceLock::from),
            leadership: watch::Sender::new(core.leadership()),
            released: watch::Sender::new(core.stamp()),
            past_runs,
            witnesses: Mutex::new(witnesses),
            refusals: Refusals::default(),
            ring: Ring::default(),
            hearing: Arc::new(Hearing::new(&core.leadership())),
            damage,
            snapshot_changes,
        }
    }

    /// State as of the last commit with released answers.
    pub(crate) fn published(&self) -> Published {
        self.lock().clone()
    }

    /// The cluster in which this acceptor votes.
    pub(crate) fn formed(&self) -> Option<ClusterId> {
        self.formed.get().copied()
    }

    /// The oldest protocol version whose callers are served.
    pub(crate) fn least_version(&self) -> u32 {
        self.lock().least_version
    }

    /// Signals changes of the leadership.
    pub(crate) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// Returns once memory shows a commit: from then on every answer of this process covers the commit.
    ///
    /// # Cancel safety
    /// Safe: only waits.
    pub(crate) async fn released(&self, commit: CommitCounter) {
        let mut released = self.released.subscribe();
        // No error: the sender lives as long as `self`.
        drop(released.wait_for(|stamp| stamp.covers(commit)).await);
    }

    /// The stored runs before the present run, and the commit counter at the end of each.
    pub(crate) fn past_runs(&self) -> &[(RunNumber, CommitCounter)] {
        &self.past_runs
    }

    /// Remembered runs of other acceptors.
    pub(crate) fn witnesses(&self) -> Witnesses {
        self.witnesses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The part of a leader's witnesses that this acceptor would store: see [`news_of_runs`].
    pub(crate) fn unheard(&self, said: &Witnesses) -> Witnesses {
        if said.is_empty() {
            return Witnesses::default();
        }
        let published = self.published();
        let Some(configuration) = published.membership.configuration() else {
            return Witnesses::default();
        };
        let known = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        let none = Witnesses::default();
        news_of_runs(
            published.stamp.acceptor,
            configuration,
            [&known, &none],
            said.iter(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds witnesses of other acceptors.
    pub(crate) fn remember(&self, news: &Witnesses) {
        let mut witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        witnesses.merge(news.iter());
        witnesses.bound(WITNESSED_RUNS_MAX);
    }

    /// Shows whether there is space on the disk.
    pub(crate) fn show_space(&self, has_space: bool) {
        self.lock().no_space = !has_space;
    }

    /// Shows that proposals for slots below `to` were turned away for lack of space.
    pub(crate) fn show_turned_away(&self, to: Slot) {
        let mut published = self.lock();
        published.turned_away_to = published.turned_away_to.max(to);
    }

    /// Shows the recorded snapshot files.
    pub(crate) fn show_snapshots(&self, snapshots: KeptSnapshots) {
        self.lock().snapshots = snapshots;
    }

    /// Shows whether trimmed rows may be left in the file.
    pub(crate) fn show_sweep(&self, is_sweeping: bool) {
        self.lock().is_sweeping = is_sweeping;
    }

    /// Shows the core's state after a commit.
    pub(crate) fn publish(&self, core: &Acceptor) {
        let mut published = self.lock();
        published.stamp = core.stamp();
        published.chosen_to = core.chosen_to();
        published.known_to = core.known_to();
        published.trimmed_to = core.trimmed_to();
        if published.trim_cap != core.trim_cap() {
            published.trim_cap = core.trim_cap();
            published.turned_away_to = Slot::ZERO;
        }
        published.voted_to = core.voted_to();
        let damaged_rows = core.damaged_rows() as u64;
        if damaged_rows == 0 && published.damaged_rows > 0 {
            info!("all damaged rows below the watermark are repaired");
        }
        published.damaged_rows = damaged_rows;
        // Once formed, the membership changes with the era alone.
        let may_change = self.formed.get().is_none() || published.leadership.promised.era() != core.era();
        if may_change && *published.membership != *core.membership() {
            published.membership = Arc::new(core.membership().clone());
        }
        published.least_version = core.least_version();
        let leadership = core.leadership();
        let changed = published.leadership != leadership;
        if changed {
            published.leadership = leadership.clone();
        }
        drop(published);
        // After the change of the announced state.
        self.released.send_if_modified(|released| {
            let stamp = core.stamp();
            let news = *released != stamp;
            *released = stamp;
            news
        });
        if let Some(cluster) = core.formed_cluster() {
            self.formed.get_or_init(|| cluster);
        }
        if changed {
            info!(ballot = %leadership.promised, address = %leadership.address, resigned = leadership.resigned,
                "leadership changed");
            self.leadership.send_replace(leadership);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use paxos_common::paxos::{
        acceptor::Recovered, ballot::Ballot, identity::AcceptorUuid, quorum::Configuration,
    };

    fn uuid(number: u128) -> AcceptorUuid {
        AcceptorUuid::from_u128(number)
    }

    #[test]
    fn runs_of_joiners_are_remembered_as_the_runs_of_members() {
        let members = (1..=3).map(|number| (uuid(number), "http://a:1".into()));
        let recovered = Recovered {
            uuid: uuid(1),
            commit_counter: CommitCounter::new(1),
            membership: Membership::Formed(Configuration::new(members, 2, 2).unwrap()),
            promised: Ballot::ZERO,
            leader_address: "".into(),
            known_to: Slot::ZERO,
            trimmed_to: Slot::ZERO,
            voted_to: Slot::ZERO,
            least_version: 1,
            rows: BTreeMap::new(),
        };
        let core = Acceptor::recover(recovered, RunNumber::from_random(1));
        let (damage, _damaged) = mpsc::channel(1);
        let (changes, _changed) = mpsc::channel(1);
        let shared = Shared::new(&core, Vec::new(), Witnesses::default(), damage, changes);
        let heard = |number| (uuid(number), RunNumber::from_random(9), CommitCounter::new(4));
        // Acceptor 4 is a joiner, and acceptor 1 this very acceptor.
        let said = Witnesses::from_iter([1, 2, 4].map(heard));
        let news = shared.unheard(&said);
        assert_eq!(news, Witnesses::from_iter([2, 4].map(heard)));
        shared.remember(&news);
        assert!(shared.unheard(&said).is_empty(), "remembered already");
    }
}
