//! The learned log on disk: found content, and refused files.

use std::path::Path;

use bytes::Bytes;
use paxos_common::{
    paxos::{
        command::{Command, Condition, Opener, Operation, SessionStamp},
        slot::Version,
    },
    service::failure::Failure,
};
use paxos_proto::v1 as pb;

use super::{testing::open, *};
use crate::{knowledge::Knowledge, snapshots::write_file};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

mod configuration;
mod foreign;
mod older;
mod snapshot;
mod stalled;
mod trimmed;
mod upgraded;

fn slot_at(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// A batch of a single record.
fn value(text: &str) -> Value {
    let record = Bytes::copy_from_slice(text.as_bytes());
    let command = paxos_common::wire::command::encode(paxos_common::wire::command::append(record)).unwrap();
    Value::from_stored(command.as_bytes().clone(), Bytes::from_static(b"00-1-2-01"))
}

/// A learner without its tasks.
struct TestWriter {
    store: Store,
    log: Log,
    progress: Progress,
    knowledge: Arc<Knowledge>,
}

impl TestWriter {
    async fn open(path: &Path) -> Self {
        let opened = open(path, CLUSTER).await.unwrap();
        Self {
            store: opened.store,
            log: opened.log,
            progress: opened.progress,
            knowledge: Arc::new(Knowledge::new(opened.machine)),
        }
    }

    /// Applies and writes the values in one commit.
    async fn write(&mut self, values: impl IntoIterator<Item = Value>) {
        let transaction = self.apply(values);
        self.store.write(&transaction).await.unwrap();
    }

    /// Applies the values.
    fn apply(&mut self, values: impl IntoIterator<Item = Value>) -> Transaction {
        let mut transaction = Transaction {
            records: Vec::new(),
            marks: Vec::new(),
            progress: Progress::default(),
            configuration: Arc::new(testing::configuration()),
        };
        for value in values {
            let slot = self.progress.applied_to();
            let held = crate::record::read_commands(slot, &value).unwrap();
            let (record, state) = self.knowledge.apply(slot, value, held.shown, &held.commands);
            let mark = self.progress.pass(slot, &record.value, Some(state));
            transaction.marks.extend(mark);
            transaction.records.push(record);
        }
        transaction.progress = self.progress.clone();
        transaction
    }

    /// Makes a snapshot of the present state, and records the snapshot.
    async fn snapshot(&mut self) -> RecordedSnapshot {
        let view = self.knowledge.keep(self.progress.latest());
        let directory = self.store.path().parent().unwrap();
        let file = write_file(view, CLUSTER, directory).await;
        let recorded = RecordedSnapshot::of(&file.summary);
        self.store.record_snapshot(recorded).await.unwrap();
        recorded
    }

    /// The same with `count` values, each naming its slot.
    async fn write_numbered(&mut self, count: u64) {
        let from = self.progress.applied_to();
        let values = from
            .to(from.plus(count))
            .map(|slot| value(&format!("value {slot}")));
        self.write(values).await;
    }
}

async fn damage(path: &Path, sql: &'static str) {
    let mut connection = sqlite::open_writer(&path.join(LEARNER_FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    let changed = sqlx::query(sql).execute(&mut connection).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    connection.close().await.unwrap();
}

#[tokio::test]
async fn reopened_log_holds_what_was_written_and_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    assert_eq!(writer.progress, Progress::default());
    // All ways to cut a batch into statements: one row, a power of two, a mixture, many, marks on the way.
    for count in [1, 8, 7, 1_500, 9_000] {
        writer.write_numbered(count).await;
    }
    let progress = writer.progress;
    writer.store.close().await.unwrap();

    let mut writer = TestWriter::open(directory.path()).await;
    assert_eq!(writer.progress, progress);
    assert_eq!(progress.applied_to(), slot_at(10_516));
    writer.write_numbered(3).await;
    let to = writer.progress.applied_to();
    let mut next = Slot::ZERO;
    while next < to {
        for found in writer.log.page(next, to).await.unwrap() {
            assert_eq!(found.slot, next);
            assert_eq!(found.value, value(&format!("value {next}")));
            assert_eq!(found.value.traceparent(), &Bytes::from_static(b"00-1-2-01"));
            assert_eq!((found.commands.len(), found.judgements.len()), (1, 1));
            next = next.next();
        }
    }
    assert_eq!(next, slot_at(10_519));
}

#[tokio::test]
async fn file_of_another_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    opened.store.close().await.unwrap();
    let error = open(directory.path(), ClusterId::from_bytes([8; 16]))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::OtherCluster { .. }), "{error}");
    assert_eq!(
        Failure::from(error).code,
        paxos_common::service::failure::Exit::Refused
    );
}

