//! A seed before its cluster is formed: recorded with space alone, never trimmed to, and never forgotten.

use paxos_common::paxos::{
    acceptor::{Membership, Seed},
    origin::Origin,
    quorum::Configuration,
    slot::Slot,
};

use super::*;
use crate::request::{FormStep, QueuedRequest};

/// A blank acceptor, the configuration of a restored cluster, and the file of its seed.
fn restored() -> (Cluster, Configuration, SnapshotId) {
    let cluster = Cluster::start_blank();
    let origin = Origin::after([7; 32], slot(9), None).unwrap();
    let configuration = cluster.configuration.clone().restored_from(origin.clone());
    let id = SnapshotId {
        to: origin.base(),
        ..file(9)
    };
    (cluster, configuration, id)
}

async fn keep_seed(shared: &Shared, configuration: &Configuration, id: SnapshotId) -> ChangeOutcome {
    let (answer, kept) = oneshot::channel();
    let seed = Seed::of(configuration).unwrap();
    let request = SnapshotChange::Seed { id, seed, answer };
    shared.snapshot_changes.send(request).await.unwrap();
    kept.await.unwrap()
}

async fn form(cluster: &Cluster, step: FormStep) {
    let (answer, formed) = oneshot::channel();
    cluster.queue.push(QueuedRequest::Form { step, answer }).unwrap();
    formed.await.unwrap().unwrap().unwrap();
}

/// No trim and no forgetting of the seed: the state stays.
async fn is_left_alone(cluster: &Cluster, id: SnapshotId) {
    let before = cluster.ends();
    let above = TrimRefusal::AboveCap {
        to: id.to,
        cap: Slot::ZERO,
    };
    for has_space in [false, true] {
        cluster.has_space.store(has_space, Ordering::Relaxed);
        assert_eq!(trim_to(&cluster.shared, id).await, Err(above.into()));
    }
    for reason in [ForgetReason::Suspect, ForgetReason::AboveCap] {
        assert_eq!(
            forget(&cluster.shared, id, reason).await,
            Err(SnapshotUnchanged::NotWaiting(id.to))
        );
    }
    // No learner of another cluster replaces the seed.
    let kept = keep(&cluster.shared, 10).await;
    assert!(matches!(kept, Err(SnapshotUnchanged::Refused(_))), "{kept:?}");
    assert_eq!(cluster.ends(), before);
    assert_eq!(before, (0, None, Some(id.to.get())));
}

#[tokio::test]
async fn seed_is_neither_trimmed_to_nor_forgotten_before_the_cluster_is_formed() {
    let (cluster, configuration, id) = restored();
    assert_eq!(keep_seed(&cluster.shared, &configuration, id).await, Ok(None));
    is_left_alone(&cluster, id).await;
    form(&cluster, FormStep::Store(configuration.clone())).await;
    is_left_alone(&cluster, id).await;
    // The record of a seed is no claim of a leader, also after a restart.
    let cluster = cluster.restart(true);
    is_left_alone(&cluster, id).await;
    form(&cluster, FormStep::Complete(configuration)).await;
    assert_eq!(cluster.ends(), (id.to.get(), Some(id.to.get()), None));
}

#[tokio::test]
async fn seed_without_space_is_refused_and_leaves_a_blank_acceptor() {
    let (cluster, configuration, id) = restored();
    let is_blank = || *cluster.shared.published().membership == Membership::Blank;
    cluster.has_space.store(false, Ordering::Relaxed);
    let refused = keep_seed(&cluster.shared, &configuration, id).await;
    assert_eq!(refused, Err(SnapshotUnchanged::NoSpace));
    assert!(is_blank() && cluster.ends() == (0, None, None));
    cluster.has_space.store(true, Ordering::Relaxed);
    assert_eq!(keep_seed(&cluster.shared, &configuration, id).await, Ok(None));
    assert!(!is_blank());
}
