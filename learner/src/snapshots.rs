//! Makes snapshot files of the state on disk, one at a time, and keeps the last file for a while.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use paxos_common::{
    paxos::{quorum::Configuration, slot::Slot},
    service::{failure::Failure, shutdown::Shutdown},
    snapshot::{
        SnapshotSummary,
        name::{file_name, parse_file_name},
    },
};
use tokio::{
    fs::File,
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{Instant, sleep_until},
};

use crate::store::{ExportError, Log};

/// Capacity of the queue of orders: more callers than a learner serves at a time.
const ORDERS_MAX: usize = 16;
/// Size in bytes of a part of a file on the network (inclusive).
pub(crate) const PART_BYTES: usize = 256 * 1024;
/// How long the last file serves further orders.
const REUSE_MAX: Duration = Duration::from_secs(60);

/// The file in the making, in the data directory.
const MAKING: &str = "making.pxs";

/// A whole snapshot on disk. Removed with the last handle.
///
/// A later snapshot of the same state has the same name, and may take the name while this file is still read. So the file
/// is open from the beginning, and read without its name.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<fs::File>,
    pub(crate) summary: SnapshotSummary,
}

impl SnapshotFile {
    /// Takes over a whole file.
    #[cfg(test)]
    pub(crate) fn open(path: PathBuf, summary: SnapshotSummary) -> io::Result<Self> {
        let file = Arc::new(fs::File::open(&path)?);
        Ok(Self { path, file, summary })
    }

    /// Reads a part, on a thread for blocking calls.
    ///
    /// # Errors
    /// The file cannot be read.
    ///
    /// # Cancel safety
    /// Safe: the read ends in the background.
    pub(crate) async fn read_part(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = spawn_blocking(move || {
            let mut part = vec![0; len];
            file.read_exact_at(&mut part, at)?;
            Ok(part.into())
        });
        read.await.map_err(io::Error::other)?
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a file, if present. The next start removes the rest.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, file = %path.display(), "cannot remove a snapshot file");
        }
        _ => {}
    }
}

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

/// A caller that waits for a snapshot.
#[derive(Debug)]
struct SnapshotOrder {
    /// Lowest useful end of the snapshot; written by now.
    to: Slot,
    answer: oneshot::Sender<Result<Arc<SnapshotFile>, NoSnapshot>>,
}

/// Handle for callers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotOrders(mpsc::Sender<SnapshotOrder>);

impl SnapshotOrders {
    /// A snapshot to slot `to` or later. Every slot below `to` must be on the learner's disk.
    ///
    /// # Errors
    /// See [`NoSnapshot`].
    ///
    /// # Cancel safety
    /// Safe: the order ends.
    pub(crate) async fn snapshot(&self, to: Slot) -> Result<Arc<SnapshotFile>, NoSnapshot> {
        let (answer, made) = oneshot::channel();
        let order = SnapshotOrder { to, answer };
        self.0.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoSnapshot::Full,
            mpsc::error::TrySendError::Closed(_) => NoSnapshot::Stopping,
        })?;
        made.await.map_err(|_| NoSnapshot::Stopping)?
    }
}

/// The maker of the files.
#[derive(Debug)]
pub(crate) struct SnapshotMaker {
    log: Log,
    configuration: Configuration,
    /// Of the files.
    directory: PathBuf,
    orders: mpsc::Receiver<SnapshotOrder>,
    /// The last file, and the time of its end.
    last: Option<(Arc<SnapshotFile>, Instant)>,
}

impl SnapshotMaker {
    /// A maker with its files in the data directory, and the handle for callers.
    pub(crate) fn new(log: Log, configuration: Configuration, directory: &Path) -> (SnapshotOrders, Self) {
        let (orders_in, orders) = mpsc::channel(ORDERS_MAX);
        let maker = Self {
            log,
            configuration,
            directory: directory.to_owned(),
            orders,
            last: None,
        };
        (SnapshotOrders(orders_in), maker)
    }

