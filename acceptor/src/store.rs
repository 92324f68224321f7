//! The disk of an acceptor's core: one atomic write, and short reads beside the write.
//!
//! Invariants:
//! - [`Store::commit`], [`Store::keep`] and [`Store::forget`] each reach the disk whole or not at all. Only `commit`
//!   changes answers. A sweep deletes rows that no page shows.
//! - A commit returns once the write survives power loss. A failed commit may still be on disk after a restart. So no
//!   request is answered any more, and the process ends.
//! - A row that differs from the written row, or cannot be read, is *unknown*, never absent.
//! - A page shows a single moment of the disk: rows, promise and watermarks belong together. Rows below `trimmed_to` of
//!   this moment may still be on disk, and no page shows them.
//! - The log stands on a snapshot: a commit raises `trimmed_to` only to the end of the waiting snapshot, and makes this
//!   snapshot the bottom.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use paxos_common::{
    paxos::{
        acceptor::{HeldRow, Recovered, Write},
        ballot::Ballot,
        identity::{CommitCounter, RunNumber},
        message::Row,
        slot::Slot,
        witness::Witnesses,
    },
    service::failure::Failure,
    sqlite::{SqliteError, is_malformed},
};

pub mod memory;
mod page;
pub mod snapshots;
mod space;
pub mod sqlite;

pub(crate) use page::{Moment, PageFill};
use snapshots::{KeptSnapshot, KeptSnapshots};
pub(crate) use space::{free_bytes, left_by_uploads};

/// Maximum number of rows of a page (inclusive): a page is a short read, so a page never holds back a checkpoint for
/// long.
pub const PAGE_ROWS_MAX: usize = 1024;

/// Maximum bytes of a page's values. A page ends before the row beyond the limit; a larger row has a page of its own.
/// Leaves enough space in the largest message for everything around the values.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Maximum number of rows deleted by a sweep: a sweep delays a group by a few milliseconds at most.
pub const SWEEP_ROWS_MAX: usize = 256;

/// Maximum bytes of the values deleted by a sweep, unless a single row has more.
pub const SWEEP_BYTES_MAX: u64 = 1024 * 1024;

/// Number of the latest promises kept for operators.
pub const PROMISES_KEPT: i64 = 1000;

/// Advice to the operator of a disk that lacks answered commits.
const ADVICE: &str = "This acceptor must not vote any more. Leave this acceptor stopped: the other acceptors continue \
    without it. If a file of the data directory was moved or replaced, restore all files of the directory to their \
    last state; delete no file";

/// The disk failed, or lacks required data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// An irreplaceable record fails its checksum, or is invalid.
    #[error("the {0} record on disk is damaged. {ADVICE}")]
    Damaged(&'static str),
    /// A file of the directory is damaged as a whole, or comes from a different time than the rest.
    #[error("{} {what}. {ADVICE}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// The problem; follows the file's name.
        what: String,
    },
    /// SQLite finds a malformed file.
    #[error("{} is damaged. {ADVICE}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// SQLite's error.
        source: SqliteError,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: SqliteError,
    },
    /// The directory was made for another acceptor.
    #[error("the data directory belongs to acceptor {found:?}, but this acceptor was started as {asked:?}")]
    OtherAcceptor {
        /// The name in the directory.
        found: String,
        /// The given name.
        asked: String,
    },
    /// The cluster uses a later protocol version than that of this release.
    #[error(
        "the cluster of this acceptor uses protocol version {0}: only releases of protocol version {0} or later can use the \
         data directory. Use such a release"
    )]
    LaterProtocol(u32),
    /// Another process holds a lock on this file. Nothing was written.
    #[error("another process holds a lock on {}", .0.display())]
    LockedByOther(PathBuf),
    /// An earlier write to this file failed, or was given up: a transaction may be open.
    #[error("an earlier write to {} has not ended: nothing more is written", .0.display())]
    Unfinished(PathBuf),
    /// The store cannot be opened, read or written.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(_)
            | StoreError::File { .. }
            | StoreError::Malformed { .. }
            | StoreError::LockedByOther(_)
            | StoreError::Unfinished(_) => Self::storage(error),
            StoreError::OtherAcceptor { .. } | StoreError::LaterProtocol(_) => Self::refused(error),
            StoreError::Unusable { file, source } => {
                Self::from(source).context(format!("cannot open {}", file.display()))
            }
            StoreError::Sqlite(error) => error.into(),
        }
    }
}

