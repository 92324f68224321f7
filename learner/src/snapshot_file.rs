//! Snapshot files in the data directory: written piece by piece, published durably under a name, and read by parts.
//!
//! - `making-<number>.pxs` is a file in the making. Each writer has a name of its own: the work of a cancelled writer may go
//!   on beside the next writer. The file is removed with its writer, or by the next start.
//! - `state-<to>-<hash>.pxs` is a whole and durable file. The store records one such file, and the next start removes all
//!   others. Releases with schema version 4 of the store remove every `snapshot-*.pxs` at their start, before they refuse a
//!   newer store: hence another name.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use paxos_common::{
    durable::sync_name,
    paxos::slot::Slot,
    snapshot::{HASH_BYTES, SnapshotSummary, name},
};
use rustix::fs::statvfs;
use sha2::{Digest as _, Sha256};
use tokio::{sync::oneshot, task::spawn_blocking};

/// The beginning of the names of files in the making.
const MAKING: &str = "making";
/// The beginning of the names of whole files.
const STATE: &str = "state-";
/// The end of all names.
const SUFFIX: &str = ".pxs";
/// Written bytes between two syncs: a single sync of a large file at its end would hold up every other sync of the disk.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
/// Size of a read in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// A snapshot file as recorded in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordedSnapshot {
    /// The state after every slot below.
    pub(crate) to: Slot,
    pub(crate) sha256: [u8; HASH_BYTES],
    /// Length of the file.
    pub(crate) bytes: u64,
}

impl RecordedSnapshot {
    pub(crate) fn of(summary: &SnapshotSummary) -> Self {
        Self {
            to: summary.header.to,
            sha256: summary.sha256,
            bytes: summary.bytes,
        }
    }

    /// Name of the file: the end, and the beginning of the SHA-256.
    pub(crate) fn name(&self) -> String {
        let [a, b, c, d, ..] = self.sha256;
        state_name(self.to, u32::from_be_bytes([a, b, c, d]))
    }
}

/// A whole and durable snapshot file to be recorded.
#[derive(Debug)]
pub(crate) struct RecordOrder {
    pub(crate) snapshot: RecordedSnapshot,
    /// The growth of the log at the beginning of the snapshot.
    pub(crate) covered: u64,
    /// Answered once the record is durable.
    pub(crate) answer: oneshot::Sender<()>,
}

/// A file is not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    /// Waiting helps.
    #[error("too little space: a snapshot leaves {} MiB free on the disk of this learner", .0 >> 20)]
    NoSpace(u64),
    #[error("write {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A name of a file in the making. Dropped with the file.
#[derive(Debug)]
struct MakingName(PathBuf);

impl MakingName {
    fn new(directory: &Path) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Self(directory.join(format!("{MAKING}-{number}{SUFFIX}")))
    }
}

impl Drop for MakingName {
    /// Removes the file, unless the file has its last name by now.
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A file in the making, removed when dropped. All methods, and the drop, block the thread.
#[derive(Debug)]
pub(crate) struct NewSnapshotFile {
    making: MakingName,
    file: File,
    /// Bytes left free on the disk.
    free_min: u64,
    unsynced: u64,
}

impl NewSnapshotFile {
    /// Begins a file of about this size.
    ///
    /// # Errors
    /// See [`FileError`].
    pub(crate) fn begin(directory: &Path, bytes: u64, free_min: u64) -> Result<Self, FileError> {
        check_space(directory, bytes, free_min)?;
        let making = MakingName::new(directory);
        // Not a file of an earlier run.
        let creating = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&making.0);
        let file = creating.map_err(|source| failed(&making.0, free_min, source))?;
        Ok(Self {
            making,
            file,
            free_min,
            unsynced: 0,
        })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// See [`FileError`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        let directory = self.making.0.parent().unwrap_or(Path::new("."));
        check_space(directory, bytes.len() as u64, self.free_min)?;
        self.unsynced += bytes.len() as u64;
        let mut written = self.file.write_all(bytes);
        if written.is_ok() && self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            written = self.file.sync_data();
        }
        written.map_err(|source| failed(&self.making.0, self.free_min, source))
    }

    /// Ends a whole file. Returns once content and name are durable. The file goes with the second value, unless a store
    /// may record the file.
    ///
    /// # Errors
    /// See [`FileError`]. No new name is left.
    pub(crate) fn publish(
        self,
        summary: SnapshotSummary,
    ) -> Result<(SnapshotFile, UnrecordedFile), FileError> {
        let Self {
            making,
            file,
            free_min,
            ..
        } = self;
        let name = RecordedSnapshot::of(&summary).name();
        let path = making.0.with_file_name(name);
        let published = || {
            file.sync_all()?;
            // A file of this name has the same content, and the store may record the file.
            let is_new = !path.try_exists()?;
            fs::rename(&making.0, &path)?;
            sync_name(&path).inspect_err(|_| {
                if is_new {
                    remove(&path);
                }
            })?;
            Ok::<_, io::Error>(UnrecordedFile(is_new.then(|| path.clone())))
        };
        let unrecorded = published().map_err(|source| failed(&making.0, free_min, source))?;
        let file = SnapshotFile {
            path,
            file: Arc::new(file),
            summary,
        };
        Ok((file, unrecorded))
    }
}

/// A whole snapshot file that no store records yet: removed when dropped, also with the result of a cancelled writer. Empty
/// if the name was there before: a store may record this name.
#[derive(Debug)]
#[must_use]
pub(crate) struct UnrecordedFile(Option<PathBuf>);

