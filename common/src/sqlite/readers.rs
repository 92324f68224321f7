//! Readers of a SQLite file beside its writer: a few connections for short reads.
//!
//! SQLite starts its write-ahead log from the beginning only when no reader uses the log. Reads that overlap without a
//! pause would let the log grow without bound. So every read takes a turn here, and
//! [`WalLimit`](super::wal_limit::WalLimit) holds new turns back while the log is emptied.

use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::Arc,
};

use sqlx::{Sqlite, SqliteConnection, SqlitePool, pool::PoolConnection, sqlite::SqlitePoolOptions};
use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use super::{SqliteError, options};

/// Read-only connections. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Readers {
    pool: SqlitePool,
    /// Each short read holds this lock shared. The lock is fair: later reads wait behind a waiting checkpoint.
    turns: Arc<RwLock<()>>,
}

/// A connection for a single short read. Dropping the value ends the turn.
#[derive(Debug)]
pub struct ReadConnection {
    connection: PoolConnection<Sqlite>,
    _turn: OwnedRwLockReadGuard<()>,
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

    /// Closes the connections for short reads, once the running reads have ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(super) fn turns(&self) -> &RwLock<()> {
        &self.turns
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
