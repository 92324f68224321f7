//! Crowds of strangers at the handshake, and of clients: the cluster goes on.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use h2::{
    SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use paxos_client::{Address, Client, ClientConfig};
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::codegen::http;

use super::strangers::{Counts, Crowd, Strangers, config_of, connect};
use crate::{
    harness::{Cluster, PATIENCE, Process, Proxy, tls, until},
    hostile::raise_open_files,
};

/// Most resident memory of a process, in KiB: a debug build, and an allocator that returns little.
const RESIDENT_KIB_MAX: u64 = 300 * 1024;

/// How often the process has begun to lead.
fn leads(process: &Process) -> usize {
    process.log().matches(" leading").count()
}

/// How often the process has begun to stand by.
fn stands_by(process: &Process) -> usize {
    process.log().matches("standing by").count()
}

/// Kills the leader, and waits until the other of two proposers leads and the killed one stands by. Without a client: a
/// client would wait for its own places.
async fn replace_leader(cluster: &mut Cluster, leader: usize) {
    let before = leads(&cluster.proposers[1 - leader]);
    cluster.proposers[leader].kill();
    let begun = Instant::now();
    until("the other proposer leads", async || {
        (leads(&cluster.proposers[1 - leader]) > before).then_some(())
    })
    .await;
    println!("a leader {:?} after the end of the leader", begun.elapsed());
    // A proposer that starts now finds places at the acceptors too.
    let before = stands_by(&cluster.proposers[leader]);
    cluster.proposers[leader].start();
    until("the proposer stands by", async || {
        (stands_by(&cluster.proposers[leader]) > before).then_some(())
    })
    .await;
}

/// A client that calls every process from an address of its own, and the proxies for this.
fn client_from(cluster: &Cluster, from: &str) -> (Client, Vec<Proxy>) {
    let before = |processes: &[Process]| -> Vec<_> {
        let proxies = processes.iter();
        proxies
            .map(|process| Proxy::calling_from(from, &process.address))
            .collect()
    };
    let groups = [&cluster.acceptors, &cluster.proposers, &cluster.learners].map(|group| before(group));
    let [acceptors, proposers, learners] = groups.each_ref().map(|group| {
        let addresses = group.iter().map(|proxy| proxy.address.clone());
        addresses.collect::<Vec<_>>()
    });
    let mut config = ClientConfig::new(acceptors).unwrap();
    (config.proposers, config.learners) = (proposers, learners);
    config.tls = Some(tls::settings(cluster.files("client")));
    config.timeout = PATIENCE;
    (
        Client::new(config).unwrap(),
        groups.into_iter().flatten().collect(),
    )
}

/// The cluster elects leaders, and takes writes of new clients, beside a crowd, in bounded memory.
async fn goes_on_beside(crowd: Crowd, elections: usize) {
    raise_open_files();
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let mut leader = cluster.leader().await;
    let strangers = Strangers::begin(crowd, &cluster);
    let done = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    let counts = || {
        let Counts { silent, begun, whole } = &*strangers.counts;
        (done(silent), done(begun), done(whole))
    };
    until("every stranger has stalled once", async || {
        let (silent, begun, _) = counts();
        (silent >= crowd.silent && begun >= crowd.begun).then_some(())
    })
    .await;
    println!("(silent, begun, whole) at first: {:?}", counts());
    for election in 0..elections {
        replace_leader(&mut cluster, leader).await;
        leader = 1 - leader;
        // No process has seen this address before.
        let from = format!("127.0.1.{}:0", election + 1);
        let ((client, _proxies), begun) = (client_from(&cluster, &from), Instant::now());
        client.put("colour", "blue").await.unwrap();
        println!("a write of a new client after {:?}", begun.elapsed());
        for process in cluster.acceptors.iter().chain(&cluster.proposers) {
            let resident = process.resident_kib();
            println!("{} holds {resident} KiB", process.name);
            assert!(
                resident < RESIDENT_KIB_MAX,
                "{} holds {resident} KiB",
                process.name
            );
        }
    }
    println!("(silent, begun, whole) at last: {:?}", counts());
    until("strangers have made whole handshakes", async || {
        (counts().2 > 20).then_some(())
    })
    .await;
}

#[tokio::test]
async fn strangers_that_stall_in_the_handshake_stop_neither_leaders_nor_clients() {
    let crowd = Crowd {
        silent: 300,
        begun: 300,
        whole: 50,
        pause: Duration::from_millis(200),
    };
    goes_on_beside(crowd, 1).await;
}

#[tokio::test]
#[ignore = "a minute long: cargo long"]
async fn thousands_of_strangers_in_the_handshake_stop_neither_leaders_nor_clients() {
    let crowd = Crowd {
        silent: 2_000,
        begun: 2_000,
        whole: 500,
        pause: Duration::from_secs(2),
    };
    goes_on_beside(crowd, 3).await;
}

/// A connection of a client that reads no answers, and its calls.
struct Greedy {
    _send: SendRequest<Bytes>,
    calls: Vec<(ResponseFuture, SendStream<Bytes>)>,
}

