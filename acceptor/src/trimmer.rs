//! The task that decides about snapshots: whom to ask, when to trim, and which files are sound.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
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
/// Silence after which a leader does not count as active.
const LEADER_SILENCE_MAX: Duration = Duration::from_secs(10);

/// The snapshots of an acceptor: the files, and the latest decision. Shared by the task and the service.
#[derive(Debug)]
pub(crate) struct Snapshots {
    pub(crate) files: Arc<SnapshotFiles>,
    pub(crate) retain: RetainBytes,
    decision: Mutex<TrimDecision>,
}

impl Snapshots {
    pub(crate) fn new(files: SnapshotFiles, retain: RetainBytes) -> Self {
        Self {
            files: Arc::new(files),
            retain,
            decision: Mutex::default(),
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
        let mut ticks = self.shared.hearing.ticker(LOOK_INTERVAL);
        let work = async {
            loop {
                ticks.tick().await;
                let decision = self.decide(&mut retention);
                let trim = decision.trim;
                self.snapshots.show(decision);
                if let Some(id) = trim {
                    self.trim(id).await;
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
            learners: &learners,
        })
    }

    /// Checks the file, then lets the worker trim. If the worker refuses, the facts have changed: the next look decides
    /// again.
    async fn trim(&self, id: SnapshotId) {
        let mut span = self.tracer.begin(Beginning::new("acceptor.trim", Parent::None));
        if let Some(span) = &mut span {
            span.count(names::SLOT, id.to.get());
        }
        match check(&self.snapshots, &self.shared, id).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                warn!(%error, file = id.file_name(), "cannot read a snapshot file: nothing is trimmed");
                return;
            }
        }
        let (answer, trimmed) = oneshot::channel();
        let request = RetainRequest::Trim { id, answer };
        match ask(&self.shared, request, trimmed).await {
            Some(Ok(Some(unused))) => self.snapshots.files.remove(unused).await,
            Some(Err(refused)) => debug!(%refused, to = id.to.get(), "the log is not trimmed"),
            Some(Ok(None)) | None => {}
        }
        if let Some(span) = span {
            span.end();
        }
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
            for id in recorded.iter().map(|kept| kept.id) {
                if let Err(error) = check(&snapshots, &shared, id).await {
                    warn!(%error, file = id.file_name(), "cannot read a snapshot file; trying again later");
                }
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    };
    // Safe to cancel: only reads.
    let _ = stop.run_until_cancelled(work).await;
}
