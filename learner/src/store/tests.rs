//! The learned log on disk: what is found again, and what is refused.

use std::path::Path;

use super::*;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

fn slot_at(number: u64) -> Slot {
    Slot::new(number).unwrap()
}

fn value(text: &str) -> Value {
    Value::from_stored(
        Bytes::copy_from_slice(text.as_bytes()),
        Bytes::from_static(b"00-1-2-01"),
    )
}

async fn open(path: &Path, cluster: ClusterId) -> Result<(Store, Log, State), StoreError> {
    Store::open(DataDir::open(path).unwrap(), cluster).await
}

/// Applies and writes `count` slots from `state` on, in one commit.
async fn write(store: &mut Store, state: &mut State, count: u64) {
    let from = state.applied_to();
    let batch: Vec<_> = from
        .to(from.plus(count))
        .map(|slot| (slot, value(&format!("value {slot}"))))
        .collect();
    let marks: Vec<_> = batch
        .iter()
        .filter_map(|(slot, value)| state.apply(*slot, value))
        .collect();
    store.commit(&batch, state, &marks).await.unwrap();
}

async fn damage(path: &Path, sql: &'static str) {
    let mut connection = sqlite::open_writer(&path.join(FILE), CHECKPOINT_PAGES)
        .await
        .unwrap();
    let changed = sqlx::query(sql).execute(&mut connection).await.unwrap();
    assert_eq!(changed.rows_affected(), 1);
    connection.close().await.unwrap();
}

#[tokio::test]
async fn reopened_log_holds_what_was_written_and_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _log, mut state) = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(state, State::default());
    // Every way to cut a batch into statements: one row, a power of two, a mixture, many, marks on the way.
    for count in [1, 8, 7, 1_500, 9_000] {
        write(&mut store, &mut state, count).await;
    }
    store.close().await.unwrap();

    let (mut store, log, recovered) = open(directory.path(), CLUSTER).await.unwrap();
    assert_eq!(recovered, state);
    assert_eq!(recovered.applied_to(), slot_at(10_516));
    write(&mut store, &mut state, 3).await;
    let mut next = Slot::ZERO;
    while next < state.applied_to() {
        for (slot, found) in log.page(next, state.applied_to()).await.unwrap() {
            assert_eq!(slot, next);
            assert_eq!(found, value(&format!("value {slot}")));
            assert_eq!(found.traceparent(), &Bytes::from_static(b"00-1-2-01"));
            next = next.next();
        }
    }
    assert_eq!(next, slot_at(10_519));
}

#[tokio::test]
async fn file_of_another_cluster_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _log, _state) = open(directory.path(), CLUSTER).await.unwrap();
    store.close().await.unwrap();
    let error = open(directory.path(), ClusterId::from_bytes([8; 16]))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::OtherCluster { .. }), "{error}");
    assert_eq!(Failure::from(error).code, paxos_common::exit::Exit::Refused);
}

#[tokio::test]
async fn damaged_state_record_is_a_storage_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _log, _state) = open(directory.path(), CLUSTER).await.unwrap();
    store.close().await.unwrap();
    damage(directory.path(), "UPDATE state SET applied_to = 5").await;
    let error = open(directory.path(), CLUSTER).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(Failure::from(error).code, paxos_common::exit::Exit::Storage);
}

#[tokio::test]
async fn damaged_or_missing_row_is_found_out_and_never_delivered() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, log, mut state) = open(directory.path(), CLUSTER).await.unwrap();
    write(&mut store, &mut state, 10).await;
    store.close().await.unwrap();
    damage(
        directory.path(),
        "UPDATE learned SET value = x'00' WHERE slot = 4",
    )
    .await;
    damage(directory.path(), "DELETE FROM learned WHERE slot = 9").await;
    let to = state.applied_to();
    assert_eq!(log.page(Slot::ZERO, slot_at(4)).await.unwrap().len(), 4);
    assert_eq!(log.page(slot_at(5), to).await.unwrap().len(), 4);
    for (from, bad) in [(0, 4), (4, 4), (9, 9)] {
        match log.page(slot_at(from), to).await {
            Err(ReadError::Damaged(slot)) => assert_eq!(slot, slot_at(bad)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn pages_are_bounded_and_always_hold_at_least_one_slot() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, log, mut state) = open(directory.path(), CLUSTER).await.unwrap();
    let large = |bytes: usize| Value::from_stored(vec![1; bytes].into(), Bytes::new());
    let batch: Vec<_> = [300_000, 200_000, 100_000, 3_000_000, 5, 5]
        .into_iter()
        .enumerate()
        .map(|(slot, bytes)| (slot_at(slot as u64), large(bytes)))
        .collect();
    for (slot, value) in &batch {
        state.apply(*slot, value);
    }
    store.commit(&batch, &state, &[]).await.unwrap();
    let mut next = Slot::ZERO;
    let mut counts = Vec::new();
    while next < state.applied_to() {
        let page = log.page(next, state.applied_to()).await.unwrap();
        counts.push(page.len());
        next = next.plus(page.len() as u64);
    }
    assert_eq!(counts, [2, 1, 1, 2]);
    write(&mut store, &mut state, 2_000).await;
    assert_eq!(log.page(next, state.applied_to()).await.unwrap().len(), 1_024);
}
