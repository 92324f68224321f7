//! The learner's disk: the learned log, the state after it, and the watermark of both, in one SQLite file.
//!
//! - `learned` holds every slot from `state.log_from` on and below `state.applied_to`. `register` and `session` hold the
//!   state machine after all slots below `state.applied_to`, and `state.state_digest` is the digest of this state. All
//!   tables change in one transaction.
//! - `log_from` rises when the acceptors have trimmed their logs. Rows below `log_from` are deleted in later commits.
//! - Everything here is derived. A file without the last commits is an older learner: the learner continues from the
//!   older cursor and learns the rest again. So commits need not survive power loss: see [`Store::open`].
//! - A file belongs to one cluster permanently.
//! - A failed write is final: the process ends, and the next start continues from the content of the file. A write that
//!   met a full disk or a locked file has written nothing, and is tried again.
//! - A damaged file is set aside, a file of an older release is removed, and everything is learned again.
//! - A learner that lacks trimmed slots installs a snapshot: a new file takes the place of the old file.

mod aside;
mod error;
mod export;
mod import;
mod log;
mod registers;
mod state;
mod stored;
mod sweep;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use paxos_common::{
    paxos::{
        identity::ClusterId,
        machine::{Changes, Machine},
        slot::Slot,
        value::Value,
    },
    service::failure::Failure,
    sqlite::{
        self, DataDir, Readers, SqliteError, checksum,
        foreign_lock::is_locked,
        wal_limit::{WalLimit, empty_wal},
    },
};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use tokio::{sync::watch, time::sleep};

use crate::{
    disk::{DiskSpace, RETRY_PAUSE, found_no_space},
    progress::{Mark, Progress},
    record::Record,
};
use state::{StoredState, check_cluster, load, with_fine_marks};
use stored::encode_judgements;

pub(crate) use error::{StoreError, StoreWriteError};
pub(crate) use export::ExportError;
pub(crate) use import::{ImportError, StoreImport};
pub(crate) use log::{Log, LogReadError};
pub(crate) use sweep::SweptRows;

/// Name of the file in the data directory.
pub(crate) const FILE: &str = "learner.db";
const SCHEMA: &str = include_str!("../schema.sql");
const SCHEMA_VERSION: i32 = 4;
/// `pxLn`: distinguishes this file from an acceptor's.
const APPLICATION_ID: i32 = 0x7078_4c6e;
/// Length of the write-ahead log at a checkpoint, in pages: SQLite's usual 4 MiB. Only a learner's own readers wait for
/// a checkpoint.
const CHECKPOINT_PAGES: u32 = 1_000;
/// Number of connections for subscribers: reads are short, and two cores gain nothing from more.
const READERS: u32 = 4;
/// Maximum number of rows in an INSERT: five parameters each, well below SQLite's limit of 32,766.
const INSERT_ROWS_MAX: usize = 1_024;

