//! This learner's knowledge: the state machine and the latest records, for one writer and many readers at once.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use paxos_common::paxos::{
    command::Command,
    machine::{KeptPage, KeyedRegister, Machine, digest::StateDigest, sessions::SessionState},
    slot::{Slot, Version},
    value::Value,
};
use paxos_proto::v1 as pb;

use tokio::sync::watch;

use crate::{progress::Mark, recent::Recent, record::Record};

/// Number of registers or sessions that are read of a kept state at a time: the applier waits meanwhile.
const KEPT_PAGE: usize = 256;

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
    /// Number of the latest kept state.
    kept: u64,
}

/// A kept state: the state at a moment, readable while further slots are applied. At most one at a time; kept until dropped.
#[derive(Debug)]
pub(crate) struct KeptView {
    knowledge: Arc<Knowledge>,
    number: u64,
    mark: Mark,
}

impl KeptView {
    /// The end of the state, and the digests.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Size of the present state in bytes.
    pub(crate) fn state_bytes(&self) -> u64 {
        self.knowledge.machine(Machine::state_bytes)
    }

    /// Registers after this key.
    pub(crate) fn registers(&self, after: Option<&[u8]>) -> KeptPage<KeyedRegister, Bytes> {
        self.knowledge
            .machine(|machine| machine.kept_registers(after, KEPT_PAGE))
    }

    /// Sessions after this name.
    pub(crate) fn sessions(&self, after: Option<Version>) -> KeptPage<(Version, SessionState), Version> {
        self.knowledge
            .machine(|machine| machine.kept_sessions(after, KEPT_PAGE))
    }
}

impl Drop for KeptView {
    fn drop(&mut self) {
        let released = self.knowledge.write(|known| {
            let is_latest = known.kept == self.number;
            is_latest.then(|| known.machine.release())
        });
        // No task waits for the drop of many records.
        drop(released);
    }
}

impl Knowledge {
    /// Begins with the state on disk.
    pub(crate) fn new(machine: Machine) -> Self {
        let recent = Recent::new(machine.applied_to());
        Self {
            durable_to: watch::Sender::new(machine.applied_to()),
            wanted_to: watch::Sender::new(machine.applied_to()),
            known: RwLock::new(AppliedState {
                machine,
                recent,
                kept: 0,
            }),
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

    /// Keeps the present state; `mark`: its digests. Only the applier knows the digest of the log.
    ///
    /// # Panics
    /// When the state is at another slot.
    pub(crate) fn keep(self: &Arc<Self>, mark: Mark) -> KeptView {
        let number = self.write(|known| {
            assert_eq!(
                known.machine.applied_to(),
                mark.to,
                "the digests of another state"
            );
            known.machine.keep();
            known.kept += 1;
            known.kept
        });
        KeptView {
            knowledge: Arc::clone(self),
            number,
            mark,
        }
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
