//! Quorums: the acceptors with a vote, the votes needed, and a count of each acceptor at most once.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{
    era::Era,
    identity::{AcceptorUuid, ClusterId},
    origin::Origin,
};

/// Limit of acceptors in a cluster (inclusive). Three, five or seven make sense; the limit keeps messages bounded.
pub const ACCEPTORS_MAX: usize = 31;

/// Longest name of an acceptor in a configuration, in bytes. Proposers cut longer names.
pub const MEMBER_NAME_BYTES_MAX: usize = 256;

/// Number of acceptors, and the quorum size of each phase.
///
/// Every phase-1 quorum intersects every phase-2 quorum because `phase1 + phase2 > acceptors`. Source: Howard, Malkhi,
/// Spiegelman, *Flexible Paxos* (2016), §3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorums {
    acceptors: usize,
    phase1: usize,
    phase2: usize,
}

/// Quorums that would not intersect, or cannot be met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "{acceptors} acceptors with quorums of {phase1} (phase 1) and {phase2} (phase 2): each quorum must be between 1 \
     and the number of acceptors, the sum of both quorums must exceed that number, and at most {ACCEPTORS_MAX} \
     acceptors are allowed"
)]
pub struct UnsafeQuorums {
    acceptors: usize,
    phase1: usize,
    phase2: usize,
}

impl Quorums {
    /// Checks that every phase-1 quorum intersects every phase-2 quorum.
    ///
    /// # Errors
    /// When two such quorums can miss each other, a quorum is empty or larger than the set, or there are too many
    /// acceptors.
    pub fn new(acceptors: usize, phase1: usize, phase2: usize) -> Result<Self, UnsafeQuorums> {
        let possible = |quorum| (1..=acceptors).contains(&quorum);
        if acceptors <= ACCEPTORS_MAX && possible(phase1) && possible(phase2) && phase1 + phase2 > acceptors {
            Ok(Self {
                acceptors,
                phase1,
                phase2,
            })
        } else {
            Err(UnsafeQuorums {
                acceptors,
                phase1,
                phase2,
            })
        }
    }

    /// The usual quorums: more than half, in both phases.
    ///
    /// # Errors
    /// When there are no acceptors, or too many.
    pub fn majority(acceptors: usize) -> Result<Self, UnsafeQuorums> {
        Self::new(acceptors, majority(acceptors), majority(acceptors))
    }

    /// Number of acceptors.
    pub fn acceptors(self) -> usize {
        self.acceptors
    }

    /// Number of promises needed by a campaign.
    pub fn phase1(self) -> usize {
        self.phase1
    }

    /// Number of votes that choose a value.
    pub fn phase2(self) -> usize {
        self.phase2
    }
}

/// The smallest number that is more than half of `acceptors`.
pub const fn majority(acceptors: usize) -> usize {
    acceptors / 2 + 1
}

/// An acceptor of a configuration, beside its uuid. The uuid alone is the identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberEntry {
    /// Where the acceptor is reached: a hint.
    pub address: Arc<str>,
    /// The operator's name for the acceptor; empty when unknown, as in configurations of earlier releases.
    pub name: Arc<str>,
}

impl From<Arc<str>> for MemberEntry {
    /// A member at an address, without a name.
    fn from(address: Arc<str>) -> Self {
        Self {
            address,
            name: Arc::from(""),
        }
    }
}

/// The members of a cluster in one era, the quorums and the origin, as the acceptors store them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    members: BTreeMap<AcceptorUuid, MemberEntry>,
    quorums: Quorums,
    origin: Option<Origin>,
    /// The era and the cluster; none in the first era, where the members make the id of the cluster.
    later: Option<(Era, ClusterId)>,
}

/// A list of acceptors that makes no configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidConfiguration {
    /// The same uuid answers at two addresses.
    #[error("acceptor {0} is listed twice")]
    Twice(AcceptorUuid),
    /// See [`UnsafeQuorums`].
    #[error(transparent)]
    Quorums(#[from] UnsafeQuorums),
}

impl Configuration {
    /// Lists members by uuid, with their addresses at the time of listing: a configuration of the first era.
    ///
    /// # Errors
    /// When a uuid is listed twice, or the quorums are unsafe for this number of members.
    pub fn new(
        members: impl IntoIterator<Item = (AcceptorUuid, Arc<str>)>,
        phase1: usize,
        phase2: usize,
    ) -> Result<Self, InvalidConfiguration> {
        let members = members.into_iter();
        Self::of_members(
            members.map(|(uuid, address)| (uuid, address.into())),
            phase1,
            phase2,
        )
    }

