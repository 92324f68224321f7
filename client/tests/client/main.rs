//! The client's promises, against fakes that fail on purpose.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]

mod fake;
mod leader;
mod outcomes;
mod refused;
mod registers;
mod removed;
mod slow;
mod stall;
mod trimmed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fake::{Does, FakeAcceptor, FakeLearner, FakeProposer, Served, closed_address};
use paxos_client::{Address, Client, ClientConfig, ConfigError, ProposeError, Slot, SubscribeError};
use paxos_common::wire::status::{DOMAIN, Fate, deadline, no_leader, overloaded};
use paxos_proto::v1::{Append, Command, Role, command::Operation};
use tokio::net::TcpListener;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Longer than anything here takes, shorter than a hanging test may take.
const LONG: Duration = Duration::from_secs(30);

fn client_of(proposers: &[&Address], learners: &[&Address]) -> Client {
    let list = |addresses: &[&Address]| addresses.iter().copied().cloned().collect();
    let mut config = ClientConfig::new(["http://127.0.0.1:1"]).unwrap();
    config.proposers = list(proposers);
    config.learners = list(learners);
    config.timeout = LONG;
    Client::new(config).unwrap()
}

async fn one(script: impl Fn(usize) -> Does + Send + Sync + 'static) -> (FakeProposer, Served, Client) {
    let fake = FakeProposer::new(script);
    let served = fake.serve().await;
    let client = client_of(&[&served.address], &[]);
    (fake, served, client)
}

fn append(record: &'static str) -> Command {
    Command {
        session: None,
        operation: Some(Operation::Append(Append {
            record: record.into(),
        })),
    }
}

#[tokio::test]
async fn repeats_what_was_not_proposed_until_it_is() {
    let (fake, _served, client) = one(|number| match number {
        0 => Does::Fails(no_leader(Fate::NotProposed)),
        1 => Does::Fails(overloaded("the queue")),
        2 => Does::Fails(deadline(Fate::NotProposed, "")),
        _ => Does::Orders,
    })
    .await;
    assert_eq!(
        client.append_at_most_once("value").await.unwrap().to_string(),
        "3.0"
    );
    assert_eq!(fake.received(), vec![b"value".to_vec(); 4]);
}

/// An answer that nothing was proposed, with a request to wait this long before a retry.
fn retry_after(delay: Duration) -> Status {
    let mut details = ErrorDetails::new();
    details
        .set_error_info(Fate::NotProposed.reason(), DOMAIN, [])
        .set_retry_info(Some(delay));
    Status::with_error_details(Code::Unavailable, "busy", details)
}

