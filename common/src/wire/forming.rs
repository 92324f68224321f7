//! The members of a cluster, and the state of an acceptor in forming.

use bytes::Bytes;
use paxos_proto::v1 as pb;

use super::{Malformed, acceptor_uuid, cluster_id, required};
use crate::paxos::{
    acceptor::{Membership, Seed},
    era::Era,
    identity::AcceptorUuid,
    origin::{LostSlots, Origin},
    quorum::{Configuration, MemberEntry},
    slot::Slot,
};

impl From<&Configuration> for pb::Configuration {
    fn from(configuration: &Configuration) -> Self {
        let member = |(uuid, member): (&AcceptorUuid, &MemberEntry)| pb::Member {
            acceptor: Bytes::copy_from_slice(&uuid.to_bytes()),
            address: member.address.to_string(),
            name: member.name.to_string(),
        };
        let era = configuration.era();
        let count = |quorum: usize| u32::try_from(quorum).expect("at most ACCEPTORS_MAX");
        Self {
            members: configuration.members().iter().map(member).collect(),
            phase1: count(configuration.quorums().phase1()),
            phase2: count(configuration.quorums().phase2()),
            origin: configuration.origin().map(Into::into),
            era: era.get(),
            cluster_id: if era > Era::FIRST {
                Bytes::copy_from_slice(configuration.cluster_id().as_bytes())
            } else {
                Bytes::new()
            },
        }
    }
}

impl TryFrom<pb::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(configuration: pb::Configuration) -> Result<Self, Malformed> {
        let member = |member: pb::Member| {
            let read = MemberEntry {
                address: member.address.into(),
                name: member.name.into(),
            };
            Ok((acceptor_uuid(&member.acceptor)?, read))
        };
        let members = configuration.members.into_iter().map(member);
        let members = members.collect::<Result<Vec<_>, Malformed>>()?;
        let (phase1, phase2) = (configuration.phase1 as usize, configuration.phase2 as usize);
        let mut read = Configuration::of_members(members, phase1, phase2)?;
        if let Some(origin) = configuration.origin {
            read = read.restored_from(origin.try_into()?);
        }
        let era = Era::new(configuration.era)?;
        let cluster = cluster_id(&configuration.cluster_id)?;
        match cluster {
            None if era == Era::FIRST => Ok(read),
            None => Err(Malformed::Missing("configuration.cluster_id")),
            Some(cluster) if era > Era::FIRST => Ok(read.in_era(era, cluster)),
            Some(_) => Err(Malformed::Reserved("configuration.cluster_id of era 0")),
        }
    }
}

impl From<&Origin> for pb::Origin {
    fn from(origin: &Origin) -> Self {
        Self {
            sha256: Bytes::copy_from_slice(origin.sha256()),
            ended_at: origin.ended_at().get(),
            base: origin.base().get(),
            earlier: origin.earlier().iter().map(Into::into).collect(),
        }
    }
}

impl From<&LostSlots> for pb::LostSlots {
    fn from(lost: &LostSlots) -> Self {
        Self {
            ended_at: lost.ended_at.get(),
            base: lost.base.get(),
        }
    }
}

impl TryFrom<pb::Origin> for Origin {
    type Error = Malformed;

    fn try_from(origin: pb::Origin) -> Result<Self, Malformed> {
        let sha256: [u8; 32] = origin.sha256[..].try_into().map_err(|_| Malformed::Length {
            what: "origin.sha256",
            len: origin.sha256.len(),
            expected: 32,
        })?;
        let (ended_at, base) = (Slot::new(origin.ended_at)?, Slot::new(origin.base)?);
        let lost = |lost: &pb::LostSlots| -> Result<LostSlots, Malformed> {
            Ok(LostSlots {
                ended_at: Slot::new(lost.ended_at)?,
                base: Slot::new(lost.base)?,
            })
        };
        let earlier = origin.earlier.iter().map(lost).collect::<Result<_, _>>()?;
        Ok(Self::new(sha256, ended_at, base)?.with_earlier(earlier)?)
    }
}

impl From<Seed> for pb::Seed {
    fn from(seed: Seed) -> Self {
        Self {
            cluster_id: Bytes::copy_from_slice(seed.cluster.as_bytes()),
            base: seed.base.get(),
        }
    }
}

impl TryFrom<pb::Seed> for Seed {
    type Error = Malformed;

    fn try_from(seed: pb::Seed) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: required(cluster_id(&seed.cluster_id)?, "seed.cluster_id")?,
            base: Slot::new(seed.base)?,
        })
    }
}

