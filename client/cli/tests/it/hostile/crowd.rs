//! Crowds: unused connections, streams and bytes.

use std::{
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use paxos_client::{Address, Slot};
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{LearnerStatusRequest, learner_client::LearnerClient};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::{
    STRANGERS_KIB_MAX, address_of, ballot,
    frames::{self, Http2, PREFACE, SETTINGS, prefixed},
    grew_little, is_well, noticed_nothing, ordered, processes, sweep,
};
use crate::harness::{BackgroundLoad, Cluster, Cut, Process, Proxy, until};

/// Most connections that a server keeps at once.
const CONNECTIONS_MAX: usize = 768;
/// Number of strangers that connect to a server at once.
const STRANGERS: usize = 2_000;

/// Raises the limit of open files to the maximum for this process.
pub(crate) fn raise_open_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    assert!(
        most > STRANGERS as u64 + 1_000,
        "{most} open files are too few for this test"
    );
}

#[tokio::test]
async fn thousands_of_silent_connections_lock_no_client_out() {
    raise_open_files();
    let mut cluster = Cluster::start(3, 2, 2).await;
    // A client with a machine that vanishes during a subscription.
    let vanishing = Proxy::before(&cluster.learners[0].address);
    let mut http2 = Http2::connect(&vanishing.address, 65_535).await;
    let (answer, mut request) = http2.open("/paxos.v1.Learner/Subscribe").await;
    request.send_data(prefixed(0, 0, &[]), true).unwrap();
    let subscription = answer.await.unwrap();
    vanishing.set(Cut::Both);

    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 8);
    load.reached(100).await;
    let before: Vec<_> = processes(&cluster).map(Process::resident_kib).collect();
    for role in ["Acceptor", "Proposer", "Learner"] {
        let address = address_of(&cluster, role).clone();
        let mut strangers = silent(&address, STRANGERS).await;
        // Connected clients are served, and new clients too.
        load.goes_on(100).await;
        let newcomer = cluster.client();
        ordered(&newcomer, format!("while {role} is beset")).await;
        grew_little(&cluster, &before);
        if role == "Acceptor" {
            // Peers must be able to connect too.
            let standby = 1 - cluster.leader().await;
            cluster.proposers[standby].kill();
            cluster.proposers[standby].start();
            let standby = cluster.proposers[standby].address.as_str();
            until("a proposer attaches", async || {
                let status = sweep::acceptor_status(&address).await;
                let reports = status.attached.into_iter().filter_map(|peer| peer.report);
                reports
                    .into_iter()
                    .any(|report| report.address == standby)
                    .then_some(())
            })
            .await;
        }
        until("those are closed who are too many", async || {
            let closed = closed_by_the_server(&mut strangers).await;
            (closed >= STRANGERS - CONNECTIONS_MAX).then_some(())
        })
        .await;
        if role == "Learner" {
            // Even without clients in need of their places.
            until("all are closed", async || {
                (closed_by_the_server(&mut strangers).await == STRANGERS).then_some(())
            })
            .await;
        }
    }
    let outcome = load.stop().await;
    assert!(outcome.not_proposed.is_empty(), "{:?}", outcome.not_proposed);
    println!(
        "{} acknowledged, {} unknown",
        outcome.acknowledged.len(),
        outcome.unknown.len()
    );

    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    until("the subscriber whose machine vanished is forgotten", async || {
        let status = learner
            .status(LearnerStatusRequest {})
            .await
            .unwrap()
            .into_inner();
        (status.subscribers == 0).then_some(())
    })
    .await;
    drop(subscription);
    is_well(&cluster).await;
}

/// Connections that send nothing, or nothing but the beginning of HTTP/2.
async fn silent(address: &Address, count: usize) -> Vec<TcpStream> {
    let mut strangers = Vec::new();
    for number in 0..count {
        let mut stranger = frames::connect(address).await;
        if number % 2 == 0 {
            let begun = [PREFACE, SETTINGS].concat();
            tokio::io::AsyncWriteExt::write_all(&mut stranger, &begun)
                .await
                .unwrap();
        }
        strangers.push(stranger);
    }
    strangers
}

/// Number of connections closed by the server.
async fn closed_by_the_server(strangers: &mut [TcpStream]) -> usize {
    let mut closed = 0;
    for stranger in strangers {
        let mut answer = [0; 256];
        loop {
            let read = tokio::time::timeout(Duration::ZERO, stranger.read(&mut answer)).await;
            match read {
                Ok(Ok(0) | Err(_)) => break closed += 1,
                Ok(Ok(_)) => {}
                Err(_) => break,
            }
        }
    }
    closed
}

