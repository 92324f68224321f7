//! This learner's knowledge: the state machine and the latest records, for one writer and many readers at once.

use std::sync::{Arc, PoisonError, RwLock};

use paxos_common::paxos::{
    command::Command,
    machine::{Changes, Machine, digest::StateDigest},
    slot::Slot,
    value::Value,
};
use paxos_proto::v1 as pb;

use tokio::sync::watch;

use crate::{recent::Recent, record::Record};

/// Only the applier changes the state, a slot at a time: no reader waits for long, and no reader sees half a slot.
#[derive(Debug)]
pub(crate) struct Knowledge {
    known: RwLock<AppliedState>,
    /// Watermark: every slot below is on disk.
    durable_to: watch::Sender<Slot>,
    /// Some task waits until every slot below is on disk.
    wanted_to: watch::Sender<Slot>,
}

/// The end of learning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LearningEnded;

/// A wait for the disk. Does not keep the state in memory.
#[derive(Clone, Debug)]
pub(crate) struct DurableWait {
    durable_to: watch::Receiver<Slot>,
    wanted_to: watch::Sender<Slot>,
}

impl DurableWait {
    /// Returns once every slot below `to` is on disk: commits are not paced meanwhile.
    ///
    /// # Errors
    /// Learning has ended.
    ///
    /// # Cancel safety
    /// Safe: the function only waits.
    pub(crate) async fn until(&mut self, to: Slot) -> Result<(), LearningEnded> {
        self.wanted_to.send_if_modified(|wanted_to| {
            let rises = to > *wanted_to;
            *wanted_to = to.max(*wanted_to);
            rises
        });
        let durable = self.durable_to.wait_for(|durable_to| *durable_to >= to).await;
        durable.map(drop).map_err(|_| LearningEnded)
    }
}

#[derive(Debug)]
struct AppliedState {
    machine: Machine,
    recent: Recent,
}

impl Knowledge {
    /// Begins with the state on disk.
    pub(crate) fn new(machine: Machine) -> Self {
        let recent = Recent::new(machine.applied_to());
        Self {
            durable_to: watch::Sender::new(machine.applied_to()),
            wanted_to: watch::Sender::new(machine.applied_to()),
            known: RwLock::new(AppliedState { machine, recent }),
        }
    }

    /// Applies the next slot. Returns the record, and the digest of the state after the slot.
    ///
    /// # Panics
    /// When `slot` is not the next slot.
    pub(crate) fn apply(
        &self,
        slot: Slot,
        value: Value,
        shown: Vec<pb::Command>,
        commands: &[Command],
    ) -> (Arc<Record>, StateDigest) {
        self.write(|known| {
            let record = Arc::new(Record {
                slot,
                value,
                commands: shown,
                judgements: known.machine.apply(slot, commands),
            });
            known.recent.push(Arc::clone(&record));
            (record, known.machine.digest())
        })
    }

    /// The changes since the last call.
    pub(crate) fn take_changes(&self) -> Changes {
        self.write(|known| known.machine.take_changes())
    }

    /// Every slot below `to` is on disk.
    pub(crate) fn made_durable(&self, to: Slot) {
        self.write(|known| known.recent.made_durable(to));
        self.durable_to.send_replace(to);
    }

    /// To wait for the disk.
    pub(crate) fn durable(&self) -> DurableWait {
        DurableWait {
            durable_to: self.durable_to.subscribe(),
            wanted_to: self.wanted_to.clone(),
        }
    }

    /// Follows the slot up to which some task waits for the disk.
    pub(crate) fn follow_wanted(&self) -> watch::Receiver<Slot> {
        self.wanted_to.subscribe()
    }

    /// Looks at the present state. The applier waits meanwhile, so `look` must be short.
    pub(crate) fn machine<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        look(&known.machine)
    }

    /// Looks at the latest records, as [`Self::machine`].
    pub(crate) fn recent<T>(&self, look: impl FnOnce(&Recent) -> T) -> T {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        look(&known.recent)
    }

    fn write<T>(&self, change: impl FnOnce(&mut AppliedState) -> T) -> T {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }
}
