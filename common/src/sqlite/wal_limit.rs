//! The limit of a file's write-ahead log: the writer empties an oversized log, however many readers there are.
//!
//! SQLite copies the log back by itself (a checkpoint) and then overwrites the log from the beginning, but only in a
//! moment without readers, and the file never shrinks. So the writer checks the file's size after its commits and from
//! time to time. Above the limit, the writer first copies back everything that no reader needs, beside all reads. Then the
//! writer lets the running reads end, holds new reads back, copies the rest back, and empties the file. So reads wait for a
//! short copy only.
//!
//! A reader in another process cannot be held back. During such a read the log grows; the writer logs this, and empties
//! the file when the reader has gone.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::{Row as _, SqliteConnection};
use tokio::time::timeout;

use super::{Readers, SqliteError, foreign_lock::is_locked};

/// Size above which the log is emptied, in bytes: four times the usual length at which SQLite copies the log back, so
/// that emptying stays rare.
pub const WAL_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Size above which the log is emptied after [`LONG_MAX`], in bytes: somewhat more than the length at which SQLite
/// copies the log back. A log grows beyond this size while readers block the checkpoint, and does not shrink by itself.
const WAL_BYTES_USUAL: u64 = 5 * 1024 * 1024;
/// How long the log may stay above [`WAL_BYTES_USUAL`], also without writes.
const LONG_MAX: Duration = Duration::from_secs(20);

/// How long the running reads may take to end: each reads a page.
const READS_END_MAX: Duration = Duration::from_millis(500);
/// How long SQLite waits for readers of other processes. The writer is blocked during this time.
const FOREIGN_READS_END_MAX: Duration = Duration::from_millis(20);
/// Time between two attempts while a reader blocks the emptying.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps the write-ahead log of one file short. Belongs to the file's writer.
#[derive(Debug)]
pub struct WalLimit {
    file: PathBuf,
    wal: PathBuf,
    readers: Readers,
    /// Set while a reader blocks the attempts.
    next_attempt: Option<Instant>,
    /// Since when the log is longer than usual.
    long_since: Option<Instant>,
}

/// Result of an attempt to empty the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emptied {
    /// The file was truncated to zero.
    Whole,
    /// A read of this process did not end in time.
    OwnReader,
    /// Another process reads the file, or holds a lock on it.
    OtherProcess,
}

/// Path of the write-ahead log of `file`.
pub fn wal_path(file: &Path) -> PathBuf {
    let mut wal = file.as_os_str().to_owned();
    wal.push("-wal");
    wal.into()
}

/// Size of the write-ahead log at this path in bytes; 0 for a missing file.
pub fn wal_bytes(wal: &Path) -> u64 {
    // The kernel answers from memory.
    std::fs::metadata(wal).map_or(0, |metadata| metadata.len())
}

impl WalLimit {
    /// A limit for `file`; `readers` are the readers in this process.
    pub fn new(file: &Path, readers: Readers) -> Self {
        Self {
            file: file.to_owned(),
            wal: wal_path(file),
            readers,
            next_attempt: None,
            long_since: None,
        }
    }

    /// Size of the log in bytes; 0 for a missing file.
    pub fn bytes(&self) -> u64 {
        wal_bytes(&self.wal)
    }

    /// Whether the log was longer than usual at the last check: further checks are needed also without commits.
    pub fn is_long(&self) -> bool {
        self.long_since.is_some()
    }

    /// Empties the log if the log is longer than [`WAL_BYTES_MAX`], or has been longer than usual for 20 s. Call this
    /// after commits, and from time to time.
    ///
    /// # Errors
    /// The disk failed: write nothing more.
    ///
    /// # Cancel safety
    /// Not safe: the connection's settings may be changed.
    pub async fn keep(&mut self, writer: &mut SqliteConnection) -> Result<(), SqliteError> {
        self.keep_at(writer, Instant::now()).await
    }

