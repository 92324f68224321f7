//! The single task that decides and writes: sole owner of the core and the store.
//!
//! The worker takes all waiting requests from the queue, decides the requests as a group, and makes the group durable
//! in one commit. Then it takes the group into memory, shows the group to readers, and only then releases the answers.
//! Observers get the group last: a client waits for the answers to the leader. A group without durable changes
//! (heartbeats, rejections) takes the same path without the commit. So an answer of the worker always speaks for a disk
//! that was not stuck. After a failed commit no request is answered, and the process ends. Between two groups, the worker
//! also records snapshots, trims the log, and deletes trimmed rows. While too little space is left, nothing is granted.
//! While another process holds a lock on the file, the commit and every answer wait. Hearing the leader does not depend
//! on this task: see [`Hearing`](crate::hearing::Hearing).

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::{
        acceptor::{Acceptor, Group, HeldRow},
        ballot::Ballot,
        identity::RunNumber,
        message::AcceptAnswer,
        slot::Slot,
    },
    service::failure::Failure,
    sqlite::foreign_lock::LockReport,
    trace::Tracer,
};
use tokio::{sync::mpsc, time::sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    metrics::Instruments,
    queue::WorkerQueue,
    request::{FormStep, NoSpace, Release, TakenRequest},
    shared::Shared,
    snapshot_change::{SNAPSHOT_CHANGES_MAX, SnapshotChange},
    store::{FileBytes, Reader as _, RecoveredRun, SpaceLevel, Store, StoreError},
    sweep::SweepPace,
    trace,
    trim_policy::RetainBytes,
};

mod snapshots;
mod sweep;

/// Maximum number of damage reports waiting for the worker. A report without room is lost, and the next reader of the
/// rows reports again.
const DAMAGE_MAX: usize = 16;
/// Interval of checks of the disk's free space while no request arrives.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Worker<S: Store> {
    core: Acceptor,
    store: S,
    reader: S::Reader,
    queue: Arc<WorkerQueue>,
    damage: mpsc::Receiver<Vec<Slot>>,
    snapshot_changes: mpsc::Receiver<SnapshotChange>,
    shared: Arc<Shared>,
    /// What the free space allowed at the last check.
    space: SpaceLevel,
    sweep: SweepPace,
    retain_bytes: RetainBytes,
    /// Pages may have changed since the last measurement of the file.
    is_file_changed: bool,
    tracer: Tracer,
    metrics: Instruments,
}

impl<S: Store> Worker<S> {
    /// Returns a worker continuing from the store's content, the shown state, and the queue.
    pub(crate) fn new(
        store: S,
        opened: RecoveredRun,
        run: RunNumber,
        retain_bytes: RetainBytes,
        tracer: Tracer,
        metrics: Instruments,
    ) -> (Self, Arc<Shared>, Arc<WorkerQueue>) {
        let mut core = Acceptor::recover(opened.recovered, run).remembering(opened.witnesses.clone());
        // The waiting snapshot of an acceptor without a cluster is a seed, and no claim of a leader.
        if let (Some(_), Some(waiting)) = (core.formed_cluster(), opened.snapshots.waiting) {
            core = core.with_recorded_claim(waiting.id.to);
        }
        let (damage, damage_reports) = mpsc::channel(DAMAGE_MAX);
        let (snapshot_changes, received_changes) = mpsc::channel(SNAPSHOT_CHANGES_MAX);
        let shared = Arc::new(Shared::new(
            &core,
            opened.past_runs,
            opened.witnesses,
            damage,
            snapshot_changes,
        ));
        shared.show_snapshots(store.snapshots());
        let queue = Arc::new(WorkerQueue::default());
        let reader = store.reader();
        (
            Self {
                core,
                store,
                reader,
                queue: Arc::clone(&queue),
                damage: damage_reports,
                snapshot_changes: received_changes,
                shared: Arc::clone(&shared),
                space: SpaceLevel::Enough,
                sweep: SweepPace::default(),
                retain_bytes,
                is_file_changed: true,
                tracer,
                metrics,
            },
            shared,
            queue,
        )
    }

