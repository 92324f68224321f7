//! The acceptor's metrics and readiness.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::{acceptor::Violation, message::Accept, slot::Slot},
    service::metrics::{Counter, DataDirSpace, Durations, Metrics, Sizes, UnreadyReason},
    wire::heard::millis,
};
use tracing::warn;

use crate::{
    commits::Commits,
    queue::WorkerQueue,
    request::Rejected,
    shared::{Published, Shared},
    snapshot::SnapshotFiles,
    store::FileBytes,
};

mod refused_values;

use refused_values::RefusedValues;

/// Maximum duration of a commit, and of a request's wait, for a ready acceptor: after a longer commit, leaders have
/// given up waiting many times over.
const COMMIT_MAX: Duration = Duration::from_secs(5);
/// Duration above which a commit is logged while no proposer has reported a leader timeout; also for a request's wait.
const SLOW: Duration = Duration::from_secs(1);
/// Minimum time between two log lines about slow commits, and between two log lines about waiting requests.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The worker's metrics. Cheap to clone; all clones share one state.
#[derive(Clone, Debug)]
pub(crate) struct Instruments {
    commits: Durations,
    rows: Sizes,
    prepare_rejections: Counter,
    accept_rejections: Counter,
    refused_values: RefusedValues,
    snapshots_kept: Counter,
    /// Size of the write-ahead log at the worker's last check.
    wal_bytes: Arc<AtomicU64>,
    /// Sizes of the parts of the file at the worker's last check.
    file: Arc<Mutex<FileBytes>>,
    disk: Arc<Mutex<DiskDelays>>,
    data_dir: DataDirSpace,
}

/// Delays of requests caused by the disk.
#[derive(Debug)]
struct DiskDelays {
    commits: Commits,
    /// Time of the last log line about a slow commit.
    slow_logged: Option<Instant>,
    /// Time of the last log line about a waiting request.
    waiting_logged: Option<Instant>,
}

/// Whether a line may be logged again. If so, the line counts as logged.
fn may_log(logged: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL);
    if is_due {
        *logged = Some(now);
    }
    is_due
}

