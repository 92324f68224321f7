//! The snapshot files in the data directory: opened, checked, and removed when no record names a file any more.
//!
//! The content of an arriving snapshot is verified as a whole. Later a file is sound if the file has the recorded size and
//! SHA-256. A file that is missing, wrong, or unreadable again and again is *damaged*: no caller gets the file, and the log
//! is not trimmed to its end. The acceptor goes on voting, and asks a learner for the next snapshot.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use paxos_common::snapshot::name::parse_file_name;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::{self, File},
    io::AsyncReadExt as _,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use crate::store::snapshots::{KeptSnapshots, SHA256_BYTES, SnapshotId};

mod incoming;
pub(crate) mod seed;

pub(crate) use incoming::{IncomingSnapshot, UploadError};

/// Name of the file of an arriving snapshot.
const INCOMING: &str = "incoming.pxs";

/// Number of checks in a row without a readable file, from which the file is damaged.
const UNREAD_MAX: u32 = 3;

/// Largest part of a snapshot in a message, in bytes (inclusive).
pub(crate) const PART_BYTES_MAX: usize = 256 * 1024;
/// Bytes a second of uploads and checks: votes hardly notice such a load of the disk.
const BYTES_PER_SECOND: u64 = 32 * 1024 * 1024;

/// The files of a data directory.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    directory: PathBuf,
    damaged: Mutex<Vec<SnapshotId>>,
    /// Files that could not be read at the last checks, with the number of these checks.
    unread: Mutex<Vec<(SnapshotId, u32)>>,
    /// The snapshot that arrives, with the number of received bytes.
    arriving: Mutex<Option<(SnapshotId, u64)>>,
    /// A single place: snapshots arrive one at a time.
    place: Arc<Semaphore>,
    /// Number of files that have arrived since the start.
    arrived: AtomicU64,
    /// Number of failed uploads since the start.
    failures: AtomicU64,
}

impl SnapshotFiles {
    /// Removes the file of an upload that did not end, and every snapshot file without a record. Marks recorded files
    /// that are missing or have another size as damaged. No other file of the directory is touched. A file that cannot be
    /// removed now is left to the next start.
    pub(crate) fn open(directory: &Path, recorded: &KeptSnapshots) -> Self {
        if let Err(error) = remove_unrecorded(directory, recorded) {
            warn!(%error, directory = %directory.display(), "cannot look for snapshot files without a record");
        }
        let files = Self {
            directory: directory.to_owned(),
            damaged: Mutex::default(),
            unread: Mutex::default(),
            arriving: Mutex::default(),
            place: Arc::new(Semaphore::new(1)),
            arrived: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        };
        for kept in recorded.iter() {
            let size = std::fs::metadata(files.path(kept.id)).map(|file| file.len());
            if size.as_ref().ok() != Some(&kept.id.bytes) {
                files.found(kept.id, false);
            }
        }
        files
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.directory.join(id.file_name())
    }

    /// The damaged files among the recorded files.
    pub(crate) fn damaged_of(&self, recorded: &KeptSnapshots) -> Vec<SnapshotId> {
        let damaged = self.lock_damaged();
        let ids = recorded.iter().map(|kept| kept.id);
        ids.filter(|id| damaged.contains(id)).collect()
    }

    /// The damaged files. Files without a record may be among them.
    pub(crate) fn damaged(&self) -> Vec<SnapshotId> {
        self.lock_damaged().clone()
    }

    fn lock_damaged(&self) -> MutexGuard<'_, Vec<SnapshotId>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records whether a file is sound.
    fn found(&self, id: SnapshotId, is_sound: bool) {
        let news = enter(&mut self.lock_damaged(), id, is_sound);
        self.report(id, news);
    }

    /// Logs a file that is damaged since now.
    fn report(&self, id: SnapshotId, is_news: bool) {
        if is_news {
            warn!(
                file = %self.path(id).display(), to = id.to.get(),
                "this snapshot file is missing or has wrong bytes. Check this disk. A member of a cluster goes on voting, and \
                 asks a learner for the next snapshot. Otherwise, repeat \"paxos restore\""
            );
        }
    }

