//! Pools: the calls that get room, the waiting calls, and the closed connections.

use std::{
    task::{Context, Waker},
    time::Instant,
};

use super::{
    pool::{HeldAnswer, PATIENCE, PATIENCE_UNUSED},
    *,
};

const ALL: usize = 1024 * 1024;

fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(ALL))
}

fn connection() -> Arc<Usage> {
    Arc::new(Usage::new())
}

fn account(pool: &Arc<Pool>, usage: &Arc<Usage>) -> Arc<Account> {
    Arc::new(Account {
        pool: Arc::clone(pool),
        is_refusable: true,
        usage: Some(Arc::clone(usage)),
        reserved: Mutex::default(),
    })
}

fn bytes(pool: &Pool) -> usize {
    pool.lock().bytes
}

/// Lets this much time pass for all held room, without a move of any reader.
fn age(pool: &Pool, time: Duration) {
    let back = |held: &mut HeldAnswer| held.since = Instant::now() - time;
    pool.lock().held.values_mut().for_each(back);
}

/// Whether the room is there at the first poll.
fn is_taken(room: &Room, bytes: usize) -> bool {
    let mut taking = std::pin::pin!(room.take(bytes));
    taking
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_ready()
}

#[tokio::test]
async fn room_is_held_until_http2_has_written_the_last_slice() {
    let (pool, usage) = (pool(), connection());
    let account = account(&pool, &usage);
    let room = Room::of(Arc::clone(&account));
    assert!(is_taken(&room, ALL / 2));
    let part = Bytes::from(vec![7; 2 * SLICE_BYTES + 1]);
    let message = part.to_vec();
    let mut parts = account.hand_over(part).unwrap();
    assert_eq!(bytes(&pool), ALL / 2, "the rest is reserved for the next part");
    room.give_back();
    assert_eq!(bytes(&pool), 2 * SLICE_BYTES + 1);
    let mut slices = Vec::new();
    while !parts.is_empty() {
        slices.push(parts.next());
    }
    assert_eq!(slices.concat(), message);
    drop(parts);
    assert_eq!(bytes(&pool), 2 * SLICE_BYTES + 1, "slices hold it");
    slices.pop();
    drop(slices);
    assert_eq!(bytes(&pool), 0);
}

#[tokio::test]
async fn only_large_answers_take_room_and_are_refused_without_room() {
    let (pool, usage) = (pool(), connection());
    let account = account(&pool, &usage);
    let room = Room::of(Arc::clone(&account));
    assert!(is_taken(&room, FREE_BYTES));
    assert_eq!(bytes(&pool), 0);
    let part = Bytes::from(vec![7; ALL / 2 + 1]);
    let first = account.hand_over(part.clone()).unwrap();
    assert_eq!(account.hand_over(part.clone()).err(), Some(PoolFull));
    drop(first);
    assert!(account.hand_over(part).is_ok());
}

#[tokio::test]
async fn one_connection_has_at_most_half_and_another_is_served_before_it() {
    let pool = pool();
    let (greedy, other) = (connection(), connection());
    let rooms: Vec<_> = (0..16).map(|_| Room::of(account(&pool, &greedy))).collect();
    let taken = rooms.iter().filter(|room| is_taken(room, ALL / 16));
    assert_eq!(taken.count(), 8);
    assert_eq!(bytes(&pool), ALL / 2);
    let waiting = rooms[8].clone();
    let mut waits = tokio::spawn(async move { waiting.take(ALL / 16).await });
    tokio::task::yield_now().await;
    // The call comes later, and need not wait.
    let late = Room::of(account(&pool, &other));
    assert!(is_taken(&late, ALL / 16));
    assert!(timeout(Duration::from_millis(20), &mut waits).await.is_err());
    rooms[0].give_back();
    rooms[1].give_back();
    waits.await.unwrap();
    assert_eq!(bytes(&pool), ALL / 2);
}

