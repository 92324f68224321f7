//! Eras: an acceptor takes the configuration of a later era, and from then on serves this era alone.
//!
//! A change of members is chosen as a value of the log. The leader puts the new configuration in force when enough new
//! members hold the whole log up to the change, and installs the configuration at the acceptors. From the commit of the
//! installation on, the acceptor's promise is above every ballot of the eras before. So the acceptor takes part in the
//! earlier eras no more, restarts included, and its earlier votes stay facts.
//!
//! An acceptor whose own configuration does not list it is *outside*: a joiner, before the change takes force, or a removed
//! acceptor. An acceptor outside keeps all rules. Its votes count nowhere.
//!
//! A joiner begins with an empty log at slot 0, also if the log of the cluster begins above: after trims, or at the base of a
//! restored cluster. The leader brings the joiner a snapshot, and the joiner lifts itself to the end of the snapshot. Until
//! then, the joiner's watermark stays at 0: no leader proposes a slot below the first slot of a phase-2 quorum, and a watermark
//! advances over rows only. So an empty joiner never counts as a holder of the log, and no change takes force by its watermark.
//! In a campaign of a later era that lists the joiner, a phase-1 quorum contains an acceptor that holds the log.

use std::sync::Arc;

use super::{Acceptor, Group, Membership, membership::describe};
use crate::paxos::{
    ballot::Ballot,
    era::{CHANGES_VERSION, Era},
    identity::ClusterId,
    quorum::Configuration,
    value::Value,
};

/// Why an acceptor does not install a configuration. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InstallRefusal {
    /// The acceptor belongs to another cluster, or is about to.
    #[error("this acceptor belongs to cluster {found}, and the configuration to cluster {asked}")]
    OtherCluster {
        /// The cluster of this acceptor.
        found: ClusterId,
        /// The cluster of the configuration.
        asked: ClusterId,
    },
    /// The acceptor holds another configuration of the same era. Two configurations of one era may each choose values.
    #[error(
        "this acceptor holds another configuration of era {era}: a process broke the protocol, or a message was forged. Keep \
         every data directory unchanged. Stored: {stored}; received: {asked}"
    )]
    Conflict {
        /// The era of both.
        era: Era,
        /// The stored configuration.
        stored: String,
        /// The other configuration.
        asked: String,
    },
    /// The configuration lists this acceptor, and this acceptor is blank.
    #[error(
        "the configuration of era {0} lists this acceptor, and this acceptor is blank: it has lost its disk. Empty its directory, \
         start it again, and replace the member"
    )]
    Listed(Era),
    /// The acceptor belongs to no cluster.
    #[error(
        "this acceptor is blank and its cluster is formed: a member lost its disk, or the acceptor is new. If the disk of a \
         member is lost, replace the member"
    )]
    Blank,
    /// The acceptor is still forming a cluster, or holds a backup to be restored.
    #[error(
        "this acceptor is about to form a cluster: wait until the cluster is formed, or empty its directory"
    )]
    NotFormed,
}

impl Acceptor {
    /// Installs a configuration in force. A configuration of an earlier era, or the present configuration, changes nothing.
    ///
    /// With `join`, a blank acceptor takes the configuration as well, unless the configuration lists this acceptor: this
    /// acceptor will join the cluster. Without, a blank acceptor refuses, because it may have lost its disk.
    ///
    /// # Errors
    /// When the acceptor belongs to another cluster, is blank without `join`, is about to form or to restore a cluster, or holds
    /// another configuration of the same era.
    pub fn install(
        &self,
        group: &mut Group,
        configuration: &Configuration,
        join: bool,
    ) -> Result<(), InstallRefusal> {
        let asked = configuration.cluster_id();
        match group.membership.as_ref().unwrap_or(&self.membership) {
            Membership::Blank if join && configuration.members().contains_key(&self.uuid) => {
                return Err(InstallRefusal::Listed(configuration.era()));
            }
            Membership::Blank if join => {}
            Membership::Blank => return Err(InstallRefusal::Blank),
            Membership::Seeded(_) | Membership::Forming(_) => return Err(InstallRefusal::NotFormed),
            Membership::Formed(stored) if stored.cluster_id() != asked => {
                let found = stored.cluster_id();
                return Err(InstallRefusal::OtherCluster { found, asked });
            }
            Membership::Formed(stored) if stored.era() == configuration.era() => {
                let is_same = stored.same_cluster(configuration);
                let conflict = || InstallRefusal::Conflict {
                    era: stored.era(),
                    stored: describe(stored),
                    asked: describe(configuration),
                };
                return if is_same { Ok(()) } else { Err(conflict()) };
            }
            Membership::Formed(stored) if stored.era() > configuration.era() => return Ok(()),
            Membership::Formed(_) => {}
        }
        group.membership = Some(Membership::Formed(configuration.clone()));
        group.promised = group.promised.max(Ballot::before(configuration.era()));
        group.leader_address = Arc::from("");
        group.resigned = false;
        group.knows_changes();
        group.needs_commit = true;
        Ok(())
    }

    /// The era of this acceptor's configuration. The promise is of the same era.
    pub fn era(&self) -> Era {
        self.promised.era()
    }
}

impl Group {
    /// Callers of releases without changes of members are refused from this commit on, if `value` is a change: they would
    /// take later ballots, or the slots above the change, for something else.
    pub(super) fn look_for_change(&mut self, value: &Value) {
        if value.change().is_some() {
            self.knows_changes();
        }
    }

    fn knows_changes(&mut self) {
        self.least_version = self.least_version.max(CHANGES_VERSION);
    }
}
