//! The task that decides about snapshots: whom to ask, when to trim, and which files are sound.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::slot::Slot,
    trace::{Beginning, Parent, Tracer, names},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    attach::Roster,
    metrics::Instruments,
    retain::{RetainRequest, Retained},
    retention::{Facts, RetainBytes, Retention, SnapshotWish, TrimDecision},
    shared::Shared,
    snapshot::SnapshotFiles,
    store::snapshots::SnapshotId,
};

/// Interval of looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between two checks of all files.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);
/// Pause before another check of files that could not be read.
const UNREAD_INTERVAL: Duration = Duration::from_mins(1);
/// Longest pause after a trim that was not done: each attempt reads the whole file.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Silence after which a leader does not count as active.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(10);

/// The snapshots of an acceptor: the files, and the latest decision. Shared by the task and the service.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) files: Arc<SnapshotFiles>,
    pub(crate) retain: RetainBytes,
    decision: Mutex<TrimDecision>,
    /// Number of failed uploads.
    failures: AtomicU64,
}

impl Snapshots {
    pub(crate) fn new(files: SnapshotFiles, retain: RetainBytes) -> Self {
        Self {
            files: Arc::new(files),
            retain,
            decision: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// The latest decision.
    pub(crate) fn decision(&self) -> TrimDecision {
        self.decision
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The slot above which this learner shall send a snapshot, if the learner is asked.
    pub(crate) fn wanted_from(&self, peer: u64) -> Option<Slot> {
        let decision = self.decision.lock().unwrap_or_else(PoisonError::into_inner);
        let wish = decision.wish.filter(|wish| wish.peer == peer);
        wish.map(|SnapshotWish { above, .. }| above)
    }

    /// A snapshot has arrived: the next look decides about the next question.
    pub(crate) fn arrived(&self) {
        self.decision.lock().unwrap_or_else(PoisonError::into_inner).wish = None;
    }

    /// An upload has failed: the acceptor pauses, then asks the next learner.
    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.arrived();
    }

    /// Asks a learner, as the only decision.
    #[cfg(test)]
    pub(crate) fn show_wish(&self, wish: SnapshotWish) {
        self.show(TrimDecision {
            wish: Some(wish),
            ..TrimDecision::default()
        });
    }

    fn show(&self, decision: TrimDecision) {
        let mut shown = self.decision.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.wish != decision.wish {
            debug!(wish = ?decision.wish, "the wanted snapshot has changed");
        }
        *shown = decision;
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Trimmer {
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) instruments: Instruments,
    pub(crate) tracer: Tracer,
}

impl Trimmer {
    /// Looks about once a second, until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut retention = Retention::new(self.snapshots.retain);
        let mut attempts = TrimAttempts::default();
        let mut ticks = self.shared.hearing.ticker(LOOK_INTERVAL);
        let work = async {
            loop {
                ticks.tick().await;
                let decision = self.decide(&mut retention);
                let trim = decision.trim;
                self.snapshots.show(decision);
                if let Some(id) = trim.filter(|id| attempts.may_begin(*id, Instant::now())) {
                    let is_done = self.trim(id).await;
                    attempts.ended(id, is_done, Instant::now());
                }
            }
        };
        // Safe to cancel: a check only reads, and a trim on its way to the worker is decided there. The next start
        // removes files without a record.
        let _ = stop.run_until_cancelled(work).await;
    }

    fn decide(&self, retention: &mut Retention) -> TrimDecision {
        let published = self.shared.published();
        let heard = self.shared.hearing.heard();
        let learners = self.roster.learners();
        let older_peer = self.roster.older_peer();
        let damaged = self.snapshots.files.damaged();
        retention.look(&Facts {
            now: Instant::now(),
            log_bytes: (!published.is_sweeping).then(|| self.instruments.file_bytes().used),
            trimmed_to: published.trimmed_to,
            chosen_to: published.chosen_to,
            cap: published.trim_cap,
            has_leader: heard.ballot.round() > 0 && !heard.resigned && heard.silent < LEADER_SILENCE_MAX,
            is_low: published.no_space,
            snapshots: published.snapshots,
            damaged: &damaged,
            is_arriving: self.snapshots.files.arriving().is_some(),
            failures: self.snapshots.failures.load(Ordering::Relaxed),
            learners: &learners,
            older_peer: older_peer.as_deref(),
        })
    }

    /// Checks the file, then lets the worker trim; returns whether the log is trimmed. If the worker refuses, the facts
    /// have changed: a later look decides again.
    async fn trim(&self, id: SnapshotId) -> bool {
        let mut span = self.tracer.begin(Beginning::new("acceptor.trim", Parent::None));
        if let Some(span) = &mut span {
            span.count(names::SLOT, id.to.get());
        }
        match check(&self.snapshots, &self.shared, id).await {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                warn!(%error, file = id.file_name(), "cannot read a snapshot file: nothing is trimmed");
                return false;
            }
        }
        let (answer, trimmed) = oneshot::channel();
        let request = RetainRequest::Trim { id, answer };
        let trimmed = ask(&self.shared, request, trimmed).await;
        let is_done = matches!(trimmed, Some(Ok(_)));
        match trimmed {
            Some(Ok(Some(unused))) => {
                let recorded = self.shared.published().snapshots;
                self.snapshots.files.remove(unused, &recorded).await;
            }
            Some(Err(refused)) => debug!(%refused, to = id.to.get(), "the log is not trimmed"),
            Some(Ok(None)) | None => {}
        }
        if let Some(span) = span {
            span.end();
        }
        is_done
    }
}

/// TrimAttempts to trim to the end of a snapshot: after each attempt without success a longer pause.
#[derive(Clone, Copy, Debug, Default)]
struct TrimAttempts {
    /// The snapshot, the time of the next attempt, and the last pause.
    failed: Option<(SnapshotId, Instant, Duration)>,
}

impl TrimAttempts {
    fn may_begin(&self, id: SnapshotId, now: Instant) -> bool {
        self.failed
            .is_none_or(|(failed, next, _)| failed != id || now >= next)
    }

