//! A snapshot becomes the file of this learner: filled beside the old file, and put in the place of the old file once whole
//! and durable.
//!
//! 1. `learner-new.db` is filled. A file of this name is unfinished, and the next start removes the file.
//! 2. The whole and durable file is renamed to `learner-installed.db`. This is the moment of the installation: from now on
//!    the old file is of no use.
//! 3. The old file is removed, its write-ahead log first, and then the new file gets the name `learner.db`. SQLite would
//!    read a remaining log into the new file. After a crash in the middle, the next start continues here.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use paxos_common::{
    durable::sync_name,
    paxos::{
        identity::ClusterId,
        machine::{KeyedRegister, sessions::SessionState},
        slot::Version,
    },
    snapshot::{SnapshotSummary, decoder::SnapshotPart},
    sqlite::{
        self, DataDir, SqliteError,
        wal_limit::{empty_wal, wal_bytes, wal_path},
    },
};
use rustix::fs::statvfs;
use sqlx::{Connection as _, SqliteConnection};

use super::{APPLICATION_ID, CHECKPOINT_PAGES, SCHEMA, SCHEMA_VERSION, aside, registers, state};
use crate::{
    disk::found_no_space,
    progress::{LogDigest, Mark},
};

/// An unfinished file.
const NEW: &str = "learner-new.db";
/// A whole file on its way to the place of the old file.
const INSTALLED: &str = "learner-installed.db";

/// Keys and values that are written in a transaction, in bytes.
const TRANSACTION_BYTES: usize = 1024 * 1024;
/// Bytes left free on the disk: an acceptor on the same disk votes as long as there is this much space.
const FREE_MIN: u64 = 32 * 1024 * 1024;

/// The new file is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
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

/// A file in the making.
#[derive(Debug)]
pub(crate) struct StoreImport {
    connection: SqliteConnection,
    path: PathBuf,
    cluster: ClusterId,
    registers: Vec<(Bytes, Option<KeyedRegister>)>,
    sessions: Vec<(Version, Option<SessionState>)>,
    /// Size of `registers` and `sessions` in bytes.
    bytes: usize,
    /// Locked while the file is written.
    directory: Arc<DataDir>,
}

impl StoreImport {
    /// Begins a file for a snapshot of this size. An earlier unfinished file is removed.
    ///
    /// # Errors
    /// See [`ImportError`].
    ///
    /// # Cancel safety
    /// Safe: the next begin or the next start removes the file.
    pub(crate) async fn begin(
        directory: Arc<DataDir>,
        cluster: ClusterId,
        bytes: u64,
    ) -> Result<Self, ImportError> {
        let path = directory.file(NEW);
        aside::remove(&path)
            .await
            .map_err(|error| written(&path, error))?;
        // The file is a little larger than the snapshot.
        check_space(&path, bytes)?;
        let connection = create(&path).await.map_err(|source| failed(&path, source))?;
        Ok(Self {
            connection,
            path,
            cluster,
            registers: Vec::new(),
            sessions: Vec::new(),
            bytes: 0,
            directory,
        })
    }

    /// Adds the next part of the snapshot.
    ///
    /// # Errors
    /// See [`ImportError`].
    ///
    /// # Cancel safety
    /// As [`Self::begin`].
    pub(crate) async fn add(&mut self, part: SnapshotPart) -> Result<(), ImportError> {
        match part {
            SnapshotPart::Header(_) => {}
            SnapshotPart::Register(key, register) => {
                self.bytes += key.len() + register.value.len();
                let register = KeyedRegister::new(&key, &register.value, register.version);
                self.registers.push((key, Some(register)));
            }
            SnapshotPart::Session(name, session) => {
                self.bytes += size_of::<(Version, SessionState)>() * (1 + session.recorded.len());
                self.sessions.push((name, Some(session)));
            }
        }
        if self.bytes < TRANSACTION_BYTES {
            return Ok(());
        }
        self.write().await
    }

