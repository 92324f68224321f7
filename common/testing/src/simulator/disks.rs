//! Simulated disks of acceptors: the durable state, and the state found by recovery.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{HeldRow, Membership, Recovered},
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter},
    message::Row,
    slot::Slot,
    value::Value,
    witness::{Run, Witnesses},
};

use super::sessions::State;

/// The durable state of an acceptor.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) uuid: AcceptorUuid,
    pub(crate) membership: Membership,
    pub(crate) commit_counter: CommitCounter,
    pub(crate) promised: Ballot,
    pub(crate) leader_address: Arc<str>,
    pub(crate) known_to: Slot,
    /// All run numbers so far, with the commit counter at the end of each run. The present run is the last.
    pub(crate) runs: Vec<Run>,
    pub(crate) witnesses: Witnesses,
    pub(crate) rows: BTreeMap<Slot, (Ballot, Value)>,
    /// The state record has a wrong checksum.
    pub(crate) garbled: bool,
    /// Rows with a wrong checksum.
    pub(crate) damaged: BTreeSet<Slot>,
    /// The first readable slot. Rows below stay until they are swept.
    pub(crate) trimmed_to: Slot,
    /// The snapshot that the log stands on.
    pub(crate) bottom: Option<Snapshot>,
    /// A newer snapshot, to which the acceptor has not trimmed yet.
    pub(crate) waiting: Option<Snapshot>,
}

/// A whole snapshot: a learner's state after the slots below the end.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) to: Slot,
    pub(crate) state: State,
}

impl Disk {
    pub(crate) fn voted_to(&self) -> Slot {
        self.rows
            .last_key_value()
            .map_or(Slot::ZERO, |(slot, _)| slot.next())
            .max(self.trimmed_to)
    }

    /// Removes the lowest rows below the first slot, at most `count`.
    pub(crate) fn sweep(&mut self, count: usize) {
        for _ in 0..count {
            match self.rows.first_entry() {
                Some(lowest) if *lowest.key() < self.trimmed_to => {
                    self.damaged.remove(lowest.key());
                    lowest.remove();
                }
                Some(_) | None => return,
            }
        }
    }

    pub(crate) fn held(&self, slot: Slot) -> Option<HeldRow> {
        let (ballot, value) = self.visible(slot)?;
        Some(if self.damaged.contains(&slot) {
            HeldRow::Unknown
        } else {
            HeldRow::Accepted(*ballot, value.fingerprint())
        })
    }

    fn visible(&self, slot: Slot) -> Option<&(Ballot, Value)> {
        self.rows.get(&slot).filter(|_| slot >= self.trimmed_to)
    }

    pub(crate) fn row(&self, slot: Slot) -> Option<Row> {
        let accepted = self.visible(slot)?;
        Some(Row {
            slot,
            accepted: (!self.damaged.contains(&slot)).then(|| accepted.clone()),
        })
    }

    /// The first rows at or above `from`, at most `rows_max`, and whether no row follows.
    pub(crate) fn page(&self, from: Slot, rows_max: usize) -> (Vec<Row>, bool) {
        let mut slots = self
            .rows
            .range(from.max(self.trimmed_to)..)
            .map(|(slot, _)| *slot);
        let rows: Vec<Row> = slots
            .by_ref()
            .take(rows_max)
            .filter_map(|slot| self.row(slot))
            .collect();
        (rows, slots.next().is_none())
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let rows = self.rows.range(self.known_to..).map(|(slot, _)| *slot);
        Recovered {
            uuid: self.uuid,
            commit_counter: self.commit_counter,
            membership: self.membership.clone(),
            promised: self.promised,
            leader_address: Arc::clone(&self.leader_address),
            known_to: self.known_to,
            trimmed_to: self.trimmed_to,
            voted_to: self.voted_to(),
            rows: rows.filter_map(|slot| Some((slot, self.held(slot)?))).collect(),
        }
    }
}
