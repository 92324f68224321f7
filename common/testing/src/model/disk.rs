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
    pub(crate) trimmed_to: Slot,
    /// The snapshot that the log stands on.
    pub(crate) bottom: Option<Snapshot>,
    /// A newer snapshot, to which the acceptor has not trimmed yet.
    pub(crate) waiting: Option<Snapshot>,
}

/// A snapshot file: in this model, the values of all slots below its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) to: Slot,
    pub(crate) values: Vec<Value>,
    /// All bytes are on the disk.
    pub(crate) is_whole: bool,
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
            trimmed_to: Slot::ZERO,
            bottom: None,
            waiting: None,
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
        if write.trimmed_to > self.trimmed_to {
            self.trimmed_to = write.trimmed_to;
            self.bottom = self.waiting.take();
            self.rows = self.rows.split_off(&self.trimmed_to);
            self.damaged = self.damaged.split_off(&self.trimmed_to);
        }
    }

    fn voted_to(&self) -> Slot {
        self.rows
            .last_key_value()
            .map_or(Slot::ZERO, |(slot, _)| slot.next())
            .max(self.trimmed_to)
    }

    /// Whether this disk covers a slot: by the bottom, or by a row at or above the first ballot that chose the slot.
    pub(crate) fn covers(&self, slot: Slot, chosen_at: Ballot) -> bool {
        let has_row = || self.rows.get(&slot).is_some_and(|(held, _)| *held >= chosen_at);
        slot < self.trimmed_to || has_row()
    }

    /// Whether the log stands on a whole snapshot.
    pub(crate) fn has_bottom(&self) -> bool {
        let is_bottom = |bottom: &Snapshot| bottom.is_whole && bottom.to == self.trimmed_to;
        self.trimmed_to == Slot::ZERO || self.bottom.as_ref().is_some_and(is_bottom)
    }

    /// The values below `to`, from the bottom and the rows above; `None` if a row is missing.
    pub(crate) fn values(&self, to: Slot) -> Option<Vec<Value>> {
        let mut values = self
            .bottom
            .as_ref()
            .map_or_else(Vec::new, |bottom| bottom.values.clone());
        let above = self.trimmed_to.to(to);
        let value = |slot| Some(self.rows.get(&slot)?.1.clone());
        values.extend(above.map(value).collect::<Option<Vec<_>>>()?);
        Some(values)
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
            next: rows
                .last()
                .map_or(from.max(self.trimmed_to), |row| row.slot.next()),
            last,
            chosen_to: self.known_to.min(self.damaged_at()),
            known_to: self.known_to,
            trimmed_to: self.trimmed_to,
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
            trimmed_to: self.trimmed_to,
            voted_to: self.voted_to(),
            rows: rows.filter_map(|slot| Some((slot, self.held(slot)?))).collect(),
        }
    }
}
