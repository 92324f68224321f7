//! Slots and versions: positions in the log.

use std::{fmt, str::FromStr};

/// A number from outside, above the largest possible value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {value}, above the largest possible value, {max}")]
pub struct OutOfRange {
    what: &'static str,
    value: u64,
    max: u64,
}

impl OutOfRange {
    pub(crate) fn check(what: &'static str, value: u64, max: u64) -> Result<u64, Self> {
        if value <= max {
            Ok(value)
        } else {
            Err(Self { what, value, max })
        }
    }
}

/// Position in the log, from 0; at most 2⁶³ − 1. Also used for watermarks; a watermark is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u64);

impl Slot {
    /// The first slot.
    pub const ZERO: Self = Self(0);

    /// One past the last slot that can hold a value: only a watermark.
    pub const MAX: Self = Self(Self::MAX_NUMBER);

    /// The number of [`Self::MAX`].
    pub const MAX_NUMBER: u64 = i64::MAX as u64;

    /// Takes a number from the wire or a disk.
    ///
    /// # Errors
    /// When the number is above 2⁶³ − 1.
    pub fn new(number: u64) -> Result<Self, OutOfRange> {
        OutOfRange::check("slot", number, Self::MAX.0).map(Self)
    }

    /// The bare number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The slot `count` further on; at most [`Slot::MAX`].
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count).min(Self::MAX.0))
    }

    /// The next slot.
    pub fn next(self) -> Self {
        self.plus(1)
    }

    /// Number of slots from `earlier` (inclusive) to this slot (exclusive); 0 when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The slots from this slot (inclusive) to `end` (exclusive), ascending.
    pub fn to(self, end: Self) -> impl DoubleEndedIterator<Item = Self> {
        (self.0..end.0).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Half-open range of slots, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotRange {
    /// First slot, inclusive.
    pub from: Slot,
    /// End of the range, exclusive; above `from`.
    pub to: Slot,
}

impl SlotRange {
    /// Whether `slot` is in the range.
    pub fn contains(self, slot: Slot) -> bool {
        self.from <= slot && slot < self.to
    }

    /// The slots of `ascending` as the fewest ranges.
    pub fn collect(ascending: impl IntoIterator<Item = Slot>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for slot in ascending {
            match ranges.last_mut() {
                Some(last) if last.to == slot => last.to = slot.next(),
                _ => ranges.push(Self {
                    from: slot,
                    to: slot.next(),
                }),
            }
        }
        ranges
    }
}

/// Position of a command: the slot, and the offset in the slot's batch. Ordered, never reused.
///
/// Written `SLOT.OFFSET`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The slot of the batch.
    pub slot: Slot,
    /// Position in the batch, from 0.
    pub offset: u16,
}

impl Version {
    /// The only packed form, `slot · 65,536 + offset`, for uses with a single integer (a fencing token). `None` for
    /// slots from 2⁴⁸ on, where no packed form exists.
    pub fn packed(self) -> Option<u64> {
        self.slot
            .0
            .checked_mul(1 << 16)
            .map(|slot| slot + u64::from(self.offset))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.offset)
    }
}

/// A text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAVersion {
    /// The text has another form.
    #[error("{0:?} is not a version: write SLOT.OFFSET, as in 17.0")]
    Form(String),
    /// A number is too large.
    #[error(
        "{0:?} is no possible version: in SLOT.OFFSET, SLOT is at most {max}, and OFFSET is at most {offset}",
        max = Slot::MAX,
        offset = u16::MAX
    )]
    TooLarge(String),
}

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = text.split_once('.');
        let Some((slot, offset)) = parts.filter(|(slot, offset)| is_number(slot) && is_number(offset)) else {
            return Err(NotAVersion::Form(text.to_owned()));
        };
        let parse = || {
            Some(Self {
                slot: Slot::new(slot.parse().ok()?).ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parse().ok_or_else(|| NotAVersion::TooLarge(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_reads_what_it_writes() {
        let version = Version {
            slot: Slot(17),
            offset: 65_535,
        };
        assert_eq!(version.to_string(), "17.65535");
        assert_eq!("17.65535".parse(), Ok(version));
        for wrong in ["", "17", "17.", ".1", "-1.0", "+1.0", "1.2.3", "1,0", "١.0"] {
            let refused = wrong.parse::<Version>().unwrap_err();
            assert_eq!(refused, NotAVersion::Form(wrong.to_owned()));
        }
        for large in ["17.65536", "9223372036854775808.0", "99999999999999999999.0"] {
            let refused = large.parse::<Version>().unwrap_err();
            assert_eq!(refused, NotAVersion::TooLarge(large.to_owned()));
            let text = refused.to_string();
            assert!(
                text.contains("at most 9223372036854775807, and OFFSET is at most 65535"),
                "{text}"
            );
        }
    }

    #[test]
    fn packed_versions_keep_their_order() {
        let low = Version {
            slot: Slot(1),
            offset: u16::MAX,
        };
        let high = Version {
            slot: Slot(2),
            offset: 0,
        };
        assert!(low.packed() < high.packed());
        assert_eq!(
            Version {
                slot: Slot(1 << 48),
                offset: 0
            }
            .packed(),
            None
        );
    }

    #[test]
    fn slots_stop_at_the_largest_instead_of_wrapping() {
        assert_eq!(Slot::MAX.next(), Slot::MAX);
        assert!(Slot::new(u64::MAX).is_err());
    }

    #[test]
    fn ranges_are_the_fewest() {
        let ranges = SlotRange::collect([1, 2, 3, 5, 8, 9].map(Slot));
        let plain: Vec<_> = ranges.iter().map(|range| (range.from.0, range.to.0)).collect();
        assert_eq!(plain, [(1, 4), (5, 6), (8, 10)]);
    }
}
