//! Readers of a learner whose log begins later, after acceptors have trimmed their logs.
#![expect(clippy::unwrap_used, reason = "in tests, helpers included")]

use bytes::Bytes;
use paxos_common::{
    paxos::slot::Slot,
    wire::{
        self,
        status::{KeptSlots, kept_slots_of},
    },
};
use paxos_learner_testing::{
    FakeAcceptor, TestLearner, acceptors, ballot, change_all, log, read, within_deadline,
};
use paxos_proto::v1::{self as pb, command::Operation, result_request, result_response};
use tonic::{Code, Status, Streaming};

fn kept(from: u64, to: u64) -> Option<KeptSlots> {
    let [from, to] = [from, to].map(|slot| Slot::new(slot).unwrap());
    Some(KeptSlots { from, to })
}

/// The only error of a reader below the log.
fn is_trimmed(status: &Status, from: u64, to: u64) {
    assert_eq!(
        (status.code(), kept_slots_of(status)),
        (Code::OutOfRange, kept(from, to))
    );
    let text = format!(
        "slots below {from} are not kept any more: this learner has {from} to {to}. Begin there; \"paxos get\" reads \
         registers"
    );
    assert_eq!(status.message(), text);
}

/// Every acceptor accepts the commands, one in a slot.
fn accept_everywhere(acceptors: &[FakeAcceptor], commands: impl IntoIterator<Item = pb::Command>) {
    let values = commands.into_iter().map(|command| {
        let command = wire::command::encode(command).unwrap();
        command.as_bytes().clone()
    });
    let accepted: Vec<_> = (0..)
        .zip(values)
        .map(|(slot, value)| (ballot(1), slot, value))
        .collect();
    change_all(acceptors, |script| script.accepted.clone_from(&accepted));
}

fn command(operation: Operation) -> pb::Command {
    pb::Command {
        session: None,
        operation: Some(operation),
    }
}

fn put(key: &str, value: Bytes, condition: Option<pb::condition::Condition>) -> Operation {
    Operation::Put(pb::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value,
        condition: condition.map(|condition| pb::Condition {
            condition: Some(condition),
        }),
    })
}

/// Slots of 64 KiB: far more than connections and streams hold.
const SLOTS: u64 = 400;

/// Every acceptor accepts the slots, at most as many at a time as fit a message. Returns once all are on the disk of the learner, so that the log can begin later in one step.
async fn accept_large_puts(acceptors: &[FakeAcceptor], learner: &mut TestLearner) {
    let value = Bytes::from(vec![7; 64 * 1024]);
    let command = wire::command::encode(command(put("key", value, None))).unwrap();
    for from in (0..SLOTS).step_by(40) {
        let slots = from..from + 40;
        change_all(acceptors, |script| {
            let accepted = slots
                .clone()
                .map(|slot| (ballot(1), slot, command.as_bytes().clone()));
            script.accepted.extend(accepted);
        });
        let applied = async {
            while learner.status().await.durable_to < slots.end {
                tokio::task::yield_now().await;
            }
        };
        within_deadline(applied).await;
    }
}

/// Everything up to the end of the stream. The stream ends in an error.
async fn until_error<T>(stream: &mut Streaming<T>) -> (Vec<T>, Status) {
    within_deadline(async {
        let mut received = Vec::new();
        loop {
            match stream.message().await {
                Ok(Some(message)) => received.push(message),
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return (received, status),
            }
        }
    })
    .await
}

