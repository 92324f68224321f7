//! Writes applied slots to disk, behind the applier: each transaction takes everything applied meanwhile. Records snapshot
//! files, and deletes the slots below the learned log, between transactions.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use paxos_common::{paxos::slot::Slot, service::failure::Failure, sqlite::foreign_lock::LockReport};
use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    disk::{DiskSpace, RETRY_PAUSE},
    knowledge::Knowledge,
    log_growth::LogGrowth,
    metrics::Instruments,
    snapshot_file::RecordOrder,
    store::{Store, StoreWriteError, SweptRows, Transaction},
};

/// Time between checks of a long write-ahead log while nothing is written, and between attempts to sweep after a failed
/// attempt.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The owner of the store.
pub(crate) struct Writer {
    store: Store,
    knowledge: Arc<Knowledge>,
    instruments: Instruments,
    disk: Arc<DiskSpace>,
    file: PathBuf,
    lock: LockReport,
    sweep: SweepShare,
    growth: Arc<LogGrowth>,
    /// Waits for the slots below its end, or for space on the disk.
    record: Option<RecordOrder>,
}

/// What the writer receives.
pub(crate) struct WriterInputs {
    pub(crate) transactions: mpsc::Receiver<Transaction>,
    /// The first slot of the learned log.
    pub(crate) bound: watch::Receiver<Slot>,
    pub(crate) records: mpsc::Receiver<RecordOrder>,
}

/// Shares the writer's time: at least as many rows are deleted as written, so the file of a busy learner does not grow;
/// and a transaction waits for few deletions.
#[derive(Debug, Default)]
struct SweepShare {
    /// Rows below the learned log may be left.
    has_rows: bool,
    /// No sweep until the next look, after a failed attempt.
    is_paused: bool,
    /// Rows to delete before the next transaction.
    owed: usize,
}

impl SweepShare {
    fn is_due(&self) -> bool {
        self.has_rows && !self.is_paused
    }

    fn begin(&mut self) {
        self.has_rows = true;
    }

    fn wrote(&mut self, rows: usize) {
        if self.is_due() {
            self.owed = rows;
        }
    }

    fn swept(&mut self, rows: usize, more: bool) {
        self.has_rows = more;
        self.owed = if more { self.owed.saturating_sub(rows) } else { 0 };
    }

    fn pause(&mut self) {
        self.is_paused = true;
        self.owed = 0;
    }

    fn resume(&mut self) {
        self.is_paused = false;
    }
}

impl Writer {
    /// A writer to this store.
    pub(crate) fn new(
        store: Store,
        knowledge: Arc<Knowledge>,
        instruments: Instruments,
        disk: Arc<DiskSpace>,
        growth: Arc<LogGrowth>,
    ) -> Self {
        let file = store.path().to_owned();
        Self {
            lock: LockReport::new(&file),
            store,
            knowledge,
            instruments,
            disk,
            file,
            // An earlier run may have left rows.
            sweep: SweepShare {
                has_rows: true,
                ..SweepShare::default()
            },
            growth,
            record: None,
        }
    }

    /// Writes until the sender is gone, then closes the store. Waits while the disk is full or another process holds a
    /// lock on the file. The learned log begins at `bound`, as far as the slots below are written.
    ///
    /// # Errors
    /// The store failed; nothing is written after the failure.
    ///
    /// # Cancel safety
    /// Not safe, because the store's commit is not safe.
    pub(crate) async fn run(mut self, inputs: WriterInputs) -> Result<(), Failure> {
        let WriterInputs {
            mut transactions,
            mut bound,
            mut records,
        } = inputs;
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = true;
        loop {
            tokio::select! {
                // Cancel safe: a transaction not received stays in the queue.
                received = transactions.recv(), if self.sweep.owed == 0 => {
                    let Some(transaction) = received else { break };
                    if !self.write(&transaction, &transactions).await? {
                        return Ok(());
                    }
                }
                // Cancel safe: a record not received stays in the queue.
                Some(record) = records.recv(), if self.record.is_none() => self.record = Some(record),
                // Only waits. An error means the end of this process.
                Ok(()) = bound.changed() => {}
                // Cancel safe: a tick not returned now is returned next time.
                _ = ticks.tick(), if looks => self.sweep.resume(),
                // Ready at once.
                () = std::future::ready(()), if self.sweep.is_due() => self.sweep().await?,
            }
            let bound = *bound.borrow_and_update();
            self.raise(bound).await?;
            self.record_snapshot().await?;
            self.keep_wal_short().await?;
            looks = self.store.is_wal_long() || self.sweep.is_paused || self.record.is_some();
        }
        self.close().await
    }

