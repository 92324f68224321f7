//! Eras: the numbers of the configurations of a cluster.

use std::fmt;

use super::slot::OutOfRange;

/// The first protocol version that changes the members of a cluster.
pub const CHANGES_VERSION: u32 = 3;

/// Number of a configuration of a cluster, from 0: forming a cluster makes era 0, and each change of members begins the
/// next era. At most 2⁶³ − 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Era(u64);

impl Era {
    /// The era of a newly formed cluster.
    pub const FIRST: Self = Self(0);

    /// Takes a number from the wire or a disk.
    ///
    /// # Errors
    /// When the number is above 2⁶³ − 1.
    pub fn new(number: u64) -> Result<Self, OutOfRange> {
        OutOfRange::check("era", number, i64::MAX as u64).map(Self)
    }

    /// The era before; the first era stays.
    #[must_use]
    pub const fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The era after the next change of members. At the last era the number stays: 2⁶³ changes away.
    #[must_use]
    pub fn next(self) -> Self {
        Self((self.0 + 1).min(i64::MAX as u64))
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
