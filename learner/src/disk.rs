//! A full disk: reported, shown as not ready, and waited out. A learner's data can be learned again, so the learner
//! pauses instead of ending.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use paxos_common::service::metrics::UnreadyReason;
use rustix::fs::statvfs;

/// Time between two attempts to write while the disk is full.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Time between two log lines about a disk that stays full.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Free space in bytes below which an input/output error of SQLite counts as a full disk: SQLite reports such an error
/// after a failure to extend the index of the write-ahead log.
const FREE_MIN: u64 = 1024 * 1024;

/// Whether the disk of a learner's file is full, shared by all interested tasks.
#[derive(Debug, Default)]
pub(crate) struct DiskSpace(Mutex<Option<FullDisk>>);

#[derive(Debug)]
struct FullDisk {
    file: PathBuf,
    since: Instant,
    reported_at: Instant,
}

impl DiskSpace {
    /// A write to `file` failed for lack of space, and is tried again.
    pub(crate) fn is_full(&self, file: &Path) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(full) = &*state
            && now.duration_since(full.reported_at) < REPORT_INTERVAL
        {
            return;
        }
        let since = state.as_ref().map_or(now, |full| full.since);
        *state = Some(FullDisk {
            file: file.to_owned(),
            since,
            reported_at: now,
        });
        drop(state);
        tracing::error!(
            file = %file.display(), waited_s = now.duration_since(since).as_secs(),
            "no space is left on the disk of this file: this learner writes nothing and refuses reads; the other \
             learners continue. Free space for a snapshot of the state and 64 MiB more; this learner then continues by \
             itself"
        );
    }

    /// A write succeeded.
    pub(crate) fn has_space(&self) {
        if let Some(full) = self.lock().take() {
            tracing::info!(
                file = %full.file.display(), waited_s = full.since.elapsed().as_secs(),
                "the disk has space again: this learner continues"
            );
        }
    }

    /// Whether the disk accepts writes.
    pub(crate) fn look(&self) -> Result<(), UnreadyReason> {
        match &*self.lock() {
            None => Ok(()),
            Some(full) => Err(format!("no space is left on the disk of {}", full.file.display()).into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<FullDisk>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a statement on `file` failed because the disk is full.
pub(crate) fn found_no_space(error: &sqlx::Error, file: &Path) -> bool {
    /// SQLite's codes for a full disk and for an input/output error. Extended codes have the same low byte.
    const FULL: u32 = 13;
    const IO_ERROR: u32 = 10;
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()?.parse::<u32>().ok());
    match code.map(|code| code & 0xff) {
        Some(FULL) => true,
        Some(IO_ERROR) => file
            .parent()
            .and_then(|directory| statvfs(directory).ok())
            .is_some_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < FREE_MIN),
        Some(_) | None => false,
    }
}
