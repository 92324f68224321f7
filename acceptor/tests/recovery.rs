//! Content of a store after the end of its process, for every kind of end.
//!
//! A single suite runs over every store; a store that forgets must fail the suite.
#![allow(clippy::unwrap_used, reason = "only tests")]

mod support;

use bytes::Bytes;
use paxos_acceptor::store::{
    Reader as _, RecoveredRun, Store as _,
    memory::{MemoryDisk, MemoryStore},
    sqlite::SqliteStore,
};
use paxos_common::{
    paxos::{
        acceptor::Membership,
        identity::{AcceptorUuid, RunNumber},
        message::Row,
        value::Value,
    },
    sqlite::DataDir,
};
use support::{
    accept, ballot, configuration,
    run::{AcceptorRun, TestDisk, damage},
    slot, value,
};

/// Loses the last commit at every start.
struct Forgetful(MemoryDisk);

impl TestDisk for Forgetful {
    type Store = MemoryStore;

    async fn open(&self, run: u64) -> (MemoryStore, RecoveredRun) {
        self.0.lose_last_commit();
        self.0.open(RunNumber::from_random(run))
    }
}

/// Everything committed is present in the next run: the promise with its address, the configuration, the latest vote of
/// each slot, the watermark, the counters and the runs.
async fn reopening_keeps_everything_committed(disk: &impl TestDisk) {
    let mut first = AcceptorRun::begin(disk, 1).await;
    assert_eq!(first.opened.recovered.membership, Membership::Blank);
    assert!(first.opened.past_runs.is_empty());
    first.form().await;
    first.prepare(3).await;
    first
        .accept(accept(
            3,
            0,
            [(0, value("a")), (1, value("b")), (3, Value::noop())],
        ))
        .await;
    // Overwrites a vote, and brings a watermark not reached by slot 0's older ballot.
    first.accept(accept(4, 2, [(1, value("c"))])).await;
    first.accept(accept(4, 2, [(0, value("a"))])).await;
    let uuid = first.opened.recovered.uuid;
    let counter = first.core.stamp().commit_counter;
    assert_eq!(first.core.chosen_to(), slot(2));
    first.store.close().await;

    let second = AcceptorRun::begin(disk, 2).await;
    let recovered = &second.opened.recovered;
    assert_eq!(recovered.uuid, uuid);
    assert_eq!(
        recovered.commit_counter,
        counter.next(),
        "beginning a run is a commit of its own"
    );
    assert_eq!(second.opened.past_runs, [(RunNumber::from_random(1), counter)]);
    assert_eq!(recovered.membership, Membership::Formed(configuration(uuid)));
    assert_eq!(
        (recovered.promised, &*recovered.leader_address),
        (ballot(4), "http://p:1")
    );
    assert_eq!((recovered.known_to, recovered.voted_to), (slot(2), slot(4)));
    assert_eq!(recovered.rows.keys().copied().collect::<Vec<_>>(), [slot(3)]);

    let (rows, page) = second.read(0).await;
    let expected = [(0, 4, value("a")), (1, 4, value("c")), (3, 3, Value::noop())];
    let expected = expected.map(|(at, round, value)| Row {
        slot: slot(at),
        accepted: Some((ballot(round), value)),
    });
    assert_eq!(rows, expected);
    assert_eq!(
        rows[0].accepted.as_ref().unwrap().1.traceparent(),
        value("").traceparent()
    );
    assert_eq!(
        (page.promised, page.chosen_to, page.voted_to),
        (ballot(4), slot(2), slot(4))
    );
    assert_eq!(page.commit_counter, counter.next());
    let promised: Vec<_> = second
        .store
        .reader()
        .promises(9)
        .await
        .unwrap()
        .iter()
        .map(|past| past.ballot)
        .collect();
    assert_eq!(promised, [ballot(4), ballot(3)]);
    let held = second
        .store
        .reader()
        .held(&[slot(0), slot(1), slot(2)])
        .await
        .unwrap();
    assert_eq!(held.into_keys().collect::<Vec<_>>(), [slot(0), slot(1)]);
    second.store.close().await;
}

