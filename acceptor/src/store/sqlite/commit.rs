//! The statement of a commit: a whole transaction as a single text, and the parameters.
//!
//! A usual commit writes the state and a few votes. Such a commit is a single statement, because each statement of a text
//! wakes this process: an INSERT into a temporary view, with a trigger that writes the row into the tables. SQLite makes
//! a statement outside a transaction a transaction of its own. Every other commit is a text with BEGIN and COMMIT.

use std::fmt::Write as _;

use paxos_common::paxos::{acceptor::Write, slot::Slot};

use sqlx::{AssertSqlSafe, SqliteConnection};

use super::{
    super::{PROMISES_KEPT, StoreError, snapshots::KeptSnapshot, wall_time_ms},
    columns::{Binding, bind_ballot},
    identity::Identity,
    snapshots,
    state::{STATE_COLUMNS, StateRecord, update_state},
    witnesses::forget_surplus_witnesses,
};

/// Maximum number of rows of an INSERT: seven parameters a row stay below SQLite's limit of 32,766. Larger groups use
/// several INSERTs in the same transaction. A power of two, like all row counts, so that few texts stay prepared.
const INSERT_ROWS_MAX: usize = 1024;

/// Maximum number of votes written by a single statement. A power of two, and few enough for the columns of a view.
const SINGLE_ROWS_MAX: usize = 16;
/// Number of columns in a vote.
const VOTE_COLUMNS: usize = 7;

/// Makes the views of [`Shape::is_single`] for a connection. The views are part of the connection, and not of the file.
///
/// # Errors
/// The connection cannot be used.
pub(super) async fn create_views(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    // No file for the views.
    let mut text = String::from("PRAGMA temp_store = MEMORY;");
    let mut rows = 0;
    while rows <= SINGLE_ROWS_MAX {
        text.push_str(&view(rows));
        rows = padded(rows + 1);
    }
    sqlx::raw_sql(AssertSqlSafe(text)).execute(connection).await?;
    Ok(())
}

/// The view for this number of votes. The columns of the state come first. A vote without a slot is no vote.
fn view(rows: usize) -> String {
    let columns: Vec<_> = (1..=STATE_COLUMNS + rows * VOTE_COLUMNS)
        .map(|column| format!("c{column}"))
        .collect();
    let nulls = vec!["NULL"; columns.len()].join(", ");
    let mut writes = update_state(|number| format!("NEW.c{number}"));
    for vote in columns[STATE_COLUMNS..].chunks(VOTE_COLUMNS) {
        let vote: Vec<_> = vote.iter().map(|column| format!("NEW.{column}")).collect();
        let (slot, vote) = (&vote[0], vote.join(", "));
        write!(writes, "{VOTE_INSERT} SELECT {vote} WHERE {slot} IS NOT NULL;").expect("a String takes all");
    }
    let columns = columns.join(", ");
    format!(
        "CREATE TEMPORARY VIEW commit_{rows} ({columns}) AS SELECT {nulls};
        CREATE TEMPORARY TRIGGER write_{rows} INSTEAD OF INSERT ON commit_{rows} BEGIN {writes} END;"
    )
}

