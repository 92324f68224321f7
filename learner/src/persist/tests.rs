//! The writer's share of time for sweeps, and the files left by a writer.

use paxos_common::paxos::{identity::ClusterId, value::Value};

use tokio::sync::oneshot;

use super::*;
use crate::{
    progress::Progress,
    snapshot_file::RecordedSnapshot,
    store::{LogReadError, testing},
};

fn slot(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

#[test]
fn as_many_rows_are_deleted_as_written() {
    let mut share = SweepShare::default();
    share.wrote(9);
    assert_eq!((share.is_due(), share.owed), (false, 0));
    share.begin();
    assert_eq!((share.is_due(), share.owed), (true, 0));
    share.wrote(1_500);
    share.swept(1_024, true);
    assert_eq!((share.is_due(), share.owed), (true, 476));
    share.swept(1_024, true);
    assert_eq!((share.is_due(), share.owed), (true, 0));
    share.wrote(7);
    share.swept(3, false);
    assert_eq!((share.is_due(), share.owed), (false, 0));
}

#[test]
fn transactions_do_not_wait_for_a_failed_sweep() {
    let mut share = SweepShare::default();
    share.begin();
    share.wrote(9);
    share.pause();
    share.wrote(9);
    assert_eq!((share.is_due(), share.owed), (false, 0));
    share.resume();
    assert!(share.is_due());
}

/// Applies and sends `count` slots, each in a transaction of its own.
async fn send(
    knowledge: &Knowledge,
    progress: &mut Progress,
    count: u64,
    transactions: &mpsc::Sender<Transaction>,
) {
    for slot in progress.applied_to().to(progress.applied_to().plus(count)) {
        let value = Value::from_stored("no batch".into(), Default::default());
        let (record, state) = knowledge.apply(slot, value, Vec::new(), &[]);
        let marks = progress.pass(slot, &record.value, Some(state));
        let transaction = Transaction {
            records: vec![record],
            marks: marks.into_iter().collect(),
            progress: progress.clone(),
            configuration: Arc::new(testing::configuration()),
        };
        transactions.send(transaction).await.unwrap();
    }
}

#[tokio::test]
async fn learned_log_follows_the_bound_as_far_as_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = ClusterId::from_bytes([1; 16]);
    let open = async || testing::open(directory.path(), cluster).await.unwrap();
    let found = open().await;
    let (knowledge, log) = (Arc::new(Knowledge::new(found.machine)), found.log);
    let (instruments, disk) = (Instruments::default(), Arc::default());
    let growth = Arc::new(LogGrowth::new(u64::MAX, 0, 0));
    let writer = Writer::new(found.store, Arc::clone(&knowledge), instruments, disk, growth);
    let (transactions, transactions_seen) = mpsc::channel(1);
    let (bound, bound_seen) = watch::channel(Slot::ZERO);
    let inputs = WriterInputs {
        transactions: transactions_seen,
        bound: bound_seen,
        records: mpsc::channel(1).1,
    };
    let running = tokio::spawn(writer.run(inputs));

    let mut progress = found.progress;
    send(&knowledge, &mut progress, 50, &transactions).await;
    bound.send_replace(slot(40));
    // Beyond the bound, and until the writer has written slot 40.
    send(&knowledge, &mut progress, 20, &transactions).await;
    let mut follows = log.follow();
    follows.wait_for(|from| *from == slot(40)).await.unwrap();
    // Not beyond the written slots.
    bound.send_replace(slot(1_000));
    send(&knowledge, &mut progress, 5, &transactions).await;
    drop(transactions);
    running.await.unwrap().unwrap();
    let from = *follows.borrow();
    assert!(from > slot(40) && from <= slot(75), "{from}");
    log.close().await;

    let found = open().await;
    assert_eq!(
        (found.log.from(), found.progress.latest()),
        (from, progress.latest())
    );
    let below = found.log.page(slot(39), slot(75)).await;
    assert!(matches!(below, Err(LogReadError::Trimmed)), "{below:?}");
    let page = found.log.page(from, slot(75)).await.unwrap();
    assert_eq!(page.len() as u64, slot(75).since(from));
}

#[tokio::test]
async fn snapshot_is_recorded_once_the_slots_below_its_end_are_written() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = ClusterId::from_bytes([1; 16]);
    let open = async || testing::open(directory.path(), cluster).await.unwrap();
    let found = open().await;
    let knowledge = Arc::new(Knowledge::new(found.machine));
    let growth = Arc::new(LogGrowth::new(1, 0, 0));
    let (instruments, disk) = (Instruments::default(), Arc::default());
    let writer = Writer::new(
        found.store,
        Arc::clone(&knowledge),
        instruments,
        disk,
        Arc::clone(&growth),
    );
    let (transactions, transactions_seen) = mpsc::channel(100);
    let (records, records_seen) = mpsc::channel(1);
    let (_bound, bound) = watch::channel(Slot::ZERO);
    let inputs = WriterInputs {
        transactions: transactions_seen,
        bound,
        records: records_seen,
    };

    let mut progress = found.progress;
    send(&knowledge, &mut progress, 50, &transactions).await;
    let view = knowledge.keep(progress.latest());
    let file = crate::snapshots::write_file(view, cluster, directory.path()).await;
    let snapshot = RecordedSnapshot::of(&file.summary);
    let (answer, recorded) = oneshot::channel();
    let record = RecordOrder {
        snapshot,
        covered: 0,
        answer,
    };
    records.send(record).await.unwrap();
    let running = tokio::spawn(writer.run(inputs));
    recorded.await.unwrap();
    let durable_to = knowledge.recent(crate::recent::Recent::durable_to);
    assert!(durable_to >= slot(50), "{durable_to}");
    send(&knowledge, &mut progress, 5, &transactions).await;
    drop(transactions);
    running.await.unwrap().unwrap();
    found.log.close().await;
    let found = open().await;
    assert_eq!(found.progress.latest(), progress.latest());
    let loaded = found.snapshot.unwrap();
    assert_eq!(RecordedSnapshot::of(&loaded.summary), snapshot);
}
