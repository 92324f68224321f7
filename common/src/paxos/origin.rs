//! The origin of a restored cluster: the backup, and the first slot above every slot of the cluster before.

use super::slot::{Slot, Version};

/// Length of a SHA-256 in bytes.
const SHA256_BYTES: usize = 32;

/// Slots between the last known slot of the cluster before and the first slot of the restored cluster: the cluster before
/// may have come further. At 10,000 slots a second, 2^36 slots take 79 days.
pub const JUMP: u64 = 1 << 36;

/// The highest base: a restored cluster has at least [`JUMP`] slots.
const BASE_MAX: u64 = Slot::MAX_NUMBER - JUMP;

/// The backup that a restored cluster began with.
///
/// Registers keep their versions, all below `ended_at`. The cluster before may have used versions from `ended_at` on; every
/// such version is lost, and below `base`. The restored cluster uses only slots from `base` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    sha256: [u8; SHA256_BYTES],
    ended_at: Slot,
    base: Slot,
}

/// An origin with a base that is too low or too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum InvalidOrigin {
    /// The base is not far enough above the end of the backup.
    #[error(
        "a backup that ends at slot {ended_at} is restored to slot {base}: at least {JUMP} slots must lie between"
    )]
    TooLow {
        /// The end of the backup.
        ended_at: Slot,
        /// The base.
        base: Slot,
    },
    /// Too few slots are left above the base.
    #[error(
        "the first slot of the restored cluster would be {base}, above {BASE_MAX}, the highest possible first slot: name a \
         lower version, or restore an earlier backup"
    )]
    TooHigh {
        /// The wanted base.
        base: u64,
    },
}

impl Origin {
    /// The origin of a cluster that begins with a backup of the slots below `ended_at`, [`JUMP`] slots above that
    /// end and above the version `above`.
    ///
    /// # Errors
    /// [`InvalidOrigin::TooHigh`].
    pub fn after(
        sha256: [u8; SHA256_BYTES],
        ended_at: Slot,
        above: Option<Version>,
    ) -> Result<Self, InvalidOrigin> {
        let above = above.map_or(0, |above| above.slot.get().saturating_add(1));
        let base = ended_at.get().max(above).saturating_add(JUMP);
        match Slot::new(base) {
            Ok(slot) => Self::new(sha256, ended_at, slot),
            Err(_) => Err(InvalidOrigin::TooHigh { base }),
        }
    }

    /// Checks an origin from the wire or a disk.
    ///
    /// # Errors
    /// See [`InvalidOrigin`].
    pub fn new(sha256: [u8; SHA256_BYTES], ended_at: Slot, base: Slot) -> Result<Self, InvalidOrigin> {
        if base.get() > BASE_MAX {
            return Err(InvalidOrigin::TooHigh { base: base.get() });
        }
        if base.since(ended_at) < JUMP {
            return Err(InvalidOrigin::TooLow { ended_at, base });
        }
        Ok(Self {
            sha256,
            ended_at,
            base,
        })
    }

    /// The SHA-256 of the backup.
    pub fn sha256(&self) -> &[u8; SHA256_BYTES] {
        &self.sha256
    }

    /// The backup has the effect of every slot below.
    pub fn ended_at(&self) -> Slot {
        self.ended_at
    }

    /// The first slot of the restored cluster.
    pub fn base(&self) -> Slot {
        self.base
    }

    /// Whether a version may have belonged to the cluster before, and is not in the backup.
    pub fn has_lost(&self, version: Version) -> bool {
        version.slot >= self.ended_at && version.slot < self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(slot: u64) -> Slot {
        Slot::new(slot).unwrap()
    }

    fn after(ended_at: u64, above: Option<u64>) -> Result<u64, InvalidOrigin> {
        let version = |slot| Version {
            slot: at(slot),
            offset: 7,
        };
        let origin = Origin::after([1; 32], at(ended_at), above.map(version))?;
        assert_eq!(
            Origin::new([1; 32], origin.ended_at(), origin.base()),
            Ok(origin),
            "a made origin is valid"
        );
        Ok(origin.base().get())
    }

    #[test]
    fn base_is_far_above_the_backup_and_the_named_version() {
        assert_eq!(after(0, None), Ok(JUMP));
        assert_eq!(after(61_440, None), Ok(61_440 + JUMP));
        assert_eq!(after(61_440, Some(61_439)), Ok(61_440 + JUMP));
        assert_eq!(after(61_440, Some(70_000)), Ok(70_001 + JUMP));
        assert_eq!(after(61_440, Some(61_440 + JUMP)), Ok(61_441 + 2 * JUMP));
    }

    #[test]
    fn base_without_room_above_is_refused() {
        assert_eq!(after(BASE_MAX - JUMP, None), Ok(BASE_MAX));
        for (ended_at, above) in [
            (BASE_MAX - JUMP + 1, None),
            (Slot::MAX.get(), None),
            (0, Some(BASE_MAX)),
            (0, Some(Slot::MAX.get())),
        ] {
            let refused = after(ended_at, above).unwrap_err();
            assert!(matches!(refused, InvalidOrigin::TooHigh { .. }), "{refused:?}");
            assert!(refused.to_string().contains("name a lower version"), "{refused}");
        }
    }

    #[test]
    fn origin_from_outside_keeps_the_jump() {
        let refused = Origin::new([1; 32], at(10), at(9 + JUMP)).unwrap_err();
        assert!(matches!(refused, InvalidOrigin::TooLow { .. }), "{refused:?}");
        assert!(Origin::new([1; 32], at(10), at(3)).is_err());
        assert!(Origin::new([1; 32], at(10), Slot::MAX).is_err());
    }

    #[test]
    fn versions_between_the_backup_and_the_base_are_lost() {
        let origin = Origin::after([1; 32], at(10), None).unwrap();
        let lost = |slot| {
            origin.has_lost(Version {
                slot: at(slot),
                offset: 0,
            })
        };
        assert_eq!([9, 10, 9 + JUMP, 10 + JUMP].map(lost), [false, true, true, false]);
    }
}
