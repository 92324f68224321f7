//! Values that no leader of this release proposes: refused, while the acceptor goes on.

use super::*;

#[tokio::test]
async fn acceptor_that_rejected_a_second_value_serves_the_next_leader() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut leader = TestLeader::open(&cluster, address, 1, 20).await;
    leader.send(leader.value(1, 0, 100)).await;
    leader.answer().await.unwrap();
    let mut forged = TestLeader::open(&cluster, address, 1, 20).await;
    forged.send(forged.value(1, 0, 99)).await;
    let (_, answer) = forged.answer().await.unwrap();
    assert!(matches!(answer, Answer::Rejected(_)), "{answer:?}");
    leader.send(leader.value(2, 1, 100)).await;
    let (_, answer) = leader.answer().await.unwrap();
    assert!(matches!(answer, Answer::Rejected(_)), "{answer:?}");
    let mut next = TestLeader::open(&cluster, address, 3, 20).await;
    next.send(next.value(1, 1, 100)).await;
    let (_, answer) = next.answer().await.unwrap();
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    assert_eq!(cluster.voted_to().await, 2);
}

#[tokio::test]
async fn other_value_for_a_chosen_slot_is_refused_and_the_leader_goes_on() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut leader = TestLeader::open(&cluster, address, 1, 20).await;
    leader.send(leader.value(1, 0, 100)).await;
    leader.answer().await.unwrap();
    let chosen = pb::AcceptRequest {
        chosen_to: 1,
        ..leader.numbered(2)
    };
    leader.send(chosen).await;
    leader.answer().await.unwrap();
    let mut forged = TestLeader::open(&cluster, address, 1, 20).await;
    let second = pb::AcceptRequest {
        ballot: Some(ballot(2).into()),
        ..forged.value(1, 0, 99)
    };
    forged.send(second).await;
    let (_, answer) = forged.answer().await.unwrap();
    let Answer::Refused(refused) = answer else {
        panic!("{answer:?}");
    };
    assert!(refused.reason.contains("slot 0 is chosen"), "{refused:?}");
    leader.send(leader.value(3, 1, 100)).await;
    let (_, answer) = leader.answer().await.unwrap();
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
}

#[tokio::test]
async fn value_of_a_newer_release_gets_no_vote() {
    let cluster = Cluster::start().await;
    let address = cluster.serve().await;
    let mut leader = TestLeader::open(&cluster, address, 1, 20).await;
    let mut newer = leader.value(1, 0, 100);
    // Field 15 of a command.
    newer.proposals[0].value = (&[0x0a, 0x02, 0x7a, 0x00][..]).into();
    leader.send(newer).await;
    let (sequence, answer) = leader.answer().await.unwrap();
    let Answer::Refused(refused) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(sequence, 1);
    assert!(
        refused.reason.contains("Upgrade all acceptors first"),
        "{refused:?}"
    );
    // The stream goes on, and the acceptor votes for values that it can read.
    leader.send(leader.value(2, 1, 100)).await;
    let (_, answer) = leader.answer().await.unwrap();
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    assert_eq!(cluster.voted_to().await, 2);
}
