//! Registers in the hands of an application: exactly once despite all losses on the way; reads from any learner that
//! answers.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use paxos_client::{
    Client, Condition, Consistency, Current, PageRequest, ReadError, Slot, Target, Version, WriteError,
    Written,
};
use paxos_common::wire::status::{self, no_leader};
use paxos_proto::v1::{Command, Put, SessionStamp, command::Operation};
use tonic::Status;

use crate::{
    LONG, client_of,
    fake::{
        FakeAcceptor, Served, closed_address,
        world::{self, CommandFate, FakeWorld, LearnerReaction},
    },
    retry_after,
};

/// A world with a proposer, a truthful learner, and a client of both.
async fn world(
    fate: impl Fn(usize) -> CommandFate + Send + Sync + 'static,
) -> (FakeWorld, Client, Served, world::ServedLearner) {
    let world = FakeWorld::new(fate);
    let (proposer, learner) = (
        world.serve_proposer().await,
        world.serve_learner(|_| LearnerReaction::Truth).await,
    );
    let client = client_of(&[&proposer.address], &[&learner.served.address]);
    (world, client, proposer, learner)
}

fn version(slot: u64) -> Version {
    Version {
        slot: Slot::new(slot).unwrap(),
        offset: 0,
    }
}

fn put(key: &'static str, value: &'static str) -> Command {
    Command {
        session: None,
        operation: Some(Operation::Put(Put {
            key: key.into(),
            value: value.into(),
            condition: None,
        })),
    }
}

fn stamps(world: &FakeWorld) -> Vec<SessionStamp> {
    world
        .log()
        .into_iter()
        .filter_map(|command| command.session)
        .collect()
}

#[tokio::test]
async fn condition_that_fails_is_an_outcome_with_what_the_register_held() {
    let (_world, client, _proposer, _learner) = world(|_| CommandFate::Ordered).await;
    let written = client.put_if("key", "one", Condition::Absent).await.unwrap();
    assert_eq!(written, Written::Applied { version: version(1) });
    let lost = client.put_if("key", "two", Condition::Absent).await.unwrap();
    let Written::ConditionFailed {
        current: Current::Register(register),
        ..
    } = lost
    else {
        panic!("{lost:?}")
    };
    assert_eq!((&register.value[..], register.version), (&b"one"[..], version(1)));
    let written = client
        .put_if("key", "two", Condition::Version(version(1)))
        .await
        .unwrap();
    assert!(written.is_applied());
    let register = client.get("key").await.unwrap().unwrap();
    assert_eq!((&register.value[..], register.version), (&b"two"[..], version(3)));
    let stale = Condition::Version(version(1));
    assert!(!client.delete_if("key", stale).await.unwrap().is_applied());
    assert_eq!(client.delete("key").await.unwrap(), version(5));
    assert_eq!(client.get_with("key", Consistency::Local).await.unwrap(), None);
}

#[tokio::test]
async fn write_with_a_lost_answer_takes_effect_once() {
    // Of the first three attempts, the second is lost, and the other two are ordered.
    let (world, client, _proposer, _learner) = world(|number| match number {
        0 | 2 => CommandFate::AnswerLost,
        1 => CommandFate::Lost,
        _ => CommandFate::Ordered,
    })
    .await;
    let written = client.put_if("key", "value", Condition::Absent).await.unwrap();
    assert_eq!(written, Written::Applied { version: version(1) });
    let stamps = stamps(&world);
    assert_eq!(stamps.len(), 3);
    assert!(stamps.iter().all(|stamp| *stamp == stamps[0]), "{stamps:?}");
    assert_eq!(client.append("record").await.unwrap(), version(4));
}

