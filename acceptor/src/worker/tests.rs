//! The real worker: records, trims and sweeps beside votes, on a full disk, and after a restart.

use std::sync::{Arc, atomic::Ordering};

use paxos_common::{
    paxos::{
        acceptor::TrimRefusal,
        identity::{AcceptorUuid, RunNumber},
        message::AcceptAnswer,
    },
    service::{failure::Exit, metrics::Metrics},
    trace::Tracer,
};
use paxos_test_values::slot;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Worker;
use crate::{
    metrics::Instruments,
    shared::Shared,
    snapshot_change::{ChangeOutcome, ForgetReason, SnapshotChange, SnapshotUnchanged},
    store::{
        Reader as _, SWEEP_ROWS_MAX, Store as _,
        memory::MemoryDisk,
        snapshots::{KeptSnapshot, KeptSnapshots, SHA256_BYTES, SnapshotId},
    },
    testing::Cluster,
    trim_policy::RetainBytes,
};

mod before_forming;
mod eras;

/// The snapshot file to a slot.
fn file(to: u64) -> SnapshotId {
    SnapshotId {
        to: slot(to),
        sha256: [u8::try_from(to % 251).unwrap(); SHA256_BYTES],
        bytes: 1000 + to,
    }
}

async fn keep(shared: &Shared, to: u64) -> ChangeOutcome {
    let (answer, kept) = oneshot::channel();
    let request = SnapshotChange::Keep { id: file(to), answer };
    shared.snapshot_changes.send(request).await.unwrap();
    kept.await.unwrap()
}

async fn trim(shared: &Shared, to: u64) -> ChangeOutcome {
    trim_to(shared, file(to)).await
}

async fn trim_to(shared: &Shared, id: SnapshotId) -> ChangeOutcome {
    let (answer, trimmed) = oneshot::channel();
    let request = SnapshotChange::Trim { id, answer };
    shared.snapshot_changes.send(request).await.unwrap();
    trimmed.await.unwrap()
}

async fn forget(shared: &Shared, id: SnapshotId, reason: ForgetReason) -> ChangeOutcome {
    let (answer, forgotten) = oneshot::channel();
    let request = SnapshotChange::Forget { id, reason, answer };
    shared.snapshot_changes.send(request).await.unwrap();
    forgotten.await.unwrap()
}

impl Cluster {
    /// The answer to votes for `slots`, from a leader with the watermark `chosen_to`.
    async fn voted(&self, slots: std::ops::Range<u64>, chosen_to: u64) -> AcceptAnswer {
        self.accept_all(slots, chosen_to)
            .recv()
            .await
            .unwrap()
            .reply
            .answer
    }

    /// A cluster with votes for the slots below `to`, all chosen.
    async fn with_votes(to: u64) -> Self {
        let cluster = Self::start().await;
        for (slots, chosen_to) in [(0..to, 0), (to..to + 1, to)] {
            let answer = cluster.voted(slots, chosen_to).await;
            assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
        }
        cluster
    }

    fn ends(&self) -> (u64, Option<u64>, Option<u64>) {
        let published = self.shared.published();
        let KeptSnapshots { bottom, waiting } = published.snapshots;
        let end = |kept: Option<KeptSnapshot>| Some(kept?.id.to.get());
        (published.trimmed_to.get(), end(bottom), end(waiting))
    }
}

/// Number of rows on a disk below `to`, shown or not.
async fn rows_below(disk: &MemoryDisk, to: u64) -> usize {
    let slots: Vec<_> = (0..to).map(slot).collect();
    disk.held(&slots).await.unwrap().len()
}

