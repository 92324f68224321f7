//! Damage: rows that cannot be read as written, until the leader repairs the rows.

use std::collections::BTreeSet;

use super::{Acceptor, HeldRow};
use crate::paxos::slot::Slot;

/// Damaged rows below a watermark, until they are accepted again.
///
/// Any value accepted there is the chosen value, at whatever ballot. The watermark passed the slot by a leader's claim.
/// The slot was chosen at or below the ballot of this claim, and the acceptor had promised this ballot. So every ballot
/// that the acceptor can accept since then proposes the same value.
pub(super) type Damaged = BTreeSet<Slot>;

/// Limit of remembered damaged rows. Beyond this limit only the lowest slots are kept: they are repaired first, and the
/// rest is found again.
pub(super) const DAMAGED_MAX: usize = 65_536;

impl Acceptor {
    /// Marks rows as damaged: rows on this acceptor's disk that cannot be read as written. Such a row is no vote any
    /// more, and the sound watermark stops before the row, until the slot is accepted again. Returns the number of rows
    /// not known to be damaged before.
    ///
    /// Call between groups, with the results of reads made between groups.
    pub fn found_damaged(&mut self, slots: impl IntoIterator<Item = Slot>) -> usize {
        let mut found = 0;
        for slot in slots {
            let is_news = if slot >= self.known_to {
                self.rows.insert(slot, HeldRow::Unknown) != Some(HeldRow::Unknown)
            } else if slot >= self.trimmed_to {
                self.damaged.insert(slot)
            } else {
                false
            };
            found += usize::from(is_news);
        }
        while self.damaged.len() > DAMAGED_MAX {
            self.damaged.pop_last();
        }
        found
    }

    /// Whether a slot's row is known to be damaged.
    pub fn is_damaged(&self, slot: Slot) -> bool {
        self.damaged.contains(&slot) || self.rows.get(&slot) == Some(&HeldRow::Unknown)
    }

    /// Number of rows below the watermark that were found damaged and are not sound again.
    pub fn damaged_rows(&self) -> usize {
        self.damaged.len()
    }
}
