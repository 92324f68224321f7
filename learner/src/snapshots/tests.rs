//! Files made of the state in memory: whole, recorded, consistent beside a busy applier, reused, and removed.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use paxos_common::{
    paxos::{
        identity::ClusterId,
        machine::{Machine, digest::StateDigest},
        value::Value,
    },
    service::failure::Exit,
    snapshot::{
        SnapshotSummary,
        decoder::{SnapshotDecoder, SnapshotPart},
    },
};
use paxos_proto::v1 as pb;
use paxos_test_values::slot;
use tokio_util::sync::CancellationToken;

use super::*;

mod again;
mod lost;
mod power;

use crate::{
    cluster::cluster_of,
    knowledge::Knowledge,
    metrics::Instruments,
    persist::{Writer, WriterInputs},
    progress::Progress,
    record::read_commands,
    store::{
        OpenedStore, Transaction,
        testing::{configuration, open},
    },
};

/// Growth of the log that makes a file due.
const LOG_BYTES_MIN: u64 = 1_000_000;

/// A learner's applier and writer, with a maker of snapshots that the test runs.
struct Disk {
    directory: PathBuf,
    /// Removes the directory.
    _temporary: Option<tempfile::TempDir>,
    knowledge: Arc<Knowledge>,
    /// Locked while a transaction is applied, or the state is kept.
    progress: Arc<Mutex<Progress>>,
    transactions: mpsc::Sender<Transaction>,
    writer: tokio::task::JoinHandle<Result<(), Failure>>,
    growth: Arc<LogGrowth>,
    /// The next request for a common end waits, until another request for a common end.
    waits_for_end: Arc<AtomicBool>,
    orders: SnapshotOrders,
    shutdown: Shutdown,
    /// The digest of the state at the end of each transaction.
    digests: BTreeMap<Slot, StateDigest>,
    _bound: watch::Sender<Slot>,
}

fn cluster() -> ClusterId {
    configuration().cluster_id()
}

fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap()
}

