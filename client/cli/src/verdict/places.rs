//! The places of the members: which member has lost its disk when a blank acceptor answers.

use paxos_client::raw::{AcceptorReport, ClusterReport};
use paxos_common::peer::without_scheme;
use paxos_proto::v1::{Configuration, Member, Membership};

/// The member in whose place this blank acceptor runs: a member without an answer of its own, with an address that the
/// blank acceptor was asked at or advertises. The addresses differ outside a network of containers, for example. The scheme
/// does not matter: the members of a cluster that got TLS keep their addresses.
pub(crate) fn lost_member<'a>(
    status: &ClusterReport,
    configuration: &'a Configuration,
    blank: &AcceptorReport,
) -> Option<&'a Member> {
    let advertised = blank.answer.as_ref().ok()?.address.as_str();
    let answers = |member: &Member| {
        status.answers().any(|answer| {
            let is_in_cluster = matches!(answer.membership(), Membership::Forming | Membership::Formed);
            let stamp = answer.stamp.as_ref();
            is_in_cluster && stamp.is_some_and(|stamp| stamp.acceptor == member.acceptor)
        })
    };
    let at = |address: &str| {
        let mut members = configuration.members.iter();
        members.find(|member| is_same_place(&member.address, address) && !answers(member))
    };
    at(blank.address.as_str()).or_else(|| at(advertised))
}

/// Whether both are the same host and port, with TLS or without.
pub(crate) fn is_same_place(one: &str, other: &str) -> bool {
    without_scheme(one) == without_scheme(other)
}
