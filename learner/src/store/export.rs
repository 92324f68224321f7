//! The whole state on disk as a snapshot file, read in one transaction beside readers and writer.

use std::{io, path::PathBuf, time::Duration};

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::quorum::Configuration,
    snapshot::{SnapshotError, SnapshotSummary, encoder::SnapshotEncoder},
    sqlite::{LongRead, SqliteError, is_malformed},
    wire::snapshot::SnapshotHeader,
};
use rustix::fs::fstatvfs;
use tokio::{fs::File, io::AsyncWriteExt as _, time::sleep};

use super::{Log, aside, registers, registers::StoredRegister, state};

/// Encoded bytes that are written at a time.
const WRITE_BYTES: usize = 256 * 1024;

/// Longest time of a read: the write-ahead log cannot be emptied meanwhile.
const EXPORT_MAX: Duration = Duration::from_secs(120);
/// Bytes left free on the disk: room for the writer.
const FREE_MIN: u64 = 64 * 1024 * 1024;

/// No snapshot is made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// The file of the learner is wrong: the process must end, and the next start sets the file aside.
    #[error(
        "{what} in {} is damaged: start this learner again; it then sets the file aside and learns everything again",
        file.display()
    )]
    Damaged { what: &'static str, file: PathBuf },
    #[error("read {}: {source}", file.display())]
    Sqlite { file: PathBuf, source: SqliteError },
    /// The state is larger than a snapshot may be.
    #[error(transparent)]
    Encode(SnapshotError),
    #[error("write the snapshot: {0}")]
    Write(#[from] io::Error),
    #[error("too little space: a snapshot leaves {} MiB free on the disk of this learner", FREE_MIN >> 20)]
    NoSpace,
    #[error("the state could not be read within {EXPORT_MAX:?}")]
    TooSlow,
    /// The write-ahead log became too long during the read.
    #[error("the write-ahead log of this learner grew too much while the state was read")]
    WalTooLong,
}

impl Log {
    /// Writes a snapshot of the state on disk to `out`: the state at the moment of the first read. Verifies the checksum
    /// of every row, and compares the digest of all rows with the stored digest. Readers and writer go on meanwhile.
    ///
    /// # Errors
    /// See [`ExportError`]. After damage, the next start sets the file aside.
    ///
    /// # Cancel safety
    /// Safe: the read ends. `out` has a part of the snapshot.
    pub(crate) async fn export(
        &self,
        configuration: &Configuration,
        out: &mut File,
    ) -> Result<SnapshotSummary, ExportError> {
        let mut read = self
            .readers
            .long_read()
            .await
            .map_err(|error| self.sqlite(error))?;
        let must_end = read.must_end();
        let exported = tokio::select! {
            // Cancel safe: the read ends below.
            exported = self.export_by(&mut read, configuration, out) => exported,
            // Only waits.
            () = must_end => Err(ExportError::WalTooLong),
            // A timer.
            () = sleep(EXPORT_MAX) => Err(ExportError::TooSlow),
        };
        read.close().await;
        if let Err(ExportError::Damaged { .. }) = exported {
            aside::mark(&self.file);
        }
        exported
    }

    async fn export_by(
        &self,
        read: &mut LongRead,
        configuration: &Configuration,
        out: &mut File,
    ) -> Result<SnapshotSummary, ExportError> {
        read.begin().await.map_err(|error| self.sqlite(error))?;
        let stored = state::read_stored(read, self.cluster).await;
        let stored = stored.map_err(|error| self.failed(error))?;
        let stored = stored.ok_or_else(|| self.wrong("the state record"))?;
        let mut encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster: self.cluster,
            to: stored.applied_to,
            log_digest: *stored.digest.as_bytes(),
            configuration: configuration.clone(),
        });
        let mut rows = registers::in_order(read);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(error))? {
            let register =
                registers::read_register(self.cluster, &row).map_err(|error| self.failed(error))?;
            let StoredRegister { key, value, version } = register.ok_or_else(|| self.wrong("a register"))?;
            encoder
                .register_parts(key, value, version)
                .map_err(|error| self.refused(error, "a register"))?;
            write_if_full(&mut encoder, out).await?;
        }
        drop(rows);
        let mut rows = registers::sessions_in_order(read);
        while let Some(row) = rows.try_next().await.map_err(|error| self.failed(error))? {
            let session = registers::read_session(self.cluster, &row).map_err(|error| self.failed(error))?;
            let (name, session) = session.ok_or_else(|| self.wrong("a session"))?;
            encoder
                .session(name, &session)
                .map_err(|error| self.refused(error, "a session"))?;
            write_if_full(&mut encoder, out).await?;
        }
        drop(rows);
        let (last, summary) = encoder.finish().map_err(ExportError::Encode)?;
        if summary.footer.digest != stored.state {
            return Err(self.wrong("the set of registers and sessions"));
        }
        out.write_all(&last).await?;
        out.flush().await?;
        Ok(summary)
    }

    fn wrong(&self, what: &'static str) -> ExportError {
        ExportError::Damaged {
            what,
            file: self.file.to_path_buf(),
        }
    }

    fn sqlite(&self, source: SqliteError) -> ExportError {
        let file = self.file.to_path_buf();
        ExportError::Sqlite { file, source }
    }

    fn failed(&self, error: sqlx::Error) -> ExportError {
        let is_damage = is_malformed(&error)
            || matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_));
        if is_damage {
            return self.wrong("a table");
        }
        self.sqlite(error.into())
    }

    /// A sound row that breaks a rule of the snapshot was never written by this learner.
    fn refused(&self, error: SnapshotError, what: &'static str) -> ExportError {
        if error == SnapshotError::TooLarge {
            return ExportError::Encode(error);
        }
        tracing::error!(%error, "a row on disk breaks a rule of the state");
        self.wrong(what)
    }
}

async fn write_if_full(encoder: &mut SnapshotEncoder, out: &mut File) -> Result<(), ExportError> {
    if encoder.waiting_bytes() < WRITE_BYTES {
        return Ok(());
    }
    // The kernel answers from memory.
    let found = fstatvfs(&*out).map_err(io::Error::from)?;
    if found.f_bavail.saturating_mul(found.f_frsize) < FREE_MIN {
        return Err(ExportError::NoSpace);
    }
    out.write_all(&encoder.take()).await?;
    Ok(())
}
