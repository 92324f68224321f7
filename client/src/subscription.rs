//! Following the log: one task that reads from a learner, and from another when that one fails.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all};
use paxos_common::peer::{Address, Backoff, MESSAGE_BYTES_MAX, connect_lazy};
use paxos_proto::v1::{
    LearnerStatusRequest, LogRecord, ProposerStatusRequest, SubscribeRequest, SubscribeResponse,
    attach_request::Progress, learner_client::LearnerClient, proposer_client::ProposerClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::{
    Slot,
    address::Directory,
    error::{Cause, SubscribeError},
};

/// Responses read ahead of the caller; each holds at most one message's worth, so this bounds memory.
const READ_AHEAD: usize = 16;
/// A learner opens a subscription at once and then says something at least once a second; one that is silent for
/// longer is given up.
const LEARNER_SILENCE_MAX: Duration = Duration::from_secs(4);
/// Pauses between learners, from the shortest to the longest.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What a subscription tells at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// In slot order, following on the last one told. Empty: a sign of life.
    pub records: Vec<LogRecord>,
    /// Every slot below it has been told.
    pub next: Slot,
}

/// The log from a slot on. It reads ahead a little, and stops when dropped.
#[derive(Debug)]
pub struct Subscription {
    news: ReceiverStream<Result<News, SubscribeError>>,
}

impl Subscription {
    pub(crate) fn start(directory: Arc<Directory>, from: Slot, patience: Duration) -> Self {
        let (told, news) = mpsc::channel(READ_AHEAD);
        let follower = Follower {
            directory,
            told,
            next: from,
            patience,
            heard_at: Instant::now(),
        };
        tokio::spawn(follower.run());
        Self {
            news: ReceiverStream::new(news),
        }
    }

    /// What comes next; an error is the last that comes. `None` after that.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    /// Safe: nothing is lost or told twice.
    pub async fn next(&mut self) -> Option<Result<News, SubscribeError>> {
        self.news.next().await
    }
}

impl futures::Stream for Subscription {
    type Item = Result<News, SubscribeError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.news.poll_next_unpin(context)
    }
}

/// Why reading from one learner stopped.
enum Stop {
    /// The subscriber is gone.
    Unwanted,
    /// It cannot go on anywhere.
    Final(SubscribeError),
    /// Another learner may do better.
    Learner(Cause),
}

struct Follower {
    directory: Arc<Directory>,
    told: mpsc::Sender<Result<News, SubscribeError>>,
    next: Slot,
    patience: Duration,
    /// When a learner last said anything.
    heard_at: Instant,
}

impl Follower {
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
                // Nobody to tell is as good as told.
                let _ = self.told.send(Err(SubscribeError::Unavailable(last))).await;
                return;
            }
            tracing::debug!(cause = %last, "looking for another learner");
            tokio::select! {
                // Cancel safe: a timer.
                () = sleep(delay) => {}
                // Cancel safe: it only waits.
                () = self.told.closed() => return,
            }
        }
    }

    /// Reads from each learner in turn; `Ok` when the subscription is over.
    async fn try_all(&mut self) -> Result<(), Cause> {
        let mut last = Cause::unavailable("no learner is known");
        for address in self.directory.learners().await? {
            match self.follow(&address).await {
                Stop::Unwanted => return Ok(()),
                Stop::Final(error) => {
                    // Nobody to tell is as good as told.
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
        let mut client =
            LearnerClient::new(connect_lazy(address)).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = SubscribeRequest {
            from: self.next.get(),
        };
        let mut stream = match timeout(LEARNER_SILENCE_MAX, client.subscribe(request)).await {
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
            let news = match continue_from(self.next, response) {
                Ok(news) => news,
                Err(cause) => return Stop::Learner(cause),
            };
            self.next = news.next;
            if self.told.send(Ok(news)).await.is_err() {
                return Stop::Unwanted;
            }
            // The subscriber may have been slow; that is no silence of the learner's.
            self.heard_at = Instant::now();
        }
    }
}

fn judge(status: &tonic::Status) -> Stop {
    if status.code() == Code::OutOfRange {
        return Stop::Final(SubscribeError::OutOfRange(Cause::from(status)));
    }
    Stop::Learner(Cause::from(status))
}

/// Takes from a response what follows on `next`: drops what was told before, refuses a gap.
fn continue_from(next: Slot, response: SubscribeResponse) -> Result<News, Cause> {
    let mut expected = next;
    let mut records = response.records;
    records.retain(|record| record.slot >= next.get());
    for record in &records {
        if record.slot != expected.get() {
            return Err(Cause::unavailable(format!(
                "the learner sent slot {} where {expected} follows",
                record.slot
            )));
        }
        expected = expected.next();
    }
    Ok(News {
        records,
        next: expected,
    })
}

/// Asks acceptors and proposers how far the log is chosen; when no acceptor answers, learners.
pub(crate) async fn chosen_to(directory: &Directory, patience: Duration) -> Result<Slot, Cause> {
    let status = directory.acceptors.status(patience, |_| false).await;
    let mut highest: Option<u64> = None;
    for answer in status.answers() {
        let attached = answer
            .attached
            .iter()
            .filter_map(|peer| peer.report.as_ref()?.progress.as_ref());
        let told = attached.map(|progress| match progress {
            Progress::Proposer(proposer) => proposer.chosen_to,
            Progress::Learner(learner) => learner.applied_to,
        });
        highest = told.chain([answer.chosen_to]).max().max(highest);
    }
    // The leader's own watermark is ahead of what it has told the acceptors; only below it are clients answered.
    let proposers = directory.proposers().await.unwrap_or_default();
    let asked = join_all(proposers.into_iter().map(|address| async move {
        let mut client = ProposerClient::new(connect_lazy(&address));
        timeout(patience, client.status(ProposerStatusRequest {}))
            .await
            .ok()?
            .ok()
    }))
    .await;
    highest = asked
        .into_iter()
        .flatten()
        .map(|response| response.into_inner().chosen_to)
        .max()
        .max(highest);
    if highest.is_none() {
        let learners = directory.learners().await?;
        let asked = join_all(learners.into_iter().map(|address| async move {
            let mut client = LearnerClient::new(connect_lazy(&address));
            timeout(patience, client.status(LearnerStatusRequest {}))
                .await
                .ok()?
                .ok()
        }))
        .await;
        highest = asked
            .into_iter()
            .flatten()
            .map(|response| response.into_inner().applied_to)
            .max();
    }
    let highest = highest.ok_or_else(|| Cause::unavailable("nobody answers"))?;
    Slot::new(highest).map_err(|error| Cause::unavailable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(slots: &[u64]) -> SubscribeResponse {
        let records = slots
            .iter()
            .map(|&slot| LogRecord {
                slot,
                ..LogRecord::default()
            })
            .collect();
        SubscribeResponse {
            records,
            next: slots.last().map_or(0, |slot| slot + 1),
        }
    }

    fn slot(number: u64) -> Slot {
        Slot::new(number).unwrap()
    }

    #[test]
    fn response_continues_where_the_last_ended() {
        let news = continue_from(slot(3), response(&[1, 2, 3, 4])).unwrap();
        assert_eq!(
            news.records.iter().map(|record| record.slot).collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(news.next, slot(5));
        assert_eq!(continue_from(slot(5), response(&[])).unwrap().next, slot(5));
    }

    #[test]
    fn learner_that_leaves_a_gap_is_not_believed() {
        assert!(continue_from(slot(3), response(&[4])).is_err());
        assert!(continue_from(slot(3), response(&[3, 5])).is_err());
    }
}
