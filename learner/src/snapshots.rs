//! Makes snapshot files of the state in memory, one at a time. One file serves all: this learner's own start, acceptors that
//! ask, and backups. Only a file made for an acceptor serves acceptors: see [`WantedEnd`].
//!
//! The file is whole and durable before the store records the file, and the record is durable before the earlier
//! file is removed. A file that is still read loses only its name.

mod write;

use std::{path::PathBuf, sync::Arc, time::Duration};

use paxos_common::{
    paxos::slot::Slot,
    service::{failure::Failure, shutdown::Shutdown},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};

use crate::{
    apply::ViewRequest,
    cluster::Cluster,
    knowledge::KeptView,
    log_growth::LogGrowth,
    snapshot_end::WantedEnd,
    snapshot_file::{self, RecordOrder, RecordedSnapshot, SnapshotFile, UnrecordedFile},
};
use write::{NotWritten, StateWriter};

/// Capacity of the queue of orders: more callers than a learner serves at a time.
const ORDERS_MAX: usize = 16;
/// Size in bytes of a part of a file on the network (inclusive).
pub(crate) const PART_BYTES: usize = 256 * 1024;
/// How long the last file is served without another look at its bytes.
const TRUST_MAX: Duration = Duration::from_secs(60);
/// Time between two looks whether the last file is in its place.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// The wait after a failed attempt to make a due file.
const RETRY_PAUSE: Duration = Duration::from_secs(30);
/// The same for a state that is larger than a snapshot may be.
const TOO_LARGE_PAUSE: Duration = Duration::from_secs(600);

/// Why there is no snapshot.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum NoSnapshot {
    #[error("this learner cannot write its state to a file: {0}")]
    NotMade(String),
    #[error("too many files of the state are wanted of this learner at a time")]
    Full,
    #[error("the learner is stopping")]
    Stopping,
}

/// The answer to a caller.
type SnapshotAnswer = Result<Arc<SnapshotFile>, NoSnapshot>;

/// A caller that waits for a snapshot.
#[derive(Debug)]
struct SnapshotOrder {
    /// Lowest useful end of the snapshot; applied by now.
    to: Slot,
    /// Greatest useful age of the file.
    age_max: Duration,
    end: WantedEnd,
    answer: oneshot::Sender<SnapshotAnswer>,
}

/// Attempts to make a snapshot that failed, without a success since.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotTrouble {
    /// The first of these attempts.
    pub(crate) since: Instant,
    /// Why the latest attempt failed.
    pub(crate) reason: String,
}

/// Handle for callers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotOrders {
    orders: mpsc::Sender<SnapshotOrder>,
    trouble: watch::Receiver<Option<SnapshotTrouble>>,
}

impl SnapshotOrders {
    /// The failed attempts since the last snapshot, if any.
    pub(crate) fn trouble(&self) -> Option<SnapshotTrouble> {
        self.trouble.borrow().clone()
    }

    /// A snapshot to slot `to` or later, made at most `age_max` ago. Every slot below `to` must be applied.
    ///
    /// # Errors
    /// See [`NoSnapshot`].
    ///
    /// # Cancel safety
    /// Safe: the order ends.
    pub(crate) async fn snapshot(&self, to: Slot, age_max: Duration) -> SnapshotAnswer {
        self.order(to, age_max, WantedEnd::Present).await
    }

    /// The same for an acceptor. No file is used that was made for another purpose.
    pub(crate) async fn common_snapshot(&self, to: Slot, age_max: Duration) -> SnapshotAnswer {
        self.order(to, age_max, WantedEnd::Common).await
    }

    async fn order(&self, to: Slot, age_max: Duration, end: WantedEnd) -> SnapshotAnswer {
        let (answer, made) = oneshot::channel();
        let order = SnapshotOrder {
            to,
            age_max,
            end,
            answer,
        };
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoSnapshot::Full,
            mpsc::error::TrySendError::Closed(_) => NoSnapshot::Stopping,
        })?;
        made.await.map_err(|_| NoSnapshot::Stopping)?
    }
}

