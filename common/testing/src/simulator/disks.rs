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
}

impl Disk {
    pub(crate) fn voted_to(&self) -> Slot {
        self.rows
            .last_key_value()
            .map_or(Slot::ZERO, |(slot, _)| slot.next())
    }

    pub(crate) fn held(&self, slot: Slot) -> Option<HeldRow> {
        let (ballot, value) = self.rows.get(&slot)?;
        Some(if self.damaged.contains(&slot) {
            HeldRow::Unknown
        } else {
            HeldRow::Accepted(*ballot, value.fingerprint())
        })
    }

    pub(crate) fn row(&self, slot: Slot) -> Option<Row> {
        let accepted = self.rows.get(&slot)?;
        Some(Row {
            slot,
            accepted: (!self.damaged.contains(&slot)).then(|| accepted.clone()),
        })
    }

    /// The first rows at or above `from`, at most `rows_max`, and whether no row follows.
    pub(crate) fn page(&self, from: Slot, rows_max: usize) -> (Vec<Row>, bool) {
        let mut slots = self.rows.range(from..).map(|(slot, _)| *slot);
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
            trimmed_to: Slot::ZERO,
            voted_to: self.voted_to(),
            rows: rows.filter_map(|slot| Some((slot, self.held(slot)?))).collect(),
        }
    }
}
