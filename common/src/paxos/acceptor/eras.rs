//! Eras: an acceptor takes the configuration of a later era, and from then on serves this era alone.
//!
//! A change of members is chosen as a value of the log. The leader puts the new configuration in force when enough new
//! members hold the whole log up to the change, and installs the configuration at the acceptors. From the commit of the
//! installation on, the acceptor's promise is above every ballot of the eras before. So the acceptor takes part in the
//! earlier eras no more, restarts included, and its earlier votes stay facts.
//!
//! An acceptor whose own configuration does not list it is *outside*: a joiner, before the change takes force, or a removed
//! acceptor. An acceptor outside keeps all rules. Its votes count nowhere.

use std::sync::Arc;

use super::{Acceptor, Group, Membership};
use crate::paxos::{ballot::Ballot, era::Era, identity::ClusterId, quorum::Configuration, value::Value};

/// The protocol version of callers that know eras and changes of members.
const CHANGES_VERSION: u32 = 3;

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
    /// Installs a configuration in force. A configuration of an earlier era, or of the present era, changes nothing.
    ///
    /// With `join`, a blank acceptor takes the configuration as well: this acceptor will join the cluster. Without, a blank
    /// acceptor refuses, because it may have lost its disk.
    ///
    /// # Errors
    /// When the acceptor belongs to another cluster, is blank without `join`, or is about to form a cluster.
    pub fn install(
        &self,
        group: &mut Group,
        configuration: &Configuration,
        join: bool,
    ) -> Result<(), InstallRefusal> {
        let asked = configuration.cluster_id();
        let stored = match group.membership.as_ref().unwrap_or(&self.membership) {
            Membership::Blank if join => None,
            Membership::Blank => return Err(InstallRefusal::Blank),
            Membership::Seeded(_) | Membership::Forming(_) => return Err(InstallRefusal::NotFormed),
            Membership::Formed(stored) if stored.cluster_id() != asked => {
                let found = stored.cluster_id();
                return Err(InstallRefusal::OtherCluster { found, asked });
            }
            Membership::Formed(stored) => Some(stored.era()),
        };
        if stored.is_some_and(|stored| stored >= configuration.era()) {
            return Ok(());
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