    /// As [`Self::new`], with the names of the members.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_members(
        members: impl IntoIterator<Item = (AcceptorUuid, MemberEntry)>,
        phase1: usize,
        phase2: usize,
    ) -> Result<Self, InvalidConfiguration> {
        let mut by_uuid = BTreeMap::new();
        for (uuid, member) in members {
            if by_uuid.insert(uuid, member).is_some() {
                return Err(InvalidConfiguration::Twice(uuid));
            }
        }
        let quorums = Quorums::new(by_uuid.len(), phase1, phase2)?;
        Ok(Self {
            members: by_uuid,
            quorums,
            origin: None,
            later: None,
        })
    }

    /// The same members and quorums as a cluster that begins with a backup.
    #[must_use]
    pub fn restored_from(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    /// The same members and quorums as a configuration of `era` in a formed cluster. In the first era, the members make
    /// the id of the cluster, and `cluster` is ignored.
    #[must_use]
    pub fn in_era(mut self, era: Era, cluster: ClusterId) -> Self {
        self.later = (era > Era::FIRST).then_some((era, cluster));
        self
    }

    /// The configuration of the next era of the same cluster, with other members.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn changed_to(
        &self,
        members: impl IntoIterator<Item = (AcceptorUuid, MemberEntry)>,
        phase1: usize,
        phase2: usize,
    ) -> Result<Self, InvalidConfiguration> {
        let mut next =
            Self::of_members(members, phase1, phase2)?.in_era(self.era().next(), self.cluster_id());
        next.origin.clone_from(&self.origin);
        Ok(next)
    }

    /// Members by uuid; the addresses are hints.
    pub fn members(&self) -> &BTreeMap<AcceptorUuid, MemberEntry> {
        &self.members
    }

    /// The addresses of the members, as in `--acceptors`.
    pub fn address_list(&self) -> String {
        let addresses: Vec<&str> = self.members.values().map(|member| &*member.address).collect();
        addresses.join(",")
    }

    /// The quorum sizes.
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    /// The backup that the cluster began with; none for a cluster that began empty.
    pub fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The number of this configuration in its cluster.
    pub fn era(&self) -> Era {
        self.later.map_or(Era::FIRST, |(era, _)| era)
    }

    /// Whether both name the same cluster, era, acceptors, quorums and origin. Addresses and names are not compared.
    pub fn same_cluster(&self, other: &Self) -> bool {
        let is_same_origin = match (&self.origin, &other.origin) {
            (Some(one), Some(other)) => one.is_same(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.quorums == other.quorums
            && self.later == other.later
            && is_same_origin
            && self.members.keys().eq(other.members.keys())
    }

    /// The id of the cluster, the same in each era. In the first era: hash of the sorted uuids, the quorums and the origin,
    /// so that all processes forming the same cluster get the same id.
    pub fn cluster_id(&self) -> ClusterId {
        self.later
            .map_or_else(|| self.id_of_formed(), |(_, cluster)| cluster)
    }

    /// The id of a cluster formed with this configuration.
    fn id_of_formed(&self) -> ClusterId {
        let mut hash = Sha256::new();
        match &self.origin {
            None => hash.update(b"paxos cluster v1"),
            Some(origin) => {
                hash.update(b"paxos cluster v2");
                hash.update(origin.sha256());
                hash.update(origin.ended_at().get().to_be_bytes());
                hash.update(origin.base().get().to_be_bytes());
            }
        }
        for count in [self.quorums.acceptors, self.quorums.phase1, self.quorums.phase2] {
            hash.update((count as u64).to_be_bytes());
        }
        for uuid in self.members.keys() {
            hash.update(uuid.to_bytes());
        }
        let mut id = [0; 16];
        id.copy_from_slice(&hash.finalize()[..16]);
        ClusterId::from_bytes(id)
    }

    /// The era, the members with a vote, and the quorums.
    pub fn electorate(&self) -> Electorate {
        Electorate {
            cluster: self.cluster_id(),
            era: self.era(),
            members: self.members.keys().copied().collect(),
            quorums: self.quorums,
        }
    }
}

/// The members with a vote in one era, and the quorums. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Electorate {
    cluster: ClusterId,
    era: Era,
    /// Sorted.
    members: Arc<[AcceptorUuid]>,
    quorums: Quorums,
}

impl Electorate {
    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Whether this is a later era of the cluster of `present`.
    pub fn is_later_than(&self, present: &Self) -> bool {
        self.cluster == present.cluster && self.era > present.era
    }

    /// The era. Only votes at ballots of this era count here.
    pub fn era(&self) -> Era {
        self.era
    }

    /// The members, ascending.
    pub fn members(&self) -> &[AcceptorUuid] {
        &self.members
    }

    /// The quorum sizes.
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    /// Whether `acceptor` may vote.
    pub fn includes(&self, acceptor: AcceptorUuid) -> bool {
        self.members.binary_search(&acceptor).is_ok()
    }
}

/// A set of counted acceptors. An acceptor counts once, however often it answers, and only members count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tally(u32);

impl Tally {
    /// Counts `acceptor`. Returns whether the acceptor was not counted before. An acceptor outside the cluster is not
    /// counted.
    pub fn add(&mut self, electorate: &Electorate, acceptor: AcceptorUuid) -> bool {
        let Ok(position) = electorate.members.binary_search(&acceptor) else {
            return false;
        };
        let before = self.0;
        self.0 |= 1 << position;
        self.0 != before
    }

