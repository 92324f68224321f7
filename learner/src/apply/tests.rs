//! Applying: to memory at once, to disk later, and resuming where the disk ends.

use std::path::Path;

use paxos_common::{
    paxos::{identity::ClusterId, machine::Machine},
    sqlite::DataDir,
    wire::command::{append, encode},
};
use paxos_proto::v1::{self as pb, command::Operation};

use super::*;
use crate::{
    disk::DiskSpace,
    metrics::Instruments,
    persist::Writer,
    store::{OpenedStore, Store},
};

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

/// Slots that each append a record and put the same text into a register.
fn batch(from: u64, to: u64) -> Batch {
    let value = |slot: Slot| {
        let record = format!("value {slot}");
        let put = pb::Put {
            key: format!("key {}", slot.get() % 100).into(),
            value: record.clone().into(),
            condition: None,
        };
        let put = pb::Command {
            session: None,
            operation: Some(Operation::Put(put)),
        };
        let commands = [append(record.into()), put].map(|command| encode(command).unwrap());
        Value::batch(&commands, bytes::Bytes::new())
    };
    slot(from).to(slot(to)).map(|slot| (slot, value(slot))).collect()
}

async fn open(path: &Path) -> OpenedStore {
    let cluster = ClusterId::from_bytes([1; 16]);
    Store::open(
        Arc::new(DataDir::open(path).unwrap()),
        cluster,
        &DiskSpace::default(),
    )
    .await
    .unwrap()
}

/// The last progress shown to readers, and the state at the time.
#[derive(Debug, PartialEq)]
struct Shown {
    progress: Progress,
    machine: Machine,
}

/// Applies the batches like a running learner, and brings the slots to disk.
async fn apply_all(path: &Path, batches: Vec<Batch>) -> Shown {
    let found = open(path).await;
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    let (applied, seen) = watch::channel(found.progress.clone());
    let (transactions, writing) = mpsc::channel(TRANSACTIONS_MAX);
    let knowledge = Arc::new(Knowledge::new(found.machine));
    for batch in batches {
        sender.send(batch).await.unwrap();
    }
    drop(sender);
    let applier = Applier {
        knowledge: Arc::clone(&knowledge),
        progress: found.progress,
        applied,
        transactions,
        values: ValueTracer::default(),
        commands: Counter::default(),
        unreadable: Counter::default(),
    };
    let writer = Writer::new(
        found.store,
        Arc::clone(&knowledge),
        Instruments::default(),
        Arc::default(),
    );
    let (_bound, bound) = watch::channel(Slot::ZERO);
    let (applied, written) = tokio::join!(applier.run(receiver), writer.run(writing, bound));
    applied.unwrap();
    written.unwrap();
    let progress = seen.borrow().clone();
    let durable_to = knowledge.recent(crate::recent::Recent::durable_to);
    assert_eq!(durable_to, progress.applied_to());
    let machine = knowledge.machine(Machine::clone);
    Shown { progress, machine }
}

#[tokio::test]
async fn restart_goes_on_from_the_cursor_with_the_same_digests_and_registers() {
    let directory = tempfile::tempdir().unwrap();
    let shown = apply_all(
        directory.path(),
        vec![batch(0, 1), batch(1, 1_030), batch(1_030, 1_100)],
    )
    .await;
    assert_eq!(shown.progress.applied_to(), slot(1_100));
    assert_eq!(shown.machine.register_count(), 100);
    let found = open(directory.path()).await;
    assert_eq!(found.machine, shown.machine);
    // The digests of the state are stored at fewer slots than the digests of the log.
    let logs = |progress: &Progress| -> Vec<_> {
        let digests = progress.digests().into_iter();
        digests.map(|digest| (digest.to, digest.digest)).collect()
    };
    let with_state = |progress: &Progress| -> Vec<_> {
        let digests = progress.digests().into_iter();
        let known = digests.filter(|digest| !digest.state.is_empty());
        known.map(|digest| digest.to).collect()
    };
    assert_eq!(found.progress.latest(), shown.progress.latest());
    assert_eq!(logs(&found.progress), logs(&shown.progress));
    assert_eq!(with_state(&shown.progress), [1_100, 1_088, 1_056, 1_024, 768]);
    assert_eq!(with_state(&found.progress), [1_100, 1_024]);
    found.store.close().await.unwrap();

    let shown = apply_all(directory.path(), vec![batch(1_100, 2_100)]).await;
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(shown, apply_all(whole.path(), vec![batch(0, 2_100)]).await);
    let marks: Vec<_> = shown.progress.digests().iter().map(|digest| digest.to).collect();
    assert_eq!(marks, [2_100, 2_080, 2_048, 1_792, 1_024]);
}

#[tokio::test]
async fn large_backlog_is_cut_into_several_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let batches = (0..5)
        .map(|index| batch(index * 4_000, (index + 1) * 4_000))
        .collect();
    let shown = apply_all(directory.path(), batches).await;
    assert_eq!(shown.progress.applied_to(), slot(20_000));
}

#[tokio::test]
async fn value_that_is_no_batch_of_commands_is_a_noop_in_memory_and_on_disk() {
    let value =
        |bytes: &'static [u8]| Value::from_stored(bytes::Bytes::from_static(bytes), bytes::Bytes::new());
    let directory = tempfile::tempdir().unwrap();
    let unreadable = vec![
        (slot(1), value(b"no batch of commands")),
        (slot(2), value(&[0x0a, 0x00])),
    ];
    let shown = apply_all(directory.path(), vec![batch(0, 1), unreadable, batch(3, 4)]).await;
    assert_eq!(shown.progress.applied_to(), slot(4));
    assert_eq!(shown.machine.register_count(), 2);
    let found = open(directory.path()).await;
    assert_eq!(found.machine, shown.machine);
    let page = found.log.page(Slot::ZERO, slot(4)).await.unwrap();
    let commands: Vec<_> = page.iter().map(|record| record.commands.len()).collect();
    assert_eq!(commands, [2, 0, 0, 2]);
}

#[tokio::test]
async fn learner_stops_at_a_command_of_a_later_release() {
    let found = open(tempfile::tempdir().unwrap().path()).await;
    let knowledge = Arc::new(Knowledge::new(found.machine));
    let (sender, receiver) = mpsc::channel(1);
    let (applied, _seen) = watch::channel(Progress::default());
    let (transactions, _writing) = mpsc::channel(TRANSACTIONS_MAX);
    // An operation in field 15.
    let later = bytes::Bytes::from_static(&[0x0a, 0x02, 0x7a, 0x00]);
    let value = Value::from_stored(later, bytes::Bytes::new());
    sender.send(vec![(Slot::ZERO, value)]).await.unwrap();
    let applier = Applier {
        knowledge,
        progress: Progress::default(),
        applied,
        transactions,
        values: ValueTracer::default(),
        commands: Counter::default(),
        unreadable: Counter::default(),
    };
    let failure = applier.run(receiver).await.unwrap_err();
    assert_eq!(failure.code, paxos_common::service::failure::Exit::Refused);
    assert!(failure.to_string().contains("newer"), "{failure}");
}
