//! The statement of a commit: a whole transaction as a single text, and the parameters.

use std::fmt::Write as _;

use paxos_common::paxos::{acceptor::Write, slot::Slot};

use super::{
    super::{PROMISES_KEPT, StoreError, snapshots::KeptSnapshot, wall_time_ms},
    columns::{Binding, bind_ballot},
    identity::Identity,
    snapshots,
    state::StateRecord,
    witnesses::forget_surplus_witnesses,
};

/// Maximum number of rows of an INSERT: six parameters a row stay below SQLite's limit of 32,766. Larger groups use
/// several INSERTs in the same transaction. A power of two, like all row counts, so that few texts stay prepared.
const INSERT_ROWS_MAX: usize = 1024;

/// The parts of a commit beside the state; each shape has a separate text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    promise: bool,
    witnesses: bool,
    membership: bool,
    pub(super) trim: bool,
    /// Row capacity of the text: 0, or whole INSERTs plus a power of two.
    rows: usize,
}

impl Shape {
    /// The shape of a commit after the last trim to `trimmed_to`.
    pub(super) fn of(write: &Write<'_>, trimmed_to: Slot) -> Self {
        Self {
            promise: write.promise_is_new,
            witnesses: !write.witnesses.is_empty(),
            membership: write.membership.is_some(),
            trim: write.trimmed_to > trimmed_to,
            rows: padded(write.rows.len()),
        }
    }

    /// Whether the text is short enough to stay prepared.
    pub(super) fn stays_prepared(self) -> bool {
        self.rows <= INSERT_ROWS_MAX
    }

    /// The text. Unbound parameters at the end stand for no rows.
    pub(super) fn text(self) -> String {
        let mut text = String::from(
            "BEGIN IMMEDIATE;
            UPDATE state SET commit_counter = ?, promised_round = ?, promised_proposer = ?, leader_address = ?,
                chosen_to = ?, trimmed_to = ?, voted_to = ?, open_slots = ?, checksum = ? WHERE only = 0;",
        );
        if self.promise {
            text.push_str(
                "INSERT INTO promise (round, proposer, address, wall_time_ms) VALUES (?, ?, ?, ?);
                DELETE FROM promise WHERE position <= (SELECT max(position) FROM promise) - ?;",
            );
        }
        if self.witnesses {
            text.push_str(
                "INSERT OR REPLACE INTO witness (acceptor, run, commit_counter, checksum)
                    SELECT unhex(value ->> 0), value ->> 1, value ->> 2, value ->> 3 FROM json_each(?);",
            );
            text.push_str(&forget_surplus_witnesses());
        }
        if self.membership {
            text.push_str(
                "INSERT OR REPLACE INTO membership (only, formed, configuration, checksum) VALUES (0, ?, ?, ?);",
            );
        }
        if self.trim {
            text.push_str(snapshots::TRIM);
        }
        let mut left = self.rows;
        while left > 0 {
            let rows = left.min(INSERT_ROWS_MAX);
            left -= rows;
            text.push_str(
                "INSERT OR REPLACE INTO vote (slot, round, proposer, value, traceparent, checksum) ",
            );
            let places = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
            write!(text, "SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL;")
                .expect("a String takes all");
        }
        text.push_str("COMMIT");
        text
    }

    /// Binds the parameters, in the order of [`Self::text`]. `bottom`: after the commit.
    ///
    /// # Errors
    /// As [`Identity::bind_vote`].
    pub(super) fn bind<'q>(
        self,
        mut query: Binding<'q>,
        identity: &Identity,
        write: &Write<'_>,
        state: &StateRecord,
        bottom: Option<&KeptSnapshot>,
    ) -> Result<Binding<'q>, StoreError> {
        query = identity.bind_state(query, state);
        if self.promise {
            query = bind_ballot(query, write.promised)
                .bind(write.leader_address.to_string())
                .bind(wall_time_ms().cast_signed())
                .bind(PROMISES_KEPT);
        }
        if self.witnesses {
            query = query.bind(identity.witnesses_json(write.witnesses));
        }
        if let Some(membership) = write.membership {
            query = identity.bind_membership(query, membership);
        }
        if self.trim {
            query = identity.bind_bottom(query, bottom.expect("a trim makes a snapshot the bottom"));
        }
        // Last, because unbound parameters are NULL: these rows are skipped.
        for (slot, (ballot, value)) in write.rows {
            query = identity.bind_vote(query, *slot, *ballot, value)?;
        }
        Ok(query)
    }
}

/// Row capacity of the text for this number of rows.
fn padded(rows: usize) -> usize {
    match rows % INSERT_ROWS_MAX {
        0 => rows,
        rest => rows - rest + rest.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_counts_are_padded_to_few_shapes_that_hold_them() {
        for rows in 0..5000 {
            let room = padded(rows);
            assert!(
                room >= rows
                    && (room.is_multiple_of(INSERT_ROWS_MAX) || (room % INSERT_ROWS_MAX).is_power_of_two())
            );
        }
        assert_eq!(
            (padded(0), padded(3), padded(1024), padded(1025)),
            (0, 4, 1024, 1025)
        );
    }
}
