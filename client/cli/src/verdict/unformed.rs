//! Why the listed acceptors are no cluster yet, and what to do.

use std::collections::BTreeMap;

use paxos_common::wire;
use paxos_proto::v1::{AcceptorStatusResponse, Configuration, Membership};

use super::{Finding, Subject, majority::cluster_id};

/// The finding about acceptors of which none is formed; `total`: the number of given acceptors.
pub(super) fn not_formed(answers: &[&AcceptorStatusResponse], total: usize) -> Finding {
    let mut lists: BTreeMap<&[u8], (&str, String)> = BTreeMap::new();
    for answer in answers {
        if let Some(configuration) = &answer.configuration {
            let list = (answer.address.as_str(), uuids(configuration));
            lists.entry(cluster_id(answer)).or_insert(list);
        }
    }
    if lists.len() > 1 {
        let held: Vec<_> = lists
            .values()
            .map(|(address, list)| format!("{address} holds {list}"))
            .collect();
        return unavailable(
            format!(
                "the acceptors hold different lists of members, so no cluster forms: {}",
                held.join("; ")
            ),
            "while no listed acceptor is formed, unanswering acceptors included, no acceptor has voted: stop the \
             proposers, empty every listed data directory, and start the proposers with the same list. If any \
             acceptor is formed, never do this: correct the lists",
        );
    }
    if let Some(seeded) = answers
        .iter()
        .find(|answer| answer.membership() == Membership::Seeded)
    {
        return unavailable(
            format!(
                "the cluster is not formed: {} is blank and holds a backup",
                seeded.address
            ),
            "repeat `paxos restore` with the same file, the same acceptors and the same --above. Or, while no acceptor of \
             that restore is formed, unanswering acceptors included, empty the data directories of all these acceptors",
        );
    }
    if let Some(receiving) = answers.iter().find(|answer| answer.receiving.is_some()) {
        return unavailable(
            format!(
                "the cluster is not formed: {} is blank and receives a backup",
                receiving.address
            ),
            "wait until `paxos restore` has finished; if it has ended before, repeat it with the same file, the same acceptors \
             and the same --above. Start no proposer before: a proposer makes blank acceptors an empty cluster",
        );
    }
    unavailable(
        format!(
            "the cluster is not formed: {} of {total} acceptors answer, none is a member",
            answers.len()
        ),
        "to begin with a backup, first run `paxos restore`. Otherwise start a proposer with --acceptors naming all \
         acceptors; the proposer forms an empty cluster once all acceptors answer",
    )
}

fn uuids(configuration: &Configuration) -> String {
    let members = configuration.members.iter();
    let uuids: Vec<_> = members
        .map(|member| {
            wire::acceptor_uuid(&member.acceptor).map_or_else(|_| "?".to_owned(), |uuid| uuid.to_string())
        })
        .collect();
    uuids.join(", ")
}

fn unavailable(problem: impl Into<String>, advice: &'static str) -> Finding {
    Finding::unavailable(Subject::cluster(), problem, advice)
}
