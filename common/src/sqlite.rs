//! Opens SQLite files such that commits survive power loss and no other process writes to the files.
//!
//! - One process per directory: [`DataDir`] holds a lock until dropped.
//! - One writer per file, on a dedicated connection (a pool would close an idle connection): WAL, `synchronous=FULL`.
//!   Both settings are read back, because a failed pragma reports no error.
//! - SQLite 3.51.3 or later: earlier versions can corrupt a WAL that is reset during a read.
//! - A failed commit is final. SQLite accepts further commits after a failed commit, and may bring the failed commit
//!   back.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use xxhash_rust::xxh3::Xxh3;

use crate::durable::sync_directory;

mod foreign_file;
pub mod foreign_lock;
mod private;
mod readers;
mod schema;
pub mod wal_format;
pub mod wal_limit;

pub use foreign_file::refuse_foreign_file;
pub use readers::{ReadConnection, Readers};
pub use schema::{SchemaSteps, migrate, migrate_by_steps};

/// The oldest SQLite without the WAL-reset bug.
const SQLITE_VERSION_MIN: (u32, u32, u32) = (3, 51, 3);
/// How long a statement waits for the lock of a foreign process. Only other programs hold such locks: our own readers
/// never block the writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// The database of an acceptor: an acceptor's only copy of its snapshots lies beside this file.
pub const ACCEPTOR_FILE: &str = "acceptor.db";
/// The database of a learner.
pub const LEARNER_FILE: &str = "learner.db";
/// The file with the lock of a directory.
const LOCK: &str = "LOCK";
/// `PRAGMA synchronous` as SQLite reports FULL.
const SYNCHRONOUS_FULL: i64 = 2;
/// Limit of cached statements: the distinct statements of a role, with room for every padded row count.
const STATEMENT_CACHE: usize = 256;

/// Why a directory or file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// Another process uses the directory.
    #[error("{} is locked by another process", .0.display())]
    Locked(PathBuf),
    /// The directory holds the file of another role.
    #[error(
        "{} holds {file}, the file of another role: give this process a data directory of its own", path.display()
    )]
    OtherRole {
        /// The directory.
        path: PathBuf,
        /// The file of the other role.
        file: &'static str,
    },
    /// The directory cannot be created, read or written.
    #[error("cannot use the data directory {}", path.display())]
    Directory {
        /// The directory or the file in it.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another application wrote the file.
    #[error("the file belongs to another application (application_id {found:#x}, ours is {expected:#x})")]
    Foreign {
        /// The id in the file.
        found: i64,
        /// The id of our files.
        expected: i64,
    },
    /// The file's schema is newer than this release.
    #[error(
        "written by a newer release (schema version {found}; this release reads {supported}): use that release"
    )]
    Newer {
        /// The version in the file.
        found: i64,
        /// The version of this release.
        supported: i64,
    },
    /// The file's schema is older than this release can read.
    #[error(
        "written by an older release (schema version {found}); this release (version {supported}) cannot read the \
         file"
    )]
    Older {
        /// The version in the file.
        found: i64,
        /// The version of this release.
        supported: i64,
    },
    /// A setting that durability depends on did not take effect.
    #[error("{setting} is {found}, not {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// The value in effect.
        found: String,
        /// The required value.
        expected: String,
    },
    /// The disk has no room even for the writes of a start.
    #[error("no space is left on the disk: free some, then start this process again")]
    Full(#[source] sqlx::Error),
    /// Any other SQLite error.
    #[error(transparent)]
    Sqlite(sqlx::Error),
}

impl From<sqlx::Error> for SqliteError {
    fn from(error: sqlx::Error) -> Self {
        /// SQLite's code for a full disk; extended codes contain this code in the low byte.
        const FULL: u32 = 13;
        let database = error.as_database_error();
        let code = database.and_then(|error| error.code()?.parse::<u32>().ok());
        if code.is_some_and(|code| code & 0xff == FULL) {
            Self::Full(error)
        } else {
            Self::Sqlite(error)
        }
    }
}