#[tokio::test]
async fn waits_before_a_retry_for_as_long_as_the_cluster_requests() {
    // Much longer than the client's own pause before a first retry.
    let delay = Duration::from_millis(700);
    let (_fake, _served, client) = one(move |number| match number % 2 {
        0 => Does::Fails(retry_after(delay)),
        _ => Does::Orders,
    })
    .await;
    let begun = Instant::now();
    client.append_at_most_once("value").await.unwrap();
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
    let begun = Instant::now();
    client.propose_unary(append("value")).await.unwrap();
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn gives_up_at_once_when_the_requested_wait_ends_after_the_timeout() {
    let (fake, _served, client) = one(|_| Does::Fails(retry_after(LONG))).await;
    let begun = Instant::now();
    let client = client.with_timeout(Duration::from_secs(3));
    let error = client.append_at_most_once("value").await.unwrap_err();
    let ProposeError::NotProposed(cause) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(cause.retry_delay, Some(LONG));
    assert!(begun.elapsed() < Duration::from_secs(2) && fake.received().len() == 1);
}

#[tokio::test]
async fn takes_a_timeout_that_no_clock_can_add_for_a_long_one() {
    let (_fake, _served, client) = one(|_| Does::Orders).await;
    assert!(
        client
            .with_timeout(Duration::MAX)
            .append_at_most_once("value")
            .await
            .is_ok()
    );
    assert!(
        client
            .with_timeout(Duration::MAX)
            .propose_unary(append("value"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn never_sends_again_what_may_have_been_ordered() {
    for does in [
        Does::Fails(no_leader(Fate::OutcomeUnknown)),
        Does::Fails(deadline(Fate::OutcomeUnknown, "")),
        Does::Fails(Status::unavailable("says nothing of the fate")),
        Does::Breaks,
    ] {
        let (fake, _served, client) = one(move |_| does.clone()).await;
        let error = client.append_at_most_once("value").await.unwrap_err();
        assert!(matches!(error, ProposeError::OutcomeUnknown(_)), "{error:?}");
        let error = client.propose_unary(append("unary")).await.unwrap_err();
        assert!(matches!(error, ProposeError::OutcomeUnknown(_)), "{error:?}");
        assert_eq!(fake.received(), [b"value".to_vec(), b"unary".to_vec()]);
    }
}

#[tokio::test]
async fn does_not_repeat_what_is_refused() {
    let (fake, _served, client) = one(|_| Does::Fails(Status::failed_precondition("another cluster"))).await;
    let error = client.append_at_most_once("value").await.unwrap_err();
    assert!(matches!(error, ProposeError::Refused(_)), "{error:?}");
    assert_eq!(fake.received().len(), 1);
}

#[tokio::test]
async fn sends_nothing_that_breaks_a_limit() {
    let (fake, _served, client) = one(|_| Does::Orders).await;
    assert!(matches!(
        client.append_at_most_once("").await,
        Err(ProposeError::Invalid(_))
    ));
    assert!(matches!(
        client.append_at_most_once(vec![0; 1024 * 1024 + 1]).await,
        Err(ProposeError::Invalid(_))
    ));
    assert_eq!(fake.streams(), 0);
}

#[tokio::test]
async fn moves_on_to_another_proposer_when_one_dies() {
    let (dying, healthy) = (
        FakeProposer::new(|_| Does::Breaks),
        FakeProposer::new(|_| Does::Orders),
    );
    let (absent, first, second) = (closed_address().await, dying.serve().await, healthy.serve().await);
    let client = client_of(&[&absent, &first.address, &second.address], &[]);
    let lost = client.append_at_most_once("lost").await.unwrap_err();
    assert!(matches!(lost, ProposeError::OutcomeUnknown(_)), "{lost:?}");
    drop(first);
    client.append_at_most_once("kept").await.unwrap();
    client.propose_unary(append("unary")).await.unwrap();
    assert_eq!(dying.received(), [b"lost".to_vec()]);
    assert_eq!(healthy.received(), [b"kept".to_vec(), b"unary".to_vec()]);
}

#[tokio::test]
async fn repeats_what_a_proposer_that_stops_did_not_read() {
    let (stopping, healthy) = (
        FakeProposer::new(|_| Does::Stops),
        FakeProposer::new(|_| Does::Orders),
    );
    let (first, second) = (stopping.serve().await, healthy.serve().await);
    let client = client_of(&[&first.address, &second.address], &[]);
    client.append_at_most_once("value").await.unwrap();
    assert_eq!(healthy.received(), [b"value".to_vec()]);
}

#[tokio::test]
async fn moves_on_when_a_proposer_cannot_help() {
    let helpless = FakeProposer::new(|_| Does::Fails(no_leader(Fate::NotProposed)));
    let healthy = FakeProposer::new(|_| Does::Orders);
    let (first, second) = (helpless.serve().await, healthy.serve().await);
    let client = client_of(&[&first.address, &second.address], &[]);
    client.append_at_most_once("value").await.unwrap();
    assert_eq!((helpless.received().len(), healthy.received().len()), (1, 1));
}

#[tokio::test]
async fn leaves_a_silent_proposer_after_the_deadline() {
    let (silent, healthy) = (
        FakeProposer::new(|_| Does::IsSilent),
        FakeProposer::new(|_| Does::Orders),
    );
    let (first, second) = (silent.serve().await, healthy.serve().await);
    let client = client_of(&[&first.address, &second.address], &[]);
    let begun = Instant::now();
    let error = client
        .with_timeout(Duration::from_millis(100))
        .append_at_most_once("value")
        .await
        .unwrap_err();
    assert!(matches!(error, ProposeError::OutcomeUnknown(_)), "{error:?}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "the deadline was not honoured"
    );
    // Until the client notices, commands still go to the silent proposer. Each command is sent once, with an unknown
    // fate.
    let mut tries = 0;
    while client
        .with_timeout(Duration::from_millis(100))
        .append_at_most_once("again")
        .await
        .is_err()
    {
        tries += 1;
        assert!(
            begun.elapsed() < LONG,
            "{tries} tries and still with the silent proposer"
        );
    }
    assert_eq!(healthy.received().len(), 1);
}

#[tokio::test]
async fn command_that_timed_out_unsent_is_never_sent_later() {
    let address = closed_address().await;
    let client = client_of(&[&address], &[]);
    let error = client
        .with_timeout(Duration::from_millis(100))
        .append_at_most_once("early")
        .await
        .unwrap_err();
    let ProposeError::NotProposed(cause) = &error else {
        panic!("{error:?}")
    };
    assert!(cause.to_string().contains(address.as_str()), "{cause}");
    let unary = client
        .with_timeout(Duration::from_millis(100))
        .propose_unary(append("early"))
        .await
        .unwrap_err();
    assert!(matches!(unary, ProposeError::NotProposed(_)), "{unary:?}");

    let fake = FakeProposer::new(|_| Does::Orders);
    let port = address.as_str().rsplit(':').next().unwrap();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    let _served = fake.serve_on(listener).await;
    client.append_at_most_once("late").await.unwrap();
    assert_eq!(fake.received(), [b"late".to_vec()]);
}

#[tokio::test]
async fn calls_made_together_share_one_stream_and_get_their_own_answers() {
    const CALLS: usize = 500;
    let (fake, _served, client) = one(|_| Does::Orders).await;
    let calls = (0..CALLS).map(|number| {
        let client = client.clone();
        async move {
            (
                number,
                client.append_at_most_once(number.to_string()).await.unwrap(),
            )
        }
    });
    let answers = futures::future::join_all(calls).await;
    let received = fake.received();
    assert_eq!((received.len(), fake.streams()), (CALLS, 1));
    for (number, version) in answers {
        let slot = usize::try_from(version.slot.get()).unwrap();
        assert_eq!(received[slot], number.to_string().into_bytes());
    }
}

#[tokio::test]
async fn discovered_address_that_cannot_be_reached_is_skipped() {
    let (fake, learner) = (
        FakeProposer::new(|_| Does::Orders),
        FakeLearner::new(|from| Ok(vec![from])),
    );
    let (proposer, learner) = (fake.serve().await, learner.serve().await);
    let absent = closed_address().await;
    let acceptor = FakeAcceptor::naming(&[
        (Role::Proposer, &absent),
        (Role::Proposer, &proposer.address),
        (Role::Learner, &absent),
        (Role::Learner, &learner.address),
    ]);
    let acceptor = acceptor.serve().await;
    // One acceptor of two is down: the knowledge of the other must do.
    let acceptors = vec![closed_address().await, acceptor.address.clone()];
    let client = Client::connect(acceptors).unwrap().with_timeout(LONG);
    client.append_at_most_once("value").await.unwrap();
    assert_eq!(client.chosen_to().await.unwrap().get(), 1);
    let news = client.log(Slot::ZERO).next().await.unwrap().unwrap();
    assert_eq!(news.records.len(), 1);

    let status = client.cluster_status().await;
    assert_eq!(
        status
            .acceptors
            .iter()
            .map(|report| report.answer.is_ok())
            .collect::<Vec<_>>(),
        [false, true]
    );
}

#[tokio::test]
async fn subscription_continues_on_another_learner_without_loss_or_repeats() {
    // The first learner knows little, with a broken stream after every response; the second reports too much.
    let first = FakeLearner::new(|from| Ok((from..from + 3).collect()));
    let second = FakeLearner::new(|from| Ok((from.saturating_sub(2)..from + 5).collect()));
    let gappy = FakeLearner::new(|from| Ok(vec![from + 1]));
    let (one, two, three) = (first.serve().await, second.serve().await, gappy.serve().await);
    let client = client_of(&[], &[&one.address, &three.address, &two.address]);
    let mut log = client.log(Slot::new(7).unwrap());
    let mut slots = Vec::new();
    while slots.len() < 40 {
        slots.extend(
            log.next()
                .await
                .unwrap()
                .unwrap()
                .records
                .iter()
                .map(|record| record.slot().get()),
        );
    }
    assert_eq!(slots, (7..).take(slots.len()).collect::<Vec<_>>());
    assert!(first.asked.lock().unwrap().len() > 1 && second.asked.lock().unwrap().len() > 1);
}

#[tokio::test]
async fn subscription_ends_when_the_position_is_gone_or_no_learner_answers() {
    let reported = Arc::new(AtomicBool::new(false));
    let flag = reported.clone();
    let learner = FakeLearner::new(move |_| {
        flag.store(true, Ordering::Relaxed);
        Err(Status::out_of_range("retained: 10 to 20"))
    });
    let served = learner.serve().await;
    let mut log = client_of(&[], &[&served.address]).log(Slot::ZERO);
    let error = log.next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SubscribeError::OutOfRange(_)) && error.to_string().contains("10 to 20"),
        "{error:?}"
    );
    assert!(reported.load(Ordering::Relaxed) && log.next().await.is_none());

    let mut log = client_of(&[], &[&closed_address().await])
        .with_timeout(Duration::from_millis(100))
        .log(Slot::ZERO);
    let error = log.next().await.unwrap().unwrap_err();
    assert!(matches!(error, SubscribeError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn denied_subscription_ends_at_once() {
    let learner = FakeLearner::new(|_| Err(Status::permission_denied("for clients")));
    let served = learner.serve().await;
    let client = client_of(&[], &[&served.address]).with_timeout(Duration::from_secs(600));
    let error = client.log(Slot::ZERO).next().await.unwrap().unwrap_err();
    assert!(
        matches!(&error, SubscribeError::Refused(_)) && error.to_string().contains("for clients"),
        "{error:?}"
    );
    assert_eq!(
        learner.asked.lock().unwrap().len(),
        1,
        "another attempt does not help"
    );
}

#[tokio::test]
async fn client_without_acceptors_is_refused() {
    let refused = Client::new(ClientConfig::default());
    assert_eq!(refused.err(), Some(ConfigError::NoAcceptors));
}
