//! Reads the log for one subscriber: short reads of what is there, then waiting for more. A slow subscriber holds
//! one page and slows nobody else.

use std::time::Duration;

use futures::Stream;
use paxos_common::paxos::{slot::Slot, value::Value};
use tokio::{
    sync::watch,
    time::{error::Elapsed, timeout},
};

use crate::{
    apply::State,
    store::{Log, ReadError},
};

/// An idle subscriber hears how far it is at least so often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(900);

/// Consecutive slots; none: progress only.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<(Slot, Value)>,
    /// The first slot after them.
    pub(crate) next: Slot,
}

/// The log from `from` on, in slot order and without gaps, for as long as the learner runs; ends after an error.
pub(crate) fn pages(
    log: Log,
    mut applied: watch::Receiver<State>,
    from: Slot,
) -> impl Stream<Item = Result<Page, ReadError>> + Send {
    async_stream::try_stream! {
        let mut next = from;
        loop {
            let applied_to = match timeout(PROGRESS_INTERVAL, applied_beyond(&mut applied, next)).await {
                Ok(Ok(applied_to)) => applied_to,
                // The applier is gone: the learner stops.
                Ok(Err(_)) => break,
                Err(Elapsed { .. }) => {
                    yield Page { records: Vec::new(), next };
                    continue;
                }
            };
            let records = log.page(next, applied_to).await?;
            next = next.plus(records.len() as u64);
            yield Page { records, next };
        }
    }
}

/// Waits until `slot` is applied; tells how far the log then goes.
async fn applied_beyond(
    applied: &mut watch::Receiver<State>,
    slot: Slot,
) -> Result<Slot, watch::error::RecvError> {
    let state = applied.wait_for(|state| state.applied_to() > slot).await?;
    Ok(state.applied_to())
}
