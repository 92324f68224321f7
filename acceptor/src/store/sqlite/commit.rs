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
    state::{STATE_COLUMNS, StateRecord},
    witnesses::forget_surplus_witnesses,
};

/// Maximum number of rows of an INSERT: six parameters a row stay below SQLite's limit of 32,766. Larger groups use
/// several INSERTs in the same transaction. A power of two, like all row counts, so that few texts stay prepared.
const INSERT_ROWS_MAX: usize = 1024;

/// Maximum number of votes written by a single statement. A power of two, and few enough for the columns of a view.
const SINGLE_ROWS_MAX: usize = 16;
/// Number of columns in a vote.
const VOTE_COLUMNS: usize = 6;

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
    let mut writes = String::from(
        "UPDATE state SET commit_counter = NEW.c1, promised_round = NEW.c2, promised_proposer = NEW.c3,
            leader_address = NEW.c4, chosen_to = NEW.c5, trimmed_to = NEW.c6, voted_to = NEW.c7, open_slots = NEW.c8,
            checksum = NEW.c9 WHERE only = 0;",
    );
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

const VOTE_INSERT: &str = "INSERT OR REPLACE INTO vote (slot, round, proposer, value, traceparent, checksum)";

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
            let places = vec!["(?, ?, ?, ?, ?, ?)"; rows].join(", ");
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
    use sqlx::Connection as _;

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

    /// Executes the statement of a usual commit with this commit counter, and a vote for each slot and round.
    async fn commit(
        connection: &mut SqliteConnection,
        counter: i64,
        votes: &[(i64, Option<i64>)],
    ) -> Result<(), sqlx::Error> {
        let text = usual(padded(votes.len())).text();
        let mut query = sqlx::query(AssertSqlSafe(text))
            .bind(counter)
            .bind(1)
            .bind(1)
            .bind("");
        for _ in 4..STATE_COLUMNS {
            query = query.bind(counter);
        }
        for (slot, round) in votes {
            query = query.bind(slot).bind(round).bind(1);
            query = query.bind(vec![7_u8; 3]).bind("").bind(slot);
        }
        query.execute(connection).await.map(drop)
    }

    /// The commit counter, and the slots and rounds of the votes.
    async fn content(connection: &mut SqliteConnection) -> (i64, Vec<(i64, i64)>) {
        let counter = sqlx::query_scalar("SELECT commit_counter FROM state").fetch_one(&mut *connection);
        let counter = counter.await.unwrap();
        let votes = sqlx::query_as("SELECT slot, round FROM vote ORDER BY slot").fetch_all(connection);
        (counter, votes.await.unwrap())
    }

    #[tokio::test]
    async fn usual_commit_is_a_single_statement_and_writes_all_or_nothing() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let state = "INSERT INTO state VALUES (0, 0, 1, 1, '', 0, 0, 0, 0, 0)";
        let schema = format!("{};{state}", super::super::SCHEMA);
        sqlx::raw_sql(AssertSqlSafe(schema))
            .execute(&mut connection)
            .await
            .unwrap();
        create_views(&mut connection).await.unwrap();
        let mut counter = 0;
        let mut written = Vec::new();
        for rows in 0..=SINGLE_ROWS_MAX {
            let shape = usual(padded(rows));
            assert!(shape.is_single() && !shape.text().contains(';'), "{rows} votes");
            counter += 1;
            // The first votes are written again, in a later round.
            let votes: Vec<_> = (0..i64::try_from(rows).unwrap())
                .map(|slot| (slot, Some(counter)))
                .collect();
            commit(&mut connection, counter, &votes).await.unwrap();
            written = votes
                .iter()
                .map(|&(slot, round)| (slot, round.unwrap()))
                .collect();
            assert_eq!(
                content(&mut connection).await,
                (counter, written.clone()),
                "{rows} votes"
            );
        }
        // The last vote is refused by the table.
        commit(&mut connection, 99, &[(50, Some(1)), (51, None)])
            .await
            .unwrap_err();
        assert_eq!(content(&mut connection).await, (counter, written));
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