/// Whether SQLite finds that a file is malformed, or is not an SQLite file.
pub fn is_malformed(error: &sqlx::Error) -> bool {
    /// SQLite's codes for these cases; extended codes contain the same code in the low byte.
    const MALFORMED: [u32; 2] = [11, 26];
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| MALFORMED.contains(&(code & 0xff)))
}

#[cfg(feature = "service")]
impl From<SqliteError> for crate::service::failure::Failure {
    fn from(error: SqliteError) -> Self {
        match error {
            SqliteError::Locked(_)
            | SqliteError::OtherRole { .. }
            | SqliteError::Foreign { .. }
            | SqliteError::Newer { .. }
            | SqliteError::Older { .. } => Self::refused(error),
            SqliteError::Directory { .. }
            | SqliteError::Setting { .. }
            | SqliteError::Full(_)
            | SqliteError::Sqlite(_) => Self::storage(error),
        }
    }
}

/// A directory reserved for this process during the lifetime of this value.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The kernel drops the lock with the last handle, however the process ends.
    _lock: File,
}

impl DataDir {
    /// Creates a missing directory and takes the lock. Returns once the directory itself is durable. A new directory, and
    /// all files created by this process from now on, are readable by this process's user alone.
    ///
    /// # Errors
    /// [`SqliteError::Locked`]; [`SqliteError::Directory`] when the directory cannot be written.
    pub fn open(path: &Path) -> Result<Self, SqliteError> {
        let refuse = |path: &Path| {
            let path = path.to_owned();
            move |source| SqliteError::Directory { path, source }
        };
        private::begin();
        private::create(path).map_err(refuse(path))?;
        let path = path.canonicalize().map_err(refuse(path))?;
        let lock_path = path.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(refuse(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SqliteError::Locked(path)),
            Err(TryLockError::Error(source)) => {
                return Err(SqliteError::Directory {
                    path: lock_path,
                    source,
                });
            }
        }
        // An earlier run's LOCK file opens even when the directory takes no new file.
        let probe = path.join("WRITABLE");
        File::create(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(refuse(&path))?;
        for directory in [Some(path.as_path()), path.parent()].into_iter().flatten() {
            sync_directory(directory).map_err(refuse(directory))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Removes the rights of other users from the directory, from the database of this name with SQLite's files beside the
    /// database, and from `others`. Call this once the database is known to be ours.
    pub fn tighten(&self, database: &str, others: &[&str]) {
        let names = ["", "-wal", "-shm", "-journal"].map(|end| format!("{database}{end}"));
        let others = others.iter().chain([&LOCK]).map(ToString::to_string);
        let names: Vec<_> = names.into_iter().chain(others).collect();
        private::tighten(&self.path, &names);
    }

    /// Refuses a directory with the file of another role: the roles remove each other's snapshot files, which lie beside
    /// these files.
    ///
    /// # Errors
    /// [`SqliteError::OtherRole`].
    pub fn refuse_file_of_other_role(&self, file: &'static str) -> Result<(), SqliteError> {
        if !self.file(file).exists() {
            return Ok(());
        }
        let path = self.path.clone();
        Err(SqliteError::OtherRole { path, file })
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Opens the only connection that writes to `file`, and creates a missing file. Waits while another process holds a
/// lock on the file, and logs the wait.
///
/// `checkpoint_pages` is the length of the write-ahead log, in pages of 4 KiB, at which SQLite copies the log back.
///
/// # Errors
/// The file cannot be opened, SQLite is too old, or a setting did not take effect.
pub async fn open_writer(file: &Path, checkpoint_pages: u32) -> Result<SqliteConnection, SqliteError> {
    let mut connection = options(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", checkpoint_pages.to_string())
        .connect()
        .await?;
    check_version(&mut connection).await?;
    foreign_lock::wait_until_free(&mut connection, file).await?;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await?;
    expect_setting("journal_mode", &mode, "wal")?;
    let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
        .fetch_one(&mut connection)
        .await?;
    expect_setting(
        "synchronous",
        &synchronous.to_string(),
        &SYNCHRONOUS_FULL.to_string(),
    )?;
    let pages: i64 = sqlx::query_scalar("PRAGMA wal_autocheckpoint")
        .fetch_one(&mut connection)
        .await?;
    expect_setting(
        "wal_autocheckpoint",
        &pages.to_string(),
        &checkpoint_pages.to_string(),
    )?;
    Ok(connection)
}

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY_TIMEOUT)
        .statement_cache_capacity(STATEMENT_CACHE)
        .disable_statement_logging()
}

async fn check_version(connection: &mut SqliteConnection) -> Result<(), SqliteError> {
    let found: String = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(connection)
        .await?;
    let mut parts = found.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    if (next(), next(), next()) >= SQLITE_VERSION_MIN {
        return Ok(());
    }
    let (major, minor, patch) = SQLITE_VERSION_MIN;
    let expected = format!("{major}.{minor}.{patch} or later");
    Err(SqliteError::Setting {
        setting: "SQLite's version",
        found,
        expected,
    })
}

fn expect_setting(setting: &'static str, found: &str, expected: &str) -> Result<(), SqliteError> {
    if found == expected {
        return Ok(());
    }
    Err(SqliteError::Setting {
        setting,
        found: found.to_owned(),
        expected: expected.to_owned(),
    })
}

/// XXH3-64 over the parts, each preceded by the length: different lists of parts never look alike. Detects damage, not
/// malice; part of the stored format.
pub fn checksum(parts: &[&[u8]]) -> i64 {
    let mut hasher = Xxh3::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str =
        "CREATE TABLE one (id INTEGER PRIMARY KEY); CREATE TABLE two (id INTEGER PRIMARY KEY)";

    #[test]
    fn second_lock_on_a_directory_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(SqliteError::Locked(_))));
        drop(first);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn directory_with_the_file_of_another_role_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let opened = DataDir::open(directory.path()).unwrap();
        opened.refuse_file_of_other_role("other.db").unwrap();
        fs::write(directory.path().join("other.db"), "").unwrap();
        let refused = opened.refuse_file_of_other_role("other.db").unwrap_err();
        assert!(
            refused.to_string().ends_with(
                "holds other.db, the file of another role: give this process a data directory of its own"
            ),
            "{refused}"
        );
    }

    #[test]
    fn directory_that_cannot_be_is_a_storage_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(
            DataDir::open(&file.join("below")),
            Err(SqliteError::Directory { .. })
        ));
    }

    #[tokio::test]
    async fn writer_is_durable_and_readers_see_its_commits_but_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        let mut writer = open_writer(&file, 700).await.unwrap();
        assert!(migrate(&mut writer, SCHEMA, 1, 7).await.unwrap());
        let readers = Readers::open(&file, 2).await.unwrap();
        sqlx::query("INSERT INTO one VALUES (1)")
            .execute(&mut writer)
            .await
            .unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM one")
            .fetch_one(&mut *readers.read().await.unwrap())
            .await
            .unwrap();
        assert_eq!(count, 1);
        assert!(
            sqlx::query("INSERT INTO one VALUES (2)")
                .execute(&mut *readers.read().await.unwrap())
                .await
                .is_err()
        );
    }

    #[test]
    fn setting_that_did_not_take_effect_is_an_error() {
        assert!(expect_setting("journal_mode", "delete", "wal").is_err());
        assert!(expect_setting("journal_mode", "wal", "wal").is_ok());
    }

    #[test]
    fn checksum_sees_every_byte_and_where_parts_end() {
        let sums = [
            checksum(&[b"ab", b"c"]),
            checksum(&[b"a", b"bc"]),
            checksum(&[b"abc"]),
            checksum(&[b"ab", b"d"]),
            checksum(&[b"ab", b"c", b""]),
        ];
        for (index, sum) in sums.iter().enumerate() {
            assert!(!sums[..index].contains(sum), "{sums:?}");
        }
        assert_eq!(sums[0], checksum(&[b"ab", b"c"]));
    }
}
