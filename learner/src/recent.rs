//! The latest records, in memory: pages for readers that are up to date.

use std::{collections::VecDeque, sync::Arc};

use paxos_common::paxos::slot::Slot;

use crate::record::Record;

/// Number of slots in memory for readers that are up to date; more while the disk is behind.
const RECENT_SLOTS: usize = 4_096;
/// The same limit in bytes of values.
const RECENT_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of slots in a page.
pub(crate) const PAGE_SLOTS_MAX: u64 = 1_024;
/// Maximum size of a page in bytes, unless a single slot has more: well below the largest message.
pub(crate) const PAGE_BYTES_MAX: usize = 512 * 1024;
/// The latest records: every applied slot from the first record on.
#[derive(Debug)]
pub(crate) struct Recent {
    records: VecDeque<Arc<Record>>,
    bytes: usize,
    /// The slot after the last record.
    end: Slot,
    /// Watermark: every slot below is on disk.
    durable_to: Slot,
}

impl Recent {
    /// Without records at first; begins after the slots on disk.
    pub(crate) fn new(applied_to: Slot) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            end: applied_to,
            durable_to: applied_to,
        }
    }

    pub(crate) fn durable_to(&self) -> Slot {
        self.durable_to
    }

    pub(crate) fn push(&mut self, record: Arc<Record>) {
        assert_eq!(record.slot, self.end, "slots are applied in order, each once");
        self.end = record.slot.next();
        self.bytes += record.value.as_bytes().len();
        self.records.push_back(record);
        self.forget();
    }

    /// Every slot below `to` is on disk.
    pub(crate) fn made_durable(&mut self, to: Slot) {
        self.durable_to = to;
        self.forget();
    }

    /// Drops the oldest durable records until the limits hold.
    fn forget(&mut self) {
        while (self.records.len() > RECENT_SLOTS || self.bytes > RECENT_BYTES)
            && let Some(first) = self.records.pop_front_if(|first| first.slot < self.durable_to)
        {
            self.bytes -= first.value.as_bytes().len();
        }
    }

    /// The record of `slot`, if in memory.
    pub(crate) fn record(&self, slot: Slot) -> Option<Arc<Record>> {
        let start = self.start();
        if slot < start {
            return None;
        }
        let skipped = usize::try_from(slot.since(start)).unwrap_or(usize::MAX);
        self.records.get(skipped).cloned()
    }

    /// The first slot in memory; lower slots are on disk.
    pub(crate) fn start(&self) -> Slot {
        self.records.front().map_or(self.end, |first| first.slot)
    }

    /// A page of the slots from `from` on, empty when no such slot is applied; `None` when only the disk has `from`.
    pub(crate) fn page(&self, from: Slot) -> Option<Vec<Arc<Record>>> {
        let start = self.start();
        if from < start {
            return None;
        }
        let skipped = usize::try_from(from.since(start)).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |record: &&Arc<Record>| {
            bytes += record.value.as_bytes().len();
            bytes <= PAGE_BYTES_MAX || record.slot == from
        };
        let most = usize::try_from(PAGE_SLOTS_MAX).expect("it is small");
        let page = self.records.iter().skip(skipped).take(most).take_while(fits);
        Some(page.cloned().collect())
    }
}

#[cfg(test)]
mod tests;
