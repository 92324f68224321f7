//! The kept state: the state after the slots applied so far, readable page by page while the machine applies further
//! slots.
//!
//! Each record names the slot of its last change. So the kept state is the union of two disjoint sets: the present records
//! last changed below the end of the kept state, and the records that were replaced or removed since. The machine retains
//! the second set, at most as large as the kept state.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;

use super::{KeyedRegister, Machine, retained::Retained, sessions::SessionState};
use crate::paxos::slot::Version;

/// Some records of a kept state, in order.
#[derive(Clone, Debug)]
pub struct KeptPage<T, K> {
    /// The records, possibly none.
    pub records: Vec<T>,
    /// The next page has the records after this key; `None`: this page is the last.
    pub next: Option<K>,
}

/// A state that is no longer kept. Large: to be dropped where no task waits.
#[derive(Debug)]
pub struct ReleasedState {
    _registers: Option<Retained<BTreeSet<KeyedRegister>>>,
    _sessions: Option<Retained<BTreeMap<Version, SessionState>>>,
}

impl Machine {
    /// Keeps the present state readable until [`Self::release`], in the place of an earlier kept state.
    pub fn keep(&mut self) {
        self.registers.kept = Some(Retained::new(self.applied_to));
        self.sessions.kept = Some(Retained::new(self.applied_to));
    }

    /// Keeps no state any longer.
    pub fn release(&mut self) -> ReleasedState {
        ReleasedState {
            _registers: self.registers.kept.take(),
            _sessions: self.sessions.kept.take(),
        }
    }

    /// Registers of the kept state, by key, at most twice `count`. Looks at no more than `count` present registers.
    ///
    /// # Panics
    /// Without a kept state.
    pub fn kept_registers(&self, after: Option<&[u8]>, count: usize) -> KeptPage<KeyedRegister, Bytes> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let kept = self.registers.kept.as_ref().expect("a kept state");
        let (records, next) = page(
            self.registers.range_from(start),
            kept.records.range::<[u8], _>((start, Bound::Unbounded)),
            count,
            |register| register.key(),
            |register| register.version().slot < kept.to,
        );
        KeptPage {
            records: records.into_iter().cloned().collect(),
            next: next.map(Bytes::copy_from_slice),
        }
    }

    /// Sessions of the kept state, by name, as [`Self::kept_registers`].
    ///
    /// # Panics
    /// Without a kept state.
    pub fn kept_sessions(
        &self,
        after: Option<Version>,
        count: usize,
    ) -> KeptPage<(Version, SessionState), Version> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let kept = self.sessions.kept.as_ref().expect("a kept state");
        let (records, next) = page(
            self.sessions.open.range(range),
            kept.records.range(range),
            count,
            |(name, _)| **name,
            |(_, session)| session.last_used.slot < kept.to,
        );
        let records = records
            .into_iter()
            .map(|(name, session)| (*name, session.clone()));
        KeptPage {
            records: records.collect(),
            next,
        }
    }
}

/// The first records of both lists in order, and the key of the last compared record; `None` at the end of both lists.
/// Both lists ascend.
fn page<T, K: Ord>(
    present: impl Iterator<Item = T>,
    retained: impl Iterator<Item = T>,
    count: usize,
    key: impl Fn(&T) -> K,
    is_kept: impl Fn(&T) -> bool,
) -> (Vec<T>, Option<K>) {
    let (present, retained): (Vec<T>, Vec<T>) =
        (present.take(count).collect(), retained.take(count).collect());
    // A full list may go on: beyond its last key, this page knows only a part of the records.
    let full = [&present, &retained]
        .into_iter()
        .filter(|list| list.len() == count);
    let end = full.filter_map(|list| list.last()).map(&key).min();
    let is_within = |record: &T| end.as_ref().is_none_or(|end| key(record) <= *end);
    let kept = present.into_iter().filter(is_kept);
    let mut records: Vec<T> = kept.chain(retained).filter(is_within).collect();
    records.sort_by_key(&key);
    (records, end)
}
