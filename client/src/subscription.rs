//! Following the log.

use std::{sync::Arc, time::Duration};

use paxos_proto::v1::{LogRecord, SubscribeRequest, SubscribeResponse, learner_client::LearnerClient};
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    Slot,
    address::Directory,
    error::{Cause, SubscribeError},
    follow::{Feed, Following},
};

/// A message of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct News {
    /// In slot order, following the last reported record. Empty: a sign of life.
    pub records: Vec<LogRecord>,
    /// Every slot below has been reported.
    pub next: Slot,
}

/// The log from a slot on. Reads ahead a little, and stops when dropped.
#[derive(Debug)]
pub struct Subscription(Following<News>);

impl Subscription {
    pub(crate) fn start(directory: Arc<Directory>, from: Slot, patience: Duration) -> Self {
        Self(Following::start(directory, LogFeed { next: from }, patience))
    }

    /// The next message. An error is the last message; `None` after an error.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    /// Safe: nothing is lost or repeated.
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

/// Takes from a response the records from `next` on: drops already reported records, refuses a gap.
fn continue_from(next: Slot, response: SubscribeResponse) -> Result<News, Cause> {
    let mut expected = next;
    let mut records = response.records;
    records.retain(|record| record.slot >= next.get());
    for record in &records {
        if record.slot != expected.get() {
            return Err(Cause::unavailable(format!(
                "the learner sent slot {} instead of slot {expected}",
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
