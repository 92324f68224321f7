//! A store in memory, for tests: the disk outlives the store, and can be made to forget.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use paxos_common::paxos::{
    acceptor::{HeldRow, Membership, Recovered, Write},
    ballot::Ballot,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
    message::Row,
    slot::Slot,
    value::Value,
    witness::{RUNS_MAX, WITNESSED_RUNS_MAX, Witnesses},
};

use super::{
    DiskPage, FileBytes, Moment, PageFill, PastPromise, Reader, RecoveredRun, SWEEP_ROWS_MAX, SpaceLevel,
    Store, StoreError, Swept,
    snapshots::{KeptSnapshot, KeptSnapshots},
    wall_time_ms,
};

/// The content survives the process. Clones share the same disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Versions>>);

#[derive(Debug, Default)]
struct Versions {
    now: DiskContent,
    /// The content before the last commit.
    before: Option<DiskContent>,
}

#[derive(Clone, Debug, Default)]
struct DiskContent {
    uuid: AcceptorUuid,
    commit_counter: CommitCounter,
    runs: Vec<(RunNumber, Option<CommitCounter>)>,
    membership: Membership,
    promised: Ballot,
    leader_address: Arc<str>,
    known_to: Slot,
    trimmed_to: Slot,
    /// At least 1 once something is committed.
    least_version: u32,
    snapshots: KeptSnapshots,
    rows: BTreeMap<Slot, (Ballot, Value)>,
    promises: Vec<PastPromise>,
    witnesses: Witnesses,
}

impl DiskContent {
    fn moment(&self) -> Moment {
        Moment {
            commit_counter: self.commit_counter,
            promised: self.promised,
            leader_address: Arc::clone(&self.leader_address),
            known_to: self.known_to,
            trimmed_to: self.trimmed_to,
            voted_to: self
                .rows
                .last_key_value()
                .map_or(Slot::ZERO, |(slot, _)| slot.next())
                .max(self.known_to),
            least_version: self.least_version.max(1),
        }
    }
}

impl MemoryDisk {
    /// A blank disk of an acceptor with this uuid.
    pub fn new(uuid: AcceptorUuid) -> Self {
        let disk = Self::default();
        disk.lock().now.uuid = uuid;
        disk
    }

    /// Begins a run on this disk.
    pub fn open(&self, run: RunNumber) -> (MemoryStore, RecoveredRun) {
        let mut versions = self.lock();
        let content = &mut versions.now;
        if let Some((_, ended)) = content.runs.last_mut() {
            *ended = Some(content.commit_counter);
        }
        let surplus = (content.runs.len() + 1).saturating_sub(RUNS_MAX);
        content.runs.drain(..surplus);
        let past_runs = content
            .runs
            .iter()
            .filter_map(|&(run, ended)| Some((run, ended?)))
            .collect();
        content.runs.push((run, None));
        content.commit_counter = content.commit_counter.next();
        let moment = content.moment();
        let held = |(&slot, (ballot, value)): (&Slot, &(Ballot, Value))| {
            (slot, HeldRow::Accepted(*ballot, value.fingerprint()))
        };
        let recovered = Recovered {
            uuid: content.uuid,
            commit_counter: content.commit_counter,
            membership: content.membership.clone(),
            promised: content.promised,
            leader_address: Arc::clone(&content.leader_address),
            known_to: content.known_to,
            trimmed_to: moment.trimmed_to,
            voted_to: moment.voted_to,
            least_version: moment.least_version,
            rows: content.rows.range(content.known_to..).map(held).collect(),
        };
        (
            MemoryStore(self.clone()),
            RecoveredRun {
                recovered,
                past_runs,
                witnesses: content.witnesses.clone(),
                snapshots: content.snapshots,
            },
        )
    }

    /// Reverts the last commit, like a disk after a falsely reported flush. Returns whether there was a commit.
    pub fn lose_last_commit(&self) -> bool {
        let mut versions = self.lock();
        match versions.before.take() {
            Some(before) => {
                versions.now = before;
                true
            }
            None => false,
        }
    }

    /// Loses the row of a slot, like a damaged disk.
    pub fn lose(&self, slot: Slot) {
        self.lock().now.rows.remove(&slot);
    }