#[tokio::test]
async fn damaged_file_is_set_aside_and_a_new_one_is_begun() {
    type Garble<'a> = &'a dyn Fn(&mut Vec<u8>);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(LEARNER_FILE);
    let aside = directory.path().join("learner.db.damaged");
    let damages: [(&str, Garble<'_>); 4] = [
        ("no file of SQLite's", &|bytes| bytes[..100].fill(0x55)),
        ("a file that ends early", &|bytes| bytes.truncate(bytes.len() / 2)),
        ("garbled pages", &|bytes| bytes[4_096..].fill(0x55)),
        ("a garbled table of contents", &|bytes| bytes[100..4_096].fill(0)),
    ];
    for (what, garble) in damages {
        let mut writer = TestWriter::open(directory.path()).await;
        assert_eq!(writer.progress.applied_to(), Slot::ZERO, "{what}");
        writer.write_numbered(2_000).await;
        writer.log.close().await;
        writer.store.close().await.unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        garble(&mut bytes);
        std::fs::write(&file, &bytes).unwrap();

        let opened = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(opened.progress, Progress::default(), "{what}");
        assert_eq!(std::fs::read(&aside).unwrap(), bytes, "{what}");
        opened.log.close().await;
        opened.store.close().await.unwrap();
    }
    // Only the latest damaged file is kept.
    let kept = std::fs::read_dir(directory.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().contains("damaged")
    });
    assert_eq!(kept.count(), 1);
}

#[tokio::test]
async fn damaged_state_record_has_the_file_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(7).await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    damage(directory.path(), "UPDATE state SET applied_to = 5").await;
    let opened = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(opened.progress, Progress::default());
}

#[tokio::test]
async fn damaged_row_found_by_a_reader_sets_the_file_aside_at_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(2_000).await;
    writer.snapshot().await;
    writer.log.close().await;
    writer.store.close().await.unwrap();
    damage(
        directory.path(),
        "UPDATE learned SET value = x'00' WHERE slot = 4",
    )
    .await;
    let reopened = TestWriter::open(directory.path()).await;
    assert_eq!(reopened.progress.applied_to(), slot_at(2_000));
    assert!(reopened.log.page(slot_at(4), slot_at(5)).await.is_err());
    reopened.log.close().await;
    reopened.store.close().await.unwrap();
    for _ in 0..2 {
        let again = TestWriter::open(directory.path()).await;
        assert_eq!(again.progress, Progress::default());
        again.log.close().await;
        again.store.close().await.unwrap();
    }
}

