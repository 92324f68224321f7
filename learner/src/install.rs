//! Installs a snapshot of an acceptor in place of this learner's own state, before the learner begins to learn.

mod progress;
mod receive;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::slot::Slot,
    peer::Backoff,
    service::{failure::Failure, metrics::Counter},
    sqlite::{DataDir, LEARNER_FILE},
    trace::{Beginning, Parent, Tracer, names},
};
use tokio::{sync::watch, time::sleep};

use crate::{
    cluster::Cluster,
    cut_off::{CutOffCause, at_start, is_given_up, sources},
    disk::DiskSpace,
    store::PlaceError,
    trims::{TrimBound, TrimReport},
};
use receive::InstallError;

pub(crate) use progress::InstallProgress;

/// Waits between two attempts, each with all useful snapshots.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// The wait between two attempts while the disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(2);
/// Time between two log lines about attempts that fail for the same reason.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// A learner that is cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CutOffLearner {
    /// The first slot that the learner has not learned.
    pub(crate) position: Slot,
    pub(crate) cause: CutOffCause,
}

/// Everything needed to install a snapshot.
#[derive(Debug)]
pub(crate) struct Installer<'a> {
    pub(crate) cluster: &'a Cluster,
    /// The acceptors' reports, kept up to date meanwhile.
    pub(crate) trims: &'a TrimBound,
    pub(crate) directory: &'a Arc<DataDir>,
    pub(crate) disk: &'a DiskSpace,
    pub(crate) progress: &'a InstallProgress,
    /// The end of the snapshot, for reports to the acceptors: acceptors keep the log from there on.
    pub(crate) target: watch::Sender<Slot>,
    /// Counts installed snapshots.
    pub(crate) installs: Counter,
    pub(crate) tracer: Tracer,
}

impl Installer<'_> {
    /// Returns once a snapshot is in place of the learner's file, or once learning is worth a try: see [`is_given_up`].
    /// Tries all useful snapshots again and again. The learner's own file stays until a snapshot is whole. No
    /// connection to the file may be in use.
    ///
    /// # Errors
    /// The disk failed.
    ///
    /// # Cancel safety
    /// Safe: the next start finds the old file or the new file, and both are whole.
    pub(crate) async fn run(&self, learner: CutOffLearner) -> Result<(), Failure> {
        let CutOffLearner { position, cause } = learner;
        tracing::info!(
            %position, ?cause,
            "the acceptors have trimmed slots that this learner lacks: the learner installs a snapshot, and answers no \
             readers meanwhile"
        );
        let mut pauses = Backoff::new(PAUSE_MIN, PAUSE_MAX);
        let mut reported: Option<Instant> = None;
        let begun = Instant::now();
        loop {
            let reports = self.trims.fresh(Instant::now());
            let is_useful = reports.iter().any(|report| report.trimmed_to > position);
            let mut is_full = false;
            for source in sources(position, reports) {
                let Err(error) = self.attempt(source, position).await else {
                    return Ok(());
                };
                let has_failed = |error: &PlaceError| !matches!(error, PlaceError::NoSpace { .. });
                if matches!(&error, InstallError::Import(error) if has_failed(error)) {
                    return Err(Failure::storage(error));
                }
                is_full |= matches!(error, InstallError::Import(PlaceError::NoSpace { .. }));
                let reason = error.to_string();
                let is_news = self.progress.failed(&reason);
                if is_news || reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                    reported = Some(Instant::now());
                    tracing::warn!(
                        acceptor = %source.acceptor, to = %source.trimmed_to, reason,
                        "the snapshot of this acceptor is not installed: trying again"
                    );
                }
            }
            // Reports since the installation began: an older report may be of an acceptor that is gone, and the next start
            // would come back here at once.
            let quorum = self.cluster.present().quorum();
            let standing = at_start(position, quorum, &self.trims.heard_since(begun));
            if is_given_up(cause, standing, is_useful, begun.elapsed()) {
                tracing::info!("an acceptor has the slots: this learner learns without a snapshot");
                return Ok(());
            }
            if is_full {
                self.disk.is_full(&self.directory.file(LEARNER_FILE));
            } else {
                self.disk.has_space();
            }
            let pause = if is_full { FULL_PAUSE } else { pauses.next_delay() };
            sleep(pause).await;
        }
    }

    /// Installs the snapshot of an acceptor.
    async fn attempt(&self, source: TrimReport, position: Slot) -> Result<(), InstallError> {
        let TrimReport { acceptor, trimmed_to } = source;
        let present = self.cluster.present();
        let listed = present.acceptor(acceptor).ok_or(InstallError::Gone)?;
        self.target.send_replace(trimmed_to);
        let mut span = self.tracer.begin(Beginning::new("learner.install", Parent::None));
        if let Some(span) = &mut span {
            span.count(names::SLOT, trimmed_to.get());
            listed.name_in(span);
        }
        let begun = Instant::now();
        let installed = self.receive(listed, position).await;
        if let Some(mut span) = span {
            if let Err(error) = &installed {
                span.fail("snapshot", error.to_string());
            }
            span.end();
        }
        let summary = installed?;
        self.installs.increment();
        self.disk.has_space();
        tracing::info!(
            address = %listed.address(), to = %summary.header.to, bytes = summary.bytes,
            registers = summary.footer.registers, took_ms = begun.elapsed().as_millis(),
            "installed a snapshot"
        );
        Ok(())
    }
}
