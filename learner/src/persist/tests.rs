//! The writer's share of time for sweeps, and the files left by a writer.

use paxos_common::{
    paxos::{identity::ClusterId, value::Value},
    sqlite::DataDir,
};

use super::*;
use crate::{progress::Progress, store::LogReadError};

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
            changes: knowledge.take_changes(),
        };
        transactions.send(transaction).await.unwrap();
    }
}

#[tokio::test]
async fn learned_log_follows_the_bound_as_far_as_it_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = ClusterId::from_bytes([1; 16]);
    let open = async || {
        let data = DataDir::open(directory.path()).unwrap();
        Store::open(Arc::new(data), cluster, &DiskSpace::default())
            .await
            .unwrap()
    };
    let found = open().await;
    let (knowledge, log) = (Arc::new(Knowledge::new(found.machine)), found.log);
    let (instruments, disk) = (Instruments::default(), Arc::default());
    let writer = Writer::new(found.store, Arc::clone(&knowledge), instruments, disk);
    let (transactions, received) = mpsc::channel(1);
    let (bound, seen) = watch::channel(Slot::ZERO);
    let running = tokio::spawn(writer.run(received, seen));

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
