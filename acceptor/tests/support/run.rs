//! A core on a store, driven as in the worker.

use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
};

use paxos_acceptor::store::{
    DiskPage, Reader as _, RecoveredRun, Store, StoreError,
    memory::{MemoryDisk, MemoryStore},
    snapshots::{KeptSnapshot, SnapshotId},
    sqlite::SqliteStore,
};
use paxos_common::{
    paxos::{
        acceptor::{Acceptor, Group},
        identity::RunNumber,
        message::{Accept, AcceptAnswer, Prepare, PrepareAnswer, Row},
        quorum::Configuration,
        slot::Slot,
    },
    sqlite::DataDir,
};

use super::{ballot, configuration, slot};

/// A disk on which runs begin and end.
pub trait TestDisk {
    type Store: Store;
    fn open(&self, run: u64) -> impl Future<Output = (Self::Store, RecoveredRun)>;
}

impl TestDisk for MemoryDisk {
    type Store = MemoryStore;

    async fn open(&self, run: u64) -> (MemoryStore, RecoveredRun) {
        Self::open(self, RunNumber::from_random(run))
    }
}

impl TestDisk for PathBuf {
    type Store = SqliteStore;

    async fn open(&self, run: u64) -> (SqliteStore, RecoveredRun) {
        open(self, run).await.unwrap()
    }
}

/// A run of a core on a store, driven as in the worker.
pub struct AcceptorRun<S: Store> {
    pub core: Acceptor,
    pub store: S,
    pub opened: RecoveredRun,
}

impl<S: Store> AcceptorRun<S> {
    pub async fn begin(disk: &impl TestDisk<Store = S>, number: u64) -> Self {
        let (store, opened) = disk.open(number).await;
        let core = Acceptor::recover(opened.recovered.clone(), RunNumber::from_random(number));
        Self { core, store, opened }
    }

    pub async fn commit(&mut self, group: Group) {
        if let Some(write) = self.core.write(&group) {
            self.store.commit(write).await.unwrap();
        }
        self.core.committed(group);
    }

    pub async fn form(&mut self) {
        self.form_as(&configuration(self.opened.recovered.uuid)).await;
    }

    pub async fn form_as(&mut self, configuration: &Configuration) {
        let mut group = self.core.group();
        self.core.store_configuration(&mut group, configuration).unwrap();
        self.core
            .complete_configuration(&mut group, configuration)
            .unwrap();
        self.commit(group).await;
    }

    pub async fn prepare(&mut self, round: u64) {
        let prepare = Prepare {
            ballot: ballot(round),
            from: Slot::ZERO,
            address: "http://p:1".into(),
        };
        let mut group = self.core.group();
        assert_eq!(self.core.prepare(&mut group, &prepare), PrepareAnswer::Promised);
        self.commit(group).await;
    }

    pub async fn accept(&mut self, accept: Accept) {
        let mut group = self.core.group();
        let answer = self.core.accept(&mut group, &accept, &BTreeMap::new()).unwrap();
        assert!(matches!(answer, AcceptAnswer::Accepted { .. }), "{answer:?}");
        self.commit(group).await;
    }

    /// Records a waiting snapshot.
    pub async fn keep(&mut self, to: u64) -> KeptSnapshot {
        let kept = snapshot(to);
        self.store.keep(kept).await.unwrap();
        kept
    }

    /// Trims to the end of the waiting snapshot.
    pub async fn trim(&mut self) {
        let to = self.store.snapshots().waiting.unwrap().id.to;
        let mut group = self.core.group();
        self.core.trim(&mut group, to).unwrap();
        self.commit(group).await;
    }

    /// All rows, page by page, and the last page.
    pub async fn read(&self, from: u64) -> (Vec<Row>, DiskPage) {
        let (reader, mut from, mut rows) = (self.store.reader(), slot(from), Vec::new());
        loop {
            let mut page = reader.page(from).await.unwrap();
            assert!(page.last || page.next > from, "a page that gets nowhere");
            rows.append(&mut page.rows);
            if page.last {
                return (rows, page);
            }
            from = page.next;
        }
    }
}

/// The record of a snapshot to a slot.
pub fn snapshot(to: u64) -> KeptSnapshot {
    KeptSnapshot {
        id: SnapshotId {
            to: slot(to),
            sha256: [u8::try_from(to % 251).unwrap(); 32],
            bytes: 1000 + to,
        },
        log_bytes: 32_768 + to,
    }
}

/// Opens the store in a directory, as acceptor a1.
pub async fn open(disk: &Path, run: u64) -> Result<(SqliteStore, RecoveredRun), StoreError> {
    SqliteStore::open(DataDir::open(disk).unwrap(), "a1", RunNumber::from_random(run)).await
}

/// Changes a row by SQL, behind the back of a closed store.
pub async fn damage(disk: &Path, sql: &'static str) {
    let file = disk.join("acceptor.db");
    let mut connection = paxos_common::sqlite::open_writer(&file, 700).await.unwrap();
    let done = sqlx::query(sql).execute(&mut connection).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{sql}");
    sqlx::Connection::close(connection).await.unwrap();
}
