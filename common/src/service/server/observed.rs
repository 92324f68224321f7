//! Observes the head and the body of an answer, to record the result of the call.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body, codegen::http};

/// Observes an answer. Dropped with the answer, complete or not.
pub(super) trait AnswerObserver: Send + Unpin + 'static {
    /// The headers or the trailers of the answer, possibly with the status of the call.
    fn headers(&mut self, headers: &http::HeaderMap);

    /// The body failed.
    fn failed(&mut self, status: &Status);

    /// The body ended.
    fn ended(&mut self);
}

/// The answer, observed from the headers to the end.
pub(super) fn observed(
    answer: http::Response<Body>,
    mut observer: impl AnswerObserver,
) -> http::Response<Body> {
    observer.headers(answer.headers());
    answer.map(|body| Body::new(ObservedBody { body, observer }))
}

struct ObservedBody<O> {
    body: Body,
    observer: O,
}

impl<O: AnswerObserver> http_body::Body for ObservedBody<O> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.observer.headers(trailers);
                }
            }
            Some(Err(status)) => self.observer.failed(status),
            None => self.observer.ended(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
