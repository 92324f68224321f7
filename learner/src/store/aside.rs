//! A damaged file: set aside, so that the learner learns everything again by itself.
//!
//! - The file that was set aside last is kept for people, as `learner.db.damaged`; an earlier one is overwritten.
//! - Damage that is found while the file is in use is marked, and the next start sets the file aside.
//! - What is lost is a proof: the file says how far the log was chosen, so this learner would notice that acceptors lost
//!   commits below. A damaged file cannot be trusted in this, and a learner that learns again does not notice.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// In the data directory: its file is to be set aside at the next start.
const MARK: &str = "DAMAGED";
/// Longest wait for SQLite's threads to close the file.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How often that is looked at.
const CLOSE_LOOK: Duration = Duration::from_millis(5);

/// Has the next start set `file` aside.
pub(super) fn mark(file: &Path) {
    // One small file, once in the life of a disk: worth no thread.
    if let Err(error) = File::create(file.with_file_name(MARK)) {
        tracing::warn!(%error, file = %file.display(), "cannot mark the damaged file: empty the data directory by hand");
    }
}

/// Whether an earlier run found damage in `file`.
pub(super) fn is_marked(file: &Path) -> bool {
    file.with_file_name(MARK).exists()
}

/// Renames `file` and its write-ahead log, and returns the file's new name. No connection to the file may be in use.
///
/// # Errors
/// A connection stays open, or the directory cannot be written.
///
/// # Cancel safety
/// Safe: files are renamed in one go, at the end.
pub(super) async fn set_aside(file: &Path) -> io::Result<PathBuf> {
    wait_until_closed(file).await?;
    // A start after a crash in the middle goes on here, and opens no file without its log.
    mark(file);
    let aside = with_suffix(file, ".damaged");
    let (log, log_aside) = (with_suffix(file, "-wal"), with_suffix(&aside, "-wal"));
    if_there(fs::remove_file(&log_aside))?;
    // The log goes first: SQLite would read it into the new file.
    if_there(fs::rename(&log, &log_aside))?;
    if_there(fs::rename(file, &aside))?;
    if_there(fs::remove_file(with_suffix(file, "-shm")))?;
    if_there(fs::remove_file(file.with_file_name(MARK)))?;
    if let Some(directory) = file.parent() {
        File::open(directory)?.sync_all()?;
    }
    Ok(aside)
}

/// SQLite's threads close their connections some time after these were dropped, and remove the write-ahead log by its
/// name: by then no other file may have that name.
async fn wait_until_closed(file: &Path) -> io::Result<()> {
    let begun = Instant::now();
    while is_open(file)? {
        if begun.elapsed() > CLOSE_MAX {
            return Err(io::Error::other("it is still open in this process"));
        }
        sleep(CLOSE_LOOK).await;
    }
    Ok(())
}

/// Whether this process has `file` open.
fn is_open(file: &Path) -> io::Result<bool> {
    for descriptor in fs::read_dir("/proc/self/fd")? {
        // One that is closed meanwhile has no target.
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
