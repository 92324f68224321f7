//! The log in pages for readers: the latest slots from memory, older slots from disk.

use std::{collections::VecDeque, sync::Arc};

use paxos_common::{
    paxos::{
        command::Command,
        machine::Judgement,
        slot::{Slot, Version},
        value::Value,
    },
    wire::{
        command::hide_openers,
        stored::{Contents, Unreadable, read_value},
    },
};
use paxos_proto::v1 as pb;

use crate::{
    knowledge::Knowledge,
    store::{Log, ReadError},
};

/// Number of slots in memory for readers that are up to date; more while the disk is behind.
const RECENT_SLOTS: usize = 4_096;
/// The same limit in bytes of values.
const RECENT_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of slots in a page.
pub(crate) const PAGE_SLOTS_MAX: u64 = 1_024;
/// Maximum size of a page in bytes, unless a single slot has more: well below the largest message.
pub(crate) const PAGE_BYTES_MAX: usize = 512 * 1024;
/// Encoded size of a record beside the value and the trace context, in bytes: tags, lengths and the slot.
const RECORD_BYTES: usize = 32;

/// A chosen value of a later release. This release must not skip the value.
#[derive(Debug, thiserror::Error)]
#[error("the command at {0} has an operation unknown to this release")]
pub(crate) struct TooOld(Version);

/// An applied slot.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) slot: Slot,
    /// The value as chosen.
    pub(crate) value: Value,
    /// The commands in the value, without the openers of sessions.
    pub(crate) commands: Vec<pb::Command>,
    /// The judgement of each command.
    pub(crate) judgements: Vec<Judgement>,
}

impl Record {
    /// Upper bound, in bytes, of the encoded size of this record for a subscriber.
    pub(crate) fn encoded_bytes_max(&self) -> usize {
        RECORD_BYTES + self.value.as_bytes().len() + self.value.traceparent().len()
    }

    /// The commands with their versions and judgements.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (Version, &pb::Command, Judgement)> {
        let slot = self.slot;
        (0..=u16::MAX)
            .zip(self.commands.iter().zip(&self.judgements))
            .map(move |(offset, (command, &judgement))| (Version { slot, offset }, command, judgement))
    }
}

/// The content of a chosen value.
#[derive(Debug)]
pub(crate) struct Holds {
    /// The commands as shown to readers: without the openers of sessions.
    pub(crate) shown: Vec<pb::Command>,
    /// The commands for the state machine.
    pub(crate) commands: Vec<Command>,
    /// The reason to skip the value: both lists are empty then.
    pub(crate) unreadable: Option<Unreadable>,
}

/// Reads the content of a chosen value.
///
/// # Errors
/// A later release must have proposed the value: a learner of this release cannot go on.
pub(crate) fn read_commands(slot: Slot, value: &Value) -> Result<Holds, TooOld> {
    match read_value(value) {
        Contents::Batch(mut shown, commands) => {
            shown.iter_mut().for_each(hide_openers);
            Ok(Holds {
                shown,
                commands,
                unreadable: None,
            })
        }
        Contents::Unreadable(error) => Ok(Holds {
            shown: Vec::new(),
            commands: Vec::new(),
            unreadable: Some(error),
        }),
        Contents::Newer(offset) => Err(TooOld(Version {
            slot,
            offset: u16::try_from(offset).unwrap_or(u16::MAX),
        })),
    }
}

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

    /// A page of the slots from `from` on, empty when no such slot is applied; `None` when only the disk has `from`.
    fn page(&self, from: Slot) -> Option<Vec<Arc<Record>>> {
        let start = self.records.front().map_or(self.end, |first| first.slot);
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

/// The whole log, for many short reads at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct History {
    knowledge: Arc<Knowledge>,
    log: Log,
}

impl History {
    pub(crate) fn new(knowledge: Arc<Knowledge>, log: Log) -> Self {
        Self { knowledge, log }
    }

    /// The applied slots from `from` on, at most a page, without gaps; at least one slot when `from` is applied.
    pub(crate) async fn page(&self, from: Slot) -> Result<Vec<Arc<Record>>, ReadError> {
        let (page, durable_to) = self
            .knowledge
            .recent(|recent| (recent.page(from), recent.durable_to()));
        match page {
            Some(page) => Ok(page),
            // Slots no longer in memory are on disk.
            None => self.log.page(from, durable_to).await,
        }
    }

    /// The same page, if all in memory: such a page shares existing records.
    pub(crate) fn recent(&self, from: Slot) -> Option<Vec<Arc<Record>>> {
        self.knowledge.recent(|recent| recent.page(from))
    }

    /// The record of `slot`; `None` when the slot is not applied.
    pub(crate) async fn record(&self, slot: Slot) -> Result<Option<Arc<Record>>, ReadError> {
        let page = self.knowledge.recent(|recent| recent.page(slot));
        let page = match page {
            Some(page) => page,
            None => self.log.page(slot, slot.next()).await?,
        };
        Ok(page.into_iter().next())
    }
}

#[cfg(test)]
mod tests;
