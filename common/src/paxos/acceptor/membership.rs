//! Membership: the two steps by which an acceptor becomes a member of a cluster.

use super::{Acceptor, Group};
use crate::paxos::{
    identity::{AcceptorUuid, ClusterId},
    quorum::Configuration,
};

/// How far an acceptor is in becoming a member of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Membership {
    /// Member of no cluster.
    #[default]
    Blank,
    /// Has stored a configuration, refuses every other configuration, and does not vote yet.
    Forming(Configuration),
    /// A member: every listed acceptor had stored the configuration.
    Formed(Configuration),
}

impl Membership {
    /// The stored configuration, if any.
    pub fn configuration(&self) -> Option<&Configuration> {
        match self {
            Self::Blank => None,
            Self::Forming(configuration) | Self::Formed(configuration) => Some(configuration),
        }
    }
}

/// Why an acceptor refuses a step of forming a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum FormRefusal {
    /// The list names only other acceptors.
    #[error("the list of acceptors does not name this acceptor, {0}")]
    NotListed(AcceptorUuid),
    /// Another list is stored already.
    #[error(
        "this acceptor has already stored another list: the stored list is {stored}, the requested list is {asked}. \
         Start all proposers with the same list. If no listed acceptor is formed yet, including unreachable \
         acceptors, no acceptor has voted: stop the proposers and empty every listed data directory. If any listed \
         acceptor is formed, never empty a data directory"
    )]
    Conflict {
        /// The stored list.
        stored: String,
        /// The list to store, as requested.
        asked: String,
    },
    /// The second step came before the first.
    #[error("this acceptor has not stored the list to be completed: this acceptor may have lost its disk")]
    NotStored,
}

impl Acceptor {
    /// The cluster that this acceptor votes in; `None` until the acceptor is formed.
    pub fn formed_cluster(&self) -> Option<ClusterId> {
        match &self.membership {
            Membership::Formed(configuration) => Some(configuration.cluster_id()),
            Membership::Blank | Membership::Forming(_) => None,
        }
    }

    /// The progress in forming.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// First step of forming: stores a configuration as forming.
    ///
    /// # Errors
    /// When the configuration does not name this acceptor, or another configuration is stored.
    pub fn store_configuration(&self, group: &mut Group, asked: &Configuration) -> Result<(), FormRefusal> {
        let current = group.membership.as_ref().unwrap_or(&self.membership);
        if let Some(stored) = current.configuration() {
            return if stored.same_cluster(asked) {
                Ok(())
            } else {
                Err(conflict(stored, asked))
            };
        }
        if !asked.members().contains_key(&self.uuid) {
            return Err(FormRefusal::NotListed(self.uuid));
        }
        group.membership = Some(Membership::Forming(asked.clone()));
        group.durable = true;
        Ok(())
    }

    /// Second step of forming: the caller has seen all members store the configuration, or one member formed.
    ///
    /// # Errors
    /// When this acceptor has not stored the configuration, or has stored another.
    pub fn complete_configuration(
        &self,
        group: &mut Group,
        asked: &Configuration,
    ) -> Result<(), FormRefusal> {
        match group.membership.as_ref().unwrap_or(&self.membership) {
            Membership::Blank => Err(FormRefusal::NotStored),
            Membership::Forming(stored) | Membership::Formed(stored) if !stored.same_cluster(asked) => {
                Err(conflict(stored, asked))
            }
            Membership::Formed(_) => Ok(()),
            Membership::Forming(stored) => {
                group.membership = Some(Membership::Formed(stored.clone()));
                group.durable = true;
                Ok(())
            }
        }
    }
}

fn conflict(stored: &Configuration, asked: &Configuration) -> FormRefusal {
    let list = |configuration: &Configuration| {
        let members: Vec<_> = configuration
            .members()
            .iter()
            .map(|(uuid, address)| format!("{uuid} at {address}"))
            .collect();
        let quorums = configuration.quorums();
        format!(
            "[{}] with quorums {} and {}",
            members.join(", "),
            quorums.phase1(),
            quorums.phase2()
        )
    };
    FormRefusal::Conflict {
        stored: list(stored),
        asked: list(asked),
    }
}
