//! Open connections: their use, and when the server closes them.
//!
//! A connection counts as used while a call is open on this connection. The server closes a connection without a first
//! call, or without a call for a long time.

use std::{
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{
    addresses::{AddressUsage, ConnectionPlace},
    kinds::OpenCalls,
};
use crate::tls::Caller;

/// Limits for connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConnectionLimits {
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
    /// Use by all connections of this peer address.
    pub(super) address: Arc<AddressUsage>,
    /// The caller is a client or an operator, as its certificate says.
    is_outside: AtomicBool,
    state: Mutex<UsageState>,
    /// Cancelled when the connection must close, or has closed.
    close: CancellationToken,
}

#[derive(Debug)]
struct UsageState {
    calls: usize,
    /// When the last call ended, or the connection began.
    unused_since: Instant,
    was_used: bool,
    /// A TLS handshake runs, or the connection waits for its handshake.
    is_greeting: bool,
}

impl Usage {
    /// A connection of an address of its own.
    #[cfg(test)]
    pub(super) fn new() -> Self {
        Self::of(Arc::default())
    }

    /// A connection of this address.
    pub(super) fn of(address: Arc<AddressUsage>) -> Self {
        Self {
            open: OpenCalls::default(),
            address,
            is_outside: AtomicBool::new(false),
            state: Mutex::new(UsageState {
                calls: 0,
                unused_since: Instant::now(),
                was_used: false,
                is_greeting: false,
            }),
            close: CancellationToken::new(),
        }
    }

    /// Whether the caller is outside the cluster. Without TLS this is not known of any caller.
    pub(super) fn is_outside(&self) -> bool {
        self.is_outside.load(Ordering::Relaxed)
    }

    /// The certificate of the caller names no role of a server. Set before the first call.
    pub(super) fn set_outside(&self) {
        self.is_outside.store(true, Ordering::Relaxed);
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
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.calls == 0).then_some(state.unused_since)
    }

    /// Whether a TLS handshake runs, or is to come: such a connection is the first to make room.
    pub(super) fn is_greeting(&self) -> bool {
        self.lock().is_greeting
    }

    /// A connection begins its wait for a TLS handshake, or the handshake ends.
    pub(super) fn set_greeting(&self, is_greeting: bool) {
        self.lock().is_greeting = is_greeting;
    }

    /// Ready once the connection must close, or has closed.
    pub(super) async fn closed(&self) {
        self.close.cancelled().await;
    }

    /// Closes the connection without calls, so that a waiting connection gets the place.
    pub(super) fn make_room(&self) {
        self.close.cancel();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.close.is_cancelled()
    }

    #[cfg(test)]
    pub(super) fn is_unused(&self) -> bool {
        self.unused_since().is_some()
    }

    /// When the connection is to be closed if nothing changes; some later time while a call is open.
    fn expires_at(&self, limits: ConnectionLimits) -> Instant {
        let state = self.lock();
        if state.calls > 0 {
            Instant::now() + limits.unused
        } else if state.was_used {
            state.unused_since + limits.unused
        } else {
            state.unused_since + limits.first_call
        }
    }

    fn lock(&self) -> MutexGuard<'_, UsageState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection of a request, stored in the request's extensions.
#[derive(Clone, Debug)]
pub(super) struct CallerConnection {
    pub(super) usage: Arc<Usage>,
    pub(super) tcp: TcpConnectInfo,
    /// The proven identity of the caller; `None` without TLS.
    pub(super) caller: Option<Arc<Caller>>,
}

/// A connection that ends when unused, and then gives its place back.
pub(super) struct Connection {
    stream: TcpStream,
    peer: IpAddr,
    usage: Arc<Usage>,
    limits: ConnectionLimits,
    expiry: Pin<Box<Sleep>>,
    closing: Pin<Box<WaitForCancellationFutureOwned>>,
    wide: Option<OwnedSemaphorePermit>,
    place: Option<ConnectionPlace>,
    left: Arc<LeaveSignal>,
}

/// Wakes the acceptor of connections when a connection has left.
#[derive(Debug, Default)]
pub(super) struct LeaveSignal(Mutex<Option<Waker>>);

impl LeaveSignal {
    /// Wakes this task from now on.
    pub(super) fn register(&self, waker: &Waker) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    fn wake(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Connection {
    /// The connection over `stream`, with a place. `left` is woken once the place is free again.
    pub(super) fn new(
        (stream, peer): (TcpStream, IpAddr),
        place: ConnectionPlace,
        wide: Option<OwnedSemaphorePermit>,
        limits: ConnectionLimits,
        left: Arc<LeaveSignal>,
    ) -> Self {
        let usage = Arc::new(Usage::of(Arc::clone(&place.address)));
        Self {
            stream,
            peer,
            limits,
            expiry: Box::pin(sleep_until(usage.expires_at(limits))),
            closing: Box::pin(usage.close.clone().cancelled_owned()),
            usage,
            wide,
            place: Some(place),
            left,
        }
    }

    pub(super) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// The address of the other side.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether the peer has closed the connection, as far as the runtime has heard.
    pub(super) fn has_left(&self) -> bool {
        let ready = pin!(self.stream.ready(Interest::READABLE));
        let mut context = Context::from_waker(Waker::noop());
        match ready.poll(&mut context) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }

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
        // Calls left behind must not make this connection the choice to make room again.
        self.usage.close.cancel();
        if self.usage.is_outside() {
            self.usage.address.join_share();
        }
        self.place = None;
        self.left.wake();
    }
}

impl Connected for Connection {
    type ConnectInfo = CallerConnection;

    fn connect_info(&self) -> Self::ConnectInfo {
        CallerConnection {
            usage: Arc::clone(&self.usage),
            tcp: self.stream.connect_info(),
            caller: None,
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
