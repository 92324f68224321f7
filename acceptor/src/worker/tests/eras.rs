//! The steps of a change of members: a later configuration, and joins, durable before they are answered.

use paxos_common::paxos::{
    acceptor::{InstallRefusal, Membership, Seed},
    ballot::Ballot,
    era::Era,
    identity::AcceptorUuid,
    origin::Origin,
    quorum::Configuration,
    slot::Slot,
};
use paxos_test_values::ballot;

use super::*;
use crate::{
    request::{FormAnswer, FormStep, QueuedRequest, StepRefusal},
    shared::Published,
};

/// The configuration of the next era: these acceptors, with write-all quorums.
fn next(of: &Configuration, members: &[u128]) -> Configuration {
    let member = |&number: &u128| {
        (
            AcceptorUuid::from_u128(number),
            Arc::<str>::from("http://b:1").into(),
        )
    };
    of.changed_to(members.iter().map(member), 1, members.len())
        .unwrap()
}

async fn step(cluster: &Cluster, step: FormStep) -> FormAnswer {
    let (answer, stepped) = oneshot::channel();
    cluster.queue.push(QueuedRequest::Form { step, answer }).unwrap();
    stepped.await.unwrap().unwrap()
}

async fn refusal(cluster: &Cluster, refused: FormStep) -> InstallRefusal {
    match step(cluster, refused).await.unwrap_err() {
        StepRefusal::Install(refusal) => refusal,
        StepRefusal::Form(refusal) => panic!("{refusal}"),
    }
}

fn is_formed(published: &Published, configuration: &Configuration) -> bool {
    *published.membership == Membership::Formed(configuration.clone())
}

#[tokio::test]
async fn installed_configuration_is_shown_at_once_and_after_a_restart() {
    let cluster = Cluster::start().await;
    cluster.voted(0..1, 0).await;
    let second = next(&cluster.configuration, &[1, 9]);
    let shown = step(&cluster, FormStep::Install(second.clone())).await.unwrap();
    let era = Era::FIRST.next();
    assert!(is_formed(&shown, &second));
    assert_eq!(shown.leadership.promised, Ballot::before(era));
    assert_eq!((&*shown.leadership.address, shown.least_version), ("", 3));
    assert_eq!(shown.voted_to, slot(1), "votes of the era before stay");
    // A later era is shown too.
    let third = next(&second, &[9]);
    let shown = step(&cluster, FormStep::Install(third.clone())).await.unwrap();
    assert!(is_formed(&shown, &third));
    // The leader of the first era is heard no more.
    let answer = cluster.voted(1..2, 0).await;
    assert!(matches!(answer, AcceptAnswer::Rejected(_)), "{answer:?}");
    let cluster = cluster.restart(true);
    let shown = cluster.shared.published();
    assert!(is_formed(&shown, &third));
    assert_eq!(shown.leadership.promised, Ballot::before(era.next()));
    assert_eq!(shown.least_version, 3);
}

#[tokio::test]
async fn step_waits_for_its_commit_and_needs_space() {
    let cluster = Cluster::start().await;
    let second = next(&cluster.configuration, &[1, 9]);
    let (answer, mut stepped) = oneshot::channel();
    cluster.gate.send_replace(false);
    let install = FormStep::Install(second.clone());
    cluster
        .queue
        .push(QueuedRequest::Form {
            step: install,
            answer,
        })
        .unwrap();
    crate::testing::settle().await;
    assert!(stepped.try_recv().is_err(), "not durable yet");
    assert!(is_formed(&cluster.shared.published(), &cluster.configuration));
    cluster.gate.send_replace(true);
    assert!(is_formed(&stepped.await.unwrap().unwrap().unwrap(), &second));
    cluster.has_space.store(false, Ordering::Relaxed);
    let (answer, stepped) = oneshot::channel();
    let install = FormStep::Install(next(&second, &[9]));
    cluster
        .queue
        .push(QueuedRequest::Form {
            step: install,
            answer,
        })
        .unwrap();
    stepped.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn blank_acceptor_joins_outside_the_configuration() {
    let cluster = Cluster::start_blank();
    let first = cluster.configuration.clone();
    let others = next(&first, &[7, 8]);
    let refused = refusal(&cluster, FormStep::Install(others.clone())).await;
    assert_eq!(refused, InstallRefusal::Blank);
    let refused = refusal(&cluster, FormStep::Join(first)).await;
    assert_eq!(refused, InstallRefusal::Listed(Era::FIRST));
    let shown = step(&cluster, FormStep::Join(others.clone())).await.unwrap();
    assert!(is_formed(&shown, &others));
    assert_eq!(cluster.shared.formed(), Some(others.cluster_id()));
    let cluster = cluster.restart(true);
    assert!(is_formed(&cluster.shared.published(), &others));
}

#[tokio::test]
async fn acceptor_joins_a_restored_cluster_with_the_snapshot_as_its_bottom() {
    let cluster = Cluster::start_blank();
    let origin = Origin::after([7; 32], slot(9), None).unwrap();
    let base = origin.base();
    let restored = next(&cluster.configuration.clone().restored_from(origin), &[7, 8]);
    let refused = refusal(&cluster, FormStep::Join(restored.clone())).await;
    let id = restored.cluster_id();
    assert_eq!(refused, InstallRefusal::NoBackup { cluster: id, base });
    let (answer, kept) = oneshot::channel();
    let seed = Seed { cluster: id, base };
    let id = SnapshotId { to: base, ..file(9) };
    let request = SnapshotChange::Seed { id, seed, answer };
    cluster.shared.snapshot_changes.send(request).await.unwrap();
    assert_eq!(kept.await.unwrap(), Ok(None));
    let shown = step(&cluster, FormStep::Join(restored.clone())).await.unwrap();
    assert!(is_formed(&shown, &restored));
    let base = base.get();
    assert_eq!(cluster.ends(), (base, Some(base), None));
    assert_eq!(shown.known_to.max(Slot::ZERO).get(), base);
    // A candidate of the era gets a promise.
    assert!(ballot(1).in_era(restored.era()) > shown.leadership.promised);
}
