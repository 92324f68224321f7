//! `Accept` streams: read independently of the disk, checked before the worker sees the messages, and answered by the
//! worker; *alive* answers beside the replies.
//!
//! Two tasks share a stream. The reader waits only for the next message. The sender is polled by the transport. When
//! either task ends, the failure detector is notified, and the other task ends too. Exception: after a client's last
//! message, the client still gets its answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_stream::try_stream;
use futures::Stream;
use paxos_common::{
    paxos::detector::Ender,
    service::server::{Chunk, chunks},
    wire::heard::Alive,
};
use paxos_proto::v1 as pb;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Status};

use super::Inner;
use crate::{hearing::Hearing, inbox::AnswerSender, pulse::Ticker, store::Reader};

mod feed;
mod open;

use feed::AcceptFeed;
use open::{Fault, OpenStream};

pub(super) use open::OpenStreams;
#[cfg(test)]
pub(super) use open::STREAMS_MAX;

/// Bytes of an incomplete large message count as work in amounts of this size. A link of 128 kbit/s carries this amount
/// in 4 s, before a standby finds that the work does not continue. Single bytes of an endless message are no work.
const PARTIAL_WORK: u64 = 64 * 1024;

/// Opens a stream, and answers on the stream until its end.
pub(super) fn accept<R, S>(
    inner: &Arc<Inner<R>>,
    extensions: &Extensions,
    requests: S,
) -> impl Stream<Item = Result<pb::AcceptResponse, Status>> + use<R, S>
where
    R: Reader,
    S: Stream<Item = Result<pb::AcceptRequest, Status>> + Send + 'static,
{
    let hearing = &inner.shared.hearing;
    let open = inner.streams.open(hearing);
    let chunks = chunks(extensions);
    if let Some(chunks) = chunks {
        let (hearing, id) = (Arc::clone(hearing), open.id);
        let partial = UncountedBytes::default();
        chunks.observe(move |chunk| hearing.chunk(id, partial.take(chunk)));
    }
    let (answers, replies) = AnswerSender::new();
    let (asked, interval) = oneshot::channel();
    let (failed, failure) = oneshot::channel();
    let feed = AcceptFeed::new(
        Arc::clone(inner),
        Arc::clone(&open),
        answers,
        asked,
        chunks.is_some(),
    );
    inner.shutdown.spawn(async move {
        if let Some(fault) = feed.read(requests).await {
            // An error means: the transport has dropped the answers.
            drop(failed.send(fault));
        }
    });
    let sending = AnswersGuard {
        open,
        stop: inner.shutdown.token().clone(),
    };
    let inner = Arc::clone(inner);
    let mut replies = replies;
    try_stream! {
        let sending = sending;
        let mut interval = Some(interval);
        let mut failure = Some(failure);
        let mut ticks = None;
        let mut last = None;
        loop {
            enum Next {
                Reply(Option<pb::AcceptResponse>),
                Asked(Option<Duration>),
                Tick,
                Fault(Option<Fault>),
            }
            let next = tokio::select! {
                // All arms are cancel safe: a message not received stays in the channel.
                reply = replies.recv() => Next::Reply(reply.map(|reply| reply.reply.into())),
                asked = received(&mut interval) => Next::Asked(asked),
                fault = received(&mut failure) => Next::Fault(fault),
                () = tick(&mut ticks) => Next::Tick,
            };
            match next {
                Next::Reply(Some(reply)) => yield reply,
                // No more messages come, and all are answered.
                Next::Reply(None) => break,
                Next::Asked(asked) => ticks = asked.map(|asked| ticking(&inner.shared.hearing, asked)),
                Next::Tick => {
                    if let Some(alive) = alive(&inner, &sending.open) {
                        yield alive.into();
                    }
                }
                Next::Fault(Some(Fault::AtOnce(status))) => {
                    while let Ok(reply) = replies.try_recv() {
                        yield reply.reply.into();
                    }
                    Err(status)?;
                }
                Next::Fault(Some(Fault::Behind(status))) => last = Some(status),
                Next::Fault(None) => {}
            }
        }
        if last.is_none()
            && let Some(Fault::Behind(status) | Fault::AtOnce(status)) = received_now(failure).await
        {
            last = Some(status);
        }
        if let Some(status) = last {
            Err(status)?;
        }
    }
}

/// Bytes of an incomplete large message not counted as work yet.
#[derive(Debug, Default)]
struct UncountedBytes(AtomicU64);

impl UncountedBytes {
    /// Bytes to count as work now: none below [`PARTIAL_WORK`].
    fn take(&self, chunk: Chunk) -> u64 {
        // A single task reads the stream: nothing is lost between the two steps.
        let bytes = match chunk.partial as u64 {
            0 => 0,
            more => self.0.load(Ordering::Relaxed) + more,
        };
        let is_work = bytes >= PARTIAL_WORK;
        self.0.store(if is_work { 0 } else { bytes }, Ordering::Relaxed);
        if is_work { bytes } else { 0 }
    }
}

/// The value of a channel, once; later calls never return.
async fn received<T>(channel: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match channel {
        Some(receiver) => {
            let result = receiver.await.ok();
            *channel = None;
            result
        }
        None => std::future::pending().await,
    }
}

/// The last value of a channel with a sender about to end.
async fn received_now<T>(channel: Option<oneshot::Receiver<T>>) -> Option<T> {
    channel?.await.ok()
}

async fn tick(ticks: &mut Option<Ticker>) {
    match ticks {
        Some(ticks) => ticks.tick().await,
        None => std::future::pending().await,
    }
}

/// Minimum interval of *alive* answers: a leader misses an acceptor after 2 s, and each message wakes both processes.
const ALIVE_INTERVAL_MIN: Duration = Duration::from_millis(500);

fn ticking(hearing: &Hearing, asked: Duration) -> Ticker {
    hearing.ticker(asked.max(ALIVE_INTERVAL_MIN))
}

/// None after the client's last message.
fn alive<R>(inner: &Inner<R>, open: &OpenStream) -> Option<Alive> {
    let (ballot, silent) = inner.shared.hearing.stream(open.id)?;
    let published = inner.shared.published();
    Some(Alive {
        stamp: published.stamp,
        ballot,
        silent,
        waiting: inner.queue.waiting(),
        has_space: !published.no_space,
    })
}

/// Held by the answers: when the transport drops the answers, the stream is gone, whatever the state of the request
/// side.
struct AnswersGuard {
    open: Arc<OpenStream>,
    stop: CancellationToken,
}

impl Drop for AnswersGuard {
    fn drop(&mut self) {
        let is_ours = self.stop.is_cancelled() || self.open.evicted.is_cancelled();
        self.open
            .close(if is_ours { Ender::Acceptor } else { Ender::Peer });
        self.open.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_message_that_is_not_whole_are_work_in_large_amounts_alone() {
        let partial = UncountedBytes::default();
        let take = |partial_bytes| {
            partial.take(Chunk {
                partial: partial_bytes,
            })
        };
        assert_eq!([1, 1, 20_000, 40_000].map(take), [0; 4]);
        assert_eq!([10_000, 1, 60_000].map(take), [70_002, 0, 0]);
        // The message is whole, and the next message begins.
        assert_eq!([0, 60_000, 10_000].map(take), [0, 0, 70_000]);
    }
}
