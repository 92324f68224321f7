//! An arriving snapshot: written beside the votes at a bounded pace, and whole and durable before any record names it.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::Arc,
};

use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
    sync::OwnedSemaphorePermit,
};

use super::{FileHash, INCOMING, Pace, SnapshotFiles};
use crate::store::{FREE_MIN, free_bytes, snapshots::SnapshotId};

/// Bytes between two syncs: a sync of many dirty pages would hold up the syncs of votes.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// Why a file did not arrive. The votes go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The disk would have too little space left.
    #[error(
        "the disk has no space for {bytes} more bytes of a snapshot: at least {FREE_MIN} bytes must stay free"
    )]
    NoSpace {
        /// The bytes that did not arrive yet.
        bytes: u64,
    },
    /// The file ends early.
    #[error("the snapshot ends after {received} of {bytes} bytes")]
    Cut { received: u64, bytes: u64 },
    /// The file goes on after its end.
    #[error("more than the {bytes} bytes of the snapshot were sent")]
    TooLong { bytes: u64 },
    /// The bytes differ from the named bytes.
    #[error("the bytes of the snapshot do not match the SHA-256")]
    Hash,
    /// The file cannot be written.
    #[error("cannot write the file of a snapshot")]
    Io(#[from] io::Error),
}

impl UploadError {
    /// The error of a failed write.
    fn written(error: io::Error, bytes: u64) -> Self {
        let full = [
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::FileTooLarge,
        ];
        if full.contains(&error.kind()) {
            Self::NoSpace { bytes }
        } else {
            Self::Io(error)
        }
    }
}

/// The file of an arriving snapshot. To be ended with [`Self::finish`] or [`Self::abandon`].
#[derive(Debug)]
pub(crate) struct IncomingSnapshot {
    files: Arc<SnapshotFiles>,
    id: SnapshotId,
    file: File,
    hash: FileHash,
    pace: Pace,
    /// Written since the last sync.
    unsynced: u64,
    /// Freed when the snapshot is recorded, or the upload has failed.
    _place: OwnedSemaphorePermit,
}

impl IncomingSnapshot {
    /// Begins the file. An earlier unfinished file is replaced.
    ///
    /// # Errors
    /// The disk has no space for the file, or the file cannot be created.
    pub(crate) async fn begin(
        files: Arc<SnapshotFiles>,
        id: SnapshotId,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, UploadError> {
        check_space(&files, id.bytes)?;
        let created = File::create(files.directory.join(INCOMING)).await;
        let file = created.map_err(|error| UploadError::written(error, id.bytes))?;
        *files.lock_arriving() = Some((id, 0));
        Ok(Self {
            id,
            file,
            hash: FileHash::new(id),
            pace: Pace::new(),
            unsynced: 0,
            files,
            _place: place,
        })
    }

    /// Writes the next bytes, at most at the pace of uploads.
    ///
    /// # Errors
    /// The upload has failed, and is to be abandoned.
    pub(crate) async fn write(&mut self, part: &[u8]) -> Result<(), UploadError> {
        if !self.hash.take(part) {
            return Err(UploadError::TooLong { bytes: self.id.bytes });
        }
        let left = self.id.bytes - self.hash.bytes;
        let failed = |error| UploadError::written(error, left);
        self.file.write_all(part).await.map_err(failed)?;
        self.unsynced += part.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file.flush().await.map_err(failed)?;
            self.file.sync_data().await.map_err(failed)?;
            check_space(&self.files, left)?;
        }
        *self.files.lock_arriving() = Some((self.id, self.hash.bytes));
        self.pace.wait(part.len()).await;
        Ok(())
    }

    /// Ends the file: checked, durable, and under its own name on return. The place stays taken until the returned value
    /// is dropped.
    ///
    /// # Errors
    /// The file is not whole or cannot be written. Then it is removed.
    pub(crate) async fn finish(mut self) -> Result<ArrivedFile, UploadError> {
        match self.end().await {
            Ok(()) => {
                self.files.found(self.id, true);
                Ok(ArrivedFile(self))
            }
            Err(error) => {
                self.abandon().await;
                Err(error)
            }
        }
    }

    async fn end(&mut self) -> Result<(), UploadError> {
        let (received, bytes) = (self.hash.bytes, self.id.bytes);
        if received < bytes {
            return Err(UploadError::Cut { received, bytes });
        }
        let hash = std::mem::replace(&mut self.hash, FileHash::new(self.id));
        if !hash.ends_whole() {
            return Err(UploadError::Hash);
        }
        let failed = |error| UploadError::written(error, 0);
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        fs::rename(self.path(), self.files.path(self.id))
            .await
            .map_err(failed)?;
        let directory = File::open(&self.files.directory).await.map_err(failed)?;
        directory.sync_all().await.map_err(failed)
    }

    /// Removes the file. If this fails, the next upload or the next start removes the file.
    pub(crate) async fn abandon(self) {
        if let Err(error) = fs::remove_file(self.path()).await {
            tracing::debug!(%error, "cannot remove the file of a failed upload");
        }
    }

    fn path(&self) -> PathBuf {
        self.files.directory.join(INCOMING)
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        *self.files.lock_arriving() = None;
    }
}

/// A whole and durable file that no record names yet.
#[derive(Debug)]
pub(crate) struct ArrivedFile(IncomingSnapshot);

impl ArrivedFile {
    /// Removes the file: no record names the file.
    pub(crate) async fn refused(self) {
        self.0.files.remove(self.0.id).await;
    }
}

/// Checks that the disk keeps enough free space after this many more bytes. Without a figure, only a failed write shows a
/// full disk.
fn check_space(files: &SnapshotFiles, bytes: u64) -> Result<(), UploadError> {
    match free_bytes(&files.directory) {
        Some(free) if free < bytes.saturating_add(FREE_MIN) => Err(UploadError::NoSpace { bytes }),
        Some(_) | None => Ok(()),
    }
}