    async fn keep_at(&mut self, writer: &mut SqliteConnection, now: Instant) -> Result<(), SqliteError> {
        let bytes = self.bytes();
        if bytes <= WAL_BYTES_USUAL {
            self.long_since = None;
            return Ok(());
        }
        let long_since = *self.long_since.get_or_insert(now);
        let is_too_long = bytes > WAL_BYTES_MAX || now.duration_since(long_since) >= LONG_MAX;
        let is_due = self.next_attempt.is_none_or(|at| at <= now);
        if !is_too_long || !is_due {
            return Ok(());
        }
        let reader = match self.empty(writer).await? {
            Emptied::Whole => {
                self.long_since = None;
                if self.next_attempt.take().is_some() {
                    tracing::info!(file = %self.file.display(), "the write-ahead log is short again");
                }
                return Ok(());
            }
            Emptied::OwnReader => "a read of this process, on a slow disk,",
            Emptied::OtherProcess => "a reader in another process",
        };
        if self.next_attempt.is_none() {
            tracing::warn!(
                file = %self.file.display(), wal_mib = bytes / 1024 / 1024,
                "{reader} keeps the write-ahead log of this file from being emptied: the log grows until that read ends"
            );
        }
        self.next_attempt = Some(now + RETRY_INTERVAL);
        Ok(())
    }

    /// Copies the whole log back and truncates the file to zero, unless a reader blocks this.
    ///
    /// # Errors
    /// The disk failed: write nothing more.
    ///
    /// # Cancel safety
    /// As [`Self::keep`].
    pub async fn empty(&mut self, writer: &mut SqliteConnection) -> Result<Emptied, SqliteError> {
        copy_back(writer).await?;
        let Ok(_all_turns) = timeout(READS_END_MAX, self.readers.turns().write()).await else {
            return Ok(Emptied::OwnReader);
        };
        set_busy_timeout(writer, FOREIGN_READS_END_MAX).await?;
        let emptied = empty_wal(writer).await;
        set_busy_timeout(writer, super::BUSY_TIMEOUT).await?;
        Ok(if emptied? {
            Emptied::Whole
        } else {
            Emptied::OtherProcess
        })
    }
}

