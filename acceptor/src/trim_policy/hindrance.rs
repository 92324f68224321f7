//! What the next trim of the log waits for, as shown to people.

use std::fmt;

use paxos_common::paxos::slot::Slot;

use super::{Facts, SnapshotWish};

/// What the next trim waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hindrance {
    /// No trim is wanted.
    KeepsAll,
    /// Trimmed rows are being deleted.
    Sweep,
    /// Learners attach again after the start of this process.
    Start,
    /// An attached peer of an earlier release knows no trimmed log.
    OlderPeer { address: String },
    /// The log is still small.
    Growth { log_bytes: u64, wanted: u64 },
    /// Digests of learners differ, or differed and do not agree again yet.
    DifferentDigests { to: Slot },
    /// No attached learner can give the snapshot.
    NoLearner { above: Slot },
    /// A learner is asked, and no snapshot has arrived yet.
    Answer { peer: u64, address: String, above: Slot },
    /// An upload has failed, and the next learner is not asked yet.
    Pause,
    /// A snapshot is arriving.
    Arrival,
    /// The leader has not reported yet that the slots of the snapshot are chosen.
    Cap { to: Slot },
    /// A learner is below the end of the snapshot.
    Learner {
        address: String,
        position: Slot,
        to: Slot,
    },
}

impl Hindrance {
    /// Whether the trim waits until a person acts. Otherwise waiting helps.
    pub(crate) fn needs_person(&self) -> bool {
        match self {
            Self::OlderPeer { .. }
            | Self::DifferentDigests { .. }
            | Self::NoLearner { .. }
            | Self::Cap { .. }
            | Self::Learner { .. } => true,
            Self::KeepsAll
            | Self::Sweep
            | Self::Start
            | Self::Growth { .. }
            | Self::Answer { .. }
            | Self::Pause
            | Self::Arrival => false,
        }
    }
}

/// What an acceptor waits for that has asked for a snapshot. Without a leader, no claim lets the acceptor take a snapshot
/// above the cap.
pub(super) fn answer(SnapshotWish { peer, above }: SnapshotWish, facts: &Facts<'_>) -> Hindrance {
    let asked = facts.learners.iter().find(|learner| learner.peer == peer);
    match asked.map(|learner| learner.applied_to) {
        Some(to) if to > facts.cap && !facts.has_leader => Hindrance::Cap { to },
        Some(_) | None => {
            let address = asked.map(|learner| learner.address.clone()).unwrap_or_default();
            Hindrance::Answer { peer, address, above }
        }
    }
}

/// The reason against every trim, lift and question. `differ_below`: the slot of different digests.
pub(super) fn forbidden(facts: &Facts<'_>, differ_below: Option<Slot>) -> Option<Hindrance> {
    if let Some(address) = facts.older_peer {
        let address = address.to_owned();
        return Some(Hindrance::OlderPeer { address });
    }
    differ_below.map(|to| Hindrance::DifferentDigests { to })
}

impl fmt::Display for Hindrance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1024 * 1024;
        match self {
            Self::KeepsAll => write!(
                formatter,
                "nothing: this acceptor keeps the whole log (--retain-bytes all)"
            ),
            Self::Sweep => write!(
                formatter,
                "the end of the deletion of trimmed rows. Nothing is to be done"
            ),
            Self::Start => write!(
                formatter,
                "the reports of learners: this acceptor has started a short time ago (--restart-max). Nothing is to be done"
            ),
            Self::OlderPeer { address } => write!(
                formatter,
                "an upgrade: the process at {address:?} is of an earlier release. Upgrade all learners and proposers"
            ),
            Self::Growth { log_bytes, wanted } => {
                let (log, wanted) = (log_bytes / MIB, wanted.div_ceil(MIB));
                write!(
                    formatter,
                    "more log: the log has {log} MiB of {wanted} MiB. Nothing is to be done"
                )
            }
            Self::DifferentDigests { to } => write!(
                formatter,
                "a person: the digests of two learners differ below slot {to}, in reports or in a snapshot. Empty the data \
                 directory of the wrong learner, of two learners both. Then run two learners until their digests agree, or \
                 restart this acceptor"
            ),
            Self::NoLearner { above } => write!(
                formatter,
                "a learner: no attached learner can give a snapshot above slot {above}. Start a learner, or wait until a \
                 learner has applied this slot"
            ),
            Self::Answer { peer, address, above } => write!(
                formatter,
                "a snapshot above slot {above} from learner {peer} at {address:?}. If none comes for minutes, look at the log \
                 of this learner"
            ),
            Self::Pause => write!(
                formatter,
                "the next question for a snapshot, half a minute after an upload that failed. If uploads fail again and \
                 again, look at the log of this acceptor"
            ),
            Self::Arrival => write!(
                formatter,
                "the end of the arriving snapshot. Nothing is to be done"
            ),
            Self::Cap { to } => write!(
                formatter,
                "a leader: no leader has reported all slots below slot {to} as chosen. Start a proposer and all acceptors; if \
                 no leader is elected because disks are full, free space on these disks outside the data directories, and \
                 never delete a file of an acceptor"
            ),
            Self::Learner {
                address,
                position,
                to,
            } => write!(
                formatter,
                "learner {address:?}, which has the slots below {position}: the trim goes to slot {to}, and waits at most for \
                 one more step of the log. Look at the log of this learner"
            ),
        }
    }
}
