//! Limits of calls: how many are open at once, the bytes of incomplete messages, and the bytes of unread answers.
//!
//! Every call passes here before its service gets the call. A message is kept until the message is complete. When
//! incomplete messages hold too many bytes, the call with the longest stalled message is cut off. Large answers go to
//! HTTP/2 in slices, and hold room until the last slice is written.

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    service::Routes,
};

use super::{
    answers::AccountedBody,
    chunks::{self, Chunk, Chunks},
    connections::{CallerConnection, Usage},
    kinds::{CallKind, FREE_BYTES, OpenCalls, is_stream},
    outgoing::{Pools, Room},
    partial::{Partials, Share},
    shares::CallPlace,
};
use crate::{peer::MESSAGE_BYTES_MAX, wire::status};

/// Size in bytes of the compression flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// A role's services behind the limits. Cheap to clone; clones share the limits.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    routes: Routes,
    open: Arc<OpenCalls>,
    partials: Arc<Partials>,
    pools: Arc<Pools>,
}

impl Limited {
    pub(super) fn new(routes: Routes) -> Self {
        Self {
            routes,
            open: Arc::default(),
            partials: Arc::default(),
            pools: Arc::default(),
        }
    }
}

impl Service<http::Request<Body>> for Limited {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<http::Request<Body>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let connection = request.extensions_mut().remove::<CallerConnection>();
        if let Some(connection) = &connection {
            request.extensions_mut().insert(connection.tcp.clone());
        }
        let usage = connection.map(|connection| connection.usage);
        let path = request.uri().path();
        let kind = CallKind::of_path(path);
        let place = match CallPlace::take(&self.open, kind, is_stream(path), usage.clone()) {
            Ok(place) => place,
            Err(refusal) => return Box::pin(ready(Ok(refusal.into_http()))),
        };
        let account = Arc::new(self.pools.account(path, usage.clone()));
        request.extensions_mut().insert(Room::of(Arc::clone(&account)));
        let call = Arc::new(OpenCall {
            usage,
            holds: AtomicBool::new(false),
            _place: place,
        });
        let partials = Arc::clone(&self.partials);
        let chunks = chunks::of_path(request.uri().path());
        if let Some(chunks) = &chunks {
            request.extensions_mut().insert(chunks.clone());
        }
        let inbound = |body| Inbound {
            chunks,
            bytes_max: kind.message_bytes_max(),
            patience: kind
                .patience()
                .map(|patience| (patience, Box::pin(sleep(patience)))),
            ..Inbound::new(body, Arc::clone(&call), partials)
        };
        let request = request.map(|body| Body::new(inbound(body)));
        let response = self.routes.call(request);
        Box::pin(async move {
            let response = response.await?;
            call.begun();
            Ok(response.map(|body| Body::new(AccountedBody::new(body, account, call))))
        })
    }
}

/// An open call: until both the request and the answer are gone.
#[derive(Debug)]
pub(super) struct OpenCall {
    /// Usage of the call's connection.
    usage: Option<Arc<Usage>>,
    /// Whether the connection counts as used by this call.
    holds: AtomicBool,
    _place: CallPlace,
}

impl OpenCall {
    /// A message has arrived, or an answer goes out: from now on the connection is used. A request that never arrives
    /// is no use.
    fn begun(&self) {
        if let Some(usage) = &self.usage
            && !self.holds.swap(true, Ordering::Relaxed)
        {
            usage.hold();
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if let Some(usage) = &self.usage
            && *self.holds.get_mut()
        {
            usage.release();
        }
    }
}

/// A request, or a stream of requests.
struct Inbound {
    body: Body,
    call: Arc<OpenCall>,
    prefixed: Prefixed,
    partials: Arc<Partials>,
    /// Share of the incomplete message, when the message is large.
    share: Option<Share>,
    /// Limit in bytes of a message.
    bytes_max: usize,
    /// Observer of the arriving bytes.
    chunks: Option<Chunks>,
    /// How long to wait for the next message, and the end of the present wait.
    patience: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Inbound {
    fn new(body: Body, call: Arc<OpenCall>, partials: Arc<Partials>) -> Self {
        Self {
            body,
            call,
            prefixed: Prefixed::default(),
            partials,
            share: None,
            bytes_max: MESSAGE_BYTES_MAX,
            chunks: None,
            patience: None,
        }
    }

    /// Ready with the error of a call that must end, while nothing arrives.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        if let Some(share) = &mut self.share
            && share.poll_cut_off(context).is_ready()
        {
            return Poll::Ready(cut_off());
        }
        if let Some((patience, end)) = &mut self.patience
            && end.as_mut().poll(context).is_ready()
        {
            let seconds = patience.as_secs();
            self.patience = None;
            return Poll::Ready(Status::deadline_exceeded(format!(
                "no whole message arrived for {seconds} s"
            )));
        }
        Poll::Pending
    }

