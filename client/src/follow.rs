//! Following the stream of some learner, and of another learner after a failure.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    peer::{Address, Backoff, MESSAGE_BYTES_MAX},
    wire::status::KeptSlots,
};
use paxos_proto::v1::learner_client::LearnerClient;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming, transport::Channel};

use crate::{
    address::Directory,
    config::TIMEOUT_MAX,
    error::{Cause, SubscribeError, TrimmedAnswer},
    trimmed::TrimmedRounds,
    updates::Updates,
};

/// Number of responses read ahead of the caller. Each holds at most the content of a message, so this number bounds
/// memory.
const READ_AHEAD: usize = 16;
/// Longest silence of a learner on an open stream, at least and at most: half of the timeout, so that another learner has
/// a turn. A learner sends a message at least once a second.
pub(crate) const LEARNER_SILENCE_MIN: Duration = Duration::from_millis(1_800);
const LEARNER_SILENCE_MAX: Duration = Duration::from_secs(4);
/// Longest wait for a learner to open a stream, in the first round over the learners. The wait doubles with each round,
/// up to [`LEARNER_SILENCE_MAX`], so that a cluster of slow learners still opens one.
const OPEN_PATIENCE: Duration = Duration::from_secs(1);
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

    /// No learner keeps the next slots. Returns whether the following goes on at the oldest slot that a learner keeps.
    fn begin_later(&mut self, _kept: KeptSlots) -> bool {
        false
    }
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
        open_patience: OPEN_PATIENCE,
        has_heard: false,
        trimmed: TrimmedRounds::default(),
        until: Instant::now() + timeout.min(TIMEOUT_MAX),
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
    /// The learner does not keep the next slot any more. Another learner may.
    Trimmed(TrimmedAnswer),
    /// Another learner may do better.
    Learner(Cause),
}

struct Follower<F: FollowedContent> {
    directory: Arc<Directory>,
    pages: mpsc::Sender<Result<F::Page, SubscribeError>>,
    feed: F,
    timeout: Duration,
    open_patience: Duration,
    /// Some learner has sent a message since the last round over the learners.
    has_heard: bool,
    /// Answers that the next slot is not kept any more.
    trimmed: TrimmedRounds,
    /// When to give up, unless a learner sends a message before.
    until: Instant,
}

impl<F: FollowedContent> Follower<F> {
    async fn run(mut self) {
        let mut pause = Backoff::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
        loop {
            let last = match self.try_all().await {
                Ok(()) => return,
                Err(cause) => cause,
            };
            if std::mem::take(&mut self.has_heard) {
                pause.reset();
                self.open_patience = OPEN_PATIENCE;
            } else {
                self.open_patience = (2 * self.open_patience).min(LEARNER_SILENCE_MAX);
            }
            let delay = last.retry_in(pause.next_delay());
            if Instant::now() + delay >= self.until {
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
        let addresses = timeout_at(self.until, self.directory.learners()).await;
        let addresses = match addresses.map_err(|_elapsed| Cause::deadline())? {
            Err(cause) if cause.is_permanent() => {
                // Without a receiver, the error need not be sent.
                let _ = self.pages.send(Err(SubscribeError::Refused(cause))).await;
                return Ok(());
            }
            addresses => addresses?,
        };
        let learners = addresses.len();
        for (others, address) in (0..addresses.len()).rev().zip(addresses) {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // The other learners must have a turn before the end.
            let share = if others == 0 { left } else { left / 2 };
            match self.follow(&address, share).await {
                StopReason::Unwanted => return Ok(()),
                StopReason::Final(error) => {
                    // Without a receiver, the error need not be sent.
                    let _ = self.pages.send(Err(error)).await;
                    return Ok(());
                }
                StopReason::Trimmed(answer) => {
                    last = answer.cause.clone().at(&address);
                    self.trimmed.add(answer);
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
        match self.trimmed.end_round(learners) {
            // The next round begins there.
            Some(answer) if self.feed.begin_later(answer.kept) => Err(answer.cause),
            Some(answer) => {
                // Without a receiver, the error need not be sent.
                let _ = self.pages.send(Err(answer.into())).await;
                Ok(())
            }
            None => Err(last),
        }
    }

    /// Reads from a learner that sends its first message within `share`.
    async fn follow(&mut self, address: &Address, share: Duration) -> StopReason {
        let first_by = Instant::now() + share;
        let channel = self.directory.dialer.to_learner(address);
        let client = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match timeout(self.open_patience.min(share), self.feed.open(client)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return judge(&status),
            Err(_elapsed) => return StopReason::Learner(Cause::deadline()),
        };
        let first_by = first_by.min(Instant::now() + LEARNER_SILENCE_MAX);
        let mut received = timeout_at(first_by, stream.message()).await;
        loop {
            let response = match received {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => {
                    return StopReason::Learner(Cause::unavailable("the learner closed the stream"));
                }
                Ok(Err(status)) => return judge(&status),
                Err(_elapsed) => return StopReason::Learner(Cause::deadline()),
            };
            let page = match self.feed.take(response) {
                Ok(page) => page,
                Err(cause) => return StopReason::Learner(cause),
            };
            if self.pages.send(Ok(page)).await.is_err() {
                return StopReason::Unwanted;
            }
            // Learners that refused an earlier position may keep this one.
            self.trimmed = TrimmedRounds::default();
            let waits_from = Instant::now();
            let silence_max = (self.timeout / 2).clamp(LEARNER_SILENCE_MIN, LEARNER_SILENCE_MAX);
            received = timeout(silence_max, stream.message()).await;
            self.has_heard = true;
            // The silence of this learner counts for the timeout. After any other end of the stream, the other learners
            // have the whole timeout. The wait for the caller does not count.
            let counts_from = if received.is_err() {
                waits_from
            } else {
                Instant::now()
            };
            self.until = counts_from + self.timeout.min(TIMEOUT_MAX);
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "any other code, and any future one, says nothing about the other learners"
)]
fn judge(status: &Status) -> StopReason {
    if let Some(answer) = TrimmedAnswer::of(status) {
        return StopReason::Trimmed(answer);
    }
    let cause = Cause::of(status);
    match status.code() {
        Code::OutOfRange => StopReason::Final(SubscribeError::OutOfRange(cause)),
        Code::PermissionDenied => StopReason::Final(SubscribeError::Refused(cause)),
        Code::InvalidArgument => StopReason::Final(SubscribeError::Invalid(cause.to_string())),
        _ => StopReason::Learner(cause),
    }
}
