//! Following the stream of some learner, and of another learner after a failure.

use std::{sync::Arc, time::Duration};

use paxos_common::peer::{Address, Backoff, MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::learner_client::LearnerClient;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use crate::{
    address::Directory,
    error::{Cause, SubscribeError},
    updates::Updates,
};

/// Number of responses read ahead of the caller. Each holds at most the content of a message, so this number bounds
/// memory.
const READ_AHEAD: usize = 16;
/// Longest silence of a learner: a learner opens a stream at once, and then sends a message at least once a second.
const LEARNER_SILENCE_MAX: Duration = Duration::from_secs(4);
/// Pauses between rounds over the learners, and between tries of an election, from the shortest to the longest.
pub(crate) const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The followed content, and how far it has been reported.
pub(crate) trait FollowedContent: Send + 'static {
    /// A learner's message.
    type Response: Send;
    /// The resulting message to the caller.
    type Page: Send + 'static;

    /// Opens the stream at the end of the previous stream.
    fn open(
        &self,
        client: LearnerClient<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;

    /// Takes from a response the continuation of the reported content.
    ///
    /// # Errors
    /// The response is no continuation: this learner is not trusted.
    fn take(&mut self, response: Self::Response) -> Result<Self::Page, Cause>;
}

/// Starts a task that follows `feed`. The task stops when the result is dropped.
///
/// # Panics
/// Outside a Tokio runtime.
pub(crate) fn follow<F: FollowedContent>(
    directory: Arc<Directory>,
    feed: F,
    timeout: Duration,
) -> Updates<F::Page, SubscribeError> {
    let (pages, received) = mpsc::channel(READ_AHEAD);
    let follower = Follower {
        directory,
        pages,
        feed,
        timeout,
        heard_at: Instant::now(),
    };
    tokio::spawn(follower.run());
    Updates::new(ReceiverStream::new(received))
}

/// Why reading from one learner stopped.
enum StopReason {
    /// The caller is gone.
    Unwanted,
    /// No learner can continue.
    Final(SubscribeError),
    /// Another learner may do better.
    Learner(Cause),
}

struct Follower<F: FollowedContent> {
    directory: Arc<Directory>,
    pages: mpsc::Sender<Result<F::Page, SubscribeError>>,
    feed: F,
    timeout: Duration,
    /// The time of the last message from any learner.
    heard_at: Instant,
}

impl<F: FollowedContent> Follower<F> {
    async fn run(mut self) {
        let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            let before = self.heard_at;
            let last = match self.try_all().await {
                Ok(()) => return,
                Err(cause) => cause,
            };
            if self.heard_at != before {
                pause.reset();
            }
            let delay = last.retry_in(pause.next_delay());
            if self.heard_at.elapsed() + delay > self.timeout {
                // Without a receiver, the error need not be sent.
                let _ = self.pages.send(Err(SubscribeError::Unavailable(last))).await;
                return;
            }
            tracing::debug!(cause = %last, "looking for another learner");
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep(delay) => {}
                // Cancel safe: only waits.
                () = self.pages.closed() => return,
            }
        }
    }

    /// Reads from each learner in turn; `Ok` when the following is over.
    async fn try_all(&mut self) -> Result<(), Cause> {
        let mut last = Cause::unavailable("no learner is known");
        for address in self.directory.learners().await? {
            match self.follow(&address).await {
                StopReason::Unwanted => return Ok(()),
                StopReason::Final(error) => {
                    // Without a receiver, the error need not be sent.
                    let _ = self.pages.send(Err(error)).await;
                    return Ok(());
                }
                StopReason::Learner(cause) => {
                    self.directory.shun(&address);
                    // The longest wait requested by a learner in this round.
                    let requested = last.retry_delay.max(cause.retry_delay);
                    last = cause.at(&address);
                    last.retry_delay = requested;
                }
            }
        }
        Err(last)
    }

    async fn follow(&mut self, address: &Address) -> StopReason {
        let client = LearnerClient::new(connect_lazy(address)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match timeout(LEARNER_SILENCE_MAX, self.feed.open(client)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return judge(&status),
            Err(_elapsed) => return StopReason::Learner(Cause::deadline()),
        };
        loop {
            let response = match timeout(LEARNER_SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => {
                    return StopReason::Learner(Cause::unavailable("the learner closed the stream"));
                }
                Ok(Err(status)) => return judge(&status),
                Err(_elapsed) => return StopReason::Learner(Cause::deadline()),
            };
            self.heard_at = Instant::now();
            let page = match self.feed.take(response) {
                Ok(page) => page,
                Err(cause) => return StopReason::Learner(cause),
            };
            if self.pages.send(Ok(page)).await.is_err() {
                return StopReason::Unwanted;
            }
            // The caller may have been slow; the wait for the caller is no silence of the learner.
            self.heard_at = Instant::now();
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other code, and any future one, says nothing about the other learners"
)]
fn judge(status: &Status) -> StopReason {
    let cause = Cause::of(status);
    match status.code() {
        Code::OutOfRange => StopReason::Final(SubscribeError::OutOfRange(cause)),
        Code::InvalidArgument => StopReason::Final(SubscribeError::Invalid(cause.to_string())),
        _ => StopReason::Learner(cause),
    }
}
