//! Bad input at real processes: each limit of the contract, at the limit and one beyond, with the documented error.

use std::time::Duration;

use crate::harness::{Cluster, PATIENCE};
use bytes::Bytes;
use paxos_client::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use paxos_common::peer::{MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{
    Command, Condition, Delete, Linearizable, Local, OpenSession, ProposeRequest, Put, ReadRequest,
    ReadResponse, ResultRequest, ResultResponse, SessionStamp, SubscribeRequest, SubscribeResponse, Version,
    WatchRequest, WatchResponse, command::Operation, condition, learner_client::LearnerClient,
    proposer_client::ProposerClient, read_request, result_request, result_response, watch_request,
};
use tonic::{Code, Request, Status, transport::Channel};

/// Largest number of sequences of a session in use together.
const SEQUENCES_MAX: u64 = 4_096;
/// Most registers in a page.
const PAGE_MAX: usize = 1_000;

/// One proposer and one learner, called like clients in other languages do.
struct Services {
    proposer: ProposerClient<Channel>,
    learner: LearnerClient<Channel>,
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

impl Services {
    fn of(cluster: &Cluster) -> Self {
        let proposer = ProposerClient::new(connect_lazy(&cluster.proposers[0].address));
        let learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
        Self {
            proposer: proposer
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
            learner: learner.max_decoding_message_size(MESSAGE_BYTES_MAX),
        }
    }

    async fn propose(&self, session: Option<SessionStamp>, operation: Operation) -> Result<Version, Status> {
        let command = Command {
            session,
            operation: Some(operation),
        };
        let message = ProposeRequest {
            command: Some(command),
            ..ProposeRequest::default()
        };
        let answer = self.proposer.clone().propose(request(message)).await?;
        Ok(answer.into_inner().version.unwrap())
    }

    async fn result(&self, of: result_request::Command) -> Result<ResultResponse, Status> {
        let message = ResultRequest { command: Some(of) };
        let answer = self.learner.clone().result(request(message)).await?;
        Ok(answer.into_inner())
    }

    /// The result of the command at this version.
    async fn result_of(&self, version: Version) -> Result<ResultResponse, Status> {
        self.result(result_request::Command::Version(version)).await
    }

    async fn open_session(&self) -> Version {
        self.propose(None, Operation::OpenSession(OpenSession::default()))
            .await
            .unwrap()
    }

    async fn read(&self, message: ReadRequest) -> Result<ReadResponse, Status> {
        let answer = self.learner.clone().read(request(message)).await?;
        Ok(answer.into_inner())
    }

    /// The first news of a watch.
    async fn watch(&self, message: WatchRequest) -> Result<WatchResponse, Status> {
        let from = message.from.as_ref().map_or(0, |from| from.slot);
        let mut stream = self.learner.clone().watch(request(message)).await?.into_inner();
        let first = stream.message().await?.expect("it tells where it begins");
        assert_eq!((first.changes, first.applied_to), (Vec::new(), from));
        Ok(stream.message().await?.expect("it tells something"))
    }

    async fn subscribe(&self, from: u64) -> Result<SubscribeResponse, Status> {
        let message = SubscribeRequest { from };
        let mut stream = self
            .learner
            .clone()
            .subscribe(request(message))
            .await?
            .into_inner();
        Ok(stream.message().await?.expect("it tells something"))
    }

    /// The learner's applied watermark, once the learner has seen every acknowledged command.
    async fn applied_to(&self) -> u64 {
        self.read(key("any")).await.unwrap().applied_to
    }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Operation {
    Operation::Put(Put {
        key: key.into(),
        value: value.into(),
        condition: None,
    })
}

fn delete(key: impl Into<Bytes>) -> Operation {
    Operation::Delete(Delete {
        key: key.into(),
        condition: None,
    })
}

fn key(key: impl Into<Bytes>) -> ReadRequest {
    ReadRequest {
        target: Some(read_request::Target::Key(key.into())),
        consistency: Some(read_request::Consistency::Linearizable(Linearizable {})),
        ..ReadRequest::default()
    }
}

fn prefix(prefix: &'static str, limit: u32, after: &[u8]) -> ReadRequest {
    ReadRequest {
        target: Some(read_request::Target::Prefix(prefix.into())),
        consistency: Some(read_request::Consistency::Local(Local {})),
        limit,
        after: Bytes::copy_from_slice(after),
    }
}

fn stamp(session: Version, sequence: u64, acked_below: u64) -> SessionStamp {
    SessionStamp {
        session: Some(session),
        sequence,
        acked_below,
        opener: Bytes::new(),
    }
}

/// Requires a refusal with this code and a helpful text.
fn refused<T: std::fmt::Debug>(what: &str, code: Code, answer: Result<T, Status>, says: &str) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), code, "{what}: {status:?}");
    assert!(
        status.message().contains(says),
        "{what}: “{}” does not say “{says}”",
        status.message()
    );
}

