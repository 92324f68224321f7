//! Registers as users see a register: decided once for all clients, and the refusals.

use crate::harness::{Cluster, run, stdout, until};
use futures::future::join_all;
use paxos_client::Consistency;
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{self as proto, learner_client::LearnerClient};
use tonic::Code;

#[tokio::test]
async fn concurrent_decides_return_one_winner_also_later() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let urls = cluster.urls();
    let names: Vec<_> = (0..21).map(|number| format!("candidate-{number}")).collect();
    let args = |name| ["decide", "leader-2026", name, "--acceptors", &urls];
    let outputs = join_all(names.iter().map(|name| async { run(&args(name.as_str())).await })).await;

    let winner = String::from_utf8(outputs[0].stdout.clone()).unwrap();
    let mut ours = Vec::new();
    for (name, output) in names.iter().zip(&outputs) {
        assert_eq!(
            String::from_utf8(output.stdout.clone()).unwrap(),
            winner,
            "{output:?}"
        );
        match output.status.code() {
            Some(0) => ours.push(name.as_str()),
            Some(1) => {}
            _ => panic!("{output:?}"),
        }
    }
    assert_eq!(ours, [winner.trim()], "exactly one says that it was theirs");

    // A learner that starts now with an empty disk, and a learner that returns to its own disk, report the same winner.
    let data_dir = cluster.path("late");
    cluster.add_learner("late".to_owned(), &["--data-dir", &data_dir]);
    cluster.learners[0].kill();
    cluster.learners[0].start();
    for learner in [0, 2] {
        let address = cluster.learners[learner].address.to_string();
        let winner_there = until("a starting learner answers with the winner", async || {
            let args = ["get", "leader-2026", "--acceptors", &urls, "--learners", &address];
            let output = run(&args).await;
            output.status.success().then(|| stdout(&output))
        })
        .await;
        assert_eq!(winner_there, winner.trim());
    }
    let restarted = cluster.learners[0].log();
    let from: Vec<_> = restarted
        .lines()
        .filter(|line| line.contains("learning"))
        .collect();
    assert!(
        from.len() >= 2 && !from.last().unwrap().contains("from=0"),
        "it goes on from its disk: {from:?}"
    );
}

#[tokio::test]
async fn what_breaks_a_limit_or_is_nowhere_gets_the_documented_error() {
    let cluster = Cluster::start(3, 1, 1).await;
    let client = cluster.client();
    let first = client.append("first").await.unwrap();
    client.get_with("key", Consistency::AtLeast(first)).await.unwrap();
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let version = |slot| proto::Version { slot, offset: 0 };

    let key = |key: Vec<u8>, consistency| proto::ReadRequest {
        target: Some(proto::read_request::Target::Key(key.into())),
        consistency,
        ..proto::ReadRequest::default()
    };
    for (bytes, code) in [
        (0, Code::InvalidArgument),
        (1, Code::Ok),
        (4_096, Code::Ok),
        (4_097, Code::InvalidArgument),
    ] {
        let answer = learner.read(key(vec![b'k'; bytes], None)).await;
        assert_eq!(
            answer.err().map_or(Code::Ok, |error| error.code()),
            code,
            "{bytes}"
        );
    }
    let future = Some(proto::read_request::Consistency::AtLeast(version(1_000_000)));
    let refused = learner.read(key(vec![b'k'], future)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    let result = |command| proto::ResultRequest {
        command: Some(command),
    };
    let refused = learner
        .result(result(proto::result_request::Command::Version(version(
            1_000_000,
        ))))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let stamp = proto::SessionStamp {
        session: Some(proto::Version { slot: 0, offset: 9 }),
        sequence: 1,
        acked_below: 1,
        opener: Default::default(),
    };
    let refused = learner
        .result(result(proto::result_request::Command::Session(stamp.clone())))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");

    let watch = proto::WatchRequest {
        target: Some(proto::watch_request::Target::Prefix(Default::default())),
        from: Some(version(1_000_000)),
    };
    let refused = learner.watch(watch).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let refused = learner
        .subscribe(proto::SubscribeRequest { from: 1_000_000 })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

    // A command of an unopened session is ordered, and has no effect.
    let command = |stamp| proto::Command {
        session: Some(stamp),
        operation: Some(proto::command::Operation::Put(proto::Put {
            key: "never".into(),
            value: "v".into(),
            condition: None,
        })),
    };
    let ordered = client.propose(command(stamp.clone())).await.unwrap();
    let refused = learner
        .result(result(proto::result_request::Command::Version(ordered.into())))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Aborted, "{refused}");
    let found = client.get("never").await.unwrap();
    assert_eq!(found, None);

    // The library never sends commands that every proposer refuses; this call bypasses the library.
    let far = proto::SessionStamp {
        sequence: 4_097,
        ..stamp
    };
    let mut proposer =
        proto::proposer_client::ProposerClient::new(connect_lazy(&cluster.proposers[0].address));
    let refused = proposer
        .propose(proto::ProposeRequest {
            command: Some(command(far)),
            forwarded: false,
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("4096"), "{refused}");
}
