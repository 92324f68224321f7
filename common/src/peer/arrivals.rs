//! Notices bytes of answers on arrival, before a message is complete.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};
use tonic::codegen::{Service, http};

/// Whether bytes have arrived since the last check. Clones share one mark.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<AtomicBool>);

impl Arrivals {
    /// Whether bytes have arrived since the last call.
    pub fn take(&self) -> bool {
        // Usually a plain load is enough, and leaves the cache line with the writer.
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }

    /// Calls through `service`, and notices the answers' bytes.
    pub fn watch<S>(&self, service: S) -> Watched<S> {
        Watched {
            inner: service,
            arrivals: self.clone(),
        }
    }
}

/// A service, or the body of an answer, with noticed bytes.
#[derive(Clone, Debug)]
pub struct Watched<T> {
    inner: T,
    arrivals: Arrivals,
}

impl<S, Q, B> Service<http::Request<Q>> for Watched<S>
where
    S: Service<http::Request<Q>, Response = http::Response<B>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Watched<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Q>) -> Self::Future {
        let arrivals = self.arrivals.clone();
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| arrivals.watch(body))) })
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = polled {
            self.arrivals.0.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{convert::Infallible, future::poll_fn};

    use bytes::Bytes;
    use tokio::sync::mpsc;

    /// A body with frames from a channel.
    struct TestFrames(mpsc::Receiver<Bytes>);

    impl Body for TestFrames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .poll_recv(context)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn each_frame_of_an_answer_is_noticed_once() {
        let (frames, body) = mpsc::channel(1);
        let arrivals = Arrivals::default();
        let mut body = arrivals.watch(TestFrames(body));
        assert!(!arrivals.take(), "nothing has arrived");
        for _ in 0..2 {
            frames.send(Bytes::from_static(b"part")).await.unwrap();
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            assert!(frame.is_some());
            assert!(arrivals.take(), "a frame has arrived");
            assert!(!arrivals.take(), "it counts once");
        }
        drop(frames);
        assert!(
            poll_fn(|context| Pin::new(&mut body).poll_frame(context))
                .await
                .is_none()
        );
        assert!(!arrivals.take(), "the end brings no bytes");
    }
}