    /// Makes the ordered snapshots until the stop begins.
    ///
    /// # Errors
    /// The learner's own file is wrong.
    ///
    /// # Cancel safety
    /// Safe: the next start removes the file in the making.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> Result<(), Failure> {
        loop {
            let expires = self.last.as_ref().map(|(_, made)| *made + REUSE_MAX);
            let order = tokio::select! {
                // Only waits.
                () = shutdown.begun() => return Ok(()),
                // Cancel safe: an order not received stays queued.
                order = self.orders.recv() => order,
                // A timer.
                () = sleep_until(expires.unwrap_or_else(Instant::now)), if expires.is_some() => {
                    self.last = None;
                    continue;
                }
            };
            let Some(SnapshotOrder { to, mut answer }) = order else {
                return Ok(());
            };
            let made = tokio::select! {
                // In this order: no file is made for a caller that is gone.
                biased;
                // Only waits.
                () = shutdown.begun() => return Ok(()),
                // Only waits.
                () = answer.closed() => None,
                // Cancel safe: the file in the making is removed below, or by the next start.
                made = self.serve(to) => Some(made),
            };
            let Some(made) = made else {
                tracing::debug!("the caller of a snapshot is gone: no snapshot is made");
                remove(&self.directory.join(MAKING));
                continue;
            };
            let made = match made {
                Ok(file) => Ok(file),
                Err(error @ ExportError::Damaged { .. }) => return Err(Failure::storage(error)),
                Err(error) => {
                    tracing::warn!(%error, "no snapshot is made");
                    Err(NoSnapshot::NotMade(error.to_string()))
                }
            };
            // A caller that gave up meanwhile does not get the answer.
            let _ = answer.send(made);
        }
    }

    /// The last file, if long enough, or a new file.
    async fn serve(&mut self, to: Slot) -> Result<Arc<SnapshotFile>, ExportError> {
        if let Some((last, _)) = self
            .last
            .as_ref()
            .filter(|(last, _)| last.summary.header.to >= to)
        {
            return Ok(Arc::clone(last));
        }
        // Before the next file takes space.
        self.last = None;
        let file = Arc::new(self.make().await?);
        self.last = Some((Arc::clone(&file), Instant::now()));
        Ok(file)
    }

    async fn make(&self) -> Result<SnapshotFile, ExportError> {
        let begun = Instant::now();
        let making = self.directory.join(MAKING);
        let mut creating = fs::File::options();
        let creating = creating.read(true).write(true).create(true).truncate(true);
        // The file is created and renamed between two awaits: a cancelled call would leave such work to a thread, and the
        // file would appear after its removal.
        let exported = match creating.open(&making) {
            Ok(out) => {
                let mut out = File::from_std(out);
                let exported = self.log.export(&self.configuration, &mut out).await;
                let file = Arc::new(out.into_std().await);
                exported.map(|summary| (file, summary))
            }
            Err(error) => Err(error.into()),
        };
        let (file, summary) = exported.inspect_err(|_| remove(&making))?;
        let path = self.directory.join(file_name(summary.header.to, &summary.sha256));
        fs::rename(&making, &path).inspect_err(|_| remove(&making))?;
        tracing::info!(
            to = %summary.header.to, bytes = summary.bytes, registers = summary.footer.registers,
            took_ms = begun.elapsed().as_millis(),
            "made a snapshot of the state"
        );
        Ok(SnapshotFile { path, file, summary })
    }
}

/// Removes the files of earlier runs: a run may have been killed. Other files stay, as an operator's backup.
pub(crate) async fn remove_leftovers(directory: PathBuf) {
    let _ = spawn_blocking(move || remove_files(&directory)).await;
}

/// Whether a learner gives a file such a name.
fn is_own_name(name: &str) -> bool {
    name == MAKING || parse_file_name(name).is_some()
}

fn remove_files(directory: &Path) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "cannot look for old snapshot files");
            return;
        }
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_own = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(is_own_name)
    };
    paths.filter(is_own).for_each(|path| remove(&path));
}

#[cfg(test)]
mod tests;
