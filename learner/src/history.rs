//! The log in pages for readers: the latest slots from memory, older slots from disk.

use std::sync::{Arc, Weak};

use paxos_common::{paxos::slot::Slot, wire::status::KeptSlots};

use crate::{
    knowledge::Knowledge,
    record::Record,
    store::{Log, LogReadError},
};

/// The whole log, for many short reads at once. Cheap to clone. A history does not keep the state in memory: a stalled
/// stream must not hold a state that an installed snapshot has replaced.
#[derive(Clone, Debug)]
pub(crate) struct History {
    knowledge: Weak<Knowledge>,
    log: Log,
}

impl History {
    pub(crate) fn new(knowledge: &Arc<Knowledge>, log: Log) -> Self {
        let knowledge = Arc::downgrade(knowledge);
        Self { knowledge, log }
    }

    fn knowledge(&self) -> Result<Arc<Knowledge>, LogReadError> {
        self.knowledge.upgrade().ok_or(LogReadError::Replaced)
    }

    /// The slots that readers can get.
    pub(crate) fn kept(&self) -> KeptSlots {
        // In this order: the end is read later, and so is never below the beginning.
        let from = self.log.from();
        let knowledge = self.knowledge.upgrade();
        let to = knowledge.map_or(from, |knowledge| {
            knowledge.machine(|machine| machine.applied_to())
        });
        KeptSlots { from, to }
    }

    /// The applied slots from `from` on, at most a page, without gaps; at least one slot when `from` is applied.
    pub(crate) async fn page(&self, from: Slot) -> Result<Vec<Arc<Record>>, LogReadError> {
        self.check(from)?;
        let (page, durable_to) = self
            .knowledge()?
            .recent(|recent| (recent.page(from), recent.durable_to()));
        match page {
            Some(page) => Ok(page),
            // Slots no longer in memory are on disk.
            None => self.log.page(from, durable_to).await,
        }
    }

    /// The same page, if all in memory: such a page shares existing records.
    pub(crate) fn recent(&self, from: Slot) -> Option<Vec<Arc<Record>>> {
        self.check(from).ok()?;
        let knowledge = self.knowledge().ok()?;
        knowledge.recent(|recent| recent.page(from))
    }

    /// The record of `slot`; `None` when the slot is not applied.
    pub(crate) async fn record(&self, slot: Slot) -> Result<Option<Arc<Record>>, LogReadError> {
        self.check(slot)?;
        let (record, start) = self
            .knowledge()?
            .recent(|recent| (recent.record(slot), recent.start()));
        if slot >= start {
            return Ok(record);
        }
        Ok(self.log.page(slot, slot.next()).await?.into_iter().next())
    }

    /// Memory may hold slots below the learned log: readers get none of these slots, as from the disk.
    fn check(&self, from: Slot) -> Result<(), LogReadError> {
        if from < self.log.from() {
            return Err(LogReadError::Trimmed);
        }
        Ok(())
    }
}