    async fn write(&mut self) -> Result<(), ImportError> {
        check_space(&self.path, 0)?;
        self.bytes = 0;
        let (registers, sessions) = (
            std::mem::take(&mut self.registers),
            std::mem::take(&mut self.sessions),
        );
        let mut write = async || -> Result<(), sqlx::Error> {
            let mut transaction = self.connection.begin().await?;
            registers::write(&mut transaction, self.cluster, &registers).await?;
            registers::write_sessions(&mut transaction, self.cluster, &sessions).await?;
            transaction.commit().await
        };
        let written = write().await;
        written.map_err(|error| failed(&self.path, error.into()))
    }

    /// Ends the file of a whole snapshot, and puts the file in the place of the old file. No connection to the old file may
    /// be in use. Returns once the new file is durable.
    ///
    /// # Errors
    /// See [`ImportError`].
    ///
    /// # Cancel safety
    /// Safe: the next start finds the old file or the new file, and both are whole.
    pub(crate) async fn finish(mut self, snapshot: &SnapshotSummary) -> Result<(), ImportError> {
        self.write().await?;
        let Self {
            mut connection,
            path,
            cluster,
            directory,
            ..
        } = self;
        let mark = Mark {
            to: snapshot.header.to,
            digest: LogDigest::from_snapshot(snapshot.header.log_digest),
            state: Some(snapshot.footer.digest),
        };
        let ended = async {
            state::begin_at(&mut connection, cluster, mark, snapshot.footer.digest).await?;
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
            sync_name(&path)
        };
        published.await.map_err(|error| written(&path, error))?;
        replace(&directory).await
    }

    /// Removes the file of a snapshot that is not whole. If this fails, the next start removes the file.
    pub(crate) async fn discard(self) {
        let Self { connection, path, .. } = self;
        // The connection is gone in any case.
        let _ = connection.close().await;
        if let Err(error) = aside::remove(&path).await {
            tracing::warn!(%error, file = %path.display(), "cannot remove the file of an unfinished installation");
        }
    }
}

/// Continues after a crash: removes an unfinished file, and puts a whole file in the place of the old file.
///
/// # Errors
/// The directory cannot be written.
///
/// # Cancel safety
/// Safe: the next start continues.
pub(super) async fn recover(directory: &DataDir) -> Result<(), ImportError> {
    let new = directory.file(NEW);
    aside::remove(&new).await.map_err(|error| written(&new, error))?;
    if directory.file(INSTALLED).exists() {
        tracing::info!("an earlier run of this learner was killed while it installed a snapshot: going on");
        replace(directory).await?;
    }
    Ok(())
}

/// Puts the whole file in the place of the old file.
async fn replace(directory: &DataDir) -> Result<(), ImportError> {
    let (installed, path) = (directory.file(INSTALLED), directory.file(super::FILE));
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

async fn create(path: &Path) -> Result<SqliteConnection, SqliteError> {
    let mut connection = sqlite::open_writer(path, CHECKPOINT_PAGES).await?;
    // The whole file is synced at the end; a file that is not whole is removed.
    sqlx::query("PRAGMA synchronous = OFF")
        .execute(&mut connection)
        .await?;
    sqlite::migrate(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID).await?;
    Ok(connection)
}

async fn sync(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    let synced = tokio::task::spawn_blocking(move || File::open(path)?.sync_all());
    synced.await.map_err(io::Error::other)?
}

/// Checks that the disk keeps enough free space after this many more bytes. Without a figure, only a failed write shows a
/// full disk.
fn check_space(path: &Path, bytes: u64) -> Result<(), ImportError> {
    let found = path.parent().and_then(|directory| statvfs(directory).ok());
    match found.map(|found| found.f_bavail.saturating_mul(found.f_frsize)) {
        Some(free) if free < bytes.saturating_add(FREE_MIN) => Err(no_space(path)),
        Some(_) | None => Ok(()),
    }
}

fn no_space(path: &Path) -> ImportError {
    let path = path.to_owned();
    ImportError::NoSpace { path }
}

fn failed(path: &Path, source: SqliteError) -> ImportError {
    let is_full = match &source {
        SqliteError::Full(_) => true,
        SqliteError::Sqlite(error) => found_no_space(error, path),
        SqliteError::Locked(_)
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
    ImportError::Sqlite { path, source }
}

fn written(path: &Path, source: io::Error) -> ImportError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&source.kind()) {
        return no_space(path);
    }
    let path = path.to_owned();
    ImportError::Io { path, source }
}

#[cfg(test)]
mod tests;
