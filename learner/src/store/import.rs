//! A received snapshot becomes the state of this learner: the bytes become the snapshot file, and a new file that records
//! the snapshot takes the place of the old file. See [`place`].

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use paxos_common::{
    paxos::{identity::ClusterId, quorum::Configuration},
    snapshot::SnapshotSummary,
    sqlite::DataDir,
};

use super::{
    place::{self, PlaceError},
    state,
};
use crate::{
    blocking::blocking,
    progress::{LogDigest, Mark},
    snapshot_file::{FileError, NewSnapshotFile, RecordedSnapshot},
};

/// A snapshot that arrives.
#[derive(Debug)]
pub(crate) struct StoreImport {
    /// `None` after a failed or cancelled write: the file is of no use.
    file: Option<NewSnapshotFile>,
    cluster: ClusterId,
    /// Locked while files are written.
    directory: Arc<DataDir>,
}

impl StoreImport {
    /// Begins the file of a snapshot of this size.
    ///
    /// # Errors
    /// See [`PlaceError`].
    ///
    /// # Cancel safety
    /// Safe: the file is removed in the background.
    pub(crate) async fn begin(
        directory: Arc<DataDir>,
        cluster: ClusterId,
        bytes: u64,
    ) -> Result<Self, PlaceError> {
        let path = directory.path().to_owned();
        let begun = blocking(move || NewSnapshotFile::begin(&path, bytes, place::FREE_MIN)).await;
        let file = begun.map_err(|error| written(&directory, error))?;
        Ok(Self {
            file: Some(file),
            cluster,
            directory,
        })
    }

    /// Adds the next bytes of the snapshot.
    ///
    /// # Errors
    /// See [`PlaceError`].
    ///
    /// # Cancel safety
    /// As [`Self::begin`].
    pub(crate) async fn add(&mut self, bytes: Bytes) -> Result<(), PlaceError> {
        let mut file = self.open_file()?;
        let adding = blocking(move || file.write(&bytes).map(|()| file));
        let added = adding.await.map_err(|error| written(&self.directory, error));
        self.file = Some(added?);
        Ok(())
    }

    fn open_file(&mut self) -> Result<NewSnapshotFile, PlaceError> {
        self.file.take().ok_or_else(|| PlaceError::Io {
            path: self.directory.path().to_owned(),
            source: io::Error::other("an earlier write of the snapshot has failed"),
        })
    }

    /// Ends a whole snapshot, and makes the snapshot the state of this learner. The new file gets the later configuration, of
    /// `present` and of the snapshot. No connection to the old file may be in use. Returns once the new state is durable.
    ///
    /// # Errors
    /// See [`PlaceError`].
    ///
    /// # Cancel safety
    /// Safe: the next start finds the old state or the new state, and both are whole.
    pub(crate) async fn finish(
        mut self,
        snapshot: &SnapshotSummary,
        present: &Arc<Configuration>,
    ) -> Result<(), PlaceError> {
        let file = self.open_file()?;
        let Self {
            cluster, directory, ..
        } = self;
        let mark = Mark {
            to: snapshot.header.to,
            digest: LogDigest::from_snapshot(snapshot.header.log_digest),
            state: Some(snapshot.footer.digest),
        };
        let recorded = RecordedSnapshot::of(snapshot);
        let summary = snapshot.clone();
        // Durable before a file records the snapshot. The attempt before may have gone as far as a file that records the same
        // snapshot.
        let published = blocking(move || file.publish(summary)).await;
        let (_, unrecorded) = published.map_err(|error| written(&directory, error))?;
        let mut connection = place::create(&directory).await?;
        let of_snapshot = Arc::new(snapshot.header.configuration.clone());
        let configuration = state::later(present, &of_snapshot);
        let begun = state::begin_at(&mut connection, cluster, mark, recorded, configuration).await;
        begun.map_err(|error| place::failed(&new_path(&directory), error.into()))?;
        place::publish(&directory, connection, unrecorded).await
    }

    /// Removes the file of a snapshot that is not whole.
    pub(crate) async fn discard(self) {
        blocking(move || drop(self)).await;
    }
}

fn new_path(directory: &DataDir) -> PathBuf {
    directory.file(place::NEW)
}

fn written(directory: &DataDir, error: FileError) -> PlaceError {
    PlaceError::of_snapshot(&new_path(directory), error)
}

#[cfg(test)]
mod tests;
