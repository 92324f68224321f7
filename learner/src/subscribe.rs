//! Reads the log for one subscriber: short reads of what is there, then waiting for more. A slow subscriber holds
//! one page and slows nobody else.

use std::{sync::Arc, time::Duration};

use futures::Stream;
use paxos_common::{paxos::slot::Slot, server::Room};
use tokio::{
    sync::watch,
    time::{error::Elapsed, timeout},
};

use crate::{
    history::{History, PAGE_BYTES_MAX, Record},
    progress::Progress,
    store::ReadError,
};

/// An idle subscriber hears how far it is at least so often.
pub(crate) const PROGRESS_INTERVAL: Duration = Duration::from_millis(900);

/// Consecutive slots; none: progress only.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Arc<Record>>,
    /// The first slot after them.
    pub(crate) next: Slot,
}

/// The log from `from` on, in slot order and without gaps, for as long as the learner runs; ends after an error. A large
/// page is read once `room` has its bytes.
pub(crate) fn pages(
    history: History,
    mut applied: watch::Receiver<Progress>,
    from: Slot,
    room: Room,
) -> impl Stream<Item = Result<Page, ReadError>> + Send {
    async_stream::try_stream! {
        let mut next = from;
        loop {
            match timeout(PROGRESS_INTERVAL, applied_beyond(&mut applied, next)).await {
                Ok(Ok(())) => {}
                // The applier is gone: the learner stops.
                Ok(Err(_)) => break,
                Err(Elapsed { .. }) => {
                    yield Page { records: Vec::new(), next };
                    continue;
                }
            }
            let records = match history.recent(next).filter(|page| Room::is_free(page_bytes(page))) {
                Some(records) => records,
                None => {
                    room.take(PAGE_BYTES_MAX).await;
                    history.page(next).await?
                }
            };
            next = next.plus(records.len() as u64);
            yield Page { records, next };
        }
    }
}

/// Bytes of a page when it is encoded; never less, and little more.
fn page_bytes(records: &[Arc<Record>]) -> usize {
    records.iter().map(|record| record.encoded_bytes_max()).sum()
}

/// Waits until `slot` is applied.
///
/// # Errors
/// The applier is gone: the learner stops.
///
/// # Cancel safety
/// Safe: it only waits.
pub(crate) async fn applied_beyond(
    applied: &mut watch::Receiver<Progress>,
    slot: Slot,
) -> Result<(), watch::error::RecvError> {
    applied
        .wait_for(|progress| progress.applied_to() > slot)
        .await
        .map(drop)
}
