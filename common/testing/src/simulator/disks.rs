//! Simulated disks of acceptors, with snapshots of the simulated learners.

use paxos_common::paxos::slot::Slot;

use super::sessions::State;

/// The durable state of a simulated acceptor.
pub(crate) type Disk = crate::disk::Disk<Snapshot>;

/// A whole snapshot: a learner's state after the slots below the end.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) to: Slot,
    pub(crate) state: State,
}
