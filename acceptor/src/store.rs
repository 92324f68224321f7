//! What an acceptor's core needs of a disk: one atomic write, and short reads beside it.
//!
//! Invariants:
//! - [`Store::commit`] is the only write after opening; all of it is there after a crash, or nothing.
//! - It returns once the write survives power loss. If it fails, nobody may be answered and the process ends: the
//!   failed write may still be found after a restart, and a store that failed once is not trusted again.
//! - A row that cannot be read as it was written is *unknown*, never absent.
//! - A page is one moment of the disk: rows, promise and watermarks belong together.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
};

use paxos_common::{
    exit::Failure,
    paxos::{
        acceptor::{Held, Recovered, Write},
        ballot::Ballot,
        identity::{CommitCounter, RunNumber},
        message::Row,
        slot::Slot,
        witness::Witnesses,
    },
    sqlite::SqliteError,
};

pub mod memory;
mod page;
mod space;
pub mod sqlite;

pub(crate) use page::{Moment, PageFill};

/// Most rows of one page (inclusive): a page is a short read, so that it never holds back a checkpoint for long.
pub const PAGE_ROWS_MAX: usize = 1024;

/// A page ends before the row that would take its values above so many bytes; a larger row has a page of its own.
/// Far enough below the largest message for all that comes around the values.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// How many of the latest promises are kept for operators.
pub const PROMISES_KEPT: i64 = 1000;

/// What an operator does when the disk does not hold what this acceptor answered for.
const ADVICE: &str = "This acceptor must not vote any more. Leave it stopped: the other acceptors go on without it. \
    If a file of its data directory was moved or replaced, put all files of the directory back as they last were; \
    delete none of them";

/// The disk failed, or does not hold what it must.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record that nothing can make up for fails its checksum, or makes no sense.
    #[error("the {0} record on disk is damaged. {ADVICE}")]
    Damaged(&'static str),
    /// A file of the directory is damaged as a whole, or is not of the same moment as the others.
    #[error("{} {what}. {ADVICE}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it; follows the file's name.
        what: String,
    },
    /// SQLite finds that a file is malformed.
    #[error("{} is damaged. {ADVICE}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What SQLite says.
        source: SqliteError,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: SqliteError,
    },
    /// The directory was made for another acceptor.
    #[error("the data directory belongs to acceptor {found:?}, and this one was started as {asked:?}")]
    OtherAcceptor {
        /// Its name.
        found: String,
        /// The name given.
        asked: String,
    },
    /// Another process holds a lock on this file. Nothing was written.
    #[error("another process holds a lock on {}", .0.display())]
    LockedByOther(PathBuf),
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
            | StoreError::LockedByOther(_) => Self::storage(error),
            StoreError::OtherAcceptor { .. } => Self::refused(error),
            StoreError::Unusable { file, source } => {
                Self::from(source).context(format!("cannot open {}", file.display()))
            }
            StoreError::Sqlite(error) => error.into(),
        }
    }
}

impl StoreError {
    /// Names the file, where SQLite finds it malformed.
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
            | Self::OtherAcceptor { .. } => self,
        }
    }

    /// Whether what is on the disk is damaged, rather than out of reach for now.
    pub(crate) fn is_damage(&self) -> bool {
        /// SQLite's codes for a malformed file, and for a file that is none of its own. Extended ones end in these.
        const MALFORMED: [u32; 2] = [11, 26];
        match self {
            Self::Damaged(_) | Self::File { .. } | Self::Malformed { .. } => true,
            Self::Sqlite(SqliteError::Sqlite(sqlx::Error::Database(error))) => {
                let code = error.code().and_then(|code| code.parse::<u32>().ok());
                code.is_some_and(|code| MALFORMED.contains(&(code & 0xff)))
            }
            Self::Unusable { .. } | Self::LockedByOther(_) | Self::OtherAcceptor { .. } | Self::Sqlite(_) => {
                false
            }
        }
    }
}

