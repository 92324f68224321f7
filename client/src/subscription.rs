//! The log, followed; and how far it goes.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use paxos_common::peer::connect_lazy;
use paxos_proto::v1::{
    LearnerStatusRequest, LogRecord, ProposerPhase, ProposerStatusRequest, SubscribeRequest,
    SubscribeResponse, attach_request::Progress, learner_client::LearnerClient,
    proposer_client::ProposerClient,
};
use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    Slot,
    address::Directory,
    error::{Cause, SubscribeError},
    follow::{Feed, Following},
};

/// How long proposers are waited for when none says that it leads: the acceptors have answered by then.
const PROPOSERS_PATIENCE: Duration = Duration::from_secs(1);

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
pub struct Subscription(Following<News>);

impl Subscription {
    pub(crate) fn start(directory: Arc<Directory>, from: Slot, patience: Duration) -> Self {
        Self(Following::start(directory, LogFeed { next: from }, patience))
    }

    /// What comes next; an error is the last that comes. `None` after that.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    /// Safe: nothing is lost or told twice.
    pub async fn next(&mut self) -> Option<Result<News, SubscribeError>> {
        self.0.next().await
    }
}

impl futures::Stream for Subscription {
    type Item = Result<News, SubscribeError>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_next(context)
    }
}

struct LogFeed {
    next: Slot,
}

impl Feed for LogFeed {
    type Response = SubscribeResponse;
    type News = News;

    async fn open(
        &self,
        mut client: LearnerClient<Channel>,
    ) -> Result<Response<Streaming<SubscribeResponse>>, Status> {
        let from = self.next.get();
        client.subscribe(SubscribeRequest { from }).await
    }

    fn take(&mut self, response: SubscribeResponse) -> Result<News, Cause> {
        let news = continue_from(self.next, response)?;
        self.next = news.next;
        Ok(news)
    }
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
    let deadline = Instant::now() + patience;
    // A majority will do: one acceptor that hangs must not use up the time.
    let status = directory.acceptors.status(patience, |_| true).await;
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
    let mut asked: FuturesUnordered<_> = proposers
        .into_iter()
        .map(|address| async move {
            let mut client = ProposerClient::new(connect_lazy(&address));
            client.status(ProposerStatusRequest {}).await.ok()
        })
        .collect();
    let limit = deadline.min(Instant::now() + PROPOSERS_PATIENCE);
    while let Ok(Some(answer)) = timeout_at(limit, asked.next()).await {
        let Some(answer) = answer else { continue };
        let answer = answer.into_inner();
        highest = highest.max(Some(answer.chosen_to));
        if answer.phase() == ProposerPhase::Leading {
            break;
        }
    }
    if highest.is_none() {
        let learners = directory.learners().await?;
        let asked = join_all(learners.into_iter().map(|address| async move {
            let mut client = LearnerClient::new(connect_lazy(&address));
            timeout_at(deadline, client.status(LearnerStatusRequest {}))
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