#[tokio::test]
async fn write_and_read_wait_before_a_retry_for_as_long_as_the_cluster_requests() {
    let delay = Duration::from_millis(700);
    let world = FakeWorld::new(move |number| match number {
        0 => CommandFate::Fails(retry_after(delay)),
        _ => CommandFate::Ordered,
    });
    let proposer = world.serve_proposer().await;
    // The first answer is about the put's outcome.
    let learner = world
        .serve_learner(move |number| match number {
            1 => LearnerReaction::Fails(retry_after(delay)),
            _ => LearnerReaction::Truth,
        })
        .await;
    let client = client_of(&[&proposer.address], &[&learner.served.address]);
    let begun = Instant::now();
    client.put("key", "value").await.unwrap();
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
    let begun = Instant::now();
    client.get("key").await.unwrap();
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn append_is_repeated_with_a_session_and_never_without() {
    let (world, client, _proposer, _learner) = world(|number| match number {
        0 | 2 => CommandFate::AnswerLost,
        _ => CommandFate::Ordered,
    })
    .await;
    assert_eq!(client.append("once").await.unwrap(), version(1));
    client.append_at_most_once("maybe").await.unwrap_err();
    assert_eq!(world.log().len(), 4);
}

#[tokio::test]
async fn decision_is_ours_only_when_our_own_command_decided() {
    let (world, client, _proposer, _learner) = world(|number| match number {
        0 => CommandFate::AnswerLost,
        _ => CommandFate::Ordered,
    })
    .await;
    let ours = client.decide("leader", "alice").await.unwrap();
    assert_eq!(
        (&ours.winner[..], ours.version, ours.ours),
        (&b"alice"[..], version(1), true)
    );
    for value in ["bob", "alice"] {
        let again = client.decide("leader", value).await.unwrap();
        assert_eq!(
            (&again.winner[..], again.version, again.ours),
            (&b"alice"[..], version(1), false)
        );
    }
    world.order(put("other", "carol"));
    let other = client.decide("other", "dave").await.unwrap();
    assert_eq!((&other.winner[..], other.ours), (&b"carol"[..], false));
}

#[tokio::test]
async fn calls_made_together_share_a_session_and_acknowledge_what_is_read() {
    let (world, client, _proposer, _learner) = world(|_| CommandFate::Ordered).await;
    let calls = (0..200).map(|number| client.put(format!("key{number}"), ""));
    for written in futures::future::join_all(calls).await {
        written.unwrap();
    }
    client.put("last", "").await.unwrap();
    assert_eq!(world.opened(), 1);
    let stamps = stamps(&world);
    let mut sequences: Vec<_> = stamps.iter().map(|stamp| stamp.sequence).collect();
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=201).collect::<Vec<_>>());
    assert_eq!(stamps.last().unwrap().acked_below, 201);
}

#[tokio::test]
async fn expired_session_is_reported_and_the_next_call_opens_another() {
    let (world, client, _proposer, _learner) = world(|_| CommandFate::Ordered).await;
    client.put("key", "one").await.unwrap();
    world.expire_sessions();
    let error = client.put("key", "two").await.unwrap_err();
    assert!(error == WriteError::Expired && error.had_no_effect(), "{error:?}");
    client.put("key", "three").await.unwrap();
    assert_eq!(world.opened(), 2);
    let values = world
        .log()
        .into_iter()
        .filter_map(|command| match command.operation {
            Some(Operation::Put(put)) => Some(put.value),
            _ => None,
        });
    assert_eq!(
        values.collect::<Vec<_>>(),
        ["one", "two", "three"],
        "nothing is sent again under a new session"
    );
}

#[tokio::test]
async fn expiry_after_an_attempt_of_unknown_fate_leaves_the_outcome_unknown() {
    let world = FakeWorld::new(|number| {
        if number == 1 {
            CommandFate::AnswerLost
        } else {
            CommandFate::Ordered
        }
    });
    let (proposer, learner) = (
        world.serve_proposer().await,
        world.serve_learner(|_| LearnerReaction::Truth).await,
    );
    let client = client_of(&[&proposer.address], &[&learner.served.address]);
    client.put("key", "one").await.unwrap();
    // The first attempt may find the session alive or not: the client cannot know.
    world.expire_sessions();
    let error = client.put("key", "two").await.unwrap_err();
    assert!(
        matches!(error, WriteError::OutcomeUnknown(_)) && !error.had_no_effect(),
        "{error:?}"
    );
}