    /// Whether `acceptor` was counted.
    pub fn contains(self, electorate: &Electorate, acceptor: AcceptorUuid) -> bool {
        electorate
            .members
            .binary_search(&acceptor)
            .is_ok_and(|position| self.0 & (1 << position) != 0)
    }

    /// The acceptors counted here or there.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Number of counted acceptors.
    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::paxos::{origin::JUMP, slot::Slot};

    fn configuration(uuids: &[u128]) -> Result<Configuration, InvalidConfiguration> {
        let quorum = uuids.len() / 2 + 1;
        let members = uuids
            .iter()
            .map(|&uuid| (AcceptorUuid::from_u128(uuid), Arc::<str>::from("http://a")));
        Configuration::new(members, quorum, quorum)
    }

    proptest! {
        #[test]
        fn every_phase_1_quorum_meets_every_phase_2_quorum(
            n in 1usize..=9, phase1 in 0usize..=10, phase2 in 0usize..=10, a in any::<u32>(), b in any::<u32>(),
        ) {
            let all = (1u32 << n) - 1;
            let (a, b) = (a & all, b & all);
            if Quorums::new(n, phase1, phase2).is_ok()
                && a.count_ones() as usize >= phase1 && b.count_ones() as usize >= phase2 {
                prop_assert_ne!(a & b, 0);
            }
        }

        #[test]
        fn refuses_only_quorums_that_can_miss_each_other(
            n in 1usize..=9, phase1 in 1usize..=9, phase2 in 1usize..=9,
        ) {
            prop_assume!(phase1 <= n && phase2 <= n);
            // The first `phase1` and the last `phase2` acceptors overlap exactly when the sizes add up to more than
            // `n`.
            let meet = phase1 + phase2 > n;
            prop_assert_eq!(Quorums::new(n, phase1, phase2).is_ok(), meet);
        }
    }

    #[test]
    fn an_acceptor_counts_once_however_often_it_answers_and_strangers_never() {
        let electorate = configuration(&[1, 2, 3]).unwrap().electorate();
        let mut tally = Tally::default();
        assert!(tally.add(&electorate, AcceptorUuid::from_u128(2)));
        assert!(!tally.add(&electorate, AcceptorUuid::from_u128(2)));
        assert!(!tally.add(&electorate, AcceptorUuid::from_u128(9)));
        assert_eq!(tally.count(), 1);
    }

    #[test]
    fn cluster_id_without_an_origin_stays_as_in_the_first_release() {
        let id = configuration(&[1, 2, 3]).unwrap().cluster_id();
        assert_eq!(id.to_string(), "7a72122b49498a4dea028b79254d43df");
    }

    #[test]
    fn every_part_of_the_origin_makes_another_cluster() {
        let plain = configuration(&[1, 2, 3]).unwrap();
        let at = |slot| Slot::new(slot).unwrap();
        let restored = |sha256, ended_at, base| {
            let origin = Origin::new([sha256; 32], at(ended_at), at(base)).unwrap();
            plain.clone().restored_from(origin)
        };
        let all = [
            plain.clone(),
            restored(1, 5, 5 + JUMP),
            restored(2, 5, 5 + JUMP),
            restored(1, 4, 5 + JUMP),
            restored(1, 5, 6 + JUMP),
        ];
        for (place, first) in all.iter().enumerate() {
            for (other, second) in all.iter().enumerate() {
                assert_eq!(first.same_cluster(second), place == other);
                assert_eq!(first.cluster_id() == second.cluster_id(), place == other);
            }
        }
    }

    #[test]
    fn next_configuration_keeps_the_cluster_and_its_origin_and_has_the_next_era() {
        let origin = Origin::new([1; 32], Slot::ZERO, Slot::ZERO.plus(JUMP)).unwrap();
        let first = configuration(&[1, 2, 3]).unwrap().restored_from(origin.clone());
        let member = |uuid| (AcceptorUuid::from_u128(uuid), Arc::<str>::from("http://b").into());
        let second = first.changed_to([4, 5].map(member), 2, 2).unwrap();
        let third = second.changed_to([1, 2, 3].map(member), 2, 2).unwrap();
        assert_eq!([&first, &second, &third].map(|one| one.era().get()), [0, 1, 2]);
        assert_eq!(third.electorate().era(), third.era());
        for later in [&second, &third] {
            assert_eq!(later.cluster_id(), first.cluster_id());
            assert_eq!(later.origin(), Some(&origin));
        }
        assert!(!third.same_cluster(&first), "the same members in another era");
        assert!(first.changed_to([1, 2, 3].map(member), 1, 2).is_err());
    }

    #[test]
    fn cluster_id_depends_on_uuids_and_quorums_alone() {
        let id = configuration(&[1, 2, 3]).unwrap().cluster_id();
        assert_eq!(configuration(&[3, 1, 2]).unwrap().cluster_id(), id);
        assert_ne!(configuration(&[1, 2, 4]).unwrap().cluster_id(), id);
        assert_eq!(
            configuration(&[1, 1, 2]),
            Err(InvalidConfiguration::Twice(AcceptorUuid::from_u128(1)))
        );
    }
}
