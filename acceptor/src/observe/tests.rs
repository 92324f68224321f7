//! The frames of `observe`: the order, the watermarks, and the frame after a large frame when the room is full.

use std::pin::pin;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use paxos_common::paxos::{
    acceptor::Write,
    ballot::ProposerId,
    identity::{AcceptorUuid, CommitCounter, RunNumber},
};
use paxos_common::{service::shutdown::Shutdown, trace::Tracer};
use paxos_test_values::slot;
use tokio_util::sync::CancellationToken;

use std::collections::BTreeMap;

use paxos_common::paxos::{ballot::Ballot, identity::Stamp, message::Row, value::Value};

use super::*;
use crate::ring::RING_BYTES_MAX;
use crate::{
    store::{
        Store as _,
        memory::{MemoryDisk, MemoryStore},
    },
    worker::Worker,
};

fn rows(from: u64, to: u64, bytes: usize) -> BTreeMap<Slot, (Ballot, Value)> {
    let ballot = Ballot::new(1, ProposerId::from_random(1)).unwrap();
    let value = Value::from_stored(Bytes::from(vec![1; bytes]), Bytes::new());
    (from..to).map(|at| (slot(at), (ballot, value.clone()))).collect()
}

fn stamp(shared: &Shared) -> Stamp {
    shared.published().stamp
}

/// Commits rows and shows them, like the worker.
async fn commit(
    store: &mut MemoryStore,
    shared: &Shared,
    rows: BTreeMap<Slot, (Ballot, Value)>,
    chosen_to: u64,
) {
    let write = Write {
        commit_counter: CommitCounter::new(1),
        membership: None,
        promised: Ballot::ZERO,
        promise_is_new: false,
        leader_address: &"".into(),
        known_to: slot(chosen_to),
        trimmed_to: Slot::ZERO,
        rows: &rows,
        witnesses: &paxos_common::paxos::witness::Witnesses::default(),
        least_version: 1,
    };
    store.commit(write).await.unwrap();
    shared.ring.push(stamp(shared), slot(chosen_to), Slot::ZERO, rows);
}

fn start() -> (MemoryDisk, MemoryStore, Arc<Shared>) {
    let disk = MemoryDisk::new(AcceptorUuid::from_u128(1));
    let run = RunNumber::from_random(1);
    let (store, opened) = disk.open(run);
    let (_, shared, _) = Worker::new(
        store,
        opened,
        run,
        crate::trim_policy::RetainBytes::All,
        Tracer::off(),
        crate::metrics::Instruments::new(&paxos_common::service::metrics::Metrics::unread()),
    );
    let (store, _) = disk.open(run);
    (disk, store, shared)
}

/// The frames sent to an observer from a slot on.
fn observed(
    disk: MemoryDisk,
    shared: &Arc<Shared>,
    from: Slot,
    room: Room,
) -> impl Stream<Item = Result<Frame, StoreError>> {
    let shutdown = Shutdown::new(&CancellationToken::new());
    let reader = PeerReader::new(disk, Arc::clone(shared), shutdown);
    observe(reader, Arc::clone(shared), from, room)
}

#[tokio::test]
async fn lagged_observer_receives_a_row_that_was_unknown_before() {
    let (disk, mut store, shared) = start();
    let mut damaged = rows(0, 5, 1);
    let lost = damaged.remove_entry(&slot(2)).unwrap();
    commit(&mut store, &shared, damaged, 5).await;
    let mut frames = pin!(observed(disk, &shared, slot(0), Room::default()));
    let mut shown = async || -> Option<Vec<(u64, bool)>> {
        let frame = frames.next().now_or_never()?.unwrap().unwrap();
        let row = |row: &Row| (row.slot.get(), row.accepted.is_some());
        Some(frame.rows.iter().map(row).collect())
    };
    let held = [(0, true), (1, true), (2, false), (3, true), (4, true)];
    assert_eq!(shown().await, Some(held.to_vec()));
    commit(&mut store, &shared, rows(5, 6, 1), 5).await;
    assert_eq!(shown().await, Some(vec![(5, true)]));
    // The repair falls out of the ring before the observer takes it.
    commit(&mut store, &shared, BTreeMap::from([lost]), 6).await;
    let count = (RING_BYTES_MAX / PAGE_BYTES_MAX) as u64 + 1;
    for at in 6..6 + count {
        commit(&mut store, &shared, rows(at, at + 1, PAGE_BYTES_MAX), 6).await;
    }
    assert_eq!(shown().await.unwrap().first(), Some(&(2, true)));
}