    fn ended(&mut self, id: SnapshotId, is_done: bool, now: Instant) {
        let before = self.failed.filter(|(failed, ..)| *failed == id);
        let pause = before.map_or(LOOK_INTERVAL, |(_, _, pause)| (pause * 2).min(PAUSE_MAX));
        self.failed = (!is_done).then_some((id, now + pause, pause));
    }
}

/// Hands a request to the worker; none once the worker has ended.
pub(crate) async fn ask(
    shared: &Shared,
    request: RetainRequest,
    answer: oneshot::Receiver<Retained>,
) -> Option<Retained> {
    shared.retain.send(request).await.ok()?;
    answer.await.ok()
}

/// Reads the file of a record; returns whether the file is sound.
async fn check(snapshots: &Snapshots, shared: &Shared, id: SnapshotId) -> io::Result<bool> {
    let is_recorded = || shared.published().snapshots.iter().any(|kept| kept.id == id);
    snapshots.files.check(id, is_recorded).await
}

/// Checks all recorded snapshot files, at the start and then once an hour, until `stop`.
pub(crate) async fn check_files(snapshots: Arc<Snapshots>, shared: Arc<Shared>, stop: CancellationToken) {
    let work = async {
        loop {
            let recorded = shared.published().snapshots;
            let mut pause = CHECK_INTERVAL;
            for id in recorded.iter().map(|kept| kept.id) {
                if let Err(error) = check(&snapshots, &shared, id).await {
                    warn!(%error, file = id.file_name(), "cannot read a snapshot file; trying again in a minute");
                    pause = UNREAD_INTERVAL;
                }
            }
            tokio::time::sleep(pause).await;
        }
    };
    // Safe to cancel: only reads.
    let _ = stop.run_until_cancelled(work).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::snapshots::SHA256_BYTES;

    #[test]
    fn attempts_without_success_come_less_and_less_often() {
        let snapshot = |to| SnapshotId {
            to: Slot::new(to).unwrap(),
            sha256: [7; SHA256_BYTES],
            bytes: 9,
        };
        let begun = Instant::now();
        let mut attempts = TrimAttempts::default();
        let mut begun_after = Vec::new();
        for second in 0..200 {
            let now = begun + Duration::from_secs(second);
            if attempts.may_begin(snapshot(7), now) {
                begun_after.push(second);
                attempts.ended(snapshot(7), false, now);
            }
        }
        assert_eq!(begun_after, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        let now = begun + Duration::from_secs(200);
        assert!(attempts.may_begin(snapshot(8), now), "a newer snapshot");
        attempts.ended(snapshot(7), true, now);
        assert!(attempts.may_begin(snapshot(7), now));
    }
}