#[tokio::test]
async fn waiting_answers_are_served_in_order() {
    let pool = pool();
    let room = || Room::of(account(&pool, &connection()));
    let all = room();
    assert!(is_taken(&all, ALL));
    let (first, second) = (room(), room());
    assert!(!is_taken(&first, ALL), "it gives up at once");
    let (sender, mut order) = tokio::sync::mpsc::channel(2);
    for (name, room) in [("large", first.clone()), ("small", second.clone())] {
        let bytes = if name == "large" { ALL } else { ALL / 2 };
        let sender = sender.clone();
        tokio::spawn(async move {
            room.take(bytes).await;
            sender.send(name).await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    all.give_back();
    assert_eq!(order.recv().await, Some("large"));
    assert!(order.try_recv().is_err());
    first.give_back();
    assert_eq!(order.recv().await, Some("small"));
    second.give_back();
    assert_eq!(bytes(&pool), 0);
}

#[tokio::test]
async fn connection_with_a_stalled_reader_is_closed_once_another_waits() {
    let pool = pool();
    let (slow, reading, newcomer) = (connection(), connection(), connection());
    let hand_over = |usage| {
        account(&pool, usage)
            .hand_over(Bytes::from(vec![7; ALL / 2]))
            .unwrap()
    };
    let (mut slow_parts, mut reading_parts) = (hand_over(&slow), hand_over(&reading));
    let stuck = slow_parts.next();
    age(&pool, PATIENCE);
    // Taken: this reader is active.
    drop(reading_parts.next());
    pool.cut_off(0, None);
    assert!(!slow.is_closing(), "no call waits");
    let room = Room::of(account(&pool, &newcomer));
    assert!(!is_taken(&room, ALL / 4));
    assert!(slow.is_closing() && !reading.is_closing());
    // As after the end of the connection.
    drop((stuck, slow_parts));
    assert!(is_taken(&room, ALL / 4));
}

#[tokio::test]
async fn longest_stalled_reader_is_closed_first_and_no_more_than_needed() {
    let pool = pool();
    let (first, second) = (connection(), connection());
    let hand_over = |usage| {
        let part = Bytes::from(vec![7; ALL / 2]);
        account(&pool, usage).hand_over(part).unwrap()
    };
    let (mut of_first, mut of_second) = (hand_over(&first), hand_over(&second));
    let stuck = (of_first.next(), of_second.next());
    age(&pool, PATIENCE);
    pool.lock().held.values_mut().next_back().unwrap().since -= PATIENCE;
    let room = Room::of(account(&pool, &connection()));
    assert!(!is_taken(&room, ALL / 4));
    assert!(second.is_closing() && !first.is_closing());
    drop((stuck, of_first, of_second));
}

#[tokio::test]
async fn reader_that_has_taken_all_is_not_cut_off() {
    let pool = pool();
    let (reader, newcomer) = (connection(), connection());
    let part = Bytes::from(vec![7; ALL]);
    let mut parts = account(&pool, &reader).hand_over(part).unwrap();
    while !parts.is_empty() {
        drop(parts.next());
    }
    assert_eq!(bytes(&pool), ALL, "the encoder has its buffer still");
    age(&pool, 10 * PATIENCE);
    let room = Room::of(account(&pool, &newcomer));
    assert!(!is_taken(&room, ALL / 4));
    assert!(!reader.is_closing());
    drop(parts);
    assert!(is_taken(&room, ALL / 4));
}

#[tokio::test]
async fn connection_that_does_not_use_granted_room_is_closed_once_another_waits() {
    let pool = pool();
    let (first, hostile) = (connection(), connection());
    let room = Room::of(account(&pool, &first));
    assert!(is_taken(&room, ALL));
    let stuck = Room::of(account(&pool, &hostile));
    let mut taking = std::pin::pin!(stuck.take(ALL));
    let mut context = Context::from_waker(Waker::noop());
    assert!(taking.as_mut().poll(&mut context).is_pending());
    room.give_back();
    assert_eq!(bytes(&pool), ALL, "granted, and never looked at");
    for (time, is_closing) in [(PATIENCE, false), (PATIENCE_UNUSED, true)] {
        age(&pool, time);
        pool.lock().looked_at = None;
        let newcomer = Room::of(account(&pool, &connection()));
        assert!(!is_taken(&newcomer, ALL / 4));
        assert_eq!(hostile.is_closing(), is_closing, "{time:?}");
    }
}

#[tokio::test]
async fn only_reads_are_refused_without_room() {
    let pools = Pools::default();
    for (path, is_refused) in [
        ("/paxos.v1.Proposer/ProposeStream", false),
        ("/paxos.v1.Proposer/Propose", false),
        ("/paxos.v1.Acceptor/Accept", false),
        ("/paxos.v1.Learner/Read", true),
        ("/paxos.v1.Learner/Subscribe", true),
    ] {
        let all = Room::of(Arc::new(pools.account(path, None)));
        assert!(is_taken(&all, usize::MAX));
        let account = pools.account(path, Some(connection()));
        let part = account.hand_over(Bytes::from(vec![7; 2 * FREE_BYTES]));
        assert_eq!(part.is_err(), is_refused, "{path}");
        drop(part);
        all.give_back();
        let pool = &pools.0[Purpose::of_path(path) as usize];
        assert_eq!(bytes(pool), 0, "{path}");
    }
}

#[test]
fn only_a_refusal_before_the_answer_is_built_says_not_proposed() {
    assert_eq!(status::fate_of(&no_room()), None);
    assert_eq!(no_room().code(), tonic::Code::ResourceExhausted);
    assert_eq!(status::fate_of(&not_built()), Some(status::Fate::NotProposed));
}

/// A connection of a client, known by its certificate.
fn client() -> Arc<Usage> {
    let usage = connection();
    usage.set_outside();
    usage
}

#[tokio::test]
async fn clients_have_half_of_a_pool_and_one_connection_an_eighth_of_it() {
    let pool = pool();
    let greedy = client();
    let rooms: Vec<_> = (0..64).map(|_| Room::of(account(&pool, &greedy))).collect();
    let taken = rooms.iter().filter(|room| is_taken(room, ALL / 64));
    assert_eq!(taken.count(), 4, "an eighth of the half");
    let others: Vec<_> = (0..64).map(|_| Room::of(account(&pool, &client()))).collect();
    let taken = others.iter().filter(|room| is_taken(room, ALL / 64));
    assert_eq!(taken.count(), 28, "the rest of the half");
    assert_eq!(bytes(&pool), ALL / 2);
    // A finished answer finds no room either.
    let part = Bytes::from(vec![7; 2 * FREE_BYTES]);
    assert!(account(&pool, &client()).hand_over(part).is_err());
    let peer = Room::of(account(&pool, &connection()));
    assert!(is_taken(&peer, ALL / 2), "the other half is for peers");
}

#[tokio::test]
async fn large_answer_of_a_client_waits_for_the_half_in_front_of_small_ones_and_not_of_peers() {
    let pool = pool();
    let rooms: [Room; 4] = std::array::from_fn(|_| Room::of(account(&pool, &client())));
    let [first, little, large, small] = rooms;
    assert!(is_taken(&first, ALL / 4) && is_taken(&little, ALL / 64));
    let take = |room: &Room, bytes| {
        let room = room.clone();
        tokio::spawn(async move { room.take(bytes).await })
    };
    let mut larges = take(&large, ALL / 2);
    tokio::task::yield_now().await;
    // The half has room for these small answers, and they come later.
    assert!(!is_taken(&small, ALL / 64));
    let mut smalls = take(&small, ALL / 64);
    tokio::task::yield_now().await;
    little.give_back();
    let peer = Room::of(account(&pool, &connection()));
    assert!(is_taken(&peer, ALL / 4));
    let soon = Duration::from_millis(20);
    assert!(timeout(soon, &mut smalls).await.is_err() && timeout(soon, &mut larges).await.is_err());
    first.give_back();
    larges.await.unwrap();
    assert!(timeout(soon, &mut smalls).await.is_err(), "the half is in use");
    large.give_back();
    smalls.await.unwrap();
}

#[tokio::test]
async fn answer_larger_than_a_share_is_for_a_connection_without_other_answers() {
    let pool = pool();
    let usage = client();
    let (large, next) = (Room::of(account(&pool, &usage)), Room::of(account(&pool, &usage)));
    assert!(is_taken(&large, ALL / 4));
    assert!(!is_taken(&next, ALL / 64));
    large.give_back();
    assert!(is_taken(&next, ALL / 64));
}

#[tokio::test]
async fn stalled_client_and_no_stalled_peer_is_closed_for_the_half_of_clients() {
    let pool = pool();
    let (slow, peer) = (client(), connection());
    let hand_over = |usage, bytes| {
        account(&pool, usage)
            .hand_over(Bytes::from(vec![7; bytes]))
            .unwrap()
    };
    let mut peer_parts = hand_over(&peer, ALL / 4);
    let stuck_peer = peer_parts.next();
    let mut parts = hand_over(&slow, ALL / 2);
    let stuck = parts.next();
    age(&pool, PATIENCE);
    let room = Room::of(account(&pool, &client()));
    assert!(!is_taken(&room, ALL / 8));
    assert!(slow.is_closing() && !peer.is_closing());
    drop((stuck, parts, stuck_peer, peer_parts));
    assert!(is_taken(&room, ALL / 8));
}

#[tokio::test]
async fn large_answer_of_a_connection_gets_its_turn_beside_a_steady_load_of_small_ones() {
    let pool = pool();
    let usage = client();
    let room = || Room::of(account(&pool, &usage));
    // An eighth of the half is ALL / 16.
    let (small, large, later) = (room(), room(), room());
    assert!(is_taken(&small, ALL / 64));
    let waits = tokio::spawn({
        let large = large.clone();
        async move { large.take(ALL / 16).await }
    });
    tokio::task::yield_now().await;
    assert!(!is_taken(&later, ALL / 64), "behind the large answer");
    small.give_back();
    waits.await.unwrap();
    large.give_back();
    assert!(is_taken(&later, ALL / 64));
}

#[tokio::test]
async fn client_without_room_in_the_half_closes_no_peer_when_the_pool_is_full_too() {
    let pool = pool();
    let (slow, peer) = (client(), connection());
    let hand_over = |usage, bytes| {
        let part = Bytes::from(vec![7; bytes]);
        account(&pool, usage).hand_over(part).unwrap()
    };
    let (mut of_peer, mut of_client) = (hand_over(&peer, ALL / 2), hand_over(&slow, ALL / 2));
    let stuck = (of_peer.next(), of_client.next());
    age(&pool, PATIENCE);
    let room = Room::of(account(&pool, &client()));
    assert!(!is_taken(&room, ALL / 4));
    assert!(slow.is_closing() && !peer.is_closing());
    drop((stuck, of_peer, of_client));
    assert!(is_taken(&room, ALL / 4));
}

#[tokio::test]
async fn call_that_gave_up_closes_no_connection() {
    let pool = pool();
    let slow = connection();
    let part = Bytes::from(vec![7; ALL]);
    let mut parts = account(&pool, &slow).hand_over(part).unwrap();
    let stuck = parts.next();
    let gone = Room::of(account(&pool, &connection()));
    assert!(!is_taken(&gone, ALL / 4), "it waits, and gives up");
    age(&pool, PATIENCE);
    pool.lock().looked_at = None;
    pool.cut_off(0, None);
    assert!(!slow.is_closing());
    drop((stuck, parts));
}
