//! The snapshots on an acceptor's disk, as recorded by the store: the bottom, and a newer waiting snapshot.

use paxos_common::{
    paxos::slot::Slot,
    snapshot::{HASH_BYTES, name},
};

/// Bytes of a SHA-256.
pub const SHA256_BYTES: usize = HASH_BYTES;

/// The size of the log could not be read: more than any log, so the first size read later counts.
pub const LOG_BYTES_UNKNOWN: u64 = i64::MAX.cast_unsigned();

/// Identity of a snapshot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// The snapshot holds the result of every slot below.
    pub to: Slot,
    /// SHA-256 of the file.
    pub sha256: [u8; SHA256_BYTES],
    /// Bytes of the file; below 2^63.
    pub bytes: u64,
}

impl SnapshotId {
    /// Name of the file in the data directory.
    pub fn file_name(&self) -> String {
        name::file_name(self.to, &self.sha256)
    }
}

/// Record of a whole and durable snapshot file in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// The file.
    pub id: SnapshotId,
    /// Bytes of the log at the time of the record, or [`LOG_BYTES_UNKNOWN`].
    pub log_bytes: u64,
}

/// The snapshots on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptSnapshots {
    /// The snapshot to `trimmed_to`: the log stands on this snapshot. None before the first trim.
    pub bottom: Option<KeptSnapshot>,
    /// A newer snapshot. The acceptor has not trimmed to its end yet.
    pub waiting: Option<KeptSnapshot>,
}

impl KeptSnapshots {
    /// The snapshots, the bottom first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &KeptSnapshot> {
        self.bottom.iter().chain(&self.waiting)
    }

    /// Whether a record names the file of `id`. Different snapshots may have the same file name.
    pub(crate) fn names_file_of(&self, id: SnapshotId) -> bool {
        self.iter().any(|kept| kept.id.file_name() == id.file_name())
    }

    /// The snapshots after a trim to `to`.
    ///
    /// # Panics
    /// If no snapshot to `to` waits: without a whole snapshot, a trim would lose chosen values.
    #[must_use]
    pub(crate) fn after_trim(self, to: Slot) -> Self {
        let bottom = self.waiting.filter(|waiting| waiting.id.to == to);
        assert!(
            bottom.is_some(),
            "a trim to {to} needs a waiting snapshot to {to}"
        );
        Self {
            bottom,
            waiting: None,
        }
    }
}
