//! Forged messages: reports, votes, values, sessions and openings that no process of a cluster sends.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{
    self as pb, accept_response::Answer, acceptor_client::AcceptorClient, command::Operation,
    learner_client::LearnerClient, proposer_client::ProposerClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::{elects, is_well, ordered, sweep};
use crate::harness::{Cluster, until};

fn caller(status: &pb::AcceptorStatusResponse) -> Option<pb::Caller> {
    Some(pb::Caller {
        protocol_version: 1,
        cluster_id: status.stamp.clone().unwrap().cluster_id,
    })
}

/// Sends an Accept, at a ballot just above the promise, to an acceptor. Any leader must then campaign again.
async fn vote(
    cluster: &Cluster,
    acceptor: usize,
    chosen_to: u64,
    proposal: pb::Proposal,
) -> Result<Answer, Status> {
    let address = &cluster.acceptors[acceptor].address;
    let status = sweep::acceptor_status(address).await;
    let mut ballot = status.leadership.clone().unwrap().promised.unwrap();
    ballot.round += 5;
    let request = pb::AcceptRequest {
        caller: caller(&status),
        ballot: Some(ballot),
        sequence: 1,
        chosen_to,
        proposals: vec![proposal],
        ..Default::default()
    };
    let (requests, receiver) = mpsc::channel(1);
    requests.send(request).await.unwrap();
    let mut client = AcceptorClient::new(connect_lazy(address));
    let mut answers = client.accept(ReceiverStream::new(receiver)).await?.into_inner();
    Ok(answers.message().await?.unwrap().answer.unwrap())
}

async fn propose(cluster: &Cluster, command: pb::Command) -> Result<pb::Version, Status> {
    let mut client = ProposerClient::new(connect_lazy(&cluster.proposers[0].address));
    let request = pb::ProposeRequest {
        command: Some(command),
        forwarded: false,
    };
    let answer = client.propose(request).await?;
    Ok(answer.into_inner().version.unwrap())
}

fn opening(opener: &'static [u8]) -> pb::Command {
    pb::Command {
        session: None,
        operation: Some(Operation::OpenSession(pb::OpenSession {
            opener: Bytes::from_static(opener),
        })),
    }
}