#[tokio::test]
async fn passed_deadline_reports_what_is_known_of_the_command() {
    let short = Duration::from_millis(300);
    let (_world, client, _proposer, _learner) =
        world(|_| CommandFate::Fails(no_leader(status::Fate::NotProposed))).await;
    let error = client.with_timeout(short).put("key", "").await.unwrap_err();
    assert!(matches!(error, WriteError::NotProposed(_)), "{error:?}");

    let (_world, client, _proposer, _learner) = world(|_| CommandFate::Lost).await;
    let error = client.with_timeout(short).put("key", "").await.unwrap_err();
    assert!(matches!(error, WriteError::OutcomeUnknown(_)), "{error:?}");

    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let proposer = world.serve_proposer().await;
    let client = client_of(&[&proposer.address], &[&closed_address().await]);
    let error = client.with_timeout(short).put("key", "").await.unwrap_err();
    assert!(
        matches!(error, WriteError::OutcomeNotRead { version, .. } if version.slot.get() == 1),
        "{error:?}"
    );
    assert!(error.to_string().contains("ordered at version 1.0"), "{error}");
}

#[tokio::test]
async fn outcome_not_read_in_time_can_be_asked_for_again() {
    let (world, client, _proposer, learner) = world(|_| CommandFate::Ordered).await;
    client.put("key", "").await.unwrap();
    assert_eq!(
        client.outcome(version(1)).await,
        Ok(Written::Applied { version: version(1) })
    );
    let error = client.outcome(version(9)).await.unwrap_err();
    assert!(matches!(error, ReadError::OutOfRange(_)), "{error:?}");
    assert_eq!((world.log().len(), learner.calls()), (2, 3));
}

#[tokio::test]
async fn what_is_refused_is_not_repeated() {
    let (world, client, _proposer, _learner) =
        world(|_| CommandFate::Fails(Status::failed_precondition("another"))).await;
    let error = client.put("key", "").await.unwrap_err();
    assert!(matches!(error, WriteError::Refused(_)), "{error:?}");
    assert_eq!(world.log().len(), world.opened());
    let error = client.put("", "").await.unwrap_err();
    assert!(error.to_string().contains("1 to 4096"), "{error}");
    let error = client
        .get_with(vec![0; 4097], Consistency::Local)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("at most 4096"), "{error}");
}

#[tokio::test]
async fn prefix_is_read_a_page_at_a_time() {
    let (world, client, _proposer, _learner) = world(|_| CommandFate::Ordered).await;
    for key in ["a", "b1", "b2", "b3", "c"] {
        world.order(put(key, "value"));
    }
    let mut request = PageRequest::default();
    request.limit = 2;
    request.consistency = Consistency::Local;
    let mut keys = Vec::new();
    loop {
        let page = client.get_prefix("b", request.clone()).await.unwrap();
        assert_eq!(page.applied_to.get(), 5);
        keys.extend(page.registers.into_iter().map(|register| register.key));
        request.after = page.next_after;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(keys, ["b1", "b2", "b3"]);
}

#[tokio::test]
async fn read_moves_on_to_another_learner_unless_all_would_fail() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    world.order(put("key", "value"));
    let stuck = world.serve_learner(|_| LearnerReaction::Nothing).await;
    let failing = world
        .serve_learner(|_| LearnerReaction::Fails(Status::unimplemented("old")))
        .await;
    let good = world.serve_learner(|_| LearnerReaction::Truth).await;
    let absent = closed_address().await;
    let addresses = [
        &stuck.served.address,
        &absent,
        &failing.served.address,
        &good.served.address,
    ];
    let client = client_of(&[], &addresses);
    for _ in 0..20 {
        let register = client.get("key").await.unwrap().unwrap();
        assert_eq!(&register.value[..], b"value");
    }
    assert!(
        good.calls() >= 20 && stuck.calls() < 5,
        "{} {}",
        good.calls(),
        stuck.calls()
    );

    let beyond = world
        .serve_learner(|_| LearnerReaction::Fails(Status::out_of_range("the tail is 1")))
        .await;
    let client = client_of(&[], &[&beyond.served.address]);
    let error = client
        .get_with("key", Consistency::AtLeast(version(9)))
        .await
        .unwrap_err();
    assert!(matches!(&error, ReadError::OutOfRange(_)) && error.to_string().contains("the tail is 1"));
    assert_eq!(beyond.calls(), 1);
    let client = client_of(&[], &[&absent]);
    let error = client
        .with_timeout(Duration::from_millis(200))
        .get_with("key", Consistency::Local)
        .await
        .unwrap_err();
    assert!(error.to_string().contains(absent.as_str()), "{error}");
}

