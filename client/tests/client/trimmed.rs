//! Slots that learners do not keep any more: believed once every learner has said so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use paxos_client::{
    Client, Condition, Current, KeptSlots, ReadError, SubscribeError, Target, Version, WriteError, Written,
};
use paxos_test_values::slot;
use tonic::Status;

use crate::{
    client_of,
    fake::{
        FakeLearner, closed_address,
        world::{CommandFate, FakeWorld, LearnerReaction, trimmed},
    },
};

fn kept(from: u64, to: u64) -> KeptSlots {
    KeptSlots {
        from: slot(from),
        to: slot(to),
    }
}

/// A learner with the slots from `from` on and below `to`, three slots a stream.
fn learner(from: u64, to: u64) -> FakeLearner {
    FakeLearner::new(move |asked| {
        if asked < from {
            return Err(trimmed(from, to));
        }
        Ok((asked..to.min(asked + 3)).collect())
    })
}

/// The next slots of the log, and the error behind the last.
async fn follow(client: &Client, from: Option<u64>, until: u64) -> (Vec<u64>, Option<SubscribeError>) {
    let mut log = match from {
        Some(from) => client.log(slot(from)),
        None => client.kept_log(),
    };
    let mut slots = Vec::new();
    loop {
        match log.next().await.unwrap() {
            Ok(page) => {
                slots.extend(page.records.iter().map(|record| record.slot().get()));
                if page.next >= slot(until) {
                    return (slots, None);
                }
            }
            Err(error) => return (slots, Some(error)),
        }
    }
}

