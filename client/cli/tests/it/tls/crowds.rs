//! Crowds of strangers at the handshake, and of clients: the cluster goes on.

use std::{sync::Arc, time::Duration};

use paxos_common::peer::MessageLimits as _;
use paxos_proto::v1::{self as pb, proposer_client::ProposerClient};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::TLS13,
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Code;

use crate::{
    harness::{Cluster, Process, tls, until},
    hostile::raise_open_files,
};

/// Beginning of a ClientHello: a record of 512 bytes that never comes.
const BEGUN: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
/// Most resident memory of a process, in KiB: a debug build, and an allocator that returns little.
const RESIDENT_KIB_MAX: u64 = 300 * 1024;
/// Longest time without a leader that takes writes, on the slowest machines.
const GAP_MAX: Duration = Duration::from_secs(20);

/// Strangers, over all acceptors and proposers.
#[derive(Clone, Copy, Debug)]
struct Crowd {
    /// Connections that send nothing.
    silent: usize,
    /// Connections that send the beginning of a ClientHello.
    begun: usize,
    /// Whole handshakes with a client's certificate, a second.
    whole: u32,
}

/// Connects from another address of this machine, so that the crowd has addresses of its own.
async fn connect(from: &str, address: &str) -> Option<TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4().ok()?;
    socket.bind(from.parse().unwrap()).ok()?;
    let connecting = socket.connect(address.parse().unwrap());
    timeout(Duration::from_secs(1), connecting).await.ok()?.ok()
}

/// A client of another making, with these files.
fn connector(files: &paxos_client::TlsFiles) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&files.ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let chain = CertificateDer::pem_file_iter(&files.cert).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let mut config = builder
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            chain.collect::<Result<_, _>>().unwrap(),
            PrivateKeyDer::from_pem_file(&files.key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Ends and awaits the strangers at the end.
struct Strangers {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Strangers {
    fn begin(crowd: Crowd, cluster: &Cluster) -> Self {
        let targets: Vec<_> = cluster
            .acceptors
            .iter()
            .chain(&cluster.proposers)
            .map(|process| {
                let role = process.name.split('-').next().unwrap();
                (
                    process.address.host_and_port().to_owned(),
                    format!("{role}.paxos.internal"),
                )
            })
            .collect();
        let strangers = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for number in 0..crowd.silent + crowd.begun {
            let (address, _) = targets[number % targets.len()].clone();
            let is_begun = number >= crowd.silent;
            strangers.spawn(async move {
                loop {
                    if let Some(mut stream) = connect("127.0.0.9:0", &address).await {
                        if is_begun {
                            let _ = stream.write_all(&BEGUN).await;
                        }
                        let _ = stream.readable().await;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
        let connector = connector(&cluster.files("client"));
        let (tracker, stop) = (strangers.tasks.clone(), strangers.stop.clone());
        strangers.spawn(async move {
            let mut ticks = interval(Duration::from_secs(1) / crowd.whole);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for (address, name) in targets.iter().cycle() {
                ticks.tick().await;
                let (address, connector) = (address.clone(), connector.clone());
                let name = ServerName::try_from(name.clone()).unwrap();
                tracker.spawn(stop.clone().run_until_cancelled_owned(async move {
                    if let Some(stream) = connect("127.0.0.8:0", &address).await {
                        let _ = timeout(Duration::from_secs(5), connector.connect(name, stream)).await;
                    }
                }));
            }
        });
        strangers
    }

    fn spawn(&self, stranger: impl Future<Output = ()> + Send + 'static) {
        self.tasks
            .spawn(self.stop.clone().run_until_cancelled_owned(stranger));
    }

    async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The cluster elects leaders and takes writes beside a crowd, in bounded memory.
async fn goes_on_beside(crowd: Crowd, elections: usize) {
    raise_open_files();
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let strangers = Strangers::begin(crowd, &cluster);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..elections {
        let leader = cluster.leader().await;
        cluster.proposers[leader].kill();
        let begun = Instant::now();
        // A new client, with connections of its own.
        let client = cluster.client();
        until("a client writes", async || {
            client.put("colour", "blue").await.ok()
        })
        .await;
        println!("a write {:?} after the leader's end", begun.elapsed());
        assert!(begun.elapsed() < GAP_MAX, "{:?}", begun.elapsed());
        // Peers get in: the killed proposer attaches to a quorum again.
        cluster.proposers[leader].start();
        cluster.leader().await;
        let all: Vec<&Process> = cluster.acceptors.iter().chain(&cluster.proposers).collect();
        for process in all {
            let resident = process.resident_kib();
            println!("{} holds {resident} KiB", process.name);
            assert!(
                resident < RESIDENT_KIB_MAX,
                "{} holds {resident} KiB",
                process.name
            );
        }
    }
    strangers.end().await;
}

#[tokio::test]
async fn strangers_that_stall_in_the_handshake_stop_neither_leaders_nor_clients() {
    let crowd = Crowd {
        silent: 300,
        begun: 300,
        whole: 50,
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
    };
    goes_on_beside(crowd, 3).await;
}

/// Connections of clients to each acceptor and proposer: more than clients may have.
const CONNECTIONS: usize = 400;
/// Streams that a client opens on a connection: more than the connection may have.
const STREAMS: usize = 110;

#[tokio::test]
async fn clients_at_their_limits_leave_room_for_elections() {
    raise_open_files();
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    let dialer = tls::dialer(cluster.files("client"));
    // Streams of commands at the leader, and status calls at acceptors, on many connections each.
    let leader = cluster.leader().await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..4 {
        let channel = dialer.to_proposer(&cluster.proposers[leader].address);
        let client = ProposerClient::new(channel).with_message_limits();
        for _ in 0..STREAMS {
            let (commands, receiver) = mpsc::channel::<pb::ProposeStreamRequest>(1);
            let mut client = client.clone();
            match client.propose_stream(ReceiverStream::new(receiver)).await {
                Ok(answers) => held.push((commands, answers)),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    assert!(status.message().contains("back off and retry"), "{status}");
                    refused += 1;
                }
            }
        }
    }
    println!("{} streams open, {refused} refused", held.len());
    // An eighth of half of 3,072 calls, and half of these as streams, on each of the four connections.
    assert_eq!((held.len(), refused), (4 * 96, 4 * (STREAMS - 96)));
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    for acceptor in &cluster.acceptors {
        for _ in 0..CONNECTIONS {
            let mut client =
                paxos_proto::v1::acceptor_client::AcceptorClient::new(dialer.to_acceptor(&acceptor.address));
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
                loop {
                    let _ = client.status(pb::AcceptorStatusRequest {}).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }));
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.proposers[leader].kill();
    let begun = Instant::now();
    let other = &cluster.proposers[1 - leader];
    until("the other proposer leads", async || {
        other.log().contains(" leading").then_some(())
    })
    .await;
    println!("a leader {:?} after the end of the leader", begun.elapsed());
    assert!(begun.elapsed() < GAP_MAX, "{:?}", begun.elapsed());
    // A proposer that starts now finds places at the acceptors too.
    cluster.proposers[leader].start();
    cluster.proposers[1 - leader].kill();
    let before = cluster.proposers[leader].log().matches(" leading").count();
    until("the new proposer leads", async || {
        let log = cluster.proposers[leader].log();
        (log.matches(" leading").count() > before).then_some(())
    })
    .await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