impl Disk {
    /// A learner on an empty directory, and its maker.
    async fn new() -> (Self, SnapshotMaker) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        Self::open(path, Some(directory)).await
    }

    async fn open(directory: PathBuf, temporary: Option<tempfile::TempDir>) -> (Self, SnapshotMaker) {
        let found = open(&directory, cluster()).await.unwrap();
        let OpenedStore {
            store,
            progress,
            machine,
            snapshot,
            log_bytes,
            ..
        } = found;
        let shutdown = Shutdown::new(&CancellationToken::new());
        let knowledge = Arc::new(Knowledge::new(machine));
        let progress = Arc::new(Mutex::new(progress));
        let bytes = snapshot.as_ref().map_or(0, |file| file.summary.bytes);
        let growth = Arc::new(LogGrowth::new(LOG_BYTES_MIN, log_bytes, bytes));
        let (views, mut wanted) = mpsc::channel::<ViewRequest>(1);
        let (kept, held) = (Arc::clone(&knowledge), Arc::clone(&progress));
        let waits_for_end = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&waits_for_end);
        tokio::spawn(async move {
            let mut _waiting = None;
            while let Some(view) = wanted.recv().await {
                if view.end == WantedEnd::Common && waits.swap(false, Ordering::Relaxed) {
                    _waiting = Some(view);
                    continue;
                }
                let progress = locked(&held);
                let _ = view.answer.send(kept.keep(progress.latest()));
            }
        });
        let (records, recorded) = mpsc::channel(1);
        let (transactions, received) = mpsc::channel(1);
        let (bound, bound_seen) = watch::channel(Slot::ZERO);
        let writer = Writer::new(
            store,
            Arc::clone(&knowledge),
            Instruments::default(),
            Arc::default(),
            Arc::clone(&growth),
        );
        let inputs = WriterInputs {
            transactions: received,
            bound: bound_seen,
            records: recorded,
        };
        let writer = tokio::spawn(writer.run(inputs));
        let (orders, maker) = SnapshotMaker::new(MakerInputs {
            cluster: cluster_of(&configuration()),
            directory: directory.clone(),
            views,
            records,
            growth: Arc::clone(&growth),
            last: snapshot,
        });
        let disk = Self {
            directory,
            _temporary: temporary,
            knowledge,
            progress,
            transactions,
            writer,
            growth,
            waits_for_end,
            orders,
            shutdown,
            digests: BTreeMap::new(),
            _bound: bound,
        };
        (disk, maker)
    }

    /// Writes slots with a put in a session each, in one transaction. The values have this many bytes.
    async fn write(&mut self, slots: u64, bytes: usize) {
        let transaction = self.apply(slots, bytes);
        self.transactions.send(transaction).await.unwrap();
    }

    fn apply(&mut self, slots: u64, bytes: usize) -> Transaction {
        let mut progress = locked(&self.progress);
        let from = progress.applied_to();
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        for slot in from.to(from.plus(slots)) {
            let number = slot.get();
            let operation = match number % 10 {
                0 => pb::command::Operation::OpenSession(pb::OpenSession::default()),
                _ => pb::command::Operation::Put(pb::Put {
                    key: format!("key {}", number * 7 % 1_000).into(),
                    value: vec![7; bytes].into(),
                    condition: None,
                }),
            };
            let session = (number % 10 > 0).then(|| pb::SessionStamp {
                session: Some(pb::Version {
                    slot: number / 10 * 10,
                    offset: 0,
                }),
                sequence: number % 10,
                ..pb::SessionStamp::default()
            });
            let command = pb::Command {
                session,
                operation: Some(operation),
            };
            let value = paxos_common::wire::command::encode(command).unwrap();
            let value = Value::batch(&[value], Bytes::new());
            let read = read_commands(slot, &value).unwrap();
            let (record, state) = self.knowledge.apply(slot, value, read.shown, &read.commands);
            marks.extend(progress.pass(slot, &record.value, Some(state)));
            records.push(record);
        }
        let digest = self.knowledge.machine(Machine::digest);
        self.digests.insert(progress.applied_to(), digest);
        Transaction {
            records,
            marks,
            progress: progress.clone(),
            configuration: Arc::new(configuration()),
        }
    }

    /// Ends the tasks as a kill does, and starts a learner on the same files.
    async fn restart(self) -> (Self, SnapshotMaker) {
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.to_str().unwrap().ends_with("-shm") {
                fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        let path = copy.path().to_owned();
        Self::open(path, Some(copy)).await
    }

    fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes the rest, and closes the store.
    async fn close(self) {
        drop(self.transactions);
        self.writer.await.unwrap().unwrap();
    }

    /// Names of the snapshot files.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".pxs")).collect()
    }

    fn run(&self, maker: SnapshotMaker) -> tokio::task::JoinHandle<Result<(), Failure>> {
        tokio::spawn(maker.run(self.shutdown.clone()))
    }
}

fn name_of(file: &SnapshotFile) -> String {
    RecordedSnapshot::of(&file.summary).name()
}

async fn content(file: &SnapshotFile) -> Bytes {
    let bytes = usize::try_from(file.summary.bytes).unwrap();
    file.read_part(0, bytes).await.unwrap()
}

/// The state in a file.
async fn read(file: &SnapshotFile) -> Machine {
    let mut decoder = SnapshotDecoder::new(Some(cluster()));
    decoder.push(&content(file).await);
    let mut machine = Machine::restored(file.summary.header.to);
    while let Some(part) = decoder.next_part().unwrap() {
        match part {
            SnapshotPart::Header(header) => assert_eq!(header, file.summary.header),
            SnapshotPart::Register(key, register) => {
                assert!(machine.restore_register(&key, &register.value, register.version));
            }
            SnapshotPart::Session(name, session) => assert!(machine.restore_session(name, session)),
        }
    }
    let summary: SnapshotSummary = decoder.finish().unwrap();
    assert_eq!(summary, file.summary);
    machine
}

