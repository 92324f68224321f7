//! The state record: reading, verification, and the proof that no vote is gone.
//!
//! Below the watermark every slot has a row, so a missing row shows. From the watermark on, a missing row does not
//! show, and a vanished vote would be a denied vote. So the record carries the end of the votes and a sum over the
//! slots with a vote.

use std::{collections::BTreeSet, sync::Arc};

use paxos_common::{
    paxos::{acceptor::Write, era::Era, identity::CommitCounter, slot::Slot},
    sqlite::checksum,
};
use sqlx::sqlite::SqliteRow;

use super::{
    super::{Moment, StoreError},
    columns::{Binding, bind_ballot, column, read_ballot, read_slot, text},
    identity::Identity,
};

/// The columns of [`Identity::read_state`], in order.
pub(super) const STATE: &str =
    "state.commit_counter, state.promised_era, state.promised_round, state.promised_proposer,
    state.leader_address, state.chosen_to, state.trimmed_to, state.voted_to, state.open_slots, state.least_version,
    state.checksum";
/// As [`STATE`], in files of the schema versions 2 and 3.
pub(super) const STATE_BEFORE_ERAS: &str =
    "state.commit_counter, 0, state.promised_round, state.promised_proposer, state.leader_address,
    state.chosen_to, state.trimmed_to, state.voted_to, state.open_slots, 1, state.checksum";
/// Number of columns in [`STATE`].
pub(super) const STATE_COLUMNS: usize = 11;

/// The statement that writes all columns; `value` gives the nth value in order, from 1.
pub(super) fn update_state(value: impl Fn(usize) -> String) -> String {
    let columns = STATE
        .split(',')
        .map(|column| column.trim().trim_start_matches("state."));
    let set: Vec<_> = columns
        .zip(1..)
        .map(|(column, number)| format!("{column} = {}", value(number)))
        .collect();
    format!("UPDATE state SET {} WHERE only = 0;", set.join(", "))
}

/// A verified state record.
#[derive(Clone, Debug)]
pub(super) struct StateRecord {
    pub(super) moment: Moment,
    /// As [`OpenSlots::sum`].
    pub(super) open_slots: u64,
}

/// The slots with a vote from the watermark on, as of the next commit.
#[derive(Clone, Debug, Default)]
pub(super) struct OpenSlots {
    slots: BTreeSet<Slot>,
    sum: u64,
    voted_to: Slot,
}

impl OpenSlots {
    /// Starts from the votes on disk.
    pub(super) fn new(slots: impl IntoIterator<Item = Slot>, voted_to: Slot) -> Self {
        let slots: BTreeSet<Slot> = slots.into_iter().collect();
        Self {
            sum: sum_of(slots.iter().copied()),
            slots,
            voted_to,
        }
    }

    /// Takes in the votes and the watermark of a commit.
    pub(super) fn take(&mut self, write: &Write<'_>) {
        for &slot in write.rows.keys() {
            self.voted_to = self.voted_to.max(slot.next());
            if slot >= write.known_to && self.slots.insert(slot) {
                self.sum = self.sum.wrapping_add(weight(slot));
            }
        }
        while let Some(&lowest) = self.slots.first()
            && lowest < write.known_to
        {
            self.slots.pop_first();
            self.sum = self.sum.wrapping_sub(weight(lowest));
        }
        self.voted_to = self.voted_to.max(write.known_to);
    }

    /// Sum of the weights of the slots.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }
}

/// The slot's addend in the sum.
pub(super) fn weight(slot: Slot) -> u64 {
    checksum(&[&slot.get().to_le_bytes()]).cast_unsigned()
}

/// The sum over slots; a repeated slot counts each time.
pub(super) fn sum_of(slots: impl IntoIterator<Item = Slot>) -> u64 {
    slots.into_iter().map(weight).fold(0, u64::wrapping_add)
}

impl Identity {
    /// Reads the columns [`STATE`] from column 0 on.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: the record is irreplaceable.
    pub(super) fn read_state(&self, row: &SqliteRow) -> Result<StateRecord, StoreError> {
        let read = || {
            let state = StateRecord {
                moment: Moment {
                    commit_counter: CommitCounter::new(column::<i64>(row, 0)?.try_into().ok()?),
                    promised: read_ballot(row, 1)?,
                    leader_address: text(row, 4)?.into(),
                    known_to: read_slot(row, 5)?,
                    trimmed_to: read_slot(row, 6)?,
                    voted_to: read_slot(row, 7)?,
                    least_version: column::<i64>(row, 9)?.try_into().ok()?,
                },
                open_slots: column::<i64>(row, 8)?.cast_unsigned(),
            };
            (self.state_checksum(&state) == column::<i64>(row, 10)?).then_some(state)
        };
        read().ok_or(StoreError::Damaged("state"))
    }

