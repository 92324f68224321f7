//! The file `acceptor.db`, with the tables of `schema.sql`. A commit is one statement text and one fsync; a usual commit
//! is a single statement.
//!
//! - `commit.rs` has the statement. Each table has a file with its columns and checksums: `state.rs`, `votes.rs`,
//!   `membership.rs`, `witnesses.rs`, `snapshots.rs`.
//! - `recovery.rs` lists the cases at start, with the outcome of each.
//! - After each commit, and before the answers, the commit counter goes into a second file (`counter_file.rs`).
//! - Every record and row is read as possibly damaged. A column that does not decode makes a row unknown, and a damaged
//!   record ends the process.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{
        acceptor::{Membership, Write},
        identity::{AcceptorUuid, RunNumber},
        quorum::Configuration,
        slot::Slot,
    },
    sqlite::{
        ACCEPTOR_FILE, DataDir, LEARNER_FILE, Readers, foreign_lock::failed_before_the_transaction,
        migrate_by_steps, open_writer, wal_limit::WalLimit,
    },
};
use sqlx::{
    AssertSqlSafe, Connection as _, Either, Executor as _, SqliteConnection, sqlite::SqliteQueryResult,
};
use tracing::{debug, warn};

use super::{
    Reader as _, RecoveredRun, SpaceLevel, Store, StoreError, Swept,
    snapshots::{KeptSnapshot, KeptSnapshots},
    space::Space,
};

mod columns;
mod commit;
mod counter_file;
mod identity;
mod membership;
mod proof;
mod reader;
mod recovery;
pub mod repair;
mod snapshots;
mod state;
mod sweep;
mod upgrade;
mod votes;
mod wal;
mod witnesses;

use columns::Binding;
use commit::Shape;
pub use counter_file::CounterFile;
use identity::Identity;
pub use reader::SqliteReader;
use recovery::begin_run;
use state::OpenSlots;

const SCHEMA: &str = include_str!("../../schema.sql");
const SCHEMA_VERSION: i32 = 4;
/// “paxA”.
const APPLICATION_ID: i32 = 0x7061_7841;

/// Lengths of the write-ahead log, in pages, at which the log is copied back. All acceptors hold the same log: with
/// equal lengths all would copy at once, and the quorum would wait.
const CHECKPOINT_PAGES: [u32; 3] = [700, 1000, 1300];

/// The only connection that writes to an acceptor's file: the worker's.
#[derive(Debug)]
pub struct SqliteStore {
    connection: SqliteConnection,
    /// Every write so far has ended. Otherwise a transaction may be open, and a single statement would be a part of this
    /// transaction, and not durable.
    is_idle: bool,
    identity: Identity,
    reader: SqliteReader,
    open: OpenSlots,
    trimmed_to: Slot,
    snapshots: KeptSnapshots,
    counter: Arc<CounterFile>,
    /// Texts of the commits, by shape.
    texts: HashMap<Shape, Arc<str>>,
    space: Space,
    wal_limit: WalLimit,
    file: PathBuf,
    /// Kept to the end: holds the lock.
    _directory: DataDir,
}

impl SqliteStore {
    /// Opens the acceptor `name` in a directory, creates the acceptor in a blank directory, and begins a run. Returns
    /// once the run is durable.
    ///
    /// # Errors
    /// See the table in `recovery.rs`.
    pub async fn open(
        directory: DataDir,
        name: &str,
        run: RunNumber,
    ) -> Result<(Self, RecoveredRun), StoreError> {
        let file = directory.file(ACCEPTOR_FILE);
        let opened = Self::open_file(directory, &file, name, run).await;
        opened.map_err(|error| match error.of_file(&file) {
            StoreError::Sqlite(source) => StoreError::Unusable { file, source },
            error @ (StoreError::Damaged(_)
            | StoreError::File { .. }
            | StoreError::Malformed { .. }
            | StoreError::Unusable { .. }
            | StoreError::LockedByOther(_)
            | StoreError::Unfinished(_)
            | StoreError::LaterProtocol(_)
            | StoreError::OtherAcceptor { .. }) => error,
        })
    }

