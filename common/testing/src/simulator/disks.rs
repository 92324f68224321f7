//! Simulated disks of acceptors, with snapshots of the simulated learners.

use paxos_common::paxos::{ballot::Ballot, quorum::Electorate, slot::Slot};

use super::sessions::State;

/// The durable state of a simulated acceptor.
pub(crate) type Disk = crate::disk::Disk<Snapshot>;

impl Disk {
    /// Whether this disk covers a slot: by the bottom, or by a row at or above the first ballot that chose the slot.
    pub(crate) fn covers(&self, slot: Slot, chosen_at: Ballot) -> bool {
        let has_row = || self.rows.get(&slot).is_some_and(|(held, _)| *held >= chosen_at);
        slot < self.trimmed_to || has_row()
    }
}

/// A whole snapshot: a learner's state after the slots below the end.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) to: Slot,
    pub(crate) state: State,
    /// The members at this moment, from the header.
    pub(crate) electorate: Electorate,
}
