//! The members of a cluster, and the state of an acceptor in forming.

use std::sync::Arc;

use bytes::Bytes;
use paxos_proto::v1 as pb;

use super::{Malformed, acceptor_uuid, required};
use crate::paxos::{acceptor::Membership, identity::AcceptorUuid, quorum::Configuration};

impl From<&Configuration> for pb::Configuration {
    fn from(configuration: &Configuration) -> Self {
        let member = |(uuid, address): (&AcceptorUuid, &Arc<str>)| pb::Member {
            acceptor: Bytes::copy_from_slice(&uuid.to_bytes()),
            address: address.to_string(),
        };
        let count = |quorum: usize| u32::try_from(quorum).expect("at most ACCEPTORS_MAX");
        Self {
            members: configuration.members().iter().map(member).collect(),
            phase1: count(configuration.quorums().phase1()),
            phase2: count(configuration.quorums().phase2()),
        }
    }
}

impl TryFrom<pb::Configuration> for Configuration {
    type Error = Malformed;

    fn try_from(configuration: pb::Configuration) -> Result<Self, Malformed> {
        let members = configuration
            .members
            .into_iter()
            .map(|member| Ok((acceptor_uuid(&member.acceptor)?, Arc::from(member.address))))
            .collect::<Result<Vec<_>, Malformed>>()?;
        Ok(Self::new(
            members,
            configuration.phase1 as usize,
            configuration.phase2 as usize,
        )?)
    }
}

/// Reads the state of an acceptor in forming.
///
/// # Errors
/// The configuration does not fit the state.
pub fn membership(state: pb::Membership, stored: Option<pb::Configuration>) -> Result<Membership, Malformed> {
    let stored = || required(stored, "configuration")?.try_into();
    match state {
        pb::Membership::Unspecified => Err(Malformed::Missing("membership")),
        pb::Membership::Blank => Ok(Membership::Blank),
        pb::Membership::Forming => Ok(Membership::Forming(stored()?)),
        pb::Membership::Formed => Ok(Membership::Formed(stored()?)),
    }
}

/// The state of an acceptor in forming, for the wire.
pub fn membership_state(membership: &Membership) -> pb::Membership {
    match membership {
        Membership::Blank => pb::Membership::Blank,
        Membership::Forming(_) => pb::Membership::Forming,
        Membership::Formed(_) => pb::Membership::Formed,
    }
}
