//! Reading requests, joining a change under way, and the stream of stages.

use bytes::Bytes;
use paxos_common::{paxos::quorum::MemberEntry, wire::status::fate_of};
use tokio::sync::watch;
use tonic::Code;

use super::*;

fn uuid(number: u128) -> AcceptorUuid {
    AcceptorUuid::from_u128(number)
}

fn member(number: u128) -> (AcceptorUuid, MemberEntry) {
    let address: Arc<str> = format!("http://a{number}:1").into();
    (uuid(number), address.into())
}

fn present() -> Configuration {
    Configuration::of_members([1, 2, 3].map(member), 2, 2).unwrap()
}

fn next(numbers: [u128; 3]) -> Arc<Configuration> {
    Arc::new(present().changed_to(numbers.map(member), 2, 2).unwrap())
}

fn bytes(uuid: AcceptorUuid) -> Bytes {
    Bytes::copy_from_slice(&uuid.to_bytes())
}

/// Replace acceptor 3 by acceptor 4.
fn request() -> pb::ChangeMembersRequest {
    let joiner = pb::Member {
        acceptor: bytes(uuid(4)),
        address: "http://a4:1".to_owned(),
        name: String::new(),
    };
    pb::ChangeMembersRequest {
        cluster_id: Bytes::copy_from_slice(present().cluster_id().as_bytes()),
        era: 0,
        remove: vec![bytes(uuid(3))],
        add: vec![joiner],
        ..pb::ChangeMembersRequest::default()
    }
}

#[test]
fn request_is_read_whole_or_refused_with_the_limit() {
    let (cluster, asked) = read(request()).unwrap();
    assert_eq!(cluster, present().cluster_id());
    let expected = AskedMembers {
        era: Era::FIRST,
        remove: [uuid(3)].into(),
        add: vec![Added {
            address: "http://a4:1".parse().unwrap(),
            acceptor: Some(uuid(4)),
        }],
        quorums: None,
        force: false,
    };
    assert_eq!(asked, expected);
    let with = |change: fn(&mut pb::ChangeMembersRequest)| {
        let mut changed = request();
        change(&mut changed);
        read(changed)
    };
    let quorums = |asked: &mut pb::ChangeMembersRequest| (asked.phase1, asked.phase2) = (3, 1);
    assert_eq!(with(quorums).unwrap().1.quorums, Some((3, 1)));
    assert_eq!(
        with(|asked| asked.add[0].acceptor.clear()).unwrap().1.add[0].acceptor,
        None
    );
    let wrong: [fn(&mut pb::ChangeMembersRequest); 8] = [
        |asked| asked.cluster_id.clear(),
        |asked| asked.era = u64::MAX,
        |asked| asked.remove = vec![Bytes::from_static(b"short")],
        |asked| asked.remove = vec![bytes(uuid(3)); ACCEPTORS_MAX + 1],
        |asked| asked.add = vec![asked.add[0].clone(); ACCEPTORS_MAX + 1],
        |asked| asked.add[0].address = "a4".to_owned(),
        |asked| asked.add[0].acceptor = Bytes::from_static(b"short"),
        |asked| asked.phase1 = 2,
    ];
    for change in wrong {
        assert_eq!(with(change).unwrap_err().code(), Code::InvalidArgument);
    }
}

#[test]
fn same_request_joins_the_change_under_way_and_another_waits() {
    let (_, asked) = read(request()).unwrap();
    let change = |configuration| ShownChange {
        configuration,
        stage: ChangeStage::Copying { slots: 41, of: 100 },
        taken: 0,
        begun: None,
    };
    let same = next([1, 2, 4]);
    assert_eq!(
        joined(&asked, &present(), &change(Arc::clone(&same))).as_ref(),
        Ok(&*same)
    );
    let other = joined(&asked, &present(), &change(next([1, 2, 5]))).unwrap_err();
    let words = other.to_string();
    assert!(
        words.starts_with("another change is under way: replace "),
        "{words}"
    );
    assert!(words.ends_with(", copying 41 %. Wait for it"), "{words}");
    assert!(!is_in_force(&change(Arc::clone(&same)), &present()));
    assert!(is_in_force(&change(Arc::clone(&same)), &same));
}

/// The stages as the caller receives them.
async fn passed_on(stages: Vec<ChangeStage>) -> Vec<Result<Stage, Status>> {
    let mut stages = stages.into_iter();
    let news = watch::Sender::new(stages.next().unwrap());
    let (answers, mut receiver) = mpsc::channel(ANSWERS_MAX);
    let passing = tokio::spawn(pass_on(
        ChangeNews {
            stages: news.subscribe(),
            taken: Arc::default(),
        },
        Configuration::clone(&next([1, 2, 4])),
        answers,
    ));
    let mut received = vec![receiver.recv().await.unwrap()];
    for stage in stages {
        news.send_replace(stage);
        received.extend(receiver.recv().await);
    }
    drop(news);
    while let Some(answer) = receiver.recv().await {
        received.push(answer);
    }
    passing.await.unwrap();
    let stage =
        |answer: Result<pb::ChangeMembersResponse, Status>| answer.map(|answer| answer.stage.unwrap());
    received.into_iter().map(stage).collect()
}

