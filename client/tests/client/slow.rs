//! Learners that answer late or never: frozen processes, and addresses in the roster that belong to no learner.

use std::time::{Duration, Instant};

use paxos_client::{Client, Consistency, Target};

use crate::{
    client_of,
    fake::world::{CommandFate, FakeWorld, LearnerReaction, ServedLearner},
};

/// Below the first wait of the library for a single learner.
const SOON: Duration = Duration::from_millis(900);

async fn frozen(world: &FakeWorld) -> ServedLearner {
    world.serve_learner(|_| LearnerReaction::Nothing).await
}

/// A client of these learners, in this order of preference.
fn client(learners: &[&ServedLearner]) -> Client {
    let addresses: Vec<_> = learners.iter().map(|learner| &learner.served.address).collect();
    client_of(&[], &addresses)
}

async fn reads_soon(client: &Client) {
    let begun = Instant::now();
    let read = client.get_with("key", Consistency::Local).await;
    assert_eq!(read.unwrap(), None);
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn read_at_a_frozen_learner_is_answered_by_another_learner() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let good = world.serve_learner(|_| LearnerReaction::Truth).await;
    let (one, two) = (frozen(&world).await, frozen(&world).await);
    let calls = || one.calls() + two.calls();
    // The learner is chosen at random.
    let mut unlucky = client(&[&one, &good, &two]);
    while calls() == 0 {
        unlucky = client(&[&one, &good, &two]);
        reads_soon(&unlucky).await;
    }
    reads_soon(&unlucky).await;
    let before = calls();
    for _ in 0..20 {
        reads_soon(&unlucky).await;
    }
    assert!(calls() <= before + 1, "{} after {before}", calls());
}

#[tokio::test]
async fn call_asks_a_bounded_number_of_learners_at_a_time() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let mut learners = Vec::new();
    for _ in 0..8 {
        learners.push(frozen(&world).await);
    }
    let learners: Vec<_> = learners.iter().collect();
    // Ends before the first learner is given up.
    let client = client(&learners).with_timeout(Duration::from_secs(1));
    client.get_with("key", Consistency::Local).await.unwrap_err();
    let calls: usize = learners.iter().map(|learner| learner.calls()).sum();
    assert!((2..=6).contains(&calls), "{calls}");
}

#[tokio::test]
async fn watch_of_silent_learners_ends_within_the_timeout() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let silent = [frozen(&world).await, frozen(&world).await, frozen(&world).await];
    let timeout = Duration::from_secs(1);
    let client = client(&[&silent[0], &silent[1], &silent[2]]).with_timeout(timeout);
    let begun = Instant::now();
    let mut watch = client.watch_with(Target::Prefix("".into()), None);
    watch.next().await.unwrap().unwrap_err();
    let took = begun.elapsed();
    assert!(took < timeout + timeout / 2, "{took:?}");
}

#[tokio::test]
async fn watch_ends_within_the_timeout_after_the_last_message() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let reaction = |call| {
        if call == 0 {
            LearnerReaction::FirstPage
        } else {
            LearnerReaction::Nothing
        }
    };
    let (one, two) = (world.serve_learner(reaction).await, frozen(&world).await);
    let timeout = Duration::from_secs(2);
    let client = client(&[&one, &two]).with_timeout(timeout);
    let mut watch = client.watch_with(Target::Prefix("".into()), None);
    watch.next().await.unwrap().unwrap();
    let begun = Instant::now();
    watch.next().await.unwrap().unwrap_err();
    let took = begun.elapsed();
    assert!(took < timeout + timeout / 2, "{took:?}");
}

#[tokio::test]
async fn watch_finds_the_learner_behind_silent_ones_within_the_timeout() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let silent = [frozen(&world).await, frozen(&world).await];
    let good = world.serve_learner(|_| LearnerReaction::Truth).await;
    let client = client(&[&silent[0], &silent[1], &good]).with_timeout(Duration::from_secs(3));
    let begun = Instant::now();
    let mut watch = client.watch_with(Target::Prefix("".into()), None);
    watch.next().await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