    /// Processes arrived bytes.
    fn take(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.prefixed.take(data) > 0 {
            self.share = None;
            if let Some((patience, end)) = &mut self.patience {
                end.as_mut().reset(Instant::now() + *patience);
            }
            self.call.begun();
        }
        if self.prefixed.is_flagged {
            return Err(status::invalid_argument(
                "compressed messages are not accepted: send messages uncompressed",
            ));
        }
        let Some((length, here)) = self.prefixed.expected() else {
            return Ok(());
        };
        let bytes_max = self.bytes_max;
        if length > bytes_max {
            return Err(status::invalid_argument(format!(
                "the message has {length} bytes: at most {bytes_max} are allowed"
            )));
        }
        if here > FREE_BYTES {
            let is_outside = self.call.usage.as_ref().is_some_and(|usage| usage.is_outside());
            let share = self.share.get_or_insert_with(|| self.partials.share(is_outside));
            share.grow_to(here).map_err(|_| cut_off())?;
        }
        Ok(())
    }
}

fn cut_off() -> Status {
    status::overloaded("the room for partly received messages")
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.poll_end(context).map(|error| Some(Err(error)));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| self.take(data));
                if let (Some(chunks), Some(data)) = (&self.chunks, frame.data_ref()) {
                    let is_large = self
                        .prefixed
                        .expected()
                        .is_some_and(|(length, _)| length > FREE_BYTES);
                    let partial = if is_large { data.len() } else { 0 };
                    chunks.arrived(Chunk { partial });
                }
                Some(taken.map(|()| frame))
            }
            Some(Err(status)) => Some(Err(status)),
            None if self.prefixed.is_between() => None,
            None => {
                // Reported once.
                self.prefixed = Prefixed::default();
                Some(Err(status::invalid_argument(
                    "the request ends in the middle of a message",
                )))
            }
        })
    }

    // Only the end of the body shows whether a message is incomplete, so the end must be read.
    fn is_end_stream(&self) -> bool {
        false
    }
}

/// Position of a byte stream in a sequence of messages: a flag and a length precede each message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Prefixed {
    prefix: [u8; PREFIX_BYTES],
    /// Number of received bytes of the prefix.
    have: usize,
    /// Number of missing bytes of the message, once the prefix is complete.
    missing: usize,
    /// Some message was marked as compressed.
    is_flagged: bool,
}

impl Prefixed {
    /// Advances by these bytes; returns how many messages ended in them.
    fn take(&mut self, mut data: &[u8]) -> usize {
        let mut ended = 0;
        while !data.is_empty() {
            if self.have < PREFIX_BYTES {
                let count = data.len().min(PREFIX_BYTES - self.have);
                let (head, rest) = data.split_at(count);
                self.prefix[self.have..][..count].copy_from_slice(head);
                self.have += count;
                data = rest;
                if self.have == PREFIX_BYTES {
                    self.missing = self.length();
                    self.is_flagged |= self.prefix[0] != 0;
                }
            } else {
                let count = data.len().min(self.missing);
                self.missing -= count;
                data = &data[count..];
            }
            if self.have == PREFIX_BYTES && self.missing == 0 {
                self.have = 0;
                ended += 1;
            }
        }
        ended
    }

    /// Length of the incomplete message, once known, and the number of its received bytes.
    fn expected(&self) -> Option<(usize, usize)> {
        let length = self.length();
        (self.have == PREFIX_BYTES).then(|| (length, length - self.missing))
    }

    /// Whether no message is incomplete.
    fn is_between(&self) -> bool {
        self.have == 0
    }

