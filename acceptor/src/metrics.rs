//! What an acceptor counts and measures, and when it is ready.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_common::{
    metrics::{Counter, Durations, Metrics, Reason, Sizes},
    paxos::slot::Slot,
};
use tokio::sync::mpsc;

use crate::{
    shared::{Published, Shared},
    worker::{Command, QUEUE_MAX},
};

/// A commit that takes longer is no commit to rely on: leaders have given up waiting for it many times over.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// What the worker counts. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    commits: Durations,
    rows: Sizes,
    prepare_rejections: Counter,
    accept_rejections: Counter,
    /// The write-ahead log's, when the worker last looked.
    wal_bytes: Arc<AtomicU64>,
    committing_since: Arc<Mutex<Option<Instant>>>,
}

/// Whose request was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Prepare,
    Accept,
}

impl Instruments {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let [prepare_rejections, accept_rejections] = metrics.counters(
            "paxos.acceptor.rejections",
            "Requests turned away, because a higher ballot is promised",
            "phase",
            ["prepare", "accept"],
        );
        Self {
            commits: metrics.durations(
                "paxos.acceptor.commit.duration",
                "Time of a commit, until it is on disk",
            ),
            rows: metrics.counts("paxos.acceptor.commit.rows", "Slots written by a commit"),
            prepare_rejections,
            accept_rejections,
            wal_bytes: Arc::default(),
            committing_since: Arc::default(),
        }
    }

    /// Shows what the worker shows, and its queue.
    pub(crate) fn show(&self, metrics: &Metrics, shared: &Arc<Shared>, queue: &mpsc::Sender<Command>) {
        let gauge = |name, help, look: fn(&Published) -> Slot| {
            let shared = Arc::clone(shared);
            metrics.gauge(name, "", help, move || look(&shared.published()).get());
        };
        gauge(
            "paxos.acceptor.chosen_to",
            "Watermark: every slot below it is chosen, as leaders told",
            |published| published.chosen_to,
        );
        gauge(
            "paxos.acceptor.voted_to",
            "One past the highest slot accepted here",
            |published| published.voted_to,
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.formed",
            "",
            "1 once it votes in a cluster",
            move || u64::from(seen.formed().is_some()),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.no_space",
            "",
            "1 while too little space is left on its disk: it grants nothing",
            move || u64::from(seen.published().no_space),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.damaged_rows",
            "",
            "Rows found damaged on disk and not repaired yet",
            move || seen.published().damaged_rows,
        );
        // What is asked must not keep the queue open.
        let queue = queue.downgrade();
        metrics.gauge(
            "paxos.acceptor.queue.requests",
            "",
            "Requests that wait for the writer",
            move || {
                let queue = queue.upgrade();
                queue.map_or(0, |queue| QUEUE_MAX.saturating_sub(queue.capacity()) as u64)
            },
        );
        let bytes = Arc::clone(&self.wal_bytes);
        metrics.gauge(
            "paxos.acceptor.wal.size",
            "By",
            "Size of the write-ahead log's file",
            move || bytes.load(Ordering::Relaxed),
        );
    }

    /// Whether it can commit.
    pub(crate) fn readiness(&self, shared: &Shared) -> Result<(), Reason> {
        if shared.formed().is_none() {
            return Err("it belongs to no formed cluster yet".into());
        }
        if shared.published().no_space {
            return Err("too little space is left on its disk: it grants nothing".into());
        }
        self.disk_keeps_up()
    }

    fn disk_keeps_up(&self) -> Result<(), Reason> {
        let since = *self.lock();
        match since.map(|since| since.elapsed()) {
            Some(elapsed) if elapsed > COMMIT_MAX => Err(format!(
                "its disk has not finished a commit for {} seconds",
                elapsed.as_secs()
            )
            .into()),
            Some(_) | None => Ok(()),
        }
    }

    /// A commit begins.
    pub(crate) fn commit(&self, rows: usize) -> Commit<'_> {
        let begun = Instant::now();
        *self.lock() = Some(begun);
        Commit {
            instruments: self,
            begun,
            rows,
        }
    }

    /// A request was answered so.
    pub(crate) fn answered(&self, rejected: Option<Rejected>) {
        match rejected {
            Some(Rejected::Prepare) => self.prepare_rejections.increment(),
            Some(Rejected::Accept) => self.accept_rejections.increment(),
            None => {}
        }
    }

    pub(crate) fn wal(&self, bytes: u64) {
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.committing_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A commit that is under way. One that fails ends the process, and is not counted.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    instruments: &'a Instruments,
    begun: Instant,
    rows: usize,
}

impl Commit<'_> {
    /// It is on disk.
    pub(crate) fn done(self) {
        *self.instruments.lock() = None;
        self.instruments.commits.record(self.begun.elapsed());
        self.instruments.rows.record(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptor_whose_disk_hangs_is_not_ready_until_the_commit_is_done() {
        let instruments = Instruments::new(&Metrics::unread());
        assert_eq!(instruments.disk_keeps_up(), Ok(()));
        let commit = instruments.commit(1);
        assert_eq!(instruments.disk_keeps_up(), Ok(()));
        let long_ago = Instant::now().checked_sub(COMMIT_MAX * 2);
        *instruments.lock() = Some(long_ago.expect("the machine runs for longer"));
        let reason = instruments.disk_keeps_up().unwrap_err();
        assert!(reason.contains("for 10 seconds"), "{reason}");
        commit.done();
        assert_eq!(instruments.disk_keeps_up(), Ok(()));
    }
}
