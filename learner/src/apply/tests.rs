//! Applying: the digest chain, its marks, and going on where the disk ends.

use std::path::Path;

use paxos_common::{paxos::identity::ClusterId, sqlite::DataDir};

use super::*;
use crate::store::Log;

fn value(slot: Slot) -> Value {
    Value::from_stored(Bytes::from(format!("value {slot}")), Bytes::new())
}

fn batch(from: u64, to: u64) -> Batch {
    let slot = |number| Slot::new(number).unwrap();
    slot(from).to(slot(to)).map(|slot| (slot, value(slot))).collect()
}

/// The digest as the contract words it.
fn naive(to: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    for slot in 0..to {
        let mut input = digest.to_vec();
        input.extend(slot.to_be_bytes());
        input.extend(format!("value {slot}").as_bytes());
        digest = Sha256::digest(input).into();
    }
    digest
}

async fn open(path: &Path) -> (Store, Log, State) {
    let cluster = ClusterId::from_bytes([1; 16]);
    Store::open(DataDir::open(path).unwrap(), cluster).await.unwrap()
}

/// Applies the batches as a running learner does; returns what readers were shown last.
async fn apply_all(path: &Path, batches: Vec<Batch>) -> State {
    let (store, _log, state) = open(path).await;
    let (sender, receiver) = mpsc::channel(batches.len().max(1));
    let (applied, seen) = watch::channel(state.clone());
    for batch in batches {
        sender.send(batch).await.unwrap();
    }
    drop(sender);
    run(store, state, receiver, applied).await.unwrap();
    seen.borrow().clone()
}

#[test]
fn digest_chain_equals_a_naive_one_and_is_marked_at_multiples() {
    let mut state = State::default();
    assert_eq!(state.digests().len(), 1);
    assert_eq!(state.latest().digest.as_bytes(), &[0; 32]);
    for (slot, value) in &batch(0, 2_100) {
        state.apply(*slot, value);
    }
    let told: Vec<_> = state
        .digests()
        .into_iter()
        .map(|digest| (digest.to, digest.digest))
        .collect();
    let expected = [2_100, 2_048, 1_024].map(|to| (to, Bytes::copy_from_slice(&naive(to))));
    assert_eq!(told, expected);
}

#[test]
fn reports_hold_at_most_eight_digests_the_newest_first_and_none_twice() {
    let mut state = State::default();
    for (slot, value) in &batch(0, 12 * MARK_SLOTS) {
        state.apply(*slot, value);
    }
    let told: Vec<_> = state
        .digests()
        .iter()
        .map(|digest| digest.to / MARK_SLOTS)
        .collect();
    assert_eq!(told, [12, 11, 10, 9, 8, 7, 6]);
    state.apply(state.applied_to(), &Value::noop());
    assert_eq!(state.digests().len(), 8);
}

#[test]
#[should_panic(expected = "in order")]
fn gap_is_never_applied() {
    let mut state = State::default();
    state.apply(Slot::new(1).unwrap(), &Value::noop());
}

#[tokio::test]
async fn restart_goes_on_from_the_cursor_with_the_same_digests() {
    let directory = tempfile::tempdir().unwrap();
    let shown = apply_all(
        directory.path(),
        vec![batch(0, 1), batch(1, 1_030), batch(1_030, 1_100)],
    )
    .await;
    assert_eq!(shown.applied_to(), Slot::new(1_100).unwrap());
    let (store, _log, recovered) = open(directory.path()).await;
    assert_eq!(recovered, shown);
    store.close().await.unwrap();

    let shown = apply_all(directory.path(), vec![batch(1_100, 2_100)]).await;
    assert_eq!(shown.latest().digest.as_bytes(), &naive(2_100));
    let marks: Vec<_> = shown.digests().iter().map(|digest| digest.to).collect();
    assert_eq!(marks, [2_100, 2_048, 1_024]);
}

#[tokio::test]
async fn large_backlog_is_cut_into_several_transactions() {
    let directory = tempfile::tempdir().unwrap();
    let batches = (0..5)
        .map(|index| batch(index * 4_000, (index + 1) * 4_000))
        .collect();
    let shown = apply_all(directory.path(), batches).await;
    assert_eq!(shown.latest().to, Slot::new(20_000).unwrap());
    assert_eq!(shown.latest().digest.as_bytes(), &naive(20_000));
}
