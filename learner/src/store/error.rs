//! Errors of a learner's file, as far as callers must distinguish them.

use std::{
    io,
    path::{Path, PathBuf},
};

use paxos_common::{
    paxos::identity::ClusterId,
    service::failure::Failure,
    snapshot::SnapshotError,
    sqlite::{SqliteError, is_malformed},
};
use sqlx::error::DatabaseError;

use super::PlaceError;
use crate::{disk::found_no_space, record::TooOld};

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    #[error(
        "{path} belongs to cluster {stored}, and the acceptors form cluster {found}: give the right acceptors or another \
         data directory"
    )]
    OtherCluster {
        path: String,
        stored: String,
        found: ClusterId,
    },
    #[error(
        "{what} in {path} is damaged: empty the data directory, this learner then learns everything again"
    )]
    Damaged { what: &'static str, path: String },
    #[error("cannot use {}", path.display())]
    Unusable { path: PathBuf, source: SqliteError },
    #[error(
        "cannot set aside {}, which is damaged: empty the data directory, this learner then learns everything again",
        path.display()
    )]
    NotSetAside { path: PathBuf, source: io::Error },
    #[error(
        "cannot remove {}, which an older release wrote: empty the data directory, this learner then learns everything \
         again",
        path.display()
    )]
    NotRemoved { path: PathBuf, source: io::Error },
    #[error("cannot continue an interrupted installation: {0}")]
    NotRecovered(#[source] PlaceError),
    /// The snapshot file with the state.
    #[error(
        "the snapshot file {} of this learner is damaged ({reason}): empty the data directory, this learner then learns \
         everything again",
        path.display()
    )]
    DamagedSnapshot { path: PathBuf, reason: String },
    #[error("cannot use the snapshot file {} of this learner: {source}", path.display())]
    NewerSnapshot { path: PathBuf, source: SnapshotError },
    #[error(
        "cannot read the snapshot file {}: {source}. Repair the disk, or empty the data directory, this learner then learns \
         everything again",
        path.display()
    )]
    NotLoaded { path: PathBuf, source: io::Error },
    #[error("a newer release wrote the log of this learner: run that release or a newer one: {0}")]
    TooOld(TooOld),
    #[error("cannot upgrade the file of this learner: {0}")]
    NotUpgraded(#[from] PlaceError),
    /// The state in a file of an older release.
    #[error(
        "cannot upgrade {}: {source}. Or empty the data directory, this learner then learns everything again",
        path.display()
    )]
    TooLarge { path: PathBuf, source: SnapshotError },
}

impl StoreError {
    /// Whether the file is damaged, as far as a failed opening shows.
    pub(super) fn is_damage(&self) -> bool {
        /// SQLite's code for a statement that does not match the tables. All tables were present when the file was
        /// made.
        const GENERIC: &str = "1";
        match self {
            Self::Damaged { .. } | Self::DamagedSnapshot { .. } => true,
            Self::Sqlite(SqliteError::Sqlite(error)) => {
                let is_misfit = |error: &dyn DatabaseError| error.code().is_some_and(|code| code == GENERIC);
                is_malformed(error)
                    || error.as_database_error().is_some_and(is_misfit)
                    || matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
            }
            Self::Sqlite(_)
            | Self::OtherCluster { .. }
            | Self::Unusable { .. }
            | Self::NotSetAside { .. }
            | Self::NotRemoved { .. }
            | Self::NotRecovered(_)
            | Self::NewerSnapshot { .. }
            | Self::NotLoaded { .. }
            | Self::TooOld(_)
            | Self::NotUpgraded(_)
            | Self::TooLarge { .. } => false,
        }
    }

    /// Whether opening `file` failed because of a full disk.
    pub(super) fn is_no_space(&self, file: &Path) -> bool {
        match self {
            Self::Sqlite(SqliteError::Full(_)) | Self::NotUpgraded(PlaceError::NoSpace { .. }) => true,
            Self::Sqlite(SqliteError::Sqlite(error)) => found_no_space(error, file),
            Self::Sqlite(_)
            | Self::Damaged { .. }
            | Self::OtherCluster { .. }
            | Self::Unusable { .. }
            | Self::NotSetAside { .. }
            | Self::NotRemoved { .. }
            | Self::NotRecovered(_)
            | Self::DamagedSnapshot { .. }
            | Self::NewerSnapshot { .. }
            | Self::NotLoaded { .. }
            | Self::TooOld(_)
            | Self::NotUpgraded(_)
            | Self::TooLarge { .. } => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sqlite(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            StoreError::OtherCluster { .. }
            | StoreError::NewerSnapshot { .. }
            | StoreError::TooOld(_)
            | StoreError::TooLarge { .. } => Self::refused(error),
            StoreError::Damaged { .. }
            | StoreError::DamagedSnapshot { .. }
            | StoreError::NotLoaded { .. }
            | StoreError::NotUpgraded(_)
            | StoreError::NotSetAside { .. }
            | StoreError::NotRemoved { .. }
            | StoreError::NotRecovered(_) => Self::storage(error),
            StoreError::Unusable { path, source } => {
                Self::from(source).context(format!("cannot use {}", path.display()))
            }
        }
    }
}

/// A transaction is not written, or the write-ahead log is not emptied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreWriteError {
    /// Waiting helps.
    #[error("another process holds a lock on the file")]
    Locked,
    /// Waiting helps.
    #[error("no space is left on the disk")]
    NoSpace,
    /// The next start learns everything again.
    #[error(
        "the file is damaged: the next start sets it aside, and this learner then learns everything again"
    )]
    Damaged(#[source] sqlx::Error),
    #[error(transparent)]
    Failed(sqlx::Error),
    #[error(transparent)]
    Other(SqliteError),
}
