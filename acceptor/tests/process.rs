//! The real binary over gRPC: answers, state after a kill, and exit codes.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use std::{collections::BTreeMap, path::PathBuf, process::Command, sync::Arc};

use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, ClusterId},
        message::UNANSWERED_MAX,
    },
    wire::{PROTOCOL_VERSION, accept_request, caller},
};
use paxos_proto::v1 as pb;
use support::{
    accept, ballot, configuration,
    process::{Process, command, form},
    value,
};
use tokio::sync::Semaphore;

/// The answers received by a leader before the stream broke.
struct Acknowledged {
    cluster: ClusterId,
    /// Three slots a message, from 0 on.
    messages: u64,
    last_stamp: pb::Stamp,
}

impl Acknowledged {
    /// Proposes until the stream breaks, with the maximum number of unanswered messages. Kills the process after
    /// `kill_after` answers, if given.
    async fn load(process: &mut Process, kill_after: Option<u64>) -> Self {
        let mut client = process.client();
        let cluster = form(&mut client).await.cluster_id();
        let (requests, receiver) = tokio::sync::mpsc::channel(64);
        let unanswered = Arc::new(Semaphore::new(UNANSWERED_MAX.try_into().unwrap()));
        let room = Arc::clone(&unanswered);
        let feeder = tokio::spawn(async move {
            for at in 0.. {
                let Ok(place) = room.acquire().await else { break };
                place.forget();
                let rows = (at * 3..at * 3 + 3).map(|at| (at, value(&format!("value {at}"))));
                let mut message = accept(1, at * 3, rows);
                message.sequence = at + 1;
                if requests.send(accept_request(&message, cluster)).await.is_err() {
                    break;
                }
            }
        });
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = client.accept(stream).await.unwrap().into_inner();
        let mut messages = 0;
        let mut last_stamp = None;
        // Answers still in the socket after a kill were answers nonetheless.
        while let Ok(Some(answer)) = answers.message().await {
            assert_eq!(
                answer.sequence,
                messages + 1,
                "answers come in the order of the requests"
            );
            let accepted = matches!(answer.answer, Some(pb::accept_response::Answer::Accepted(_)));
            assert!(accepted, "{answer:?}");
            last_stamp = answer.stamp;
            messages += 1;
            unanswered.add_permits(1);
            if Some(messages) == kill_after {
                process.child.kill().unwrap();
            }
        }
        drop(answers);
        unanswered.close();
        feeder.await.unwrap();
        Self {
            cluster,
            messages,
            last_stamp: last_stamp.unwrap(),
        }
    }

    /// Requests a promise, and checks that the promise contains everything acknowledged.
    async fn check(&self, process: &Process) {
        let request = pb::PrepareRequest {
            caller: Some(caller(Some(self.cluster))),
            ballot: Some(ballot(2).into()),
            ..Default::default()
        };
        let mut pages = process.client().prepare(request).await.unwrap().into_inner();
        let (mut found, mut complete) = (BTreeMap::new(), false);
        while let Some(page) = pages.message().await.unwrap() {
            assert!(page.stamp.unwrap().runs.is_empty(), "the runs come with Form");
            let Some(pb::promise_page::Answer::Promise(promise)) = page.answer else {
                panic!("not promised")
            };
            complete = promise.last;
            found.extend(promise.rows.into_iter().map(|row| (row.slot, row.value)));
        }
        assert!(complete, "the last page is marked");
        for at in 0..self.messages * 3 {
            let expected = format!("value {at}");
            assert_eq!(
                found.get(&at).map(|value| &value[..]),
                Some(expected.as_bytes()),
                "slot {at}"
            );
        }
        // The killed run ended no lower than its last stamp.
        let request = pb::FormRequest {
            caller: Some(caller(None)),
            step: None,
        };
        let form = process.client().form(request).await.unwrap().into_inner();
        let past = form.stamp.unwrap().runs;
        let ended = past
            .iter()
            .find(|run| run.run == self.last_stamp.run)
            .expect("the broken run is listed");
        assert!(ended.commit_counter >= self.last_stamp.commit_counter);
        assert_eq!(past.len(), 2);
    }
}

#[tokio::test]
async fn every_accepted_vote_is_there_after_a_kill_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start(directory.path());
    let acknowledged = Acknowledged::load(&mut process, Some(300)).await;
    assert!(acknowledged.messages >= 300);
    drop(process);
    acknowledged.check(&Process::start(directory.path())).await;
}

#[tokio::test]
async fn failed_commit_ends_the_process_with_74_and_loses_nothing_answered() {
    let directory = tempfile::tempdir().unwrap();
    let mut process = Process::start_on_a_small_disk(directory.path(), &[]);
    let acknowledged = Acknowledged::load(&mut process, None).await;
    assert!(acknowledged.messages > 0, "the disk was too small for anything");
    assert_eq!(process.child.wait().unwrap().code(), Some(74));
    drop(process);
    acknowledged.check(&Process::start(directory.path())).await;
}