#[tokio::test]
async fn snapshot_has_the_state_and_the_digests_of_its_slot() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(2_500, 100).await;
    disk.run(maker);
    let file = disk.orders.snapshot(slot(2_500), Duration::MAX).await.unwrap();
    let header = &file.summary.header;
    assert_eq!(header.to, slot(2_500));
    let latest = locked(&disk.progress).latest();
    assert_eq!(&header.log_digest, latest.digest.as_bytes());
    assert_eq!(header.configuration, configuration());
    assert_eq!(read(&file).await, disk.knowledge.machine(Machine::clone));
    assert_eq!(file.summary.footer.registers, 900);
    assert_eq!(file.summary.footer.sessions, 250);
    assert_eq!(disk.files(), [name_of(&file)]);
}

#[tokio::test]
async fn snapshot_is_made_without_an_order_once_the_log_has_grown() {
    let (mut disk, maker) = Disk::new().await;
    disk.run(maker);
    disk.write(50, 10_000).await;
    assert!(!*disk.growth.follow_due().borrow());
    disk.write(60, 10_000).await;
    let mut due = disk.growth.follow_due();
    due.wait_for(|due| *due).await.unwrap();
    due.wait_for(|due| !*due).await.unwrap();
    // One file serves all.
    let file = disk.orders.snapshot(slot(110), Duration::MAX).await.unwrap();
    assert_eq!(file.summary.header.to, slot(110));
    assert_eq!(disk.files(), [name_of(&file)]);
    let expected = disk.knowledge.machine(Machine::clone);
    let (disk, _maker) = disk.restart().await;
    assert_eq!(disk.knowledge.machine(Machine::clone), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beside_a_busy_applier_are_states_between_transactions() {
    let (mut disk, mut maker) = Disk::new().await;
    disk.write(500, 2_000).await;
    let (stop, mut stopped) = oneshot::channel::<()>();
    let making = tokio::spawn(async move {
        let mut files = Vec::new();
        while stopped.try_recv().is_err() {
            files.push(maker.make(None).await.unwrap());
        }
        files
    });
    for _ in 0..200 {
        disk.write(7, 2_000).await;
    }
    stop.send(()).unwrap();
    let files = making.await.unwrap();
    assert!(files.len() > 1, "{}", files.len());
    for file in &files {
        let expected = disk.digests[&file.summary.header.to];
        let found = read(file).await.digest();
        assert_eq!((found, file.summary.footer.digest), (expected, expected));
    }
    assert_eq!(disk.files(), [name_of(files.last().unwrap())]);
}

#[tokio::test]
async fn file_is_not_the_last_before_the_slots_below_are_written() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    disk.knowledge.durable().until(slot(100)).await.unwrap();
    let transaction = disk.apply(50, 10);
    disk.run(maker);
    let mut order = Box::pin(disk.orders.snapshot(slot(150), Duration::MAX));
    let is_whole = |name: &String| name.starts_with("state-150-");
    while !disk.files().iter().any(is_whole) {
        assert!(futures::poll!(&mut order).is_pending());
        tokio::task::yield_now().await;
    }
    // Far longer than a record takes.
    let early = tokio::time::timeout(Duration::from_millis(500), &mut order).await;
    assert!(early.is_err(), "recorded too early");
    // A restart here has the written slots, and not the snapshot.
    let copy = tempfile::tempdir().unwrap();
    for name in ["learner.db", "learner.db-wal"] {
        fs::copy(disk.path().join(name), copy.path().join(name)).unwrap();
    }
    let found = open(copy.path(), cluster()).await.unwrap();
    assert_eq!(found.progress.applied_to(), slot(100));
    assert!(found.snapshot.is_none());
    disk.transactions.send(transaction).await.unwrap();
    let file = order.await.unwrap();
    assert_eq!(file.summary.header.to, slot(150));
}

#[tokio::test]
async fn wrong_state_in_memory_ends_the_process_and_no_file_is_left() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    // The digests of another state.
    let wrong = crate::progress::Mark {
        state: Some(StateDigest::default()),
        ..locked(&disk.progress).latest()
    };
    *locked(&disk.progress) = Progress::recovered(wrong, Default::default());
    let orders = disk.orders.clone();
    let (made, ran) = tokio::join!(
        orders.snapshot(slot(100), Duration::MAX),
        maker.run(disk.shutdown.clone())
    );
    assert!(matches!(made, Err(NoSnapshot::Stopping)), "{made:?}");
    assert_eq!(ran.unwrap_err().code, Exit::Internal);
    assert_eq!(disk.files(), [] as [String; 0]);
}

