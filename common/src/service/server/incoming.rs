//! Accepted connections: how many at once, of all addresses and of each, and which connection makes room for the next.
//!
//! When no more connections may be open, the longest unused connection makes room for the next. So silent strangers
//! lock no caller out. When an address has its share of connections, the longest unused connection of this address
//! makes room for the next of this address, and other addresses do not wait. So busy strangers lock no other address out.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Sleep, sleep},
};
use tokio_stream::Stream;

use super::{
    addresses::{Addresses, NoPlace},
    connections::{Connection, ConnectionLimits, LeaveSignal, Usage},
};

/// Pause after a failed accept, for example when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Number of accepted connections that wait for a place. Together with the open connections below 1,024, the usual
/// limit of open files per process.
const WAITING_MAX: usize = 32;

/// An accepted connection that has no place yet.
struct WaitingConnection {
    stream: TcpStream,
    address: IpAddr,
    /// Why there was no place at the last look.
    why: NoPlace,
}

/// The connections of a listener, each as soon as it may be open.
pub(super) struct IncomingConnections {
    listener: TcpListener,
    limits: ConnectionLimits,
    addresses: Addresses,
    wide: Arc<Semaphore>,
    open: Vec<Weak<Usage>>,
    left: Arc<LeaveSignal>,
    /// The earliest first.
    waiting: VecDeque<WaitingConnection>,
    /// When to make room again for those that wait.
    look: Option<Pin<Box<Sleep>>>,
    /// When to accept again after a failure.
    pause: Option<Pin<Box<Sleep>>>,
}

impl IncomingConnections {
    pub(super) fn new(listener: TcpListener, limits: ConnectionLimits) -> Self {
        Self {
            listener,
            limits,
            addresses: Addresses::new(limits.connections),
            wide: Arc::new(Semaphore::new(limits.wide)),
            open: Vec::new(),
            left: Arc::default(),
            waiting: VecDeque::new(),
            look: None,
            pause: None,
        }
    }

    /// The earliest waiting connection with a place.
    fn admit(&mut self) -> Option<Connection> {
        for index in 0..self.waiting.len() {
            match self.addresses.take(self.waiting[index].address) {
                Ok(place) => {
                    let WaitingConnection { stream, address, .. } = self.waiting.remove(index)?;
                    let (wide, left) = (
                        Arc::clone(&self.wide).try_acquire_owned().ok(),
                        Arc::clone(&self.left),
                    );
                    let connection = Connection::new((stream, address), place, wide, self.limits, left);
                    self.open.retain(|usage| usage.strong_count() > 0);
                    self.open.push(Arc::downgrade(connection.usage()));
                    return Some(connection);
                }
                Err(why) => self.waiting[index].why = why,
            }
        }
        None
    }

    /// Makes room for the earliest connection that waits for a place at all, and for the earliest that waits for a
    /// place of its address.
    fn make_room(&self) {
        let first = |why| self.waiting.iter().find(|waiting| waiting.why == why);
        if first(NoPlace::Full).is_some() {
            self.close_unused(|_| true);
        }
        if let Some(waiting) = first(NoPlace::OfAddress)
            && let Some(address) = self.addresses.usage(waiting.address)
        {
            self.close_unused(|usage| Arc::ptr_eq(&usage.address, &address));
        }
    }

    /// Closes the longest unused connection of those that match, unless it was used recently. Connections that are not
    /// through their TLS handshake come first.
    fn close_unused(&self, matches: impl Fn(&Usage) -> bool) {
        let unused = self
            .open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|usage| !usage.is_closing() && matches(usage))
            .filter_map(|usage| Some((usage.unused_since()?, usage)))
            .filter(|(since, _)| since.elapsed() >= self.limits.protected)
            .min_by_key(|(since, usage)| (!usage.is_greeting(), *since));
        if let Some((_, usage)) = unused {
            tracing::debug!("closing a connection without calls: another connection waits to be accepted");
            usage.make_room();
        }
    }

    /// Whether one more connection may wait. If too many wait, the earliest of an address with its share is closed.
    fn may_wait(&mut self) -> bool {
        if self.waiting.len() < WAITING_MAX {
            return true;
        }
        let of_address = |waiting: &WaitingConnection| waiting.why == NoPlace::OfAddress;
        let Some(index) = self.waiting.iter().position(of_address) else {
            return false;
        };
        tracing::debug!("closing a connection: too many connections from this address are open");
        self.waiting.remove(index).is_some()
    }
}

