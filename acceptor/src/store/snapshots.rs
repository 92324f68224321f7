//! The snapshots on an acceptor's disk, as recorded by the store: the bottom, and a newer waiting snapshot.

use paxos_common::paxos::slot::Slot;

/// Bytes of a SHA-256.
pub const SHA256_BYTES: usize = 32;

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
        let [a, b, c, d, ..] = self.sha256;
        format!("snapshot-{}-{a:02x}{b:02x}{c:02x}{d:02x}.pxs", self.to)
    }
}

/// Record of a whole and durable snapshot file in the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSnapshot {
    /// The file.
    pub id: SnapshotId,
    /// Bytes of the log at the time of the record.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_named_after_its_end_and_its_hash() {
        let mut sha256 = [7; SHA256_BYTES];
        sha256[..4].copy_from_slice(&[0x0a, 0xb1, 0x00, 0xff]);
        let id = SnapshotId {
            to: Slot::new(51_200).unwrap(),
            sha256,
            bytes: 9,
        };
        assert_eq!(id.file_name(), "snapshot-51200-0ab100ff.pxs");
    }
}
