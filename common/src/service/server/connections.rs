//! Accepted connections: how many at once, and which connections must close.
//!
//! A connection counts as used while a call is open on this connection. The server closes a connection without a first
//! call, or without a call for a long time. When no more connections may be open, the longest unused connection makes
//! room for the next. So silent strangers lock no caller out.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::kinds::OpenCalls;

/// Pause after a failed accept, for example when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits for connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of open connections.
    pub(super) connections: usize,
    /// Time from the start of a connection to the first call.
    pub(super) first_call: Duration,
    /// Time from the end of the last call to the next.
    pub(super) unused: Duration,
    /// A connection unused for less than this time is not closed to make room: a client between two calls is not idle.
    pub(super) protected: Duration,
    /// Number of open connections with wide windows: see [`windows`](super::windows).
    pub(super) wide: usize,
}

/// Use of a connection: shared with the calls on this connection.
#[derive(Debug)]
pub(super) struct Usage {
    /// Open calls by kind.
    pub(super) open: OpenCalls,
    state: Mutex<State>,
    /// Cancelled when the connection must close, or has closed.
    close: CancellationToken,
}

#[derive(Debug)]
struct State {
    calls: usize,
    /// When the last call ended, or the connection began.
    unused_since: Instant,
    was_used: bool,
}

impl Usage {
    pub(super) fn new() -> Self {
        Self {
            open: OpenCalls::default(),
            state: Mutex::new(State {
                calls: 0,
                unused_since: Instant::now(),
                was_used: false,
            }),
            close: CancellationToken::new(),
        }
    }

    /// The call has really begun: until [`Self::release`] the connection counts as used.
    pub(super) fn hold(&self) {
        let mut state = self.lock();
        state.calls += 1;
        state.was_used = true;
    }

    /// A call that held the connection has ended.
    pub(super) fn release(&self) {
        let mut state = self.lock();
        state.calls -= 1;
        state.unused_since = Instant::now();
    }

    /// Closes the connection for this reason.
    pub(super) fn close_because(&self, reason: &str) {
        if !self.close.is_cancelled() {
            tracing::info!(reason, "closing a connection");
            self.close.cancel();
        }
    }