impl Stream for IncomingConnections {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            // Before the look: a place that is free afterwards wakes this task.
            self.left.register(context.waker());
            if let Some(connection) = self.admit() {
                return Poll::Ready(Some(Ok(connection)));
            }
            if self.waiting.is_empty() {
                self.look = None;
            } else if self.look.is_none() {
                // One at a time: each connection is gone by the next look.
                self.make_room();
                self.look = Some(Box::pin(sleep(self.limits.protected / 4)));
            }
            if let Some(look) = &mut self.look
                && look.as_mut().poll(context).is_ready()
            {
                self.look = None;
                continue;
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if !self.may_wait() {
                return Poll::Pending;
            }
            match ready!(self.listener.poll_accept(context)) {
                // Without this option small answers wait for the peer's delayed acknowledgement.
                Ok((stream, address)) => match stream.set_nodelay(true) {
                    Ok(()) => self.waiting.push_back(WaitingConnection {
                        stream,
                        address: address.ip(),
                        why: NoPlace::Full,
                    }),
                    Err(error) => tracing::debug!(%error, "a connection closed while it was accepted"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use tokio::time::Instant;
    use tonic::transport::server::Connected as _;

    const LONG: Duration = Duration::from_secs(3_600);

    const LIMITS: ConnectionLimits = ConnectionLimits {
        connections: 2,
        first_call: LONG,
        unused: LONG,
        protected: Duration::from_millis(1),
        wide: 1,
    };

    async fn listen(limits: ConnectionLimits) -> (IncomingConnections, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        (IncomingConnections::new(listener, limits), local)
    }

    async fn next(incoming: &mut IncomingConnections) -> Connection {
        let connection = std::future::poll_fn(|context| Pin::new(&mut *incoming).poll_next(context));
        connection.await.unwrap().unwrap()
    }

    /// Reads until the end of the connection: the other side neither writes nor closes.
    async fn ends(mut connection: Connection) {
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn peer_that_closes_its_connection_has_left() {
        let (mut incoming, local) = listen(LIMITS).await;
        let client = TcpStream::connect(local).await.unwrap();
        let connection = next(&mut incoming).await;
        sleep(Duration::from_millis(1)).await;
        assert!(!connection.has_left());
        drop(client);
        let left = async {
            while !connection.has_left() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), left).await.unwrap();
    }

    #[tokio::test]
    async fn accepts_no_more_connections_than_allowed_while_all_are_used() {
        let (mut incoming, local) = listen(LIMITS).await;
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(local).await.unwrap());
            let connection = next(&mut incoming).await;
            connection.usage().hold();
            connections.push(connection);
        }
        clients.push(TcpStream::connect(local).await.unwrap());
        let third = tokio::time::timeout(Duration::from_millis(50), next(&mut incoming));
        assert!(third.await.is_err(), "a third connection was accepted");
        drop(connections.pop());
        next(&mut incoming).await;
    }

    #[tokio::test]
    async fn one_that_waits_takes_the_place_of_the_one_unused_for_longest() {
        let (mut incoming, local) = listen(ConnectionLimits {
            connections: 3,
            ..LIMITS
        })
        .await;
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(local).await.unwrap());
            connections.push(next(&mut incoming).await);
        }
        let mut connections = connections.into_iter();
        let (used, reused, unused) = (
            connections.next().unwrap(),
            connections.next().unwrap(),
            connections.next().unwrap(),
        );
        used.usage().hold();
        reused.usage().hold();
        reused.usage().release();
        clients.push(TcpStream::connect(local).await.unwrap());
        let (fourth, ()) = tokio::join!(next(&mut incoming), ends(unused));
        assert!(!used.usage().is_closing() && !reused.usage().is_closing());
        drop(fourth);
    }

    #[tokio::test]
    async fn connection_in_its_handshake_makes_room_before_one_that_is_unused_for_longer() {
        let (mut incoming, local) = listen(LIMITS).await;
        let _clients = [
            TcpStream::connect(local).await.unwrap(),
            TcpStream::connect(local).await.unwrap(),
        ];
        let (unused, greeting) = (next(&mut incoming).await, next(&mut incoming).await);
        greeting.usage().set_greeting(true);
        // From now on both may make room.
        sleep(LIMITS.protected).await;
        let _third = TcpStream::connect(local).await.unwrap();
        let ending = tokio::time::timeout(Duration::from_secs(30), ends(greeting));
        let (third, ended) = tokio::join!(next(&mut incoming), ending);
        ended.unwrap();
        assert!(!unused.usage().is_closing());
        drop(third);
    }