#[tokio::test]
async fn observers_receive_held_votes_and_then_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut client = process.client();
    let cluster = form(&mut client).await.cluster_id();
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let send = async |at: u64, chosen_to| {
        let message = accept(1, chosen_to, [(at, value(&format!("value {at}")))]);
        requests.send(accept_request(&message, cluster)).await.unwrap();
    };
    send(0, 0).await;
    send(1, 0).await;
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client.accept(stream).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    answers.message().await.unwrap().unwrap();

    let observe = |kind: pb::ObserveKind, from| pb::ObserveRequest {
        caller: Some(caller(Some(cluster))),
        kind: kind.into(),
        from,
    };
    let values = client.observe(observe(pb::ObserveKind::Values, 0)).await.unwrap();
    let votes = client.observe(observe(pb::ObserveKind::Votes, 1)).await.unwrap();
    let (mut values, mut votes) = (values.into_inner(), votes.into_inner());
    let held = values.message().await.unwrap().unwrap();
    assert_eq!(held.rows.iter().map(|row| row.slot).collect::<Vec<_>>(), [0, 1]);
    let range = |votes: &[pb::VoteRange]| {
        votes
            .iter()
            .map(|range| (range.from, range.to))
            .collect::<Vec<_>>()
    };
    assert_eq!(range(&votes.message().await.unwrap().unwrap().votes), [(1, 2)]);

    send(2, 2).await;
    let live = values.message().await.unwrap().unwrap();
    assert_eq!((live.rows[0].slot, &live.rows[0].value[..]), (2, &b"value 2"[..]));
    assert_eq!(live.chosen_to, 2);
    assert_eq!(range(&votes.message().await.unwrap().unwrap().votes), [(2, 3)]);

    // A vote is in the tail by the time the vote is answered.
    answers.message().await.unwrap().unwrap();
    let tail = pb::TailRequest {
        caller: Some(caller(Some(cluster))),
        nonce: 9,
    };
    let tail = client.tail(tail).await.unwrap().into_inner();
    assert_eq!((tail.nonce, tail.voted_to), (9, 3));
}

#[tokio::test]
async fn strangers_and_calls_before_a_cluster_is_formed_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut client = process.client();
    let stranger = configuration(AcceptorUuid::from_u128(99));
    let tail = |version| {
        let mut caller = caller(Some(stranger.cluster_id()));
        caller.protocol_version = version;
        pb::TailRequest {
            caller: Some(caller),
            nonce: 1,
        }
    };
    let code = |result: Result<_, tonic::Status>| result.map(|_| ()).unwrap_err().code();
    assert_eq!(code(client.tail(tail(1)).await), tonic::Code::FailedPrecondition);
    let foreign = pb::form_request::Step::Store(pb::Configuration::from(&stranger));
    let request = pb::FormRequest {
        caller: Some(caller(None)),
        step: Some(foreign),
    };
    assert_eq!(
        client.form(request).await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
    let mut named = pb::Configuration::from(&stranger);
    named.members[0].name = "acceptor-1".into();
    let request = pb::FormRequest {
        caller: Some(caller(None)),
        step: Some(pb::form_request::Step::Store(named)),
    };
    let refused = client.form(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(
        refused.message().contains("configuration.members.name"),
        "{refused}"
    );
    form(&mut client).await;
    assert_eq!(code(client.tail(tail(1)).await), tonic::Code::FailedPrecondition);
    let newer = tail(PROTOCOL_VERSION + 1);
    assert_eq!(code(client.tail(newer).await), tonic::Code::FailedPrecondition);
    assert_eq!(code(client.tail(tail(0)).await), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn attached_peers_learn_of_a_new_leader_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let process = Process::start(directory.path());
    let mut client = process.client();
    let cluster = form(&mut client).await.cluster_id();
    let report = pb::AttachRequest {
        caller: Some(caller(Some(cluster))),
        role: pb::Role::Learner.into(),
        peer: 5,
        address: "http://l:1".into(),
        ..Default::default()
    };
    let (reports, receiver) = tokio::sync::mpsc::channel(4);
    reports.send(report).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut attached = client.attach(stream).await.unwrap().into_inner();
    let answer = attached.message().await.unwrap().unwrap();
    assert_eq!(answer.leadership.unwrap().promised.unwrap().round, 0);

    let prepare = pb::PrepareRequest {
        caller: Some(caller(Some(cluster))),
        ballot: Some(ballot(3).into()),
        proposer_address: "http://p:1".into(),
        ..Default::default()
    };
    client.prepare(prepare).await.unwrap();
    // First the candidate is heard, then the promise is on disk; at times both at once.
    let heard = attached.message().await.unwrap().unwrap();
    let of_heard = heard.heard.clone().unwrap();
    assert_eq!(
        (of_heard.ballot.unwrap().round, of_heard.address.as_str()),
        (3, "http://p:1")
    );
    let mut leadership = heard.leadership.unwrap();
    if leadership.promised.unwrap().round == 0 {
        leadership = attached.message().await.unwrap().unwrap().leadership.unwrap();
    }
    assert_eq!(
        (leadership.promised.unwrap().round, leadership.address.as_str()),
        (3, "http://p:1")
    );

    let status = client
        .status(pb::AcceptorStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.id, "a1");
    assert_eq!(status.attached[0].report.as_ref().unwrap().address, "http://l:1");
    assert_eq!(status.promises.len(), 1);
}

#[test]
fn second_process_on_a_directory_exits_78() {
    let directory = tempfile::tempdir().unwrap();
    let _first = Process::start(directory.path());
    let second = command(directory.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(78));
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("locked by another process"), "{text}");
}

#[test]
fn directory_of_another_acceptor_exits_78() {
    let directory = tempfile::tempdir().unwrap();
    drop(Process::start(directory.path()));
    let other = command(directory.path()).args(["--id", "a2"]).output().unwrap();
    assert_eq!(other.status.code(), Some(2), "--id is given twice");
    let mut other = Command::new(env!("CARGO_BIN_EXE_acceptor"));
    other
        .args(["--id", "a2", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(directory.path());
    let output = other.output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(78),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn directory_that_cannot_be_written_exits_74() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    // Permissions do not stop root, so tests as root need an unwritable path.
    for path in [file.join("below"), PathBuf::from("/proc/paxos")] {
        let output = command(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(74), "{text}");
        assert!(
            text.lines()
                .filter(|line| line.contains("cannot use the data directory"))
                .count()
                == 1,
            "{text}"
        );
    }
}