    /// The state written by a commit.
    pub(super) fn state_after(write: &Write<'_>, slots: &OpenSlots) -> StateRecord {
        StateRecord {
            moment: Moment {
                commit_counter: write.commit_counter,
                promised: write.promised,
                leader_address: Arc::clone(write.leader_address),
                known_to: write.known_to,
                trimmed_to: write.trimmed_to,
                voted_to: slots.voted_to,
                least_version: write.least_version,
            },
            open_slots: slots.sum,
        }
    }

    /// Binds the columns [`STATE`].
    pub(super) fn bind_state<'q>(&self, query: Binding<'q>, state: &StateRecord) -> Binding<'q> {
        let moment = &state.moment;
        bind_ballot(
            query.bind(moment.commit_counter.get().cast_signed()),
            moment.promised,
        )
        .bind(moment.leader_address.to_string())
        .bind(moment.known_to.get().cast_signed())
        .bind(moment.trimmed_to.get().cast_signed())
        .bind(moment.voted_to.get().cast_signed())
        .bind(state.open_slots.cast_signed())
        .bind(moment.least_version)
        .bind(self.state_checksum(state))
    }

    pub(super) fn state_checksum(&self, state: &StateRecord) -> i64 {
        let moment = &state.moment;
        let (era, version) = (moment.promised.era(), moment.least_version);
        let mut more = vec![moment.voted_to.get(), state.open_slots];
        // Left out before the first change of members: so the records of earlier releases verify.
        if era > Era::FIRST || version > 1 {
            more.extend([era.get(), version.into()]);
        }
        self.moment_checksum(moment, &more)
    }

    /// Checksum over the columns of a state record of version 1, and over `more` later columns.
    pub(super) fn moment_checksum(&self, moment: &Moment, more: &[u64]) -> i64 {
        let uuid = self.uuid.to_bytes();
        let [counter, round, proposer, chosen_to, trimmed_to] = [
            moment.commit_counter.get(),
            moment.promised.round(),
            moment.promised.proposer().get(),
            moment.known_to.get(),
            moment.trimmed_to.get(),
        ]
        .map(u64::to_le_bytes);
        let more: Vec<_> = more.iter().map(|number| number.to_le_bytes()).collect();
        let mut parts: Vec<&[u8]> = vec![&uuid, &counter, &round, &proposer];
        parts.push(moment.leader_address.as_bytes());
        parts.extend([&chosen_to[..], &trimmed_to]);
        parts.extend(more.iter().map(|number| &number[..]));
        checksum(&parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use paxos_common::paxos::{ballot::Ballot, value::Value, witness::Witnesses};
    use std::collections::BTreeMap;

    #[test]
    fn sum_follows_the_votes_and_the_watermark() {
        let at = |slot| Slot::new(slot).unwrap();
        let (address, witnesses) = (Arc::from(""), Witnesses::default());
        let mut slots = OpenSlots::default();
        let mut held = BTreeSet::new();
        for (chosen_to, written) in [
            (0, vec![0, 2, 5]),
            (1, vec![2, 6]),
            (1, vec![]),
            (6, vec![3, 4, 5, 9]),
            (7, vec![1]),
        ] {
            let rows: BTreeMap<_, _> = written
                .into_iter()
                .map(|slot| (at(slot), (Ballot::ZERO, Value::noop())))
                .collect();
            let write = Write {
                commit_counter: CommitCounter::new(1),
                membership: None,
                promised: Ballot::ZERO,
                promise_is_new: false,
                leader_address: &address,
                known_to: at(chosen_to),
                trimmed_to: Slot::ZERO,
                rows: &rows,
                witnesses: &witnesses,
                least_version: 1,
            };
            slots.take(&write);
            held.extend(rows.keys().copied());
            assert_eq!(
                slots.sum(),
                sum_of(held.range(at(chosen_to)..).copied()),
                "{chosen_to}"
            );
        }
        assert_eq!(slots.voted_to, at(10));
        assert_eq!(
            OpenSlots::new(held.range(at(7)..).copied(), at(10)).sum(),
            slots.sum()
        );
    }
}