    async fn open_file(
        directory: DataDir,
        file: &Path,
        name: &str,
        run: RunNumber,
    ) -> Result<(Self, RecoveredRun), StoreError> {
        // First of all: this step may make the space for beginning a run. Up to the open counter file, the start creates
        // no file: the directory may be refused.
        let space = Space::watch(directory.path()).await;
        if !file.exists() {
            directory.refuse_file_of_other_role(LEARNER_FILE)?;
        }
        proof::refuse_foreign(&directory).await?;
        proof::examine(&directory, Some(name)).await?;
        let counter = CounterFile::open(&directory)?;
        let mut connection = open_writer(file, CHECKPOINT_PAGES[0]).await?;
        // Before all other writes: a commit behind a torn commit of an earlier process would look like damage if torn
        // as well.
        proof::empty_log(&mut connection, file).await?;
        let upgrades = upgrade::Upgrades;
        migrate_by_steps(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID, &upgrades).await?;
        // The database is ours.
        directory.tighten(ACCEPTOR_FILE, &[counter_file::FILE]);
        // Before the run begins: a failed start leaves no run.
        let readers = Readers::open(file, reader::READERS).await?;
        let held = Readers::open(file, 1).await?;
        let (uuid, opened, open) = begin_run(&mut connection, name, run).await?;
        counter.write(uuid, opened.recovered.commit_counter)?;
        counter.sync()?;
        commit::create_views(&mut connection).await?;
        let identity = Identity::new(uuid);
        let membership = &opened.recovered.membership;
        identity.learn(membership);
        set_checkpoint_pages(
            &mut connection,
            checkpoint_pages(uuid, membership.configuration()),
        )
        .await?;
        Ok((
            Self {
                connection,
                is_idle: true,
                wal_limit: WalLimit::new(file, readers.clone()),
                reader: SqliteReader::new(file, readers, held, identity.clone()),
                identity,
                open,
                trimmed_to: opened.recovered.trimmed_to,
                snapshots: opened.snapshots,
                counter,
                texts: HashMap::new(),
                space,
                file: file.to_owned(),
                _directory: directory,
            },
            opened,
        ))
    }

    /// Begins a write.
    ///
    /// # Errors
    /// An earlier write has not ended.
    fn begin_write(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.is_idle) {
            Ok(())
        } else {
            Err(StoreError::Unfinished(self.file.clone()))
        }
    }

    /// Ends a write with this result.
    fn end_write<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.is_idle = matches!(result, Ok(_) | Err(StoreError::LockedByOther(_)));
        result
    }

    /// The second place of the commit counter: sync it in the background for the lifetime of the store.
    pub fn counter_file(&self) -> Arc<CounterFile> {
        Arc::clone(&self.counter)
    }
}

impl Store for SqliteStore {
    type Reader = SqliteReader;

    async fn commit(&mut self, write: Write<'_>) -> Result<(), StoreError> {
        self.begin_write()?;
        let identity = &self.identity;
        if let Some(membership) = write.membership {
            identity.learn(membership);
        }
        let shape = Shape::of(&write, self.trimmed_to);
        let text = Arc::clone(self.texts.entry(shape).or_insert_with(|| shape.text().into()));
        let query = sqlx::query(AssertSqlSafe(text)).persistent(shape.stays_prepared());
        self.open.take(&write);
        let state = Identity::state_after(&write, &self.open);
        let snapshots = if shape.trim {
            self.snapshots.after_trim(write.trimmed_to)
        } else {
            self.snapshots
        };
        let query = shape.bind(query, identity, &write, &state, snapshots.bottom.as_ref())?;
        let done = if shape.is_single() {
            execute_single(&mut self.connection, query, &self.file).await
        } else {
            execute(&mut self.connection, query, &self.file).await.map(drop)
        };
        self.end_write(done)?;
        let identity = &self.identity;
        self.counter.write(identity.uuid, write.commit_counter)?;
        self.trimmed_to = write.trimmed_to;
        self.snapshots = snapshots;
        if let Some(configuration) = write.membership.and_then(Membership::configuration) {
            set_checkpoint_pages(
                &mut self.connection,
                checkpoint_pages(identity.uuid, Some(configuration)),
            )
            .await?;
        }
        Ok(())
    }

    async fn keep(&mut self, snapshot: KeptSnapshot) -> Result<(), StoreError> {
        self.begin_write()?;
        let query = sqlx::query(snapshots::KEEP);
        let query = self.identity.bind_waiting(query, &snapshot);
        let done = execute(&mut self.connection, query, &self.file).await;
        self.end_write(done)?;
        self.snapshots.waiting = Some(snapshot);
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), StoreError> {
        self.begin_write()?;
        let query = sqlx::query(snapshots::FORGET);
        let done = execute(&mut self.connection, query, &self.file).await;
        self.end_write(done)?;
        self.snapshots.waiting = None;
        Ok(())
    }

    fn snapshots(&self) -> KeptSnapshots {
        self.snapshots
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        self.begin_write()?;
        let swept = sweep::sweep(&mut self.connection, self.trimmed_to, &self.file).await;
        self.end_write(swept)
    }

    async fn space(&mut self) -> SpaceLevel {
        let reader = &self.reader;
        let file_free = async || match reader.file_bytes().await {
            Ok(bytes) => bytes.free,
            Err(error) => {
                debug!(%error, "cannot read the number of free pages");
                0
            }
        };
        self.space.level(file_free).await
    }

    async fn keep_wal_short(&mut self) -> Result<(), StoreError> {
        Ok(self.wal_limit.keep(&mut self.connection).await?)
    }

    fn file(&self) -> &Path {
        &self.file
    }

    fn reader(&self) -> SqliteReader {
        self.reader.clone()
    }

