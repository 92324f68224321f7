//! Judges the acceptors: whether each acceptor counts, and the problems of each acceptor.

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

use super::{
    DATA_FREE_LOW_BYTES, Finding, Peer, PendingChange, Source, Subject, Tolerance, access,
    majority::{Majority, cluster_answer, cluster_id, cluster_of},
    places::lost_member,
    unformed::not_formed,
};
use crate::output::hex;

/// Lag in slots above which an acceptor was away, or is much slower than the other acceptors.
const LAG_SLOTS: u64 = 65_536;

/// Leader timeout in milliseconds, if no proposer reports its own: the default of `--leader-timeout`.
const LEADER_TIMEOUT_MS: u64 = 200;

/// Longest time in milliseconds that a request may wait for an acceptor's disk without a finding.
const WAITING_MS: u64 = 1_000;

/// Longest time in milliseconds that a request may wait for the disk of a counted acceptor. Beyond this time the
/// acceptor is not ready, and the alerts do not count the acceptor either.
const HANGS_MS: u64 = 5_000;

/// Addresses without an answer that are named in one line, at most.
const CAUSES_MAX: usize = 16;

/// The result of judging the acceptors.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Any finding worse than degraded: no command can be ordered.
    pub(super) findings: Vec<Finding>,
    /// Whether each acceptor of the status can vote.
    pub(super) votes: Vec<bool>,
    pub(super) tolerance: Tolerance,
    /// As in [`super::Verdict`].
    pub(super) contradicted: bool,
}

/// Judges every acceptor, and the acceptors together.
pub(super) fn judge(status: &ClusterReport, leader: Option<&Peer>, change: Option<&PendingChange>) -> Judged {
    let configuration = cluster_answer(status).and_then(|answer| answer.configuration.as_ref());
    let is_member = |address: &str| {
        configuration.is_none_or(|configuration| {
            let mut members = configuration.members.iter();
            members.any(|member| member.address == address)
        })
    };
    // A member that only acceptors of another cluster name is no member of this cluster.
    let asked = status
        .acceptors
        .iter()
        .filter(|report| report.given || is_member(report.address.as_str()));
    let mut judged = Judged {
        findings: asked.filter_map(silent).collect(),
        votes: vec![false; status.acceptors.len()],
        ..Judged::default()
    };
    let answers: Vec<_> = status.answers().collect();
    if answers.is_empty() {
        let finding = access::refused(status).unwrap_or_else(|| no_answers(status));
        judged.findings.push(finding);
        return judged;
    }
    match cluster_of(&answers) {
        Majority::None => {
            let given = status.acceptors.iter().filter(|report| report.given).count();
            judged.findings.push(not_formed(&answers, given));
        }
        Majority::Tied => judged.findings.push(unavailable(
            "the acceptors belong to different clusters",
            "list only the acceptors of one cluster in --acceptors; never empty the data directory of a member",
        )),
        Majority::Cluster(cluster) => of_cluster(
            &mut judged,
            cluster,
            status,
            (&answers, change),
            leader,
        ),
    }
    judged
}

/// Acceptors with a disk that contradicts earlier answers of the same acceptor. An acceptor may have restarted between
/// two answers of a status, so believe a contradiction only if a second look shows the same.
fn went_back(status: &ClusterReport) -> Vec<WentBack> {
    // All acceptors are asked at about the same time, and no decision rests on the count here.
    let mut guard = Guard::with(RUNS_MAX, 0);
    for answer in status.answers() {
        if let (Some(acceptor), Some(stamp)) = (uuid(answer), &answer.stamp) {
            let remembers = wire::read_witnesses(&answer.witnesses).unwrap_or_default();
            // Contradictions are collected below, after every answer was introduced.
            let _ = guard.introduce(acceptor, &wire::runs(&stamp.runs), remembers.iter(), &[]);
        }
    }
    status
        .answers()
        .filter_map(|answer| guard.contradiction(uuid(answer)?))
        .collect()
}

/// No acceptor answers: names each address with the cause.
fn no_answers(status: &ClusterReport) -> Finding {
    let causes = status.acceptors.iter().filter_map(|report| {
        let cause = report.answer.as_ref().err()?;
        Some(format!("{}: {cause}", report.address))
    });
    let causes: Vec<_> = causes.collect();
    let mut problem = format!(
        "no acceptor answers: {}",
        causes[..causes.len().min(CAUSES_MAX)].join("; ")
    );
    if causes.len() > CAUSES_MAX {
        problem += &format!("; and {} more", causes.len() - CAUSES_MAX);
    }
    unavailable(
        problem,
        "start the acceptors with their data directories (or `paxos dev`), or correct --acceptors: whether a cluster is formed \
         is not known before an acceptor answers",
    )
}

