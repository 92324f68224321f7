//! Judges the acceptors: which of them count, and what is wrong with the others.

use std::collections::BTreeMap;

use paxos_client::{
    AcceptorReport, ClusterStatus,
    proto::{AcceptorStatusResponse, Configuration, Membership, attach_request::Progress},
};
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        witness::{Guard, WentBack},
    },
    wire,
};

use super::{Finding, Severity};
use crate::output::hex;

/// So many slots behind, an acceptor was away, or is much slower than the others.
const LAG_SLOTS: u64 = 65_536;

/// Leader timeout in milliseconds, when no proposer reports its own: the default of `--leader-timeout`.
const LEADER_TIMEOUT_MS: u64 = 200;

/// Longest time in milliseconds that a request may wait for an acceptor's disk without a finding in the verdict.
const WAITING_MS: u64 = 1_000;

/// What is wrong with the acceptors. Anything worse than degraded says that nothing can be ordered.
pub(super) fn findings(status: &ClusterStatus) -> Vec<Finding> {
    let mut findings: Vec<_> = status.acceptors.iter().filter_map(silent).collect();
    let answers: Vec<_> = status.answers().collect();
    if answers.is_empty() {
        findings.push(unavailable(
            "no acceptor answers",
            "start the acceptors (or `paxos dev`), or give their addresses with --acceptors",
        ));
        return findings;
    }
    match cluster_of(&answers) {
        Majority::None => findings.push(not_formed(&answers, status.acceptors.len())),
        Majority::Tied => findings.push(unavailable(
            "the acceptors belong to different clusters",
            "list only the acceptors of one cluster in --acceptors; a member's data directory is never emptied",
        )),
        Majority::Cluster(cluster) => findings.extend(of_cluster(cluster, status, &answers)),
    }
    findings
}

/// Acceptors whose disks contradict what they had told. Between two answers of a status one may have restarted: believe
/// it when it is still so a moment later.
pub(super) fn went_back(status: &ClusterStatus) -> Vec<WentBack> {
    let mut guard = Guard::default();
    for answer in status.answers() {
        if let (Some(acceptor), Some(stamp)) = (uuid(answer), &answer.stamp) {
            let remembers = wire::read_witnesses(&answer.witnesses).unwrap_or_default();
            // Who contradicts is asked for below, when all have spoken.
            let _ = guard.introduce(acceptor, &wire::runs(&stamp.runs), remembers.iter());
        }
    }
    status
        .answers()
        .filter_map(|answer| guard.contradiction(uuid(answer)?))
        .collect()
}

/// Whom most formed members belong to.
enum Majority<'a> {
    /// Nobody is formed.
    None,
    Cluster(&'a [u8]),
    Tied,
}

fn cluster_of<'a>(answers: &[&'a AcceptorStatusResponse]) -> Majority<'a> {
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

fn silent(report: &AcceptorReport) -> Option<Finding> {
    let cause = report.answer.as_ref().err()?;
    Some(degraded(
        format!("acceptor {} does not answer: {cause}", report.address),
        "start it again with its data directory, or correct --acceptors",
    ))
}

fn not_formed(answers: &[&AcceptorStatusResponse], total: usize) -> Finding {
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
            "while no listed acceptor is formed, those that do not answer included, nobody has voted: stop the proposers, \
             empty every listed data directory, and start proposers that are given the same list. If one is formed, \
             never do that: correct the lists",
        );
    }
    unavailable(
        format!(
            "the cluster is not formed: {} of {total} acceptors answer, none is a member",
            answers.len()
        ),
        "start a proposer with --acceptors naming all acceptors; it forms the cluster once all answer",
    )
}

fn of_cluster(cluster: &[u8], status: &ClusterStatus, answers: &[&AcceptorStatusResponse]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let back = went_back(status);
    let chosen_to = answers.iter().map(|answer| answer.chosen_to).max().unwrap_or(0);
    let leader_timeout_ms = leader_timeout_ms(answers);
    // Votes are counted by uuid, never by address.
    let mut counted: BTreeMap<AcceptorUuid, &str> = BTreeMap::new();
    for report in &status.acceptors {
        let Ok(answer) = &report.answer else { continue };
        let name = format!("acceptor {} ({})", answer.id, report.address);
        let refused = refusal(&name, cluster, answer)
            .or_else(|| {
                let found = back.iter().find(|found| Some(found.acceptor) == uuid(answer))?;
                Some(degraded(
                    format!("{name}: {found}"),
                    "stop it; start it again on its right disk if that is still there, and leave it stopped otherwise. Every \
                     other data directory stays as it is",
                ))
            })
            .or_else(|| {
                let other = counted.get(&uuid(answer)?)?;
                Some(degraded(
                    format!("{name} is the same acceptor as {other}"),
                    "list each acceptor once in --acceptors",
                ))
            });
        if let Some(refused) = refused {
            findings.push(refused);
            continue;
        }
        findings.extend(complaints(&name, answer, chosen_to));
        findings.extend(slowness(&name, answer, leader_timeout_ms));
        if !answer.no_space
            && let Some(uuid) = uuid(answer)
        {
            counted.insert(uuid, report.address.as_str());
        }
    }
    findings.extend(no_quorum(cluster, counted.len(), answers));
    findings
}

