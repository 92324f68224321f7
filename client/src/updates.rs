//! A stream of updates: of the log, of registers, or of an election.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, StreamExt as _};

/// Updates from the cluster, in order, without loss or repeats. An error is the last item. Reads ahead a little, and
/// stops when dropped.
pub struct Updates<T, E>(Pin<Box<dyn Stream<Item = Result<T, E>> + Send>>);

impl<T, E> Updates<T, E> {
    pub(crate) fn new(stream: impl Stream<Item = Result<T, E>> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next update. `None` after an error.
    ///
    /// # Errors
    /// The updates ended for this reason.
    ///
    /// # Cancel safety
    /// Safe: nothing is lost or repeated.
    pub async fn next(&mut self) -> Option<Result<T, E>> {
        self.0.next().await
    }
}

impl<T, E> Stream for Updates<T, E> {
    type Item = Result<T, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl<T, E> fmt::Debug for Updates<T, E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Updates")
    }
}
