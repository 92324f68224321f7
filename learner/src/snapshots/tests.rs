//! Files made from a store: whole, consistent beside a writer, reused, and removed.

use std::{collections::BTreeMap, pin::Pin, task::Poll};

use bytes::Bytes;
use paxos_common::{
    paxos::{
        identity::AcceptorUuid,
        machine::{Machine, digest::StateDigest},
        value::Value,
    },
    service::failure::Exit,
    snapshot::decoder::{SnapshotDecoder, SnapshotPart},
    sqlite::DataDir,
};
use paxos_proto::v1 as pb;
use paxos_test_values::slot;
use sqlx::Connection as _;
use tokio_util::sync::CancellationToken;

use super::*;

fn name_of(summary: &SnapshotSummary) -> String {
    file_name(summary.header.to, &summary.sha256)
}
use crate::{
    disk::DiskSpace,
    knowledge::Knowledge,
    progress::Progress,
    record::read_commands,
    store::{Store, Transaction},
};

fn configuration() -> Configuration {
    let members = (1..=3u128).map(|number| {
        let address = format!("http://127.0.0.1:700{number}");
        (AcceptorUuid::from_u128(number), Arc::from(address))
    });
    Configuration::new(members, 2, 2).unwrap()
}

/// A learner's disk.
struct Disk {
    directory: tempfile::TempDir,
    store: Store,
    log: Log,
    knowledge: Knowledge,
    progress: Progress,
    /// The digest of the state at the end of each transaction.
    digests: BTreeMap<Slot, StateDigest>,
}

impl Disk {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::open(directory.path()).unwrap();
        let cluster = configuration().cluster_id();
        let found = Store::open(Arc::new(data), cluster, &DiskSpace::default())
            .await
            .unwrap();
        Self {
            directory,
            store: found.store,
            log: found.log,
            knowledge: Knowledge::new(found.machine),
            progress: found.progress,
            digests: BTreeMap::new(),
        }
    }

    /// Writes slots with a put in a session each, in one transaction. The values have this many bytes.
    async fn write(&mut self, slots: u64, bytes: usize) {
        let from = self.progress.applied_to();
        let mut transaction = Transaction {
            records: Vec::new(),
            marks: Vec::new(),
            progress: Progress::default(),
            changes: Default::default(),
        };
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
            transaction
                .marks
                .extend(self.progress.pass(slot, &record.value, Some(state)));
            transaction.records.push(record);
        }
        transaction.progress = self.progress.clone();
        transaction.changes = self.knowledge.take_changes();
        self.digests.insert(
            self.progress.applied_to(),
            self.knowledge.machine(Machine::digest),
        );
        self.store.write(&transaction).await.unwrap();
        self.store.keep_wal_short().await.unwrap();
    }

    fn maker(&self) -> (SnapshotOrders, SnapshotMaker) {
        SnapshotMaker::new(self.log.clone(), configuration(), self.directory.path())
    }

    /// Names of the snapshot files.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".pxs")).collect()
    }

    async fn damage(&self, sql: &'static str) {
        let options =
            sqlx::sqlite::SqliteConnectOptions::new().filename(self.directory.path().join("learner.db"));
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let changed = sqlx::query(sql).execute(&mut connection).await.unwrap();
        assert_eq!(changed.rows_affected(), 1);
        connection.close().await.unwrap();
    }
}

/// The state in a file.
fn read(file: &SnapshotFile) -> Machine {
    let bytes = fs::read(&file.path).unwrap();
    let mut decoder = SnapshotDecoder::new(Some(configuration().cluster_id()));
    decoder.push(&bytes);
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
    assert_eq!(decoder.finish().unwrap(), file.summary);
    machine
}

#[tokio::test]
async fn snapshot_has_the_state_and_the_digests_of_its_slot() {
    let mut disk = Disk::new().await;
    disk.write(2_500, 100).await;
    let (_, mut maker) = disk.maker();
    let file = maker.serve(slot(2_500)).await.unwrap();
    let header = &file.summary.header;
    assert_eq!(header.to, slot(2_500));
    assert_eq!(&header.log_digest, disk.progress.latest().digest.as_bytes());
    assert_eq!(header.configuration, configuration());
    let mut machine = disk.knowledge.machine(Machine::clone);
    machine.take_changes();
    assert_eq!(read(&file), machine);
    assert_eq!(file.summary.footer.registers, 900);
    assert_eq!(file.summary.footer.sessions, 250);
    let [name] = &disk.files()[..] else {
        panic!("{:?}", disk.files())
    };
    assert_eq!(*name, name_of(&file.summary));
    // The same state has the same file.
    drop((maker, file));
    assert_eq!(disk.files(), [] as [String; 0]);
    let (_, mut again) = disk.maker();
    let again = again.serve(slot(0)).await.unwrap();
    assert_eq!(name_of(&again.summary), *name);
}

