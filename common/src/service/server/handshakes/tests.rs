//! Handshakes: which connections wait, which get a place, and which are closed.

use std::net::SocketAddr;

use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpSocket, TcpStream},
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
    assert!(!handshakes.waiting.is_empty());
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
    assert!(!handshakes.waiting.is_empty());
    drop(caller);
    let begun = Instant::now();
    while !handshakes.waiting.is_empty() && begun.elapsed() < WAIT_MAX / 2 {
        sleep(Duration::from_millis(1)).await;
        handshakes.drop_stale();
    }
    assert!(handshakes.waiting.is_empty(), "the connection waits on");
}

/// A listener whose connections make handshakes.
struct Greeting {
    handshakes: Handshakes,
    incoming: IncomingConnections,
    local: SocketAddr,
    name: ServerName<'static>,
    ca: TestCa,
}

impl Greeting {
    async fn new(dir: &TempDir) -> Self {
        let ca = TestCa::new();
        let acceptor = ca.issue(&dir.path().join("acceptor"), &["acceptor.paxos.internal"], 3_600);
        let tls = load(&acceptor, RoleName::Acceptor);
        let name = tls.server_name(Some(RoleName::Acceptor));
        let outside = OutsidePlaces::new(8, Duration::ZERO);
        let handshakes = Handshakes::new(tls, HandshakeCounts::default(), outside, Servers::closed());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        let incoming = IncomingConnections::new(listener, limits(4 * RUNNING_MAX));
        Self {
            handshakes,
            incoming,
            local,
            name,
            ca,
        }
    }

    /// Accepts connections and makes handshakes for a moment.
    async fn go_on(&mut self) {
        let step = self.handshakes.run(&mut self.incoming);
        assert!(
            timeout(START_INTERVAL, step).await.is_err(),
            "the listener is gone"
        );
    }

    /// Makes TLS connections with the certificate of this role.
    fn connector(&self, dir: &TempDir, role: RoleName) -> TlsConnector {
        let names = [format!("{role}.paxos.internal")];
        let names = names.each_ref().map(String::as_str);
        let files = self.ca.issue(&dir.path().join(role.as_str()), &names, 3_600);
        TlsConnector::from(load(&files, role).client_config())
    }
}

async fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(from.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn stalled_handshakes_of_an_address_make_room_for_another_address() {
    let dir = TempDir::new().unwrap();
    let mut greeting = Greeting::new(&dir).await;
    let connector = greeting.connector(&dir, RoleName::Proposer);
    let (local, name) = (greeting.local, greeting.name.clone());
    let calling = async {
        let mut crowd = Vec::new();
        for _ in 0..RUNNING_MAX {
            crowd.push(connect("127.0.0.9:0", local).await);
        }
        // All places are taken: the start of each takes 5 ms.
        sleep(START_INTERVAL * 2 * u32::try_from(RUNNING_MAX).unwrap()).await;
        let caller = connect("127.0.0.8:0", local).await;
        let greeted = timeout(HANDSHAKE_MAX / 2, connector.connect(name, caller)).await;
        greeted.is_ok_and(|greeted| greeted.is_ok())
    };
    tokio::select! {
        () = greeting.handshakes.run(&mut greeting.incoming) => panic!("the listener is gone"),
        is_greeted = calling => assert!(is_greeted),
    }
}

#[tokio::test]
async fn complete_handshakes_prove_the_classes_of_their_addresses() {
    let dir = TempDir::new().unwrap();
    let mut greeting = Greeting::new(&dir).await;
    for (number, role, class) in [
        (8, RoleName::Learner, ProvenCaller::Server),
        (7, RoleName::Client, ProvenCaller::Outside),
    ] {
        let connector = greeting.connector(&dir, role);
        let caller = connect(&format!("127.0.0.{number}:0"), greeting.local).await;
        let calling = tokio::spawn(connector.connect(greeting.name.clone(), caller));
        let owner = IpAddr::from([127, 0, 0, number]);
        let begun = Instant::now();
        while greeting.handshakes.proven.of(&owner).is_none() && begun.elapsed() < HANDSHAKE_MAX {
            greeting.go_on().await;
        }
        assert_eq!(greeting.handshakes.proven.of(&owner), Some(class), "{role}");
        calling.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn handshake_of_a_known_address_is_not_the_first_to_make_room() {
    let dir = TempDir::new().unwrap();
    let mut greeting = Greeting::new(&dir).await;
    let [known, new] = [8, 9].map(|number| IpAddr::from([127, 0, 0, number]));
    greeting.handshakes.proven.add(known, ProvenCaller::Outside);
    let mut callers = Vec::new();
    for owner in [known, new] {
        callers.push(connect(&format!("{owner}:0"), greeting.local).await);
        while !greeting
            .handshakes
            .running
            .values()
            .any(|running| running.owner == owner)
        {
            greeting.go_on().await;
        }
    }
    // Both addresses have one handshake. The handshake of the known address is older.
    let (_, victim) = greeting.handshakes.victim().unwrap();
    assert_eq!(victim.owner, new);
}

/// A handshake of this address that began this long ago, and never ends.
fn begin(handshakes: &mut Handshakes, owner: IpAddr, age: Duration) -> Id {
    let abort = handshakes.tasks.spawn(std::future::pending());
    let id = abort.id();
    let since = Instant::now() - age;
    handshakes.running.insert(id, Running { owner, since, abort });
    id
}

#[tokio::test]
async fn oldest_handshake_of_the_address_with_the_most_makes_room() {
    let dir = TempDir::new().unwrap();
    let (mut handshakes, _caller) = waiting(&dir).await;
    let [one, crowd] = [8, 9].map(|number| IpAddr::from([127, 0, 0, number]));
    begin(&mut handshakes, one, Duration::from_secs(3));
    begin(&mut handshakes, crowd, Duration::from_secs(1));
    let oldest = begin(&mut handshakes, crowd, Duration::from_secs(2));
    begin(&mut handshakes, crowd, Duration::ZERO);
    let (victim, _) = handshakes.victim().unwrap();
    assert_eq!(*victim, oldest);
}

#[tokio::test]
async fn handshake_that_began_a_moment_ago_makes_no_room() {
    let dir = TempDir::new().unwrap();
    let (mut handshakes, _caller) = waiting(&dir).await;
    tokio::time::pause();
    let crowd = IpAddr::from([127, 0, 0, 9]);
    let first = begin(&mut handshakes, crowd, Duration::from_millis(1));
    for _ in 1..RUNNING_MAX {
        begin(&mut handshakes, crowd, Duration::ZERO);
    }
    let soon = Duration::from_millis(20);
    handshakes.start_next();
    let ended = timeout(soon, handshakes.tasks.join_next_with_id()).await;
    assert!(ended.is_err(), "{ended:?}");
    let oldest = handshakes.running.get_mut(&first).unwrap();
    oldest.since -= PROTECTED;
    handshakes.start_next();
    let ended = timeout(WAIT_MAX, handshakes.tasks.join_next_with_id()).await;
    assert_eq!(ended.unwrap().unwrap().unwrap_err().id(), first);
    assert!(!handshakes.waiting.is_empty(), "the place is free afterwards");
}

#[tokio::test]
async fn handshakes_begin_one_at_a_time_in_intervals() {
    let dir = TempDir::new().unwrap();
    let mut greeting = Greeting::new(&dir).await;
    let mut callers = Vec::new();
    for _ in 0..3 {
        callers.push(connect("127.0.0.9:0", greeting.local).await);
        let connection = greeting.incoming.next().await.unwrap().unwrap();
        greeting.handshakes.wait(connection);
    }
    tokio::time::pause();
    let mut running = Vec::new();
    for _ in 0..3 {
        // Twice at the same moment.
        greeting.handshakes.start_next();
        greeting.handshakes.start_next();
        running.push(greeting.handshakes.running.len());
        tokio::time::advance(START_INTERVAL).await;
    }
    assert_eq!(running, [1, 2, 3]);
}

#[tokio::test]
async fn handshake_of_a_silent_caller_is_given_up_after_five_seconds() {
    let dir = TempDir::new().unwrap();
    let (mut handshakes, _caller) = waiting(&dir).await;
    tokio::time::pause();
    let begun = Instant::now();
    handshakes.start_next();
    let ended = handshakes.tasks.join_next().await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().outcome, HandshakeOutcome::Unfinished);
    let after = begun.elapsed();
    assert!((5..6).contains(&after.as_secs()), "{after:?}");
}
