//! Writes a kept state to a snapshot file, piece by piece on a thread for blocking calls, while the learner goes on.

use std::{path::PathBuf, vec};

use bytes::Bytes;
use paxos_common::{
    paxos::{identity::ClusterId, machine::KeyedRegister, quorum::Configuration, slot::Version},
    snapshot::{SnapshotError, encoder::SnapshotEncoder},
    wire::snapshot::SnapshotHeader,
};

use crate::{
    blocking::blocking,
    knowledge::KeptView,
    snapshot_file::{FileError, NewSnapshotFile, SnapshotFile, UnrecordedFile},
};

/// Encoded bytes that are written at a time.
const WRITE_BYTES: usize = 256 * 1024;
/// Bytes left free on the disk: room for the writer.
const FREE_MIN: u64 = 64 * 1024 * 1024;

/// No snapshot file is written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotWritten {
    #[error("the learner is stopping")]
    Stopping,
    #[error("the caller is gone")]
    CallerGone,
    /// The state is larger than a snapshot may be.
    #[error(transparent)]
    TooLarge(SnapshotError),
    /// A fault of the memory or of this program.
    #[error("the state in memory is wrong: {0}. Start this learner again")]
    Differs(String),
    #[error(transparent)]
    File(#[from] FileError),
}

/// The next page of the state.
#[derive(Debug)]
enum StateStage {
    /// The registers after this key.
    Registers(Option<Bytes>),
    /// The sessions after this name.
    Sessions(Option<Version>),
    End,
}

/// A file in the making.
#[derive(Debug)]
pub(super) struct StateWriter {
    view: KeptView,
    encoder: SnapshotEncoder,
    file: NewSnapshotFile,
    /// The rest of the latest page.
    registers: vec::IntoIter<KeyedRegister>,
    stage: StateStage,
}

impl StateWriter {
    /// Begins the file of this state. `earlier_bytes`: the size of the earlier file, for an early look at the free space.
    ///
    /// # Errors
    /// See [`NotWritten`].
    ///
    /// # Cancel safety
    /// Safe: the file is removed in the background.
    pub(super) async fn begin(
        view: KeptView,
        cluster: ClusterId,
        configuration: &Configuration,
        directory: PathBuf,
        earlier_bytes: u64,
    ) -> Result<Self, NotWritten> {
        // The size of the file is not known before.
        let bytes = earlier_bytes.min(view.state_bytes());
        let mark = view.mark();
        let encoder = SnapshotEncoder::new(SnapshotHeader {
            cluster,
            to: mark.to,
            log_digest: *mark.digest.as_bytes(),
            configuration: configuration.clone(),
        });
        // The view is dropped on a thread for blocking calls, also after an error.
        let begun = blocking(move || {
            Ok(Self {
                file: NewSnapshotFile::begin(&directory, bytes, FREE_MIN)?,
                view,
                encoder,
                registers: Vec::new().into_iter(),
                stage: StateStage::Registers(None),
            })
        });
        begun.await
    }

    /// Writes the whole state. Returns once the file is durable under its name. Gives up between two pieces once the file is
    /// not wanted any more.
    ///
    /// # Errors
    /// See [`NotWritten`]. The file in the making is removed.
    ///
    /// # Cancel safety
    /// As [`Self::begin`].
    pub(super) async fn write(
        mut self,
        is_wanted: impl Fn() -> bool,
    ) -> Result<(SnapshotFile, UnrecordedFile), NotWritten> {
        while !matches!(self.stage, StateStage::End) {
            if !is_wanted() {
                blocking(move || drop(self)).await;
                return Err(NotWritten::CallerGone);
            }
            self = blocking(move || self.piece()).await?;
        }
        blocking(move || self.finish()).await
    }

    /// Writes the next piece.
    fn piece(mut self) -> Result<Self, NotWritten> {
        self.encode_and_write()?;
        Ok(self)
    }

    fn encode_and_write(&mut self) -> Result<(), NotWritten> {
        while self.encoder.waiting_bytes() < WRITE_BYTES {
            if let Some(register) = self.registers.next() {
                let (key, value, version) = (register.key(), register.value(), register.version());
                let added = self.encoder.register_parts(key, value, version);
                added.map_err(refused)?;
            } else if matches!(self.stage, StateStage::End) {
                break;
            } else {
                self.next_page()?;
            }
        }
        Ok(self.file.write(&self.encoder.take())?)
    }

    fn next_page(&mut self) -> Result<(), NotWritten> {
        self.stage = match &self.stage {
            StateStage::Registers(after) => {
                let page = self.view.registers(after.as_deref());
                self.registers = page.records.into_iter();
                match page.next {
                    Some(last) => StateStage::Registers(Some(last)),
                    None => StateStage::Sessions(None),
                }
            }
            StateStage::Sessions(after) => {
                let page = self.view.sessions(*after);
                for (name, session) in &page.records {
                    self.encoder.session(*name, session).map_err(refused)?;
                }
                match page.next {
                    Some(last) => StateStage::Sessions(Some(last)),
                    None => StateStage::End,
                }
            }
            StateStage::End => StateStage::End,
        };
        Ok(())
    }

    /// Ends the file, and publishes the file if the digest of the written records is the digest of the state.
    fn finish(self) -> Result<(SnapshotFile, UnrecordedFile), NotWritten> {
        let Self {
            view,
            encoder,
            mut file,
            ..
        } = self;
        let ended = encoder.finish().map_err(refused).and_then(|(last, summary)| {
            let (found, expected) = (summary.footer.digest, view.mark().state);
            if Some(found) != expected {
                let differs = format!("the digest of its records is {found}, and not {expected:?}");
                return Err(NotWritten::Differs(differs));
            }
            file.write(&last)?;
            Ok(summary)
        });
        // No state is kept while the disk syncs.
        drop(view);
        Ok(file.publish(ended?)?)
    }
}

/// A state that breaks a rule of the snapshot is a fault of this program.
fn refused(error: SnapshotError) -> NotWritten {
    if error == SnapshotError::TooLarge {
        return NotWritten::TooLarge(error);
    }
    NotWritten::Differs(error.to_string())
}