#[tokio::test]
async fn reads_are_spread_over_all_learners_found() {
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let (one, other) = (
        world.serve_learner(|_| LearnerReaction::Truth).await,
        world.serve_learner(|_| LearnerReaction::Truth).await,
    );
    let role = paxos_proto::v1::Role::Learner;
    let acceptor = FakeAcceptor::naming(&[(role, &one.served.address), (role, &other.served.address)]);
    let acceptor = acceptor.serve().await;
    let client = Client::connect([&acceptor.address]).unwrap().with_timeout(LONG);
    let reads = (0..200).map(|_| client.get_with("key", Consistency::Local));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap(), None);
    }
    assert_eq!(one.calls() + other.calls(), 200);
    assert!(
        one.calls().min(other.calls()) > 50,
        "{} and {}",
        one.calls(),
        other.calls()
    );
}

#[tokio::test]
async fn watch_goes_on_with_another_learner_without_loss_or_repeats() {
    const CHANGES: usize = 30;
    let world = FakeWorld::new(|_| CommandFate::Ordered);
    let turn = AtomicUsize::new(0);
    let one = world
        .serve_learner(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
            0 => LearnerReaction::Truth,
            _ => LearnerReaction::Fails(Status::unavailable("gone")),
        })
        .await;
    let other = world.serve_learner(|_| LearnerReaction::Truth).await;
    let client = client_of(&[], &[&one.served.address, &other.served.address]);
    let mut watch = client.watch_with(Target::Prefix("k".into()), Some(version(0)));
    let mut served = Some(one);
    let mut seen = Vec::new();
    for number in 0..CHANGES {
        world.order(put("key", "value"));
        world.order(put("other", "value"));
        if number == CHANGES / 2 {
            // The learner's connections break.
            served = None;
        }
        while seen.len() <= number {
            let news = watch.next().await.unwrap().unwrap();
            seen.extend(news.changes.into_iter().map(|change| change.version.slot.get()));
        }
    }
    drop(served);
    assert_eq!(seen, (0..).step_by(2).take(CHANGES).collect::<Vec<_>>());

    let mut wrong = client.watch_with(Target::Key("".into()), None);
    assert!(
        wrong
            .next()
            .await
            .unwrap()
            .unwrap_err()
            .to_string()
            .contains("1 to 4096")
    );
    assert!(wrong.next().await.is_none());
}

#[tokio::test]
async fn write_that_gets_no_answer_is_sent_again_while_there_is_time() {
    let (world, client, _proposer, _learner) = world(|number| match number {
        0 => CommandFate::Unanswered,
        _ => CommandFate::Ordered,
    })
    .await;
    // The rest of a tenure of 5 s at the first renewal.
    let left = Duration::from_millis(2_830);
    client.with_timeout(left).put("key", "value").await.unwrap();
    let stamps = stamps(&world);
    assert_eq!(stamps.len(), 1, "the first attempt was lost");
}