    /// Works until `stop`, then closes the store. Requests still in the queue are not answered.
    ///
    /// # Errors
    /// A failed commit or read.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Failure> {
        let queue = Arc::clone(&self.queue);
        // The last process may have left trimmed rows.
        self.sweep.begin(Instant::now());
        // After the worker has ended, no request gets an answer.
        let _closing = Closing(&queue);
        let mut ticks = self.shared.hearing.ticker(SPACE_INTERVAL);
        loop {
            let sweep = self.sweep_due();
            tokio::select! {
                // Only waits.
                () = queue.filled() => {}
                // Cancel safe: a report not received stays queued. The sender lives as long as `shared`.
                Some(slots) = self.damage.recv() => {
                    self.look_at_damage(slots).await?;
                    continue;
                }
                // Cancel safe: likewise.
                Some(change) = self.snapshot_changes.recv() => {
                    self.is_file_changed = true;
                    if self.change_snapshots(change, &stop).await?.is_break() {
                        break;
                    }
                    self.keep_wal_short().await?;
                    continue;
                }
                // Only waits.
                () = sleep_until(sweep.unwrap_or_else(Instant::now).into()), if sweep.is_some() => {
                    self.is_file_changed = true;
                    self.sweep().await?;
                    continue;
                }
                // Cancel safe: a tick not returned is returned next time.
                () = ticks.tick() => {
                    self.look_for_space().await;
                    self.keep_wal_short().await?;
                    self.metrics.wal(self.reader.wal_bytes().await);
                    if std::mem::take(&mut self.is_file_changed) {
                        self.measure_file().await;
                    }
                    continue;
                }
                // Only waits.
                () = stop.cancelled() => break,
            }
            let requests = queue.gather();
            let worked = if requests.is_empty() {
                ControlFlow::Continue(())
            } else {
                let before = self.core.stamp().commit_counter;
                let worked = self.work(requests, &stop).await?;
                self.is_file_changed |= self.core.stamp().commit_counter != before;
                worked
            };
            queue.done();
            if worked.is_break() {
                break;
            }
            self.keep_wal_short().await?;
        }
        self.store.close().await;
        Ok(())
    }

    async fn look_for_space(&mut self) {
        self.space = self.store.space().await;
        self.shared.show_space(self.space.allows_requests());
    }

    /// Measures the log and shows the result. If the file cannot be read now, the last result stays.
    async fn measure_file(&self) -> FileBytes {
        match self.reader.file_bytes().await {
            Ok(bytes) => self.metrics.file(bytes),
            Err(error) => debug!(%error, "cannot read the number of used pages"),
        }
        self.metrics.file_bytes()
    }

    async fn keep_wal_short(&mut self) -> Result<(), Failure> {
        let kept = self.store.keep_wal_short().await;
        kept.map_err(|error| {
            let file = self.store.file().display();
            Failure::from(error).context(format!("empty the write-ahead log of {file}"))
        })
    }

    /// Commits. Breaks when the stop begins while another process's lock holds up the commit.
    async fn commit(&mut self, group: &Group, stop: &CancellationToken) -> Result<ControlFlow<()>, Failure> {
        let Some(write) = self.core.write(group) else {
            return Ok(ControlFlow::Continue(()));
        };
        let patience = self.shared.hearing.leader_timeout();
        let commit = self.metrics.commit(group.rows().len(), patience);
        let mut lock = LockReport::new(self.store.file());
        loop {
            match self.store.commit(write).await {
                Ok(()) => break,
                // Meanwhile leaders work without this acceptor, as with a full disk.
                Err(StoreError::LockedByOther(_)) if !stop.is_cancelled() => lock.held(),
                Err(StoreError::LockedByOther(_)) => return Ok(ControlFlow::Break(())),
                Err(error) => {
                    let file = self.store.file().display();
                    return Err(Failure::from(error).context(format!("commit votes to {file}")));
                }
            }
        }
        lock.free();
        commit.done();
        Ok(ControlFlow::Continue(()))
    }

    /// Decides, commits, shows and answers a group.
    async fn work(
        &mut self,
        requests: Vec<TakenRequest>,
        stop: &CancellationToken,
    ) -> Result<ControlFlow<()>, Failure> {
        self.look_for_space().await;
        let mut group = self.core.group();
        let mut releases = Vec::with_capacity(requests.len());
        let mut traced = Vec::new();
        let mut turned_away_to = Slot::ZERO;
        for mut request in requests {
            traced.extend(request.taken());
            let proposed_to = request.proposed_to();
            let release = self.decide(&mut group, request).await?;
            if release.lacks_space() {
                turned_away_to = turned_away_to.max(proposed_to);
            }
            releases.push(release);
        }
        if group.needs_commit() {
            let _span = trace::commit(&self.tracer, &mut traced, &group, releases.len());
            if self.commit(&group, stop).await?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if !group.witnesses().is_empty() {
            self.shared.remember(group.witnesses());
        }
        let rows = group.rows().clone();
        let mut votes: BTreeMap<Ballot, u64> = BTreeMap::new();
        for (ballot, _) in rows.range(self.core.known_to()..).map(|(_, row)| row) {
            *votes.entry(*ballot).or_default() += 1;
        }
        let trimmed_to = self.core.trimmed_to();
        self.core.committed(group);
        if self.core.trimmed_to() > trimmed_to {
            // The commit formed a restored cluster: its seed is the bottom.
            self.shared.show_snapshots(self.store.snapshots());
        }
        self.shared.publish(&self.core);
        self.shared.show_turned_away(turned_away_to);
        let requests = releases.iter_mut().filter_map(Release::settle);
        self.shared
            .hearing
            .decided(&self.core.leadership(), votes, requests);
        for release in releases {
            self.metrics.answered(release.rejected());
            release.send(&self.shared, self.core.stamp());
        }
        if !rows.is_empty() {
            self.shared.ring.push(
                self.core.stamp(),
                // Rows just accepted are intact: below the known watermark such rows hold the chosen values.
                self.core.known_to(),
                self.core.trimmed_to(),
                rows,
            );
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Records damaged rows, unless a row was accepted again since the read. Only the worker can be sure of this: here
    /// no write happens between the read and the check.
    async fn look_at_damage(&mut self, mut slots: Vec<Slot>) -> Result<(), Failure> {
        let trimmed_to = self.core.trimmed_to();
        slots.retain(|&slot| slot >= trimmed_to && !self.core.is_damaged(slot));
        if slots.is_empty() {
            return Ok(());
        }
        let held = self.reader.held(&slots).await?;
        // A suspect without a row is missing below the watermark.
        slots.retain(|slot| !matches!(held.get(slot), Some(HeldRow::Accepted(..))));
        let rows = self.core.found_damaged(slots.iter().copied());
        if let (1.., Some(first)) = (rows, slots.first()) {
            warn!(
                rows,
                first = first.get(),
                "rows on disk are damaged: these rows count as unknown until repaired by the leader. Check this disk"
            );
            self.shared.publish(&self.core);
        }
        Ok(())
    }

    async fn decide(&self, group: &mut Group, request: TakenRequest) -> Result<Release, Failure> {
        match request {
            TakenRequest::Form { answer, .. } if !self.space.allows_requests() => {
                Ok(Release::Form(answer, Err(NoSpace)))
            }
            TakenRequest::Form { step, answer } => {
                let (core, configuration) = (&self.core, step.configuration());
                let result = match &step {
                    FormStep::Store(_) => core.store_configuration(group, configuration).map_err(Into::into),
                    FormStep::Complete(_) => core
                        .complete_configuration(group, configuration)
                        .map_err(Into::into),
                    FormStep::Install(_) => core.install(group, configuration, false).map_err(Into::into),
                    FormStep::Join(_) => core.install(group, configuration, true).map_err(Into::into),
                };
                Ok(Release::Form(answer, Ok(result)))
            }
            TakenRequest::Prepare {
                prepare,
                claimed,
                answer,
                ..
            } => {
                // A Prepare below the promise is rejected even while the disk has no space: the rejection writes
                // nothing.
                let result = if !self.space.allows_requests() && prepare.ballot >= group.promised() {
                    Err(NoSpace)
                } else {
                    Ok(self.core.prepare(group, &prepare))
                };
                Ok(Release::Prepare {
                    claimed: Some(claimed),
                    answer,
                    result,
                })
            }
            TakenRequest::Accept(message) => {
                let accept = &message.accept;
                let answer = if !self.space.allows_requests() && accept.ballot >= group.promised() {
                    // A full acceptor makes space by a trim, up to the leader's watermark. Below that, no commit has
                    // space.
                    if self.space.allows_trims() {
                        self.core.hear_claim(group, accept);
                    }
                    AcceptAnswer::NoSpace
                } else {
                    let slots: Vec<_> = self.core.slots_to_read(accept).collect();
                    // Only repair needs these rows, so the hot path never waits for a read.
                    let below = if slots.is_empty() {
                        BTreeMap::new()
                    } else {
                        self.reader.held(&slots).await?
                    };
                    let answer = self
                        .core
                        .accept(group, accept, &below)
                        .unwrap_or_else(|violation| {
                            self.metrics.contradicted(accept, &violation);
                            self.core.contradicted(group, accept, &violation)
                        });
                    // Only witnesses from an accepted leader are stored.
                    if matches!(answer, AcceptAnswer::Accepted { .. }) {
                        self.core.witness(group, message.witnesses.iter());
                    }
                    answer
                };
                Ok(Release::Accept {
                    accept: (accept.ballot, accept.sequence),
                    claimed: Some(message.claimed),
                    place: message.place,
                    answer,
                    trace: message.trace,
                    _bytes: message.bytes,
                })
            }
        }
    }
}

/// Closes the queue when the worker ends.
struct Closing<'a>(&'a WorkerQueue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests;
