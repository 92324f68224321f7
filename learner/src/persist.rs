//! Brings what is applied to disk, behind the applier: as much in each transaction as came meanwhile.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    exit::Failure,
    sqlite::foreign_lock::{LockReport, is_locked},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{apply::Portion, knowledge::Knowledge, metrics::Instruments, store::Store};

/// How often the length of the write-ahead log is looked at when nothing is written.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Writes until the sender is gone, then closes the store.
///
/// # Errors
/// The store failed; nothing is written after that.
///
/// # Cancel safety
/// Not safe: the store's commit is not.
pub(crate) async fn run(
    mut store: Store,
    knowledge: Arc<Knowledge>,
    mut portions: mpsc::Receiver<Portion>,
    instruments: Instruments,
) -> Result<(), Failure> {
    let mut lock = LockReport::new(store.path());
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let received = tokio::select! {
            // Cancel safe: a portion that is not received stays in the queue.
            received = portions.recv() => Some(received),
            // Cancel safe: a tick that is not returned is returned next time.
            _ = ticks.tick() => None,
        };
        match received {
            Some(Some(portion)) => {
                let failed = |error| Failure::storage(error).context("write what is applied");
                while let Err(error) = store.begin().await {
                    if !is_locked(&error) {
                        return Err(failed(error));
                    }
                    lock.held();
                    if portions.is_closed() {
                        // The learner stops. What is not written is learned again.
                        return Ok(());
                    }
                }
                lock.free();
                store.commit(&portion).await.map_err(failed)?;
                knowledge.made_durable(portion.progress.applied_to());
            }
            Some(None) => break,
            None => {}
        }
        let kept = store.keep_wal_short().await;
        kept.map_err(|error| Failure::storage(error).context("empty the write-ahead log"))?;
        instruments.wal(store.wal_bytes());
    }
    store
        .close()
        .await
        .map_err(|error| Failure::storage(error).context("close the store"))
}
