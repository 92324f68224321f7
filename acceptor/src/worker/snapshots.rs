//! Changes of the recorded snapshots, carried out between two groups: records of files, and trims to the end of a file.

use std::{ops::ControlFlow, time::Instant};

use paxos_common::{
    paxos::{
        acceptor::{Acceptor, Group, Seed, SeedUse, TrimRefusal},
        slot::Slot,
    },
    service::failure::Failure,
    sqlite::foreign_lock::LockReport,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Worker;
use crate::{
    snapshot_change::{ChangeOutcome, ForgetReason, SnapshotChange, SnapshotUnchanged},
    store::{
        Store, StoreError,
        snapshots::{KeptSnapshot, LOG_BYTES_UNKNOWN, SnapshotId},
    },
};

/// A trim by the core: within the cap, or to the recorded snapshot.
type CoreTrim = fn(&Acceptor, &mut Group, Slot) -> Result<(), TrimRefusal>;

impl<S: Store> Worker<S> {
    /// Carries out a change, or refuses the change. Breaks when the stop begins while another process's lock holds up
    /// the write.
    ///
    /// # Errors
    /// A failed write or read.
    pub(super) async fn change_snapshots(
        &mut self,
        change: SnapshotChange,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<()>, Failure> {
        self.look_for_space().await;
        let (result, answer) = match change {
            SnapshotChange::Keep { id, answer } => (self.keep(id, stop).await?, answer),
            SnapshotChange::Seed { id, seed, answer } => (self.keep_seed(id, seed, stop).await?, answer),
            SnapshotChange::Trim { id, answer } => (self.trim(id, stop).await?, answer),
            SnapshotChange::Forget { id, reason, answer } => (self.forget(id, reason, stop).await?, answer),
        };
        Ok(match result {
            ControlFlow::Continue(result) => {
                // An error means: the sender does not wait any more. The next start removes files without a record.
                let _ = answer.send(result);
                ControlFlow::Continue(())
            }
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    async fn keep(
        &mut self,
        id: SnapshotId,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<(), ChangeOutcome>, Failure> {
        if let Err(refusal) = self.may_trim(id.to, Acceptor::trim) {
            return Ok(ControlFlow::Continue(Err(refusal)));
        }
        self.replace_waiting(id, stop).await
    }

    /// Records the seed as the waiting snapshot: the commit that forms the cluster makes the seed the bottom.
    async fn keep_seed(
        &mut self,
        id: SnapshotId,
        seed: Seed,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<(), ChangeOutcome>, Failure> {
        if !self.space.allows_requests() {
            return Ok(ControlFlow::Continue(Err(SnapshotUnchanged::NoSpace)));
        }
        match self.core.membership().take_seed(seed) {
            Ok(SeedUse::Keep) => {}
            Ok(SeedUse::Nothing) => return Ok(ControlFlow::Continue(Ok(Some(id)))),
            Err(refusal) => return Ok(ControlFlow::Continue(Err(refusal.into()))),
        }
        let replaced = self.replace_waiting(id, stop).await?;
        if replaced.is_continue() {
            self.core.seeded(seed);
            self.shared.publish(&self.core);
            info!(cluster = %seed.cluster, base = seed.base.get(), "keeps the seed of a restored cluster");
        }
        Ok(replaced)
    }

    /// Records the waiting snapshot. Returns the file of the earlier waiting snapshot.
    async fn replace_waiting(
        &mut self,
        id: SnapshotId,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<(), ChangeOutcome>, Failure> {
        self.measure_file().await;
        let snapshot = KeptSnapshot {
            id,
            log_bytes: self.metrics.log_bytes().unwrap_or(LOG_BYTES_UNKNOWN),
        };
        let before = self.store.snapshots().waiting;
        if self.record(Some(snapshot), stop).await?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let before = before.map(|before| before.id);
        let unused = before.filter(|before| before.file_name() != id.file_name());
        Ok(ControlFlow::Continue(Ok(unused)))
    }

    async fn forget(
        &mut self,
        id: SnapshotId,
        reason: ForgetReason,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<(), ChangeOutcome>, Failure> {
        if !self.space.allows_trims() {
            return Ok(ControlFlow::Continue(Err(SnapshotUnchanged::NoSpace)));
        }
        // Before the cluster is formed, the waiting snapshot is a seed, and no suspect.
        let waiting = self.store.snapshots().waiting;
        let waiting = waiting.filter(|_| self.core.formed_cluster().is_some());
        if waiting.is_none_or(|waiting| waiting.id != id) {
            return Ok(ControlFlow::Continue(Err(SnapshotUnchanged::NotWaiting(id.to))));
        }
        if reason == ForgetReason::AboveCap && id.to <= self.core.trim_cap() {
            return Ok(ControlFlow::Continue(Err(SnapshotUnchanged::BelowCap(id.to))));
        }
        if self.record(None, stop).await?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(Ok(Some(id))))
    }

    /// Records the waiting snapshot, or that no snapshot waits, and shows the records. Breaks when the stop begins while
    /// another process's lock holds up the write.
    async fn record(
        &mut self,
        waiting: Option<KeptSnapshot>,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<()>, Failure> {
        let mut lock = LockReport::new(self.store.file());
        loop {
            let written = match waiting {
                Some(snapshot) => self.store.keep(snapshot).await,
                None => self.store.forget().await,
            };
            match written {
                Ok(()) => break,
                Err(StoreError::LockedByOther(_)) if !stop.is_cancelled() => lock.held(),
                Err(StoreError::LockedByOther(_)) => return Ok(ControlFlow::Break(())),
                Err(error) => {
                    let file = self.store.file().display();
                    return Err(Failure::from(error).context(format!("record a snapshot in {file}")));
                }
            }
        }
        lock.free();
        self.shared.show_snapshots(self.store.snapshots());
        Ok(ControlFlow::Continue(()))
    }

    async fn trim(
        &mut self,
        id: SnapshotId,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<(), ChangeOutcome>, Failure> {
        let before = self.store.snapshots();
        if before.waiting.is_none_or(|waiting| waiting.id != id) {
            return Ok(ControlFlow::Continue(Err(SnapshotUnchanged::NotWaiting(id.to))));
        }
        // Without space, no leader may be left to repeat its claim: then the record stands for the claim. Before the cluster
        // is formed, the record is a seed, and stands for no claim.
        let stands_for_claim = !self.space.allows_requests() && self.core.formed_cluster().is_some();
        let trim = if stands_for_claim {
            Acceptor::trim_to_recorded
        } else {
            Acceptor::trim
        };
        let group = match self.may_trim(id.to, trim) {
            Ok(group) => group,
            Err(refusal) => return Ok(ControlFlow::Continue(Err(refusal))),
        };
        if self.commit(&group, stop).await?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let from = self.core.trimmed_to();
        self.core.committed(group);
        // First: no look may count unswept rows as the log above the new bottom.
        self.shared.show_sweep(true);
        self.shared.show_snapshots(self.store.snapshots());
        self.shared.publish(&self.core);
        self.sweep.begin(Instant::now());
        info!(
            from = from.get(),
            to = id.to.get(),
            "trimmed the log to the end of a snapshot"
        );
        Ok(ControlFlow::Continue(Ok(before.bottom.map(|bottom| bottom.id))))
    }

    /// The group of a trim to `to` and of nothing else.
    fn may_trim(&self, to: Slot, trim: CoreTrim) -> Result<Group, SnapshotUnchanged> {
        if !self.space.allows_trims() {
            return Err(SnapshotUnchanged::NoSpace);
        }
        let mut group = self.core.group();
        trim(&self.core, &mut group, to)?;
        Ok(group)
    }
}