#[tokio::test]
async fn damaged_or_missing_row_is_found_out_and_never_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(10).await;
    let (log, to) = (writer.log, writer.progress.applied_to());
    writer.store.close().await.unwrap();
    damage(
        directory.path(),
        "UPDATE learned SET value = x'00' WHERE slot = 4",
    )
    .await;
    damage(directory.path(), "DELETE FROM learned WHERE slot = 9").await;
    assert_eq!(log.page(Slot::ZERO, slot_at(4)).await.unwrap().len(), 4);
    assert_eq!(log.page(slot_at(5), to).await.unwrap().len(), 4);
    for (from, bad) in [(0, 4), (4, 4), (9, 9)] {
        match log.page(slot_at(from), to).await {
            Err(LogReadError::Damaged { slot, .. }) => assert_eq!(slot, slot_at(bad)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pages_are_bounded_and_always_hold_at_least_one_slot() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    let sizes = [300_000, 200_000, 100_000, 1_000_000, 5, 5];
    writer.write(sizes.map(|bytes| value(&"x".repeat(bytes)))).await;
    let to = writer.progress.applied_to();
    let mut next = Slot::ZERO;
    let mut counts = Vec::new();
    while next < to {
        let page = writer.log.page(next, to).await.unwrap();
        counts.push(page.len());
        next = next.plus(page.len() as u64);
    }
    assert_eq!(counts, [2, 1, 1, 2]);
    writer.write_numbered(2_000).await;
    let to = writer.progress.applied_to();
    assert_eq!(writer.log.page(next, to).await.unwrap().len(), 1_024);
}

fn batch_of(commands: &[Command]) -> Value {
    let on_the_wire = |command: &Command| {
        let condition = |condition: Condition| {
            let condition = match condition {
                Condition::Always => return None,
                Condition::Absent => pb::condition::Condition::Absent(true),
                Condition::Version(version) => pb::condition::Condition::Version(version.into()),
            };
            Some(pb::Condition {
                condition: Some(condition),
            })
        };
        let operation = match &command.operation {
            Operation::Append => pb::command::Operation::Append(pb::Append {
                record: Bytes::from_static(b"record"),
            }),
            Operation::OpenSession { opener } => {
                let opener = bytes_of(*opener);
                pb::command::Operation::OpenSession(pb::OpenSession { opener })
            }
            Operation::Put {
                key,
                value,
                condition: held,
            } => pb::command::Operation::Put(pb::Put {
                key: key.clone(),
                value: value.clone(),
                condition: condition(*held),
            }),
            Operation::Delete { key, condition: held } => pb::command::Operation::Delete(pb::Delete {
                key: key.clone(),
                condition: condition(*held),
            }),
        };
        let session = command.session.map(|stamp| pb::SessionStamp {
            session: Some(stamp.session.into()),
            sequence: stamp.sequence,
            acked_below: stamp.acked_below,
            opener: bytes_of(stamp.opener),
        });
        let operation = Some(operation);
        paxos_common::wire::command::encode(pb::Command { session, operation }).unwrap()
    };
    let commands: Vec<_> = commands.iter().map(on_the_wire).collect();
    Value::batch(&commands, Bytes::new())
}

const OPENER: Option<Opener> = Some(Opener::from_bytes([7; Opener::BYTES]));

fn bytes_of(opener: Option<Opener>) -> Bytes {
    opener.map_or_else(Bytes::new, |opener| Bytes::copy_from_slice(opener.as_bytes()))
}

/// Every kind of judgement, in two slots.
fn varied() -> [Value; 2] {
    varied_of(OPENER)
}

/// The same, in a session with this opener.
fn varied_of(opener: Option<Opener>) -> [Value; 2] {
    let session = Version {
        slot: Slot::ZERO,
        offset: 0,
    };
    let command = |stamp: Option<(Version, u64, u64)>, operation| Command {
        session: stamp.map(|(session, sequence, acked_below)| SessionStamp {
            session,
            sequence,
            acked_below,
            opener,
        }),
        operation,
    };
    let hijack = Command {
        session: Some(SessionStamp {
            session,
            sequence: 5,
            acked_below: 5,
            opener: None,
        }),
        operation: Operation::Append,
    };
    let put = |key: &'static [u8], condition| Operation::Put {
        key: key.into(),
        value: Bytes::from_static(b"v"),
        condition,
    };
    let delete = |key: &'static [u8]| Operation::Delete {
        key: key.into(),
        condition: Condition::Always,
    };
    let first = [
        command(None, Operation::OpenSession { opener }),
        command(None, put(b"gone", Condition::Always)),
        command(None, put(b"kept", Condition::Always)),
    ];
    let stranger = Version {
        slot: slot_at(99),
        offset: 1,
    };
    let second = [
        command(Some((session, 1, 0)), put(b"kept", Condition::Absent)),
        command(Some((session, 1, 0)), put(b"kept", Condition::Absent)),
        command(Some((session, 3, 2)), put(b"new", Condition::Absent)),
        command(Some((session, 1, 0)), put(b"late", Condition::Absent)),
        command(Some((stranger, 1, 0)), put(b"never", Condition::Always)),
        command(
            None,
            put(
                b"other",
                Condition::Version(Version {
                    slot: slot_at(5),
                    offset: 0,
                }),
            ),
        ),
        command(None, delete(b"gone")),
        hijack,
    ];
    [batch_of(&first), batch_of(&second)]
}

