//! The temporary directory of `paxos dev`, and the removal of directories whose process was killed.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use nix::unistd::geteuid;
use tempfile::TempDir;

/// The beginning of the directory's name.
const PREFIX: &str = "paxos-dev-";
/// The file in the directory that the living process holds locked.
const LOCK: &str = "IN-USE";

/// A directory that is removed on drop; after SIGKILL, by the next `paxos dev`.
#[derive(Debug)]
pub(super) struct Temporary {
    directory: TempDir,
    /// The kernel drops the lock with the process, however the process ends.
    _lock: File,
}

impl Temporary {
    /// Makes a directory in `parent`, and removes the directories of dead processes there.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        remove_leftovers(parent);
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
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

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes what it can: leftovers cost space, and stop nothing.
fn remove_leftovers(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
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

    #[test]
    fn directories_of_dead_processes_are_removed_and_no_others() {
        let parent = tempfile::tempdir().unwrap();
        let theirs = parent.path().join("paxos-dev-mine");
        fs::create_dir(&theirs).unwrap();
        let living = Temporary::new(parent.path()).unwrap();
        let Temporary { directory, _lock } = Temporary::new(parent.path()).unwrap();
        fs::write(directory.path().join("data"), "x").unwrap();
        // As after SIGKILL.
        let dead = directory.keep();
        drop(_lock);
        let path = Temporary::new(parent.path()).unwrap().path().to_owned();
        assert!(!dead.exists() && !path.exists());
        assert!(living.path().exists() && theirs.exists());
    }
}