const VOTE_INSERT: &str =
    "INSERT OR REPLACE INTO vote (slot, era, round, proposer, value, traceparent, checksum)";

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

    /// Whether the text is a single statement.
    pub(super) fn is_single(self) -> bool {
        let has_more = self.promise || self.witnesses || self.membership || self.trim;
        !has_more && self.rows <= SINGLE_ROWS_MAX
    }

    /// The text. Unbound parameters at the end stand for no rows.
    pub(super) fn text(self) -> String {
        if self.is_single() {
            let places = vec!["?"; STATE_COLUMNS + self.rows * VOTE_COLUMNS].join(", ");
            return format!("INSERT INTO commit_{} VALUES ({places})", self.rows);
        }
        let mut text = format!("BEGIN IMMEDIATE;{}", update_state(|_| "?".to_owned()));
        if self.promise {
            text.push_str(
                "INSERT INTO promise (era, round, proposer, address, wall_time_ms) VALUES (?, ?, ?, ?, ?);
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
            let places = vec!["(?, ?, ?, ?, ?, ?, ?)"; rows].join(", ");
            write!(
                text,
                "{VOTE_INSERT} SELECT * FROM (VALUES {places}) WHERE column1 IS NOT NULL;"
            )
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
    use paxos_common::sqlite::open_writer;
    use sqlx::Row as _;

    use super::*;

    /// A commit of the state and this number of votes.
    fn usual(rows: usize) -> Shape {
        Shape {
            promise: false,
            witnesses: false,
            membership: false,
            trim: false,
            rows,
        }
    }

    /// The values of the columns of the state after the nth commit, and of the votes for slots from 0 on: all different.
    fn values(commit: i64, rows: i64) -> (Vec<i64>, Vec<[i64; 5]>) {
        let state = (1..11).map(|column| commit * 1_000 + column).collect();
        let vote = |slot| {
            [
                slot,
                commit * 100 + 20,
                commit * 100 + 21,
                slot * 100 + 22,
                slot * 100 + 26,
            ]
        };
        (state, (0..rows).map(vote).collect())
    }

    /// Executes the statement of a usual commit. The address of the leader has no number. A vote without a checksum is
    /// refused by the table.
    async fn commit(
        connection: &mut SqliteConnection,
        (state, votes): &(Vec<i64>, Vec<[i64; 5]>),
        is_refused: bool,
    ) -> Result<(), sqlx::Error> {
        let text = usual(padded(votes.len())).text();
        let mut query = sqlx::query(AssertSqlSafe(text));
        for (column, value) in state.iter().enumerate() {
            if column == 4 {
                query = query.bind("leader");
            }
            query = query.bind(value);
        }
        for [slot, era, round, proposer, checksum] in votes {
            let checksum = Some(checksum).filter(|_| !is_refused || *slot == 0);
            query = query.bind(slot).bind(era).bind(round).bind(proposer);
            query = query.bind(vec![7_u8; 3]).bind("trace").bind(checksum);
        }
        query.execute(connection).await.map(drop)
    }

    /// The numbers of the state and of the votes, as another connection reads the file.
    async fn content(connection: &mut SqliteConnection) -> (Vec<i64>, Vec<[i64; 5]>) {
        let state =
            "SELECT commit_counter, promised_era, promised_round, promised_proposer, chosen_to, trimmed_to,
            voted_to, open_slots, least_version, checksum FROM state WHERE leader_address = 'leader'";
        let state = sqlx::query(state).fetch_one(&mut *connection).await.unwrap();
        let votes = "SELECT slot, era, round, proposer, checksum FROM vote
            WHERE value = x'070707' AND traceparent = 'trace' ORDER BY slot";
        let votes = sqlx::query(votes).fetch_all(connection).await.unwrap();
        (
            (0..10).map(|column| state.get(column)).collect(),
            votes
                .iter()
                .map(|vote| [0, 1, 2, 3, 4].map(|column| vote.get(column)))
                .collect(),
        )
    }

    #[tokio::test]
    async fn single_statement_is_a_whole_durable_commit() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let mut connection = open_writer(&file, 1_000).await.unwrap();
        let state = "INSERT INTO state VALUES (0, 0, 0, 1, 1, 'leader', 0, 0, 0, 0, 1, 0)";
        let schema = format!("{};{state}", super::super::SCHEMA);
        sqlx::raw_sql(AssertSqlSafe(schema))
            .execute(&mut connection)
            .await
            .unwrap();
        create_views(&mut connection).await.unwrap();
        let mut other = open_writer(&file, 1_000).await.unwrap();
        let mut written = None;
        for rows in 0..=SINGLE_ROWS_MAX {
            let shape = usual(padded(rows));
            assert!(shape.is_single() && !shape.text().contains(';'), "{rows} votes");
            let rows = i64::try_from(rows).unwrap();
            // The first votes are written again.
            let values = values(rows + 1, rows);
            commit(&mut connection, &values, false).await.unwrap();
            assert_eq!(content(&mut other).await, values, "{rows} votes");
            written = Some(values);
        }
        commit(&mut connection, &values(99, 2), true).await.unwrap_err();
        assert_eq!(
            content(&mut other).await,
            written.unwrap(),
            "a refused commit wrote a part"
        );
    }

    #[test]
    fn commit_with_more_than_state_and_few_votes_is_a_text_with_begin_and_commit() {
        let change = |change: fn(&mut Shape)| {
            let mut shape = usual(1);
            change(&mut shape);
            shape
        };
        for shape in [
            change(|shape| shape.promise = true),
            change(|shape| shape.witnesses = true),
            change(|shape| shape.membership = true),
            change(|shape| shape.trim = true),
            usual(padded(SINGLE_ROWS_MAX + 1)),
        ] {
            let text = shape.text();
            assert!(
                text.starts_with("BEGIN IMMEDIATE;") && text.ends_with(";COMMIT"),
                "{text}"
            );
        }
    }

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