    fn lock(&self) -> MutexGuard<'_, Versions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The use of a [`MemoryDisk`] by one run.
#[derive(Debug)]
pub struct MemoryStore(MemoryDisk);

impl Store for MemoryStore {
    type Reader = MemoryDisk;

    async fn commit(&mut self, write: Write<'_>) -> Result<(), StoreError> {
        let mut versions = self.0.lock();
        versions.before = Some(versions.now.clone());
        let content = &mut versions.now;
        content.commit_counter = write.commit_counter;
        if let Some(membership) = write.membership {
            content.membership = membership.clone();
        }
        content.promised = write.promised;
        content.leader_address = Arc::clone(write.leader_address);
        if write.promise_is_new {
            content.promises.push(PastPromise {
                ballot: write.promised,
                address: write.leader_address.to_string(),
                wall_time_ms: wall_time_ms(),
            });
        }
        content.known_to = write.known_to;
        content.least_version = write.least_version;
        content.witnesses.merge(write.witnesses.iter());
        content.witnesses.bound(WITNESSED_RUNS_MAX);
        for (slot, row) in write.rows {
            content.rows.insert(*slot, row.clone());
        }
        if write.trimmed_to > content.trimmed_to {
            content.trimmed_to = write.trimmed_to;
            content.snapshots = content.snapshots.after_trim(write.trimmed_to);
        }
        Ok(())
    }

    async fn keep(&mut self, snapshot: KeptSnapshot) -> Result<(), StoreError> {
        self.0.lock().now.snapshots.waiting = Some(snapshot);
        Ok(())
    }

    async fn forget(&mut self) -> Result<(), StoreError> {
        self.0.lock().now.snapshots.waiting = None;
        Ok(())
    }

    fn snapshots(&self) -> KeptSnapshots {
        self.0.lock().now.snapshots
    }

    async fn sweep(&mut self) -> Result<Swept, StoreError> {
        let mut versions = self.0.lock();
        let content = &mut versions.now;
        let trimmed = content.rows.range(..content.trimmed_to);
        let slots: Vec<_> = trimmed.map(|(&slot, _)| slot).take(SWEEP_ROWS_MAX).collect();
        for slot in &slots {
            content.rows.remove(slot);
        }
        let mut left = content.rows.range(..content.trimmed_to);
        Ok(Swept {
            rows: slots.len(),
            next: left.next().map(|(&slot, _)| slot),
        })
    }

    async fn space(&mut self) -> SpaceLevel {
        SpaceLevel::Enough
    }

    async fn keep_wal_short(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn file(&self) -> &Path {
        Path::new("memory")
    }

    fn reader(&self) -> MemoryDisk {
        self.0.clone()
    }

    async fn close(self) {}
}

impl Reader for MemoryDisk {
    async fn page(&self, from: Slot) -> Result<DiskPage, StoreError> {
        let versions = self.lock();
        let mut fill = PageFill::new(from, versions.now.moment());
        let last = versions.now.rows.range(from..).all(|(&slot, accepted)| {
            fill.take(Row {
                slot,
                accepted: Some(accepted.clone()),
            })
        });
        Ok(fill.finish(last))
    }

    async fn held(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, HeldRow>, StoreError> {
        let versions = self.lock();
        let held = |&slot: &Slot| {
            let (ballot, value) = versions.now.rows.get(&slot)?;
            Some((slot, HeldRow::Accepted(*ballot, value.fingerprint())))
        };
        Ok(slots.iter().filter_map(held).collect())
    }

    async fn promises(&self, limit: u32) -> Result<Vec<PastPromise>, StoreError> {
        Ok(self
            .lock()
            .now
            .promises
            .iter()
            .rev()
            .take(limit as usize)
            .cloned()
            .collect())
    }

    async fn file_bytes(&self) -> Result<FileBytes, StoreError> {
        let versions = self.lock();
        let values = versions.now.rows.values();
        let used = values.map(|(_, value)| value.as_bytes().len() as u64).sum();
        Ok(FileBytes { used, free: 0 })
    }

    async fn wal_bytes(&self) -> u64 {
        0
    }
}
