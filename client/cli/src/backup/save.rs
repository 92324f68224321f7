//! Receives a snapshot and saves the file.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use paxos_client::{Backup, Client};
use paxos_common::{
    durable::sync_name,
    service::failure::Failure,
    snapshot::{SnapshotSummary, decoder::SnapshotDecoder},
};
use tokio::task::spawn_blocking;

use super::{
    check::{progress, verify},
    refused,
};
use crate::key::read_failure;

/// Saves a backup of the cluster in `file`, once verified and on disk.
///
/// # Cancel safety
/// Safe: an earlier `file` stays, and the part is removed.
pub(super) async fn save(client: &Client, file: &Path) -> Result<SnapshotSummary, Failure> {
    // Before a learner works.
    let partial = PartialFile::create(file)?;
    let waiting = progress("waiting for a snapshot", 0);
    let backup = client.backup().await.map_err(read_failure)?;
    waiting.finish_and_clear();
    receive(backup, partial).await
}

async fn receive(mut backup: Backup, mut partial: PartialFile) -> Result<SnapshotSummary, Failure> {
    let mut decoder = SnapshotDecoder::new(None);
    let bar = progress("saving", backup.bytes());
    let unverified = |error| refused(Path::new("the snapshot of the learner"), error);
    let interrupted = |cause| {
        Failure::unavailable(anyhow::anyhow!(
            "the backup broke off: {cause}; try again; `paxos status` shows what is wrong"
        ))
    };
    while let Some(part) = backup.next().await.map_err(interrupted)? {
        verify(&mut decoder, &part).map_err(unverified)?;
        bar.inc(part.len() as u64);
        partial = partial.write(part).await?;
    }
    bar.finish_and_clear();
    let summary = decoder.finish().map_err(unverified)?;
    if (summary.sha256, summary.header.to) != (*backup.sha256(), backup.to()) {
        return Err(Failure::storage(anyhow::anyhow!(
            "the learner sent another snapshot than announced: try again"
        )));
    }
    partial.finish().await?;
    Ok(summary)
}

/// `FILE.partial`, removed when dropped before [`finish`](Self::finish).
#[derive(Debug)]
struct PartialFile {
    /// Locked while in use.
    open: File,
    partial: PathBuf,
    file: PathBuf,
    is_finished: bool,
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_finished {
            // The next backup overwrites a remaining part.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// Attempts to create a partial file. An attempt fails when another process creates or removes the file meanwhile.
const ATTEMPTS_MAX: usize = 8;

/// Never follows a link, and never takes over the mode or the owner of a present file.
fn create_new(partial: &Path) -> io::Result<File> {
    // Secret: see the help of the command.
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(partial)
}

/// Locks the open file, unless another process has the lock. Returns whether the lock is held.
fn is_locked(open: &File) -> io::Result<bool> {
    match open.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether the path still names the open file: only the holder of the lock removes the path.
fn is_named(open: &File, partial: &Path) -> io::Result<bool> {
    let (own, found) = (open.metadata()?, fs::symlink_metadata(partial));
    Ok(found.is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino())))
}

/// Whether this process holds the lock of the file with this path.
fn is_own(open: &File, partial: &Path) -> io::Result<bool> {
    Ok(is_locked(open)? && is_named(open, partial)?)
}

/// Removes the part of an ended backup. Returns `false` if another process writes the file.
fn remove_leftover(partial: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(partial) {
        Ok(found) if !found.is_file() => {
            let text = "a directory, a link or a device has this name: remove it, or name another file";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        found => found.map(drop)?,
    }
    let open = match File::open(partial) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        open => open?,
    };
    if !is_locked(&open)? {
        return Ok(false);
    }
    if is_named(&open, partial)? {
        fs::remove_file(partial)?;
    }
    Ok(true)
}

impl PartialFile {
    fn create(file: &Path) -> Result<Self, Failure> {
        let mut name = OsString::from(file);
        name.push(".partial");
        let partial = PathBuf::from(name);
        let failed = |error: io::Error| {
            Failure::storage(anyhow::Error::new(error).context(format!("write {}", partial.display())))
        };
        if file.is_dir() || file.file_name().is_none() {
            return Err(Failure::usage(format!(
                "{} is a directory: name a file",
                file.display()
            )));
        }
        for _ in 0..ATTEMPTS_MAX {
            let taken = match create_new(&partial) {
                Ok(open) if is_own(&open, &partial).map_err(failed)? => {
                    return Ok(Self {
                        open,
                        file: file.to_owned(),
                        partial,
                        is_finished: false,
                    });
                }
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    !remove_leftover(&partial).map_err(failed)?
                }
                Err(error) => return Err(failed(error)),
            };
            if taken {
                break;
            }
        }
        Err(Failure::refused(anyhow::anyhow!(
            "another process writes {}: wait for its end, or name another file",
            partial.display()
        )))
    }

    async fn write(self, part: Bytes) -> Result<Self, Failure> {
        self.blocking(move |this| this.open.write_all(&part)).await
    }

    /// Makes the content durable, and gives the file its name.
    async fn finish(self) -> Result<(), Failure> {
        self.blocking(|this| {
            this.open.sync_all()?;
            fs::rename(&this.partial, &this.file)?;
            this.is_finished = true;
            sync_name(&this.file)
        })
        .await
        .map(drop)
    }

    async fn blocking(
        mut self,
        work: impl FnOnce(&mut Self) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, Failure> {
        let worked = spawn_blocking(move || match work(&mut self) {
            Ok(()) => Ok(self),
            Err(error) => Err(Failure::storage(
                anyhow::Error::new(error).context(format!("write {}", self.partial.display())),
            )),
        });
        worked
            .await
            .map_err(|error| Failure::internal(anyhow::Error::new(error)))?
    }
}
