//! Changes of the recorded snapshots, requested from the worker: record a file or a seed, trim the log to the end of a
//! recorded file, and forget a suspect file.

use paxos_common::paxos::{
    acceptor::{Seed, SeedRefusal, TrimRefusal},
    slot::Slot,
};
use tokio::sync::oneshot;

use crate::store::snapshots::SnapshotId;

/// Maximum number of changes waiting for the worker: a single task sends changes, and waits for each answer.
pub(crate) const SNAPSHOT_CHANGES_MAX: usize = 4;

/// Outcome of a change, durable on disk. No record names the returned file any more: the caller removes this file.
pub(crate) type ChangeOutcome = Result<Option<SnapshotId>, SnapshotUnchanged>;

/// A change requested from the worker, decided between two groups.
#[derive(Debug)]
pub(crate) enum SnapshotChange {
    /// Records a whole and durable file of the data directory as the waiting snapshot. Returns the file of the earlier
    /// waiting snapshot.
    Keep {
        id: SnapshotId,
        answer: oneshot::Sender<ChangeOutcome>,
    },
    /// Records a whole and durable file of the data directory as the seed of a cluster to be formed. Returns the file of an
    /// earlier copy of the seed, or `id` if the cluster is formed already.
    Seed {
        id: SnapshotId,
        seed: Seed,
        answer: oneshot::Sender<ChangeOutcome>,
    },
    /// Trims the log to the end of the waiting snapshot, and makes this snapshot the bottom. Returns the file of the
    /// earlier bottom. The sender has just checked the named file: without a whole file, a trim loses chosen values.
    Trim {
        id: SnapshotId,
        answer: oneshot::Sender<ChangeOutcome>,
    },
    /// Deletes the record of a waiting snapshot that must not be trimmed to. Returns the file of the record.
    Forget {
        id: SnapshotId,
        reason: ForgetReason,
        answer: oneshot::Sender<ChangeOutcome>,
    },
}

/// Why a waiting snapshot is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForgetReason {
    /// Digests of learners differed while the snapshot waited.
    #[error("digests of learners differed, so the snapshot might come from the wrong learner")]
    Suspect,
    /// The snapshot has ended above the cap for too long. The worker looks at the cap again: a claim may have arrived since.
    #[error("the snapshot ended above the slots of all leaders for a minute")]
    AboveCap,
}

/// Why nothing was recorded or trimmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SnapshotUnchanged {
    /// See [`TrimRefusal`].
    #[error(transparent)]
    Refused(#[from] TrimRefusal),
    /// See [`SeedRefusal`].
    #[error(transparent)]
    Seed(#[from] SeedRefusal),
    /// Another file waits, or none.
    #[error("the snapshot file to slot {0} does not wait: another file waits, or none")]
    NotWaiting(Slot),
    /// A leader has reported the slots of the snapshot as chosen meanwhile.
    #[error("the snapshot file to slot {0} is not above the cap any more: the snapshot waits on")]
    BelowCap(Slot),
    /// The disk has too little free space even for trims.
    #[error("too little space is left on the disk, even for a trim")]
    NoSpace,
}