/// What was found at start, in the run that has just begun.
#[derive(Clone, Debug)]
pub struct Opened {
    /// What the core takes up from. Its commit counter already counts the commit that began the run.
    pub recovered: Recovered,
    /// The runs before the present one, and the commit counter at which each ended; the oldest first. With the present
    /// one they are the last [`RUNS_MAX`](paxos_common::paxos::witness::RUNS_MAX).
    pub past_runs: Vec<(RunNumber, CommitCounter)>,
    /// What was heard of other acceptors.
    pub witnesses: Witnesses,
}

/// One moment of the disk, from a slot on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The last commit that it shows.
    pub commit_counter: CommitCounter,
    /// The highest promise.
    pub promised: Ballot,
    /// Where the proposer of `promised` is reached.
    pub leader_address: Arc<str>,
    /// Every slot below it is chosen; it never reaches beyond a row of this page that is unknown.
    pub chosen_to: Slot,
    /// Every slot below it is chosen, whatever became of the rows: a row below it that can be read holds the chosen value.
    pub known_to: Slot,
    /// Nothing below it is held.
    pub trimmed_to: Slot,
    /// One past the highest row; at least `trimmed_to`.
    pub voted_to: Slot,
    /// Ascending by slot.
    pub rows: Vec<Row>,
    /// Exclusive end of what the page covers.
    pub next: Slot,
    /// There is no row from `next` on.
    pub last: bool,
}

/// A promise as operators are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastPromise {
    /// What was promised.
    pub ballot: Ballot,
    /// To whom.
    pub address: String,
    /// By this machine's clock, in milliseconds since 1970-01-01 UTC.
    pub wall_time_ms: u64,
}

/// A disk with one writer.
pub trait Store: Send + 'static {
    /// What reads beside the writer.
    type Reader: Reader;

    /// Writes all of `write` or nothing; returns once it survives power loss.
    ///
    /// # Errors
    /// [`StoreError::LockedByOther`]: nothing was written, and the same write may be tried again. Any other error: the
    /// write failed, or its fate is not known. Then answer no request and end the process.
    ///
    /// # Cancel safety
    /// Not safe: what was cancelled may yet be written.
    fn commit(&mut self, write: Write<'_>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether there is space for one more commit. It also looks after what is spared for a full disk, so ask now and
    /// then even when nothing is to be written.
    ///
    /// # Cancel safety
    /// Not safe: what is spared may be there or not.
    fn has_space(&mut self) -> impl Future<Output = bool> + Send;

    /// Bounds what the store keeps beside its data, such as a write-ahead log. Call it after commits, and now and then
    /// when there are none.
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

    /// Ends the use of the store in good order; skipping it loses nothing.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Reads beside the writer, without holding it up. Cheap to clone.
pub trait Reader: Clone + Send + Sync + 'static {
    /// Reads a page that starts at `from`, all of it at one moment. A slot in it without a row was not voted on; below
    /// the watermark there is no such slot, so one whose row is gone is unknown too.
    ///
    /// # Errors
    /// The disk failed. A damaged row is no error: it is unknown.
    ///
    /// # Cancel safety
    /// Safe.
    fn page(&self, from: Slot) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// What is held for each of `slots`; one without a row is left out.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    ///
    /// # Cancel safety
    /// Safe.
    fn held(&self, slots: &[Slot]) -> impl Future<Output = Result<BTreeMap<Slot, Held>, StoreError>> + Send;

    /// The latest promises, newest first, at most `limit`.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    ///
    /// # Cancel safety
    /// Safe.
    fn promises(&self, limit: u32) -> impl Future<Output = Result<Vec<PastPromise>, StoreError>> + Send;

    /// Size of the write-ahead log in bytes; 0 where there is none.
    fn wal_bytes(&self) -> impl Future<Output = u64> + Send;
}

/// Now, for the promise log alone: milliseconds since 1970-01-01 UTC by this machine's clock.
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
