//! Damaged rows: a slow read of everything finds them before they are needed.

use std::{sync::Arc, time::Duration};

use paxos_common::{exit::Failure, paxos::slot::Slot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    shared::Shared,
    store::{Page, Reader},
};

/// Between two pages: at most some megabytes a second, which no disk notices.
const PAGE_PAUSE: Duration = Duration::from_millis(100);
/// Between two reads of everything. The first begins at start, after whatever ended the process before.
const PASS_PAUSE: Duration = Duration::from_hours(1);

/// Reads everything, over and over, slowly, until `stop`.
///
/// # Errors
/// The file itself is damaged, beyond what the repair of rows can make up for.
pub(crate) async fn scrub<R: Reader>(
    reader: R,
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut from = Slot::ZERO;
    let work = async {
        loop {
            let pause = match reader.page(from).await {
                Ok(page) => {
                    if let Some(slots) = damaged(&page) {
                        // An error means that the worker has ended, which ends the process.
                        drop(shared.damage.send(slots).await);
                    }
                    from = if page.last { Slot::ZERO } else { page.next };
                    if page.last { PASS_PAUSE } else { PAGE_PAUSE }
                }
                Err(error) if error.is_damage() => {
                    return Err(Failure::storage(error).context("read all rows"));
                }
                Err(error) => {
                    error!(%error, slot = from.get(), "cannot read the rows from here on; trying again later");
                    PASS_PAUSE
                }
            };
            sleep(pause).await;
        }
    };
    // Safe to cancel: it only reads.
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

/// The slots of a page whose rows are unknown, if there are any.
pub(crate) fn damaged(page: &Page) -> Option<Vec<Slot>> {
    let damaged = page.rows.iter().filter(|row| row.accepted.is_none());
    let slots: Vec<_> = damaged.map(|row| row.slot).collect();
    (!slots.is_empty()).then_some(slots)
}