#[tokio::test]
async fn no_file_is_made_for_a_caller_that_is_gone() {
    let (mut disk, maker) = Disk::new().await;
    disk.write(100, 10).await;
    for _ in 0..3 {
        let mut gone = Box::pin(disk.orders.snapshot(slot(100), Duration::MAX));
        assert!(futures::poll!(&mut gone).is_pending());
    }
    let running = disk.run(maker);
    // The maker has taken the orders: there is room for as many.
    while disk.orders.orders.capacity() < ORDERS_MAX {
        tokio::task::yield_now().await;
    }
    disk.shutdown.begin();
    running.await.unwrap().unwrap();
    assert_eq!(disk.files(), [] as [String; 0]);
}

#[tokio::test]
async fn file_in_the_making_is_given_up_when_the_caller_goes() {
    let (mut disk, maker) = Disk::new().await;
    for _ in 0..9 {
        disk.write(10, 1_000_000).await;
    }
    let mut due = disk.growth.follow_due();
    due.wait_for(|due| *due).await.unwrap();
    // Not due: a due file is made for the next start.
    disk.growth.recorded(disk.growth.written(), u64::MAX);
    let running = disk.run(maker);
    let mut order = Box::pin(disk.orders.snapshot(slot(90), Duration::MAX));
    let is_making = || disk.files().iter().any(|name| name.starts_with("making-"));
    while !is_making() {
        assert!(futures::poll!(&mut order).is_pending());
        tokio::task::yield_now().await;
    }
    drop(order);
    while is_making() {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.files(), [] as [String; 0]);
    // The next caller gets a file.
    let file = disk.orders.snapshot(slot(90), Duration::MAX).await.unwrap();
    assert_eq!(disk.files(), [name_of(&file)]);
    disk.shutdown.begin();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn files_of_earlier_runs_are_removed_and_an_operators_backup_stays() {
    let directory = tempfile::tempdir().unwrap();
    let own = ["making.pxs", "making-70.pxs", "state-51200-0ab100ff.pxs"];
    let kept = [
        "state-51201-0ab100ff.pxs",
        "state-51200-0AB100FF.pxs",
        "state-51200.pxs",
        "making-.pxs",
        "making-7a.pxs",
        "making-7.pxs.old",
        "saved.pxs",
        // The name of an acceptor's snapshot.
        "snapshot-51200-0ab100ff.pxs",
        "snapshot-51200-0ab100ff.pxs.old",
        "snapshot-monday-0ab100ff.pxs",
        "snapshot-51200-0AB100FF.pxs",
        "snapshot-51200.pxs",
        "learner.db",
    ];
    for name in own.iter().chain(&kept) {
        fs::write(directory.path().join(name), "content").unwrap();
    }
    let recorded = Some("state-51201-0ab100ff.pxs".to_owned());
    snapshot_file::remove_all_but(directory.path().to_owned(), recorded).await;
    for name in own {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
    for name in kept {
        assert!(directory.path().join(name).exists(), "{name}");
    }
}