/// The surroundings of the maker.
#[derive(Debug)]
pub(crate) struct MakerInputs {
    /// For the headers of the files.
    pub(crate) cluster: Arc<Cluster>,
    /// Of the files.
    pub(crate) directory: PathBuf,
    /// To the applier: keeps the present state.
    pub(crate) views: mpsc::Sender<ViewRequest>,
    /// To the writer: records a file.
    pub(crate) records: mpsc::Sender<RecordOrder>,
    pub(crate) growth: Arc<LogGrowth>,
    /// The recorded file, found whole at start.
    pub(crate) last: Option<Arc<SnapshotFile>>,
}

/// The maker of the files.
#[derive(Debug)]
pub(crate) struct SnapshotMaker {
    inputs: MakerInputs,
    orders: mpsc::Receiver<SnapshotOrder>,
    due: watch::Receiver<bool>,
    /// When the last file was made; `None` for a file of an earlier run.
    made_at: Option<Instant>,
    /// Where the last file was to end.
    last_end: WantedEnd,
    /// When the bytes of the last file were written or read.
    trusted_at: Instant,
    /// The store records a file that is gone or damaged: the next start would learn everything again.
    recorded_is_lost: bool,
    /// No due file is made before.
    paused_until: Option<Instant>,
    /// The failed attempts since the last file.
    trouble: watch::Sender<Option<SnapshotTrouble>>,
    /// The applier or the writer has ended.
    is_ended: bool,
    look_at: Instant,
}

impl SnapshotMaker {
    /// A maker, and the handle for callers.
    pub(crate) fn new(inputs: MakerInputs) -> (SnapshotOrders, Self) {
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        let (trouble, trouble_seen) = watch::channel(None);
        let now = Instant::now();
        let maker = Self {
            due: inputs.growth.follow_due(),
            inputs,
            orders,
            made_at: None,
            last_end: WantedEnd::Present,
            trusted_at: now,
            recorded_is_lost: false,
            paused_until: None,
            trouble,
            is_ended: false,
            look_at: now + LOOK_INTERVAL,
        };
        let orders = SnapshotOrders {
            orders: orders_in,
            trouble: trouble_seen,
        };
        (orders, maker)
    }