    /// A file is missing, and counts as damaged from now on if a record names the file; returns whether one does.
    pub(crate) fn missing(&self, id: SnapshotId, is_recorded: impl Fn() -> bool) -> bool {
        let mut damaged = self.lock_damaged();
        let is_damage = is_recorded();
        let news = is_damage && enter(&mut damaged, id, false);
        drop(damaged);
        self.report(id, news);
        is_damage
    }

    /// The snapshot that arrives now, with the number of received bytes.
    pub(crate) fn arriving(&self) -> Option<(SnapshotId, u64)> {
        *self.lock_arriving()
    }

    /// Number of failed uploads since the start. A look that sees no arriving snapshot any more sees the failure: otherwise
    /// the look would ask the next learner, and the look after it one more.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Acquire)
    }

    fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Release);
    }

    fn lock_arriving(&self) -> MutexGuard<'_, Option<(SnapshotId, u64)>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the place of the arriving snapshot; none while another snapshot arrives.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.place).try_acquire_owned().ok()
    }

    /// Opens a file for a caller; none for a damaged file. A trim may remove the file meanwhile: an open file is read to
    /// its end nevertheless.
    ///
    /// # Errors
    /// The file cannot be opened, or is missing.
    pub(crate) async fn read(&self, id: SnapshotId) -> io::Result<Option<File>> {
        if self.lock_damaged().contains(&id) {
            return Ok(None);
        }
        File::open(self.path(id)).await.map(Some)
    }

    /// Reads a whole file and records whether the file is sound. Takes about a second for 32 MiB. A file that no record
    /// names any more at the end, according to `is_recorded`, is no damage: a trim has removed the file.
    ///
    /// # Errors
    /// The file cannot be read now. At the third check in a row a file that cannot be read is damaged.
    ///
    /// # Cancel safety
    /// Safe: then nothing is recorded.
    pub(crate) async fn check(&self, id: SnapshotId, is_recorded: impl Fn() -> bool) -> io::Result<bool> {
        loop {
            let arrived = self.arrived.load(Ordering::Acquire);
            let read = match File::open(self.path(id)).await {
                Ok(file) => is_sound(file, id).await,
                Err(error) => Err(error),
            };
            if let Some(is_sound) = self.checked(id, read, arrived, &is_recorded)? {
                return Ok(is_sound);
            }
        }
    }

    /// Records the result of a check that began when this many files had arrived; returns whether the file is sound. None
    /// after another arrival: the new file may have taken the place of the file that was read.
    fn checked(
        &self,
        id: SnapshotId,
        read: io::Result<bool>,
        arrived: u64,
        is_recorded: impl Fn() -> bool,
    ) -> io::Result<Option<bool>> {
        // Under one lock with the change of the list. An arrival is counted first, and enters its sound file in the list
        // afterwards. A removed file loses its record first, and leaves the list afterwards.
        let mut damaged = self.lock_damaged();
        if self.arrived.load(Ordering::Acquire) != arrived {
            return Ok(None);
        }
        let is_sound = match read {
            Ok(is_sound) => is_sound,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) if self.is_damage(id, &error) => false,
            Err(error) => return Err(error),
        };
        self.lock_unread().retain(|(other, _)| *other != id);
        let news = (is_sound || is_recorded()) && enter(&mut damaged, id, is_sound);
        drop(damaged);
        self.report(id, news);
        Ok(Some(is_sound))
    }

    /// Counts a failed read; returns whether the file counts as damaged from now on.
    fn is_damage(&self, id: SnapshotId, error: &io::Error) -> bool {
        // The process lacks memory or open files: no fault of the file.
        let lacks = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(|lack| lack.raw_os_error());
        if error.raw_os_error().is_some_and(|code| lacks.contains(&code)) {
            return false;
        }
        let mut unread = self.lock_unread();
        let count = match unread.iter_mut().find(|(other, _)| *other == id) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                unread.push((id, 1));
                1
            }
        };
        count >= UNREAD_MAX
    }

    fn lock_unread(&self) -> MutexGuard<'_, Vec<(SnapshotId, u32)>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a file, unless a record names the file. If this fails, the next start removes the file.
    pub(crate) async fn remove(&self, id: SnapshotId, recorded: &KeptSnapshots) {
        if recorded.names_file_of(id) {
            return;
        }
        self.lock_damaged().retain(|other| *other != id);
        self.lock_unread().retain(|(other, _)| *other != id);
        let path = self.path(id);
        match fs::remove_file(&path).await {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => warn!(%error, file = %path.display(), "cannot remove a snapshot file"),
        }
    }
}