#[tokio::test]
async fn idle_streams_cost_little_and_end_with_their_connection() {
    let cluster = Cluster::start(3, 2, 2).await;
    let led_at = ballot(&cluster).await;
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 8);
    load.reached(500).await;
    let before: Vec<_> = processes(&cluster).map(Process::resident_kib).collect();
    let status = sweep::acceptor_status(&cluster.acceptors[0].address).await;
    let contract = sweep::contract();
    let first = |service: &str, name: &str, variant: usize| {
        let service = contract
            .get_service_by_name(&format!("paxos.v1.{service}"))
            .unwrap();
        let method = service.methods().find(|method| method.name() == name).unwrap();
        let request = sweep::plausible(&method, &status).swap_remove(variant);
        let request = prost::Message::encode_to_vec(&request);
        prefixed(0, u32::try_from(request.len()).unwrap(), &request)
    };
    let half = prefixed(0, 4_000_000, &[0; 10_000]);
    let mut connections = Vec::new();
    for (service, method, begun) in [
        ("Learner", "Subscribe", first("Learner", "Subscribe", 0)),
        ("Learner", "Subscribe", half.clone()),
        ("Acceptor", "Observe", first("Acceptor", "Observe", 0)),
        ("Acceptor", "Attach", Bytes::new()),
        ("Acceptor", "Attach", first("Acceptor", "Attach", 1)),
        ("Acceptor", "Accept", Bytes::new()),
        ("Acceptor", "Accept", half.clone()),
        ("Proposer", "ProposeStream", Bytes::new()),
        ("Proposer", "ProposeStream", first("Proposer", "ProposeStream", 0)),
        ("Proposer", "Propose", half),
    ] {
        // The server may not send on the streams, so every answer stays in the server.
        let mut http2 = Http2::connect(address_of(&cluster, service), 0).await;
        let mut streams = Vec::new();
        for _ in 0..100 {
            let (answer, mut request) = http2.open(&format!("/paxos.v1.{service}/{method}")).await;
            let is_whole = ["Subscribe", "Observe"].contains(&method) && begun.len() < 1_000;
            request.send_data(begun.clone(), is_whole).unwrap();
            streams.push((answer, request));
        }
        connections.push((http2, streams));
    }
    until("the streams are open", async || {
        (subscribers(&cluster).await >= 100).then_some(())
    })
    .await;
    load.goes_on(2_000).await;
    grew_little(&cluster, &before);
    drop(connections);
    until("the streams have ended with their connections", async || {
        let status = sweep::acceptor_status(&cluster.acceptors[0].address).await;
        (subscribers(&cluster).await == 0 && status.attached.len() <= 4).then_some(())
    })
    .await;
    noticed_nothing(&load.stop().await, led_at, ballot(&cluster).await);
    is_well(&cluster).await;
}

async fn subscribers(cluster: &Cluster) -> u64 {
    let mut learner = LearnerClient::new(connect_lazy(&cluster.learners[0].address));
    learner
        .status(LearnerStatusRequest {})
        .await
        .unwrap()
        .into_inner()
        .subscribers
}

#[tokio::test]
async fn large_messages_that_never_end_are_cut_off_before_they_fill_the_memory() {
    let cluster = Cluster::start(3, 1, 2).await;
    let proposer = &cluster.proposers[0];
    let before = proposer.resident_kib();
    let half = prefixed(0, 4_000_000, &vec![0; 3_999_000]);
    let mut http2 = Http2::connect(&proposer.address, 65_535).await;
    let mut calls = Vec::new();
    for _ in 0..200 {
        let (answer, mut request) = http2.open("/paxos.v1.Proposer/ProposeStream").await;
        request.send_data(half.clone(), false).unwrap();
        calls.push((answer, request));
    }
    // 800 MB are on their way. Each message is complete except for the last thousand bytes.
    until("most are cut off", async || {
        let is_reset = |request: &mut h2::SendStream<Bytes>| {
            let mut context = Context::from_waker(Waker::noop());
            request.poll_reset(&mut context).is_ready()
        };
        let ended = calls
            .iter_mut()
            .filter_map(|(_, request)| is_reset(request).then_some(()));
        (ended.count() >= 150).then_some(())
    })
    .await;
    // Large values of other clients are still ordered.
    ordered(&cluster.client(), vec![1; 1_000_000]).await;
    let after = proposer.resident_kib();
    println!("{before} KiB resident before, {after} after");
    assert!(
        after < before + 300 * 1024,
        "it grew from {before} to {after} KiB"
    );
    drop((http2, calls));
    let end = cluster.client().chosen_to().await.unwrap();
    assert!(end > Slot::ZERO);
    is_well(&cluster).await;
}

#[tokio::test]
async fn memory_of_half_messages_is_free_soon_after() {
    let cluster = Cluster::start(3, 1, 2).await;
    let acceptor = &cluster.acceptors[0];
    let before = acceptor.resident_kib();
    let half = prefixed(0, 4_000_000, &vec![0; 3_999_000]);
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(Http2::connect(&acceptor.address, 65_535).await);
    }
    let mut most = before;
    // Buffers are freed and taken again.
    for _ in 0..8 {
        let mut calls = Vec::new();
        for http2 in &mut connections {
            for _ in 0..4 {
                let (answer, mut request) = http2.open("/paxos.v1.Acceptor/Accept").await;
                // Fails once the server has cut the call off.
                let _sent = request.send_data(half.clone(), false);
                calls.push((answer, request));
            }
        }
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        most = most.max(acceptor.resident_kib());
    }
    drop(connections);
    until("the memory is free", async || {
        let now = acceptor.resident_kib();
        println!("{before} KiB resident before, at most {most}, {now} now");
        (now < before + STRANGERS_KIB_MAX).then_some(())
    })
    .await;
    is_well(&cluster).await;
}