fn silent(report: &AcceptorReport) -> Option<Finding> {
    let cause = report.answer.as_ref().err()?;
    let address = &report.address;
    let (problem, advice) = if report.given {
        (
            format!("acceptor {address} does not answer: {cause}"),
            "start the acceptor again with its data directory, or correct --acceptors",
        )
    } else {
        (
            format!("acceptor {address}, a member that --acceptors does not list, does not answer: {cause}"),
            "start the acceptor again with its data directory, and list all members in --acceptors",
        )
    };
    let advice = access::advice(cause).unwrap_or(advice);
    Some(Finding::degraded(subject(address.to_string()), problem, advice))
}

fn of_cluster(
    judged: &mut Judged,
    cluster: &[u8],
    status: &ClusterReport,
    (answers, change): (&[&AcceptorStatusResponse], Option<&PendingChange>),
    leader: Option<&Peer>,
) {
    let configuration = cluster_answer(status).and_then(|member| member.configuration.as_ref());
    let back = went_back(status);
    judged.contradicted = !back.is_empty();
    let chosen_to = answers.iter().map(|answer| answer.chosen_to).max().unwrap_or(0);
    let leader_timeout_ms = leader_timeout_ms(answers);
    // The acceptors counted by the leader, in the leader's own report. A refused acceptor may not notice the refusal.
    let linked = leader
        .filter(|leader| leader.source == Source::Itself)
        .and_then(|leader| Some((leader, leader.linked.as_ref()?)));
    // Votes are counted by uuid, never by address.
    let mut counted: BTreeMap<AcceptorUuid, &str> = BTreeMap::new();
    let mut secure = 0;
    for (index, report) in status.acceptors.iter().enumerate() {
        let Ok(answer) = &report.answer else { continue };
        let name = format!("acceptor {} ({})", answer.id, report.address);
        let lost = configuration.and_then(|configuration| lost_member(status, configuration, report));
        let refused = refusal(&name, (cluster, lost.is_some()), answer)
            .or_else(|| outside(&name, configuration?, answer))
            .or_else(|| {
                let found = back.iter().find(|found| Some(found.acceptor) == uuid(answer))?;
                Some((
                    format!("{name}: {found}"),
                    "stop the acceptor. If the right disk still exists, start the acceptor on this disk; otherwise \
                     empty its directory, start it again, and run `paxos member replace`. Change no other data directory",
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
            // A joiner does not vote yet, and that is no problem.
            let is_joiner = change.is_some_and(|change| is_added(change, answer));
            judged.findings.extend((!is_joiner).then(|| found(refused)));
            continue;
        }
        let mut wrong = complaints(&name, answer, chosen_to);
        wrong.extend(slowness(&name, answer, leader_timeout_ms));
        // The leader's report decides: another proposer may refuse an acceptor by mistake.
        let is_linked = linked.is_some_and(|(_, linked)| {
            uuid(answer).is_some_and(|uuid| linked.iter().any(|linked| **linked == uuid.to_bytes()))
        });
        let is_ready = answer.not_ready.is_empty() || is_linked;
        let can_vote = !answer.no_space && answer.waiting_ms <= HANGS_MS && is_ready;
        if !answer.not_ready.is_empty() && !answer.no_space && answer.waiting_ms <= WAITING_MS {
            wrong.push((
                format!("{name} is not ready: {}", answer.not_ready),
                "look at the logs of this acceptor and of the proposers; the votes of this acceptor are safe",
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
                            "{name} answers, but the leader {} does not count this acceptor",
                            leader.report.address
                        ),
                        "the leader cannot reach this acceptor, or refuses it: the leader's log says why",
                    ));
                }
            }
        }
        judged.findings.extend(wrong.into_iter().map(found));
    }
    let Some(configuration) = configuration else {
        return;
    };
    let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    judged.tolerance = Tolerance {
        members: configuration.members.len(),
        votes: counted.len(),
        phase1: size(configuration.phase1),
        phase2: size(configuration.phase2),
    };
    judged.findings.extend(not_found(status, &configuration.members));
    judged
        .findings
        .extend(too_few(judged.tolerance, secure, leader.is_some()));
}