    /// Start of the time without open calls; `None` while a call is open.
    fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.calls == 0).then_some(state.unused_since)
    }

    #[cfg(test)]
    pub(super) fn is_closing(&self) -> bool {
        self.close.is_cancelled()
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.unused_since().is_some()
    }

    /// When the connection is to be closed if nothing changes; some later time while a call is open.
    fn expires_at(&self, limits: Limits) -> Instant {
        let state = self.lock();
        if state.calls > 0 {
            Instant::now() + limits.unused
        } else if state.was_used {
            state.unused_since + limits.unused
        } else {
            state.unused_since + limits.first_call
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection of a request, stored in the request's extensions.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) usage: Arc<Usage>,
    pub(super) tcp: TcpConnectInfo,
}

/// The connections of a listener, each as soon as it may be open.
pub(super) struct Incoming {
    listener: TcpListener,
    limits: Limits,
    permits: PollSemaphore,
    wide: Arc<Semaphore>,
    open: Vec<Weak<Usage>>,
    /// An accepted connection that is not yet allowed.
    waiting: Option<TcpStream>,
    /// When to look again without any event.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    pub(super) fn new(listener: TcpListener, limits: Limits) -> Self {
        let permits = PollSemaphore::new(Semaphore::new(limits.connections).into());
        Self {
            listener,
            limits,
            permits,
            wide: Arc::new(Semaphore::new(limits.wide)),
            open: Vec::new(),
            waiting: None,
            pause: None,
        }
    }

    fn connection(&mut self, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) -> Connection {
        let usage = Arc::new(Usage::new());
        self.open.retain(|usage| usage.strong_count() > 0);
        self.open.push(Arc::downgrade(&usage));
        Connection {
            stream,
            limits: self.limits,
            expiry: Box::pin(sleep_until(usage.expires_at(self.limits))),
            closing: Box::pin(usage.close.clone().cancelled_owned()),
            usage,
            wide: Arc::clone(&self.wide).try_acquire_owned().ok(),
            _permit: permit,
        }
    }

    /// Closes the longest unused connection, unless it was used recently.
    fn make_room(&self) {
        let unused = self
            .open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|usage| !usage.close.is_cancelled())
            .filter_map(|usage| Some((usage.unused_since()?, usage)))
            .min_by_key(|&(since, _)| since);
        if let Some((since, usage)) = unused
            && since.elapsed() >= self.limits.protected
        {
            tracing::debug!("closing a connection without calls: another connection waits to be accepted");
            usage.close.cancel();
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if self.waiting.is_some() {
                if let Poll::Ready(permit) = self.permits.poll_acquire(context) {
                    self.pause = None;
                    if let Some(stream) = self.waiting.take() {
                        let connection = self.connection(stream, permit);
                        return Poll::Ready(Some(Ok(connection)));
                    }
                } else if self.pause.is_none() {
                    // One at a time: each connection is gone by the next look.
                    self.make_room();
                    self.pause = Some(Box::pin(sleep(self.limits.protected / 4)));
                }
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
                continue;
            }
            match ready!(self.listener.poll_accept(context)) {
                // Without this option small answers wait for the peer's delayed acknowledgement.
                Ok((stream, _)) => match stream.set_nodelay(true) {
                    Ok(()) => self.waiting = Some(stream),
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

/// A connection that ends when unused, and then gives its permit back.
pub(super) struct Connection {
    stream: TcpStream,
    usage: Arc<Usage>,
    limits: Limits,
    expiry: Pin<Box<Sleep>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    wide: Option<OwnedSemaphorePermit>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Whether the connection has a wide window.
    pub(super) fn is_wide(&self) -> bool {
        self.wide.is_some()
    }

    /// Ready when the connection must end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.closing.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        while self.expiry.as_mut().poll(context).is_ready() {
            let expires_at = self.usage.expires_at(self.limits);
            if expires_at <= Instant::now() {
                tracing::debug!("closing a connection without calls");
                return Poll::Ready(());
            }
            self.expiry.as_mut().reset(expires_at);
        }
        Poll::Pending
    }

    /// The result of a write; an error when the connection must end while the peer takes nothing.
    fn written<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match result {
            Poll::Pending => self
                .poll_end(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
            Poll::Ready(_) => result,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Calls left behind must not make this connection the choice of `make_room` again.
        self.usage.close.cancel();
    }
}

impl Connected for Connection {
    type ConnectInfo = Origin;

    fn connect_info(&self) -> Self::ConnectInfo {
        Origin {
            usage: Arc::clone(&self.usage),
            tcp: self.stream.connect_info(),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            return Poll::Ready(result);
        }
        // A read of zero bytes means the end of the stream, as if the peer had closed the stream.
        self.poll_end(context).map(Ok)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.written(result, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);

    const LIMITS: Limits = Limits {
        connections: 2,
        first_call: LONG,
        unused: LONG,
        protected: Duration::from_millis(1),
        wide: 1,
    };

    async fn listen(limits: Limits) -> (Incoming, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let local = listener.local_addr().unwrap();
        (Incoming::new(listener, limits), local)
    }

    async fn next(incoming: &mut Incoming) -> Connection {
        let connection = std::future::poll_fn(|context| Pin::new(&mut *incoming).poll_next(context));
        connection.await.unwrap().unwrap()
    }

    /// Reads until the end of the connection: the other side neither writes nor closes.
    async fn ends(mut connection: Connection) {
        assert_eq!(connection.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn accepts_no_more_connections_than_allowed_while_all_are_used() {
        let (mut incoming, local) = listen(LIMITS).await;
        let mut clients = Vec::new();
        let mut connections = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(local).await.unwrap());
            let connection = next(&mut incoming).await;
            connection.usage.hold();
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
        let (mut incoming, local) = listen(Limits {
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
        used.usage.hold();
        reused.usage.hold();
        reused.usage.release();
        clients.push(TcpStream::connect(local).await.unwrap());
        let (fourth, ()) = tokio::join!(next(&mut incoming), ends(unused));
        assert!(!used.usage.close.is_cancelled() && !reused.usage.close.is_cancelled());
        drop(fourth);
    }

    #[tokio::test]
    async fn first_connections_have_wide_windows_and_give_them_back() {
        let (mut incoming, local) = listen(Limits {
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
        let (mut incoming, local) = listen(Limits {
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
        let (mut incoming, local) = listen(Limits {
            first_call: Duration::from_millis(20),
            ..LIMITS
        })
        .await;
        let _clients = (
            TcpStream::connect(local).await.unwrap(),
            TcpStream::connect(local).await.unwrap(),
        );
        let (silent, mut used) = (next(&mut incoming).await, next(&mut incoming).await);
        used.usage.hold();
        ends(silent).await;
        let read = tokio::time::timeout(Duration::from_millis(50), used.read_u8());
        assert!(read.await.is_err(), "it ended although a call is open");
    }

    #[tokio::test]
    async fn connection_ends_when_its_last_call_is_long_over() {
        let (mut incoming, local) = listen(Limits {
            first_call: Duration::from_millis(5),
            unused: Duration::from_millis(20),
            ..LIMITS
        })
        .await;
        let _client = TcpStream::connect(local).await.unwrap();
        let connection = next(&mut incoming).await;
        connection.usage.hold();
        connection.usage.release();
        let begun = Instant::now();
        ends(connection).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(15),
            "it ended as if never used"
        );
    }
}
