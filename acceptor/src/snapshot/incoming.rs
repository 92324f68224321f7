//! An arriving snapshot: verified, written beside the votes at a bounded pace, and whole and durable before any record
//! names the file.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use paxos_common::{
    durable::sync_directory,
    paxos::{identity::ClusterId, slot::Slot},
    snapshot::{
        SnapshotError, SnapshotSummary,
        decoder::{SnapshotDecoder, SnapshotPart},
    },
    wire::snapshot::SnapshotHeader,
};
use tokio::{
    fs::{self, File},
    io::AsyncWriteExt as _,
    sync::OwnedSemaphorePermit,
    task::{spawn_blocking, yield_now},
};

use super::{INCOMING, Pace, SnapshotFiles};
use crate::store::{
    free_bytes,
    snapshots::{KeptSnapshots, SnapshotId},
};

/// Bytes between two syncs: a sync of many dirty pages would hold up the syncs of votes.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes decoded at once: the decoder takes about a millisecond.
const PIECE_BYTES: usize = 32 * 1024;

/// Why a file did not arrive. The votes go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    /// The disk would have too little space left.
    #[error(
        "the disk has no space for {bytes} more bytes of a snapshot: {left_free} bytes must stay free for votes"
    )]
    NoSpace {
        /// The bytes that did not arrive yet.
        bytes: u64,
        /// See [`IncomingSnapshot::begin`].
        left_free: u64,
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
    /// The bytes are no snapshot of this cluster.
    #[error(transparent)]
    Content(#[from] SnapshotError),
    /// The snapshot ends elsewhere.
    #[error("the snapshot ends at slot {found}, and `id.to` is {to}: both must be the same slot")]
    End { found: Slot, to: Slot },
    /// The acceptors listed in the snapshot form another cluster.
    #[error("the snapshot lists the acceptors of cluster {found}, and belongs to cluster {cluster}")]
    Configuration { found: ClusterId, cluster: ClusterId },
    /// The file cannot be written.
    #[error("cannot write the file of a snapshot")]
    Io(#[from] io::Error),
}

impl UploadError {
    /// The error of a failed write.
    fn written(error: io::Error, bytes: u64, left_free: u64) -> Self {
        let full = [
            ErrorKind::StorageFull,
            ErrorKind::QuotaExceeded,
            ErrorKind::FileTooLarge,
        ];
        if full.contains(&error.kind()) {
            Self::NoSpace { bytes, left_free }
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
    /// The data directory, for a sync after the rename.
    pub(super) directory: PathBuf,
    decoder: SnapshotDecoder,
    /// Number of received bytes.
    received: u64,
    pace: Pace,
    /// Written since the last sync.
    unsynced: u64,
    /// The snapshot is recorded. Otherwise the upload has failed.
    is_kept: bool,
    /// Freed when the snapshot is recorded, or the upload has failed.
    _place: OwnedSemaphorePermit,
}

impl IncomingSnapshot {
    /// Begins the file of a snapshot of `cluster`. An earlier unfinished file is replaced. `left_free`: the bytes of free space that the whole file
    /// leaves on the disk at least.
    ///
    /// # Errors
    /// The disk has no space for the file, or the file cannot be created.
    ///
    /// # Cancel safety
    /// Not safe: the file may be left until the next upload or start.
    pub(crate) async fn begin(
        files: Arc<SnapshotFiles>,
        (cluster, id): (ClusterId, SnapshotId),
        place: OwnedSemaphorePermit,
        left_free: u64,
    ) -> Result<Self, UploadError> {
        let begun = async {
            check_space(&files, id.bytes, left_free)?;
            let file = File::create(files.directory.join(INCOMING)).await;
            file.map_err(|error| UploadError::written(error, id.bytes, left_free))
        };
        let file = begun.await.inspect_err(|_| files.count_failure())?;
        *files.lock_arriving() = Some((id, 0));
        Ok(Self {
            id,
            file,
            directory: files.directory.clone(),
            decoder: SnapshotDecoder::new(Some(cluster)),
            received: 0,
            pace: Pace::new(),
            unsynced: 0,
            files,
            is_kept: false,
            _place: place,
        })
    }

    /// Verifies and writes the next bytes, at most at the pace of uploads. `left_free`: as for [`Self::begin`].
    ///
    /// # Errors
    /// The upload has failed, and is to be abandoned.
    pub(crate) async fn write(&mut self, part: &[u8], left_free: u64) -> Result<(), UploadError> {
        self.received += part.len() as u64;
        let left = self.id.bytes.checked_sub(self.received);
        let left = left.ok_or(UploadError::TooLong { bytes: self.id.bytes })?;
        for piece in part.chunks(PIECE_BYTES) {
            self.decoder.push(piece);
            while let Some(part) = self.decoder.next_part()? {
                if let SnapshotPart::Header(header) = part {
                    check_header(&header, self.id)?;
                }
            }
            // Votes go first.
            yield_now().await;
        }
        let failed = |error| UploadError::written(error, left, left_free);
        self.file.write_all(part).await.map_err(failed)?;
        self.unsynced += part.len() as u64;
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            self.file.flush().await.map_err(failed)?;
            self.file.sync_data().await.map_err(failed)?;
            check_space(&self.files, left, left_free)?;
        }
        *self.files.lock_arriving() = Some((self.id, self.received));
        self.pace.wait(part.len()).await;
        Ok(())
    }

    /// Ends the file: checked, durable, and under its own name on return. The place stays taken until the returned value
    /// is dropped. `recorded`: the present records.
    ///
    /// # Errors
    /// The file is not whole or cannot be written. Then the file is removed.
    pub(crate) async fn finish(mut self, recorded: &KeptSnapshots) -> Result<ArrivedFile, UploadError> {
        let named = match self.end().await {
            Ok(summary) => {
                let named = fs::rename(self.path(), self.files.path(self.id)).await;
                self.files.arrived.fetch_add(1, Ordering::Release);
                named.map(|()| summary).map_err(Into::into)
            }
            Err(error) => Err(error),
        };
        let summary = match named {
            Ok(summary) => summary,
            Err(error) => {
                self.abandon().await;
                return Err(error);
            }
        };
        let arrived = ArrivedFile {
            incoming: self,
            summary,
        };
        let IncomingSnapshot {
            files, id, directory, ..
        } = &arrived.incoming;
        let directory = directory.clone();
        let synced = spawn_blocking(move || sync_directory(&directory)).await;
        if let Err(error) = synced.unwrap_or_else(|error| Err(io::Error::other(error))) {
            arrived.refused(recorded).await;
            return Err(error.into());
        }
        files.found(*id, true);
        Ok(arrived)
    }

    async fn end(&mut self) -> Result<SnapshotSummary, UploadError> {
        let (received, bytes) = (self.received, self.id.bytes);
        if received < bytes {
            return Err(UploadError::Cut { received, bytes });
        }
        let decoder = std::mem::replace(&mut self.decoder, SnapshotDecoder::new(None));
        let summary = decoder.finish()?;
        if summary.sha256 != self.id.sha256 {
            return Err(UploadError::Hash);
        }
        let failed = |error| UploadError::written(error, 0, 0);
        self.file.flush().await.map_err(failed)?;
        self.file.sync_all().await.map_err(failed)?;
        Ok(summary)
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
        // First: see `SnapshotFiles::failures`.
        if !self.is_kept {
            self.files.count_failure();
        }
        *self.files.lock_arriving() = None;
    }
}

/// A whole and durable file that no record names yet.
#[derive(Debug)]
pub(crate) struct ArrivedFile {
    incoming: IncomingSnapshot,
    /// The verified content.
    pub(crate) summary: SnapshotSummary,
}

impl ArrivedFile {
    /// The file is recorded.
    pub(crate) fn kept(mut self) {
        self.incoming.is_kept = true;
    }

    /// Removes the file, unless one of the present records names the file: the same snapshot may have arrived before.
    pub(crate) async fn refused(self, recorded: &KeptSnapshots) {
        self.incoming.files.remove(self.incoming.id, recorded).await;
    }
}

/// Checks the parts of the header that the decoder does not know.
fn check_header(header: &SnapshotHeader, id: SnapshotId) -> Result<(), UploadError> {
    let (found, to) = (header.to, id.to);
    if found != to {
        return Err(UploadError::End { found, to });
    }
    // Addresses are hints, and not a part of the cluster id.
    let (found, cluster) = (header.configuration.cluster_id(), header.cluster);
    if found != cluster {
        return Err(UploadError::Configuration { found, cluster });
    }
    Ok(())
}

/// Checks that the disk keeps enough free space after this many more bytes. Without a figure, only a failed write shows a
/// full disk.
fn check_space(files: &SnapshotFiles, bytes: u64, left_free: u64) -> Result<(), UploadError> {
    match free_bytes(&files.directory) {
        Some(free) if free < bytes.saturating_add(left_free) => {
            Err(UploadError::NoSpace { bytes, left_free })
        }
        Some(_) | None => Ok(()),
    }
}
