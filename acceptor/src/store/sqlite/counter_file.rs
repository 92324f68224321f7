//! The file `COMMITS`: the commit counter in a second place, as evidence against a database that lost commits.
//!
//! - The counter is written after the SQL commit returned and before an answer of this commit leaves. So the counter
//!   never exceeds the counter of a database that lost no commit, and is exact after the end of a process.
//! - A sync follows in the background, at most one in [`SYNC_PAUSE`]. After power loss the file may therefore lag by
//!   the commits of this time plus the commits of one sync. A lagging file proves less, and never anything wrong.
//! - There are three places of one block each: for the last synced record, for the record being synced, and for the
//!   record being written. A torn write spoils only the last of these. The highest verified record counts.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use paxos_common::{
    durable::sync_directory,
    paxos::identity::{AcceptorUuid, CommitCounter},
    sqlite::{DataDir, SqliteError, checksum},
};
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use super::super::StoreError;

pub(super) const FILE: &str = "COMMITS";
const PLACES: usize = 3;
/// Bytes of a place. Each place has a separate block: a torn write spoils a single record.
const PLACE_BYTES: usize = 4096;
/// Format version 1.
const MAGIC: [u8; 8] = *b"paxcnt\0\x01";
/// Magic number, uuid, counter, checksum over the three.
const RECORD_BYTES: usize = 8 + 16 + 8 + 8;
/// Pause between two syncs: leaves the disk to the commits, and keeps the number of unsynced commits small.
const SYNC_PAUSE: Duration = Duration::from_millis(10);

/// Content of the file at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The file is missing.
    Missing,
    /// No record verifies.
    Damaged,
    /// The highest record.
    Record(CounterRecord),
}

/// A record of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CounterRecord {
    /// Every commit up to and including this counter had returned.
    pub(super) counter: CommitCounter,
    /// None until the first commit of a new acceptor.
    pub(super) uuid: Option<AcceptorUuid>,
}

impl CounterRecord {
    fn encode(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..24].copy_from_slice(&self.uuid.map_or([0; 16], |uuid| uuid.to_bytes()));
        bytes[24..32].copy_from_slice(&self.counter.get().to_le_bytes());
        let sum = checksum(&[&bytes[..32]]);
        bytes[32..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.first_chunk()?;
        let uuid = AcceptorUuid::from_slice(&bytes[8..24])?;
        let record = Self {
            counter: CommitCounter::new(u64::from_le_bytes(bytes[24..32].try_into().ok()?)),
            uuid: (uuid.to_bytes() != [0; 16]).then_some(uuid),
        };
        (record.encode() == *bytes).then_some(record)
    }
}

/// The path of the file in a data directory.
pub(super) fn path(directory: &DataDir) -> PathBuf {
    directory.file(FILE)
}

/// Reads the file.
///
/// # Errors
/// The file cannot be read.
pub(super) fn read(directory: &DataDir) -> Result<Found, StoreError> {
    let path = path(directory);
    Ok(look(&path).map_err(at(&path))?.map_or(Found::Missing, |places| {
        let highest = places.into_iter().flatten().max();
        highest.map_or(Found::Damaged, Found::Record)
    }))
}

/// The record of each place; none when the file is missing.
fn look(path: &Path) -> io::Result<Option<[Option<CounterRecord>; PLACES]>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take((PLACES * PLACE_BYTES) as u64).read_to_end(&mut bytes)?;
    let place = |place| bytes.get(place * PLACE_BYTES..).and_then(CounterRecord::decode);
    Ok(Some(std::array::from_fn(place)))
}

fn at(path: &Path) -> impl Fn(io::Error) -> SqliteError + use<> {
    let path = path.to_owned();
    move |source| SqliteError::Directory {
        path: path.clone(),
        source,
    }
}

/// The open file. The store writes; a single task syncs.
#[derive(Debug)]
pub struct CounterFile {
    path: PathBuf,
    file: File,
    places: Mutex<Places>,
    written: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Places {
    writing: usize,
    /// The last synced place.
    durable: usize,
    /// There were writes since the last sync began.
    is_dirty: bool,
}

impl CounterFile {
    /// Opens the file. Creates a missing file with the counter 0, durable before the database is touched.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(super) fn open(directory: &DataDir) -> Result<Arc<Self>, StoreError> {
        let path = path(directory);
        let open = || {
            if !path.exists() {
                create(directory.path(), &path)?;
            }
            let places = look(&path)?.unwrap_or_default();
            // Of equal records the last is the highest, and the next write goes to a different place.
            let highest = (0..PLACES).max_by_key(|&place| places[place]).unwrap_or(0);
            let file = File::options().write(true).open(&path)?;
            // The highest record may come from a process that ended before the sync.
            file.sync_data()?;
            Ok(Self {
                path: path.clone(),
                file,
                places: Mutex::new(Places {
                    writing: (highest + 1) % PLACES,
                    durable: highest,
                    is_dirty: false,
                }),
                written: Notify::new(),
            })
        };
        Ok(Arc::new(open().map_err(at(&path))?))
    }

    /// Writes the counter of a commit that has returned. The counter survives the end of the process at once, and power
    /// loss after the next sync.
    ///
    /// # Errors
    /// The write failed: end the process.
    pub(super) fn write(&self, uuid: AcceptorUuid, counter: CommitCounter) -> Result<(), StoreError> {
        let record = CounterRecord {
            counter,
            uuid: Some(uuid),
        };
        let mut places = self.lock();
        let offset = (places.writing * PLACE_BYTES) as u64;
        // A few bytes into the page cache, at a page that is not being synced.
        self.file
            .write_all_at(&record.encode(), offset)
            .map_err(at(&self.path))?;
        places.is_dirty = true;
        drop(places);
        self.written.notify_one();
        Ok(())
    }

