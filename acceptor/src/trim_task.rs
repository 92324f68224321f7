//! The task that applies the trim policy: collects the facts, shows the decision, and checks a file before the trim.

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    contradictions::Contradictions,
    metrics::Instruments,
    shared::Shared,
    snapshot::SnapshotFiles,
    snapshot_change::{ChangeOutcome, ForgetReason, SnapshotChange},
    store::snapshots::{KeptSnapshots, SnapshotId},
    trim_policy::{Facts, RetainBytes, SnapshotWish, TrimDecision, TrimPolicy},
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
    pub(crate) retain_bytes: RetainBytes,
    /// Longest restart of a learner.
    pub(crate) restart_max: Duration,
    decision: Mutex<TrimDecision>,
    contradictions: Mutex<Contradictions>,
}

impl Snapshots {
    pub(crate) fn new(files: SnapshotFiles, retain_bytes: RetainBytes, restart_max: Duration) -> Self {
        Self {
            files: Arc::new(files),
            retain_bytes,
            restart_max,
            decision: Mutex::default(),
            contradictions: Mutex::default(),
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

    pub(crate) fn contradictions(&self) -> MutexGuard<'_, Contradictions> {
        self.contradictions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn show(&self, decision: TrimDecision) {
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
        let mut policy = TrimPolicy::new(self.snapshots.retain_bytes, self.snapshots.restart_max);
        let mut attempts = TrimAttempts::default();
        let mut ticks = self.shared.hearing.ticker(LOOK_INTERVAL);
        let work = async {
            loop {
                ticks.tick().await;
                let trim = self.look(&mut policy).await;
                if let Some(id) = trim.filter(|id| attempts.may_begin(*id, Instant::now())) {
                    let is_done = self.trim(&mut policy, id).await;
                    attempts.ended(id, is_done, Instant::now());
                }
            }
        };
        // Safe to cancel: a check only reads, and a trim on its way to the worker is decided there. The next start
        // removes files without a record.
        let _ = stop.run_until_cancelled(work).await;
    }

    /// Decides, shows the decision, and forgets a snapshot that must not be trimmed to. Returns the snapshot to trim to.
    async fn look(&self, policy: &mut TrimPolicy) -> Option<SnapshotId> {
        let decision = self.decide(policy);
        let (trim, forget) = (decision.trim, decision.forget);
        self.snapshots.show(decision);
        if let Some((id, reason)) = forget {
            self.forget(id, reason).await;
        }
        trim
    }

    /// Lets the worker forget a waiting snapshot, then removes the file. If this fails, a later look tries again.
    async fn forget(&self, id: SnapshotId, reason: ForgetReason) {
        // While this place is taken, no upload brings the same file again.
        let Some(_place) = self.snapshots.files.place() else {
            return;
        };
        let (answer, forgotten) = oneshot::channel();
        let request = SnapshotChange::Forget { id, reason, answer };
        match ask(&self.shared, request, forgotten).await {
            Some(Ok(unused)) => {
                warn!(to = id.to.get(), %reason, "forgets a waiting snapshot");
                if let Some(unused) = unused {
                    let recorded = self.shared.published().snapshots;
                    self.snapshots.files.remove(unused, &recorded).await;
                }
            }
            Some(Err(refused)) => debug!(%refused, to = id.to.get(), "the snapshot is not forgotten"),
            None => {}
        }
    }

    fn decide(&self, policy: &mut TrimPolicy) -> TrimDecision {
        let published = self.shared.published();
        // Before the cluster is formed, the waiting snapshot is a seed: nothing is to be trimmed or forgotten.
        let snapshots = match self.shared.formed() {
            Some(_) => published.snapshots,
            None => KeptSnapshots::default(),
        };
        let heard = self.shared.hearing.heard();
        let learners = self.roster.learners();
        let older_peer = self.roster.older_peer();
        let damaged = self.snapshots.files.damaged();
        let waiting = snapshots.waiting.map(|waiting| waiting.id);
        let contradictions = self.snapshots.contradictions().look(&self.roster, waiting);
        policy.look(&Facts {
            now: Instant::now(),
            log_bytes: self.instruments.log_bytes().filter(|_| !published.is_sweeping),
            trimmed_to: published.trimmed_to,
            chosen_to: published.chosen_to,
            cap: published.trim_cap,
            is_leader_stuck: published.turned_away_to > published.trim_cap,
            is_outside: published.is_outside(),
            has_leader: heard.ballot.round() > 0 && !heard.resigned && heard.silent < LEADER_SILENCE_MAX,
            is_low: published.no_space,
            snapshots,
            damaged: &damaged,
            is_arriving: self.snapshots.files.arriving().is_some(),
            failures: self.snapshots.files.failures(),
            learners: &learners,
            contradictions: &contradictions,
            older_peer: older_peer.as_deref(),
        })
    }

    /// Reads the file of a snapshot, for minutes if the file is large, and looks about as often as usual meanwhile. Returns
    /// whether the file is sound.
    async fn check(&self, policy: &mut TrimPolicy, id: SnapshotId) -> bool {
        let mut ticks = self.shared.hearing.ticker(LOOK_INTERVAL);
        let mut check = pin!(check(&self.snapshots, &self.shared, id));
        loop {
            tokio::select! {
                // Polled again if not ready.
                checked = &mut check => return checked.unwrap_or_else(|error| {
                    warn!(%error, file = id.file_name(), "cannot read a snapshot file: nothing is trimmed");
                    false
                }),
                // Only waits.
                () = ticks.tick() => {
                    self.look(policy).await;
                }
            }
        }
    }

    /// Checks the file, and lets the worker trim if the trim is still wanted then; returns whether the log is trimmed. If
    /// the worker refuses, the facts have changed: a later look decides again.
    async fn trim(&self, policy: &mut TrimPolicy, id: SnapshotId) -> bool {
        let mut span = self.tracer.begin(Beginning::new("acceptor.trim", Parent::None));
        if let Some(span) = &mut span {
            span.count(names::SLOT, id.to.get());
        }
        if !self.check(policy, id).await || self.look(policy).await != Some(id) {
            return false;
        }
        let (answer, trimmed) = oneshot::channel();
        let request = SnapshotChange::Trim { id, answer };
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

/// Attempts to trim to the end of a snapshot: after each attempt without success a longer pause.
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

/// Hands a change to the worker; none once the worker has ended.
pub(crate) async fn ask(
    shared: &Shared,
    change: SnapshotChange,
    answer: oneshot::Receiver<ChangeOutcome>,
) -> Option<ChangeOutcome> {
    shared.snapshot_changes.send(change).await.ok()?;
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
    use std::{fs, sync::atomic::Ordering};

    use paxos_common::{
        paxos::{acceptor::Seed, origin::Origin},
        service::metrics::Metrics,
        wire,
    };
    use paxos_proto::v1 as pb;
    use paxos_test_values::snapshot_file;

    use super::*;
    use crate::{
        attach::Attachment,
        store::{FileBytes, snapshots::SHA256_BYTES},
        testing::Cluster,
        trim_policy::LearnerReport,
    };

    /// An acceptor with the slots below 20 chosen and a waiting snapshot to slot 10. A trim is due at every look.
    struct Scene {
        cluster: Cluster,
        trimmer: Trimmer,
        policy: TrimPolicy,
        waiting: SnapshotId,
    }

    impl Scene {
        async fn new() -> Self {
            let cluster = Cluster::start().await;
            for (slots, chosen_to) in [(0..20, 0), (20..21, 20)] {
                cluster.accept_all(slots, chosen_to).recv().await.unwrap();
            }
            let to = Slot::new(10).unwrap();
            let (summary, content) = snapshot_file(&cluster.configuration, to, 4000);
            let waiting = SnapshotId {
                to,
                sha256: summary.sha256,
                bytes: summary.bytes,
            };
            fs::write(cluster.directory().join(waiting.file_name()), content).unwrap();
            let (answer, kept) = oneshot::channel();
            let request = SnapshotChange::Keep { id: waiting, answer };
            ask(&cluster.shared, request, kept).await.unwrap().unwrap();
            let mut scene = Self::of(cluster, waiting).await;
            assert_eq!(scene.trimmer.look(&mut scene.policy).await, Some(waiting));
            scene
        }

        /// An acceptor whose first look was long ago.
        async fn of(cluster: Cluster, waiting: SnapshotId) -> Self {
            let recorded = cluster.shared.published().snapshots;
            let files = SnapshotFiles::open(cluster.directory(), &recorded);
            let trimmer = Trimmer {
                snapshots: Arc::new(Snapshots::new(files, RetainBytes::All, Duration::from_mins(1))),
                shared: Arc::clone(&cluster.shared),
                roster: cluster.service.roster(),
                instruments: Instruments::new(&Metrics::unread()),
                tracer: Tracer::off(),
            };
            trimmer.instruments.file(FileBytes { used: 1, free: 0 });
            let mut policy = TrimPolicy::new(RetainBytes::AtLeast(0), Duration::from_mins(1));
            // Each start sweeps once.
            while cluster.shared.published().is_sweeping {
                tokio::task::yield_now().await;
            }
            let published = cluster.shared.published();
            policy.look(&Facts {
                now: Instant::now().checked_sub(Duration::from_mins(2)).unwrap(),
                log_bytes: Some(0),
                trimmed_to: published.trimmed_to,
                chosen_to: published.chosen_to,
                cap: published.trim_cap,
                has_leader: true,
                is_leader_stuck: false,
                is_outside: false,
                is_low: false,
                snapshots: published.snapshots,
                damaged: &[],
                is_arriving: false,
                failures: 0,
                learners: &[] as &[LearnerReport],
                contradictions: &[],
                older_peer: None,
            });
            Self {
                cluster,
                trimmer,
                policy,
                waiting,
            }
        }

        /// A learner attaches, with a digest below slot 8.
        fn attach(&self, peer: u64, version: u32, digest: &'static [u8]) -> Attachment {
            let attachment = self.trimmer.roster.attach(None).unwrap();
            attachment.report(pb::AttachRequest {
                caller: Some(pb::Caller {
                    protocol_version: version,
                    ..wire::caller(None)
                }),
                role: pb::Role::Learner.into(),
                peer,
                progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                    applied_to: 20,
                    digests: vec![pb::Digest {
                        to: 8,
                        digest: digest.into(),
                        state: digest.into(),
                    }],
                    ..Default::default()
                })),
                ..Default::default()
            });
            attachment
        }

        /// Attempts the trim that was due at the last look; returns the first slot of the log, and whether the file is
        /// left.
        async fn trim(&mut self) -> (u64, bool) {
            let is_done = self.trimmer.trim(&mut self.policy, self.waiting).await;
            let published = self.cluster.shared.published();
            assert_eq!(is_done, published.trimmed_to > Slot::ZERO);
            let file = self.cluster.directory().join(self.waiting.file_name());
            (published.trimmed_to.get(), file.exists())
        }
    }

    #[tokio::test]
    async fn everything_that_holds_trims_back_counts_after_the_check_of_the_file() {
        let mut scene = Scene::new().await;
        assert_eq!(scene.trim().await, (10, true));

        let mut scene = Scene::new().await;
        let _older = scene.attach(1, 1, b"a");
        assert_eq!(scene.trim().await, (0, true));

        // A suspect file is forgotten at once.
        let mut scene = Scene::new().await;
        let _learners = [scene.attach(1, 2, b"a"), scene.attach(2, 2, b"b")];
        assert_eq!(scene.trim().await, (0, false));
        assert_eq!(scene.cluster.shared.published().snapshots.waiting, None);
    }

    #[tokio::test]
    async fn seed_is_no_snapshot_to_trim_to_or_to_forget_also_on_a_full_disk() {
        let cluster = Cluster::start_blank();
        let origin = Origin::after([7; 32], Slot::new(9).unwrap(), None).unwrap();
        let seed = Seed::of(&cluster.configuration.clone().restored_from(origin)).unwrap();
        let id = SnapshotId {
            to: seed.base,
            sha256: [7; SHA256_BYTES],
            bytes: 9,
        };
        fs::write(cluster.directory().join(id.file_name()), [7; 9]).unwrap();
        let (answer, kept) = oneshot::channel();
        let request = SnapshotChange::Seed { id, seed, answer };
        ask(&cluster.shared, request, kept).await.unwrap().unwrap();
        cluster.has_space.store(false, Ordering::Relaxed);
        let mut scene = Scene::of(cluster, id).await;
        let _learners = [scene.attach(1, 2, b"a"), scene.attach(2, 2, b"b")];
        for _ in 0..2 {
            // The worker looks at the space with each change.
            scene.trimmer.forget(id, ForgetReason::AboveCap).await;
            assert!(scene.cluster.shared.published().no_space);
            assert_eq!(scene.trimmer.look(&mut scene.policy).await, None);
            assert_eq!(scene.trimmer.snapshots.decision().forget, None);
            assert_eq!(scene.cluster.shared.published().snapshots.waiting.unwrap().id, id);
        }
    }

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