/// Copies back the part of the log that no reader needs any more. Blocks no reader.
///
/// # Errors
/// The disk failed.
async fn copy_back(writer: &mut SqliteConnection) -> Result<(), SqliteError> {
    let copied = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(writer)
        .await;
    match copied {
        Ok(_) => Ok(()),
        // Another process copies, or holds a lock.
        Err(error) if is_locked(&error) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Copies the whole log back and truncates the file to zero. Returns whether no reader or writer blocked this.
///
/// # Errors
/// The disk failed.
pub async fn empty_wal(writer: &mut SqliteConnection) -> Result<bool, SqliteError> {
    match sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(writer)
        .await
    {
        Ok(row) => Ok(row.try_get::<i64, _>(0)? == 0),
        Err(error) if is_locked(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn set_busy_timeout(writer: &mut SqliteConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    let sql = format!("PRAGMA busy_timeout = {}", timeout.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .execute(writer)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    const SCHEMA: &str = "CREATE TABLE log (slot INTEGER PRIMARY KEY, value BLOB)";

    struct File {
        writer: SqliteConnection,
        limit: WalLimit,
        readers: Readers,
        path: PathBuf,
    }

    async fn file(directory: &tempfile::TempDir) -> File {
        let path = directory.path().join("test.db");
        let mut writer = open_writer(&path, 1_000).await.unwrap();
        migrate(&mut writer, SCHEMA, 1, 7).await.unwrap();
        let readers = Readers::open(&path, 4).await.unwrap();
        let limit = WalLimit::new(&path, readers.clone());
        File {
            writer,
            limit,
            readers,
            path,
        }
    }

    /// A transaction of `mib` mebibytes.
    async fn write(writer: &mut SqliteConnection, mib: i64) {
        sqlx::query("INSERT INTO log (value) VALUES (zeroblob(?))")
            .bind(mib * 1024 * 1024)
            .execute(writer)
            .await
            .unwrap();
    }

    async fn count(connection: &mut SqliteConnection) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM log")
            .fetch_one(connection)
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn log_is_emptied_above_the_limit_and_left_alone_below() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        write(&mut file.writer, 1).await;
        file.limit.keep(&mut file.writer).await.unwrap();
        assert!(file.limit.bytes() > 1024 * 1024);
        write(&mut file.writer, 17).await;
        assert!(file.limit.bytes() > WAL_BYTES_MAX);
        file.limit.keep(&mut file.writer).await.unwrap();
        assert_eq!(file.limit.bytes(), 0);
        assert_eq!(count(&mut file.readers.read().await.unwrap()).await, 2);
    }

    #[tokio::test]
    async fn log_that_stays_too_long_is_emptied_without_a_write() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        write(&mut file.writer, 6).await;
        let begun = Instant::now();
        for (after, is_emptied) in [(Duration::ZERO, false), (LONG_MAX / 2, false), (LONG_MAX, true)] {
            file.limit.keep_at(&mut file.writer, begun + after).await.unwrap();
            assert_eq!(file.limit.bytes() == 0, is_emptied, "{after:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn log_is_bounded_under_reads_that_overlap_without_a_pause() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reads: Vec<_> = (0..8)
            .map(|_| {
                let (readers, stop) = (file.readers.clone(), std::sync::Arc::clone(&stop));
                tokio::spawn(async move {
                    let mut reads = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let mut read = readers.read().await.unwrap();
                        // The search scans the values, so that the read lasts longer than a commit.
                        let sql = "SELECT count(*) FROM log WHERE slot <= 3 AND instr(value, x'01') = 0";
                        let _: i64 = sqlx::query_scalar(sql).fetch_one(&mut *read).await.unwrap();
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut longest = 0;
        for _ in 0..60 {
            write(&mut file.writer, 2).await;
            longest = longest.max(file.limit.bytes());
            file.limit.keep(&mut file.writer).await.unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for reads in reads {
            assert!(reads.await.unwrap() > 0, "a reader never read");
        }
        // One commit above the limit, with its frames.
        assert!(longest <= WAL_BYTES_MAX + 3 * 1024 * 1024, "{longest}");
    }

    #[tokio::test]
    async fn foreign_reader_stands_in_the_way_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        write(&mut file.writer, 1).await;
        let mut foreign = open_writer(&file.path, 1_000).await.unwrap();
        sqlx::query("BEGIN").execute(&mut foreign).await.unwrap();
        count(&mut foreign).await;
        write(&mut file.writer, 17).await;
        let emptied = file.limit.empty(&mut file.writer).await.unwrap();
        assert_eq!(emptied, Emptied::OtherProcess);
        write(&mut file.writer, 1).await;
        sqlx::query("COMMIT").execute(&mut foreign).await.unwrap();
        let emptied = file.limit.empty(&mut file.writer).await.unwrap();
        assert_eq!((emptied, file.limit.bytes()), (Emptied::Whole, 0));
    }

    #[tokio::test]
    async fn log_is_copied_back_before_reads_are_held_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        let no_copies = sqlx::query("PRAGMA wal_autocheckpoint = 0");
        no_copies.fetch_all(&mut file.writer).await.unwrap();
        write(&mut file.writer, 17).await;
        let path = file.path.clone();
        let copied = || fs::metadata(&path).unwrap().len();
        assert!(copied() < 1024 * 1024);
        // A read that holds its turn, and needs nothing of the log.
        let read = file.readers.read().await.unwrap();
        let emptied = file.limit.empty(&mut file.writer).await.unwrap();
        assert_eq!(emptied, Emptied::OwnReader);
        assert!(copied() > 17 * 1024 * 1024, "{}", copied());
        drop(read);
    }

    #[tokio::test]
    async fn own_reader_that_does_not_end_is_not_taken_for_another_process() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = file(&directory).await;
        write(&mut file.writer, 1).await;
        let read = file.readers.read().await.unwrap();
        let emptied = file.limit.empty(&mut file.writer).await.unwrap();
        assert_eq!(emptied, Emptied::OwnReader);
        drop(read);
        let emptied = file.limit.empty(&mut file.writer).await.unwrap();
        assert_eq!(emptied, Emptied::Whole);
    }
}