    /// Makes the last written counter durable.
    ///
    /// # Errors
    /// The sync failed: end the process.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        let mut places = self.lock();
        if !places.is_dirty {
            return Ok(());
        }
        let syncing = places.writing;
        places.writing = PLACES - syncing - places.durable;
        places.is_dirty = false;
        drop(places);
        self.file.sync_data().map_err(at(&self.path))?;
        self.lock().durable = syncing;
        Ok(())
    }

    /// Syncs written counters until `stop`. Call it once.
    ///
    /// # Errors
    /// A sync failed: end the process.
    pub async fn keep_synced(self: Arc<Self>, stop: CancellationToken) -> Result<(), StoreError> {
        let work = async {
            loop {
                self.written.notified().await;
                let file = Arc::clone(&self);
                let synced = tokio::task::spawn_blocking(move || file.sync()).await;
                synced.unwrap_or_else(|error| Err(at(&self.path)(io::Error::other(error)).into()))?;
                sleep(SYNC_PAUSE).await;
            }
        };
        // Safe to cancel: closing the store syncs once more.
        stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Creates the file, whole or not at all. Returns once the file and the file name are durable.
fn create(directory: &Path, path: &Path) -> io::Result<()> {
    let record = CounterRecord {
        counter: CommitCounter::default(),
        uuid: None,
    };
    let mut bytes = vec![0; PLACES * PLACE_BYTES];
    for place in bytes.chunks_exact_mut(PLACE_BYTES) {
        place[..RECORD_BYTES].copy_from_slice(&record.encode());
    }
    let unfinished = path.with_extension("new");
    let file = File::create(&unfinished)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuid() -> AcceptorUuid {
        AcceptorUuid::from_u128(5)
    }

    fn record(counter: u64) -> Found {
        Found::Record(CounterRecord {
            counter: CommitCounter::new(counter),
            uuid: Some(uuid()),
        })
    }

    fn write(file: &CounterFile, counter: u64) {
        file.write(uuid(), CommitCounter::new(counter)).unwrap();
    }

    fn bytes(directory: &DataDir) -> Vec<u8> {
        fs::read(path(directory)).unwrap()
    }

    #[test]
    fn highest_counter_is_found_again_whatever_was_synced() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temporary.path()).unwrap();
        assert_eq!(read(&directory).unwrap(), Found::Missing);
        let file = CounterFile::open(&directory).unwrap();
        let blank = CounterRecord {
            counter: CommitCounter::default(),
            uuid: None,
        };
        assert_eq!(read(&directory).unwrap(), Found::Record(blank));
        for counter in 1..40 {
            write(&file, counter);
            assert_eq!(read(&directory).unwrap(), record(counter));
            if counter % 3 == 0 {
                file.sync().unwrap();
            }
            if counter % 7 == 0 {
                drop(CounterFile::open(&directory).unwrap());
            }
        }
    }

    #[test]
    fn synced_record_is_not_written_over_until_a_later_one_is_synced() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temporary.path()).unwrap();
        let mut file = CounterFile::open(&directory).unwrap();
        let mut synced = 0;
        for counter in 1..60 {
            write(&file, counter);
            let Places { writing, .. } = *file.lock();
            // Power loss in the middle of this write: the place holds neither record.
            let mut torn = bytes(&directory);
            torn[writing * PLACE_BYTES + 30..][..6].fill(0xff);
            let places: [_; PLACES] =
                std::array::from_fn(|place| CounterRecord::decode(&torn[place * PLACE_BYTES..]));
            let left = places.into_iter().flatten().max().unwrap();
            assert!(left.counter >= CommitCounter::new(synced), "{left:?}");
            if counter % 4 == 0 {
                file.sync().unwrap();
                synced = counter;
            }
            if counter % 11 == 0 {
                file = CounterFile::open(&directory).unwrap();
                synced = counter;
            }
        }
    }

    #[test]
    fn one_damaged_record_leaves_the_others_and_no_record_is_damage() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temporary.path()).unwrap();
        let file = CounterFile::open(&directory).unwrap();
        for counter in 1..=3 {
            write(&file, counter);
            file.sync().unwrap();
        }
        let sound = bytes(&directory);
        for place in 0..PLACES {
            for byte in 0..RECORD_BYTES {
                let mut damaged = sound.clone();
                damaged[place * PLACE_BYTES + byte] ^= 4;
                fs::write(path(&directory), damaged).unwrap();
                let Found::Record(found) = read(&directory).unwrap() else {
                    panic!("two records are left")
                };
                assert!(found.counter >= CommitCounter::new(2), "{found:?}");
            }
        }
        fs::write(path(&directory), vec![0; sound.len()]).unwrap();
        assert_eq!(read(&directory).unwrap(), Found::Damaged);
        fs::write(path(&directory), "").unwrap();
        assert_eq!(read(&directory).unwrap(), Found::Damaged);
    }

    #[tokio::test]
    async fn task_syncs_what_is_written_until_it_is_stopped() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = DataDir::open(temporary.path()).unwrap();
        let file = CounterFile::open(&directory).unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(&file).keep_synced(stop.clone()));
        write(&file, 1);
        while file.lock().is_dirty {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
