//! Reads the recorded snapshot file into a state machine.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use paxos_common::{
    paxos::{
        identity::ClusterId,
        machine::{KeyedRegister, Machine},
    },
    snapshot::{
        SnapshotError,
        decoder::{SnapshotDecoder, SnapshotPart},
    },
};
use tokio::task::spawn_blocking;

use super::StoreError;
use crate::{
    snapshot_file::{RecordedSnapshot, SnapshotFile, has_recorded_bytes},
    start_work::{StartStep, StartWork},
};

/// Size of a read in bytes.
const READ_BYTES: usize = 1024 * 1024;

/// Why a snapshot file is not loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    /// Not the recorded file, or no whole file.
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Content(#[from] SnapshotError),
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The caller is gone.
    #[error("the start is given up")]
    GivenUp,
}

/// Cancels the load when dropped.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The state in the recorded file, and the file. The state is whole, and the recorded state.
///
/// # Errors
/// The file is missing or damaged, of a newer release, or cannot be read.
///
/// # Cancel safety
/// Safe: the load ends soon.
pub(super) async fn load(
    directory: &Path,
    cluster: ClusterId,
    recorded: RecordedSnapshot,
    work: &Arc<StartWork>,
) -> Result<(Machine, SnapshotFile), StoreError> {
    let path = directory.join(recorded.name());
    let is_cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = CancelOnDrop(Arc::clone(&is_cancelled));
    let (file, work) = (path.clone(), Arc::clone(work));
    let loading = spawn_blocking(move || {
        let loaded = read(&file, cluster, recorded, &work, &is_cancelled);
        loaded.map_err(|error| judged(error, &file, &recorded))
    });
    let loaded = loading
        .await
        .unwrap_or_else(|error| Err(LoadError::Io(io::Error::other(error))));
    loaded.map_err(|error| match error {
        LoadError::Content(source @ SnapshotError::Newer { .. }) => {
            StoreError::NewerSnapshot { path, source }
        }
        LoadError::Damaged(reason) => StoreError::DamagedSnapshot { path, reason },
        LoadError::Content(error) => StoreError::DamagedSnapshot {
            path,
            reason: error.to_string(),
        },
        LoadError::Io(error) if error.kind() == io::ErrorKind::NotFound => StoreError::DamagedSnapshot {
            path,
            reason: "the file is missing".to_owned(),
        },
        LoadError::Io(source) => StoreError::NotLoaded { path, source },
        error @ LoadError::GivenUp => StoreError::NotLoaded {
            path,
            source: io::Error::other(error),
        },
    })
}

/// Judges a failed load: a flipped bit may look like the format of a newer release, which has the recorded bytes.
fn judged(error: LoadError, path: &Path, recorded: &RecordedSnapshot) -> LoadError {
    let LoadError::Content(SnapshotError::Newer { .. }) = error else {
        return error;
    };
    match has_recorded_bytes(path, recorded) {
        Ok(true) => error,
        Ok(false) => LoadError::Damaged("the bytes do not match the recorded SHA-256".to_owned()),
        Err(error) => LoadError::Io(error),
    }
}

fn read(
    path: &Path,
    cluster: ClusterId,
    recorded: RecordedSnapshot,
    work: &StartWork,
    is_cancelled: &AtomicBool,
) -> Result<(Machine, SnapshotFile), LoadError> {
    let mut file = File::open(path)?;
    let found = file.metadata()?.len();
    if found != recorded.bytes {
        let expected = recorded.bytes;
        return Err(LoadError::Damaged(format!(
            "the file has {found} bytes, and had {expected} bytes"
        )));
    }
    let mut decoder = SnapshotDecoder::new(Some(cluster));
    let mut machine = Machine::restored(recorded.to);
    let (mut buffer, mut done) = (vec![0; READ_BYTES], 0);
    loop {
        work.does(StartStep::Loads {
            read: done,
            bytes: recorded.bytes,
        });
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        if is_cancelled.load(Ordering::Relaxed) {
            return Err(LoadError::GivenUp);
        }
        done += read as u64;
        decoder.push(&buffer[..read]);
        while let Some(part) = decoder.next_part()? {
            add(&mut machine, part)?;
        }
    }
    let summary = decoder.finish()?;
    if RecordedSnapshot::of(&summary) != recorded {
        return Err(LoadError::Damaged(
            "the file is another snapshot than the recorded one".to_owned(),
        ));
    }
    // The decoder has hashed every record, and compared the sum.
    machine.restore_digest(summary.footer.digest);
    Ok((machine, SnapshotFile::found(path.to_owned(), file, summary)))
}

fn add(machine: &mut Machine, part: SnapshotPart) -> Result<(), LoadError> {
    let is_new = match part {
        SnapshotPart::Header(_) => true,
        SnapshotPart::Register(key, register) => {
            let register = KeyedRegister::new(&key, &register.value, register.version);
            machine.restore_hashed_register(register)
        }
        SnapshotPart::Session(name, session) => machine.restore_session(name, session),
    };
    if is_new {
        return Ok(());
    }
    Err(LoadError::Damaged("a record is there twice".to_owned()))
}
