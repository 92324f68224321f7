//! Reads and writes a connection to a peer: ends a distrusted connection, and recognises peers that speak TLS unexpectedly.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::net::TcpStream;

use crate::tls::{ConnectionBytes, ReadObserver};

/// First byte of a TLS alert. No HTTP/2 server begins with this byte: it would be a frame above 1 MiB.
const TLS_ALERT: u8 = 0x15;

/// Ready when the connection must end.
pub(super) type ConnectionEnd = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The bytes of a connection to a peer.
pub(super) type PeerStream = ConnectionBytes<TcpStream, PeerObserver>;

/// Observes what arrives from a peer.
pub(super) enum PeerObserver {
    Plain {
        /// Whether nothing has arrived.
        is_new: bool,
    },
    Secure {
        /// `None`: the connection has ended.
        end: Option<ConnectionEnd>,
    },
}

/// The other side of a plaintext connection answers with TLS. The call was not read there.
#[derive(Debug, thiserror::Error)]
#[error("this port speaks TLS: give https:// and --tls-cert, --tls-key, --tls-ca")]
pub struct SpeaksTls;

impl PeerObserver {
    /// Of a connection in plaintext.
    pub(super) fn plain() -> Self {
        Self::Plain { is_new: true }
    }

    /// Of a TLS connection that ends when `end` is ready.
    pub(super) fn secure(end: ConnectionEnd) -> Self {
        Self::Secure { end: Some(end) }
    }
}

impl ReadObserver for PeerObserver {
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self::Secure { end } = self else {
            return Poll::Pending;
        };
        let has_ended = end
            .as_mut()
            .is_none_or(|end| end.as_mut().poll(context).is_ready());
        if has_ended {
            *end = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn arrived(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Self::Plain { is_new } = self
            && std::mem::take(is_new)
            && bytes[0] == TLS_ALERT
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, SpeaksTls));
        }
        Ok(())
    }
}