    #[tokio::test]
    async fn connection_used_a_moment_ago_makes_no_room() {
        let (mut incoming, local) = listen(ConnectionLimits {
            protected: LONG,
            ..LIMITS
        })
        .await;
        let _clients = [
            TcpStream::connect(local).await.unwrap(),
            TcpStream::connect(local).await.unwrap(),
        ];
        let open = [next(&mut incoming).await, next(&mut incoming).await];
        let _third = TcpStream::connect(local).await.unwrap();
        let third = tokio::time::timeout(Duration::from_millis(50), next(&mut incoming));
        assert!(third.await.is_err(), "a third connection was accepted");
        assert!(open.iter().all(|connection| !connection.usage().is_closing()));
    }

    #[tokio::test]
    async fn address_with_a_full_share_waits_and_other_addresses_do_not() {
        let (mut incoming, local) = listen(ConnectionLimits {
            connections: 32,
            ..LIMITS
        })
        .await;
        let connect = async |host: &str| {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(format!("{host}:0").parse().unwrap()).unwrap();
            socket.connect(local).await.unwrap()
        };
        let (mut clients, mut greedy) = (Vec::new(), Vec::new());
        for _ in 0..16 {
            clients.push(connect("127.0.0.2").await);
            let connection = next(&mut incoming).await;
            connection.usage().hold();
            greedy.push(connection);
        }
        for _ in 0..2 * WAITING_MAX {
            clients.push(connect("127.0.0.2").await);
        }
        let seventeenth = tokio::time::timeout(Duration::from_millis(50), next(&mut incoming));
        assert!(seventeenth.await.is_err(), "one more than half");
        clients.push(connect("127.0.0.1").await);
        let other = next(&mut incoming).await;
        assert_eq!(
            other.connect_info().tcp.remote_addr().unwrap().ip().to_string(),
            "127.0.0.1"
        );
        // An unused connection of the address makes room.
        let unused = greedy.remove(0);
        unused.usage().release();
        let (next, ()) = tokio::join!(next(&mut incoming), ends(unused));
        assert_eq!(
            next.connect_info().tcp.remote_addr().unwrap().ip().to_string(),
            "127.0.0.2"
        );
    }

    #[tokio::test]
    async fn first_connections_have_wide_windows_and_give_them_back() {
        let (mut incoming, local) = listen(ConnectionLimits {
            connections: 8,
            ..LIMITS
        })
        .await;
        let mut clients = Vec::new();
        let mut next = async || {
            clients.push(TcpStream::connect(local).await.unwrap());
            next(&mut incoming).await
        };
        let (first, second) = (next().await, next().await);
        assert!(first.is_wide() && !second.is_wide());
        drop(first);
        assert!(next().await.is_wide());
    }

    #[tokio::test]
    async fn connection_whose_peer_takes_nothing_ends_too() {
        let (mut incoming, local) = listen(ConnectionLimits {
            first_call: Duration::from_millis(20),
            ..LIMITS
        })
        .await;
        let _client = TcpStream::connect(local).await.unwrap();
        let mut connection = next(&mut incoming).await;
        let error = loop {
            if let Err(error) = connection.write_all(&[0; 65_536]).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn connection_that_never_makes_a_call_ends_and_one_that_is_used_does_not() {
        let (mut incoming, local) = listen(ConnectionLimits {
            first_call: Duration::from_millis(20),
            ..LIMITS
        })
        .await;
        let _clients = (
            TcpStream::connect(local).await.unwrap(),
            TcpStream::connect(local).await.unwrap(),
        );
        let (silent, mut used) = (next(&mut incoming).await, next(&mut incoming).await);
        used.usage().hold();
        ends(silent).await;
        let read = tokio::time::timeout(Duration::from_millis(50), used.read_u8());
        assert!(read.await.is_err(), "it ended although a call is open");
    }

    #[tokio::test]
    async fn connection_ends_when_its_last_call_is_long_over() {
        let (mut incoming, local) = listen(ConnectionLimits {
            first_call: Duration::from_millis(5),
            unused: Duration::from_millis(20),
            ..LIMITS
        })
        .await;
        let _client = TcpStream::connect(local).await.unwrap();
        let connection = next(&mut incoming).await;
        connection.usage().hold();
        connection.usage().release();
        let begun = Instant::now();
        ends(connection).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(15),
            "it ended as if never used"
        );
    }
}
