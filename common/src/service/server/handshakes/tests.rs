//! Handshakes: which connections wait, which get a place, and which are closed.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    service::server::{connections::ConnectionLimits, greeting::HANDSHAKE_MAX},
    tls::{
        RoleName,
        testing::{TestCa, load},
    },
};

const LONG: Duration = Duration::from_secs(3_600);

fn limits(connections: usize) -> ConnectionLimits {
    ConnectionLimits {
        connections,
        first_call: LONG,
        unused: LONG,
        protected: Duration::ZERO,
        wide: 1,
    }
}

/// Handshakes that have not begun, a waiting connection, and its caller.
async fn waiting(dir: &TempDir) -> (Handshakes, TcpStream) {
    let files = TestCa::new().issue(dir.path(), &["acceptor.paxos.internal"], 3_600);
    let tls = load(&files, RoleName::Acceptor);
    let outside = OutsidePlaces::new(8, Duration::ZERO);
    let mut handshakes = Handshakes::new(tls, HandshakeCounts::default(), outside, Servers::closed());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let mut incoming = IncomingConnections::new(listener, limits(8));
    let caller = TcpStream::connect(local).await.unwrap();
    let connection = incoming.next().await.unwrap().unwrap();
    handshakes.wait(connection);
    (handshakes, caller)
}

#[tokio::test]
async fn connection_that_waits_too_long_is_closed_without_a_handshake() {
    let dir = TempDir::new().unwrap();
    let (mut handshakes, mut caller) = waiting(&dir).await;
    tokio::time::pause();
    tokio::time::advance(WAIT_MAX - Duration::from_millis(1)).await;
    handshakes.drop_stale();
    assert_eq!(handshakes.waiting.len(), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    handshakes.drop_stale();
    assert!(handshakes.waiting.is_empty());
    tokio::time::resume();
    assert_eq!(caller.read(&mut [0]).await.unwrap(), 0, "closed");
}

#[tokio::test]
async fn connection_whose_caller_left_gets_no_handshake() {
    let dir = TempDir::new().unwrap();
    let (mut handshakes, caller) = waiting(&dir).await;
    handshakes.drop_stale();
    assert_eq!(handshakes.waiting.len(), 1);
    drop(caller);
    let begun = Instant::now();
    while !handshakes.waiting.is_empty() && begun.elapsed() < WAIT_MAX / 2 {
        sleep(Duration::from_millis(1)).await;
        handshakes.drop_stale();
    }
    assert!(handshakes.waiting.is_empty(), "the connection waits on");
}

#[test]
fn proven_servers_are_first_and_the_newest_of_an_address() {
    let [crowd, other, peer] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
    let mut waiting = VecDeque::from([
        (crowd, VecDeque::from([1, 2, 3])),
        (other, VecDeque::from([4])),
        (peer, VecDeque::from([5, 6])),
    ]);
    let order: Vec<_> = std::iter::from_fn(|| take(&mut waiting, |owner| *owner == peer)).collect();
    let numbers: Vec<_> = order.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, [6, 5, 3, 4, 2, 1]);
    assert_eq!(order[0].0, peer);
}

/// A listener whose connections make handshakes, and the configuration of its callers.
async fn greeting(dir: &TempDir) -> (SocketAddr, TlsConnector, ServerName<'static>, JoinHandle<()>) {
    let ca = TestCa::new();
    let acceptor = ca.issue(&dir.path().join("a"), &["acceptor.paxos.internal"], 3_600);
    let proposer = ca.issue(&dir.path().join("p"), &["proposer.paxos.internal"], 3_600);
    let tls = load(&acceptor, RoleName::Acceptor);
    let name = tls.server_name(Some(RoleName::Acceptor));
    let outside = OutsidePlaces::new(8, Duration::ZERO);
    let handshakes = Handshakes::new(tls, HandshakeCounts::default(), outside, Servers::closed());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let incoming = IncomingConnections::new(listener, limits(4 * RUNNING_MAX));
    let running = tokio::spawn(handshakes.run(incoming));
    let connector = TlsConnector::from(load(&proposer, RoleName::Proposer).client_config());
    (local, connector, name, running)
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn stalled_handshakes_of_an_address_make_room_for_another_address() {
    let dir = TempDir::new().unwrap();
    let (local, connector, name, running) = greeting(&dir).await;
    let mut crowd = Vec::new();
    for _ in 0..RUNNING_MAX {
        crowd.push(connect("127.0.0.9:0", local).await);
    }
    // All places are taken: the start of each takes 5 ms.
    sleep(START_INTERVAL * 2 * u32::try_from(RUNNING_MAX).unwrap()).await;
    let caller = connect("127.0.0.8:0", local).await;
    let greeted = timeout(HANDSHAKE_MAX / 2, connector.connect(name, caller)).await;
    assert!(greeted.is_ok_and(|greeted| greeted.is_ok()));
    running.abort();
}
