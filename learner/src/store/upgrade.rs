//! Rewrites a file of schema version 4, in which the state machine was in tables.
//!
//! The state becomes a snapshot file, whole and durable. The learned log goes to a new file that records the snapshot, and
//! the new file takes the place of the old file at a single moment: see [`place`]. Until then the old file stays as it is, so
//! an upgrade that is cut off is begun again. The space of the tables goes back to the disk with the old file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{identity::ClusterId, quorum::Configuration},
    snapshot::{SnapshotError, encoder::SnapshotEncoder},
    sqlite::{self, DataDir, SqliteError, is_malformed},
    wire::snapshot::SnapshotHeader,
};
use sqlx::{Connection as _, SqliteConnection};

use super::{
    CHECKPOINT_PAGES, LEARNER_FILE, StoreError, integer, marks,
    place::{self, PlaceError},
    schema_4::{self, State4, StoredRegister},
    state::StoredState,
    sweep::{SWEEP_ROWS_MAX, batch},
};
use crate::{
    blocking::blocking,
    snapshot_file::{
        self, FileError, NewSnapshotFile, RecordedSnapshot, SnapshotFile, UnrecordedFile, check_space,
    },
    start_work::{StartStep, StartWork},
};

/// Encoded bytes that are written at a time.
const WRITE_BYTES: usize = 256 * 1024;
/// Room for a commit of copied rows, in the new file and in the write-ahead log.
const COPY_BYTES: u64 = 16 * 1024 * 1024;
/// SQLite's codes of statements that do not match the tables, and of rows against a rule of the tables.
const MISFITS: [u32; 2] = [1, 19];

/// Everything needed to upgrade a file.
pub(super) struct Upgrade<'a> {
    pub(super) directory: &'a Arc<DataDir>,
    pub(super) cluster: ClusterId,
    /// For the header of the snapshot, and for the new file.
    pub(super) configuration: &'a Arc<Configuration>,
    pub(super) work: &'a StartWork,
}

