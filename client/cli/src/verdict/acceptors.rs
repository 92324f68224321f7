//! Judges the acceptors: which of them count, and what is wrong with the others.

use std::collections::BTreeMap;

use paxos_client::raw::{AcceptorReport, ClusterReport};
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        witness::{Guard, RUNS_MAX, WentBack},
    },
    wire,
};
use paxos_proto::v1::{AcceptorStatusResponse, Configuration, Member, Membership, attach_request::Progress};

use super::{DATA_FREE_LOW_BYTES, Finding, Peer, Source, Subject};
use crate::output::hex;

/// So many slots behind, an acceptor was away, or is much slower than the others.
const LAG_SLOTS: u64 = 65_536;

/// Leader timeout in milliseconds, when no proposer reports its own: the default of `--leader-timeout`.
const LEADER_TIMEOUT_MS: u64 = 200;

/// Longest time in milliseconds that a request may wait for an acceptor's disk without a finding in the verdict.
const WAITING_MS: u64 = 1_000;

/// Longest time in milliseconds that a request may wait for the disk of an acceptor that counts. The acceptor is not ready
/// beyond it, and the alerts do not count it either.
const HANGS_MS: u64 = 5_000;

/// What the acceptors are found to be.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Anything worse than degraded says that nothing can be ordered.
    pub(super) findings: Vec<Finding>,
    /// Whether each acceptor of the status can vote.
    pub(super) votes: Vec<bool>,
    pub(super) members: usize,
    /// Acceptors that make a quorum of either phase; 0 while no configuration is known.
    pub(super) quorum: usize,
    /// As in [`super::Verdict`].
    pub(super) contradicted: bool,
}

/// Judges every acceptor, and what they can do together.
pub(super) fn judge(status: &ClusterReport, leader: Option<&Peer>) -> Judged {
    let mut judged = Judged {
        findings: status.acceptors.iter().filter_map(silent).collect(),
        votes: vec![false; status.acceptors.len()],
        ..Judged::default()
    };
    let answers: Vec<_> = status.answers().collect();
    if answers.is_empty() {
        judged.findings.push(unavailable(
            "no acceptor answers",
            "start the acceptors (or `paxos dev`), or give their addresses with --acceptors",
        ));
        return judged;
    }
    match cluster_of(&answers) {
        Majority::None => {
            let given = status.acceptors.iter().filter(|report| report.given).count();
            judged.findings.push(not_formed(&answers, given));
        }
        Majority::Tied => judged.findings.push(unavailable(
            "the acceptors belong to different clusters",
            "list only the acceptors of one cluster in --acceptors; a member's data directory is never emptied",
        )),
        Majority::Cluster(cluster) => of_cluster(&mut judged, cluster, status, &answers, leader),
    }
    judged
}

