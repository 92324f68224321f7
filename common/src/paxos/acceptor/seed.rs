//! Seeds: a blank acceptor holds a restored backup before it becomes a member of the restored cluster.

use crate::paxos::{identity::ClusterId, quorum::Configuration, slot::Slot};

/// A snapshot from which a restored cluster begins, as a whole file on the acceptor's own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed {
    /// The cluster to be formed. The id covers the members, the quorums and the origin.
    pub cluster: ClusterId,
    /// The end of the snapshot, and the first slot of the cluster.
    pub base: Slot,
}

impl Seed {
    /// The seed of a cluster; none for a cluster that begins empty.
    pub fn of(configuration: &Configuration) -> Option<Self> {
        let origin = configuration.origin()?;
        Some(Self {
            cluster: configuration.cluster_id(),
            base: origin.base(),
        })
    }
}

/// What to do with an offered seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedUse {
    /// Keep the file, in place of an earlier file with the same seed.
    Keep,
    /// Nothing: the cluster of the seed is formed already.
    Nothing,
}

/// Why an acceptor takes no seed. Nothing is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SeedRefusal {
    /// Another restore came first.
    #[error(
        "this acceptor holds the backup of another restore, to cluster {held}: finish that \"paxos restore\", with the same \
         FILE, the same acceptors and the same --above. If that restore is refused too, because the two lists of acceptors \
         differ, or to give that restore up, first end both commands and stop all proposers and these acceptors. Then, while \
         no acceptor of either list is formed, including unreachable acceptors, empty the data directories of all these \
         acceptors, start them and repeat one of the two commands. If any of these acceptors is formed, never empty a data \
         directory"
    )]
    OtherSeed {
        /// The cluster of the held seed.
        held: ClusterId,
    },
    /// The acceptor has stored another list, and does not vote.
    #[error(
        "this acceptor has stored the list of cluster {found}, and does not vote yet. While no acceptor of that list is \
         formed, including unreachable acceptors, stop the proposers, empty the data directories of all listed acceptors and \
         repeat this command. If any of these acceptors is formed, never empty a data directory"
    )]
    StoredAnotherList {
        /// The cluster of the stored list.
        found: ClusterId,
    },
    /// The acceptor is a member of a cluster.
    #[error(
        "this acceptor belongs to cluster {found}: a backup is restored only into blank acceptors. Name acceptors with empty \
         data directories, and never empty the data directory of an acceptor that is in use"
    )]
    NotBlank {
        /// The cluster of the acceptor.
        found: ClusterId,
    },
}