/// Why an acceptor's votes do not count in this cluster.
fn refusal(name: &str, cluster: &[u8], answer: &AcceptorStatusResponse) -> Option<Finding> {
    if answer.membership() == Membership::Blank {
        return Some(degraded(
            format!(
                "{name} is blank, and its cluster is formed: it has lost its disk. It is not counted, for good"
            ),
            "stop it; it cannot be replaced in this release. Never empty the data directory of another",
        ));
    }
    if cluster_id(answer) != cluster {
        let found = hex(cluster_id(answer));
        return Some(degraded(
            format!("{name} belongs to another cluster, {found}: it is not counted"),
            "correct --acceptors, here and of the proposers and learners; a member's data directory is never emptied",
        ));
    }
    (answer.membership() != Membership::Formed).then(|| {
        degraded(
            format!("{name} has stored the list of members and does not vote yet"),
            "start a proposer with --acceptors naming all acceptors: it tells this one that the cluster is formed",
        )
    })
}

/// What is wrong with an acceptor that counts.
fn complaints(name: &str, answer: &AcceptorStatusResponse, chosen_to: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    if answer.no_space {
        findings.push(degraded(
            format!("{name} has too little space on its disk: it promises and accepts nothing"),
            "free some space there; it goes on by itself, and catches up",
        ));
    }
    if answer.damaged_rows > 0 {
        let count = answer.damaged_rows;
        findings.push(degraded(
            format!("{name} has {count} damaged rows on its disk, from slot {} on", answer.chosen_to),
            "a leader repairs what a quorum of the others can read, within seconds, so all must stay up. If the number \
             stays, look at the proposers' logs: what no quorum can read is beyond repair, and a proposer then ends and \
             names the slots. If rows are damaged again, the disk is failing: copy the data directory, with the acceptor \
             stopped, to another one",
        ));
    }
    let lag = chosen_to.saturating_sub(answer.chosen_to);
    if lag > LAG_SLOTS && answer.damaged_rows == 0 {
        findings.push(degraded(
            format!("{name} is {lag} slots behind"),
            "the leader sends it what it missed: ask again; if this number does not shrink, look at the logs of both",
        ));
    }
    findings
}

/// The longest leader timeout that a proposer reports.
fn leader_timeout_ms(answers: &[&AcceptorStatusResponse]) -> u64 {
    let reports = answers
        .iter()
        .flat_map(|answer| &answer.attached)
        .filter_map(|attached| attached.report.as_ref()?.progress.as_ref());
    let timeouts = reports.filter_map(|progress| match progress {
        Progress::Proposer(proposer) => Some(u64::from(proposer.leader_timeout_ms)),
        Progress::Learner(_) => None,
    });
    timeouts
        .max()
        .filter(|&timeout| timeout > 0)
        .unwrap_or(LEADER_TIMEOUT_MS)
}

/// A disk that is slow or stuck. It is not a reason for another leader, so that people must find it here.
fn slowness(name: &str, answer: &AcceptorStatusResponse, leader_timeout_ms: u64) -> Option<Finding> {
    let (waiting, slowest) = (answer.waiting_ms, answer.slowest_commit_ms);
    if waiting > WAITING_MS {
        return Some(degraded(
            format!("{name} has kept a request waiting for its disk for {waiting} ms"),
            "commands go on while a quorum of the other acceptors finishes commits, and otherwise wait for this one. Look \
             at its disk, at what else uses the disk, and at the kernel's log; its votes are safe",
        ));
    }
    (slowest > leader_timeout_ms).then(|| {
        degraded(
            format!("{name} has a slow disk: its slowest commit of the last minute took {slowest} ms"),
            "commands wait for the fastest quorum of acceptors, so one slow disk costs little, and several cost that time. \
             Look at what else uses the disk",
        )
    })
}

fn no_quorum(cluster: &[u8], counted: usize, answers: &[&AcceptorStatusResponse]) -> Option<Finding> {
    let member = answers.iter().find(|answer| cluster_id(answer) == cluster)?;
    let configuration = member.configuration.as_ref()?;
    let needed = usize::try_from(configuration.phase1.max(configuration.phase2)).unwrap_or(usize::MAX);
    (counted < needed).then(|| {
        unavailable(
            format!(
                "no quorum: {counted} of {} acceptors answer as members that can vote, {needed} are needed",
                configuration.members.len()
            ),
            "start the missing acceptors with their data directories, and name all in --acceptors; nothing is lost while \
             they are away",
        )
    })
}

fn uuid(answer: &AcceptorStatusResponse) -> Option<AcceptorUuid> {
    Some(wire::read_stamp(answer.stamp.as_ref()).ok()?.acceptor)
}

/// Empty while it is blank.
fn cluster_id(answer: &AcceptorStatusResponse) -> &[u8] {
    answer.stamp.as_ref().map_or(&[], |stamp| &stamp.cluster_id)
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

fn degraded(problem: impl Into<String>, advice: &'static str) -> Finding {
    Finding {
        severity: Severity::Degraded,
        problem: problem.into(),
        advice,
    }
}

fn unavailable(problem: impl Into<String>, advice: &'static str) -> Finding {
    Finding {
        severity: Severity::Unavailable,
        problem: problem.into(),
        advice,
    }
}