#[tokio::test]
async fn subscription_is_served_by_the_learner_that_keeps_more() {
    let (short, long) = (learner(50, 60), learner(10, 60));
    let (one, two) = (short.serve().await, long.serve().await);
    let client = client_of(&[], &[&one.address, &two.address]);
    let (slots, error) = follow(&client, Some(20), 60).await;
    assert_eq!((slots, error), ((20..60).collect(), None));
    assert!(!short.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn subscription_below_every_log_ends_with_the_longest_log() {
    let (short, long) = (learner(50, 60), learner(10, 58));
    let (one, two) = (short.serve().await, long.serve().await);
    let client = client_of(&[], &[&one.address, &two.address]);
    let (slots, error) = follow(&client, Some(9), 60).await;
    assert_eq!(slots, [] as [u64; 0]);
    let Some(SubscribeError::Trimmed { kept: found, cause }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(found, kept(10, 58));
    let text = "slots below 10 are not kept any more: this learner has 10 to 58. Begin there";
    assert!(cause.to_string().starts_with(text), "{cause}");
    assert_eq!(
        (
            short.asked.lock().unwrap().len(),
            long.asked.lock().unwrap().len()
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn learner_without_an_answer_may_still_keep_the_slot() {
    let short = learner(50, 60);
    let (one, absent) = (short.serve().await, closed_address().await);
    let client = client_of(&[], &[&one.address, &absent]).with_timeout(Duration::from_millis(500));
    let (_, error) = follow(&client, Some(9), 60).await;
    assert!(matches!(error, Some(SubscribeError::Unavailable(_))), "{error:?}");
    let outcome = client
        .outcome(Version {
            slot: slot(9),
            offset: 0,
        })
        .await;
    assert!(matches!(outcome, Err(ReadError::Unavailable(_))), "{outcome:?}");
}

#[tokio::test]
async fn absent_learner_hides_for_two_seconds_that_a_slot_is_gone() {
    let short = learner(50, 60);
    let (one, absent) = (short.serve().await, closed_address().await);
    let client = client_of(&[], &[&one.address, &absent]);
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let two = world.serve_learner(|_| LearnerReaction::Below(100)).await;
    let client_of_world = client_of(&[&proposer.address], &[&two.served.address, &absent]);
    let version = client_of_world.append_at_most_once("record").await.unwrap();
    let ((_, error), all, outcome) = tokio::join!(
        follow(&client, Some(9), 60),
        follow(&client, None, 60),
        client_of_world.outcome(version),
    );
    assert!(
        matches!(error, Some(SubscribeError::Trimmed { kept: found, .. }) if found == kept(50, 60)),
        "{error:?}"
    );
    assert_eq!(all, ((50..60).collect(), None));
    assert!(
        matches!(&outcome, Err(ReadError::Trimmed { kept: found, .. }) if found.from == slot(100)),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn slots_trimmed_in_mid_stream_end_the_subscription_once() {
    // The log begins later with every stream.
    let begin = Arc::new(AtomicU64::new(0));
    let moving = FakeLearner::new({
        let begin = Arc::clone(&begin);
        move |asked| {
            let from = begin.fetch_add(2, Ordering::Relaxed);
            if asked < from {
                return Err(trimmed(from, 100));
            }
            Ok((asked..asked + 1).collect())
        }
    });
    let served = moving.serve().await;
    let client = client_of(&[], &[&served.address]);
    let (slots, error) = follow(&client, Some(0), 60).await;
    assert_eq!(slots, [0]);
    assert!(
        matches!(error, Some(SubscribeError::Trimmed { kept: found, .. }) if found == kept(2, 100)),
        "{error:?}"
    );
}

#[tokio::test]
async fn kept_log_begins_at_the_oldest_slot_of_any_learner() {
    let (short, long) = (learner(50, 60), learner(10, 60));
    let (one, two) = (short.serve().await, long.serve().await);
    let client = client_of(&[], &[&one.address, &two.address]);
    assert_eq!(follow(&client, None, 60).await, ((10..60).collect(), None));
    let whole = learner(0, 6);
    let served = whole.serve().await;
    let client = client_of(&[], &[&served.address]);
    assert_eq!(follow(&client, None, 6).await, ((0..6).collect(), None));
}

/// A world and a client of learners that keep the log from these slots on.
async fn world(kept: &[u64]) -> (FakeWorld, Client, Vec<Box<dyn Send>>) {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let mut learners = Vec::new();
    for &kept in kept {
        learners.push(world.serve_learner(move |_| LearnerReaction::Below(kept)).await);
    }
    let addresses: Vec<_> = learners.iter().map(|learner| &learner.served.address).collect();
    let client = client_of(&[&proposer.address], &addresses);
    let held: Vec<Box<dyn Send>> = vec![Box::new(proposer), Box::new(learners)];
    (world, client, held)
}

#[tokio::test]
async fn outcome_is_trimmed_once_every_learner_says_so() {
    let (_world, client, _held) = world(&[5, 3]).await;
    for _ in 0..4 {
        client.append_at_most_once("record").await.unwrap();
    }
    let version = |number| Version {
        slot: slot(number),
        offset: 0,
    };
    let below = client.outcome(version(2)).await;
    assert!(
        matches!(&below, Err(ReadError::Trimmed { kept: found, .. }) if *found == kept(3, 4)),
        "{below:?}"
    );
    let written = client.outcome(version(3)).await.unwrap();
    assert_eq!(written, Written::Applied { version: version(3) });
}

#[tokio::test]
async fn write_below_the_log_has_the_outcome_recorded_by_its_session() {
    let (world, client, _held) = world(&[100, 90]).await;
    let written = client.put_if("key", "one", Condition::Absent).await.unwrap();
    let first = written.version();
    assert_eq!(written, Written::Applied { version: first });
    let lost = client.put_if("key", "two", Condition::Absent).await.unwrap();
    assert!(
        matches!(&lost, Written::ConditionFailed { current: Current::Register(held), .. } if held.version == first),
        "{lost:?}"
    );
    assert_eq!(world.opened(), 1);
}

#[tokio::test]
async fn write_below_the_log_of_one_learner_does_not_wait_for_an_absent_learner() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let learner = world.serve_learner(|_| LearnerReaction::Below(100)).await;
    let absent = closed_address().await;
    let client = client_of(&[&proposer.address], &[&learner.served.address, &absent]);
    // Less than the wait for an absent learner.
    let client = client.with_timeout(Duration::from_millis(1_900));
    client.put("key", "one").await.unwrap();
}

#[tokio::test]
async fn write_whose_record_is_gone_with_the_session_has_an_unknown_outcome() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let learner = world
        .serve_learner(|number| match number {
            0 => LearnerReaction::Below(100),
            1 => LearnerReaction::Fails(Status::aborted("the session has expired")),
            _ => LearnerReaction::Truth,
        })
        .await;
    let client = client_of(&[&proposer.address], &[&learner.served.address]);
    let unknown = client.put("key", "one").await;
    assert!(
        matches!(unknown, Err(WriteError::OutcomeUnknown(_))),
        "{unknown:?}"
    );
    // In another session.
    client.put("key", "two").await.unwrap();
    assert_eq!(world.opened(), 2);
}

#[tokio::test]
async fn watch_below_every_log_ends_with_the_longest_log() {
    let (_world, client, _held) = world(&[5, 3]).await;
    let from = Some(Version {
        slot: slot(2),
        offset: 7,
    });
    let mut watch = client.watch_with(Target::Key("key".into()), from);
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, SubscribeError::Trimmed { kept: found, .. } if found.from == slot(3)),
        "{error:?}"
    );
    assert!(watch.next().await.is_none());
}