impl Greedy {
    /// Opens calls at a proposer, with an empty message in each; `is_whole`: and nothing more. The server may send no
    /// answer.
    async fn open(
        connector: &TlsConnector,
        (from, to): (&str, &Address),
        (path, calls): (&str, usize),
        is_whole: bool,
    ) -> Option<Self> {
        let name = ServerName::try_from("proposer.paxos.internal").unwrap();
        let tcp = connect(from, to.host_and_port()).await?;
        let stream = timeout(GREETING_MAX, connector.connect(name, tcp))
            .await
            .ok()?
            .ok()?;
        let handshake = Builder::new().initial_window_size(0).handshake(stream);
        let (send, connection) = timeout(GREETING_MAX, handshake).await.ok()?.ok()?;
        tokio::spawn(connection);
        let mut opened = Vec::new();
        for _ in 0..calls {
            let mut ready = timeout(GREETING_MAX, send.clone().ready()).await.ok()?.ok()?;
            let request = http::Request::post(format!("{to}{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .unwrap();
            let (answer, mut stream) = ready.send_request(request, false).ok()?;
            let _ = stream.send_data(Bytes::from_static(&[0; 5]), is_whole);
            opened.push((answer, stream));
        }
        Some(Self {
            _send: send,
            calls: opened,
        })
    }

    /// Calls in service, and refused calls.
    async fn answered(&mut self) -> (usize, usize) {
        let (mut open, mut refused) = (0, 0);
        for (answer, _) in &mut self.calls {
            match timeout(GREETING_MAX, answer).await {
                Ok(Ok(answer)) if answer.headers().contains_key("grpc-status") => refused += 1,
                Ok(Err(_)) => refused += 1,
                // The head of an answer may wait for the first message.
                Ok(Ok(_)) | Err(_) => open += 1,
            }
        }
        (open, refused)
    }
}

/// Longest time for each step of a stranger.
const GREETING_MAX: Duration = Duration::from_secs(5);

/// A client with these proposers alone.
fn client_of(cluster: &Cluster, proposer: &Process) -> Client {
    let mut config = ClientConfig::new(cluster.acceptors.iter().map(|acceptor| &acceptor.address)).unwrap();
    config.tls = Some(tls::settings(cluster.files("client")));
    config.proposers = vec![proposer.address.clone()];
    config.timeout = PATIENCE;
    Client::new(config).unwrap()
}

#[tokio::test]
async fn streams_of_clients_at_their_limit_leave_room_to_standbys_and_newcomers() {
    const CONNECTIONS: usize = 24;
    const STREAMS: usize = 96;
    let cluster = Cluster::start_secure(3, 2, 1).await;
    let leader = cluster.leader().await;
    let connector = TlsConnector::from(config_of(&cluster.files("client")));
    let path = ("/paxos.v1.Proposer/ProposeStream", STREAMS);
    let mut greedy = Vec::new();
    let address = &cluster.proposers[leader].address;
    for number in 0..CONNECTIONS {
        // Eight addresses: each has a share.
        let from = &format!("127.0.0.{}:0", 2 + number % 8);
        greedy.push(
            Greedy::open(&connector, (from, address), path, false)
                .await
                .unwrap(),
        );
    }
    let (mut open, mut refused) = (0, 0);
    for one in &mut greedy {
        let (more_open, more_refused) = one.answered().await;
        (open, refused) = (open + more_open, refused + more_refused);
    }
    println!("{open} streams open, {refused} refused");
    // Half of 3,072, without the eighth of this half that is left to newcomers.
    assert!(
        (1_200..=1_536).contains(&open) && refused > 0,
        "{open} open, {refused} refused"
    );
    // A standby forwards, and a new client is served by the leader.
    for proposer in [1 - leader, leader] {
        let client = client_of(&cluster, &cluster.proposers[proposer]);
        client.put("colour", "blue").await.unwrap();
    }
    // A busy machine may have elections of its own: some proposer leads.
    cluster.leader().await;
}

#[tokio::test]
async fn connections_of_clients_at_one_address_leave_places_to_others_and_to_peers_there() {
    raise_open_files();
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let leader = cluster.leader().await;
    let connector = TlsConnector::from(config_of(&cluster.files("client")));
    // The address of the processes of the cluster, and more connections than clients may have in all.
    let path = ("/paxos.v1.Proposer/ProposeStream", 1);
    let address = cluster.proposers[leader].address.clone();
    let mut greedy = Vec::new();
    for _ in 0..400 {
        greedy.extend(Greedy::open(&connector, ("127.0.0.1:0", &address), path, false).await);
    }
    let mut open = 0;
    for one in &mut greedy {
        open += one.answered().await.0;
    }
    println!("{open} connections with an open call");
    // Half of the half of 768.
    assert!((100..=192).contains(&open), "{open}");
    // Another address finds a place, and so do peers of the same address.
    let other = Greedy::open(&connector, ("127.0.0.7:0", &address), path, false).await;
    let mut other = other.expect("a connection");
    assert_eq!(
        other.answered().await,
        (1, 0),
        "a client of another address is locked out"
    );
    let standby = 1 - leader;
    cluster.proposers[standby].kill();
    cluster.proposers[standby].start();
    let client = client_of(&cluster, &cluster.proposers[standby]);
    // The standby forwards to the leader, over a new connection.
    client.put("colour", "blue").await.unwrap();
    // A busy machine may have elections of its own: some proposer leads.
    cluster.leader().await;
    drop((greedy, other));
}

#[tokio::test]
async fn status_calls_of_clients_leave_room_for_elections() {
    raise_open_files();
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let leader = cluster.leader().await;
    let dialer = tls::dialer(cluster.files("client"));
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    for acceptor in &cluster.acceptors {
        for _ in 0..400 {
            let channel = dialer.to_acceptor(&acceptor.address);
            let mut client = paxos_proto::v1::acceptor_client::AcceptorClient::new(channel);
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
                loop {
                    let _ = client.status(paxos_proto::v1::AcceptorStatusRequest {}).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }));
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for killed in [leader, 1 - leader] {
        replace_leader(&mut cluster, killed).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