    async fn close(self) {
        if let Err(error) = self.counter.sync() {
            warn!(%error, "syncing the commit counter failed; all commits are safe");
        }
        // The writing connection is the last to close: closing copies the write-ahead log back and removes the log.
        self.reader.close().await;
        if let Err(error) = self.connection.close().await {
            warn!(%error, "closing the store failed; all commits are safe");
        }
    }
}

/// Executes a whole transaction, in one hop to SQLite's thread. On an error the transaction stays open, and nothing more
/// is ever written. Exception: a foreign process's lock kept the transaction from opening at all.
async fn execute(
    connection: &mut SqliteConnection,
    query: Binding<'_>,
    file: &Path,
) -> Result<SqliteQueryResult, StoreError> {
    match query.execute(&mut *connection).await {
        Ok(done) => Ok(done),
        Err(error) => Err(failed(connection, error, file).await),
    }
}

/// Executes a transaction of a single statement. SQLite reports the end of the statement after the commit. The wait for
/// the end of the results would only wake this process once more.
async fn execute_single(
    connection: &mut SqliteConnection,
    query: Binding<'_>,
    file: &Path,
) -> Result<(), StoreError> {
    let done = connection.fetch_many(query).try_next().await;
    match done {
        Ok(Some(Either::Left(_))) => Ok(()),
        // The statement has no rows. Without a result, SQLite's thread has ended.
        Ok(Some(Either::Right(_)) | None) => Err(sqlx::Error::WorkerCrashed.into()),
        Err(error) => Err(failed(connection, error, file).await),
    }
}

/// The error of a failed statement of the writing connection.
async fn failed(connection: &mut SqliteConnection, error: sqlx::Error, file: &Path) -> StoreError {
    if failed_before_the_transaction(connection, &error).await {
        StoreError::LockedByOther(file.to_owned())
    } else {
        error.into()
    }
}

/// Each member of a cluster gets a different length in turn; before the cluster is formed, the uuid decides.
fn checkpoint_pages(uuid: AcceptorUuid, configuration: Option<&Configuration>) -> u32 {
    let rank =
        configuration.and_then(|configuration| configuration.members().keys().position(|&key| key == uuid));
    CHECKPOINT_PAGES[rank.unwrap_or(usize::from(uuid.to_bytes()[15])) % CHECKPOINT_PAGES.len()]
}

async fn set_checkpoint_pages(connection: &mut SqliteConnection, pages: u32) -> Result<(), StoreError> {
    let sql = format!("PRAGMA wal_autocheckpoint = {pages}");
    sqlx::query(AssertSqlSafe(sql)).fetch_one(connection).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::FutureExt as _;
    use paxos_common::{
        paxos::{ballot::Ballot, identity::CommitCounter, witness::Witnesses},
        service::failure::{Exit, Failure},
    };

    use super::*;

    #[test]
    fn members_of_one_cluster_do_not_checkpoint_at_the_same_length() {
        let uuids = [10, 20, 30].map(AcceptorUuid::from_u128);
        let configuration = Configuration::new(uuids.map(|uuid| (uuid, "http://a:1".into())), 2, 2).unwrap();
        let mut pages = uuids.map(|uuid| checkpoint_pages(uuid, Some(&configuration)));
        pages.sort_unstable();
        assert_eq!(pages, CHECKPOINT_PAGES);
    }

    #[tokio::test]
    async fn nothing_is_written_after_a_write_that_was_given_up() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temporary.path()).unwrap();
        let opened = SqliteStore::open(directory, "a1", RunNumber::from_random(1)).await;
        let (mut store, recovered) = opened.unwrap();
        let (address, rows, witnesses) = (Arc::from(""), BTreeMap::new(), Witnesses::default());
        let mut counter = recovered.recovered.commit_counter;
        let mut write = || {
            counter = CommitCounter::new(counter.get() + 1);
            Write {
                commit_counter: counter,
                membership: None,
                promised: Ballot::ZERO,
                promise_is_new: false,
                leader_address: &address,
                known_to: Slot::ZERO,
                trimmed_to: Slot::ZERO,
                least_version: 1,
                rows: &rows,
                witnesses: &witnesses,
            }
        };
        store.commit(write()).await.unwrap();
        store.commit(write()).await.unwrap();
        assert!(store.commit(write()).now_or_never().is_none());
        for _ in 0..2 {
            let refused = store.commit(write()).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unfinished(_)), "{refused}");
            assert_eq!(Failure::from(refused).code, Exit::Storage);
        }
    }

    #[test]
    fn locked_directory_is_a_refusal_and_damage_is_a_storage_failure() {
        use paxos_common::sqlite::SqliteError;
        let code = |error: StoreError| Failure::from(error).code;
        let other = StoreError::OtherAcceptor {
            found: "a1".into(),
            asked: "a2".into(),
        };
        assert_eq!(code(other), Exit::Refused);
        assert_eq!(code(SqliteError::Locked(PathBuf::new()).into()), Exit::Refused);
        assert_eq!(code(StoreError::Damaged("state")), Exit::Storage);
    }
}
