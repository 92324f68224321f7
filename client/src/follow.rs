//! Following the stream of some learner, and of another learner after a failure.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
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
};

/// Number of responses read ahead of the caller. Each holds at most the content of a message, so this number bounds
/// memory.
const READ_AHEAD: usize = 16;
/// Longest silence of a learner: a learner opens a stream at once, and then sends a message at least once a second.
const LEARNER_SILENCE_MAX: Duration = Duration::from_secs(4);
/// Pauses between rounds over the learners, from the shortest to the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The followed content, and how far it has been reported.
pub(crate) trait Feed: Send + 'static {
    /// A learner's message.
    type Response: Send;
    /// The resulting message to the caller.
    type News: Send + 'static;

    /// Opens the stream at the end of the previous stream.
    fn open(
        &self,
        client: LearnerClient<Channel>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;

    /// Takes from a response the continuation of the reported content.
    ///
    /// # Errors
    /// The response is no continuation: this learner is not trusted.
    fn take(&mut self, response: Self::Response) -> Result<Self::News, Cause>;
}

/// The messages of a feed, in order; ends after the first error.
#[derive(Debug)]
pub(crate) struct Following<N>(ReceiverStream<Result<N, SubscribeError>>);

impl<N: Send + 'static> Following<N> {
    /// Starts a task that follows `feed`. The task stops when the result is dropped.
    pub(crate) fn start(directory: Arc<Directory>, feed: impl Feed<News = N>, patience: Duration) -> Self {
        let (told, news) = mpsc::channel(READ_AHEAD);
        let follower = Follower {
            directory,
            told,
            feed,
            patience,
            heard_at: Instant::now(),
        };
        tokio::spawn(follower.run());
        Self(ReceiverStream::new(news))
    }

    /// A stream with a single error.
    pub(crate) fn failed(error: SubscribeError) -> Self {
        let (told, news) = mpsc::channel(1);
        told.try_send(Err(error)).expect("there is room for one");
        Self(ReceiverStream::new(news))
    }

    /// # Cancel safety
    /// Safe: nothing is lost or repeated.
    pub(crate) async fn next(&mut self) -> Option<Result<N, SubscribeError>> {
        self.0.next().await
    }

    pub(crate) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<N, SubscribeError>>> {
        self.0.poll_next_unpin(context)
    }
}

/// Why reading from one learner stopped.
enum Stop {
    /// The caller is gone.
    Unwanted,
    /// No learner can continue.
    Final(SubscribeError),
    /// Another learner may do better.
    Learner(Cause),
}

struct Follower<F: Feed> {
    directory: Arc<Directory>,
    told: mpsc::Sender<Result<F::News, SubscribeError>>,
    feed: F,
    patience: Duration,
    /// The time of the last message from any learner.
    heard_at: Instant,
}

impl<F: Feed> Follower<F> {
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
            let delay = pause.next_delay();
            if self.heard_at.elapsed() + delay > self.patience {
                // Without a receiver, the error need not be sent.
                let _ = self.told.send(Err(SubscribeError::Unavailable(last))).await;
                return;
            }
            tracing::debug!(cause = %last, "looking for another learner");
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep(delay) => {}
                // Cancel safe: only waits.
                () = self.told.closed() => return,
            }
        }
    }

    /// Reads from each learner in turn; `Ok` when the following is over.
    async fn try_all(&mut self) -> Result<(), Cause> {
        let mut last = Cause::unavailable("no learner is known");
        for address in self.directory.learners().await? {
            match self.follow(&address).await {
                Stop::Unwanted => return Ok(()),
                Stop::Final(error) => {
                    // Without a receiver, the error need not be sent.
                    let _ = self.told.send(Err(error)).await;
                    return Ok(());
                }
                Stop::Learner(cause) => {
                    self.directory.shun(&address);
                    last = cause.at(&address);
                }
            }
        }
        Err(last)
    }

    async fn follow(&mut self, address: &Address) -> Stop {
        let client = LearnerClient::new(connect_lazy(address)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match timeout(LEARNER_SILENCE_MAX, self.feed.open(client)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return judge(&status),
            Err(_elapsed) => return Stop::Learner(Cause::deadline()),
        };
        loop {
            let response = match timeout(LEARNER_SILENCE_MAX, stream.message()).await {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return Stop::Learner(Cause::unavailable("the learner closed the stream")),
                Ok(Err(status)) => return judge(&status),
                Err(_elapsed) => return Stop::Learner(Cause::deadline()),
            };
            self.heard_at = Instant::now();
            let news = match self.feed.take(response) {
                Ok(news) => news,
                Err(cause) => return Stop::Learner(cause),
            };
            if self.told.send(Ok(news)).await.is_err() {
                return Stop::Unwanted;
            }
            // The caller may have been slow; the wait for the caller is no silence of the learner.
            self.heard_at = Instant::now();
        }
    }
}

fn judge(status: &Status) -> Stop {
    let cause = Cause::from(status);
    match status.code() {
        Code::OutOfRange => Stop::Final(SubscribeError::OutOfRange(cause)),
        Code::InvalidArgument => Stop::Final(SubscribeError::Invalid(cause.to_string())),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => Stop::Learner(cause),
    }
}