#[tokio::test]
async fn reopened_state_and_judgements_are_what_they_were() {
    // In one commit, and with a commit for each slot.
    for together in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = TestWriter::open(directory.path()).await;
        if together {
            writer.write(varied()).await;
        } else {
            for value in varied() {
                writer.write([value]).await;
            }
        }
        let machine = writer.knowledge.machine(Machine::clone);
        let records = |page: Vec<Arc<Record>>| -> Vec<_> {
            page.iter()
                .map(|record| (record.slot, record.commands.clone(), record.judgements.clone()))
                .collect()
        };
        let from_disk = writer.log.page(Slot::ZERO, slot_at(2)).await.unwrap();
        let log = writer.log.clone();
        let in_memory = crate::history::History::new(&writer.knowledge, log)
            .page(Slot::ZERO)
            .await
            .unwrap();
        assert_eq!(records(from_disk), records(in_memory));
        writer.store.close().await.unwrap();
        let reopened = open(directory.path(), CLUSTER).await.unwrap();
        assert_eq!(reopened.machine, machine);
        assert_eq!(reopened.machine.register_count(), 2);
        assert_eq!(reopened.machine.sessions().count(), 1);
    }
}

#[tokio::test]
async fn log_on_disk_and_in_memory_shows_no_opener() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write(varied()).await;
    let from_disk = writer.log.page(Slot::ZERO, slot_at(2)).await.unwrap();
    let log = writer.log.clone();
    let history = crate::history::History::new(&writer.knowledge, log);
    let in_memory = history.page(Slot::ZERO).await.unwrap();
    for record in from_disk.iter().chain(&in_memory) {
        for command in &record.commands {
            let mut hidden = command.clone();
            paxos_common::wire::command::hide_openers(&mut hidden);
            assert_eq!(hidden, *command);
        }
    }
}

#[tokio::test]
async fn write_ahead_log_is_empty_after_a_close_although_readers_stay_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    writer.write_numbered(100).await;
    let wal = directory.path().join(format!("{LEARNER_FILE}-wal"));
    assert!(std::fs::metadata(&wal).unwrap().len() > 0);
    writer.store.close().await.unwrap();
    assert_eq!(std::fs::metadata(&wal).map_or(0, |found| found.len()), 0);
    assert_eq!(
        writer.log.page(Slot::ZERO, slot_at(100)).await.unwrap().len(),
        100
    );
}

#[tokio::test]
async fn lock_of_another_process_is_no_failure_and_loses_nothing() {
    use sqlx::sqlite::SqliteConnectOptions;

    let directory = tempfile::tempdir().unwrap();
    let mut writer = TestWriter::open(directory.path()).await;
    let options = SqliteConnectOptions::new().filename(directory.path().join(LEARNER_FILE));
    let mut holder = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
    let transaction = writer.apply([value("one")]);
    let error = writer.store.write(&transaction).await.unwrap_err();
    assert!(matches!(error, StoreWriteError::Locked), "{error}");
    sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
    writer.store.write(&transaction).await.unwrap();
    assert_eq!(writer.log.page(Slot::ZERO, slot_at(1)).await.unwrap().len(), 1);
}
