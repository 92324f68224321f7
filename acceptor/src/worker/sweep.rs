//! Deletes trimmed rows, some at a time, between two groups.

use std::time::Instant;

use paxos_common::service::failure::Failure;

use super::Worker;
use crate::{
    store::{Store, StoreError},
    sweep::unswept_bytes,
    trim_policy::step,
};

impl<S: Store> Worker<S> {
    /// Time of the next sweep; none while there is nothing to sweep, or no space for a write.
    pub(super) fn sweep_due(&self) -> Option<Instant> {
        self.sweep.due().filter(|_| self.space.allows_trims())
    }

    /// Deletes some trimmed rows. While another process holds a lock on the file, the rows wait.
    ///
    /// # Errors
    /// A failed write.
    pub(super) async fn sweep(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        let trimmed_to = self.core.trimmed_to();
        let left = match self.store.sweep().await {
            Ok(swept) => swept.next,
            Err(StoreError::LockedByOther(_)) => Some(trimmed_to),
            Err(error) => {
                let file = self.store.file().display();
                return Err(Failure::from(error).context(format!("delete trimmed rows from {file}")));
            }
        };
        self.keep_wal_short().await?;
        let log_bytes = self.measure_file().await.used;
        let voted_to = self.core.voted_to();
        let unswept = left.map(|lowest| unswept_bytes(log_bytes, lowest, trimmed_to, voted_to));
        let step = step(self.retain_bytes, &self.store.snapshots());
        self.sweep.swept(begun, Instant::now(), unswept, step);
        self.shared.show_sweep(self.sweep.due().is_some());
        Ok(())
    }
}
