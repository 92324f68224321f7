//! Outcomes of writes over one stream, and single calls where there is no stream.

use std::time::Duration;

use futures::future::join_all;
use paxos_client::Written;
use tonic::Status;

use crate::{
    client_of,
    fake::world::{CommandFate, FakeWorld, LearnerReaction},
};

#[tokio::test]
async fn writes_share_one_stream_of_outcomes() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let learner = world.serve_learner(|_| LearnerReaction::Truth).await;
    let client = client_of(&[&proposer.address], &[&learner.served.address]);
    for _ in 0..3 {
        let writes = (0..100).map(|number| client.put(format!("key-{number}"), "value"));
        let mut versions: Vec<_> = join_all(writes).await.into_iter().map(Result::unwrap).collect();
        versions.dedup();
        assert_eq!(versions.len(), 100);
    }
    assert_eq!((learner.outcome_streams(), learner.calls()), (1, 300));
    let client_two = client_of(&[&proposer.address], &[&learner.served.address]);
    client_two.put("key", "value").await.unwrap();
    assert_eq!(learner.outcome_streams(), 2);
}

#[tokio::test]
async fn learner_of_an_older_release_is_asked_by_single_calls() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let old = world.serve_old_learner().await;
    let client = client_of(&[&proposer.address], &[&old.served.address]);
    for _ in 0..3 {
        client.put("key", "value").await.unwrap();
    }
    assert_eq!((old.outcome_streams(), old.calls()), (0, 3));
}

#[tokio::test]
async fn error_and_silence_on_the_stream_lead_to_another_learner() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let failing = world
        .serve_learner(|_| LearnerReaction::Fails(Status::unavailable("the disk is full")))
        .await;
    let silent = world.serve_learner(|_| LearnerReaction::Nothing).await;
    let good = world.serve_learner(|_| LearnerReaction::Truth).await;
    let addresses = [&failing, &silent, &good].map(|learner| &learner.served.address);
    let client = client_of(&[&proposer.address], &addresses).with_timeout(Duration::from_secs(5));
    for number in 0..20 {
        let version = client.put("key", "value").await.unwrap();
        let again = client.outcome(version).await.unwrap();
        assert_eq!(again, Written::Applied { version }, "write {number}");
    }
    assert!(failing.outcome_streams() + silent.outcome_streams() > 0);
}

#[tokio::test]
async fn stream_broken_by_the_end_of_a_learner_is_opened_again() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let dying = world.serve_learner(|_| LearnerReaction::Truth).await;
    let good = world.serve_learner(|_| LearnerReaction::Truth).await;
    let addresses = [&dying, &good].map(|learner| &learner.served.address);
    let client = client_of(&[&proposer.address], &addresses);
    let writes = (0..50).map(|number| client.put(format!("key-{number}"), "value"));
    join_all(writes).await.into_iter().for_each(|written| {
        written.unwrap();
    });
    drop(dying);
    for _ in 0..5 {
        client.put("key", "value").await.unwrap();
    }
}