    fn length(&self) -> usize {
        let [_, length @ ..] = self.prefix;
        u32::from_be_bytes(length) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;

    /// Pieces as they arrive; then the end, or nothing yet.
    struct Pieces {
        pieces: VecDeque<Bytes>,
        ends: bool,
    }

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.pieces.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.ends => Poll::Ready(None),
                None => Poll::Pending,
            }
        }
    }

    fn prefixed(length: usize, bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(length).unwrap().to_be_bytes());
        message.extend(vec![7; bytes]);
        message
    }

    fn inbound(pieces: &[Vec<u8>], ends: bool, partials: &Arc<Partials>) -> (Pin<Box<Inbound>>, Arc<Usage>) {
        let usage = Arc::new(Usage::new());
        let place = CallPlace::take(&Arc::default(), CallKind::Clients, false, None).unwrap();
        let call = Arc::new(OpenCall {
            usage: Some(Arc::clone(&usage)),
            holds: AtomicBool::new(false),
            _place: place,
        });
        let pieces = pieces.iter().cloned().map(Bytes::from).collect();
        let body = Body::new(Pieces { pieces, ends });
        (Box::pin(Inbound::new(body, call, Arc::clone(partials))), usage)
    }

    fn poll(inbound: &mut Pin<Box<Inbound>>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        inbound.as_mut().poll_frame(&mut context)
    }

    #[test]
    fn large_message_counts_until_it_is_whole_or_gone() {
        let partials = Arc::default();
        let pieces = [prefixed(100_000, 40_000), vec![7; 60_000], prefixed(10, 5)];
        let (mut message, _) = inbound(&pieces, false, &partials);
        assert!(poll(&mut message).is_ready());
        assert_eq!(partials.bytes(), 40_000);
        assert!(poll(&mut message).is_ready());
        assert_eq!(partials.bytes(), 0);
        assert!(poll(&mut message).is_ready());
        assert!(poll(&mut message).is_pending());
        assert_eq!(partials.bytes(), 0, "small ones are not counted");

        let (mut message, _) = inbound(&pieces, false, &partials);
        assert!(poll(&mut message).is_ready());
        drop(message);
        assert_eq!(partials.bytes(), 0);
    }

    #[test]
    fn chunks_are_observed_before_they_are_a_message() {
        let path = "/paxos.v1.Acceptor/Accept";
        let chunks = chunks::of_path(path).unwrap();
        assert!(chunks::of_path("/paxos.v1.Acceptor/Tail").is_none());
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sees = Arc::clone(&seen);
        chunks.observe(move |chunk| sees.lock().unwrap().push(chunk.partial));
        let pieces = [
            prefixed(3, 0),
            vec![7],
            vec![7; 2],
            prefixed(100_000, 9),
            vec![7; 20],
        ];
        let (mut inbound, _) = inbound(&pieces, false, &Arc::default());
        inbound.chunks = Some(chunks);
        while poll(&mut inbound).is_ready() {}
        assert_eq!(*seen.lock().unwrap(), [0, 0, 0, 14, 20]);
    }

    #[test]
    fn request_uses_its_connection_from_its_first_whole_message_to_its_end() {
        let partials = Arc::default();
        let (mut message, usage) = inbound(&[vec![0, 0, 0, 0], vec![1, 7]], true, &partials);
        assert!(poll(&mut message).is_ready() && usage.is_unused());
        assert!(poll(&mut message).is_ready() && !usage.is_unused());
        drop(message);
        assert!(usage.is_unused());
    }

    #[tokio::test]
    async fn call_without_a_message_ends_when_the_patience_is_over() {
        let (mut half, _) = inbound(&[vec![0, 0]], false, &Arc::default());
        let patience = Duration::from_millis(20);
        half.patience = Some((patience, Box::pin(sleep(patience))));
        let next = async |inbound: &mut Pin<Box<Inbound>>| {
            std::future::poll_fn(|context| inbound.as_mut().poll_frame(context)).await
        };
        assert!(next(&mut half).await.unwrap().is_ok());
        let error = next(&mut half).await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    }

    #[test]
    fn messages_that_are_too_long_or_end_early_are_invalid() {
        let partials = Arc::default();
        let last = |pieces: &[Vec<u8>]| {
            let (mut inbound, _) = inbound(pieces, true, &partials);
            loop {
                match poll(&mut inbound) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(status))) => break Some(status),
                    Poll::Ready(None) => break None,
                    Poll::Pending => panic!("it waits for nothing"),
                }
            }
        };
        let text = |pieces: &[Vec<u8>]| last(pieces).unwrap().message().to_owned();
        assert!(text(&[prefixed(MESSAGE_BYTES_MAX + 1, 9)]).contains("4194304 are allowed"));
        assert!(text(&[prefixed(u32::MAX as usize, 0)]).contains("4194304 are allowed"));
        assert!(text(&[vec![1, 0, 0, 0, 0]]).contains("compressed"));
        assert!(text(&[vec![0, 0]]).contains("ends in the middle"));
        assert!(text(&[prefixed(3, 3), prefixed(100_000, 5)]).contains("ends in the middle"));
        let (mut status, _) = inbound(&[prefixed(FREE_BYTES + 1, 9)], true, &partials);
        status.bytes_max = CallKind::Probes.message_bytes_max();
        let Poll::Ready(Some(Err(error))) = poll(&mut status) else {
            panic!("a large message");
        };
        assert!(error.message().contains("16384 are allowed"), "{error}");
        let whole = [prefixed(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX), prefixed(0, 0)];
        assert!(last(&whole).is_none() && last(&[]).is_none());
    }

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(0usize..40, 0..6),
            cut in 1usize..20,
            rest in 0usize..4,
        ) {
            let mut bytes: Vec<u8> = lengths.iter().flat_map(|&length| prefixed(length, length)).collect();
            bytes.extend(vec![0; rest]);
            let mut state = Prefixed::default();
            let ended: usize = bytes.chunks(cut).map(|piece| state.take(piece)).sum();
            prop_assert_eq!(ended, lengths.len());
            prop_assert_eq!(state.is_between(), rest == 0);
            prop_assert_eq!(state.expected(), None);
        }
    }
}