impl StoreError {
    /// Adds the file's name to an error about a malformed file.
    pub(crate) fn of_file(self, file: &Path) -> Self {
        if !self.is_damage() {
            return self;
        }
        match self {
            Self::Sqlite(source) => Self::Malformed {
                file: file.to_owned(),
                source,
            },
            Self::Damaged(what) => Self::File {
                file: file.to_owned(),
                what: format!("holds a damaged record ({what})"),
            },
            Self::File { .. }
            | Self::Malformed { .. }
            | Self::Unusable { .. }
            | Self::LockedByOther(_)
            | Self::Unfinished(_)
            | Self::LaterProtocol(_)
            | Self::OtherAcceptor { .. } => self,
        }
    }

    /// Whether the data on disk is damaged, rather than out of reach for now.
    pub(crate) fn is_damage(&self) -> bool {
        /// Beginning of SQLite's message about a missing table or column. All were present when the file was made.
        const MISFIT: &str = "no such ";
        match self {
            Self::Damaged(_) | Self::File { .. } | Self::Malformed { .. } => true,
            Self::Sqlite(SqliteError::Sqlite(error)) => {
                let database = error.as_database_error();
                is_malformed(error) || database.is_some_and(|error| error.message().starts_with(MISFIT))
            }
            Self::Unusable { .. }
            | Self::LockedByOther(_)
            | Self::Unfinished(_)
            | Self::LaterProtocol(_)
            | Self::OtherAcceptor { .. }
            | Self::Sqlite(_) => false,
        }
    }
}

/// The data found at start, in the run just begun.
#[derive(Clone, Debug)]
pub struct RecoveredRun {
    /// The core's initial state. The commit counter already includes the commit that began the run.
    pub recovered: Recovered,
    /// The runs before the present run, and the commit counter at the end of each; the oldest first. With the present
    /// run included, the last [`RUNS_MAX`](paxos_common::paxos::witness::RUNS_MAX) runs.
    pub past_runs: Vec<(RunNumber, CommitCounter)>,
    /// Stored witnesses of other acceptors.
    pub witnesses: Witnesses,
    /// The recorded snapshot files.
    pub snapshots: KeptSnapshots,
}

/// A moment of the disk, from a slot on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPage {
    /// The last commit shown by the page.
    pub commit_counter: CommitCounter,
    /// The highest promise.
    pub promised: Ballot,
    /// Address of the proposer of `promised`.
    pub leader_address: Arc<str>,
    /// Every slot below is chosen. Never reaches beyond an unknown row of this page.
    pub chosen_to: Slot,
    /// Every slot below is chosen, damaged rows included. A readable row below holds the chosen value.
    pub known_to: Slot,
    /// The first slot of the log: no row below is shown.
    pub trimmed_to: Slot,
    /// The slot after the highest row; at least `trimmed_to`.
    pub voted_to: Slot,
    /// Ascending by slot.
    pub rows: Vec<Row>,
    /// Exclusive end of the slots covered by the page.
    pub next: Slot,
    /// There is no row from `next` on.
    pub last: bool,
}

/// A past promise, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastPromise {
    /// The promised ballot.
    pub ballot: Ballot,
    /// Address of the ballot's proposer.
    pub address: String,
    /// By this machine's clock, in milliseconds since 1970-01-01 UTC.
    pub wall_time_ms: u64,
}

/// Sizes of the parts of a store's file, as of the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileBytes {
    /// Bytes of the used pages: the size of the log. The other records are small.
    pub used: u64,
    /// Bytes of the free pages: later writes use these pages before the file grows.
    pub free: u64,
}

/// What the free space on the disk allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceLevel {
    /// Every request.
    Enough,
    /// Trims and sweeps: both make room in the file. No other write.
    Low,
    /// No write.
    Exhausted,
}

impl SpaceLevel {
    /// Whether promises and votes are granted.
    pub(crate) fn allows_requests(self) -> bool {
        self == Self::Enough
    }

    /// Whether the log may be trimmed and swept.
    pub(crate) fn allows_trims(self) -> bool {
        self != Self::Exhausted
    }
}

/// Result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Number of deleted rows.
    pub rows: usize,
    /// The lowest row left below `trimmed_to`; none when no such row is left.
    pub next: Option<Slot>,
}