#[tokio::test]
async fn largest_reports_of_peers_leave_status_readable() {
    let cluster = Cluster::start(3, 1, 1).await;
    let address = &cluster.acceptors[0].address;
    let status = sweep::acceptor_status(address).await;
    let report = |peer: u64, bytes: usize, digest: usize| {
        let digest = pb::Digest {
            to: 1,
            digest: vec![7; digest].into(),
            state: Bytes::new(),
        };
        pb::AttachRequest {
            caller: caller(&status),
            role: pb::Role::Learner.into(),
            peer,
            address: format!("http://{}:1", "h".repeat(bytes)),
            software: "s".repeat(64),
            progress: Some(pb::attach_request::Progress::Learner(pb::LearnerProgress {
                refuses_reads: false,
                state_bytes: 0,
                applied_to: 1,
                digests: vec![digest; 8],
                installing_to: 0,
            })),
            ..Default::default()
        }
    };
    let attach = async |report| {
        let (reports, receiver) = mpsc::channel(1);
        reports.send(report).await.unwrap();
        let mut client = AcceptorClient::new(connect_lazy(address));
        let mut answers = client.attach(ReceiverStream::new(receiver)).await?.into_inner();
        answers.message().await?;
        Ok::<_, Status>((reports, answers))
    };
    for large in [report(1, 10_000, 32), report(1, 9, 1_024)] {
        let refused = attach(large).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    // Fewer than the 384 connections that one address may have.
    let attached = join_all((0..350).map(|peer| attach(report(peer, 240, 32)))).await;
    let open = attached.iter().filter(|attached| attached.is_ok()).count();
    assert!(open > 300, "{open} of 350 attached");
    // Clients find the proposers, and so does `paxos status`.
    let shown = sweep::acceptor_status(address).await.attached.len();
    assert!(shown >= open, "{shown}");
    ordered(&cluster.client(), "with 350 strangers").await;
}

#[tokio::test]
async fn forged_far_votes_and_unreadable_values_stop_no_process() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let first = ordered(&cluster.client(), "before").await;
    let unreadable = |slot, found| pb::Proposal {
        slot,
        value: Bytes::from_static(&[0x0a, 0x00]),
        traceparent: String::new(),
        found,
    };
    let next = first.slot.get() + 1;
    let refused = vote(&cluster, 0, 0, unreadable(next, false)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    assert!(refused.message().contains("value of slot"), "{refused:?}");

    // The forged proposal claims a value found in a promise, so the acceptor does not check the value. The next leader
    // finds the vote and has the value chosen.
    let next = sweep::acceptor_status(&cluster.acceptors[0].address)
        .await
        .voted_to;
    vote(&cluster, 0, next, unreadable(next, true)).await.unwrap();
    elects(&mut cluster).await;

    let far = pb::Proposal {
        slot: 1 << 62,
        ..Default::default()
    };
    let answer = vote(&cluster, 0, 0, far.clone()).await.unwrap();
    assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    // A claim that all slots below are chosen cannot be checked.
    let answer = vote(&cluster, 0, 1 << 62, far).await.unwrap();
    assert!(matches!(answer, Answer::Accepted(_)), "{answer:?}");
    let before = ordered(&cluster.client(), "after the vote").await;
    elects_with_far_vote(&mut cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = ordered(&cluster.client(), "some time later").await;
    let filled = after.slot.since(before.slot);
    assert!(filled < 5_000, "{filled} slots for a handful of values");
    for learner in &mut cluster.learners {
        assert_eq!(learner.try_ended(), None, "{}", learner.log());
    }
}

#[tokio::test]
async fn forged_values_that_contradict_or_belong_to_a_newer_release_end_no_process() {
    let mut cluster = Cluster::start(3, 2, 2).await;
    let first = ordered(&cluster.client(), "before").await;
    let voted_to = sweep::acceptor_status(&cluster.acceptors[0].address)
        .await
        .voted_to;
    let proposal = |slot, value: &'static [u8]| pb::Proposal {
        slot,
        value: Bytes::from_static(value),
        traceparent: String::new(),
        found: true,
    };
    for acceptor in 0..3 {
        // Field 15 of a command.
        let newer = proposal(voted_to, &[0x0a, 0x02, 0x7a, 0x00]);
        let answer = vote(&cluster, acceptor, 0, newer).await.unwrap();
        let Answer::Refused(refused) = answer else {
            panic!("{answer:?}");
        };
        assert!(
            refused.reason.contains("Upgrade all acceptors first"),
            "{refused:?}"
        );
        let address = &cluster.acceptors[acceptor].address;
        until("the acceptor knows that the slot is chosen", async || {
            let status = sweep::acceptor_status(address).await;
            (status.known_chosen_to > first.slot.get()).then_some(())
        })
        .await;
        let other = proposal(first.slot.get(), b"other");
        let answer = vote(&cluster, acceptor, 0, other).await.unwrap();
        let Answer::Refused(refused) = answer else {
            panic!("{answer:?}");
        };
        assert!(refused.reason.contains("is chosen"), "{refused:?}");
    }
    elects(&mut cluster).await;
    ordered(&cluster.client(), "after").await;
    is_well(&cluster).await;
    for process in cluster.acceptors.iter_mut().chain(&mut cluster.learners) {
        assert_eq!(process.try_ended(), None, "{}", process.log());
    }
}

/// Another leader takes over although one acceptor reports a vote at slot 2^62.
async fn elects_with_far_vote(cluster: &mut Cluster) {
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    ordered(&cluster.client(), "after the leader").await;
    cluster.proposers[leader].start();
}

#[tokio::test]
async fn sessions_are_limited_and_usable_only_by_their_openers() {
    let cluster = Cluster::start(3, 1, 2).await;
    let name = propose(&cluster, opening(b"sixteen letters!")).await.unwrap();
    let put = |opener: &'static [u8], sequence, value: &'static str| pb::Command {
        session: Some(pb::SessionStamp {
            session: Some(name),
            sequence,
            acked_below: 1,
            opener: Bytes::from_static(opener),
        }),
        operation: Some(Operation::Put(pb::Put {
            key: "key".into(),
            value: value.into(),
            condition: None,
        })),
    };
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let mut outcome = async |version| {
        let request = pb::ResultRequest {
            command: Some(pb::result_request::Command::Version(version)),
        };
        learner.result(request).await.map(|_| ())
    };
    for thief in [&b""[..], b"sixteen LETTERS!"] {
        let stolen = propose(&cluster, put(thief, 1, "stolen")).await.unwrap();
        let refused = outcome(stolen).await.unwrap_err();
        assert_eq!(refused.code(), Code::Aborted, "{refused:?}");
        assert!(refused.message().contains("opener"), "{refused:?}");
    }
    let own = propose(&cluster, put(b"sixteen letters!", 1, "own"))
        .await
        .unwrap();
    outcome(own).await.unwrap();
    let client = cluster.client();
    let read = client.get("key").await.unwrap();
    assert_eq!(&read.unwrap().value[..], b"own");
    // No reader of the log learns the opener.
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let request = pb::SubscribeRequest { from: name.slot };
    let mut log = learner.subscribe(request).await.unwrap().into_inner();
    let records = log.message().await.unwrap().unwrap().records;
    assert!(!format!("{records:?}").contains("sixteen"), "{records:?}");

    // Enough openings to expire every session.
    let (requests, receiver) = mpsc::channel(4_096);
    let mut proposer = ProposerClient::new(connect_lazy(&cluster.proposers[0].address));
    tokio::spawn(async move {
        for tag in 1..=65_537 {
            let request = pb::ProposeStreamRequest {
                tag,
                command: Some(opening(b"")),
                ..Default::default()
            };
            if requests.send(request).await.is_err() {
                break;
            }
        }
    });
    let mut answers = proposer
        .propose_stream(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let (mut opened, mut refused) = (0, 0);
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.answer.unwrap() {
            pb::propose_stream_response::Answer::Version(_) => opened += 1,
            pb::propose_stream_response::Answer::Error(error) => {
                assert_eq!(error.code, Code::ResourceExhausted as i32, "{error:?}");
                refused += 1;
            }
        }
    }
    println!("{opened} sessions opened, {refused} refused");
    assert!(opened < 20_000 && refused > 40_000);
    let again = propose(&cluster, put(b"sixteen letters!", 2, "still mine"))
        .await
        .unwrap();
    outcome_is_applied(&cluster, again).await;
    // A new client gets a session, by retrying.
    until("a newcomer writes", async || {
        client.put("newcomer", "value").await.ok()
    })
    .await;
    is_well(&cluster).await;
}

async fn outcome_is_applied(cluster: &Cluster, version: pb::Version) {
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    let request = pb::ResultRequest {
        command: Some(pb::result_request::Command::Version(version)),
    };
    learner.result(request).await.unwrap();
}