#[tokio::test]
async fn caller_receives_the_stages_up_to_the_last() {
    let configuration = next([1, 2, 4]);
    let received = passed_on(vec![
        ChangeStage::Copying { slots: 1, of: 2 },
        ChangeStage::Deciding { accepted: 1, of: 2 },
        ChangeStage::Switching(configuration.era()),
        ChangeStage::Done {
            configuration: Arc::clone(&configuration),
            waited: Duration::ZERO,
        },
    ])
    .await;
    let received: Vec<_> = received.into_iter().map(Result::unwrap).collect();
    let expected = [
        Stage::Copying(pb::Copying {
            slots: 1,
            of: 2,
            bytes: 0,
        }),
        Stage::Deciding(pb::Deciding { accepted: 1, of: 2 }),
        Stage::Switching(pb::Switching { era: 1 }),
        Stage::Done(pb::Configuration::from(&*configuration)),
    ];
    assert_eq!(received, expected);
}

#[test]
fn made_change_says_how_long_commands_waited() {
    let configuration = next([1, 2, 4]);
    let waited_ms = |waited| done(&configuration, waited).waited_ms;
    assert_eq!(waited_ms(Some(Duration::from_micros(6_001))), Some(7));
    assert_eq!(waited_ms(Some(Duration::ZERO)), Some(0));
    assert_eq!(waited_ms(None), None, "made before the request");
    let stage = ChangeStage::Done {
        configuration: Arc::clone(&configuration),
        waited: Duration::from_millis(5),
    };
    assert_eq!(answer_of(&stage, &configuration, 0).unwrap().waited_ms, Some(5));
    let switching = ChangeStage::Switching(configuration.era());
    assert_eq!(answer_of(&switching, &configuration, 0).unwrap().waited_ms, None);
}

#[tokio::test]
async fn refused_and_unknown_changes_end_the_stream_with_their_fate() {
    let copying = || ChangeStage::Copying { slots: 1, of: 2 };
    for (last, code, fate) in [
        (
            Some(ChangeStage::Refused(ChangeRefusal::Silent(uuid(4)))),
            Code::FailedPrecondition,
            None,
        ),
        (
            Some(ChangeStage::Refused(ChangeRefusal::Deposed)),
            Code::Unavailable,
            Some(Fate::NotProposed),
        ),
        (
            Some(ChangeStage::Unknown),
            Code::Unavailable,
            Some(Fate::OutcomeUnknown),
        ),
        // The driver ends without a word.
        (None, Code::Unavailable, Some(Fate::OutcomeUnknown)),
    ] {
        let stages = [copying()].into_iter().chain(last).collect();
        let received = passed_on(stages).await;
        let [Ok(_), Err(status)] = &received[..] else {
            panic!("{received:?}");
        };
        assert_eq!((status.code(), fate_of(status)), (code, fate));
    }
}

#[tokio::test(start_paused = true)]
async fn growing_bytes_are_reported_once_a_second() {
    let news = watch::Sender::new(ChangeStage::Copying { slots: 0, of: 9 });
    let (answers, mut receiver) = mpsc::channel(ANSWERS_MAX);
    let taken = Arc::<std::sync::atomic::AtomicU64>::default();
    tokio::spawn(pass_on(
        ChangeNews {
            stages: news.subscribe(),
            taken: Arc::clone(&taken),
        },
        Configuration::clone(&next([1, 2, 4])),
        answers,
    ));
    for expected in [0, 100, 200] {
        taken.store(expected, Ordering::Relaxed);
        let answer = receiver.recv().await.unwrap().unwrap();
        let Some(Stage::Copying(copying)) = answer.stage else {
            panic!("{answer:?}");
        };
        assert_eq!(copying.bytes, expected);
    }
}

#[test]
fn only_processes_of_an_older_protocol_are_outdated() {
    let report = |protocol_version| pb::AttachRequest {
        caller: Some(pb::Caller {
            protocol_version,
            cluster_id: Bytes::new(),
        }),
        role: pb::Role::Learner.into(),
        address: "http://l:1".to_owned(),
        ..pb::AttachRequest::default()
    };
    assert_eq!(outdated(&report(CHANGES_VERSION)), None);
    let older = outdated(&report(CHANGES_VERSION - 1));
    assert_eq!(older.as_deref(), Some("learner http://l:1"));
}
