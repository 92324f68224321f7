//! Disk space of a data directory: the size of the files, and the free space of the file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::fs::statvfs;
use tokio::{task::spawn_blocking, time::sleep};

use super::Metrics;

/// Interval of the measurements: twice in the usual interval of scrapes, and rare enough to cost nothing.
const INTERVAL: Duration = Duration::from_secs(10);
/// Stands for an unknown number of free bytes.
const UNKNOWN: u64 = u64::MAX;

/// The space at the last measurement. Cheap to clone; clones share the values.
#[derive(Clone, Debug)]
pub struct DataDirSpace {
    size_bytes: Arc<AtomicU64>,
    free_bytes: Arc<AtomicU64>,
}

impl Default for DataDirSpace {
    fn default() -> Self {
        Self {
            size_bytes: Arc::default(),
            free_bytes: Arc::new(UNKNOWN.into()),
        }
    }
}

impl DataDirSpace {
    /// Shows the space as gauges with these names; not measured yet.
    #[must_use]
    pub fn shown(metrics: &Metrics, size: &'static str, free: &'static str) -> Self {
        let space = Self::default();
        let seen = space.clone();
        metrics.gauge(size, "By", "Size of the files in the data directory", move || {
            seen.size_bytes()
        });
        let seen = space.clone();
        metrics.gauge_if_known(
            free,
            "By",
            "Bytes free for this process on the file system of the data directory",
            move || seen.free_bytes(),
        );
        space
    }

    /// Bytes of the files in the directory; 0 before the first measurement.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that this process can still write in the directory; none while unknown.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.free_bytes.load(Ordering::Relaxed)).filter(|free| *free != UNKNOWN)
    }

    /// Measures `directory` repeatedly. A hanging file system blocks one thread, and the last values stay.
    ///
    /// # Cancel safety
    /// Safe: only measurements are lost.
    pub async fn keep_measured(self, directory: PathBuf) {
        loop {
            let (space, measured) = (self.clone(), directory.clone());
            // After a panic in a measurement the last values stay.
            let _ = spawn_blocking(move || space.measure(&measured)).await;
            sleep(INTERVAL).await;
        }
    }

    fn measure(&self, directory: &Path) {
        match files_bytes(directory) {
            Ok(bytes) => self.size_bytes.store(bytes, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "cannot measure the data directory"),
        }
        let free = match statvfs(directory) {
            Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
            Err(error) => {
                tracing::debug!(%error, "cannot read the size of the free space");
                UNKNOWN
            }
        };
        self.free_bytes.store(free, Ordering::Relaxed);
    }
}

/// Sum of the sizes of the files in `directory`. Roles create no directories there.
fn files_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes: u64 = 0;
    for entry in fs::read_dir(directory)? {
        // A file removed meanwhile takes no space.
        if let Ok(metadata) = entry?.metadata()
            && metadata.is_file()
        {
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_of_a_directory_is_shown_once_it_is_measured() {
        let (metrics, directory) = (Metrics::unread(), tempfile::tempdir().unwrap());
        fs::write(directory.path().join("one"), [0; 1_000]).unwrap();
        fs::write(directory.path().join("two"), [0; 24]).unwrap();
        let space = DataDirSpace::shown(&metrics, "paxos.test.size", "paxos.test.free");
        assert_eq!((space.size_bytes(), space.free_bytes()), (0, None));
        assert!(!metrics.text().unwrap().contains("paxos_test_free_bytes "));
        space.measure(directory.path());
        assert_eq!(space.size_bytes(), 1_024);
        let text = metrics.text().unwrap();
        assert!(text.contains("paxos_test_size_bytes 1024"), "{text}");
        let free = space.free_bytes().unwrap();
        assert!(text.contains(&format!("paxos_test_free_bytes {free}")), "{text}");
        space.measure(Path::new("/no/such/directory"));
        assert_eq!((space.size_bytes(), space.free_bytes()), (1_024, None));
    }
}
