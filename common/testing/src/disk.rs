//! The disk of an acceptor in the simulator and in the model: durable state, commits, and the state found by recovery.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use paxos_common::paxos::{
    acceptor::{HeldRow, Membership, Recovered, Write},
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter},
    message::Row,
    slot::Slot,
    value::Value,
    witness::{Run, WITNESSED_RUNS_MAX, Witnesses},
};

/// The durable state of an acceptor, with snapshots of type `S`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Disk<S> {
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
    /// A planted bug: rows below the first readable slot are shown until they are swept.
    pub(crate) shows_unswept: bool,
    /// The snapshot that the log stands on.
    pub(crate) bottom: Option<S>,
    /// A newer snapshot, to which the acceptor has not trimmed yet.
    pub(crate) waiting: Option<S>,
    /// The oldest protocol version served.
    pub(crate) least_version: u32,
}

impl<S> Disk<S> {
    /// The disk of an acceptor without any history.
    pub(crate) fn new(uuid: AcceptorUuid, membership: Membership) -> Self {
        Self {
            uuid,
            membership,
            commit_counter: CommitCounter::default(),
            promised: Ballot::ZERO,
            leader_address: Arc::from(""),
            known_to: Slot::ZERO,
            runs: Vec::new(),
            witnesses: Witnesses::default(),
            rows: BTreeMap::new(),
            garbled: false,
            damaged: BTreeSet::new(),
            trimmed_to: Slot::ZERO,
            shows_unswept: false,
            bottom: None,
            waiting: None,
            least_version: 1,
        }
    }

    /// Writes a whole group in one commit.
    pub(crate) fn commit(&mut self, write: &Write<'_>) {
        self.commit_counter = write.commit_counter;
        self.promised = write.promised;
        self.leader_address = Arc::clone(write.leader_address);
        self.known_to = write.known_to;
        self.least_version = write.least_version;
        if let Some(membership) = write.membership {
            self.membership = membership.clone();
        }
        self.garbled = false;
        self.witnesses.merge(write.witnesses.iter());
        self.witnesses.bound(WITNESSED_RUNS_MAX);
        if let Some(present) = self.runs.last_mut() {
            present.commit_counter = self.commit_counter;
        }
        for (&slot, (ballot, value)) in write.rows {
            self.rows.insert(slot, (*ballot, value.clone()));
            self.damaged.remove(&slot);
        }
        if write.trimmed_to > self.trimmed_to {
            self.trimmed_to = write.trimmed_to;
            self.bottom = self.waiting.take();
        }
    }

    /// Removes the lowest rows below the first readable slot, at most `rows_max`.
    pub(crate) fn sweep(&mut self, rows_max: usize) {
        for _ in 0..rows_max {
            match self.rows.first_entry() {
                Some(lowest) if *lowest.key() < self.trimmed_to => {
                    self.damaged.remove(lowest.key());
                    lowest.remove();
                }
                Some(_) | None => return,
            }
        }
    }

    pub(crate) fn voted_to(&self) -> Slot {
        self.rows
            .last_key_value()
            .map_or(Slot::ZERO, |(slot, _)| slot.next())
            .max(self.trimmed_to)
    }

    fn first_shown(&self) -> Slot {
        if self.shows_unswept {
            Slot::ZERO
        } else {
            self.trimmed_to
        }
    }

    fn visible(&self, slot: Slot) -> Option<&(Ballot, Value)> {
        self.rows.get(&slot).filter(|_| slot >= self.first_shown())
    }

    pub(crate) fn held(&self, slot: Slot) -> Option<HeldRow> {
        let (ballot, value) = self.visible(slot)?;
        Some(if self.damaged.contains(&slot) {
            HeldRow::Unknown
        } else {
            HeldRow::Accepted(*ballot, value.fingerprint())
        })
    }

    pub(crate) fn row(&self, slot: Slot) -> Option<Row> {
        let accepted = self.visible(slot)?;
        Some(Row {
            slot,
            accepted: (!self.damaged.contains(&slot)).then(|| accepted.clone()),
        })
    }

    /// The first rows at or above `from`, at most `rows_max`, and whether no row follows.
    pub(crate) fn rows_from(&self, from: Slot, rows_max: usize) -> (Vec<Row>, bool) {
        let mut slots = self
            .rows
            .range(from.max(self.first_shown())..)
            .map(|(slot, _)| *slot);
        let rows = slots
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
            least_version: self.least_version,
            rows: rows.filter_map(|slot| Some((slot, self.held(slot)?))).collect(),
        }
    }
}