/// A disk, written by the worker alone.
pub trait Store: Send + 'static {
    /// Reads beside the worker's writes.
    type Reader: Reader;

    /// Writes all of `write` or nothing; returns once the write survives power loss. A write that raises `trimmed_to`
    /// makes the waiting snapshot the bottom.
    ///
    /// # Errors
    /// [`StoreError::LockedByOther`]: nothing was written, and the same write may be tried again. Any other error: the
    /// write failed, or its fate is unknown. Then answer no request and end the process.
    ///
    /// # Panics
    /// If `write` raises `trimmed_to` to another slot than the end of the waiting snapshot.
    ///
    /// # Cancel safety
    /// Not safe: a cancelled write may still reach the disk.
    fn commit(&mut self, write: Write<'_>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Records a snapshot file as waiting, in place of an earlier waiting snapshot; returns once the record survives
    /// power loss. The file is whole and durable already, and ends above `trimmed_to`. No commit of its own: the commit
    /// counter stays.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// Not safe: a cancelled write may still reach the disk.
    fn keep(&mut self, snapshot: KeptSnapshot) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes the record of the waiting snapshot. Returns once the deletion survives power loss. No commit of its own, as
    /// [`keep`](Self::keep).
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// Not safe: a cancelled write may still reach the disk.
    fn forget(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The recorded snapshot files.
    fn snapshots(&self) -> KeptSnapshots;

    /// Deletes the lowest rows below `trimmed_to`: at most [`SWEEP_ROWS_MAX`] rows and [`SWEEP_BYTES_MAX`] of values, and
    /// at least one row if there is any. No commit of its own: the commit counter stays, and after a crash the rows may
    /// be back.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    ///
    /// # Cancel safety
    /// Not safe: a cancelled write may still reach the disk.
    fn sweep(&mut self) -> impl Future<Output = Result<Swept, StoreError>> + Send;

    /// What the free space allows before the next write. Also maintains the reserve for a full disk, so call it at
    /// intervals even without writes.
    ///
    /// # Cancel safety
    /// Not safe: the reserve may exist or not.
    fn space(&mut self) -> impl Future<Output = SpaceLevel> + Send;

    /// Bounds the store's additional files, such as a write-ahead log. Call it after commits, and at intervals without
    /// commits.
    ///
    /// # Errors
    /// The disk failed: end the process.
    ///
    /// # Cancel safety
    /// Not safe.
    fn keep_wal_short(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The file, for messages.
    fn file(&self) -> &Path;

    /// A reader that sees every finished commit.
    fn reader(&self) -> Self::Reader;

    /// Closes the store in good order; without this call nothing is lost.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Reads beside the worker's writes, without delaying the writes. Cheap to clone.
pub trait Reader: Clone + Send + Sync + 'static {
    /// Reads a page from `from` on; the whole page shows a single moment. A covered slot without a row was not voted
    /// on. From `trimmed_to` to the watermark every slot has a row, so a missing row there is unknown too.
    ///
    /// # Errors
    /// The disk failed. A damaged row is no error: it is unknown.
    ///
    /// # Cancel safety
    /// Safe.
    fn page(&self, from: Slot) -> impl Future<Output = Result<DiskPage, StoreError>> + Send;

    /// The stored vote of each of `slots`; slots without a row are left out. Slots below `trimmed_to` may have a row or not.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    ///
    /// # Cancel safety
    /// Safe.
    fn held(
        &self,
        slots: &[Slot],
    ) -> impl Future<Output = Result<BTreeMap<Slot, HeldRow>, StoreError>> + Send;

    /// The latest promises, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    ///
    /// # Cancel safety
    /// Safe.
    fn promises(&self, limit: u32) -> impl Future<Output = Result<Vec<PastPromise>, StoreError>> + Send;

    /// Sizes of the used and the free part of the file.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    ///
    /// # Cancel safety
    /// Safe.
    fn file_bytes(&self) -> impl Future<Output = Result<FileBytes, StoreError>> + Send;

    /// Size of the write-ahead log in bytes; 0 without a log.
    fn wal_bytes(&self) -> impl Future<Output = u64> + Send;
}

/// The present time, for the promise log alone: milliseconds since 1970-01-01 UTC by this machine's clock.
#[allow(
    clippy::disallowed_methods,
    reason = "the promise log, for people, is the one place for a wall clock"
)]
pub(crate) fn wall_time_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
