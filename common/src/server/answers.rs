//! An answer on its way out: keeps its call open, goes to HTTP/2 in slices when it is large, and holds its room meanwhile.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body, codegen::http};

use super::{
    calls::Call,
    outgoing::{Account, FREE_BYTES, Parts, no_room},
};

/// An answer, which keeps its call open and gives back its room.
pub(super) struct Outbound {
    body: Body,
    account: Arc<Account>,
    /// The large part of the answer that is being handed over, and then the last one.
    parts: Option<Parts>,
    /// No room was left for the rest.
    is_refused: bool,
    _call: Arc<Call>,
}

impl Outbound {
    pub(super) fn new(body: Body, account: Arc<Account>, call: Arc<Call>) -> Self {
        Self {
            body,
            account,
            parts: None,
            is_refused: false,
            _call: call,
        }
    }

    /// Hands over a large part in slices; without room, the answer ends here.
    fn begin(&mut self, part: Bytes) -> Result<Frame<Bytes>, Status> {
        match self.account.hand_over(part) {
            Ok(mut parts) => {
                let slice = parts.next();
                self.parts = Some(parts);
                Ok(Frame::data(slice))
            }
            Err(_) => {
                self.is_refused = true;
                let mut trailers = http::HeaderMap::new();
                no_room().add_header(&mut trailers)?;
                Ok(Frame::trailers(trailers))
            }
        }
    }
}

impl http_body::Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(parts) = self.parts.as_mut().filter(|parts| !parts.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(parts.next()))));
        }
        if self.is_refused {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // The encoder has begun another buffer, or has ended.
        self.parts = None;
        let is_large = |frame: &Frame<Bytes>| {
            let data = frame.data_ref();
            data.is_some_and(|data| data.len() > FREE_BYTES)
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) if is_large(&frame) => match frame.into_data() {
                Ok(part) => Some(self.begin(part)),
                Err(frame) => Some(Ok(frame)),
            },
            frame => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.is_refused || (self.parts.as_ref().is_none_or(Parts::is_empty) && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
