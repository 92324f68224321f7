//! The bytes of a connection to a peer: in plaintext or over TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// First byte of a TLS alert. No HTTP/2 server begins with this byte: it would be a frame above 1 MiB.
const TLS_ALERT: u8 = 0x15;

/// Ready when the connection must end.
type ConnectionEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The bytes of a connection to a peer.
pub(super) struct PeerStream(PeerBytes);

enum PeerBytes {
    Plain {
        tcp: TcpStream,
        /// Whether nothing has arrived.
        is_new: bool,
    },
    Secure {
        tls: Box<TlsStream<TcpStream>>,
        /// `None`: the connection has ended.
        end: Option<ConnectionEnd>,
    },
}

/// The other side of a plaintext connection answers with TLS. The call was not read there.
#[derive(Debug, thiserror::Error)]
#[error("this port speaks TLS: give https:// and --tls-cert, --tls-key, --tls-ca")]
pub struct SpeaksTls;

impl PeerStream {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self(PeerBytes::Plain { tcp, is_new: true })
    }

    /// A TLS connection that ends when `end` is ready.
    pub(super) fn secure(tls: TlsStream<TcpStream>, end: ConnectionEnd) -> Self {
        Self(PeerBytes::Secure {
            tls: Box::new(tls),
            end: Some(end),
        })
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            PeerBytes::Plain { tcp, is_new } => {
                let before = buffer.filled().len();
                let polled = Pin::new(tcp).poll_read(context, buffer);
                if *is_new && let Some(&first) = buffer.filled().get(before) {
                    *is_new = false;
                    if first == TLS_ALERT {
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, SpeaksTls)));
                    }
                }
                polled
            }
            PeerBytes::Secure { tls, end } => {
                // A read of zero bytes means the end of the stream, as if the peer had closed the stream.
                let Some(ending) = end else {
                    return Poll::Ready(Ok(()));
                };
                if ending.as_mut().poll(context).is_ready() {
                    *end = None;
                    return Poll::Ready(Ok(()));
                }
                Pin::new(tls).poll_read(context, buffer)
            }
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            PeerBytes::Plain { tcp, .. } => Pin::new(tcp).poll_write(context, bytes),
            PeerBytes::Secure { tls, .. } => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            PeerBytes::Plain { tcp, .. } => Pin::new(tcp).poll_flush(context),
            PeerBytes::Secure { tls, .. } => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            PeerBytes::Plain { tcp, .. } => Pin::new(tcp).poll_shutdown(context),
            PeerBytes::Secure { tls, .. } => Pin::new(tls).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            PeerBytes::Plain { tcp, .. } => Pin::new(tcp).poll_write_vectored(context, slices),
            PeerBytes::Secure { tls, .. } => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            PeerBytes::Plain { tcp, .. } => tcp.is_write_vectored(),
            PeerBytes::Secure { tls, .. } => tls.is_write_vectored(),
        }
    }
}
