//! The disk of a modelled acceptor: durable state, and reads of this state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{HeldRow, Membership, Recovered, Write},
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter},
    message::{PromisePage, Row},
    slot::Slot,
    value::Value,
};

/// The durable state of an acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    uuid: AcceptorUuid,
    pub(crate) commit_counter: CommitCounter,
    pub(crate) promised: Ballot,
    leader_address: Arc<str>,
    pub(crate) known_to: Slot,
    pub(crate) rows: BTreeMap<Slot, (Ballot, Value)>,
    /// Rows with a wrong checksum.
    pub(crate) damaged: BTreeSet<Slot>,
}

impl Disk {
    pub(crate) fn blank(uuid: AcceptorUuid) -> Self {
        Self {
            uuid,
            commit_counter: CommitCounter::default(),
            promised: Ballot::ZERO,
            leader_address: Arc::from(""),
            known_to: Slot::ZERO,
            rows: BTreeMap::new(),
            damaged: BTreeSet::new(),
        }
    }

    /// Writes a whole group in one commit.
    pub(crate) fn write(&mut self, write: &Write<'_>) {
        self.commit_counter = write.commit_counter;
        self.promised = write.promised;
        self.leader_address = Arc::clone(write.leader_address);
        self.known_to = write.known_to;
        for (&slot, (ballot, value)) in write.rows {
            self.rows.insert(slot, (*ballot, value.clone()));
            self.damaged.remove(&slot);
        }
    }

    fn voted_to(&self) -> Slot {
        self.rows
            .last_key_value()
            .map_or(Slot::ZERO, |(slot, _)| slot.next())
    }

    pub(crate) fn damaged_at(&self) -> Slot {
        self.damaged.first().copied().unwrap_or(Slot::MAX)
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
    pub(crate) fn rows_from(&self, from: Slot, rows_max: usize) -> (Vec<Row>, bool) {
        let mut slots = self.rows.range(from..).map(|(slot, _)| *slot);
        let rows = slots
            .by_ref()
            .take(rows_max)
            .filter_map(|slot| self.row(slot))
            .collect();
        (rows, slots.next().is_none())
    }

    /// A page of a promise, read at a single moment.
    pub(crate) fn page(&self, from: Slot, rows_max: usize) -> PromisePage {
        let (rows, last) = self.rows_from(from, rows_max);
        PromisePage {
            from,
            next: rows.last().map_or(from, |row| row.slot.next()),
            last,
            chosen_to: self.known_to.min(self.damaged_at()),
            known_to: self.known_to,
            trimmed_to: Slot::ZERO,
            voted_to: self.voted_to(),
            rows,
        }
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let rows = self.rows.range(self.known_to..).map(|(slot, _)| *slot);
        Recovered {
            uuid: self.uuid,
            commit_counter: self.commit_counter,
            membership: Membership::Blank,
            promised: self.promised,
            leader_address: Arc::clone(&self.leader_address),
            known_to: self.known_to,
            trimmed_to: Slot::ZERO,
            voted_to: self.voted_to(),
            rows: rows.filter_map(|slot| Some((slot, self.held(slot)?))).collect(),
        }
    }
}
