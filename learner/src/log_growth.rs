//! How much the log has grown since the snapshot: the writer counts, and the maker of snapshots follows.
//!
//! A start reads the snapshot and applies the log after it again. So the log after the snapshot may be about as large as the
//! snapshot: then a start takes at most about twice as long, and the disk gets each byte of the state about once more.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// Size of the log after the snapshot in bytes that is never worth a new snapshot: a start applies this much within about a
/// second.
pub(crate) const LOG_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// The growth of the log, shared by the writer and the maker of snapshots.
#[derive(Debug)]
pub(crate) struct LogGrowth {
    /// Usually [`LOG_BYTES_MIN`].
    least: u64,
    /// Size in bytes of everything written, and of the log after the snapshot found at start.
    written: AtomicU64,
    /// The part of `written` in the snapshot.
    covered: AtomicU64,
    /// Size of the snapshot file in bytes.
    snapshot: AtomicU64,
    /// A new snapshot is due.
    due: watch::Sender<bool>,
}

impl LogGrowth {
    /// The growth at start: `log` bytes after a snapshot file of `snapshot` bytes.
    pub(crate) fn new(least: u64, log: u64, snapshot: u64) -> Self {
        let growth = Self {
            least,
            written: AtomicU64::new(log),
            covered: AtomicU64::new(0),
            snapshot: AtomicU64::new(snapshot),
            due: watch::Sender::new(false),
        };
        growth.look();
        growth
    }

    /// Bytes so far. A snapshot begun now covers this much at least.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Size of the recorded snapshot file in bytes; 0 without a file.
    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot.load(Ordering::Relaxed)
    }

    /// The log has grown by this many bytes.
    pub(crate) fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.look();
    }

    /// A snapshot file of `snapshot` bytes is recorded; `covered`: [`Self::written`] at its beginning.
    pub(crate) fn recorded(&self, covered: u64, snapshot: u64) {
        self.covered.store(covered, Ordering::Relaxed);
        self.snapshot.store(snapshot, Ordering::Relaxed);
        self.look();
    }

    /// Follows whether a new snapshot is due.
    pub(crate) fn follow_due(&self) -> watch::Receiver<bool> {
        self.due.subscribe()
    }

    fn look(&self) {
        let log = self.written() - self.covered.load(Ordering::Relaxed);
        let is_due = log >= self.least.max(self.snapshot.load(Ordering::Relaxed));
        self.due
            .send_if_modified(|due| std::mem::replace(due, is_due) != is_due);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_is_due_once_the_log_is_as_large_as_the_last_snapshot() {
        let growth = LogGrowth::new(10, 7, 0);
        let due = growth.follow_due();
        assert!(!*due.borrow());
        growth.wrote(3);
        assert!(*due.borrow());
        let covered = growth.written();
        growth.wrote(6);
        growth.recorded(covered, 20);
        assert!(!*due.borrow());
        growth.wrote(13);
        assert!(!*due.borrow());
        growth.wrote(1);
        assert!(*due.borrow());
        // Found at start.
        assert!(*LogGrowth::new(10, 20, 20).follow_due().borrow());
        assert!(!*LogGrowth::new(10, 19, 20).follow_due().borrow());
    }
}