#[tokio::test]
async fn keys_and_values_are_refused_only_beyond_the_limits() {
    let cluster = Cluster::start(3, 1, 1).await;
    let services = Services::of(&cluster);
    let invalid = Code::InvalidArgument;
    let longest = vec![b'k'; KEY_BYTES_MAX];
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    let largest = vec![b'v'; VALUE_BYTES_MAX];
    let larger = vec![b'v'; VALUE_BYTES_MAX + 1];

    let fits = services
        .propose(None, put(longest.clone(), largest.clone()))
        .await
        .unwrap();
    let found = services.read(key(longest.clone())).await.unwrap().registers;
    assert_eq!((found.len(), found[0].version), (1, Some(fits)));
    assert_eq!(found[0].value, largest);
    let empty = services.propose(None, put("empty", "")).await.unwrap();
    let found = services.read(key("empty")).await.unwrap().registers;
    assert_eq!((found[0].version, found[0].value.len()), (Some(empty), 0));

    let large = services.propose(None, put("key", larger)).await;
    refused("a value of 1 MiB and a byte", invalid, large, "1048576");
    for (what, operation) in [
        ("put", put(longer.clone(), "")),
        ("delete", delete(longer.clone())),
    ] {
        let long = services.propose(None, operation).await;
        refused(&format!("{what} of a key of 4,097 bytes"), invalid, long, "4096");
    }
    for (what, operation) in [("put", put("", "value")), ("delete", delete(""))] {
        let short = services.propose(None, operation).await;
        refused(&format!("{what} of the empty key"), invalid, short, "key");
    }
    refused(
        "read of the empty key",
        invalid,
        services.read(key("")).await,
        "key",
    );
    refused(
        "read of a long key",
        invalid,
        services.read(key(longer.clone())).await,
        "4096",
    );
    refused(
        "read of nothing",
        invalid,
        services.read(ReadRequest::default()).await,
        "",
    );
    for target in [
        watch_request::Target::Key(Bytes::new()),
        watch_request::Target::Key(longer.clone().into()),
        watch_request::Target::Prefix(longer.clone().into()),
    ] {
        let message = WatchRequest {
            target: Some(target),
            from: None,
        };
        refused("watch of such a key", invalid, services.watch(message).await, "");
    }
    let condition = Condition {
        condition: Some(condition::Condition::Absent(false)),
    };
    let backwards = Operation::Put(Put {
        key: "key".into(),
        value: Bytes::new(),
        condition: Some(condition),
    });
    refused(
        "a condition that cannot be",
        invalid,
        services.propose(None, backwards).await,
        "",
    );
    let none = services.read(key("key")).await.unwrap().registers;
    assert_eq!(none, [], "what was refused had no effect");
}

#[tokio::test]
async fn versions_that_are_not_there_yet_are_out_of_range() {
    const FUTURE: u64 = 1_000_000;
    let cluster = Cluster::start(3, 1, 1).await;
    let services = Services::of(&cluster);
    let version = services.propose(None, put("key", "value")).await.unwrap();
    let tail = services.applied_to().await;
    let beyond = Code::OutOfRange;
    let future = |slot| Version { slot, offset: 0 };

    let message = ReadRequest {
        consistency: Some(read_request::Consistency::AtLeast(future(tail + FUTURE))),
        ..key("key")
    };
    refused(
        "read at least the future",
        beyond,
        services.read(message).await,
        "",
    );
    let message = ReadRequest {
        consistency: Some(read_request::Consistency::AtLeast(version)),
        ..key("key")
    };
    let found = services.read(message).await.unwrap().registers;
    assert_eq!(found[0].version, Some(version));

    let outcome = services.result_of(future(tail + FUTURE)).await;
    refused("the outcome of the future", beyond, outcome, "");
    let nothing = Version {
        offset: 60_000,
        ..version
    };
    refused(
        "the outcome of no command",
        beyond,
        services.result_of(nothing).await,
        "",
    );
    let outcome = services.result_of(version).await.unwrap();
    assert!(matches!(
        outcome.outcome,
        Some(result_response::Outcome::Applied(_))
    ));

    let watching = |from| WatchRequest {
        target: Some(watch_request::Target::Key("key".into())),
        from,
    };
    let watch = services.watch(watching(Some(future(tail + FUTURE)))).await;
    refused("watch from the future", beyond, watch, "");
    let watched = services.watch(watching(Some(future(0)))).await.unwrap();
    assert_eq!(watched.changes[0].version, Some(version));
    let watched = services.watch(watching(Some(future(tail)))).await.unwrap();
    assert_eq!(
        watched.changes,
        [],
        "at the tail it waits, and shows that it lives"
    );

    let log = services.subscribe(tail + FUTURE).await;
    refused("the log from the future on", beyond, log, "");
    assert_eq!(services.subscribe(tail).await.unwrap().next, tail);
}

#[tokio::test]
async fn commands_of_unknown_sessions_have_no_effect_and_say_so() {
    let cluster = Cluster::start(3, 1, 1).await;
    let services = Services::of(&cluster);
    let before = services.propose(None, put("before", "")).await.unwrap();
    // The position of a command that opened no session.
    let stamped = Some(stamp(before, 1, 1));
    let version = services.propose(stamped, put("key", "value")).await.unwrap();
    let outcome = services.result_of(version).await;
    refused("an unknown session", Code::Aborted, outcome, "session");
    let found = services.read(key("key")).await.unwrap().registers;
    assert_eq!(found, [], "it had no effect");
    let by_sequence = services
        .result(result_request::Command::Session(stamp(before, 1, 1)))
        .await;
    refused("its sequence", Code::Aborted, by_sequence, "session");
}