/// The content of a directory.
pub(crate) struct OpenedStore {
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) progress: Progress,
    /// The state after the slots of `progress`.
    pub(crate) machine: Machine,
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
    /// The changes of the state machine since the transaction before.
    pub(crate) changes: Changes,
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
    /// Opens the file of the directory, and reads its content. A missing file is made. A damaged file is set aside, a file
    /// of an older release is removed, and a new file is made. An interrupted installation is continued. Waits while the
    /// disk is full.
    ///
    /// # Cancel safety
    /// Safe: the file stays whole.
    pub(crate) async fn open(
        directory: Arc<DataDir>,
        cluster: ClusterId,
        disk: &DiskSpace,
    ) -> Result<OpenedStore, StoreError> {
        let path = directory.file(FILE);
        import::recover(&directory)
            .await
            .map_err(StoreError::NotRecovered)?;
        if let Err(source) = sqlite::refuse_foreign_file(&path, APPLICATION_ID).await {
            return Err(StoreError::Unusable { path, source });
        }
        if aside::is_marked(&path) {
            set_aside(&path, "an earlier run of this learner found the damage").await?;
        }
        let mut is_set_aside = false;
        loop {
            match Self::open_file(Arc::clone(&directory), path.clone(), cluster).await {
                Ok(FoundFile::Opened(opened)) => {
                    disk.has_space();
                    return Ok(*opened);
                }
                Ok(FoundFile::Older) => remove_older(&path).await?,
                Err(error) if error.is_no_space(&path) => {
                    disk.is_full(&path);
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) if error.is_damage() && !is_set_aside => {
                    set_aside(&path, &Failure::from(error).to_string()).await?;
                    is_set_aside = true;
                }
                Err(StoreError::Sqlite(source)) => return Err(StoreError::Unusable { path, source }),
                Err(error) => return Err(error),
            }
        }
    }

    async fn open_file(
        directory: Arc<DataDir>,
        path: PathBuf,
        cluster: ClusterId,
    ) -> Result<FoundFile, StoreError> {
        let mut connection = sqlite::open_writer(&path, CHECKPOINT_PAGES).await?;
        // Only a checkpoint waits for the disk. After power loss the file is whole, but may lack the last commits; a
        // learner learns missing slots again. Only acceptors must forget nothing.
        sqlx::query("PRAGMA synchronous = NORMAL")
            .execute(&mut connection)
            .await?;
        let named = path.display().to_string();
        match sqlite::migrate(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID).await {
            Err(SqliteError::Older { .. }) => {
                check_cluster(&mut connection, cluster, &named).await?;
                return Ok(FoundFile::Older);
            }
            other => other.map(drop)?,
        }
        // The database is ours.
        directory.tighten(FILE, &aside::FILES);
        if !empty_wal(&mut connection).await? {
            tracing::warn!(
                file = named,
                "another process reads this file: the write-ahead log was not emptied"
            );
        }
        let readers = Readers::open(&path, READERS).await?;
        let (progress, written) = load(&mut connection, cluster, &named).await?;
        let log_from = watch::Sender::new(written.log_from);
        let log = Log {
            readers: readers.clone(),
            cluster,
            file: path.as_path().into(),
            log_from: log_from.subscribe(),
        };
        let progress = with_fine_marks(progress, &log, &named).await?;
        let mut machine = Machine::restored(progress.applied_to());
        registers::load(&mut connection, cluster, &named, &mut machine).await?;
        registers::load_sessions(&mut connection, cluster, &named, &mut machine).await?;
        if progress.latest().state != Some(machine.digest()) {
            return Err(StoreError::Damaged {
                what: "the set of registers and sessions",
                path: named,
            });
        }
        Ok(FoundFile::Opened(Box::new(OpenedStore {
            store: Self {
                connection,
                wal_limit: WalLimit::new(&path, readers),
                path,
                written,
                log_from,
                _directory: directory,
            },
            log,
            machine,
            progress,
        })))
    }

    /// Path of the file, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes records of the log, and the state after these records, in one transaction.
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
        let cluster = self.written.cluster;
        registers::write(&mut self.connection, cluster, &transaction.changes.registers).await?;
        registers::write_sessions(&mut self.connection, cluster, &transaction.changes.sessions).await?;
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
            sql.push_str("INSERT INTO digest (applied_to, digest, state) VALUES ");
            push_tuples(&mut sql, transaction.marks.len(), "(?, ?, ?)");
            sql.push_str("; ");
        }
        sql.push_str("UPDATE state SET applied_to = ?, digest = ?, state_digest = ?, checksum = ?; COMMIT");
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for mark in &transaction.marks {
            query = query
                .bind(integer(mark.to))
                .bind(&mark.digest.as_bytes()[..])
                .bind(mark.state.map(|state| state.to_bytes().to_vec()));
        }
        let Mark { to, digest, .. } = transaction.progress.latest();
        let state = StoredState {
            applied_to: to,
            digest,
            state: transaction.changes.digest,
            ..self.written
        };
        query
            .bind(integer(to))
            .bind(&digest.as_bytes()[..])
            .bind(state.state.to_bytes().to_vec())
            .bind(state.checksum())
            .execute(&mut self.connection)
            .await?;
        Ok(state)
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

/// A usable file in the directory.
enum FoundFile {
    Opened(Box<OpenedStore>),
    /// Written by an older release: to be removed.
    Older,
}

/// Removes a file of an older release, and logs this.
async fn remove_older(path: &Path) -> Result<(), StoreError> {
    let removed = aside::remove(path).await;
    removed.map_err(|source| StoreError::NotRemoved {
        path: path.to_owned(),
        source,
    })?;
    tracing::warn!(
        file = %path.display(),
        "an older release wrote the file of this learner, and the file is removed: the learner learns everything again \
         from the acceptors"
    );
    Ok(())
}

/// Sets the damaged file aside, and logs what is lost.
async fn set_aside(path: &Path, reason: &str) -> Result<(), StoreError> {
    let moved = aside::set_aside(path).await;
    let aside = moved.map_err(|source| StoreError::NotSetAside {
        path: path.to_owned(),
        source,
    })?;
    tracing::warn!(
        file = %path.display(), set_aside = %aside.display(), reason,
        "the file of this learner is damaged and is set aside: the learner learns everything again from the acceptors. The \
         file was also a proof of how far the log was chosen: if the acceptors have lost commits that this learner had \
         applied, this learner does not notice"
    );
    Ok(())
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