#[tokio::test]
async fn slow_subscriber_gets_every_slot_up_to_one_clear_error() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept_large_puts(&acceptors, &mut learner).await;
    let mut slow = learner.subscribe(0).await;
    let first = slow.message().await.unwrap().unwrap();
    assert!(first.next < SLOTS);
    change_all(&acceptors, |script| script.trimmed_to = 390);
    learner.keeps_from(390).await;
    let (pages, status) = until_error(&mut slow).await;
    is_trimmed(&status, 390, SLOTS);
    let slots = std::iter::once(first).chain(pages).flat_map(|page| page.records);
    let slots: Vec<_> = slots.map(|record| record.slot).collect();
    assert_eq!(slots, (0..slots.len() as u64).collect::<Vec<_>>());
    assert!(slots.len() < 390, "the subscriber was not slow: {}", slots.len());

    // From the beginning on, and below the beginning.
    let mut again = learner.subscribe(390).await;
    let page = again.message().await.unwrap().unwrap();
    assert_eq!(page.records[0].slot, 390);
    for below in [0, 389] {
        let refused = learner
            .client
            .subscribe(pb::SubscribeRequest { from: below })
            .await;
        is_trimmed(&refused.unwrap_err(), 390, SLOTS);
    }
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn watcher_below_the_log_gets_one_clear_error_at_once_and_in_mid_stream() {
    let acceptors = acceptors().await;
    let mut learner = TestLearner::start(&acceptors, None).await;
    accept_large_puts(&acceptors, &mut learner).await;
    let watch = |from: u64| pb::WatchRequest {
        target: Some(pb::watch_request::Target::Key("key".into())),
        from: Some(pb::Version {
            slot: from,
            offset: 0,
        }),
    };
    let mut slow = learner.client.watch(watch(0)).await.unwrap().into_inner();
    slow.message().await.unwrap().unwrap();
    change_all(&acceptors, |script| script.trimmed_to = 390);
    learner.keeps_from(390).await;
    let (pages, status) = until_error(&mut slow).await;
    is_trimmed(&status, 390, SLOTS);
    let changes = pages.iter().flat_map(|page| &page.changes);
    let slots: Vec<_> = changes.map(|change| change.version.unwrap().slot).collect();
    assert_eq!(slots, (0..slots.len() as u64).collect::<Vec<_>>());
    assert!(slots.len() < 390, "the watcher was not slow: {}", slots.len());

    // A resumed watch.
    for below in [slots.len() as u64, 389] {
        let refused = learner.client.watch(watch(below)).await;
        is_trimmed(&refused.unwrap_err(), 390, SLOTS);
    }
    let mut again = learner.client.watch(watch(390)).await.unwrap().into_inner();
    let next = async {
        loop {
            let page = again.message().await.unwrap().unwrap();
            if let Some(change) = page.changes.first() {
                return change.version.unwrap().slot;
            }
        }
    };
    assert_eq!(within_deadline(next).await, 390);
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn outcome_by_version_lives_as_long_as_the_log_and_by_session_longer() {
    let acceptors = acceptors().await;
    let session = pb::Version::default();
    let stamp = |sequence| pb::SessionStamp {
        session: Some(session),
        sequence,
        ..pb::SessionStamp::default()
    };
    let absent = || Some(pb::condition::Condition::Absent(true));
    let in_session = |sequence, operation| pb::Command {
        session: Some(stamp(sequence)),
        ..command(operation)
    };
    let opening = command(Operation::OpenSession(pb::OpenSession::default()));
    let written = in_session(1, put("key", "one".into(), absent()));
    let failed = in_session(2, put("key", "two".into(), absent()));
    let later = (0..7).map(|_| command(put("other", "value".into(), None)));
    accept_everywhere(&acceptors, [opening, written, failed].into_iter().chain(later));
    let mut learner = TestLearner::start(&acceptors, None).await;
    learner.subscribe(9).await.message().await.unwrap();
    let result = |learner: &TestLearner, command| {
        let mut client = learner.client.clone();
        let request = pb::ResultRequest {
            command: Some(command),
        };
        async move { client.result(request).await.map(tonic::Response::into_inner) }
    };
    let by_version = |slot| result_request::Command::Version(pb::Version { slot, offset: 0 });
    let by_session = |sequence| result_request::Command::Session(stamp(sequence));
    let current = |answer: pb::ResultResponse| {
        assert_eq!(answer.version, Some(pb::Version { slot: 2, offset: 0 }));
        let Some(result_response::Outcome::ConditionFailed(failed)) = answer.outcome else {
            panic!("{answer:?}")
        };
        let register = failed.current.unwrap();
        (
            register.key,
            register.value,
            register.version.unwrap().slot,
            failed.value_gone,
        )
    };
    let whole = current(result(&learner, by_session(2)).await.unwrap());
    assert_eq!(whole, ("key".into(), "one".into(), 1, false));

    change_all(&acceptors, |script| script.trimmed_to = 5);
    learner.keeps_from(5).await;
    for below in [0, 1, 4] {
        is_trimmed(&result(&learner, by_version(below)).await.unwrap_err(), 5, 10);
    }
    result(&learner, by_version(5)).await.unwrap();
    let applied = result(&learner, by_session(1)).await.unwrap();
    assert_eq!(applied.version, Some(pb::Version { slot: 1, offset: 0 }));
    assert_eq!(
        applied.outcome,
        Some(result_response::Outcome::Applied(pb::Applied {}))
    );
    let recorded = current(result(&learner, by_session(2)).await.unwrap());
    assert_eq!(recorded, (Bytes::new(), Bytes::new(), 1, true));
    let unused = result(&learner, by_session(3)).await.unwrap_err();
    assert_eq!((unused.code(), kept_slots_of(&unused)), (Code::OutOfRange, None));
    learner.stop().await.unwrap();
}

#[tokio::test]
async fn restarted_learner_keeps_its_log_from_where_it_began() {
    let acceptors = acceptors().await;
    let directory = tempfile::tempdir().unwrap();
    let slots = log(3_000);
    for acceptor in &acceptors {
        let slots: Vec<_> = slots.iter().map(|(slot, text)| (*slot, text.as_str())).collect();
        acceptor.accept(1, &slots);
    }
    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    learner.read(0, slots.len()).await;
    change_all(&acceptors, |script| script.trimmed_to = 2_500);
    learner.keeps_from(2_500).await;
    let before = learner.status().await;
    learner.stop().await.unwrap();

    let mut learner = TestLearner::start(&acceptors, Some(directory.path())).await;
    let mut stream = learner.subscribe(2_500).await;
    let texts = read(&mut stream, 2_500, 500).await;
    assert_eq!(
        texts,
        slots[2_500..]
            .iter()
            .map(|(_, text)| text.clone())
            .collect::<Vec<_>>()
    );
    let after = learner.status().await;
    assert_eq!((after.log_from, after.applied_to), (2_500, 3_000));
    assert_eq!(after.digests[0], before.digests[0]);
    let refused = learner
        .client
        .subscribe(pb::SubscribeRequest { from: 2_499 })
        .await;
    is_trimmed(&refused.unwrap_err(), 2_500, 3_000);
    learner.stop().await.unwrap();
}