/// A problem, and advice.
type Wrong = (String, &'static str);

/// Why an acceptor's votes do not count in this cluster. `is_place`: the acceptor runs in the place of a silent member.
fn refusal(name: &str, (cluster, is_place): (&[u8], bool), answer: &AcceptorStatusResponse) -> Option<Wrong> {
    if matches!(answer.membership(), Membership::Blank | Membership::Seeded) {
        return Some(if is_place {
            (
                format!(
                    "{name} is blank, but its cluster is formed: the member at this address has lost its disk"
                ),
                "if the disk cannot be recovered, replace the member: `paxos member list` prints the command. Never empty the \
                 data directory of another acceptor",
            )
        } else {
            (
                format!(
                    "{name} is blank, but its cluster is formed: the acceptor is new, or a member has lost its disk"
                ),
                "`paxos member add` makes a new acceptor a member, and `paxos member replace` with --with replaces a member \
                 by this acceptor",
            )
        });
    }
    if cluster_id(answer) != cluster {
        let found = hex(cluster_id(answer));
        return Some((
            format!("{name} belongs to another cluster, {found}, and is not counted"),
            "correct --acceptors, here and of the proposers and learners; never empty the data directory of a member",
        ));
    }
    (answer.membership() != Membership::Formed).then(|| {
        (
            format!("{name} has stored the list of members and does not vote yet"),
            if answer.damaged_snapshots.is_empty() {
                "start a proposer with --acceptors naming all acceptors: the proposer notifies this acceptor that the \
                 cluster is formed"
            } else {
                "its backup is damaged: repeat the same `paxos restore`"
            },
        )
    })
}

/// Whether the change under way adds this acceptor.
fn is_added(change: &PendingChange, answer: &AcceptorStatusResponse) -> bool {
    let stamp = answer.stamp.as_ref();
    stamp.is_some_and(|stamp| change.adds(&stamp.acceptor))
}

/// An acceptor of the cluster that is no member in the latest era.
fn outside(name: &str, latest: &Configuration, answer: &AcceptorStatusResponse) -> Option<Wrong> {
    let own = &answer.stamp.as_ref()?.acceptor;
    let is_member = latest.members.iter().any(|member| member.acceptor == *own);
    (!is_member).then(|| {
        (
            format!("{name} is no member in era {}", latest.era),
            "if this acceptor was removed, it may be stopped; a new acceptor becomes a member at the end of `paxos member`",
        )
    })
}

/// Problems of an acceptor that counts.
fn complaints(name: &str, answer: &AcceptorStatusResponse, chosen_to: u64) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    if answer.no_space {
        wrong.push((
            format!("{name} has too little space on its disk, and promises and accepts nothing"),
            "free some space there; the acceptor then continues by itself, and catches up",
        ));
    } else if let Some(free) = answer.data_free_bytes.filter(|free| *free < DATA_FREE_LOW_BYTES) {
        wrong.push((
            format!(
                "{name} has only {} MiB left on the file system of its data directory",
                free >> 20
            ),
            "free some space there, or use a larger disk: without space the acceptor stops voting",
        ));
    }
    if answer.damaged_rows > 0 {
        let count = answer.damaged_rows;
        wrong.push((
            format!("{name} has {count} damaged rows on its disk, from slot {} on", answer.chosen_to),
            "a leader repairs the rows that a quorum of the other acceptors can read, within seconds, so all \
             acceptors must stay up. If the number stays, look at the proposers' logs: a row that no quorum can read \
             is beyond repair, and a proposer then ends and names the slots. If rows are damaged again, the disk is \
             failing: stop the acceptor, and copy the data directory to another disk",
        ));
    }
    if let [slot, ..] = answer.damaged_snapshots[..] {
        wrong.push((
            format!("{name} has a damaged snapshot to slot {slot} on its disk"),
            "a learner replaces the snapshot within a minute, so a learner must be up. If snapshots are damaged again, the \
             disk is failing: stop the acceptor, and copy the data directory to another disk",
        ));
    }
    let lag = chosen_to.saturating_sub(answer.chosen_to);
    if lag > LAG_SLOTS && answer.damaged_rows == 0 {
        wrong.push((
            format!("{name} is {lag} slots behind"),
            "the leader sends the missed slots: ask again; if this number does not shrink, look at the logs of the \
             leader and of this acceptor",
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

/// A slow or stuck disk. Such a disk causes no change of leader, so operators must find the disk here.
fn slowness(name: &str, answer: &AcceptorStatusResponse, leader_timeout_ms: u64) -> Option<Wrong> {
    let (waiting, slowest) = (answer.waiting_ms, answer.slowest_commit_ms);
    if waiting > WAITING_MS {
        return Some((
            format!("{name} has kept a request waiting for its disk for {waiting} ms"),
            "commands continue while a quorum of the other acceptors finishes commits, and otherwise wait for this \
             acceptor. Look at its disk, at other users of the disk, and at the kernel's log; its votes are safe",
        ));
    }
    (slowest > leader_timeout_ms).then(|| {
        (
            format!("{name} has a slow disk: its slowest commit of the last minute took {slowest} ms"),
            "commands wait for the fastest quorum of acceptors, so one slow disk costs little, and several cost that time. \
             Look at other users of the disk",
        )
    })
}

/// Unasked members: without an answer, and without a call that could be a call to the member. Such a call failed, or met
/// an acceptor outside the cluster, which has its own finding.
fn not_found(status: &ClusterReport, members: &[Member]) -> Option<Finding> {
    let silent = status.acceptors.iter().filter(|report| report.answer.is_err());
    let answered: Vec<_> = status
        .answers()
        .filter_map(|answer| answer.stamp.as_ref())
        .collect();
    let is_outside = |acceptor: &[u8]| members.iter().all(|member| member.acceptor != acceptor);
    let outsiders = answered
        .iter()
        .filter(|stamp| is_outside(&stamp.acceptor))
        .count();
    let is_unseen = |member: &&Member| !answered.iter().any(|stamp| stamp.acceptor == member.acceptor);
    let unseen: Vec<_> = members
        .iter()
        .filter(is_unseen)
        .map(|member| &*member.address)
        .collect();
    (unseen.len() > silent.count() + outsiders).then(|| {
        Finding::degraded(
            Subject::cluster(),
            format!(
                "members of the cluster do not answer; their addresses are {}",
                unseen.join(", ")
            ),
            "list all members in --acceptors, by addresses reachable from here",
        )
    })
}

/// No quorum can vote, or the loss of one more acceptor ends the quorum. The leader counts `secure` of the acceptors that
/// can vote.
fn too_few(tolerance: Tolerance, secure: usize, has_leader: bool) -> Option<Finding> {
    let Tolerance {
        members,
        votes: counted,
        phase1,
        phase2,
    } = tolerance;
    let quorum = tolerance.quorum();
    if has_leader && (phase2..phase1).contains(&counted) {
        return Some(Finding::degraded(
            Subject::cluster(),
            format!(
                "{counted} of {members} acceptors can vote: enough for the values of the present leader ({phase2}), and too \
                 few to elect another leader ({phase1})"
            ),
            "bring back the missing acceptors, and restart no proposer before: without the present leader no value is \
             ordered. `paxos member quorums` sets majorities",
        ));
    }
    if counted < quorum {
        return Some(unavailable(
            format!(
                "no quorum: {counted} of {members} acceptors answer as members that can vote, {quorum} are needed"
            ),
            "start the missing acceptors with their data directories, and name all acceptors in --acceptors; nothing \
             is lost meanwhile",
        ));
    }
    // A cluster that needs every acceptor never has a spare acceptor.
    (secure <= quorum && quorum < members).then(|| {
        Finding::degraded(
            Subject::cluster(),
            format!("{secure} of {members} acceptors can vote, and {quorum} make a quorum: the loss of one more is an outage"),
            "bring back the missing acceptors first. Until then restart no other acceptor, drain no machine and \
             begin no update",
        )
    })
}

fn uuid(answer: &AcceptorStatusResponse) -> Option<AcceptorUuid> {
    Some(wire::read_stamp(answer.stamp.as_ref()).ok()?.acceptor)
}

fn subject(name: String) -> Subject {
    let role = "acceptor";
    Subject { role, name }
}

/// A finding about the acceptors as a whole: the cluster is unavailable.
fn unavailable(problem: impl Into<String>, advice: &'static str) -> Finding {
    Finding::unavailable(Subject::cluster(), problem, advice)
}