#[tokio::test]
async fn sequences_out_of_range_are_refused_and_retries_take_effect_once() {
    let cluster = Cluster::start(3, 1, 1).await;
    let services = Services::of(&cluster);
    let session = services.open_session().await;
    let invalid = Code::InvalidArgument;
    for (what, sequence, acked_below) in [
        ("acknowledged before it was sent", 3, 4),
        ("too far ahead", SEQUENCES_MAX + 1, 1),
        ("as far ahead as numbers go", u64::MAX, 1),
    ] {
        let stamped = Some(stamp(session, sequence, acked_below));
        let answer = services.propose(stamped, put("key", what)).await;
        refused(what, invalid, answer, "");
    }
    let last = Some(stamp(session, SEQUENCES_MAX, 1));
    services.propose(last, put("last", "fits")).await.unwrap();

    let first = stamp(session, 1, 1);
    let version = services
        .propose(Some(first.clone()), put("key", "once"))
        .await
        .unwrap();
    services.propose(None, put("key", "other")).await.unwrap();
    let again = services
        .propose(Some(first.clone()), put("key", "once"))
        .await
        .unwrap();
    assert_ne!(again, version);
    let outcome = services.result_of(again).await.unwrap();
    let Some(result_response::Outcome::Duplicate(duplicate)) = outcome.outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(duplicate.first, Some(version));
    let found = services.read(key("key")).await.unwrap().registers;
    assert_eq!(found[0].value.as_ref(), b"other", "the retry had no effect");
    let by_sequence = services
        .result(result_request::Command::Session(first.clone()))
        .await
        .unwrap();
    assert_eq!(by_sequence.version, Some(version));
    let unsent = services
        .result(result_request::Command::Session(stamp(session, 7, 1)))
        .await;
    refused("a sequence that nobody used", Code::OutOfRange, unsent, "");
    // Acknowledged by the client: the outcome is not kept any longer.
    let acknowledged = Some(stamp(session, 2, 2));
    services.propose(acknowledged, put("key", "next")).await.unwrap();
    let late = services.propose(Some(first), put("key", "late")).await.unwrap();
    let outcome = services.result_of(late).await;
    assert!(outcome.is_err(), "no outcome: {outcome:?}");
    let found = services.read(key("key")).await.unwrap().registers;
    assert_eq!(found[0].value.as_ref(), b"next");
}

#[tokio::test]
async fn prefixes_are_read_in_pages_within_limits() {
    const REGISTERS: usize = PAGE_MAX + 50;
    let cluster = Cluster::start(3, 1, 1).await;
    let services = Services::of(&cluster);
    let puts = (0..REGISTERS).map(|number| services.propose(None, put(format!("page/{number:04}"), "value")));
    for answer in futures::future::join_all(puts).await {
        answer.unwrap();
    }
    services.propose(None, put("pagf", "beyond")).await.unwrap();
    services.applied_to().await;

    for limit in [0, 1_000, 1_001, u32::MAX] {
        let answer = services.read(prefix("page/", limit, b"")).await;
        match answer {
            Ok(page) => {
                assert_eq!(page.registers.len(), PAGE_MAX, "limit {limit}");
                assert_eq!(page.next_after.as_ref(), b"page/0999");
            }
            Err(status) => {
                assert!(limit > 1_000, "limit {limit}: {status:?}");
                assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }
    let page = services.read(prefix("page/", 7, b"page/0999")).await.unwrap();
    let keys: Vec<_> = page
        .registers
        .iter()
        .map(|register| register.key.clone())
        .collect();
    let expected: Vec<_> = (1_000..1_007)
        .map(|number| Bytes::from(format!("page/{number:04}")))
        .collect();
    assert_eq!(keys, expected);
    let last = services.read(prefix("page/", 0, b"page/1043")).await.unwrap();
    assert_eq!((last.registers.len(), last.next_after.len()), (6, 0));
    let end = services.read(prefix("page/", 0, b"page/1049")).await.unwrap();
    assert_eq!((end.registers.len(), end.next_after.len()), (0, 0));

    // A key without the prefix, or an oversized key, can never have been `next_after`.
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    let after_long = services.read(prefix("page/", 0, &long)).await;
    refused("after a long key", Code::InvalidArgument, after_long, "after");
    let message = ReadRequest {
        after: "page/0001".into(),
        ..key("page/0002")
    };
    refused(
        "one key, after another",
        Code::InvalidArgument,
        services.read(message).await,
        "after",
    );
    let second = Duration::from_secs(1);
    let alive = tokio::time::timeout(second * 30, services.read(key("page/0002"))).await;
    assert_eq!(alive.unwrap().unwrap().registers.len(), 1, "it still serves");
}
