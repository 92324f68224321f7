//! The bytes of an accepted connection as the HTTP/2 server sees them: in plaintext, or decrypted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::connections::{CallerConnection, Connection};
use crate::tls::Caller;

/// An accepted connection, ready for HTTP/2.
pub(super) struct Served(ServedBytes);

enum ServedBytes {
    Plain(Connection),
    Secure {
        stream: Box<TlsStream<Connection>>,
        caller: Arc<Caller>,
        /// Place among the connections of callers outside the cluster.
        _place: Option<OwnedSemaphorePermit>,
    },
}

impl Served {
    pub(super) fn plain(connection: Connection) -> Self {
        Self(ServedBytes::Plain(connection))
    }

    /// A connection after the handshake, which proved the caller.
    pub(super) fn secure(
        stream: TlsStream<Connection>,
        caller: Arc<Caller>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self(ServedBytes::Secure {
            stream: Box::new(stream),
            caller,
            _place: place,
        })
    }
}

impl Connected for Served {
    type ConnectInfo = CallerConnection;

    fn connect_info(&self) -> Self::ConnectInfo {
        match &self.0 {
            ServedBytes::Plain(connection) => connection.connect_info(),
            ServedBytes::Secure { stream, caller, .. } => CallerConnection {
                caller: Some(Arc::clone(caller)),
                ..stream.get_ref().0.connect_info()
            },
        }
    }
}

impl AsyncRead for Served {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            ServedBytes::Plain(connection) => Pin::new(connection).poll_read(context, buffer),
            ServedBytes::Secure { stream, .. } => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Served {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            ServedBytes::Plain(connection) => Pin::new(connection).poll_write(context, bytes),
            ServedBytes::Secure { stream, .. } => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            ServedBytes::Plain(connection) => Pin::new(connection).poll_flush(context),
            ServedBytes::Secure { stream, .. } => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            ServedBytes::Plain(connection) => Pin::new(connection).poll_shutdown(context),
            ServedBytes::Secure { stream, .. } => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            ServedBytes::Plain(connection) => Pin::new(connection).poll_write_vectored(context, slices),
            ServedBytes::Secure { stream, .. } => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            ServedBytes::Plain(connection) => connection.is_write_vectored(),
            ServedBytes::Secure { stream, .. } => stream.is_write_vectored(),
        }
    }
}
