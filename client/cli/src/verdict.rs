//! Judges what the acceptors say: who is in the cluster, whether it works, and what to do when it does not.

use std::collections::BTreeMap;

use paxos_client::{
    ClusterStatus,
    proto::{AttachRequest, Ballot, Digest, LearnerProgress, Role, attach_request::Progress},
};
use paxos_common::exit::Exit;

use crate::output::hex;

mod acceptors;

/// A leader that no acceptor has heard of for so long does not lead: many times the usual leader timeout.
const LEADER_SILENT_MS: u64 = 2_000;
/// A peer whose last report is older is stuck or cut off.
const REPORT_OLD_MS: u64 = 5_000;
/// So many slots behind, a learner is catching up or stuck: under load it is a few hundred behind at most.
const LAG_SLOTS: u64 = 10_000;

/// Learners that have applied at least this many slots keep digests at earlier slots, and so can be compared.
const COMPARABLE_SLOTS: u64 = 32;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// The cluster works, but somebody should look.
    Degraded,
    /// Nothing can be ordered now.
    Unavailable,
    /// A promise is broken.
    Broken,
}

/// Something that is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) problem: String,
    pub(crate) advice: &'static str,
}

/// What comes of comparing the learners' digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digests {
    /// Two learners differ below this slot.
    Differ(u64),
    /// All learners agree on every slot below this one.
    Equal(u64),
    /// There are not two learners with a point in common.
    NotComparable,
}

/// A proposer or learner, by its latest report to any acceptor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Peer {
    pub(crate) report: AttachRequest,
    pub(crate) age_ms: u64,
}

/// What is known of the whole cluster.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) findings: Vec<Finding>,
    pub(crate) digests: Digests,
    /// The proposer that leads; none when nobody does.
    pub(crate) leader: Option<Peer>,
    /// Proposers and learners, each once, by role and address.
    pub(crate) peers: Vec<Peer>,
    /// The highest watermark that anybody told.
    pub(crate) chosen_to: u64,
    /// An acceptor contradicts what others remember of it. It may have restarted while the others were asked: look
    /// again before that is believed.
    pub(crate) contradicted: bool,
}

impl Verdict {
    pub(crate) fn exit(&self) -> Exit {
        match self.findings.iter().map(|finding| finding.severity).max() {
            None | Some(Severity::Degraded) => Exit::Clean,
            Some(Severity::Unavailable) => Exit::Unavailable,
            Some(Severity::Broken) => Exit::No,
        }
    }
}

/// Learners' part of a report.
pub(crate) fn learner(peer: &Peer) -> Option<&LearnerProgress> {
    match &peer.report.progress {
        Some(Progress::Learner(progress)) => Some(progress),
        Some(Progress::Proposer(_)) | None => None,
    }
}

