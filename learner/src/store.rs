//! The learner's disk: the learned log in one SQLite file, and the state in a snapshot file beside it.
//!
//! - `learned` holds every slot from `state.log_from` on and below `state.applied_to`. The recorded snapshot file has the
//!   state machine after every slot below its end, and `learned` also holds every slot from there on. A start reads the
//!   snapshot file, applies the slots after it again, and compares the result with `state.state_digest`.
//! - A snapshot file is whole and durable before it is recorded. The record is durable before the earlier file is removed.
//! - `log_from` rises when the acceptors have trimmed their logs. Rows below `log_from` and below the end of the snapshot
//!   are deleted in later commits.
//! - Everything here is derived. A file without the last commits is an older learner: the learner continues from the
//!   older cursor and learns the rest again. So commits need not survive power loss, except for the record of a snapshot:
//!   see [`Store::open`].
//! - A file belongs to one cluster permanently.
//! - A failed write is final: the process ends, and the next start continues from the content of the file. A write that
//!   met a full disk or a locked file has written nothing, and is tried again.
//! - A damaged file is set aside, also after damage of its snapshot file, and everything is learned again. A file of schema
//!   version 4 or 5 is upgraded, an older file is removed.
//! - `state.configuration` is written with `applied_to`, and is never below a change of members below `applied_to`. The
//!   configuration of a file never goes back; a file that takes the place of another file begins with the later one.
//! - A learner that lacks trimmed slots installs a snapshot: a new file takes the place of the old file.

mod aside;
mod error;
mod import;
mod load;
mod log;
mod marks;
mod open;
mod peek;
mod place;
mod replay;
mod schema_4;
mod state;
mod stored;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
mod upgrade;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use paxos_common::{
    paxos::{identity::ClusterId, machine::Machine, quorum::Configuration, slot::Slot, value::Value},
    sqlite::{
        self, DataDir, LEARNER_FILE, SqliteError, checksum, foreign_lock::is_locked, wal_limit::WalLimit,
    },
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tokio::sync::watch;

use crate::{
    disk::found_no_space,
    progress::{Mark, Progress},
    record::Record,
    snapshot_file::{RecordedSnapshot, SnapshotFile},
};
use log::row_bytes;
use state::StoredState;
use stored::encode_judgements;

pub(crate) use error::{StoreError, StoreWriteError};
pub(crate) use import::StoreImport;
pub(crate) use log::{Log, LogReadError};
pub(crate) use open::StoreOpening;
pub(crate) use peek::stored_configuration;
pub(crate) use place::PlaceError;
pub(crate) use sweep::SweptRows;

const SCHEMA: &str = include_str!("../schema.sql");
const SCHEMA_VERSION: i32 = 6;
/// `pxLn`: distinguishes this file from an acceptor's.
const APPLICATION_ID: i32 = 0x7078_4c6e;
/// Length of the write-ahead log at a checkpoint, in pages: SQLite's usual 4 MiB. Only a learner's own readers wait for
/// a checkpoint.
const CHECKPOINT_PAGES: u32 = 1_000;
/// Number of connections for subscribers: reads are short, and two cores gain nothing from more.
const READERS: u32 = 4;
/// The end of a transaction, for the state record and the commit.
const UPDATE: &str = "UPDATE state SET applied_to = ?, digest = ?, state_digest = ?, checksum = ?; COMMIT";
/// The same with another configuration.
const UPDATE_CONFIGURATION: &str =
    "UPDATE state SET applied_to = ?, digest = ?, state_digest = ?, checksum = ?, configuration = ?; COMMIT";
/// Maximum number of rows in an INSERT: five parameters each, well below SQLite's limit of 32,766.
const INSERT_ROWS_MAX: usize = 1_024;

/// The content of a directory.
pub(crate) struct OpenedStore {
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) progress: Progress,
    /// The state after the slots of `progress`.
    pub(crate) machine: Machine,
    /// The recorded snapshot file, whole.
    pub(crate) snapshot: Option<Arc<SnapshotFile>>,
    /// Size of the log after the snapshot in bytes.
    pub(crate) log_bytes: u64,
    /// The latest configuration that this learner had worked with; `None`: that of the first era, in a file of an older
    /// release.
    pub(crate) configuration: Option<Arc<Configuration>>,
}

impl OpenedStore {
    /// Closes the file.
    pub(crate) async fn close(self) {
        self.log.close().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "cannot empty the write-ahead log of this learner");
        }
    }
}

