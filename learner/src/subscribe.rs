//! Reads the log for one subscriber: short reads of applied slots, then waiting for more. A slow subscriber holds a
//! page and slows no other subscriber.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use paxos_common::{paxos::slot::Slot, service::server::Room};
use tokio::{
    sync::watch,
    time::{error::Elapsed, timeout},
};

use crate::{
    history::History, progress::Progress, recent::PAGE_BYTES_MAX, record::Record, store::LogReadError,
};

/// Longest time between two progress reports to an idle subscriber.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(900);

/// Consecutive slots; an empty page reports progress only.
#[derive(Debug)]
pub(crate) struct RecordPage {
    pub(crate) records: Vec<Arc<Record>>,
    /// The first slot after the records.
    pub(crate) next: Slot,
}

/// The log from `from` on, in slot order and without gaps, for as long as the learner runs; ends after an error. The
/// first page comes at once, and is empty if there is nothing to read yet. A large page is read once `room` has its bytes. While there is no room, an empty page follows a large page, so that
/// the encoder releases its buffer.
pub(crate) fn pages(
    history: History,
    mut applied: watch::Receiver<Progress>,
    from: Slot,
    room: Room,
) -> impl Stream<Item = Result<RecordPage, LogReadError>> + Send {
    async_stream::try_stream! {
        let mut next = from;
        // The last page was large, and no page has followed.
        let mut is_held = false;
        // The first page comes at once: a subscriber leaves a learner that stays silent.
        let mut patience = Duration::ZERO;
        loop {
            match timeout(std::mem::replace(&mut patience, PROGRESS_INTERVAL), applied_beyond(&mut applied, next)).await {
                Ok(Ok(())) => {}
                // The applier is gone: the learner stops.
                Ok(Err(_)) => break,
                Err(Elapsed { .. }) => {
                    is_held = false;
                    yield RecordPage { records: Vec::new(), next };
                    continue;
                }
            }
            let records = match history.recent(next).filter(|page| Room::is_free(page_bytes(page))) {
                Some(records) => records,
                None => {
                    if !room.take_now(PAGE_BYTES_MAX) {
                        if std::mem::take(&mut is_held) {
                            yield RecordPage { records: Vec::new(), next };
                        }
                        room.take(PAGE_BYTES_MAX).await;
                    }
                    history.page(next).await?
                }
            };
            is_held = !Room::is_free(page_bytes(&records));
            next = next.plus(records.len() as u64);
            yield RecordPage { records, next };
        }
    }
}

/// Upper bound, in bytes, of the encoded size of a page; little more than the actual size.
fn page_bytes(records: &[Arc<Record>]) -> usize {
    records.iter().map(|record| record.encoded_bytes_max()).sum()
}

/// Waits until `slot` is applied.
///
/// # Errors
/// The applier is gone: the learner stops.
///
/// # Cancel safety
/// Safe: the function only waits.
pub(crate) async fn applied_beyond(
    applied: &mut watch::Receiver<Progress>,
    slot: Slot,
) -> Result<(), watch::error::RecvError> {
    applied
        .wait_for(|progress| progress.applied_to() > slot)
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt as _, StreamExt as _};
    use paxos_common::paxos::{identity::ClusterId, value::Value};

    use super::*;
    use crate::{knowledge::Knowledge, progress::Mark, store::testing::open};

    #[tokio::test]
    async fn large_page_is_followed_by_an_empty_one_while_there_is_no_room() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterId::from_bytes([1; 16]);
        let found = open(directory.path(), cluster).await.unwrap();
        let knowledge = Knowledge::new(found.machine);
        let to = Slot::new(3).unwrap();
        for slot in Slot::ZERO.to(to) {
            let value = Value::from_stored(vec![1; PAGE_BYTES_MAX].into(), Default::default());
            knowledge.apply(slot, value, Vec::new(), &[]);
        }
        let mark = Mark {
            to,
            ..Mark::default()
        };
        let (_applied, applied) = watch::channel(Progress::recovered(mark, Default::default()));
        let knowledge = Arc::new(knowledge);
        let history = History::new(&knowledge, found.log);
        let [room, other] = Room::of_pool(PAGE_BYTES_MAX);
        let mut pages = pin!(pages(history, applied, Slot::ZERO, room.clone()));
        let mut shown = async || -> Option<(usize, u64)> {
            let page = pages.next().now_or_never()?.unwrap().unwrap();
            Some((page.records.len(), page.next.get()))
        };
        for next in 1..=2 {
            assert_eq!(shown().await, Some((1, next)));
            // The page is handed over, and another call takes the room.
            room.give_back();
            assert!(other.take_now(PAGE_BYTES_MAX));
            assert_eq!([shown().await, shown().await], [Some((0, next)), None]);
            other.give_back();
        }
        assert_eq!(shown().await, Some((1, 3)));
    }

    #[tokio::test]
    async fn first_page_of_an_idle_log_comes_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterId::from_bytes([1; 16]);
        let found = open(directory.path(), cluster).await.unwrap();
        let knowledge = Arc::new(Knowledge::new(found.machine));
        let history = History::new(&knowledge, found.log);
        let (_applied, applied) = watch::channel(Progress::recovered(Mark::default(), Default::default()));
        let [room, _] = Room::of_pool(PAGE_BYTES_MAX);
        let mut pages = pin!(pages(history, applied, Slot::ZERO, room));
        // Far below the interval of progress reports.
        let first = timeout(PROGRESS_INTERVAL / 3, pages.next()).await.unwrap();
        assert_eq!(first.unwrap().unwrap().records.len(), 0);
    }
}