pub(crate) fn judge(status: &ClusterStatus) -> Verdict {
    let peers = roster(status);
    let leader = leader_of(&peers);
    let digests = compare(peers.iter().filter_map(learner));
    let watermark = |peer: &Peer| match &peer.report.progress {
        Some(Progress::Proposer(proposer)) => proposer.chosen_to,
        Some(Progress::Learner(learner)) => learner.applied_to,
        None => 0,
    };
    let told = status
        .answers()
        .map(|answer| answer.chosen_to)
        .chain(peers.iter().map(watermark));
    let chosen_to = told.max().unwrap_or(0);

    let mut findings = acceptors::findings(status);
    let works = findings
        .iter()
        .all(|finding| finding.severity == Severity::Degraded);
    if works {
        findings.extend(leader_finding(status, leader.as_ref()));
    }
    findings.extend(peer_findings(&peers, works, chosen_to));
    if let Digests::Differ(to) = digests {
        findings.push(Finding {
            severity: Severity::Broken,
            problem: format!(
                "learners DIFFER below slot {to}, they do not hold the same log: {}",
                digests_at(&peers, to)
            ),
            advice: "stop trusting the learner that differs from the others, keep its data, and report this as a \
                     fault; one that starts without data learns the log anew",
        });
    }
    if digests == Digests::NotComparable {
        findings.extend(incomparable_finding(&peers));
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    Verdict {
        findings,
        digests,
        leader,
        peers,
        chosen_to,
        contradicted: !acceptors::went_back(status).is_empty(),
    }
}

/// The peers that acceptors name, each by its youngest report.
fn roster(status: &ClusterStatus) -> Vec<Peer> {
    let mut peers: BTreeMap<(i32, String, u64), Peer> = BTreeMap::new();
    for attached in status.answers().flat_map(|answer| &answer.attached) {
        let Some(report) = attached.report.clone() else {
            continue;
        };
        let key = (report.role, report.address.clone(), report.peer);
        let peer = Peer {
            report,
            age_ms: attached.age_ms,
        };
        match peers.get(&key) {
            Some(known) if known.age_ms <= peer.age_ms => {}
            Some(_) | None => _ = peers.insert(key, peer),
        }
    }
    peers.into_values().collect()
}

fn leader_of(peers: &[Peer]) -> Option<Peer> {
    let ballot = |peer: &Peer| match &peer.report.progress {
        Some(Progress::Proposer(progress)) if progress.leading && peer.age_ms < REPORT_OLD_MS => {
            progress.ballot
        }
        Some(Progress::Proposer(_) | Progress::Learner(_)) | None => None,
    };
    let leading = peers
        .iter()
        .filter_map(|peer| ballot(peer).map(|Ballot { round, proposer }| ((round, proposer), peer)));
    leading
        .max_by_key(|(ballot, _)| *ballot)
        .map(|(_, peer)| peer.clone())
}

fn leader_finding(status: &ClusterStatus, leader: Option<&Peer>) -> Option<Finding> {
    let silent_ms = status
        .answers()
        .filter_map(|answer| Some(answer.leadership.as_ref()?.silent_ms))
        .min();
    let problem = match leader {
        None => "no proposer leads".to_owned(),
        Some(leader) => match silent_ms.filter(|silent| *silent > LEADER_SILENT_MS) {
            Some(silent) => format!(
                "the leader {} has been silent for {silent} ms",
                leader.report.address
            ),
            None => return None,
        },
    };
    Some(Finding {
        severity: Severity::Unavailable,
        problem,
        advice: "an election takes less than a second when a proposer runs: ask again, then look at the proposers' logs",
    })
}

fn peer_findings(peers: &[Peer], works: bool, chosen_to: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let count = |role: Role| peers.iter().filter(|peer| peer.report.role() == role).count();
    if works && count(Role::Proposer) == 0 {
        findings.push(Finding {
            severity: Severity::Unavailable,
            problem: "no proposer is attached".to_owned(),
            advice: "start one or more proposers with --acceptors naming all acceptors",
        });
    }
    if works && count(Role::Learner) == 0 {
        findings.push(Finding {
            severity: Severity::Degraded,
            problem: "no learner is attached, so nobody can read".to_owned(),
            advice: "start one or more learners with --acceptors naming all acceptors",
        });
    }
    for peer in peers.iter().filter(|peer| peer.age_ms >= REPORT_OLD_MS) {
        findings.push(Finding {
            severity: Severity::Degraded,
            problem: format!("{} has not reported for {} ms", peer.report.address, peer.age_ms),
            advice: "it is stopped, overloaded or cut off: look at its log",
        });
    }
    for peer in peers {
        let lag = learner(peer).map_or(0, |learner| chosen_to.saturating_sub(learner.applied_to));
        if lag > LAG_SLOTS {
            findings.push(Finding {
                severity: Severity::Degraded,
                problem: format!("learner {} is {lag} slots behind", peer.report.address),
                advice: "it catches up by itself, and readers find newer values at other learners: ask again; if this \
                         number does not shrink, look at its log",
            });
        }
    }
    findings
}

/// Learners that hold some of the log, and have no digest in common. Silence would hide that their logs may differ.
fn incomparable_finding(peers: &[Peer]) -> Option<Finding> {
    let applied = |peer: &Peer| {
        let applied_to = learner(peer)?.applied_to;
        (applied_to >= COMPARABLE_SLOTS).then(|| format!("{} at slot {applied_to}", peer.report.address))
    };
    let learners: Vec<_> = peers.iter().filter_map(applied).collect();
    (learners.len() > 1).then(|| Finding {
        severity: Severity::Degraded,
        problem: format!(
            "the logs of the learners cannot be compared, no digest is at a slot that all have: {}",
            learners.join(", ")
        ),
        advice: "a learner may be catching up: ask again. If this stays, keep the data of all learners and look at the log \
                 of the one that is behind; one that starts without data learns the log again",
    })
}

/// Who holds what at this point, so that the odd one shows.
fn digests_at(peers: &[Peer], to: u64) -> String {
    let told = peers.iter().filter_map(|peer| {
        let digest = learner(peer)?.digests.iter().find(|digest| digest.to == to)?;
        let digest: String = hex(&digest.digest).chars().take(12).collect();
        Some(format!("{} holds {digest}", peer.report.address))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Compares at every point that two learners have in common.
fn compare<'a>(learners: impl Iterator<Item = &'a LearnerProgress>) -> Digests {
    let mut points: BTreeMap<u64, Vec<&Digest>> = BTreeMap::new();
    let mut count = 0;
    for learner in learners {
        count += 1;
        for digest in &learner.digests {
            points.entry(digest.to).or_default().push(digest);
        }
    }
    let differs = |digests: &[&Digest]| digests.windows(2).any(|pair| pair[0].digest != pair[1].digest);
    if let Some((to, _)) = points.iter().find(|(_, digests)| differs(digests)) {
        return Digests::Differ(*to);
    }
    let common = points
        .iter()
        .rev()
        .find(|(_, digests)| digests.len() == count && count > 1);
    common.map_or(Digests::NotComparable, |(to, _)| Digests::Equal(*to))
}

#[cfg(test)]
pub(crate) mod tests;
