//! Damaged rows: a slow background read of all rows finds damage before a row is needed.

use std::{sync::Arc, time::Duration};

use paxos_common::{paxos::slot::Slot, service::failure::Failure};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    shared::Shared,
    store::{DiskPage, Reader},
};

/// Pause between two pages: limits the scrub to some megabytes a second, a negligible load for any disk.
const PAGE_PAUSE: Duration = Duration::from_millis(100);
/// Pause between two passes over all rows. The first pass begins at start, after any kind of end of the last process.
const PASS_PAUSE: Duration = Duration::from_hours(1);

/// Reads all rows repeatedly and slowly, until `stop`.
///
/// # Errors
/// The file itself is damaged, beyond the repair of rows.
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
                        // An error means: the worker has ended, and the process ends with the worker.
                        drop(shared.damage.send(slots).await);
                    }
                    from = if page.last { Slot::ZERO } else { page.next };
                    if page.last { PASS_PAUSE } else { PAGE_PAUSE }
                }
                Err(error) if error.is_damage() => {
                    return Err(Failure::storage(error).context("read all rows"));
                }
                Err(error) => {
                    error!(%error, slot = from.get(), "cannot read the rows from this slot on; trying again later");
                    PASS_PAUSE
                }
            };
            sleep(pause).await;
        }
    };
    // Safe to cancel: only reads.
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

/// The slots of a page's unknown rows, if any.
pub(crate) fn damaged(page: &DiskPage) -> Option<Vec<Slot>> {
    let damaged = page.rows.iter().filter(|row| row.accepted.is_none());
    let slots: Vec<_> = damaged.map(|row| row.slot).collect();
    (!slots.is_empty()).then_some(slots)
}
