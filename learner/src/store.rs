//! The learner's disk: the learned log, and how far it goes, in one SQLite file.
//!
//! - `learned` holds exactly the slots below `state.applied_to`; both change in one transaction.
//! - Everything here is derived. A file that has lost its last commits is an older learner, which goes on from its
//!   older cursor and learns the rest again. So commits need not survive power loss: see [`Store::open`].
//! - A file belongs to one cluster for ever.
//! - A failed write is final: the process ends, and goes on from what the file then holds.

use bytes::Bytes;
use paxos_common::{
    exit::Failure,
    paxos::{identity::ClusterId, slot::Slot, value::Value},
    sqlite::{self, DataDir, SqliteError, checksum},
};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use crate::apply::{LogDigest, MARKS_KEPT, Mark, State};

const FILE: &str = "learner.db";
const SCHEMA: &str = include_str!("../schema.sql");
const SCHEMA_VERSION: i32 = 1;
/// `pxLn`: tells this file from an acceptor's.
const APPLICATION_ID: i32 = 0x7078_4c6e;
/// SQLite's usual 4 MiB of write-ahead log. Nobody waits for a learner's checkpoint but its own readers.
const CHECKPOINT_PAGES: u32 = 1_000;
/// Connections for subscribers: reads are short, and two cores gain nothing from more.
const READERS: u32 = 4;
/// Most rows of one INSERT: four parameters each, well below SQLite's limit of 32,766.
const INSERT_ROWS_MAX: usize = 1_024;
/// Most slots of one page for a reader.
const PAGE_SLOTS_MAX: u64 = 1_024;
/// Most bytes of one page, unless a single slot has more: well below the largest message.
const PAGE_BYTES_MAX: u64 = 512 * 1024;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    #[error(
        "{path} belongs to cluster {stored}, and the acceptors form cluster {found}: give the right acceptors or another \
         data directory"
    )]
    OtherCluster {
        path: String,
        stored: String,
        found: ClusterId,
    },
    #[error(
        "the state record in {path} is damaged: empty the data directory, this learner then learns everything again"
    )]
    Damaged { path: String },
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            StoreError::OtherCluster { .. } => Self::refused(error),
            StoreError::Damaged { .. } => Self::storage(error),
        }
    }
}

/// A page of the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("slot {0} of this learner's log is damaged")]
    Damaged(Slot),
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
}

/// The one writer.
#[derive(Debug)]
pub(crate) struct Store {
    connection: SqliteConnection,
    cluster: ClusterId,
    /// Locked until the writer is gone.
    _directory: DataDir,
}

impl Store {
    /// Opens the directory's file, made when it is missing, and tells how far the log goes.
    pub(crate) async fn open(
        directory: DataDir,
        cluster: ClusterId,
    ) -> Result<(Self, Log, State), StoreError> {
        let path = directory.file(FILE);
        let mut connection = sqlite::open_writer(&path, CHECKPOINT_PAGES).await?;
        // Only a checkpoint waits for the disk: after power loss the file is whole, but may lack its last commits,
        // and what a learner lacks it learns again. Acceptors are the ones who may forget nothing.
        sqlx::query("PRAGMA synchronous = NORMAL")
            .execute(&mut connection)
            .await?;
        sqlite::migrate(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID).await?;
        let readers = sqlite::open_readers(&path, READERS).await?;
        let log = Log { readers, cluster };
        let state = load(&mut connection, cluster, &path.display().to_string()).await?;
        let store = Self {
            connection,
            cluster,
            _directory: directory,
        };
        Ok((store, log, state))
    }

    /// Writes learned slots, the state after them and the marks passed on the way, in one transaction.
    ///
    /// # Cancel safety
    /// Not safe: a cancelled call may leave a transaction open.
    pub(crate) async fn commit(
        &mut self,
        learned: &[(Slot, Value)],
        state: &State,
        marks: &[Mark],
    ) -> Result<(), sqlx::Error> {
        let mut rest = learned;
        let mut begin = true;
        loop {
            let (rows, after) = rest.split_at(insert_rows(rest.len()));
            rest = after;
            let last = rest.is_empty();
            let sql = statement(rows.len(), begin, last.then_some(marks.len()));
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for (slot, value) in rows {
                query = query
                    .bind(integer(*slot))
                    .bind(&value.as_bytes()[..])
                    .bind(&value.traceparent()[..])
                    .bind(row_checksum(self.cluster, *slot, value));
            }
            if last {
                for mark in marks {
                    query = query.bind(integer(mark.to)).bind(&mark.digest.as_bytes()[..]);
                }
                let Mark { to, digest } = state.latest();
                query = query
                    .bind(integer(to))
                    .bind(&digest.as_bytes()[..])
                    .bind(state_checksum(self.cluster, to, digest));
                return query.execute(&mut self.connection).await.map(drop);
            }
            query.execute(&mut self.connection).await?;
            begin = false;
        }
    }

    /// Closes the file; what is open for reading stays so.
    pub(crate) async fn close(self) -> Result<(), sqlx::Error> {
        self.connection.close().await
    }
}

/// Statement sizes are powers of two, so that few texts come up and stay prepared.
fn insert_rows(waiting: usize) -> usize {
    match waiting.min(INSERT_ROWS_MAX) {
        0 => 0,
        rows => 1 << rows.ilog2(),
    }
}

/// One text for as much of the transaction as possible: each text costs a hop to SQLite's thread.
fn statement(rows: usize, begin: bool, end_with_marks: Option<usize>) -> String {
    let mut sql = String::new();
    if begin {
        sql.push_str("BEGIN IMMEDIATE; ");
    }
    if rows > 0 {
        sql.push_str("INSERT INTO learned (slot, value, traceparent, checksum) VALUES ");
        push_tuples(&mut sql, rows, "(?, ?, ?, ?)");
    }
    if let Some(marks) = end_with_marks {
        if marks > 0 {
            sql.push_str("INSERT INTO digest (applied_to, digest) VALUES ");
            push_tuples(&mut sql, marks, "(?, ?)");
        }
        sql.push_str("UPDATE state SET applied_to = ?, digest = ?, checksum = ?; COMMIT");
    }
    sql
}