impl UnrecordedFile {
    /// A store records the file, or may record the file from now on.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for UnrecordedFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// A whole snapshot on disk.
///
/// The file is open from the beginning and read without its name, so a reader reads to the end although a later snapshot has
/// taken the place.
#[derive(Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    pub(crate) summary: SnapshotSummary,
}

impl SnapshotFile {
    /// A file that was read to its end.
    pub(crate) fn found(path: PathBuf, file: File, summary: SnapshotSummary) -> Self {
        let file = Arc::new(file);
        Self { path, file, summary }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
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

    /// Whether the file still has its name: a file without its name is lost with this process.
    pub(crate) fn is_in_place(&self) -> bool {
        let identity = |found: io::Result<fs::Metadata>| {
            let found = found.ok()?;
            Some((found.dev(), found.ino()))
        };
        let named = identity(fs::metadata(&self.path));
        named.is_some() && named == identity(self.file.metadata())
    }

    /// Whether the bytes on disk are those of the snapshot, on a thread for blocking calls.
    ///
    /// # Cancel safety
    /// Safe: the reads end in the background.
    pub(crate) async fn is_whole(&self) -> bool {
        let (path, expected) = (self.path.clone(), RecordedSnapshot::of(&self.summary));
        let hashing = spawn_blocking(move || has_recorded_bytes(&path, &expected));
        matches!(hashing.await, Ok(Ok(true)))
    }
}

/// Whether the file has the recorded bytes. Blocks the thread.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn has_recorded_bytes(path: &Path, recorded: &RecordedSnapshot) -> io::Result<bool> {
    Ok(hash_of(path, recorded.bytes)? == Some(recorded.sha256))
}

/// The SHA-256 before the last bytes of a file of this size, if the last bytes are this SHA-256.
fn hash_of(path: &Path, bytes: u64) -> io::Result<Option<[u8; HASH_BYTES]>> {
    let file = File::open(path)?;
    let hashed = (file.metadata()?.len() == bytes).then(|| bytes.checked_sub(HASH_BYTES as u64));
    let Some(hashed) = hashed.flatten() else {
        return Ok(None);
    };
    let mut content = file.take(hashed);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; READ_BYTES]);
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    let mut last = [0; HASH_BYTES];
    content.into_inner().read_exact(&mut last)?;
    let found: [u8; HASH_BYTES] = hash.finalize().into();
    Ok((found == last).then_some(found))
}

/// Removes a file, if present. The next start removes the rest.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = if_there(fs::remove_file(path)) {
        tracing::warn!(%error, file = %path.display(), "cannot remove a snapshot file");
    }
}

/// Removes the files in the making of an earlier run: a run may have been killed.
pub(crate) async fn remove_unfinished(directory: PathBuf) {
    let _ = spawn_blocking(move || remove_files(&directory, is_unfinished)).await;
}

/// Removes all snapshot files but the file of this name. Other files stay, as an operator's backup.
pub(crate) async fn remove_all_but(directory: PathBuf, kept: Option<String>) {
    let is_old = move |name: &str| (is_unfinished(name) || is_state(name)) && Some(name) != kept.as_deref();
    let _ = spawn_blocking(move || remove_files(&directory, is_old)).await;
}

/// Removes the snapshot files of the releases before this one. These files have the names of an acceptor's snapshots, so
/// call this only for a directory with a learner's file of an earlier release.
pub(crate) async fn remove_of_earlier_releases(directory: PathBuf) {
    let is_old = |name: &str| name::parse_file_name(name).is_some();
    let _ = spawn_blocking(move || remove_files(&directory, is_old)).await;
}

fn state_name(to: Slot, hash: u32) -> String {
    format!("{STATE}{to}-{hash:08x}{SUFFIX}")
}

fn is_unfinished(name: &str) -> bool {
    let middle = name
        .strip_prefix(MAKING)
        .and_then(|rest| rest.strip_suffix(SUFFIX));
    middle.is_some_and(|middle| match middle.strip_prefix('-') {
        Some(number) => !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()),
        // Of an earlier release.
        None => middle.is_empty(),
    })
}

fn is_state(name: &str) -> bool {
    let parse = || {
        let (to, hash) = name.strip_prefix(STATE)?.strip_suffix(SUFFIX)?.split_once('-')?;
        let to = Slot::new(to.parse().ok()?).ok()?;
        Some(state_name(to, u32::from_str_radix(hash, 16).ok()?))
    };
    // Numbers with a sign, leading zeros or capital letters are not exact.
    parse().is_some_and(|exact| exact == name)
}

fn remove_files(directory: &Path, is_old: impl Fn(&str) -> bool) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, directory = %directory.display(), "cannot look for old snapshot files");
            return;
        }
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_old = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(&is_old)
    };
    // All names before the first removal, which may take long: a file that is made meanwhile stays.
    let old: Vec<_> = paths.filter(is_old).collect();
    old.iter().for_each(|path| remove(path));
}

/// Checks that the disk keeps enough free space after this many more bytes. Without a figure, only a failed write shows a
/// full disk.
pub(crate) fn check_space(directory: &Path, bytes: u64, free_min: u64) -> Result<(), FileError> {
    // The kernel answers from memory.
    match statvfs(directory).map(|found| found.f_bavail.saturating_mul(found.f_frsize)) {
        Ok(free) if free < bytes.saturating_add(free_min) => Err(FileError::NoSpace(free_min)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn failed(path: &Path, free_min: u64, source: io::Error) -> FileError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if full.contains(&source.kind()) {
        return FileError::NoSpace(free_min);
    }
    let path = path.to_owned();
    FileError::Io { path, source }
}

fn if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