/// Reads the state of an acceptor in forming.
///
/// # Errors
/// The configuration or the seed does not fit the state.
pub fn membership(form: &pb::FormResponse) -> Result<Membership, Malformed> {
    let stored = || required(form.configuration.clone(), "configuration")?.try_into();
    let state = form.membership();
    match state {
        pb::Membership::Unspecified => Err(Malformed::Missing("membership")),
        pb::Membership::Blank => Ok(Membership::Blank),
        pb::Membership::Seeded => {
            let seed = required(form.seed.clone(), "seed")?;
            Ok(Membership::Seeded(seed.try_into()?))
        }
        pb::Membership::Forming => Ok(Membership::Forming(stored()?)),
        pb::Membership::Formed => Ok(Membership::Formed(stored()?)),
    }
}

/// The state of an acceptor in forming, for the wire.
pub fn membership_state(membership: &Membership) -> pb::Membership {
    match membership {
        Membership::Blank => pb::Membership::Blank,
        Membership::Seeded(_) => pb::Membership::Seeded,
        Membership::Forming(_) => pb::Membership::Forming,
        Membership::Formed(_) => pb::Membership::Formed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::identity::ClusterId;

    fn member(address: &str, name: &str) -> MemberEntry {
        MemberEntry {
            address: address.into(),
            name: name.into(),
        }
    }

    fn three(names: [&str; 3]) -> Configuration {
        let members = names.iter().zip(1..).map(|(name, uuid)| {
            let address = format!("http://a{uuid}:1");
            (AcceptorUuid::from_u128(uuid), member(&address, name))
        });
        Configuration::of_members(members, 2, 2).unwrap()
    }

    #[test]
    fn names_survive_the_wire_and_a_first_configuration_is_encoded_as_before_eras() {
        use prost::Message as _;
        let named = three(["a", "", "ß"]);
        assert_eq!(
            Configuration::try_from(pb::Configuration::from(&named)),
            Ok(named)
        );
        let plain = pb::Configuration::from(&three([""; 3]));
        assert!(plain.cluster_id.is_empty());
        // Three members with uuid and address, and the quorums.
        assert_eq!(plain.encode_to_vec().len(), 3 * (2 + 18 + 13) + 4);
    }

    #[test]
    fn configuration_of_a_later_era_names_its_cluster() {
        let first = three([""; 3]);
        let cluster = first.cluster_id();
        let later = first
            .changed_to([(AcceptorUuid::from_u128(4), member("http://b:1", "b"))], 1, 1)
            .unwrap();
        let sent = pb::Configuration::from(&later);
        assert_eq!((sent.era, &sent.cluster_id[..]), (1, &cluster.as_bytes()[..]));
        assert_eq!(Configuration::try_from(sent.clone()), Ok(later));
        let nameless = pb::Configuration {
            cluster_id: Bytes::new(),
            ..sent.clone()
        };
        assert_eq!(
            Configuration::try_from(nameless),
            Err(Malformed::Missing("configuration.cluster_id"))
        );
        // Of two ids for the first era, one would be wrong.
        let doubled = pb::Configuration {
            era: 0,
            cluster_id: Bytes::copy_from_slice(ClusterId::from_bytes([1; 16]).as_bytes()),
            ..sent
        };
        assert!(matches!(
            Configuration::try_from(doubled),
            Err(Malformed::Reserved(_))
        ));
    }

    #[test]
    fn origin_and_seed_survive_the_wire() {
        let at = |slot| Slot::new(slot).unwrap();
        let members = [(AcceptorUuid::from_u128(1), "http://a:1".into())];
        let first = Origin::after([6; 32], at(9), None).unwrap();
        let origin = Origin::after([7; 32], first.base().next(), None).unwrap();
        let origin = origin.following(&first).unwrap();
        let configuration = Configuration::new(members, 1, 1).unwrap().restored_from(origin);
        let sent = pb::Configuration::from(&configuration);
        assert_eq!(Configuration::try_from(sent.clone()), Ok(configuration.clone()));
        let mut low = sent.clone();
        low.origin.as_mut().unwrap().base -= 1;
        assert!(matches!(Configuration::try_from(low), Err(Malformed::Origin(_))));
        let mut unordered = sent.clone();
        unordered.origin.as_mut().unwrap().earlier[0].base = 9;
        assert!(matches!(
            Configuration::try_from(unordered),
            Err(Malformed::Origin(_))
        ));
        let mut short = sent;
        short.origin.as_mut().unwrap().sha256.truncate(31);
        assert!(matches!(
            Configuration::try_from(short),
            Err(Malformed::Length { .. })
        ));

        let seed = Seed::of(&configuration).unwrap();
        let mut form = pb::FormResponse {
            membership: pb::Membership::Seeded.into(),
            seed: Some(seed.into()),
            ..pb::FormResponse::default()
        };
        assert_eq!(membership(&form), Ok(Membership::Seeded(seed)));
        form.seed = None;
        assert_eq!(membership(&form), Err(Malformed::Missing("seed")));
    }
}