    /// Writes a transaction, at the latest when there is space again. Returns `false` if the learner stops before:
    /// unwritten slots are learned again.
    async fn write(
        &mut self,
        transaction: &Transaction,
        transactions: &mpsc::Receiver<Transaction>,
    ) -> Result<bool, Failure> {
        while let Err(error) = self.store.write(transaction).await {
            let is_full = matches!(error, StoreWriteError::NoSpace);
            self.can_wait(error, "write what is applied to")?;
            // SQLite has waited for the lock.
            if is_full {
                sleep(RETRY_PAUSE).await;
            }
            if transactions.is_closed() {
                return Ok(false);
            }
        }
        self.succeeded();
        self.sweep.wrote(transaction.records.len());
        self.growth.wrote(transaction.log_bytes());
        self.knowledge.made_durable(transaction.progress.applied_to());
        Ok(true)
    }

    /// Lets the learned log begin at `bound`, if the log begins lower.
    async fn raise(&mut self, bound: Slot) -> Result<(), Failure> {
        if self.sweep.is_paused {
            return Ok(());
        }
        match self.store.keep_from(bound).await {
            Ok(true) => {
                self.succeeded();
                self.sweep.begin();
            }
            Ok(false) => {}
            Err(error) => {
                self.can_wait(error, "raise the first slot of the log in")?;
                self.sweep.pause();
            }
        }
        Ok(())
    }

    /// Records a snapshot file once every slot below its end is written.
    async fn record_snapshot(&mut self) -> Result<(), Failure> {
        let written_to = self.store.written_to();
        let Some(record) = self.record.take_if(|record| record.snapshot.to <= written_to) else {
            return Ok(());
        };
        if let Err(error) = self.store.record_snapshot(record.snapshot).await {
            self.can_wait(error, "record a snapshot in")?;
            // Tried again at the next look.
            self.record = Some(record);
            return Ok(());
        }
        self.succeeded();
        self.growth.recorded(record.covered, record.snapshot.bytes);
        // Rows below the snapshot may go now.
        self.sweep.begin();
        // The maker may have stopped.
        let _ = record.answer.send(());
        Ok(())
    }

    async fn sweep(&mut self) -> Result<(), Failure> {
        match self.store.sweep().await {
            Ok(SweptRows { rows, more }) => {
                self.succeeded();
                self.sweep.swept(rows, more);
            }
            Err(error) => {
                self.can_wait(error, "delete old slots from")?;
                self.sweep.pause();
            }
        }
        Ok(())
    }

    async fn keep_wal_short(&mut self) -> Result<(), Failure> {
        match self.store.keep_wal_short().await {
            // Without space the log keeps its length, and the next write detects the full disk.
            Ok(()) | Err(StoreWriteError::NoSpace | StoreWriteError::Locked) => {}
            Err(error) => return Err(self.failed(error, "empty the write-ahead log of")),
        }
        self.instruments.wal(self.store.wal_bytes());
        Ok(())
    }

    async fn close(self) -> Result<(), Failure> {
        match self.store.close().await {
            // The next start empties the log.
            Ok(()) | Err(StoreWriteError::NoSpace | StoreWriteError::Locked) => Ok(()),
            Err(error) => Err(failed(error, "close", &self.file)),
        }
    }

    /// Reports a successful write.
    fn succeeded(&mut self) {
        self.lock.free();
        self.disk.has_space();
    }

    /// Reports a failed write that succeeds later.
    ///
    /// # Errors
    /// Waiting does not help.
    fn can_wait(&mut self, error: StoreWriteError, what: &str) -> Result<(), Failure> {
        match error {
            StoreWriteError::Locked => self.lock.held(),
            StoreWriteError::NoSpace => self.disk.is_full(&self.file),
            error
            @ (StoreWriteError::Damaged(_) | StoreWriteError::Failed(_) | StoreWriteError::Other(_)) => {
                return Err(self.failed(error, what));
            }
        }
        Ok(())
    }

    fn failed(&self, error: StoreWriteError, what: &str) -> Failure {
        failed(error, what, &self.file)
    }
}

fn failed(error: StoreWriteError, what: &str, file: &Path) -> Failure {
    Failure::storage(error).context(format!("{what} {}", file.display()))
}

#[cfg(test)]
mod tests;
