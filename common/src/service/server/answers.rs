//! An outgoing answer: keeps the call open, goes to HTTP/2 in slices when large, and holds room meanwhile.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body, codegen::http};

use super::outgoing::{Account, FREE_BYTES, Parts, no_room};

/// An answer that keeps the call open and gives back the room. `C`: the value that keeps the call open.
pub(super) struct AccountedBody<C> {
    body: Body,
    account: Arc<Account>,
    /// The large part of the answer that is being handed over, or was handed over last.
    parts: Option<Parts>,
    /// No room was left for the rest.
    is_refused: bool,
    _call: C,
}

impl<C> AccountedBody<C> {
    pub(super) fn new(body: Body, account: Arc<Account>, call: C) -> Self {
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

impl<C: Unpin> http_body::Body for AccountedBody<C> {
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
        // The encoder has begun a new buffer, or has ended. Until then the encoder keeps the buffer of these parts.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BufMut as _;
    use tokio::{
        task::{JoinSet, yield_now},
        time::timeout,
    };
    use tokio_stream::Stream;
    use tonic::codec::{EncodeBody, EncodeBuf, Encoder, SingleMessageCompressionOverride};

    use super::{super::outgoing::Room, *};
    use crate::wire::status;

    const PAGE: usize = 128 * 1024;
    const PAGES: usize = 4;
    const STREAMS: usize = 16;
    const LONG: Duration = Duration::from_secs(60);

    struct RawBody;

    impl Encoder for RawBody {
        type Item = Bytes;
        type Error = Status;

        fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
            buffer.put(message);
            Ok(())
        }
    }

    /// Pages, as sent by services; with or without an empty message before each wait for room.
    struct Pages {
        room: Room,
        is_followed: bool,
        /// Number of sent pages.
        page: usize,
        /// The last message was a page.
        is_large: bool,
        taking: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    }

    impl Stream for Pages {
        type Item = Result<Bytes, Status>;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            if self.page == PAGES {
                return Poll::Ready(None);
            }
            if self.taking.is_none() && !self.room.take_now(PAGE) {
                if self.is_followed && std::mem::take(&mut self.is_large) {
                    return Poll::Ready(Some(Ok(Bytes::new())));
                }
                let room = self.room.clone();
                self.taking = Some(Box::pin(async move { room.take(PAGE).await }));
            }
            if let Some(taking) = &mut self.taking {
                ready!(taking.as_mut().poll(context));
                self.taking = None;
            }
            self.page += 1;
            self.is_large = true;
            Poll::Ready(Some(Ok(Bytes::from(vec![7; PAGE]))))
        }
    }

    fn outbound(
        messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
        room: &Room,
    ) -> AccountedBody<()> {
        let inherit = SingleMessageCompressionOverride::Inherit;
        let body = Body::new(EncodeBody::new_server(RawBody, messages, None, inherit, None));
        AccountedBody::new(body, room.account(), ())
    }

    /// Reads to the end, frame by frame beside other readers; returns the number of data bytes, and the trailers.
    async fn read(mut body: AccountedBody<()>) -> (usize, http::HeaderMap) {
        let (mut bytes, mut trailers) = (0, http::HeaderMap::new());
        while let Some(frame) = std::future::poll_fn(|context| {
            let body: &mut AccountedBody<()> = &mut body;
            http_body::Body::poll_frame(Pin::new(body), context)
        })
        .await
        {
            match frame.unwrap().into_data() {
                Ok(data) => bytes += data.len(),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
            yield_now().await;
        }
        (bytes, trailers)
    }

    /// Whether all these streams are read to the end.
    async fn all_go_on(rooms: [Room; STREAMS], is_followed: bool, time: Duration) -> bool {
        let mut readers = JoinSet::new();
        for room in rooms {
            let pages = Pages {
                room: room.clone(),
                is_followed,
                page: 0,
                is_large: false,
                taking: None,
            };
            readers.spawn(read(outbound(pages, &room)));
        }
        let all = timeout(time, readers.join_all()).await;
        all.is_ok_and(|all| all.iter().all(|(bytes, _)| *bytes >= PAGES * PAGE))
    }

    #[tokio::test]
    async fn streams_of_one_connection_go_on_though_their_pages_exceed_its_share() {
        let share = || Room::of_one_connection(STREAMS / 2 * PAGE);
        assert!(all_go_on(share(), true, LONG).await);
        let short = Duration::from_millis(200);
        assert!(
            !all_go_on(share(), false, short).await,
            "they hold pages that are read"
        );
    }

    #[tokio::test]
    async fn streams_of_many_connections_go_on_though_their_pages_exceed_the_pool() {
        assert!(all_go_on(Room::of_pool(STREAMS / 2 * PAGE), true, LONG).await);
    }

    #[tokio::test]
    async fn answer_that_ends_without_room_names_no_fate() {
        let [all, room] = Room::of_pool(PAGE);
        assert!(all.take_now(PAGE));
        let messages = tokio_stream::iter([Ok(Bytes::from(vec![7; PAGE]))]);
        let (bytes, trailers) = read(outbound(messages, &room)).await;
        let refusal = Status::from_header_map(&trailers).unwrap();
        assert_eq!((bytes, refusal.code()), (0, tonic::Code::ResourceExhausted));
        assert_eq!(status::fate_of(&refusal), None);
    }
}
