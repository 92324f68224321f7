//! The cluster that a status is about: the listed acceptors may belong to several.

use std::collections::BTreeMap;

use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{AcceptorStatusResponse, Membership};

/// The cluster of most formed members.
pub(super) enum Majority<'a> {
    /// No member is formed.
    None,
    Cluster(&'a [u8]),
    Tied,
}

/// An answer with the latest configuration of an acceptor of the cluster: the cluster of most formed members, else the first cluster that an acceptor
/// knows. `None` while no acceptor knows a cluster.
pub(crate) fn cluster_answer(status: &ClusterReport) -> Option<&AcceptorStatusResponse> {
    let answers: Vec<_> = status.answers().collect();
    let majority = match cluster_of(&answers) {
        Majority::Cluster(cluster) => Some(cluster),
        Majority::None | Majority::Tied => None,
    };
    let known = answers
        .into_iter()
        .filter(|answer| !cluster_id(answer).is_empty());
    let known = known.filter(|answer| majority.is_none_or(|cluster| cluster_id(answer) == cluster));
    // The first of the latest era: an acceptor that was removed or is away has an earlier configuration.
    known.min_by_key(|answer| std::cmp::Reverse(era_of(answer)))
}

/// The era of the acceptor's configuration; 0 without one.
pub(crate) fn era_of(answer: &AcceptorStatusResponse) -> u64 {
    answer
        .configuration
        .as_ref()
        .map_or(0, |configuration| configuration.era)
}

pub(super) fn cluster_of<'a>(answers: &[&'a AcceptorStatusResponse]) -> Majority<'a> {
    let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
    for answer in answers {
        if answer.membership() == Membership::Formed {
            *counts.entry(cluster_id(answer)).or_default() += 1;
        }
    }
    let Some((cluster, most)) = counts.iter().max_by_key(|(_, count)| **count) else {
        return Majority::None;
    };
    if counts.values().filter(|count| *count == most).count() > 1 {
        return Majority::Tied;
    }
    Majority::Cluster(cluster)
}

/// The cluster id; empty while the acceptor is blank.
pub(super) fn cluster_id(answer: &AcceptorStatusResponse) -> &[u8] {
    answer.stamp.as_ref().map_or(&[], |stamp| &stamp.cluster_id)
}
