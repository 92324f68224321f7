//! Writes applied slots to disk, behind the applier: each transaction takes everything applied meanwhile.

use std::{sync::Arc, time::Duration};

use paxos_common::{service::failure::Failure, sqlite::foreign_lock::LockReport};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    disk::{DiskSpace, RETRY_PAUSE},
    knowledge::Knowledge,
    metrics::Instruments,
    store::{Store, StoreWriteError, Transaction},
};

/// Time between checks of a long write-ahead log while nothing is written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Writes until the sender is gone, then closes the store. Waits while the disk is full or another process holds a lock
/// on the file.
///
/// # Errors
/// The store failed; nothing is written after the failure.
///
/// # Cancel safety
/// Not safe, because the store's commit is not safe.
pub(crate) async fn run(
    mut store: Store,
    knowledge: Arc<Knowledge>,
    mut transactions: mpsc::Receiver<Transaction>,
    instruments: Instruments,
    disk: Arc<DiskSpace>,
) -> Result<(), Failure> {
    let file = store.path().to_owned();
    let failed = |error: StoreWriteError, what: &str| {
        Failure::storage(error).context(format!("{what} {}", file.display()))
    };
    let mut lock = LockReport::new(&file);
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = true;
    loop {
        let received = tokio::select! {
            // Cancel safe: a transaction not received stays in the queue.
            received = transactions.recv() => Some(received),
            // Cancel safe: a tick not returned now is returned next time.
            _ = ticks.tick(), if looks => None,
        };
        match received {
            Some(Some(transaction)) => {
                while let Err(error) = store.write(&transaction).await {
                    match error {
                        // The busy timeout has passed meanwhile, so this loop does not spin.
                        StoreWriteError::Locked => lock.held(),
                        StoreWriteError::NoSpace => {
                            disk.is_full(&file);
                            sleep(RETRY_PAUSE).await;
                        }
                        error @ (StoreWriteError::Damaged(_)
                        | StoreWriteError::Failed(_)
                        | StoreWriteError::Other(_)) => {
                            return Err(failed(error, "write what is applied to"));
                        }
                    }
                    if transactions.is_closed() {
                        // The learner stops. Unwritten slots are learned again.
                        return Ok(());
                    }
                }
                lock.free();
                disk.has_space();
                knowledge.made_durable(transaction.progress.applied_to());
            }
            Some(None) => break,
            None => {}
        }
        match store.keep_wal_short().await {
            // Without space the log keeps its length, and the next write detects the full disk.
            Ok(()) | Err(StoreWriteError::NoSpace | StoreWriteError::Locked) => {}
            Err(error) => return Err(failed(error, "empty the write-ahead log of")),
        }
        looks = store.is_wal_long();
        instruments.wal(store.wal_bytes());
    }
    match store.close().await {
        // The next start empties the log.
        Ok(()) | Err(StoreWriteError::NoSpace | StoreWriteError::Locked) => Ok(()),
        Err(error) => Err(failed(error, "close")),
    }
}