#[tokio::test]
async fn large_frame_is_followed_by_an_empty_one_and_a_small_frame_is_not() {
    let (disk, mut store, shared) = start();
    commit(&mut store, &shared, rows(0, 1, PAGE_BYTES_MAX / 2), 1).await;
    let room = Room::default();
    let mut frames = pin!(observed(disk, &shared, slot(0), room));
    let mut shown = async || -> Option<usize> {
        let frame = frames.next().now_or_never()?.unwrap().unwrap();
        Some(frame.rows.len())
    };
    assert_eq!(
        [shown().await, shown().await, shown().await],
        [Some(1), Some(0), None]
    );
    commit(&mut store, &shared, rows(1, 2, PAGE_BYTES_MAX / 2), 2).await;
    assert_eq!(
        [shown().await, shown().await, shown().await],
        [Some(1), Some(0), None]
    );
    commit(&mut store, &shared, rows(2, 4, 1), 4).await;
    assert_eq!([shown().await, shown().await], [Some(2), None]);
}

#[tokio::test]
async fn large_frame_is_followed_by_an_empty_one_while_there_is_no_room() {
    let (disk, mut store, shared) = start();
    commit(&mut store, &shared, rows(0, 3, PAGE_BYTES_MAX), 3).await;
    let [room, other] = Room::of_pool(2 * PAGE_BYTES_MAX);
    let mut frames = pin!(observed(disk, &shared, slot(0), room.clone()));
    let mut shown = async || -> Option<usize> {
        let frame = frames.next().now_or_never()?.unwrap().unwrap();
        Some(frame.rows.len())
    };
    for _ in 0..2 {
        // The page is handed over, and the room is taken elsewhere.
        assert_eq!(shown().await, Some(1));
        room.give_back();
        assert!(other.take_now(2 * PAGE_BYTES_MAX));
        assert_eq!([shown().await, shown().await], [Some(0), None]);
        other.give_back();
    }
    assert_eq!([shown().await, shown().await], [Some(1), Some(0)]);
    room.give_back();
    // The same for live frames.
    commit(&mut store, &shared, rows(3, 4, PAGE_BYTES_MAX), 3).await;
    commit(&mut store, &shared, rows(4, 5, PAGE_BYTES_MAX), 3).await;
    assert_eq!(shown().await, Some(1));
    room.give_back();
    assert!(other.take_now(2 * PAGE_BYTES_MAX));
    assert_eq!([shown().await, shown().await], [Some(0), None]);
    other.give_back();
    assert_eq!([shown().await, shown().await], [Some(1), Some(0)]);
}

#[tokio::test]
async fn lagged_observer_pages_again_from_its_known_watermark() {
    let (disk, mut store, shared) = start();
    commit(&mut store, &shared, rows(0, 5, 1), 3).await;
    let mut frames = pin!(observed(disk, &shared, slot(1), Room::default()));
    let mut shown = async || -> Option<(u64, Vec<u64>)> {
        let frame = frames.next().now_or_never()?.unwrap().unwrap();
        Some((
            frame.known_to.get(),
            frame.rows.iter().map(|row| row.slot.get()).collect(),
        ))
    };
    assert_eq!(shown().await, Some((3, vec![1, 2, 3, 4])));
    assert_eq!(shown().await, None);
    commit(&mut store, &shared, rows(5, 6, 1), 4).await;
    assert_eq!(shown().await, Some((4, vec![5])));
    // Two commits not taken yet are sent as a single frame, with the watermark of the first.
    commit(&mut store, &shared, rows(6, 7, 1), 5).await;
    commit(&mut store, &shared, rows(7, 8, 1), 6).await;
    assert_eq!(shown().await, Some((5, vec![6, 7])));
    let count = (RING_BYTES_MAX / PAGE_BYTES_MAX) as u64 + 1;
    for at in 8..8 + count {
        commit(&mut store, &shared, rows(at, at + 1, PAGE_BYTES_MAX), 7).await;
    }
    let mut slots = Vec::new();
    while let Some((_, more)) = shown().await {
        slots.extend(more);
    }
    assert_eq!(slots, (5..8 + count).collect::<Vec<_>>());
}
