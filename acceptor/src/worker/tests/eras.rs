//! The steps of a change of members: a later configuration, and joins, durable before they are answered.

use paxos_common::paxos::{
    acceptor::{InstallRefusal, Membership},
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
async fn blank_acceptor_joins_a_restored_cluster_and_starts_again_before_its_snapshot_has_come() {
    let cluster = Cluster::start_blank();
    let origin = Origin::after([7; 32], slot(9), None).unwrap();
    let base = origin.base();
    let restored = next(&cluster.configuration.clone().restored_from(origin), &[7, 8]);
    let shown = step(&cluster, FormStep::Join(restored.clone())).await.unwrap();
    assert!(is_formed(&shown, &restored));
    assert_eq!(cluster.ends(), (0, None, None));
    let cluster = cluster.restart(true);
    assert!(is_formed(&cluster.shared.published(), &restored));
    // A claim of the leader of this era lets the acceptor keep the snapshot, and lift itself.
    let base = base.get();
    let above = TrimRefusal::AboveCap {
        to: slot(base),
        cap: Slot::ZERO,
    };
    assert_eq!(keep(&cluster.shared, base).await, Err(above.into()));
    let leader = ballot(1).in_era(restored.era());
    let answer = cluster.accept_at(leader, base..base + 1, base).recv().await;
    let answer = answer.unwrap().reply.answer;
    assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
    assert_eq!(keep(&cluster.shared, base).await, Ok(None));
    assert_eq!(trim(&cluster.shared, base).await, Ok(None));
    assert_eq!(cluster.ends(), (base, Some(base), None));
}