/// Acceptors whose disks contradict what they had told. Between two answers of a status one may have restarted: believe
/// it when it is still so a moment later.
fn went_back(status: &ClusterReport) -> Vec<WentBack> {
    // All are asked at about the same time, and nothing is counted on here.
    let mut guard = Guard::with(RUNS_MAX, 0);
    for answer in status.answers() {
        if let (Some(acceptor), Some(stamp)) = (uuid(answer), &answer.stamp) {
            let remembers = wire::read_witnesses(&answer.witnesses).unwrap_or_default();
            // Who contradicts is asked for below, when all have spoken.
            let _ = guard.introduce(acceptor, &wire::runs(&stamp.runs), remembers.iter(), &[]);
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
    let address = &report.address;
    let (problem, advice) = if report.given {
        (
            format!("acceptor {address} does not answer: {cause}"),
            "start it again with its data directory, or correct --acceptors",
        )
    } else {
        (
            format!("acceptor {address}, a member that --acceptors does not list, does not answer: {cause}"),
            "start it again with its data directory, and list all members in --acceptors",
        )
    };
    Some(Finding::degraded(subject(address.to_string()), problem, advice))
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

fn of_cluster(
    judged: &mut Judged,
    cluster: &[u8],
    status: &ClusterReport,
    answers: &[&AcceptorStatusResponse],
    leader: Option<&Peer>,
) {
    let back = went_back(status);
    judged.contradicted = !back.is_empty();
    let chosen_to = answers.iter().map(|answer| answer.chosen_to).max().unwrap_or(0);
    let leader_timeout_ms = leader_timeout_ms(answers);
    // What the leader counts, in its own words. An acceptor that it refuses may see nothing wrong with itself.
    let linked = leader
        .filter(|leader| leader.source == Source::Itself)
        .and_then(|leader| Some((leader, leader.linked.as_ref()?)));
    // Votes are counted by uuid, never by address.
    let mut counted: BTreeMap<AcceptorUuid, &str> = BTreeMap::new();
    let mut secure = 0;
    for (index, report) in status.acceptors.iter().enumerate() {
        let Ok(answer) = &report.answer else { continue };
        let name = format!("acceptor {} ({})", answer.id, report.address);
        let refused = refusal(&name, cluster, answer)
            .or_else(|| {
                let found = back.iter().find(|found| Some(found.acceptor) == uuid(answer))?;
                Some((
                    format!("{name}: {found}"),
                    "stop it; start it again on its right disk if that is still there, and leave it stopped otherwise. Every \
                     other data directory stays as it is",
                ))
            })
            .or_else(|| {
                let other = counted.get(&uuid(answer)?)?;
                Some((
                    format!("{name} is the same acceptor as {other}"),
                    "list each acceptor once in --acceptors",
                ))
            });
        let found = |(problem, advice)| Finding::degraded(subject(answer.id.clone()), problem, advice);
        if let Some(refused) = refused {
            judged.findings.push(found(refused));
            continue;
        }
        let mut wrong = complaints(&name, answer, chosen_to);
        wrong.extend(slowness(&name, answer, leader_timeout_ms));
        // The leader knows best whom it counts: another proposer may refuse an acceptor by mistake.
        let is_linked = linked.is_some_and(|(_, linked)| {
            uuid(answer).is_some_and(|uuid| linked.iter().any(|linked| **linked == uuid.to_bytes()))
        });
        let is_ready = answer.not_ready.is_empty() || is_linked;
        let can_vote = !answer.no_space && answer.waiting_ms <= HANGS_MS && is_ready;
        if !answer.not_ready.is_empty() && !answer.no_space && answer.waiting_ms <= WAITING_MS {
            wrong.push((
                format!("{name} is not ready: {}", answer.not_ready),
                "look at its log, and at those of the proposers; its votes are safe",
            ));
        }
        if let Some(uuid) = uuid(answer).filter(|_| can_vote) {
            counted.insert(uuid, report.address.as_str());
            judged.votes[index] = true;
            match linked.filter(|_| !is_linked) {
                None => secure += 1,
                Some((leader, _)) => {
                    judged.contradicted = true;
                    wrong.push((
                        format!(
                            "{name} answers, and the leader {} does not count it",
                            leader.report.address
                        ),
                        "the leader cannot reach it, or refuses it: the leader's log says why",
                    ));
                }
            }
        }
        judged.findings.extend(wrong.into_iter().map(found));
    }
    let member = answers.iter().find(|answer| cluster_id(answer) == cluster);
    let Some(configuration) = member.and_then(|member| member.configuration.as_ref()) else {
        return;
    };
    judged.members = configuration.members.len();
    judged.quorum = usize::try_from(configuration.phase1.max(configuration.phase2)).unwrap_or(usize::MAX);
    judged.findings.extend(not_found(status, &configuration.members));
    judged
        .findings
        .extend(too_few(counted.len(), secure, judged.quorum, judged.members));
}

/// A problem, and what to do.
type Wrong = (String, &'static str);

/// Why an acceptor's votes do not count in this cluster.
fn refusal(name: &str, cluster: &[u8], answer: &AcceptorStatusResponse) -> Option<Wrong> {
    if answer.membership() == Membership::Blank {
        return Some((
            format!(
                "{name} is blank, and its cluster is formed: it has lost its disk. It is not counted, permanently"
            ),
            "stop it; it cannot be replaced in this release. Never empty the data directory of another",
        ));
    }
    if cluster_id(answer) != cluster {
        let found = hex(cluster_id(answer));
        return Some((
            format!("{name} belongs to another cluster, {found}: it is not counted"),
            "correct --acceptors, here and of the proposers and learners; a member's data directory is never emptied",
        ));
    }
    (answer.membership() != Membership::Formed).then(|| {
        (
            format!("{name} has stored the list of members and does not vote yet"),
            "start a proposer with --acceptors naming all acceptors: it tells this one that the cluster is formed",
        )
    })
}

/// What is wrong with an acceptor that counts.
fn complaints(name: &str, answer: &AcceptorStatusResponse, chosen_to: u64) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    if answer.no_space {
        wrong.push((
            format!("{name} has too little space on its disk: it promises and accepts nothing"),
            "free some space there; it goes on by itself, and catches up",
        ));
    } else if let Some(free) = answer.data_free_bytes.filter(|free| *free < DATA_FREE_LOW_BYTES) {
        wrong.push((
            format!(
                "{name} has only {} MiB left on the file system of its data directory",
                free >> 20
            ),
            "free some space there, or give it a larger disk: without space it votes no more",
        ));
    }
    if answer.damaged_rows > 0 {
        let count = answer.damaged_rows;
        wrong.push((
            format!("{name} has {count} damaged rows on its disk, from slot {} on", answer.chosen_to),
            "a leader repairs what a quorum of the others can read, within seconds, so all must stay up. If the number \
             stays, look at the proposers' logs: what no quorum can read is beyond repair, and a proposer then ends and \
             names the slots. If rows are damaged again, the disk is failing: copy the data directory, with the acceptor \
             stopped, to another one",
        ));
    }
    let lag = chosen_to.saturating_sub(answer.chosen_to);
    if lag > LAG_SLOTS && answer.damaged_rows == 0 {
        wrong.push((
            format!("{name} is {lag} slots behind"),
            "the leader sends it what it missed: ask again; if this number does not shrink, look at the logs of both",
        ));
    }
    wrong
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
fn slowness(name: &str, answer: &AcceptorStatusResponse, leader_timeout_ms: u64) -> Option<Wrong> {
    let (waiting, slowest) = (answer.waiting_ms, answer.slowest_commit_ms);
    if waiting > WAITING_MS {
        return Some((
            format!("{name} has kept a request waiting for its disk for {waiting} ms"),
            "commands go on while a quorum of the other acceptors finishes commits, and otherwise wait for this one. Look \
             at its disk, at what else uses the disk, and at the kernel's log; its votes are safe",
        ));
    }
    (slowest > leader_timeout_ms).then(|| {
        (
            format!("{name} has a slow disk: its slowest commit of the last minute took {slowest} ms"),
            "commands wait for the fastest quorum of acceptors, so one slow disk costs little, and several cost that time. \
             Look at what else uses the disk",
        )
    })
}

/// Members that were not asked: they have not answered, and no report stands for them.
fn not_found(status: &ClusterReport, members: &[Member]) -> Option<Finding> {
    let silent = status.acceptors.iter().filter(|report| report.answer.is_err());
    let answered: Vec<_> = status
        .answers()
        .filter_map(|answer| answer.stamp.as_ref())
        .collect();
    let is_unseen = |member: &&Member| !answered.iter().any(|stamp| stamp.acceptor == member.acceptor);
    let unseen: Vec<_> = members
        .iter()
        .filter(is_unseen)
        .map(|member| &*member.address)
        .collect();
    (unseen.len() > silent.count()).then(|| {
        Finding::degraded(
            Subject::cluster(),
            format!(
                "members of the cluster do not answer; their addresses are {}",
                unseen.join(", ")
            ),
            "list all members in --acceptors, by addresses that can be reached from here",
        )
    })
}

/// That no quorum can vote, or that one more loss takes the quorum away. `counted` acceptors can vote; the leader counts
/// `secure` of them.
fn too_few(counted: usize, secure: usize, quorum: usize, members: usize) -> Option<Finding> {
    if counted < quorum {
        return Some(unavailable(
            format!(
                "no quorum: {counted} of {members} acceptors answer as members that can vote, {quorum} are needed"
            ),
            "start the missing acceptors with their data directories, and name all in --acceptors; nothing is lost while \
             they are away",
        ));
    }
    // A cluster that needs every acceptor never had one to spare.
    (secure <= quorum && quorum < members).then(|| {
        Finding::degraded(
            Subject::cluster(),
            format!("{secure} of {members} acceptors can vote, and {quorum} make a quorum: the loss of one more is an outage"),
            "bring back what is missing first. Until then restart no other acceptor, drain no machine and begin no update",
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

fn subject(name: String) -> Subject {
    let role = "acceptor";
    Subject { role, name }
}

/// What the acceptors cannot do together.
fn unavailable(problem: impl Into<String>, advice: &'static str) -> Finding {
    Finding::unavailable(Subject::cluster(), problem, advice)
}