#[tokio::test]
async fn last_file_is_used_again_if_long_enough_and_removed_with_its_last_user() {
    let mut disk = Disk::new().await;
    disk.write(100, 10).await;
    let (_, mut maker) = disk.maker();
    let first = maker.serve(slot(100)).await.unwrap();
    disk.write(100, 10).await;
    let again = maker.serve(slot(100)).await.unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let longer = maker.serve(slot(101)).await.unwrap();
    assert_eq!(longer.summary.header.to, slot(200));
    assert_eq!(disk.files().len(), 2);
    drop((first, again));
    assert_eq!(disk.files(), [name_of(&longer.summary)]);
    drop((maker, longer));
    assert_eq!(disk.files(), [] as [String; 0]);
}

#[tokio::test]
async fn later_file_of_the_same_name_is_read_to_its_end_without_the_earlier_file() {
    let mut disk = Disk::new().await;
    disk.write(100, 10).await;
    let (_, mut maker) = disk.maker();
    let first = maker.serve(slot(100)).await.unwrap();
    // The first file is still read when its time for further orders is over. Nothing was written since.
    maker.last = None;
    let second = maker.serve(slot(100)).await.unwrap();
    assert_eq!(first.path, second.path);
    let content = async |file: &SnapshotFile| {
        let bytes = usize::try_from(file.summary.bytes).unwrap();
        file.read_part(0, bytes).await.unwrap()
    };
    let expected = content(&first).await;
    drop(first);
    assert_eq!(content(&second).await, expected);
    drop((maker, second));
    assert_eq!(disk.files(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_beside_a_busy_writer_are_states_between_transactions() {
    let mut disk = Disk::new().await;
    disk.write(500, 2_000).await;
    let (_, mut maker) = disk.maker();
    let (stop, stopped) = oneshot::channel::<()>();
    let making = tokio::spawn(async move {
        let mut files = Vec::new();
        let mut stopped = std::pin::pin!(stopped);
        loop {
            maker.last = None;
            tokio::select! {
                file = maker.make() => files.push(file.unwrap()),
                _ = &mut stopped => return files,
            }
        }
    });
    for _ in 0..200 {
        disk.write(7, 2_000).await;
    }
    stop.send(()).unwrap();
    let files = making.await.unwrap();
    assert!(files.len() > 1, "{}", files.len());
    for file in &files {
        let expected = disk.digests[&file.summary.header.to];
        assert_eq!(
            (read(file).digest(), file.summary.footer.digest),
            (expected, expected)
        );
    }
}

#[tokio::test]
async fn damage_of_the_state_ends_the_maker_with_74_and_marks_the_file() {
    for sql in [
        "UPDATE register SET value = x'00' WHERE key = (SELECT min(key) FROM register)",
        "DELETE FROM register WHERE key = (SELECT min(key) FROM register)",
        "UPDATE session SET content = x'00' WHERE slot = 10",
        "DELETE FROM session WHERE slot = 10",
        "UPDATE state SET state_digest = x'00000000000000000000000000000000'",
    ] {
        let mut disk = Disk::new().await;
        disk.write(100, 10).await;
        disk.damage(sql).await;
        let (snapshots, maker) = disk.maker();
        let shutdown = Shutdown::new(&CancellationToken::new());
        let (made, ran) = tokio::join!(snapshots.snapshot(slot(100)), maker.run(shutdown));
        assert!(matches!(made, Err(NoSnapshot::Stopping)), "{sql}: {made:?}");
        let failure = ran.unwrap_err();
        assert_eq!(failure.code, Exit::Storage, "{sql}: {failure}");
        assert!(disk.directory.path().join("DAMAGED").exists(), "{sql}");
        assert_eq!(disk.files(), [] as [String; 0], "{sql}");
    }
}

#[tokio::test]
async fn no_file_is_made_for_a_caller_that_is_gone() {
    let mut disk = Disk::new().await;
    disk.write(100, 10).await;
    // A file in the making would end the maker.
    disk.damage("UPDATE register SET value = x'00' WHERE key = (SELECT min(key) FROM register)")
        .await;
    let (snapshots, maker) = disk.maker();
    for _ in 0..3 {
        let mut gone = Box::pin(snapshots.snapshot(slot(100)));
        assert!(futures::poll!(&mut gone).is_pending());
    }
    let shutdown = Shutdown::new(&CancellationToken::new());
    let running = tokio::spawn(maker.run(shutdown.clone()));
    // The maker has taken the orders: there is room for as many.
    while snapshots.0.capacity() < ORDERS_MAX {
        tokio::task::yield_now().await;
    }
    shutdown.begin();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn file_in_the_making_is_given_up_when_the_caller_goes() {
    let mut disk = Disk::new().await;
    disk.write(2_000, 10_000).await;
    let (snapshots, maker) = disk.maker();
    let shutdown = Shutdown::new(&CancellationToken::new());
    let running = tokio::spawn(maker.run(shutdown.clone()));
    let mut order = Box::pin(snapshots.snapshot(slot(2_000)));
    while disk.files() != [MAKING] {
        assert!(futures::poll!(&mut order).is_pending());
        tokio::task::yield_now().await;
    }
    drop(order);
    while disk.files() == [MAKING] {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.files(), [] as [String; 0]);
    // The next caller gets a file.
    let file = snapshots.snapshot(slot(2_000)).await.unwrap();
    assert_eq!(disk.files(), [name_of(&file.summary)]);
    shutdown.begin();
    running.await.unwrap().unwrap();
}

/// A call given up after some polls: the future is dropped at this point of its work.
async fn polled<F: Future + Unpin>(mut call: F, polls: usize) -> Option<F::Output> {
    let mut done = 0;
    futures::future::poll_fn(|context| {
        if done == polls {
            return Poll::Ready(None);
        }
        done += 1;
        Pin::new(&mut call).poll(context).map(Some)
    })
    .await
}

#[test]
fn call_given_up_at_any_point_leaves_no_file() {
    // A single thread for blocking work: once a later piece of work is done, all earlier work is done.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut disk = Disk::new().await;
        disk.write(100, 100).await;
        let (_, maker) = disk.maker();
        // The work of threads at the time of the removal: not begun, or done.
        for is_done in [false, true] {
            let mut polls = 1;
            while polled(Box::pin(maker.make()), polls).await.is_none() {
                if is_done {
                    spawn_blocking(|| {}).await.unwrap();
                }
                remove(&disk.directory.path().join(MAKING));
                spawn_blocking(|| {}).await.unwrap();
                assert_eq!(disk.files(), [] as [String; 0], "given up after {polls} polls");
                polls += 1;
            }
            assert!(polls > 2, "{polls}");
        }
        // A file that cannot get its name.
        let file = maker.make().await.unwrap();
        let path = file.path.clone();
        drop(file);
        fs::create_dir(&path).unwrap();
        maker.make().await.unwrap_err();
        assert_eq!(disk.files().len(), 1, "{:?}", disk.files());
        assert!(path.is_dir());
    });
}

#[tokio::test]
async fn files_of_a_killed_run_are_removed_at_start() {
    let mut disk = Disk::new().await;
    disk.write(10, 10).await;
    for name in [MAKING, "snapshot-7-01234567.pxs"] {
        fs::write(disk.directory.path().join(name), "cut off").unwrap();
    }
    remove_leftovers(disk.directory.path().to_owned()).await;
    let (snapshots, maker) = disk.maker();
    let shutdown = Shutdown::new(&CancellationToken::new());
    let running = tokio::spawn(maker.run(shutdown.clone()));
    let file = snapshots.snapshot(slot(10)).await.unwrap();
    assert_eq!(disk.files(), [name_of(&file.summary)]);
    shutdown.begin();
    running.await.unwrap().unwrap();
    assert!(matches!(
        snapshots.snapshot(slot(10)).await,
        Err(NoSnapshot::Stopping)
    ));
}

#[tokio::test]
async fn files_of_earlier_runs_are_removed_and_an_operators_backup_stays() {
    let directory = tempfile::tempdir().unwrap();
    let own = [MAKING, "snapshot-51200-0ab100ff.pxs"];
    let foreign = [
        "saved.pxs",
        "snapshot-51200-0ab100ff.pxs.old",
        "snapshot-monday-0ab100ff.pxs",
        "snapshot-51200-0AB100FF.pxs",
        "snapshot-51200.pxs",
        "learner.db",
    ];
    for name in own.iter().chain(&foreign) {
        fs::write(directory.path().join(name), "content").unwrap();
    }
    remove_leftovers(directory.path().to_owned()).await;
    for name in own {
        assert!(!directory.path().join(name).exists(), "{name}");
    }
    for name in foreign {
        assert!(directory.path().join(name).exists(), "{name}");
    }
}
