//! Receives a backup and saves the file.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
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
    let waiting = progress("waiting for a learner", 0);
    let backup = client.backup().await.map_err(read_failure)?;
    waiting.finish_and_clear();
    receive(backup, partial).await
}

async fn receive(mut backup: Backup, mut partial: PartialFile) -> Result<SnapshotSummary, Failure> {
    let mut decoder = SnapshotDecoder::new(None);
    let bar = progress("saving", backup.bytes());
    let unverified = |error| refused(Path::new("the backup from the learner"), error);
    let interrupted = |cause| {
        Failure::unavailable(anyhow::anyhow!(
            "the backup broke off: {cause}; try again; `paxos status` shows what is wrong"
        ))
    };
    while let Some(part) = backup.next().await.map_err(interrupted)? {
        verify(&mut decoder, &part).map_err(unverified)?;
        bar.inc(part.len() as u64);
        partial.write(part).await?;
    }
    bar.finish_and_clear();
    let summary = decoder.finish().map_err(unverified)?;
    if (summary.sha256, summary.header.to) != (*backup.sha256(), backup.to()) {
        return Err(Failure::storage(anyhow::anyhow!(
            "the learner sent another backup than announced: try again"
        )));
    }
    partial.finish().await?;
    Ok(summary)
}

/// `FILE.partial`, removed when dropped before [`finish`](Self::finish). A signal drops the file while a thread may still
/// write to it: the thread has the open file alone, and never the name.
#[derive(Debug)]
struct PartialFile {
    /// Locked while in use.
    open: Arc<File>,
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
                        open: Arc::new(open),
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

    async fn write(&mut self, part: Bytes) -> Result<(), Failure> {
        let open = Arc::clone(&self.open);
        self.blocking(move || (&*open).write_all(&part)).await
    }

    /// Makes the content durable, and gives the file its name.
    ///
    /// # Cancel safety
    /// Safe: then the file is removed, or is whole under its name.
    async fn finish(mut self) -> Result<(), Failure> {
        let open = Arc::clone(&self.open);
        self.blocking(move || open.sync_all()).await?;
        // Between two awaits: a thread would give the file its name after the removal of the part.
        let renamed = fs::rename(&self.partial, &self.file);
        renamed.map_err(|error| self.failed(error))?;
        self.is_finished = true;
        let file = self.file.clone();
        self.blocking(move || sync_name(&file)).await
    }

    async fn blocking(&self, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), Failure> {
        let worked = spawn_blocking(work).await;
        let worked = worked.map_err(|error| Failure::internal(anyhow::Error::new(error)))?;
        worked.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: io::Error) -> Failure {
        Failure::storage(anyhow::Error::new(error).context(format!("write {}", self.partial.display())))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, sync::mpsc, task::Poll};

    use super::*;

    #[test]
    fn file_given_up_at_any_point_is_gone_or_whole_although_threads_go_on() {
        // One thread for all blocking work, in order: while it is held, no poll sees the end of the work it began.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            for polls in 1.. {
                let directory = tempfile::tempdir().unwrap();
                let file = directory.path().join("saved");
                let mut saving = Some(Box::pin(async {
                    let mut partial = PartialFile::create(&file)?;
                    partial.write("part".into()).await?;
                    partial.finish().await
                }));
                let mut saved = None;
                let mut names = Vec::new();
                for poll in 1..=polls {
                    let (release, released) = mpsc::channel::<()>();
                    let held = spawn_blocking(move || released.recv());
                    let polled = saving.as_mut().unwrap();
                    if let Poll::Ready(end) =
                        poll_fn(|context| Poll::Ready(polled.as_mut().poll(context))).await
                    {
                        saved = Some(end);
                    }
                    if poll == polls {
                        // The process may end before the thread does its work.
                        saving = None;
                        let left = fs::read_dir(directory.path()).unwrap();
                        names = left.map(|entry| entry.unwrap().file_name()).collect();
                    }
                    release.send(()).unwrap();
                    held.await.unwrap().unwrap();
                    spawn_blocking(|| {}).await.unwrap();
                }
                let whole = names == ["saved"] && fs::read(&file).unwrap() == b"part";
                assert!(names.is_empty() || whole, "after {polls} polls: {names:?}");
                // The work of threads brings nothing back.
                assert_eq!(fs::read_dir(directory.path()).unwrap().count(), names.len());
                if let Some(saved) = saved {
                    saved.unwrap();
                    // The write, the sync of the content and the sync of the name have a poll each.
                    assert_eq!((polls, whole), (4, true));
                    return;
                }
            }
        });
    }
}
