//! Compares the learners, by the digests of their logs and of their states.

use std::collections::BTreeMap;

use paxos_client::raw::ClusterReport;
use paxos_proto::v1::{Digest, LearnerProgress};

use super::{Finding, Peer, Severity, Subject, learner};
use crate::output::hex;

/// Applied slots from which on a learner keeps digests at earlier slots, and so can be compared.
pub(super) const COMPARABLE_SLOTS: u64 = 32;

/// The result of comparing the learners' digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digests {
    /// The logs of two learners differ below this slot.
    Differ(u64),
    /// The logs of all learners agree, and the states of two learners after the slots below this one differ.
    StatesDiffer(u64),
    /// All learners agree on every slot below this one.
    Equal(u64),
    /// No digest is at a point common to all learners, or there are fewer than two learners.
    NotComparable,
}

/// Compares the digests at every point that two learners have in common.
pub(super) fn compare<'a>(learners: impl Iterator<Item = &'a LearnerProgress>) -> Digests {
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
    if let Some((to, _)) = points.iter().find(|(_, digests)| states_differ(digests)) {
        return Digests::StatesDiffer(*to);
    }
    let common = points
        .iter()
        .rev()
        .find(|(_, digests)| digests.len() == count && count > 1);
    common.map_or(Digests::NotComparable, |(to, _)| Digests::Equal(*to))
}

/// Whether two of the known states differ. Learners of an older release report no states.
fn states_differ(digests: &[&Digest]) -> bool {
    let mut states = digests
        .iter()
        .map(|digest| &digest.state)
        .filter(|state| !state.is_empty());
    let first = states.next();
    states.any(|state| Some(state) != first)
}

/// A finding about differing or incomparable learners. Without the finding, differing logs could stay hidden.
pub(super) fn finding(digests: Digests, peers: &[Peer]) -> Option<Finding> {
    match digests {
        Digests::Equal(_) => None,
        Digests::Differ(to) => Some(Finding {
            severity: Severity::Broken,
            subject: Subject::cluster(),
            problem: format!(
                "learners DIFFER below slot {to}, and do not hold the same log: {}",
                digests_at(peers, to, |digest| &digest.digest)
            ),
            advice: "stop trusting the learner that differs from the others, keep this learner's data, and report \
                     this as a fault; a learner started without data learns the log again",
        }),
        Digests::StatesDiffer(to) => Some(Finding {
            severity: Severity::Broken,
            subject: Subject::cluster(),
            problem: format!(
                "the STATES of learners DIFFER below slot {to}, and the logs are equal: {}",
                digests_at(peers, to, |digest| &digest.state)
            ),
            advice: "stop trusting the learner that differs from the others, of two learners both; keep this \
                     learner's data, and report this as a fault; a learner started without data learns the log again",
        }),
        Digests::NotComparable => incomparable(peers),
    }
}

/// What acceptors found to differ in snapshots and reports: a finding with all texts.
pub(super) fn contradictions(status: &ClusterReport) -> Option<Finding> {
    let mut texts = Vec::new();
    for answer in status.answers() {
        texts.extend(
            answer
                .contradictions
                .iter()
                .map(|text| format!("{}: {text}", answer.id)),
        );
    }
    (!texts.is_empty()).then(|| Finding {
        severity: Severity::Broken,
        subject: Subject::cluster(),
        problem: format!("acceptors found a wrong learner: {}", texts.join("; ")),
        advice: "stop trusting the learner that differs from the others, of two learners both; keep this learner's data, \
                 and report this as a fault; then empty its data directory, and start the learner again",
    })
}

/// Learners that hold a part of the log, and have no digest in common.
fn incomparable(peers: &[Peer]) -> Option<Finding> {
    let applied = |peer: &Peer| {
        let applied_to = learner(peer).filter(|_| !peer.is_departed())?.applied_to;
        (applied_to >= COMPARABLE_SLOTS).then(|| format!("{} at slot {applied_to}", peer.report.address))
    };
    let learners: Vec<_> = peers.iter().filter_map(applied).collect();
    (learners.len() > 1).then(|| {
        Finding::degraded(
            Subject::cluster(),
            format!(
                "the logs of the learners cannot be compared, because no slot has a digest of every learner: {}",
                learners.join(", ")
            ),
            "a learner may be catching up: ask again. If this stays, keep the data of all learners, and look at the \
             log of the learner that is behind; a learner started without data learns the log again",
        )
    })
}

/// Each learner's digest at this point, so that the differing learner shows.
fn digests_at(peers: &[Peer], to: u64, shown: impl Fn(&Digest) -> &[u8]) -> String {
    let held = peers.iter().filter_map(|peer| {
        let digest = learner(peer)?.digests.iter().find(|digest| digest.to == to)?;
        let digest: String = hex(shown(digest)).chars().take(12).collect();
        let digest = if digest.is_empty() { "none" } else { &digest };
        Some(format!("{} holds {digest}", peer.report.address))
    });
    held.collect::<Vec<_>>().join(", ")
}
