//! A client's certificate plays no acceptor, proposer or learner: each forged message is refused, and the cluster is
//! unharmed.

use std::time::Duration;

use bytes::Bytes;
use paxos_common::wire;
use paxos_proto::v1::{self as pb, form_request::Step};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{acceptor, is_denied};
use crate::harness::{BackgroundLoad, Cluster, until};

/// The proposer's number in forged ballots.
const FORGER: u64 = 7;
/// A slot far above every log.
const FAR: u64 = 1 << 62;

async fn status(cluster: &Cluster, acceptor: usize) -> pb::AcceptorStatusResponse {
    until("an acceptor answers", async || {
        cluster.acceptor_status(acceptor).await
    })
    .await
}

fn proposal(slot: u64, value: &'static [u8]) -> pb::Proposal {
    pb::Proposal {
        slot,
        value: Bytes::from_static(value),
        traceparent: String::new(),
        found: true,
    }
}

/// Votes and witnesses that would damage the cluster: each made for the acceptor's present promise.
fn forged(status: &pb::AcceptorStatusResponse, other: &pb::AcceptorStatusResponse) -> Vec<pb::AcceptRequest> {
    let mut ballot = status.leadership.clone().unwrap().promised.unwrap();
    let at_promise = ballot;
    ballot.round += 5;
    ballot.proposer = FORGER;
    let stamp = other.stamp.clone().unwrap();
    let request = |ballot, chosen_to, proposals| pb::AcceptRequest {
        caller: Some(pb::Caller {
            protocol_version: wire::PROTOCOL_VERSION,
            cluster_id: stamp.cluster_id.clone(),
        }),
        ballot: Some(ballot),
        sequence: 1,
        chosen_to,
        proposals,
        ..pb::AcceptRequest::default()
    };
    let next = status.voted_to;
    let false_witness = pb::AcceptRequest {
        // The other acceptor would never again report as high a counter: it would seem to have lost its disk.
        witnesses: vec![pb::Witness {
            acceptor: stamp.acceptor.clone(),
            run: stamp.run,
            commit_counter: stamp.commit_counter + 1_000_000,
        }],
        ..request(at_promise, 0, Vec::new())
    };
    vec![
        false_witness,
        // A vote of no leader.
        request(ballot, next, vec![proposal(next, &[0x0a, 0x02, 0x12, 0x00])]),
        // A value that no process can read.
        request(ballot, next, vec![proposal(next, &[0x0a, 0x00])]),
        // A vote beyond all slots.
        request(ballot, FAR, vec![proposal(FAR, b"")]),
        // Another value for a chosen slot.
        request(ballot, 0, vec![proposal(0, b"other")]),
        // A heartbeat that holds up elections.
        request(ballot, 0, Vec::new()),
    ]
}

/// No acceptor has promised a forged ballot. A busy machine may have elections of its own.
async fn no_acceptor_promised(cluster: &Cluster) {
    for number in 0..3 {
        let promised = status(cluster, number)
            .await
            .leadership
            .unwrap()
            .promised
            .unwrap();
        assert_ne!(promised.proposer, FORGER, "acceptor {number}");
    }
}

#[tokio::test]
async fn forged_votes_witnesses_and_values_of_a_client_are_refused() {
    let cluster = Cluster::start_secure(3, 2, 2).await;
    let load = BackgroundLoad::start(&cluster, 1, usize::MAX, 4);
    load.reached(20).await;
    let mut refused = 0;
    for number in 0..3 {
        let (own, other) = (
            status(&cluster, number).await,
            status(&cluster, (number + 1) % 3).await,
        );
        for request in forged(&own, &other) {
            for role in ["client", "operator"] {
                let requests = tokio_stream::iter([request.clone()]);
                is_denied(acceptor(&cluster, number, role).accept(requests).await);
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 36);
    load.goes_on(50).await;
    let outcome = load.stop().await;
    let (learner, end) = (&cluster.learners[0], outcome.end());
    outcome.check(&cluster.log_of(learner, end).await);
    assert!(outcome.not_proposed.is_empty(), "{:?}", outcome.not_proposed);
    // All acceptors are trusted as before, and no acceptor has promised a forged ballot.
    cluster.digests_are_equal(end).await;
    no_acceptor_promised(&cluster).await;
}

#[tokio::test]
async fn rising_prepares_of_a_client_disturb_no_leader() {
    let cluster = Cluster::start_secure(3, 2, 2).await;
    let load = BackgroundLoad::start(&cluster, 1, usize::MAX, 4);
    load.reached(20).await;
    let status_before = status(&cluster, 0).await;
    let before = status_before.leadership.unwrap().promised.unwrap();
    let mut clients: Vec<_> = (0..3)
        .map(|number| acceptor(&cluster, number, "client"))
        .collect();
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let begun = Instant::now();
    let mut ballot = before;
    ballot.proposer = FORGER;
    // Longer than several timeouts of a leader.
    while begun.elapsed() < Duration::from_secs(5) {
        ticks.tick().await;
        ballot.round += 1;
        for client in &mut clients {
            let request = pb::PrepareRequest {
                caller: Some(pb::Caller {
                    protocol_version: wire::PROTOCOL_VERSION,
                    cluster_id: status_before.stamp.clone().unwrap().cluster_id,
                }),
                ballot: Some(ballot),
                ..pb::PrepareRequest::default()
            };
            is_denied(client.prepare(request).await);
        }
    }
    let outcome = load.stop().await;
    assert!(outcome.not_proposed.is_empty(), "{:?}", outcome.not_proposed);
    no_acceptor_promised(&cluster).await;
    cluster.digests_are_equal(outcome.end()).await;
}

#[tokio::test]
async fn client_forms_no_cluster_of_blank_acceptors() {
    let mut cluster = Cluster::blank_and_secure(3).await;
    let mut members = Vec::new();
    for number in 0..3 {
        // A look at the acceptor is for operators too.
        let looked = until("a blank acceptor answers", async || {
            let look = pb::FormRequest {
                caller: Some(wire::caller(None)),
                step: None,
            };
            acceptor(&cluster, number, "operator").form(look).await.ok()
        })
        .await
        .into_inner();
        members.push(pb::Member {
            acceptor: looked.stamp.unwrap().acceptor,
            address: looked.address,
            name: String::new(),
        });
    }
    members.sort_by(|one, other| one.acceptor.cmp(&other.acceptor));
    let configuration = pb::Configuration {
        members,
        phase1: 2,
        phase2: 2,
        ..pb::Configuration::default()
    };
    let steps = [
        Step::Store(configuration.clone()),
        Step::Complete(configuration.clone()),
        Step::Install(configuration.clone()),
        Step::Join(configuration),
    ];
    for number in 0..3 {
        for step in &steps {
            // The step of an operator is for clusters that are restored.
            for role in ["client", "operator", "learner"] {
                let request = pb::FormRequest {
                    caller: Some(wire::caller(None)),
                    step: Some(step.clone()),
                };
                is_denied(acceptor(&cluster, number, role).form(request).await);
            }
        }
        let stamp = status(&cluster, number).await.stamp.unwrap();
        assert!(stamp.cluster_id.is_empty(), "{stamp:?}");
    }
    // A proposer forms the cluster.
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.add_learner("learner-1".to_owned(), &[]);
    cluster.client().put("colour", "blue").await.unwrap();
}
