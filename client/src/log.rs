//! Following the log.

use std::{sync::Arc, time::Duration};

use paxos_common::wire::status::KeptSlots;
use paxos_proto::v1::{SubscribeRequest, SubscribeResponse, learner_client::LearnerClient};
use tonic::{Response, Status, Streaming, transport::Channel};

use crate::{
    Slot,
    address::Directory,
    error::{Cause, SubscribeError},
    follow::{self, FollowedContent},
    record::{Command, LogRecord},
    updates::Updates,
};

/// A part of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogPage {
    /// In slot order, following the last reported record. Empty: a sign of life.
    pub records: Vec<LogRecord>,
    /// Every slot below has been reported.
    pub next: Slot,
}

impl LogPage {
    /// The commands of all records, in order.
    pub fn commands(&self) -> impl Iterator<Item = Command> {
        self.records.iter().flat_map(LogRecord::commands)
    }
}

/// Follows the log from slot `from` on; without `from`, from the oldest slot that a learner keeps.
pub(crate) fn follow(
    directory: Arc<Directory>,
    from: Option<Slot>,
    timeout: Duration,
) -> Updates<LogPage, SubscribeError> {
    let feed = LogFeed {
        next: from.unwrap_or(Slot::ZERO),
        may_begin_later: from.is_none(),
    };
    follow::follow(directory, feed, timeout)
}

struct LogFeed {
    next: Slot,
    /// Nothing is reported yet, and the caller wants the oldest kept slot.
    may_begin_later: bool,
}

impl FollowedContent for LogFeed {
    type Response = SubscribeResponse;
    type Page = LogPage;

    async fn open(
        &self,
        mut client: LearnerClient<Channel>,
    ) -> Result<Response<Streaming<SubscribeResponse>>, Status> {
        let from = self.next.get();
        client.subscribe(SubscribeRequest { from }).await
    }

    fn take(&mut self, response: SubscribeResponse) -> Result<LogPage, Cause> {
        let page = continue_from(self.next, response)?;
        self.next = page.next;
        self.may_begin_later = false;
        Ok(page)
    }

    fn begin_later(&mut self, kept: KeptSlots) -> bool {
        if self.may_begin_later {
            self.next = self.next.max(kept.from);
        }
        self.may_begin_later
    }
}

/// Takes from a response the records from `next` on: drops already reported records, refuses a gap.
fn continue_from(next: Slot, response: SubscribeResponse) -> Result<LogPage, Cause> {
    let mut expected = next;
    let mut records = Vec::with_capacity(response.records.len());
    let messages = response.records.into_iter();
    for message in messages.filter(|message| message.slot >= next.get()) {
        if message.slot != expected.get() {
            return Err(Cause::unavailable(format!(
                "the learner sent slot {} where {expected} follows",
                message.slot
            )));
        }
        records.push(LogRecord::new(expected, message));
        expected = expected.next();
    }
    Ok(LogPage {
        records,
        next: expected,
    })
}

#[cfg(test)]
mod tests {
    use paxos_proto::v1;
    use paxos_test_values::slot;

    use super::*;

    fn response(slots: &[u64]) -> SubscribeResponse {
        let records = slots
            .iter()
            .map(|&slot| v1::LogRecord {
                slot,
                ..v1::LogRecord::default()
            })
            .collect();
        SubscribeResponse {
            records,
            next: slots.last().map_or(0, |slot| slot + 1),
        }
    }

    #[test]
    fn response_continues_where_the_last_ended() {
        let page = continue_from(slot(3), response(&[1, 2, 3, 4])).unwrap();
        assert_eq!(
            page.records
                .iter()
                .map(|record| record.slot().get())
                .collect::<Vec<_>>(),
            [3, 4]
        );
        assert_eq!(page.next, slot(5));
        assert_eq!(continue_from(slot(5), response(&[])).unwrap().next, slot(5));
    }

    #[test]
    fn learner_that_leaves_a_gap_is_not_believed() {
        assert!(continue_from(slot(3), response(&[4])).is_err());
        assert!(continue_from(slot(3), response(&[3, 5])).is_err());
    }
}
