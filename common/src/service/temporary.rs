//! Temporary data directories, and the removal of directories whose process was killed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use rustix::process::geteuid;
use tempfile::TempDir;

/// The file in the directory that the living process holds locked.
const LOCK: &str = "IN-USE";

/// A directory that is removed on drop; after SIGKILL, by the next process that makes a directory of the same kind.
#[derive(Debug)]
pub struct TemporaryDir {
    directory: TempDir,
    /// The kernel drops the lock with the process, however the process ends.
    _lock: File,
}

impl TemporaryDir {
    /// Makes a directory in `parent`, and removes the directories of dead processes there. `prefix` is the beginning of
    /// the directory's name, and distinguishes the kinds of directories.
    ///
    /// # Errors
    /// The directory cannot be made or locked.
    pub fn new(parent: &Path, prefix: &str) -> io::Result<Self> {
        remove_leftovers(parent, prefix);
        let directory = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        // Locked before the file gets its name: a file with this name and without a lock belongs to a dead process.
        let made = directory.path().join("LOCKING");
        let lock = File::create(&made)?;
        lock.try_lock()?;
        fs::rename(made, directory.path().join(LOCK))?;
        Ok(Self {
            directory,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Removes the directory.
    ///
    /// # Errors
    /// The directory cannot be removed.
    pub fn close(self) -> io::Result<()> {
        self.directory.close()
    }
}

/// Removes what it can: leftovers cost space, and stop nothing.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes());
        // Not followed, if the entry is a symbolic link.
        let is_ours = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == geteuid().as_raw();
        if !is_named || !entry.metadata().is_ok_and(is_ours) {
            continue;
        }
        let lock = File::open(entry.path().join(LOCK));
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "paxos-test-";

    fn make(parent: &Path) -> TemporaryDir {
        TemporaryDir::new(parent, PREFIX).unwrap()
    }

    #[test]
    fn directories_of_dead_processes_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let theirs = parent.path().join("paxos-test-mine");
        fs::create_dir(&theirs).unwrap();
        let living = make(parent.path());
        let other_kind = TemporaryDir::new(parent.path(), "paxos-other-").unwrap();
        let [dead, dead_other] = [make(parent.path()), other_kind].map(|made| {
            fs::write(made.path().join("data"), "x").unwrap();
            let TemporaryDir { directory, _lock } = made;
            // As after SIGKILL.
            drop(_lock);
            directory.keep()
        });
        let path = make(parent.path()).path().to_owned();
        assert!(!dead.exists() && !path.exists());
        assert!(living.path().exists() && theirs.exists() && dead_other.exists());
        living.close().unwrap();
    }
}