/// Pages are bounded, leave nothing out, repeat nothing.
async fn pages_cover_a_long_log_exactly(disk: &impl TestDisk) {
    let mut run = AcceptorRun::begin(disk, 1).await;
    run.form().await;
    run.prepare(1).await;
    // Odd counts, so that padding shows; a gap; a value above the bytes of a page.
    for (from, count) in [(0, 1500), (1500, 3), (2000, 1025)] {
        let rows = (from..from + count).map(|at| (at, value(&format!("value {at}"))));
        run.accept(accept(1, 0, rows)).await;
    }
    let large = Value::from_stored(Bytes::from(vec![7; 2 * 1024 * 1024]), Bytes::new());
    run.accept(accept(1, 0, [(1600, large.clone())])).await;
    let (rows, page) = run.read(0).await;
    let slots: Vec<_> = rows.iter().map(|row| row.slot.get()).collect();
    let expected: Vec<_> = (0..1503).chain([1600]).chain(2000..3025).collect();
    assert_eq!(slots, expected);
    assert_eq!(rows[1503].accepted, Some((ballot(1), large)));
    assert_eq!((page.voted_to, page.next), (slot(3025), slot(3025)));
    let (rows, page) = run.read(5000).await;
    assert_eq!((rows.len(), page.next, page.last), (0, slot(5000), true));
    run.store.close().await;
}

#[tokio::test]
async fn memory_store_keeps_everything_committed() {
    reopening_keeps_everything_committed(&MemoryDisk::new(AcceptorUuid::from_u128(5))).await;
    pages_cover_a_long_log_exactly(&MemoryDisk::new(AcceptorUuid::from_u128(5))).await;
}

#[tokio::test]
async fn sqlite_store_keeps_everything_committed() {
    let directory = tempfile::tempdir().unwrap();
    reopening_keeps_everything_committed(&directory.path().join("one")).await;
    pages_cover_a_long_log_exactly(&directory.path().join("other")).await;
}

#[tokio::test]
async fn store_that_loses_its_last_commit_fails_the_suite() {
    let disk = Forgetful(MemoryDisk::new(AcceptorUuid::from_u128(5)));
    let suite = std::panic::AssertUnwindSafe(reopening_keeps_everything_committed(&disk));
    assert!(
        futures::FutureExt::catch_unwind(suite).await.is_err(),
        "the suite noticed nothing"
    );
}

#[tokio::test]
async fn damaged_vote_holds_the_watermark_back_until_accepted_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().to_owned();
    let mut run = AcceptorRun::begin(&disk, 1).await;
    run.form().await;
    run.accept(accept(1, 0, (0..4).map(|at| (at, value("x"))))).await;
    run.accept(accept(1, 4, [(4, value("y"))])).await;
    run.store.close().await;
    damage(&disk, "UPDATE vote SET value = x'79' WHERE slot = 2").await;

    let mut run = AcceptorRun::begin(&disk, 2).await;
    let (rows, page) = run.read(0).await;
    assert_eq!(
        (rows.len(), &rows[2]),
        (
            5,
            &Row {
                slot: slot(2),
                accepted: None
            }
        )
    );
    assert_eq!(page.chosen_to, slot(2));
    // Repair, as in the worker: stored votes below the watermark are read first.
    let repair = accept(1, 4, [(2, value("x"))]);
    let slots: Vec<_> = run.core.slots_to_read(&repair).collect();
    let below = run.store.reader().held(&slots).await.unwrap();
    let mut group = run.core.group();
    run.core.accept(&mut group, &repair, &below).unwrap();
    run.commit(group).await;
    let (rows, page) = run.read(0).await;
    assert!(rows.iter().all(|row| row.accepted.is_some()));
    assert_eq!(page.chosen_to, slot(4));
}

#[tokio::test]
async fn damaged_records_end_the_process_instead_of_being_made_up() {
    for sql in [
        "UPDATE state SET promised_round = 0",
        "UPDATE state SET commit_counter = commit_counter - 1",
        "DELETE FROM state",
        "UPDATE membership SET formed = 0",
        "DELETE FROM membership",
        "UPDATE identity SET uuid = zeroblob(16)",
        "DELETE FROM identity",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let disk = directory.path().to_owned();
        let mut run = AcceptorRun::begin(&disk, 1).await;
        run.form().await;
        run.accept(accept(1, 0, [(0, value("x"))])).await;
        run.store.close().await;
        damage(&disk, sql).await;
        let opened = SqliteStore::open(DataDir::open(&disk).unwrap(), "a1", RunNumber::from_random(2)).await;
        let error = opened.map(|_| ()).expect_err(sql);
        assert!(
            error.to_string().contains("must not vote any more"),
            "{sql}: {error}"
        );
    }
}
