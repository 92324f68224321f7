//! A TCP connection for a single stream, with a socket that can be shut at once.

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tonic::{
    codegen::{Service, StdError},
    transport::{Channel, Endpoint, Uri},
};

use super::connector::Connector;

/// Limit of bytes that wait in the kernel to be sent (Linux doubles the number for its own bookkeeping): waiting bytes
/// delay later messages. Large enough for 200 Mbit/s over a round trip of 10 ms.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// The socket of a dedicated connection. Dropping the value shuts the socket at once, even while the peer leaves bytes
/// unread: unsent bytes are discarded.
#[derive(Debug)]
pub struct Socket(Arc<Mutex<ConnectionState>>);

#[derive(Debug)]
enum ConnectionState {
    NotConnected,
    /// A second handle of the socket; the HTTP/2 library owns the first.
    Connected(TcpStream),
    Shut,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let ConnectionState::Connected(stream) = std::mem::replace(&mut *state, ConnectionState::Shut) {
            // Wakes the task of the HTTP/2 library, which closes the socket. An already closed socket returns an error
            // without news.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A channel that connects at its first use, and only once: the next call after the end of the connection fails.
/// Dropping the [`Socket`] ends the connection at the latest.
///
/// # Panics
/// Outside a Tokio runtime.
pub(super) fn dedicated(endpoint: &Endpoint, connector: Connector) -> (Channel, Socket) {
    let state = Arc::new(Mutex::new(ConnectionState::NotConnected));
    let shared = Arc::clone(&state);
    let connector = OnceConnector {
        connector: connector.seen_by(Arc::new(move |tcp| keep_handle(tcp, &shared)), SEND_BUFFER_BYTES),
        state: Arc::clone(&state),
    };
    (endpoint.connect_with_connector_lazy(connector), Socket(state))
}

/// Keeps a second handle of the socket.
fn keep_handle(tcp: &tokio::net::TcpStream, state: &Mutex<ConnectionState>) -> io::Result<()> {
    // Closing the last handle, also by the end of this process, sends a reset to the peer.
    tcp.set_zero_linger()?;
    let second = TcpStream::from(tcp.as_fd().try_clone_to_owned()?);
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if !matches!(*state, ConnectionState::NotConnected) {
        return Err(ended());
    }
    *state = ConnectionState::Connected(second);
    Ok(())
}

/// Opens the connection once.
struct OnceConnector {
    connector: Connector,
    state: Arc<Mutex<ConnectionState>>,
}

impl Service<Uri> for OnceConnector {
    type Response = <Connector as Service<Uri>>::Response;
    type Error = StdError;
    type Future = <Connector as Service<Uri>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let is_new = matches!(
            *self.state.lock().unwrap_or_else(PoisonError::into_inner),
            ConnectionState::NotConnected
        );
        if is_new {
            self.connector.call(uri)
        } else {
            Box::pin(async { Err(ended().into()) })
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection has ended")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read as _, net::TcpListener, time::Duration};

    use crate::peer::{Address, Dialer};

    use paxos_proto::v1::{AcceptRequest, acceptor_client::AcceptorClient};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        (listener, address.parse().unwrap())
    }

    #[tokio::test]
    async fn dropped_socket_ends_the_connection_of_a_peer_that_reads_nothing() {
        let (listener, address) = listener();
        let (channel, socket) = Dialer::default().dedicated(&address);
        let (requests, outbox) = mpsc::channel(1);
        let mut client = AcceptorClient::new(channel);
        let calling =
            tokio::spawn(async move { client.accept(ReceiverStream::new(outbox)).await.map(|_| ()) });
        let (mut peer, _) = tokio::task::spawn_blocking(move || listener.accept())
            .await
            .unwrap()
            .unwrap();
        // More than the window of a stream whose reader has sent nothing yet: the sender waits.
        let large = || AcceptRequest {
            proposer_address: "x".repeat(16 << 10),
            ..AcceptRequest::default()
        };
        while tokio::time::timeout(Duration::from_millis(50), requests.send(large()))
            .await
            .is_ok()
        {}
        drop(socket);
        let read = tokio::task::spawn_blocking(move || {
            peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            peer.read_to_end(&mut Vec::new())
        });
        match read.await.unwrap() {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
        calling
            .await
            .unwrap()
            .expect_err("the call ends with its connection");
    }

    #[tokio::test]
    async fn connection_that_has_ended_is_not_opened_again() {
        let (listener, address) = listener();
        listener.set_nonblocking(true).unwrap();
        let (channel, socket) = Dialer::default().dedicated(&address);
        let mut client = AcceptorClient::new(channel);
        let mut call = async || client.accept(tokio_stream::empty()).await.map(|_| ());
        tokio::select! {
            _ = call() => panic!("the call ended without an answer"),
            () = async { while listener.accept().is_err() { tokio::task::yield_now().await } } => {}
        }
        // The peer has closed its end.
        call().await.expect_err("the connection has ended");
        call().await.expect_err("the connection has ended");
        assert!(listener.accept().is_err(), "a second connection");
        drop(socket);
        call().await.expect_err("the socket is shut");
    }

    #[tokio::test]
    async fn socket_that_is_dropped_before_the_first_call_opens_no_connection() {
        let (listener, address) = listener();
        listener.set_nonblocking(true).unwrap();
        let (channel, socket) = Dialer::default().dedicated(&address);
        drop(socket);
        let mut client = AcceptorClient::new(channel);
        client
            .accept(tokio_stream::empty())
            .await
            .expect_err("the socket is shut");
        assert!(listener.accept().is_err(), "a connection");
    }
}