fn push_tuples(sql: &mut String, count: usize, tuple: &str) {
    for index in 0..count {
        sql.push_str(if index == 0 { "" } else { ", " });
        sql.push_str(tuple);
    }
    sql.push_str("; ");
}

async fn load(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<State, StoreError> {
    let damaged = || StoreError::Damaged {
        path: path.to_owned(),
    };
    let row = sqlx::query("SELECT cluster_id, applied_to, digest, checksum FROM state")
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else {
        // A new file, or one whose maker ended right after making it.
        let state = State::default();
        let Mark { to, digest } = state.latest();
        sqlx::query(
            "INSERT INTO state (one, cluster_id, applied_to, digest, checksum) VALUES (1, ?, ?, ?, ?)",
        )
        .bind(&cluster.as_bytes()[..])
        .bind(integer(to))
        .bind(&digest.as_bytes()[..])
        .bind(state_checksum(cluster, to, digest))
        .execute(connection)
        .await?;
        return Ok(state);
    };
    let stored = ClusterId::from_slice(row.try_get("cluster_id")?).ok_or_else(damaged)?;
    let to = slot(row.try_get("applied_to")?).ok_or_else(damaged)?;
    let digest = LogDigest::from_slice(row.try_get("digest")?).ok_or_else(damaged)?;
    if row.try_get::<i64, _>("checksum")? != state_checksum(stored, to, digest) {
        return Err(damaged());
    }
    if stored != cluster {
        return Err(StoreError::OtherCluster {
            path: path.to_owned(),
            stored: stored.to_string(),
            found: cluster,
        });
    }
    let marks = sqlx::query("SELECT applied_to, digest FROM digest ORDER BY applied_to DESC LIMIT ?")
        .bind(i64::try_from(MARKS_KEPT).expect("a handful"))
        .fetch_all(connection)
        .await?;
    let mark = |row: &SqliteRow| -> Result<Mark, StoreError> {
        Ok(Mark {
            to: slot(row.try_get(0)?).ok_or_else(damaged)?,
            digest: LogDigest::from_slice(row.try_get(1)?).ok_or_else(damaged)?,
        })
    };
    let marks = marks.iter().map(mark).collect::<Result<_, _>>()?;
    Ok(State::recovered(Mark { to, digest }, marks))
}

/// The learned log, for many short reads at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    readers: SqlitePool,
    cluster: ClusterId,
}

impl Log {
    /// The slots from `from` on and below `to`, as many as make a page, without gaps; at least one when `from` is
    /// below `to`. The caller knows that every slot below `to` is applied.
    pub(crate) async fn page(&self, from: Slot, to: Slot) -> Result<Vec<(Slot, Value)>, ReadError> {
        let to = to.min(from.plus(PAGE_SLOTS_MAX));
        if from >= to {
            return Ok(Vec::new());
        }
        // Sizes first, so that memory never holds more than the page. Rows never change once they are there, so
        // the two reads agree; both are short, which lets checkpoints pass.
        let sizes: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT slot, length(value) + length(traceparent) FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&self.readers)
        .await?;
        let to = from.plus(slots_that_fit(
            sizes.iter().map(|&(_, bytes)| bytes.unsigned_abs()),
        ));
        let rows = sqlx::query(
            "SELECT slot, value, traceparent, checksum FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&self.readers)
        .await?;
        let mut page = Vec::with_capacity(rows.len());
        for (expected, row) in from.to(to).zip(&rows) {
            page.push((expected, self.check(expected, row)?));
        }
        match from.to(to).nth(page.len()) {
            Some(missing) => Err(ReadError::Damaged(missing)),
            None => Ok(page),
        }
    }

    fn check(&self, expected: Slot, row: &SqliteRow) -> Result<Value, ReadError> {
        let bytes = |column| {
            row.try_get(column)
                .map(|bytes: &[u8]| Bytes::copy_from_slice(bytes))
        };
        let value = Value::from_stored(bytes(1)?, bytes(2)?);
        let sound = row.try_get::<i64, _>(0)? == integer(expected)
            && row.try_get::<i64, _>(3)? == row_checksum(self.cluster, expected, &value);
        if sound {
            Ok(value)
        } else {
            Err(ReadError::Damaged(expected))
        }
    }

    /// Closes the connections, once the reads under way are through.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

/// How many of the next slots fit a page, at least one.
fn slots_that_fit(sizes: impl Iterator<Item = u64>) -> u64 {
    let mut bytes = 0;
    let fits = |size: &u64| {
        bytes += size;
        bytes <= PAGE_BYTES_MAX
    };
    (sizes.take_while(fits).count() as u64).max(1)
}

fn integer(slot: Slot) -> i64 {
    slot.get().cast_signed()
}

fn slot(integer: i64) -> Option<Slot> {
    Slot::new(u64::try_from(integer).ok()?).ok()
}

fn row_checksum(cluster: ClusterId, slot: Slot, value: &Value) -> i64 {
    checksum(&[
        cluster.as_bytes(),
        &slot.get().to_be_bytes(),
        value.as_bytes(),
        value.traceparent(),
    ])
}

fn state_checksum(cluster: ClusterId, to: Slot, digest: LogDigest) -> i64 {
    checksum(&[cluster.as_bytes(), &to.get().to_be_bytes(), digest.as_bytes()])
}

#[cfg(test)]
mod tests;
