//! Membership: the two steps by which an acceptor becomes a member of a cluster.
//!
//! An acceptor with a seed takes only the configuration whose id the seed names, and an acceptor without a seed refuses
//! every configuration with an origin. The second step begins the log at the end of the seed, in the same commit. So every
//! vote of a restored cluster is above every slot of the cluster before.

use super::{
    Acceptor, Group,
    seed::{Seed, SeedRefusal, SeedUse},
};
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
    /// Member of no cluster, with a restored backup on its disk. Refuses every configuration but the configuration of the
    /// seed.
    Seeded(Seed),
    /// Has stored a configuration, refuses every other configuration, and does not vote yet.
    Forming(Configuration),
    /// A member: every listed acceptor had stored the configuration.
    Formed(Configuration),
}

impl Membership {
    /// The stored configuration, if any.
    pub fn configuration(&self) -> Option<&Configuration> {
        match self {
            Self::Blank | Self::Seeded(_) => None,
            Self::Forming(configuration) | Self::Formed(configuration) => Some(configuration),
        }
    }

    /// Whether an acceptor in this state takes `seed`.
    ///
    /// # Errors
    /// When the acceptor holds another seed, or belongs to another cluster.
    pub fn take_seed(&self, seed: Seed) -> Result<SeedUse, SeedRefusal> {
        match self {
            Self::Blank => Ok(SeedUse::Keep),
            Self::Seeded(held) if *held == seed => Ok(SeedUse::Keep),
            Self::Seeded(held) => Err(SeedRefusal::OtherSeed { held: held.cluster }),
            Self::Forming(stored) if Seed::of(stored) == Some(seed) => Ok(SeedUse::Keep),
            Self::Formed(stored) if Seed::of(stored) == Some(seed) => Ok(SeedUse::Nothing),
            Self::Forming(stored) => Err(SeedRefusal::StoredAnotherList {
                found: stored.cluster_id(),
            }),
            Self::Formed(stored) => Err(SeedRefusal::NotBlank {
                found: stored.cluster_id(),
            }),
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
    /// The acceptor holds a backup.
    #[error(
        "this acceptor is blank and holds a backup, to be restored into cluster {seeded}: finish \"paxos restore\", or empty \
         its directory"
    )]
    HoldsBackup {
        /// The cluster of the seed.
        seeded: ClusterId,
    },
    /// The list belongs to a restored cluster, and the acceptor has no backup.
    #[error(
        "the list belongs to a restored cluster, and this acceptor holds no backup: repeat \"paxos restore\" with all \
         acceptors of the list"
    )]
    NoBackup,
    /// The second step came before the first.
    #[error("this acceptor has not stored the list to be completed: this acceptor may have lost its disk")]
    NotStored,
}

impl Acceptor {
    /// The cluster that this acceptor votes in; `None` until the acceptor is formed.
    pub fn formed_cluster(&self) -> Option<ClusterId> {
        match &self.membership {
            Membership::Formed(configuration) => Some(configuration.cluster_id()),
            Membership::Blank | Membership::Seeded(_) | Membership::Forming(_) => None,
        }
    }

    /// The progress in forming.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// First step of forming: stores a configuration as forming.
    ///
    /// # Errors
    /// When the configuration does not name this acceptor, another configuration is stored, or the seed of this acceptor and
    /// the origin of the configuration do not belong together.
    pub fn store_configuration(&self, group: &mut Group, asked: &Configuration) -> Result<(), FormRefusal> {
        match group.membership.as_ref().unwrap_or(&self.membership) {
            Membership::Forming(stored) | Membership::Formed(stored) => {
                return if stored.same_cluster(asked) {
                    Ok(())
                } else {
                    Err(conflict(stored, asked))
                };
            }
            Membership::Seeded(seed) if Seed::of(asked) != Some(*seed) => {
                return Err(FormRefusal::HoldsBackup { seeded: seed.cluster });
            }
            Membership::Blank if asked.origin().is_some() => return Err(FormRefusal::NoBackup),
            Membership::Blank | Membership::Seeded(_) => {}
        }
        if !asked.members().contains_key(&self.uuid) {
            return Err(FormRefusal::NotListed(self.uuid));
        }
        group.membership = Some(Membership::Forming(asked.clone()));
        group.needs_commit = true;
        Ok(())
    }

    /// Second step of forming: the caller has seen all members store the configuration, or one member formed. With an
    /// origin, the log begins at the end of the seed from the same commit on.
    ///
    /// # Errors
    /// When this acceptor has not stored the configuration, or has stored another.
    pub fn complete_configuration(
        &self,
        group: &mut Group,
        asked: &Configuration,
    ) -> Result<(), FormRefusal> {
        match group.membership.as_ref().unwrap_or(&self.membership) {
            Membership::Blank | Membership::Seeded(_) => Err(FormRefusal::NotStored),
            Membership::Forming(stored) | Membership::Formed(stored) if !stored.same_cluster(asked) => {
                Err(conflict(stored, asked))
            }
            Membership::Formed(_) => Ok(()),
            Membership::Forming(stored) => {
                let stored = stored.clone();
                if let Some(origin) = stored.origin() {
                    group.begin_at(origin.base());
                }
                group.membership = Some(Membership::Formed(stored));
                group.needs_commit = true;
                Ok(())
            }
        }
    }

    /// Takes a seed into memory. Call between groups, and only after the record of the whole and durable file is durable.
    ///
    /// # Panics
    /// If [`Membership::take_seed`] refuses the seed.
    pub fn seeded(&mut self, seed: Seed) {
        let taken = self.membership.take_seed(seed);
        assert!(taken.is_ok(), "only a taken seed is recorded: {taken:?}");
        if self.membership == Membership::Blank {
            self.membership = Membership::Seeded(seed);
        }
    }
}

fn conflict(stored: &Configuration, asked: &Configuration) -> FormRefusal {
    FormRefusal::Conflict {
        stored: describe(stored),
        asked: describe(asked),
    }
}

/// The members, quorums and origin of a configuration, for people.
pub(super) fn describe(configuration: &Configuration) -> String {
    let members: Vec<_> = configuration
        .members()
        .iter()
        .map(|(uuid, member)| format!("{uuid} at {}", member.address))
        .collect();
    let quorums = configuration.quorums();
    let origin = configuration.origin().map_or_else(String::new, |origin| {
        format!(", restored from a backup to slot {}", origin.base())
    });
    format!(
        "[{}] with quorums {} and {}{origin}",
        members.join(", "),
        quorums.phase1(),
        quorums.phase2()
    )
}