/// Enters a damaged file in the list, or removes a sound file from the list. Returns whether the file is damaged since now.
fn enter(damaged: &mut Vec<SnapshotId>, id: SnapshotId, is_sound: bool) -> bool {
    let is_known = damaged.contains(&id);
    if is_sound {
        damaged.retain(|other| *other != id);
    } else if !is_known {
        damaged.push(id);
    }
    !is_sound && !is_known
}

fn remove_unrecorded(directory: &Path, recorded: &KeptSnapshots) -> io::Result<()> {
    let names: Vec<_> = recorded.iter().map(|kept| kept.id.file_name()).collect();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name == INCOMING || (parse_file_name(&name).is_some() && !names.contains(&name)) {
            match std::fs::remove_file(entry.path()) {
                Ok(()) => info!(file = name, "removed a snapshot file without a record"),
                Err(error) => warn!(%error, file = name, "cannot remove a snapshot file without a record"),
            }
        }
    }
    Ok(())
}

/// Whether a file has the size and the hash of `id`.
async fn is_sound(mut file: File, id: SnapshotId) -> io::Result<bool> {
    let mut hash = FileHash::new(id);
    let mut pace = Pace::new();
    let mut part = vec![0; PART_BYTES_MAX];
    loop {
        let read = file.read(&mut part).await?;
        if read == 0 {
            return Ok(hash.ends_whole());
        }
        if !hash.take(&part[..read]) {
            return Ok(false);
        }
        pace.wait(read).await;
    }
}

/// The hash of a file: the last 32 bytes are the SHA-256 of all bytes before, and name the file.
#[derive(Debug)]
struct FileHash {
    id: SnapshotId,
    bytes: u64,
    hash: Sha256,
    end: Vec<u8>,
}

impl FileHash {
    fn new(id: SnapshotId) -> Self {
        Self {
            id,
            bytes: 0,
            hash: Sha256::new(),
            end: Vec::with_capacity(SHA256_BYTES),
        }
    }

    /// Takes the next bytes; `false` beyond the size of the file.
    fn take(&mut self, part: &[u8]) -> bool {
        let hashed = self.id.bytes.saturating_sub(SHA256_BYTES as u64);
        let left = hashed.saturating_sub(self.bytes);
        let (body, end) = part.split_at(part.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.bytes += part.len() as u64;
        if self.bytes > self.id.bytes {
            return false;
        }
        self.hash.update(body);
        self.end.extend_from_slice(end);
        true
    }

    /// Whether the file is whole, and has the right hash.
    fn ends_whole(self) -> bool {
        let found: [u8; SHA256_BYTES] = self.hash.finalize().into();
        self.bytes == self.id.bytes && found == self.id.sha256 && self.end == found
    }
}

/// Limits the bytes a second, without bursts.
#[derive(Debug)]
struct Pace {
    due: Instant,
}

impl Pace {
    fn new() -> Self {
        Self { due: Instant::now() }
    }

    /// Waits after this many bytes.
    async fn wait(&mut self, bytes: usize) {
        let cost = Duration::from_nanos(bytes as u64 * 1_000_000_000 / BYTES_PER_SECOND);
        self.due = self.due.max(Instant::now()) + cost;
        sleep_until(self.due).await;
    }
}

#[cfg(test)]
mod tests;
