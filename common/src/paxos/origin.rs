//! The origin of a restored cluster: the backup, and the first slot above every slot of the cluster before.

use super::slot::{Slot, Version};

/// Length of a SHA-256 in bytes.
const SHA256_BYTES: usize = 32;

/// Slots between the last known slot of the cluster before and the first slot of the restored cluster: the cluster before
/// may have come further. At 10,000 slots a second, 2^36 slots take 79 days.
pub const JUMP: u64 = 1 << 36;

/// The highest base: a restored cluster has at least [`JUMP`] slots.
const BASE_MAX: u64 = Slot::MAX_NUMBER - JUMP;

/// Maximum number of remembered earlier restores. The versions lost by older restores count as never lost.
pub const EARLIER_MAX: usize = 64;

/// The slots with versions that a restore has lost: from the end of the backup up to the first slot afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LostSlots {
    /// The backup has the effect of every slot below.
    pub ended_at: Slot,
    /// The first slot after the restore.
    pub base: Slot,
}

impl LostSlots {
    fn includes(&self, version: Version) -> bool {
        version.slot >= self.ended_at && version.slot < self.base
    }
}

/// The backup that a restored cluster began with.
///
/// Registers keep their versions, all below `ended_at`. The cluster before may have used versions from `ended_at` on; every
/// such version is lost, and below `base`. The restored cluster uses only slots from `base` on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    sha256: [u8; SHA256_BYTES],
    lost: LostSlots,
    /// Lost by the restores that led to the cluster of the backup, ascending. Known from the backup, and no part of the
    /// identity.
    earlier: Vec<LostSlots>,
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
    /// The slots lost by earlier restores are not in order.
    #[error(
        "an origin lists the slots lost by at most {EARLIER_MAX} earlier restores, in order, and below the end of the backup"
    )]
    Earlier,
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
            lost: LostSlots { ended_at, base },
            earlier: Vec::new(),
        })
    }

    /// The same origin, of a backup of a cluster that was itself restored from `before`. Beyond [`EARLIER_MAX`] restores
    /// the oldest are forgotten.
    ///
    /// # Errors
    /// [`InvalidOrigin::Earlier`]: the backup ends below the base of its own cluster.
    pub fn following(self, before: &Self) -> Result<Self, InvalidOrigin> {
        let mut earlier = before.earlier.clone();
        earlier.push(before.lost);
        let surplus = earlier.len().saturating_sub(EARLIER_MAX);
        earlier.drain(..surplus);
        self.with_earlier(earlier)
    }

    /// The same origin, with the slots lost by earlier restores.
    ///
    /// # Errors
    /// [`InvalidOrigin::Earlier`].
    pub fn with_earlier(mut self, earlier: Vec<LostSlots>) -> Result<Self, InvalidOrigin> {
        let mut from = Slot::ZERO;
        for lost in &earlier {
            if lost.ended_at < from || lost.base <= lost.ended_at || lost.base > self.lost.ended_at {
                return Err(InvalidOrigin::Earlier);
            }
            from = lost.base;
        }
        if earlier.len() > EARLIER_MAX {
            return Err(InvalidOrigin::Earlier);
        }
        self.earlier = earlier;
        Ok(self)
    }

    /// Whether both name the same backup and the same base.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.sha256, self.lost) == (other.sha256, other.lost)
    }

    /// The SHA-256 of the backup.
    pub fn sha256(&self) -> &[u8; SHA256_BYTES] {
        &self.sha256
    }

    /// The backup has the effect of every slot below.
    pub fn ended_at(&self) -> Slot {
        self.lost.ended_at
    }

    /// The first slot of the restored cluster.
    pub fn base(&self) -> Slot {
        self.lost.base
    }

    /// The slots lost by earlier restores, ascending.
    pub fn earlier(&self) -> &[LostSlots] {
        &self.earlier
    }

    /// The restore that has lost a version: the version may have belonged to a cluster before, and is not in the backup.
    pub fn lost(&self, version: Version) -> Option<LostSlots> {
        let mut restores = self.earlier.iter().chain([&self.lost]);
        restores.find(|lost| lost.includes(version)).copied()
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
        let base = origin.base().get();
        assert_eq!(
            Origin::new([1; 32], origin.ended_at(), origin.base()),
            Ok(origin),
            "a made origin is valid"
        );
        Ok(base)
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
        assert_eq!(
            [9, 10, 9 + JUMP, 10 + JUMP].map(|slot| lost_by(&origin, slot)),
            [None, Some(10), Some(10), None]
        );
    }

    /// The end of the backup whose restore has lost a slot.
    fn lost_by(origin: &Origin, slot: u64) -> Option<u64> {
        let version = Version {
            slot: at(slot),
            offset: 0,
        };
        Some(origin.lost(version)?.ended_at.get())
    }

    #[test]
    fn versions_lost_by_the_restores_before_stay_lost() {
        let first = Origin::after([1; 32], at(10), None).unwrap();
        let end = first.base().get() + 7;
        let second = Origin::after([2; 32], at(end), None).unwrap();
        let second = second.following(&first).unwrap();
        let found = [
            9,
            10,
            9 + JUMP,
            10 + JUMP,
            end - 1,
            end,
            end + JUMP - 1,
            end + JUMP,
        ]
        .map(|slot| lost_by(&second, slot));
        let (one, two) = (Some(10), Some(end));
        assert_eq!(found, [None, one, one, None, None, two, two, None]);
        assert!(!second.is_same(&first) && second.is_same(&Origin::after([2; 32], at(end), None).unwrap()));
        // A backup that ends below the base of its own cluster is none.
        let below = Origin::after([2; 32], at(end - 8), None).unwrap();
        assert_eq!(below.following(&first), Err(InvalidOrigin::Earlier));
    }

    #[test]
    fn oldest_of_many_restores_are_forgotten() {
        let mut origin = Origin::after([0; 32], at(0), None).unwrap();
        for _ in 0..EARLIER_MAX + 3 {
            let next = Origin::after([0; 32], origin.base().next(), None).unwrap();
            origin = next.following(&origin).unwrap();
        }
        assert_eq!(origin.earlier().len(), EARLIER_MAX);
        let oldest = origin.earlier()[0];
        assert_eq!(oldest.ended_at.get(), 3 * (JUMP + 1));
        assert_eq!(lost_by(&origin, 0), None);
    }

    #[test]
    fn earlier_restores_from_outside_are_in_order_and_below_the_backup() {
        let origin = Origin::after([1; 32], at(100), None).unwrap();
        let lost = |ended_at, base| LostSlots {
            ended_at: at(ended_at),
            base: at(base),
        };
        for earlier in [
            vec![lost(5, 5)],
            vec![lost(5, 101)],
            vec![lost(5, 8), lost(7, 9)],
            vec![lost(7, 9), lost(2, 3)],
            (0..=EARLIER_MAX as u64)
                .map(|slot| lost(slot, slot + 1))
                .collect(),
        ] {
            assert_eq!(origin.clone().with_earlier(earlier), Err(InvalidOrigin::Earlier));
        }
        assert!(origin.with_earlier(vec![lost(5, 8), lost(8, 100)]).is_ok());
    }
}
