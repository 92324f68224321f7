//! The bytes of a connection in plaintext or over TLS, for both sides.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

/// What a side of a connection does while the connection is read.
pub(crate) trait ReadObserver: Unpin {
    /// Ready when the connection must end: reads then find the end of the stream, as if the other side had closed it.
    fn poll_end(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// Sees bytes that have arrived.
    ///
    /// # Errors
    /// The bytes are refused, and the connection fails.
    fn arrived(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A connection over `S`, and the observer of its side.
pub(crate) struct ConnectionBytes<S, O> {
    stream: MaybeSecure<S>,
    pub(crate) observer: O,
}

enum MaybeSecure<S> {
    Plain(S),
    Secure(Box<TlsStream<S>>),
}

impl<S, O> ConnectionBytes<S, O> {
    /// A connection in plaintext.
    pub(crate) fn plain(stream: S, observer: O) -> Self {
        let stream = MaybeSecure::Plain(stream);
        Self { stream, observer }
    }

    /// A connection over TLS.
    pub(crate) fn secure(stream: impl Into<TlsStream<S>>, observer: O) -> Self {
        let stream = MaybeSecure::Secure(Box::new(stream.into()));
        Self { stream, observer }
    }

    /// The connection below TLS.
    #[cfg(feature = "service")]
    pub(crate) fn inner(&self) -> &S {
        match &self.stream {
            MaybeSecure::Plain(stream) => stream,
            MaybeSecure::Secure(stream) => stream.get_ref().0,
        }
    }
}

impl<S, O> AsyncRead for ConnectionBytes<S, O>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: ReadObserver,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.observer.poll_end(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = match &mut self.stream {
            MaybeSecure::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            MaybeSecure::Secure(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Some(arrived @ [_, ..]) = buffer.filled().get(before..) {
            self.observer.arrived(arrived)?;
        }
        polled
    }
}

impl<S, O> AsyncWrite for ConnectionBytes<S, O>
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            MaybeSecure::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            MaybeSecure::Secure(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            MaybeSecure::Plain(stream) => Pin::new(stream).poll_flush(context),
            MaybeSecure::Secure(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            MaybeSecure::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            MaybeSecure::Secure(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            MaybeSecure::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            MaybeSecure::Secure(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            MaybeSecure::Plain(stream) => stream.is_write_vectored(),
            MaybeSecure::Secure(stream) => stream.is_write_vectored(),
        }
    }
}
