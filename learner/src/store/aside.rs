//! A damaged file is set aside, and an outdated file is removed: the learner learns everything again without help.
//!
//! - The file set aside last is kept for people, as `learner.db.damaged`, and a damaged snapshot file as
//!   `snapshot.damaged`; earlier files of these names are overwritten.
//! - Damage found while the file is in use is marked, and the next start sets the file aside.
//! - A proof is lost with the file. The file says how far the log was chosen, so this learner would notice a loss of
//!   commits by the acceptors below that watermark. A damaged file cannot be trusted as a proof, and a learner that
//!   learns again does not notice the loss.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use paxos_common::durable::sync_name;
use tokio::time::sleep;

/// Marker in the data directory: the next start sets the file aside.
const MARK: &str = "DAMAGED";
/// The files in the data directory made here.
pub(super) const FILES: [&str; 4] = [
    "learner.db.damaged",
    "learner.db.damaged-wal",
    SNAPSHOT_ASIDE,
    MARK,
];
/// A damaged snapshot file.
const SNAPSHOT_ASIDE: &str = "snapshot.damaged";
/// Longest wait for SQLite's threads to close the file.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// Time between two checks whether the file is closed.
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// Marks `file`, so that the next start sets the file aside.
pub(super) fn mark(file: &Path) {
    // A small file, once in the life of a disk: not worth a thread.
    if let Err(error) = File::create(file.with_file_name(MARK)) {
        tracing::warn!(%error, file = %file.display(), "cannot mark the damaged file: empty the data directory by hand");
    }
}

/// Whether an earlier run found damage in `file`.
pub(super) fn is_marked(file: &Path) -> bool {
    file.with_file_name(MARK).exists()
}

/// Renames a damaged snapshot file, if present. The store that records the file is set aside next.
pub(super) fn set_snapshot_aside(snapshot: &Path) {
    let renamed = if_there(fs::rename(snapshot, snapshot.with_file_name(SNAPSHOT_ASIDE)));
    if let Err(error) = renamed {
        tracing::warn!(%error, file = %snapshot.display(), "cannot set aside the damaged snapshot file");
    }
}

/// Renames `file` and the write-ahead log, and returns the new name of the file. No connection to the file may be in
/// use.
///
/// # Errors
/// A connection stays open, or the directory cannot be written.
///
/// # Cancel safety
/// Safe: the files are renamed at the end, without an await in between.
pub(super) async fn set_aside(file: &Path) -> io::Result<PathBuf> {
    wait_until_closed(file).await?;
    // After a crash in the middle, the next start continues here, and opens no file without its log.
    mark(file);
    let aside = with_suffix(file, ".damaged");
    let (log, log_aside) = (with_suffix(file, "-wal"), with_suffix(&aside, "-wal"));
    if_there(fs::remove_file(&log_aside))?;
    // The log goes first: SQLite would read a remaining log into the new file.
    if_there(fs::rename(&log, &log_aside))?;
    if_there(fs::rename(file, &aside))?;
    if_there(fs::remove_file(with_suffix(file, "-shm")))?;
    unmark(file)?;
    sync_name(file)?;
    Ok(aside)
}

/// Removes `file` and the files of SQLite beside it. No connection to the file may be in use.
///
/// # Errors
/// A connection stays open, or the directory cannot be written.
///
/// # Cancel safety
/// Safe: the files are removed at the end, without an await in between.
pub(super) async fn remove(file: &Path) -> io::Result<()> {
    wait_until_closed(file).await?;
    // The log goes first: SQLite would read a remaining log into the new file. After a crash in the middle, the next start
    // removes the rest.
    for suffix in ["-wal", "-journal", "", "-shm"] {
        if_there(fs::remove_file(with_suffix(file, suffix)))?;
    }
    sync_name(file)
}

/// Removes the mark of a damaged file.
pub(super) fn unmark(file: &Path) -> io::Result<()> {
    if_there(fs::remove_file(file.with_file_name(MARK)))
}

/// SQLite's threads close a connection some time after the drop, and remove the write-ahead log by name: by then no
/// other file may have this name.
///
/// # Errors
/// A connection stays open.
pub(super) async fn wait_until_closed(file: &Path) -> io::Result<()> {
    let begun = Instant::now();
    while is_open(file)? {
        if begun.elapsed() > CLOSE_MAX {
            return Err(io::Error::other("the file is still open in this process"));
        }
        sleep(CLOSE_LOOK).await;
    }
    Ok(())
}

/// Whether this process has `file` open.
fn is_open(file: &Path) -> io::Result<bool> {
    for descriptor in fs::read_dir("/proc/self/fd")? {
        // A descriptor closed meanwhile has no target.
        if fs::read_link(descriptor?.path()).is_ok_and(|target| target == file) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
