//! Readers of a SQLite file beside its writer: a few connections for short reads, and connections for long reads.
//!
//! SQLite starts its write-ahead log from the beginning only when no reader uses the log. Reads that overlap without a
//! pause would let the log grow without bound. So every short read takes a turn here, and
//! [`WalLimit`](super::wal_limit::WalLimit) holds new turns back while the log is emptied.
//!
//! A long read takes no turn, because the turn would hold all short reads back. While a long read runs, the log is not
//! emptied. When the log has grown too much, the long read must end.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use sqlx::{
    ConnectOptions as _, Connection as _, Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection,
    sqlite::SqlitePoolOptions,
};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use super::{SqliteError, options};

/// Read-only connections. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Readers {
    pool: SqlitePool,
    /// Each short read holds this lock shared. The lock is fair: later reads wait behind a waiting checkpoint.
    turns: Arc<RwLock<()>>,
    file: Arc<Path>,
    long: Arc<watch::Sender<LongReads>>,
}

/// The running long reads.
#[derive(Clone, Copy, Debug, Default)]
struct LongReads {
    count: usize,
    /// The write-ahead log is too long: the reads must end.
    must_end: bool,
}

/// A connection for a single short read. Dropping the value ends the turn.
#[derive(Debug)]
pub struct ReadConnection {
    connection: PoolConnection<Sqlite>,
    _turn: OwnedRwLockReadGuard<()>,
}

/// A connection for a read of up to some minutes. To be closed at the end of the read.
#[derive(Debug)]
pub struct LongRead {
    connection: SqliteConnection,
    running: RunningRead,
}

/// Counts a long read until dropped.
#[derive(Debug)]
struct RunningRead(Arc<watch::Sender<LongReads>>);

impl Drop for RunningRead {
    fn drop(&mut self) {
        self.0.send_modify(|long| {
            long.count -= 1;
            long.must_end &= long.count > 0;
        });
    }
}

impl Readers {
    /// Opens `count` connections to `file`. A writer must have opened the file before.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn open(file: &Path, count: u32) -> Result<Self, SqliteError> {
        let pool = SqlitePoolOptions::new()
            .max_connections(count)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options(file).read_only(true))
            .await?;
        Ok(Self {
            pool,
            turns: Arc::default(),
            file: file.into(),
            long: Arc::default(),
        })
    }

    /// Waits for a connection. Keep the read short, and end the read before beginning the next.
    ///
    /// # Errors
    /// The readers are closed, or a connection cannot be opened.
    ///
    /// # Cancel safety
    /// Safe: a caller that stops waiting holds nothing.
    pub async fn read(&self) -> Result<ReadConnection, sqlx::Error> {
        // The connection comes first: a read without a connection must not keep a checkpoint waiting.
        let connection = self.pool.acquire().await?;
        let turn = Arc::clone(&self.turns).read_owned().await;
        Ok(ReadConnection {
            connection,
            _turn: turn,
        })
    }

    /// Opens a connection for a long read.
    ///
    /// # Errors
    /// The file cannot be opened.
    ///
    /// # Cancel safety
    /// Safe: a caller that stops waiting holds nothing.
    pub async fn long_read(&self) -> Result<LongRead, SqliteError> {
        self.long.send_modify(|long| long.count += 1);
        let running = RunningRead(Arc::clone(&self.long));
        let connection = options(&self.file).read_only(true).connect().await?;
        Ok(LongRead { connection, running })
    }

    /// Closes the connections for short reads, once the running reads have ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn turns(&self) -> &RwLock<()> {
        &self.turns
    }

    /// Whether a long read runs.
    pub(super) fn has_long_read(&self) -> bool {
        self.long.borrow().count > 0
    }

    /// Ends the long reads. Returns whether this is news for any of the reads.
    pub(super) fn end_long_reads(&self) -> bool {
        self.long.send_if_modified(|long| {
            let is_news = long.count > 0 && !long.must_end;
            long.must_end |= is_news;
            is_news
        })
    }
}

impl LongRead {
    /// Begins the read: everything until [`close`](Self::close) sees the state at the first statement.
    ///
    /// # Errors
    /// As for a statement.
    pub async fn begin(&mut self) -> Result<(), SqliteError> {
        sqlx::query("BEGIN").execute(&mut self.connection).await?;
        Ok(())
    }

    /// Returns when the read must end, because the write-ahead log has grown too much meanwhile.
    pub fn must_end(&self) -> impl Future<Output = ()> + use<> {
        let mut long = self.running.0.subscribe();
        async move {
            if long.wait_for(|long| long.must_end).await.is_err() {
                // No reader is left.
            }
        }
    }

    /// Ends the read.
    pub async fn close(self) {
        // The connection is gone in any case.
        let _ = self.connection.close().await;
        drop(self.running);
    }
}

impl Deref for ReadConnection {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for ReadConnection {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl Deref for LongRead {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for LongRead {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}
