//! The disk of a modelled acceptor, with snapshots of values.

use paxos_common::paxos::{ballot::Ballot, message::PromisePage, slot::Slot, value::Value};

/// The durable state of a modelled acceptor.
pub(crate) type Disk = crate::disk::Disk<Snapshot>;

/// A snapshot file: in this model, the values of all slots below its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Snapshot {
    pub(crate) to: Slot,
    pub(crate) values: Vec<Value>,
    /// All bytes are on the disk.
    pub(crate) is_whole: bool,
}

impl Disk {
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
}
