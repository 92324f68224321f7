//! A new file takes the place of the file of this learner, at a single moment.
//!
//! 1. `learner-new.db` is filled. A file of this name is unfinished, and the next start removes the file.
//! 2. The whole and durable file is renamed to `learner-installed.db`. This is the moment of the change: from now on the old
//!    file is of no use. A snapshot file recorded in the new file is durable by then.
//! 3. The old file is removed, its write-ahead log first, and then the new file gets the name `learner.db`. SQLite would
//!    read a remaining log into the new file. After a crash in the middle, the next start continues here.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use paxos_common::{
    durable::sync_name,
    sqlite::{
        self, DataDir, SqliteError,
        wal_limit::{empty_wal, wal_bytes, wal_path},
    },
};
use sqlx::{Connection as _, SqliteConnection};

use super::{APPLICATION_ID, CHECKPOINT_PAGES, LEARNER_FILE, SCHEMA, SCHEMA_VERSION, aside};
use crate::{
    blocking::blocking,
    disk::found_no_space,
    snapshot_file::{FileError, UnrecordedFile},
};

/// An unfinished file.
pub(super) const NEW: &str = "learner-new.db";
/// A whole file on its way to the place of the old file.
pub(super) const INSTALLED: &str = "learner-installed.db";

/// Bytes left free on the disk: an acceptor on the same disk votes as long as there is this much space.
pub(super) const FREE_MIN: u64 = 32 * 1024 * 1024;

/// A new file, or its snapshot, is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Waiting helps.
    #[error(
        "too little space on the disk of {}: an installation leaves {} MiB free", path.display(), FREE_MIN >> 20
    )]
    NoSpace { path: PathBuf },
    #[error("write {}: {source}", path.display())]
    Sqlite { path: PathBuf, source: SqliteError },
    #[error("write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl PlaceError {
    /// The failure of the snapshot file of a store file.
    pub(super) fn of_snapshot(store: &Path, error: FileError) -> Self {
        match error {
            FileError::NoSpace(_) => no_space(store),
            FileError::Io { path, source } => Self::Io { path, source },
        }
    }
}

/// A new file with the tables, and no rows.
///
/// # Errors
/// See [`PlaceError`].
///
/// # Cancel safety
/// Safe: the next start removes the file.
pub(super) async fn create(directory: &DataDir) -> Result<SqliteConnection, PlaceError> {
    let path = directory.file(NEW);
    aside::remove(&path)
        .await
        .map_err(|error| written(&path, error))?;
    let creating = async {
        let mut connection = sqlite::open_writer(&path, CHECKPOINT_PAGES).await?;
        // The whole file is synced at the end; a file that is not whole is removed.
        sqlx::query("PRAGMA synchronous = OFF")
            .execute(&mut connection)
            .await?;
        sqlite::migrate(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID).await?;
        Ok(connection)
    };
    creating.await.map_err(|source| failed(&path, source))
}

/// Puts a whole new file in the place of the old file. No connection to the old file may be in use. Returns once the new
/// file is durable. `snapshot`: recorded in the new file.
///
/// # Errors
/// See [`PlaceError`].
///
/// # Cancel safety
/// Safe: the next start finds the old file or the new file, and both are whole.
pub(super) async fn publish(
    directory: &DataDir,
    mut connection: SqliteConnection,
    snapshot: UnrecordedFile,
) -> Result<(), PlaceError> {
    let path = directory.file(NEW);
    let ended = async {
        let is_empty = empty_wal(&mut connection).await?;
        connection.close().await?;
        Ok::<_, SqliteError>(is_empty)
    };
    let is_empty = ended.await.map_err(|source| failed(&path, source))?;
    let installed = directory.file(INSTALLED);
    let published = async {
        aside::wait_until_closed(&path).await?;
        if !is_empty || wal_bytes(&wal_path(&path)) > 0 {
            return Err(io::Error::other("another process reads this file"));
        }
        sync(&path).await?;
        aside::remove(&installed).await?;
        fs::rename(&path, &installed)?;
        snapshot.keep();
        sync_name(&path)
    };
    published.await.map_err(|error| written(&path, error))?;
    replace(directory).await
}

/// Removes an unfinished new file. If this fails, the next start removes the file.
pub(super) async fn discard(directory: &DataDir, connection: SqliteConnection) {
    let path = directory.file(NEW);
    // The connection is gone in any case.
    let _ = connection.close().await;
    if let Err(error) = aside::remove(&path).await {
        tracing::warn!(%error, file = %path.display(), "cannot remove an unfinished file");
    }
}

/// Continues after a crash: removes an unfinished file, and puts a whole file in the place of the old file.
///
/// # Errors
/// The directory cannot be written.
///
/// # Cancel safety
/// Safe: the next start continues.
pub(super) async fn recover(directory: &DataDir) -> Result<(), PlaceError> {
    let new = directory.file(NEW);
    aside::remove(&new).await.map_err(|error| written(&new, error))?;
    if is_on_its_way(directory) {
        tracing::info!("an earlier run of this learner was killed while it replaced its file: going on");
        replace(directory).await?;
    }
    Ok(())
}

/// Whether a whole file waits to take the place of the old file.
pub(super) fn is_on_its_way(directory: &DataDir) -> bool {
    directory.file(INSTALLED).exists()
}

/// Puts the whole file in the place of the old file.
async fn replace(directory: &DataDir) -> Result<(), PlaceError> {
    let (installed, path) = (directory.file(INSTALLED), directory.file(LEARNER_FILE));
    let replaced = async {
        // Durable before the rename: SQLite would read a remaining log into the new file.
        aside::remove(&path).await?;
        // Damage was in the old file.
        aside::unmark(&path)?;
        fs::rename(&installed, &path)?;
        sync_name(&path)
    };
    replaced.await.map_err(|error| written(&path, error))
}

async fn sync(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    blocking(move || File::open(path)?.sync_all()).await
}

fn no_space(path: &Path) -> PlaceError {
    let path = path.to_owned();
    PlaceError::NoSpace { path }
}

/// The failure of a statement on the new file.
pub(super) fn failed(path: &Path, source: SqliteError) -> PlaceError {
    let is_full = match &source {
        SqliteError::Full(_) => true,
        SqliteError::Sqlite(error) => found_no_space(error, path),
        SqliteError::Locked(_)
        | SqliteError::OtherRole { .. }
        | SqliteError::Directory { .. }
        | SqliteError::Foreign { .. }
        | SqliteError::Newer { .. }
        | SqliteError::Older { .. }
        | SqliteError::Setting { .. } => false,
    };
    if is_full {
        return no_space(path);
    }
    let path = path.to_owned();
    PlaceError::Sqlite { path, source }
}

fn written(path: &Path, source: io::Error) -> PlaceError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&source.kind()) {
        return no_space(path);
    }
    let path = path.to_owned();
    PlaceError::Io { path, source }
}