async fn until_swept(disk: &MemoryDisk, to: u64) {
    while rows_below(disk, to).await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn trim_to_a_file_other_than_the_waiting_file_is_refused() {
    let cluster = Cluster::with_votes(20).await;
    let shared = &cluster.shared;
    keep(shared, 10).await.unwrap();
    let mut other_hash = file(10);
    other_hash.sha256[31] ^= 1;
    let mut other_size = file(10);
    other_size.bytes += 1;
    for other in [other_hash, other_size, file(9)] {
        let refused = trim_to(shared, other).await;
        assert_eq!(refused, Err(SnapshotUnchanged::NotWaiting(other.to)));
    }
    assert_eq!(cluster.ends(), (0, None, Some(10)));
    assert_eq!(trim(shared, 10).await, Ok(None));
}

#[tokio::test]
async fn waiting_file_alone_is_forgotten() {
    let cluster = Cluster::with_votes(20).await;
    let shared = &cluster.shared;
    let forget = async |id| forget(shared, id, ForgetReason::Suspect).await;
    keep(shared, 5).await.unwrap();
    trim(shared, 5).await.unwrap();
    keep(shared, 10).await.unwrap();
    let mut other = file(10);
    other.sha256[31] ^= 1;
    for other in [other, file(9), file(5)] {
        assert_eq!(forget(other).await, Err(SnapshotUnchanged::NotWaiting(other.to)));
    }
    assert_eq!(cluster.ends(), (5, Some(5), Some(10)));
    cluster.is_exhausted.store(true, Ordering::Relaxed);
    assert_eq!(forget(file(10)).await, Err(SnapshotUnchanged::NoSpace));
    cluster.is_exhausted.store(false, Ordering::Relaxed);
    assert_eq!(forget(file(10)).await, Ok(Some(file(10))));
    assert_eq!(cluster.ends(), (5, Some(5), None));
    assert_eq!(
        trim(shared, 10).await,
        Err(SnapshotUnchanged::NotWaiting(slot(10)))
    );
    assert_eq!(keep(shared, 10).await, Ok(None), "the same file again");
}

#[tokio::test]
async fn snapshot_forgotten_above_the_cap_stays_if_a_claim_has_arrived_since() {
    let cluster = Cluster::with_votes(20).await;
    let shared = &cluster.shared;
    cluster.voted(30..31, 25).await;
    keep(shared, 25).await.unwrap();
    for (claim, expected) in [
        (24, Ok(Some(file(25)))),
        (25, Err(SnapshotUnchanged::BelowCap(slot(25)))),
        (26, Err(SnapshotUnchanged::BelowCap(slot(25)))),
    ] {
        cluster.voted(30..31, claim).await;
        assert_eq!(shared.published().trim_cap, slot(claim));
        assert_eq!(forget(shared, file(25), ForgetReason::AboveCap).await, expected);
        cluster.voted(30..31, 25).await;
        keep(shared, 25).await.unwrap();
    }
    // A suspect is forgotten wherever the cap is.
    let forgotten = forget(shared, file(25), ForgetReason::Suspect).await;
    assert_eq!((forgotten, cluster.ends()), (Ok(Some(file(25))), (0, None, None)));
}

#[tokio::test]
async fn snapshots_are_recorded_and_trimmed_to_within_the_cap() {
    let cluster = Cluster::with_votes(20).await;
    let shared = &cluster.shared;
    assert_eq!(
        trim(shared, 10).await,
        Err(SnapshotUnchanged::NotWaiting(slot(10)))
    );
    let above = TrimRefusal::AboveCap {
        to: slot(21),
        cap: slot(20),
    };
    assert_eq!(keep(shared, 21).await, Err(above.into()));
    assert_eq!(keep(shared, 5).await, Ok(None));
    assert_eq!(cluster.ends(), (0, None, Some(5)));
    let unused = keep(shared, 10).await.unwrap().unwrap();
    assert_eq!(unused.to, slot(5), "the caller removes the replaced file");
    assert_eq!(keep(shared, 10).await, Ok(None), "the same file again");
    assert_eq!(trim(shared, 5).await, Err(SnapshotUnchanged::NotWaiting(slot(5))));
    assert_eq!(trim(shared, 10).await, Ok(None));
    assert_eq!(cluster.ends(), (10, Some(10), None));
    let below = TrimRefusal::NotAbove {
        to: slot(10),
        trimmed_to: slot(10),
    };
    assert_eq!(keep(shared, 10).await, Err(below.into()));
    assert_eq!(keep(shared, 20).await, Ok(None));
    assert_eq!(trim(shared, 20).await.unwrap().unwrap().to, slot(10));
    assert_eq!(cluster.ends(), (20, Some(20), None));
    let answer = cluster.voted(19..20, 20).await;
    assert_eq!(answer, AcceptAnswer::Trimmed { trimmed_to: slot(20) });
    assert!(matches!(
        cluster.voted(22..23, 20).await,
        AcceptAnswer::Accepted { .. }
    ));
}

#[tokio::test]
async fn trimmed_rows_are_swept_beside_votes() {
    let rows = 5 * SWEEP_ROWS_MAX as u64;
    let cluster = Cluster::with_votes(rows).await;
    assert_eq!(rows_below(&cluster.disk, rows).await as u64, rows);
    keep(&cluster.shared, rows - 10).await.unwrap();
    trim(&cluster.shared, rows - 10).await.unwrap();
    for at in rows + 1..rows + 50 {
        let answer = cluster.voted(at..at + 1, rows).await;
        assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
    }
    until_swept(&cluster.disk, rows - 10).await;
    assert_eq!(rows_below(&cluster.disk, rows + 50).await, 60);
}

#[tokio::test]
async fn trims_and_sweeps_continue_while_the_disk_is_low_and_not_when_it_is_full() {
    let cluster = Cluster::with_votes(600).await;
    cluster.has_space.store(false, Ordering::Relaxed);
    assert_eq!(cluster.voted(700..701, 600).await, AcceptAnswer::NoSpace);
    cluster.is_exhausted.store(true, Ordering::Relaxed);
    assert_eq!(keep(&cluster.shared, 600).await, Err(SnapshotUnchanged::NoSpace));
    cluster.is_exhausted.store(false, Ordering::Relaxed);
    assert_eq!(keep(&cluster.shared, 600).await, Ok(None));
    cluster.is_exhausted.store(true, Ordering::Relaxed);
    assert_eq!(trim(&cluster.shared, 600).await, Err(SnapshotUnchanged::NoSpace));
    cluster.is_exhausted.store(false, Ordering::Relaxed);
    assert_eq!(trim(&cluster.shared, 600).await, Ok(None));
    until_swept(&cluster.disk, 600).await;
    assert_eq!(cluster.voted(700..701, 600).await, AcceptAnswer::NoSpace);
}

#[tokio::test]
async fn full_acceptor_hears_how_far_leaders_are_and_trims_itself_free() {
    let cluster = Cluster::with_votes(600).await;
    cluster.has_space.store(false, Ordering::Relaxed);
    assert_eq!(cluster.voted(700..701, 650).await, AcceptAnswer::NoSpace);
    assert_eq!(cluster.shared.published().trim_cap, slot(650));
    assert_eq!(cluster.ends(), (0, None, None));
    assert_eq!(keep(&cluster.shared, 650).await, Ok(None));
    assert_eq!(trim(&cluster.shared, 650).await, Ok(None));
    until_swept(&cluster.disk, 601).await;
    cluster.has_space.store(true, Ordering::Relaxed);
    let answer = cluster.voted(700..701, 650).await;
    assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
}

/// An acceptor that has heard from the leader that all slots below 650 are chosen, lacks the slots from 601 on, and has no
/// space.
async fn full_below_the_leader() -> Cluster {
    let cluster = Cluster::with_votes(600).await;
    cluster.has_space.store(false, Ordering::Relaxed);
    assert_eq!(cluster.voted(700..701, 650).await, AcceptAnswer::NoSpace);
    cluster
}

#[tokio::test]
async fn full_acceptor_trims_to_its_recorded_snapshot_after_a_restart_without_a_leader() {
    let cluster = full_below_the_leader().await;
    keep(&cluster.shared, 650).await.unwrap();
    let cluster = cluster.restart(false);
    assert_eq!(cluster.shared.published().trim_cap, slot(650), "also for uploads");
    assert_eq!(trim(&cluster.shared, 650).await, Ok(None));
    until_swept(&cluster.disk, 601).await;
}

#[tokio::test]
async fn full_acceptor_trims_to_its_recorded_snapshot_although_a_later_leader_claims_less() {
    let cluster = full_below_the_leader().await;
    keep(&cluster.shared, 650).await.unwrap();
    assert_eq!(cluster.voted(700..701, 610).await, AcceptAnswer::NoSpace);
    let published = cluster.shared.published();
    assert_eq!(
        (published.trim_cap, published.turned_away_to),
        (slot(610), slot(701))
    );
    // A claim without a proposal, and a proposal below the cap, show no stuck leader.
    for (slots, chosen_to) in [(700..700, 611), (605..606, 611), (605..606, 610)] {
        cluster.voted(slots, chosen_to).await;
        let published = cluster.shared.published();
        assert!(published.turned_away_to <= published.trim_cap, "{published:?}");
    }
    let above = TrimRefusal::AboveCap {
        to: slot(650),
        cap: slot(610),
    };
    // With space, the leader gets further and repeats the claim.
    cluster.has_space.store(true, Ordering::Relaxed);
    assert_eq!(trim(&cluster.shared, 650).await, Err(above.into()));
    cluster.has_space.store(false, Ordering::Relaxed);
    assert_eq!(
        trim(&cluster.shared, 640).await,
        Err(SnapshotUnchanged::NotWaiting(slot(640)))
    );
    assert_eq!(trim(&cluster.shared, 650).await, Ok(None));
    until_swept(&cluster.disk, 601).await;
    assert_eq!(cluster.ends(), (650, Some(650), None));
}

#[tokio::test]
async fn full_acceptor_keeps_a_snapshot_of_its_chosen_rows_after_a_restart_without_a_leader() {
    let cluster = full_below_the_leader().await;
    let cluster = cluster.restart(false);
    // The row of slot 600 was written before the slot was known to be chosen.
    assert_eq!(keep(&cluster.shared, 601).await, Ok(None));
    assert_eq!(trim(&cluster.shared, 601).await, Ok(None));
}

#[tokio::test]
async fn exhausted_disk_takes_no_commit_for_a_claim() {
    let cluster = Cluster::with_votes(600).await;
    cluster.is_exhausted.store(true, Ordering::Relaxed);
    let before = cluster.shared.published().stamp.commit_counter;
    assert_eq!(cluster.voted(700..701, 650).await, AcceptAnswer::NoSpace);
    let published = cluster.shared.published();
    assert_eq!(
        (published.stamp.commit_counter, published.trim_cap),
        (before, slot(600))
    );
}

#[tokio::test]
async fn failed_sweep_ends_the_worker() {
    let mut cluster = Cluster::with_votes(600).await;
    cluster.fails_sweep.store(true, Ordering::Relaxed);
    let shared = Arc::clone(&cluster.shared);
    // The worker may end before an answer: a sweep at start is due as well.
    tokio::spawn(async move {
        keep(&shared, 600).await.unwrap();
        trim(&shared, 600).await.unwrap();
    });
    let failure = (&mut cluster.worker).await.unwrap().unwrap_err();
    assert_eq!(failure.code, Exit::Storage);
    assert!(
        failure.to_string().contains("delete trimmed rows from"),
        "{failure}"
    );
}

#[tokio::test]
async fn rows_left_by_the_last_process_are_swept() {
    let cluster = Cluster::with_votes(600).await;
    let disk = cluster.disk.clone();
    // The process ends after the trim, before the sweep.
    cluster.worker.abort();
    let run = RunNumber::from_random(3);
    let (mut store, opened) = disk.open(run);
    let snapshot = KeptSnapshot {
        id: file(590),
        log_bytes: 9,
    };
    store.keep(snapshot).await.unwrap();
    let core = paxos_common::paxos::acceptor::Acceptor::recover(opened.recovered, run);
    let mut group = core.group();
    core.trim(&mut group, slot(590)).unwrap();
    store.commit(core.write(&group).unwrap()).await.unwrap();
    assert_eq!(rows_below(&disk, 590).await, 590);

    let run = RunNumber::from_random(4);
    let (store, opened) = disk.open(run);
    assert_eq!(opened.recovered.uuid, AcceptorUuid::from_u128(1));
    let metrics = Instruments::new(&Metrics::unread());
    let (worker, shared, _) = Worker::new(store, opened, run, RetainBytes::All, Tracer::off(), metrics);
    let stop = CancellationToken::new();
    let worker = tokio::spawn(worker.run(stop.clone()));
    until_swept(&disk, 590).await;
    assert_eq!(shared.published().trimmed_to, slot(590));
    stop.cancel();
    worker.await.unwrap().unwrap();
}