/// The content of one transaction.
#[derive(Debug)]
pub(crate) struct Transaction {
    /// The records after the previously written records.
    pub(crate) records: Vec<Arc<Record>>,
    /// The marks reached by these records.
    pub(crate) marks: Vec<Mark>,
    /// The progress after these records.
    pub(crate) progress: Progress,
    /// The configuration of the learner, at least of the era of the latest change in these records.
    pub(crate) configuration: Arc<Configuration>,
}

impl Transaction {
    /// Size of the rows in bytes, about.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.records.iter().map(|record| row_bytes(&record.value)).sum()
    }
}

/// The only writer.
#[derive(Debug)]
pub(crate) struct Store {
    connection: SqliteConnection,
    wal_limit: WalLimit,
    path: PathBuf,
    /// The state record on disk.
    written: StoredState,
    /// The first slot of the learned log, for readers.
    log_from: watch::Sender<Slot>,
    /// Locked while the writer exists.
    _directory: Arc<DataDir>,
}

impl Store {
    /// Path of the file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes records of the log, and the digests after these records, in one transaction.
    ///
    /// # Errors
    /// After [`StoreWriteError::Locked`] and [`StoreWriteError::NoSpace`] no part of the transaction is written, and the caller
    /// may try again.
    ///
    /// # Cancel safety
    /// Not safe: a cancelled call may leave a transaction open.
    pub(crate) async fn write(&mut self, transaction: &Transaction) -> Result<(), StoreWriteError> {
        self.begin().await?;
        let committed = self.commit(transaction).await;
        self.written = self.ended(committed).await?;
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), StoreWriteError> {
        let begin = sqlx::query("BEGIN IMMEDIATE");
        match begin.execute(&mut self.connection).await {
            Ok(_) => Ok(()),
            Err(error) if is_locked(&error) => Err(StoreWriteError::Locked),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The result of a transaction. A failed transaction is undone.
    async fn ended<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<T, StoreWriteError> {
        match result {
            Ok(done) => Ok(done),
            Err(error) => {
                // Some failures have ended the transaction already.
                let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
                Err(self.failed(error))
            }
        }
    }

    fn failed(&self, error: sqlx::Error) -> StoreWriteError {
        if found_no_space(&error, &self.path) {
            return StoreWriteError::NoSpace;
        }
        if sqlite::is_malformed(&error) {
            aside::mark(&self.path);
            return StoreWriteError::Damaged(error);
        }
        StoreWriteError::Failed(error)
    }

    /// Returns the state record on disk.
    async fn commit(&mut self, transaction: &Transaction) -> Result<StoredState, sqlx::Error> {
        for records in chunks(&transaction.records) {
            self.insert(records).await?;
        }
        self.finish(transaction).await
    }

    async fn insert(&mut self, records: &[Arc<Record>]) -> Result<(), sqlx::Error> {
        let mut sql =
            "INSERT INTO learned (slot, value, traceparent, judgements, checksum) VALUES ".to_owned();
        push_tuples(&mut sql, records.len(), "(?, ?, ?, ?, ?)");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for record in records {
            let Record { slot, value, .. } = &**record;
            let judgements = encode_judgements(&record.judgements);
            let checksum = row_checksum(self.written.cluster, *slot, value, &judgements);
            query = query
                .bind(integer(*slot))
                .bind(&value.as_bytes()[..])
                .bind(&value.traceparent()[..])
                .bind(judgements)
                .bind(checksum);
        }
        query.execute(&mut self.connection).await.map(drop)
    }

    /// Writes the new watermark of the log, and commits.
    async fn finish(&mut self, transaction: &Transaction) -> Result<StoredState, sqlx::Error> {
        let mut sql = String::new();
        if !transaction.marks.is_empty() {
            sql.push_str(marks::INSERT);
            push_tuples(&mut sql, transaction.marks.len(), marks::VALUES);
            sql.push_str("; ");
        }
        let is_news = self.written.lacks(&transaction.configuration);
        sql.push_str(if is_news { UPDATE_CONFIGURATION } else { UPDATE });
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for mark in &transaction.marks {
            query = marks::bind(query, self.written.cluster, mark);
        }
        let Mark { to, digest, state } = transaction.progress.latest();
        let state = StoredState {
            applied_to: to,
            digest,
            state: state.expect("the digest after an applied slot is known"),
            configuration: Some(self.written.configuration_after(&transaction.configuration)),
            ..self.written.clone()
        };
        query = query
            .bind(integer(to))
            .bind(&digest.as_bytes()[..])
            .bind(state.state.to_bytes().to_vec())
            .bind(state.checksum());
        if is_news {
            query = query.bind(state.configuration_column());
        }
        query.execute(&mut self.connection).await?;
        Ok(state)
    }

    /// Every slot below is written.
    pub(crate) fn written_to(&self) -> Slot {
        self.written.applied_to
    }

    /// Records a whole and durable snapshot file in the place of the earlier file. Every slot below its end must be written.
    /// Returns once the record, and every earlier commit, is durable: then the earlier file is of no use.
    ///
    /// # Errors
    /// As [`Self::write`].
    ///
    /// # Cancel safety
    /// Not safe, as [`Self::write`].
    pub(crate) async fn record_snapshot(
        &mut self,
        snapshot: RecordedSnapshot,
    ) -> Result<(), StoreWriteError> {
        let state = StoredState {
            snapshot: Some(snapshot),
            ..self.written.clone()
        };
        let durably = set_synchronous(&mut self.connection, "FULL").await;
        durably.map_err(|error| self.failed(error))?;
        let recorded = self.record(state).await;
        // Also after a failure: no later commit waits for the disk.
        let usual = set_synchronous(&mut self.connection, "NORMAL").await;
        recorded?;
        usual.map_err(|error| self.failed(error))
    }

    async fn record(&mut self, state: StoredState) -> Result<(), StoreWriteError> {
        self.begin().await?;
        let recorded = state.record_snapshot(&mut self.connection).await;
        self.ended(recorded).await?;
        self.written = state;
        Ok(())
    }

    /// Size of the write-ahead log in bytes.
    pub(crate) fn wal_bytes(&self) -> u64 {
        self.wal_limit.bytes()
    }

    /// Whether [`Self::keep_wal_short`] must be called again without a commit.
    pub(crate) fn is_wal_long(&self) -> bool {
        self.wal_limit.is_long()
    }

    /// Empties the write-ahead log when too long. To be called after commits, and from time to time while
    /// [`Self::is_wal_long`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(crate) async fn keep_wal_short(&mut self) -> Result<(), StoreWriteError> {
        let kept = self.wal_limit.keep(&mut self.connection).await;
        kept.map_err(|error| self.not_emptied(error))
    }

    fn not_emptied(&self, error: SqliteError) -> StoreWriteError {
        match error {
            SqliteError::Full(_) => StoreWriteError::NoSpace,
            SqliteError::Sqlite(error) => self.failed(error),
            error @ (SqliteError::Locked(_)
            | SqliteError::OtherRole { .. }
            | SqliteError::Directory { .. }
            | SqliteError::Foreign { .. }
            | SqliteError::Newer { .. }
            | SqliteError::Older { .. }
            | SqliteError::Setting { .. }) => StoreWriteError::Other(error),
        }
    }

    /// Empties the write-ahead log and closes the file. Connections for reading stay open.
    pub(crate) async fn close(mut self) -> Result<(), StoreWriteError> {
        // SQLite would empty the log only when the last connection closes, and only a writing connection can do so.
        if let Err(error) = self.wal_limit.empty(&mut self.connection).await {
            return Err(self.not_emptied(error));
        }
        let closed = self.connection.close().await;
        closed.map_err(|error| StoreWriteError::Other(error.into()))
    }
}

/// Sets when commits wait for the disk: at every commit (`FULL`), or only at a checkpoint (`NORMAL`).
async fn set_synchronous(connection: &mut SqliteConnection, level: &'static str) -> Result<(), sqlx::Error> {
    let sql = format!("PRAGMA synchronous = {level}");
    sqlx::query(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(drop)
}

/// Cuts a list into pieces, each for one statement. The sizes are powers of two, so that few statement texts occur and
/// all stay prepared.
fn chunks<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = match rest.len().min(INSERT_ROWS_MAX) {
            0 => return None,
            size => 1 << size.ilog2(),
        };
        let (chunk, after) = rest.split_at(size);
        rest = after;
        Some(chunk)
    })
}

fn push_tuples(sql: &mut String, count: usize, tuple: &str) {
    for index in 0..count {
        sql.push_str(if index == 0 { "" } else { ", " });
        sql.push_str(tuple);
    }
}

fn integer(slot: Slot) -> i64 {
    slot.get().cast_signed()
}

fn slot(integer: i64) -> Option<Slot> {
    Slot::new(u64::try_from(integer).ok()?).ok()
}

fn row_checksum(cluster: ClusterId, slot: Slot, value: &Value, judgements: &[u8]) -> i64 {
    checksum(&[
        cluster.as_bytes(),
        &slot.get().to_be_bytes(),
        value.as_bytes(),
        value.traceparent(),
        judgements,
    ])
}

#[cfg(test)]
mod tests;