impl Upgrade<'_> {
    /// Upgrades the file. No connection to the file may be in use.
    ///
    /// # Errors
    /// The file is damaged, the disk has too little space, or the disk failed: the file stays as it is.
    ///
    /// # Cancel safety
    /// Safe: the next start finds the old file or the new file, and both are whole.
    pub(super) async fn run(&self) -> Result<(), StoreError> {
        if place::is_on_its_way(self.directory) {
            // An earlier attempt went this far.
            return Ok(place::recover(self.directory).await?);
        }
        let directory = self.directory.path();
        // Before the look at the space: an earlier attempt may have left files. An older store records no file.
        snapshot_file::remove_all_but(directory.to_owned(), None).await;
        snapshot_file::remove_of_earlier_releases(directory.to_owned()).await;
        let mut old = sqlite::open_writer(&self.path(), CHECKPOINT_PAGES).await?;
        let stored = schema_4::read_state(&mut old, self.cluster).await?;
        let stored = stored.ok_or_else(|| self.damaged("the state record"))?;
        let bytes = used_bytes(&mut old).await?;
        // The snapshot and the new file are at most as large as the old file, beside the write-ahead log.
        let reserve = place::FREE_MIN + COPY_BYTES;
        if check_space(directory, bytes, reserve).is_err() {
            let bytes = bytes + reserve;
            self.work.does(StartStep::NeedsSpace { bytes });
            let path = self.path();
            return Err(PlaceError::NoSpace { path }.into());
        }
        tracing::info!(
            file = %self.path().display(), bytes, to = %stored.latest.to,
            "an earlier release wrote the file of this learner: upgrading"
        );
        self.work.does(StartStep::Upgrades { bytes });
        let (file, unrecorded) = self.write_snapshot(&mut old, stored).await?;
        let snapshot = RecordedSnapshot::of(&file.summary);
        drop(file);
        old.close().await?;
        self.write_log(stored, snapshot, unrecorded).await?;
        tracing::info!(
            snapshot = snapshot.name(),
            bytes = snapshot.bytes,
            "upgraded the files of this learner: no older release reads the files any more"
        );
        Ok(())
    }

    /// Writes the state of the tables as a snapshot file. Verifies every row, and the digest of all rows.
    async fn write_snapshot(
        &self,
        old: &mut SqliteConnection,
        stored: State4,
    ) -> Result<(SnapshotFile, UnrecordedFile), StoreError> {
        let path = self.directory.path().to_owned();
        let begun = blocking(move || NewSnapshotFile::begin(&path, 0, place::FREE_MIN)).await;
        let mut file = begun.map_err(|error| self.not_written(error))?;
        let mut encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster: self.cluster,
            to: stored.latest.to,
            log_digest: *stored.latest.digest.as_bytes(),
            configuration: Configuration::clone(self.configuration),
        });
        let mut rows = schema_4::registers(old);
        while let Some(row) = rows.try_next().await? {
            let register = schema_4::read_register(self.cluster, &row)?;
            let StoredRegister { key, value, version } =
                register.ok_or_else(|| self.damaged("a register"))?;
            let added = encoder.register_parts(key, value, version);
            added.map_err(|error| self.refused(error, "a register"))?;
            file = self.write_if_full(&mut encoder, file).await?;
        }
        drop(rows);
        let mut rows = schema_4::sessions(old);
        while let Some(row) = rows.try_next().await? {
            let session = schema_4::read_session(self.cluster, &row)?;
            let (name, session) = session.ok_or_else(|| self.damaged("a session"))?;
            let added = encoder.session(name, &session);
            added.map_err(|error| self.refused(error, "a session"))?;
            file = self.write_if_full(&mut encoder, file).await?;
        }
        drop(rows);
        let (last, summary) = encoder
            .finish()
            .map_err(|error| self.refused(error, "the state"))?;
        if Some(summary.footer.digest) != stored.latest.state {
            return Err(self.damaged("the set of registers and sessions"));
        }
        let published = blocking(move || {
            file.write(&last)?;
            file.publish(summary)
        });
        published.await.map_err(|error| self.not_written(error))
    }

    async fn write_if_full(
        &self,
        encoder: &mut SnapshotEncoder,
        mut file: NewSnapshotFile,
    ) -> Result<NewSnapshotFile, StoreError> {
        if encoder.waiting_bytes() < WRITE_BYTES {
            return Ok(file);
        }
        let bytes = encoder.take();
        let written = blocking(move || file.write(&bytes).map(|()| file)).await;
        written.map_err(|error| self.not_written(error))
    }

    /// Writes the log, and the record of the snapshot, to a new file, and puts the new file in the place of the old file.
    async fn write_log(
        &self,
        stored: State4,
        snapshot: RecordedSnapshot,
        unrecorded: UnrecordedFile,
    ) -> Result<(), StoreError> {
        let State4 { latest, log_from } = stored;
        let mut new = place::create(self.directory).await?;
        let state = StoredState {
            log_from,
            ..StoredState::at(
                self.cluster,
                latest,
                Some(snapshot),
                Arc::clone(self.configuration),
            )
        };
        let copied = self.copy(&mut new, &state).await;
        if let Err(error) = copied {
            place::discard(self.directory, new).await;
            return Err(error);
        }
        Ok(place::publish(self.directory, new, unrecorded).await?)
    }

    /// Copies the log and the marks of the old file, and writes the state record.
    async fn copy(&self, new: &mut SqliteConnection, state: &StoredState) -> Result<(), StoreError> {
        let attached = attach(new, &self.path()).await;
        attached.map_err(|error| self.not_copied(error))?;
        let mut next = integer(state.log_from);
        loop {
            if check_space(self.directory.path(), COPY_BYTES, place::FREE_MIN).is_err() {
                let path = self.path();
                return Err(PlaceError::NoSpace { path }.into());
            }
            let copied = copy_some(new, next).await;
            match copied.map_err(|error| self.not_copied(error))? {
                Some(behind) => next = behind,
                None => break,
            }
        }
        let ended = async {
            sqlx::query("INSERT INTO main.digest SELECT applied_to, digest, state, 0 FROM old.digest")
                .execute(&mut *new)
                .await?;
            marks::seal(new, self.cluster).await?;
            state.write_first(new).await
        };
        ended.await.map_err(|error| self.not_copied(error))
    }

    /// The failure of a statement on both files: damage of the old file, or a failure of the new file.
    fn not_copied(&self, error: sqlx::Error) -> StoreError {
        let code = error
            .as_database_error()
            .and_then(|error| error.code()?.parse::<u32>().ok());
        let is_misfit = code.is_some_and(|code| MISFITS.contains(&(code & 0xff)));
        if is_malformed(&error) || is_misfit {
            tracing::error!(%error, "the log of an earlier release cannot be copied");
            return self.damaged("the log");
        }
        place::failed(&self.directory.file(place::NEW), error.into()).into()
    }

    fn path(&self) -> PathBuf {
        self.directory.file(LEARNER_FILE)
    }

    fn damaged(&self, what: &'static str) -> StoreError {
        let path = self.path().display().to_string();
        StoreError::Damaged { what, path }
    }

    fn not_written(&self, error: FileError) -> StoreError {
        PlaceError::of_snapshot(&self.path(), error).into()
    }

    /// A sound row that breaks a rule of the snapshot was never written by a learner.
    fn refused(&self, error: SnapshotError, what: &'static str) -> StoreError {
        if error == SnapshotError::TooLarge {
            let path = self.path();
            return StoreError::TooLarge { path, source: error };
        }
        tracing::error!(%error, "a row on disk breaks a rule of the state");
        self.damaged(what)
    }
}

/// Size of the used pages in bytes.
async fn used_bytes(connection: &mut SqliteConnection) -> Result<u64, SqliteError> {
    let sql = "SELECT (pages.page_count - free.freelist_count) * size.page_size
               FROM pragma_page_count AS pages, pragma_freelist_count AS free, pragma_page_size AS size";
    let bytes: i64 = sqlx::query_scalar(sql).fetch_one(connection).await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

async fn attach(new: &mut SqliteConnection, old: &Path) -> Result<(), sqlx::Error> {
    sqlx::query("ATTACH DATABASE ? AS old")
        .bind(old.display().to_string())
        .execute(new)
        .await
        .map(drop)
}

/// Copies rows of the log from `next` on in one commit, as many as a sweep deletes. Returns the slot of the row behind, if any.
async fn copy_some(new: &mut SqliteConnection, next: i64) -> Result<Option<i64>, sqlx::Error> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT slot, length(value) FROM old.learned WHERE slot >= ? ORDER BY slot LIMIT ?")
            .bind(next)
            .bind(i64::try_from(SWEEP_ROWS_MAX).unwrap_or(i64::MAX) + 1)
            .fetch_all(&mut *new)
            .await?;
    let (_, behind) = batch(&rows);
    sqlx::query(
        "INSERT INTO main.learned SELECT slot, value, traceparent, judgements, checksum
         FROM old.learned WHERE slot >= ? AND slot < ? ORDER BY slot",
    )
    .bind(next)
    .bind(behind.unwrap_or(i64::MAX))
    .execute(new)
    .await?;
    Ok(behind)
}