    /// Makes due and ordered snapshots until the stop begins.
    ///
    /// # Errors
    /// The state in memory is wrong, or a file cannot be written.
    ///
    /// # Cancel safety
    /// Safe: a file that is not recorded is removed, at the latest by the next start.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Failure> {
        tokio::select! {
            // Only waits.
            () = shutdown.begun() => Ok(()),
            // Cancel safe: see above.
            made = self.keep_making() => made,
        }
    }

    async fn keep_making(&mut self) -> Result<(), Failure> {
        while !self.is_ended {
            let is_paused = self.paused_until.is_some();
            tokio::select! {
                // Cancel safe: an order not received stays queued.
                order = self.orders.recv() => {
                    let Some(order) = order else { return Ok(()) };
                    self.serve(order).await?;
                }
                // Only waits.
                true = until_due(&mut self.due), if !is_paused => self.make_due().await?,
                // Ready at once.
                () = std::future::ready(()), if self.recorded_is_lost && !is_paused => self.make_due().await?,
                // A timer.
                () = sleep_until(self.paused_until.unwrap_or(self.look_at)), if is_paused => self.paused_until = None,
                // A timer.
                () = sleep_until(self.look_at) => self.look(),
            }
        }
        Ok(())
    }

    /// Answers an order with the last file, if long enough, or with a new file.
    async fn serve(&mut self, order: SnapshotOrder) -> Result<(), Failure> {
        if order.answer.is_closed() {
            return Ok(());
        }
        let made = match self.usable(order.to, order.age_max, order.end).await {
            Some(last) => Ok(last),
            None => match self.make_for(&order).await {
                Ok(made) => Ok(made),
                Err(NotWritten::CallerGone) => {
                    tracing::debug!("the caller of a snapshot is gone: no snapshot is made");
                    return Ok(());
                }
                Err(error) => Err(self.failed(error)?),
            },
        };
        // A caller that gave up meanwhile does not get the answer.
        let _ = order.answer.send(made);
        Ok(())
    }

    /// The last file, if long enough, young enough, made for an acceptor if so ordered, in its place, and whole.
    async fn usable(&mut self, to: Slot, age_max: Duration, end: WantedEnd) -> Option<Arc<SnapshotFile>> {
        let last = Arc::clone(self.inputs.last.as_ref()?);
        let age = self.made_at.map_or(Duration::MAX, |made_at| made_at.elapsed());
        let fits = last.summary.header.to >= to && age <= age_max;
        let has_end = end == WantedEnd::Present || end == self.last_end;
        if !fits || !has_end || !self.is_alive(&last).await {
            return None;
        }
        Some(last)
    }

    /// Whether the last file may be served, and would be found by the next start.
    async fn is_alive(&mut self, last: &SnapshotFile) -> bool {
        if last.is_in_place() {
            if self.trusted_at.elapsed() < TRUST_MAX {
                return true;
            }
            if last.is_whole().await {
                self.trusted_at = Instant::now();
                return true;
            }
        }
        self.lose(last);
        false
    }

    /// The recorded file is never served again, and another file is made, also without an order.
    fn lose(&mut self, last: &SnapshotFile) {
        tracing::warn!(
            file = %last.path().display(),
            "the snapshot file of this learner was removed or is damaged: the learner makes another file"
        );
        self.inputs.last = None;
        self.recorded_is_lost = true;
    }

    /// Makes a file because the log after the last file is large, or the recorded file is lost.
    async fn make_due(&mut self) -> Result<(), Failure> {
        match self.make(None).await {
            Ok(_) => Ok(()),
            Err(error) => self.failed(error).map(drop),
        }
    }

    /// Looks whether the recorded file is in its place.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_INTERVAL;
        if let Some(last) = self.inputs.last.clone().filter(|last| !last.is_in_place()) {
            self.lose(&last);
        }
    }

    /// Makes a file for an order. This learner's own next start comes first: a file that falls due while the order waits for a
    /// common end is made at once, and then the order waits to the end.
    async fn make_for(&mut self, order: &SnapshotOrder) -> Result<Arc<SnapshotFile>, NotWritten> {
        if order.end == WantedEnd::Common && self.paused_until.is_none() {
            let mut due = self.due.clone();
            let covered = self.inputs.growth.written();
            tokio::select! {
                // The applier forgets a request whose caller is gone.
                view = self.view(order.end) => return self.write(view?, covered, Some(order)).await,
                // Only waits.
                true = until_due(&mut due) => {}
            }
            self.make(None).await?;
        }
        self.make(Some(order)).await
    }

    async fn make(&mut self, order: Option<&SnapshotOrder>) -> Result<Arc<SnapshotFile>, NotWritten> {
        let covered = self.inputs.growth.written();
        let end = order.map_or(WantedEnd::Present, |order| order.end);
        let view = self.view(end).await?;
        self.write(view, covered, order).await
    }

    /// The state at the next such end.
    async fn view(&self, end: WantedEnd) -> Result<KeptView, NotWritten> {
        let (answer, view) = oneshot::channel();
        let asked = self.inputs.views.send(ViewRequest { end, answer }).await;
        asked.map_err(|_| NotWritten::Stopping)?;
        view.await.map_err(|_| NotWritten::Stopping)
    }

    /// Writes a file, has the file recorded, and removes the earlier file. `covered`: bytes of the log that a file makes
    /// superfluous; `order`: the file is of use only for this order, unless a file is due.
    async fn write(
        &mut self,
        view: KeptView,
        covered: u64,
        order: Option<&SnapshotOrder>,
    ) -> Result<Arc<SnapshotFile>, NotWritten> {
        let begun = Instant::now();
        let due = self.due.clone();
        let is_lost = self.recorded_is_lost;
        let is_wanted = || order.is_none_or(|order| !order.answer.is_closed()) || is_lost || *due.borrow();
        let MakerInputs {
            cluster, directory, ..
        } = &self.inputs;
        let bytes = self.inputs.growth.snapshot_bytes();
        // After the state is kept: the configuration is not below a change in this state.
        let present = cluster.present();
        let writer = StateWriter::begin(
            view,
            cluster.id(),
            present.configuration(),
            directory.clone(),
            bytes,
        )
        .await?;
        let (file, unrecorded) = writer.write(is_wanted).await?;
        let file = Arc::new(file);
        let summary = &file.summary;
        self.record(RecordedSnapshot::of(summary), unrecorded, covered)
            .await?;
        tracing::info!(
            to = %summary.header.to, bytes = summary.bytes, registers = summary.footer.registers,
            took_ms = begun.elapsed().as_millis(),
            "made a snapshot of the state"
        );
        self.inputs.last = Some(Arc::clone(&file));
        self.trusted_at = Instant::now();
        self.made_at = Some(self.trusted_at);
        self.last_end = order.map_or(WantedEnd::Present, |order| order.end);
        self.recorded_is_lost = false;
        self.trouble.send_replace(None);
        let kept = RecordedSnapshot::of(summary).name();
        snapshot_file::remove_all_but(self.inputs.directory.clone(), Some(kept)).await;
        Ok(file)
    }

    /// Returns once the store durably records the file.
    async fn record(
        &self,
        snapshot: RecordedSnapshot,
        unrecorded: UnrecordedFile,
        covered: u64,
    ) -> Result<(), NotWritten> {
        let (answer, recorded) = oneshot::channel();
        let record = RecordOrder {
            snapshot,
            covered,
            answer,
        };
        let place = self.inputs.records.reserve().await;
        let place = place.map_err(|_| NotWritten::Stopping)?;
        // From here on, the store may record the file.
        unrecorded.keep();
        place.send(record);
        recorded.await.map_err(|_| NotWritten::Stopping)
    }

    /// The answer after a failed attempt.
    ///
    /// # Errors
    /// The process must end.
    fn failed(&mut self, error: NotWritten) -> Result<NoSnapshot, Failure> {
        let pause = match error {
            NotWritten::Stopping | NotWritten::CallerGone => {
                self.is_ended = true;
                return Ok(NoSnapshot::Stopping);
            }
            NotWritten::Differs { .. } => return Err(Failure::internal(error)),
            NotWritten::TooLarge(_) => TOO_LARGE_PAUSE,
            NotWritten::File(_) => RETRY_PAUSE,
        };
        let now = Instant::now();
        self.paused_until = Some(now + pause);
        let first = self.trouble.borrow().as_ref().map(|trouble| trouble.since);
        let (since, reason) = (first.unwrap_or(now), error.to_string());
        self.trouble.send_replace(Some(SnapshotTrouble { since, reason }));
        tracing::warn!(
            %error, failing_s = now.duration_since(since).as_secs(), retry_s = pause.as_secs(),
            "no snapshot is made: the log of this learner grows, and its next start takes longer"
        );
        Ok(NoSnapshot::NotMade(error.to_string()))
    }
}

/// Returns `true` once a snapshot is due; `false` when none is ever due again.
async fn until_due(due: &mut watch::Receiver<bool>) -> bool {
    due.wait_for(|due| *due).await.is_ok()
}

/// Writes a kept state, for tests.
#[cfg(test)]
pub(crate) async fn write_file(
    view: KeptView,
    cluster: paxos_common::paxos::identity::ClusterId,
    directory: &std::path::Path,
) -> SnapshotFile {
    let configuration = crate::store::testing::configuration();
    let begun = StateWriter::begin(view, cluster, &configuration, directory.to_owned(), 0).await;
    let (file, unrecorded) = begun.unwrap().write(|| true).await.unwrap();
    unrecorded.keep();
    file
}

#[cfg(test)]
mod tests;
