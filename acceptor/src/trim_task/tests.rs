//! Trims that are due, and everything that holds a trim back after the check of the file.

use std::fs;

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
    trim_policy::{LearnerReport, ReportedDigest},
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
            contradicted: None,
            contested: &[],
            is_arriving: false,
            failures: 0,
            learners: &[] as &[LearnerReport],
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
async fn waiting_snapshot_is_forgotten_once_a_learner_reports_another_digest_at_its_end() {
    let mut scene = Scene::new().await;
    let given = |state: u8| GivenSnapshot {
        giver: 1,
        digest: ReportedDigest {
            to: scene.waiting.to,
            log: vec![8; 32].into(),
            state: vec![state; 16].into(),
        },
    };
    let reports = |state: u8| {
        let attachment = scene.trimmer.roster.attach(None).unwrap();
        attachment.report(pb::AttachRequest {
            caller: Some(wire::caller(None)),
            role: pb::Role::Learner.into(),
            peer: 2,
            progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                applied_to: 20,
                digests: vec![pb::Digest {
                    to: scene.waiting.to.get(),
                    digest: vec![8; 32].into(),
                    state: vec![state; 16].into(),
                }],
                ..Default::default()
            })),
            ..Default::default()
        });
        attachment
    };
    let _learners = [scene.attach(1, 2, b"a"), reports(7)];
    let snapshots = Arc::clone(&scene.trimmer.snapshots);
    snapshots.contests().keeps(scene.waiting, given(7));
    assert_eq!(scene.trimmer.look(&mut scene.policy).await, Some(scene.waiting));
    snapshots.contests().keeps(scene.waiting, given(9));
    // Between the check of the file and the trim.
    assert_eq!(scene.trim().await, (0, false));
    assert_eq!(scene.cluster.shared.published().snapshots.waiting, None);
    let texts = snapshots.contests().texts();
    assert!(
        texts[0].contains("contradicts the digest of learner 2"),
        "{texts:?}"
    );
    assert!(snapshots.contests().of(1).is_some());
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