impl Instruments {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let [prepare_rejections, accept_rejections] = metrics.counters(
            "paxos.acceptor.rejections",
            "Requests rejected because of a promise to a higher ballot",
            "phase",
            ["prepare", "accept"],
        );
        Self {
            commits: metrics.durations(
                "paxos.acceptor.commit.duration",
                "Duration of a commit, until durable on disk",
            ),
            rows: metrics.counts("paxos.acceptor.commit.rows", "Slots written by a commit"),
            prepare_rejections,
            accept_rejections,
            refused_values: RefusedValues::new(metrics),
            snapshots_kept: metrics.counter(
                "paxos.acceptor.snapshots_kept",
                "Snapshots received from learners, and recorded",
            ),
            wal_bytes: Arc::default(),
            file: Arc::default(),
            disk: Arc::new(Mutex::new(DiskDelays {
                commits: Commits::new(Instant::now()),
                slow_logged: None,
                waiting_logged: None,
            })),
            data_dir: DataDirSpace::shown(
                metrics,
                "paxos.acceptor.data_dir.size",
                "paxos.acceptor.data_dir.free",
            ),
        }
    }

    /// The space of the data directory.
    pub(crate) fn data_dir(&self) -> &DataDirSpace {
        &self.data_dir
    }

    /// Registers gauges of the worker's shown state and of the queue.
    pub(crate) fn show(&self, metrics: &Metrics, shared: &Arc<Shared>, queue: &Arc<WorkerQueue>) {
        let gauge = |name, help, look: fn(&Published) -> Slot| {
            let shared = Arc::clone(shared);
            metrics.gauge(name, "", help, move || look(&shared.published()).get());
        };
        gauge(
            "paxos.acceptor.chosen_to",
            "Watermark: every lower slot is chosen, as reported by leaders",
            |published| published.chosen_to,
        );
        gauge(
            "paxos.acceptor.voted_to",
            "One past the highest slot accepted here",
            |published| published.voted_to,
        );
        gauge(
            "paxos.acceptor.trimmed_to",
            "First slot of the log: a snapshot stands for every lower slot",
            |published| published.trimmed_to,
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.formed",
            "",
            "1 once this acceptor votes in a cluster",
            move || u64::from(seen.formed().is_some()),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.era",
            "",
            "Era of the stored configuration; 0 for a blank acceptor too",
            move || seen.published().leadership.promised.era().get(),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.member",
            "",
            "1 if the stored configuration lists this acceptor: its votes count",
            move || u64::from(seen.formed().is_some() && !seen.published().is_outside()),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.no_space",
            "",
            "1 while the disk has too little space: this acceptor promises and accepts nothing",
            move || u64::from(seen.published().no_space),
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.damaged_rows",
            "",
            "Rows found damaged on disk and not repaired yet",
            move || seen.published().damaged_rows,
        );
        let seen = Arc::clone(queue);
        metrics.gauge(
            "paxos.acceptor.queue.requests",
            "",
            "Requests waiting for the worker",
            move || seen.len() as u64,
        );
        let seen = Arc::clone(queue);
        metrics.seconds(
            "paxos.acceptor.waiting",
            "Waiting time of the oldest request, for the worker or for its commit; 0 when no request waits",
            move || seen.waiting(),
        );
        let seen = self.clone();
        metrics.seconds(
            "paxos.acceptor.slowest_commit",
            "Duration of the slowest commit of the last minute; an unfinished commit counts with its time so far",
            move || seen.slowest_commit(),
        );
        let bytes = Arc::clone(&self.wal_bytes);
        metrics.gauge(
            "paxos.acceptor.wal.size",
            "By",
            "Size of the write-ahead log's file",
            move || bytes.load(Ordering::Relaxed),
        );
        let seen = self.clone();
        metrics.gauge(
            "paxos.acceptor.log.size",
            "By",
            "Size of the log: the used pages of the acceptor's file",
            move || seen.file_bytes().used,
        );
        let seen = self.clone();
        metrics.gauge(
            "paxos.acceptor.file.free",
            "By",
            "Free pages of the acceptor's file: later votes use these pages before the file grows",
            move || seen.file_bytes().free,
        );
    }

    /// Registers gauges of the snapshot files.
    pub(crate) fn show_snapshots(metrics: &Metrics, shared: &Arc<Shared>, files: &Arc<SnapshotFiles>) {
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.snapshot_to",
            "",
            "End of the snapshot below the log; 0 before the first trim",
            move || {
                seen.published()
                    .snapshots
                    .bottom
                    .map_or(0, |bottom| bottom.id.to.get())
            },
        );
        let seen = Arc::clone(shared);
        metrics.gauge(
            "paxos.acceptor.snapshot.size",
            "By",
            "Size of the snapshot files, without an arriving snapshot",
            move || seen.published().snapshots.iter().map(|kept| kept.id.bytes).sum(),
        );
        let (seen, files) = (Arc::clone(shared), Arc::clone(files));
        metrics.gauge(
            "paxos.acceptor.snapshot_damaged",
            "",
            "Snapshot files that are missing or have wrong bytes",
            move || files.damaged_of(&seen.published().snapshots).len() as u64,
        );
    }

    /// Whether the acceptor can vote.
    pub(crate) fn readiness(&self, shared: &Shared, queue: &WorkerQueue) -> Result<(), UnreadyReason> {
        if shared.formed().is_none() {
            return Err("this acceptor belongs to no formed cluster yet".into());
        }
        let published = shared.published();
        if published.is_outside() {
            let era = published.leadership.promised.era();
            return Err(format!(
                "this acceptor is no member of its cluster in era {era}: if it was removed, it may be stopped; `paxos member` \
                 adds a new acceptor"
            )
            .into());
        }
        if published.no_space {
            return Err(
                "too little space is left on the disk: this acceptor promises and accepts nothing".into(),
            );
        }
        if let Some(reason) = shared.refusals.latest() {
            return Err(format!("a proposer does not count this acceptor: {reason}").into());
        }
        self.disk_keeps_up(queue.waiting())
    }

    /// `waiting`: age of the oldest waiting request.
    fn disk_keeps_up(&self, waiting: Duration) -> Result<(), UnreadyReason> {
        let elapsed = self.lock().commits.under_way(Instant::now());
        if elapsed > COMMIT_MAX {
            let seconds = elapsed.as_secs();
            return Err(format!("the disk has not finished a commit for {seconds} seconds").into());
        }
        if waiting > COMMIT_MAX {
            let seconds = waiting.as_secs();
            return Err(format!("a request has been waiting for the disk for {seconds} seconds").into());
        }
        Ok(())
    }

    /// The slowest commit of the last minute; an unfinished commit counts with its time so far.
    pub(crate) fn slowest_commit(&self) -> Duration {
        self.lock().commits.slowest(Instant::now())
    }

    /// A commit begins. `patience`, if known: a longer commit is logged.
    pub(crate) fn commit(&self, rows: usize, patience: Option<Duration>) -> Commit<'_> {
        self.lock().commits.begin(Instant::now());
        Commit {
            instruments: self,
            rows,
            patience: patience.unwrap_or(SLOW),
        }
    }

    /// Logs a request's wait of more than a second, at most once a minute. Call it about once a second.
    pub(crate) fn look_at_queue(&self, queue: &WorkerQueue) {
        let waiting = queue.waiting();
        if waiting > SLOW && may_log(&mut self.lock().waiting_logged, Instant::now()) {
            let seconds = waiting.as_secs_f64();
            warn!(
                waiting_s = (seconds * 1e3).round() / 1e3,
                queued = queue.len(),
                "a request has been waiting for the disk for more than a second: the disk is slow or hangs"
            );
        }
    }

    /// Counts the rejection of a request, if any.
    pub(crate) fn answered(&self, rejected: Option<Rejected>) {
        match rejected {
            Some(Rejected::Prepare) => self.prepare_rejections.increment(),
            Some(Rejected::Accept) => self.accept_rejections.increment(),
            None => {}
        }
    }

    /// Counts a proposal that contradicts a vote of this acceptor.
    pub(crate) fn contradicted(&self, accept: &Accept, violation: &Violation) {
        self.refused_values.contradicted(accept, violation);
    }

    /// Counts a proposal whose value belongs to a later release.
    pub(crate) fn newer(&self, reason: &str) {
        self.refused_values.newer(reason);
    }

    /// Counts a recorded snapshot.
    pub(crate) fn kept_snapshot(&self) {
        self.snapshots_kept.increment();
    }

    pub(crate) fn wal(&self, bytes: u64) {
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Sizes of the parts of the acceptor's file, as of the worker's last check.
    pub(crate) fn file_bytes(&self) -> FileBytes {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the log, as of the worker's last check; none before the first successful check.
    pub(crate) fn log_bytes(&self) -> Option<u64> {
        Some(self.file_bytes().used).filter(|&bytes| bytes > 0)
    }

    /// Shows the sizes of the parts of the acceptor's file.
    pub(crate) fn file(&self, bytes: FileBytes) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DiskDelays> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running commit. A failed commit ends the process, and is not counted.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    instruments: &'a Instruments,
    rows: usize,
    patience: Duration,
}

impl Commit<'_> {
    /// The commit is on disk.
    pub(crate) fn done(self) {
        let now = Instant::now();
        let mut disk = self.instruments.lock();
        let took = disk.commits.done(now);
        if took > self.patience && may_log(&mut disk.slow_logged, now) {
            let slowest = disk.commits.slowest(now);
            warn!(
                commit_ms = millis(took),
                slowest_ms = millis(slowest),
                limit_ms = millis(self.patience),
                "the disk is slow: a commit took longer than the leader timeout; slowest_ms is the slowest of the last minute"
            );
        }
        drop(disk);
        self.instruments.commits.record(took);
        self.instruments.rows.record(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptor_whose_disk_hangs_is_not_ready_until_the_commit_is_done() {
        let instruments = Instruments::new(&Metrics::unread());
        assert_eq!(instruments.disk_keeps_up(Duration::ZERO), Ok(()));
        let commit = instruments.commit(1, None);
        assert_eq!(instruments.disk_keeps_up(Duration::ZERO), Ok(()));
        let long_ago = Instant::now().checked_sub(COMMIT_MAX * 2);
        let long_ago = long_ago.expect("the machine runs for longer");
        instruments.lock().commits.begin(long_ago);
        let reason = instruments.disk_keeps_up(Duration::ZERO).unwrap_err();
        assert!(reason.contains("for 10 seconds"), "{reason}");
        commit.done();
        assert_eq!(instruments.disk_keeps_up(Duration::ZERO), Ok(()));
        assert!(instruments.slowest_commit() >= COMMIT_MAX * 2);
        let reason = instruments.disk_keeps_up(COMMIT_MAX * 3).unwrap_err();
        assert!(reason.contains("waiting for the disk for 15 seconds"), "{reason}");
    }

    #[test]
    fn line_is_logged_once_a_minute() {
        let now = Instant::now();
        let mut logged = None;
        assert!(may_log(&mut logged, now));
        assert!(!may_log(&mut logged, now + LOG_INTERVAL / 2));
        assert!(may_log(&mut logged, now + LOG_INTERVAL));
        assert!(!may_log(&mut logged, now + LOG_INTERVAL));
    }
}
