//! Paused learners and readers cost other processes nothing, however long the pause lasts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::harness::{BackgroundLoad, Cluster, LoadOutcome, PATIENCE, Process};
use nix::sys::signal::Signal;
use paxos_common::{
    peer::{MESSAGE_BYTES_MAX, connect_lazy},
    wire,
};
use paxos_proto::v1::{
    ObserveKind, ObserveRequest, SubscribeRequest, acceptor_client::AcceptorClient,
    learner_client::LearnerClient,
};

/// Number of values poured into the log at a time: in bytes, many times the memory that a process may keep for a
/// reader.
const POURED_VALUES: usize = 2_000;
const VALUE_BYTES: usize = 16 * 1024;
/// Upper bound of a process's growth in KiB while the values pass: half of their bytes.
const GROWTH_MAX_KIB: u64 = 16 * 1024;
/// Upper bound of a write-ahead log in bytes: checkpoints come every few MiB, and short reads let checkpoints through.
const WAL_MAX_BYTES: u64 = 32 * 1024 * 1024;

/// The result of pouring values into the log while watching the write-ahead logs.
struct Poured {
    outcome: LoadOutcome,
    took: Duration,
    wal_bytes: u64,
    /// The longest time without a success.
    gap: Duration,
}

async fn pour(cluster: &Cluster, name: &'static str, at_least: Duration) -> Poured {
    let mut poured = Poured {
        outcome: LoadOutcome::default(),
        took: Duration::ZERO,
        wal_bytes: 0,
        gap: Duration::ZERO,
    };
    let begun = Instant::now();
    for round in 0.. {
        // Every value is proposed once, so each round needs clients with different numbers.
        let clients = (0..4).map(|_| cluster.client()).collect();
        let round_name: &'static str = format!("{name} {round}").leak();
        let load = BackgroundLoad::of_bytes(clients, round_name, POURED_VALUES / 4, 16, VALUE_BYTES);
        while load.done() < POURED_VALUES {
            load.reached((load.done() + POURED_VALUES / 10).min(POURED_VALUES))
                .await;
            for acceptor in 0..cluster.acceptors.len() {
                let status = cluster.acceptor_status(acceptor).await.unwrap();
                poured.wal_bytes = poured.wal_bytes.max(status.wal_bytes);
            }
        }
        poured.gap = poured.gap.max(load.take_gap());
        poured.outcome.merge(load.finish().await);
        if round == 0 {
            poured.took = begun.elapsed();
        }
        if begun.elapsed() >= at_least {
            break;
        }
    }
    poured
}

/// Resident memory of every process that must not grow.
fn memory(cluster: &Cluster) -> Vec<u64> {
    let processes = cluster.acceptors.iter().chain(&cluster.proposers);
    processes.map(Process::resident_kib).collect()
}

fn growth(before: &[u64], after: &[u64]) -> u64 {
    let grown = before
        .iter()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(*before));
    grown.max().unwrap()
}

fn check(what: &str, calm: &Poured, poured: &Poured, growth: u64) {
    eprintln!(
        "{what}: {} MiB poured in {:.1?} ({:.1?} with nobody slow), the longest gap {:.0?} ({:.0?}); memory grew by at most \
         {growth} KiB, the write-ahead logs were at most {} KiB ({})",
        (POURED_VALUES * VALUE_BYTES) >> 20,
        poured.took,
        calm.took,
        poured.gap,
        calm.gap,
        poured.wal_bytes / 1024,
        calm.wal_bytes / 1024,
    );
    assert!(growth < GROWTH_MAX_KIB, "{growth} KiB");
    assert!(poured.wal_bytes < WAL_MAX_BYTES, "{} bytes", poured.wal_bytes);
    assert!(
        poured.outcome.acknowledged.len() > POURED_VALUES * 9 / 10,
        "nobody waits for the slow"
    );
}

#[tokio::test]
async fn paused_learner_slows_no_client_and_resumes_without_a_gap() {
    stop_learner(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "minutes long: cargo long"]
async fn learner_paused_for_a_minute_slows_no_client() {
    stop_learner(Duration::from_mins(1)).await;
}

/// Stops a learner for this time, and at least while values are poured once.
async fn stop_learner(stopped: Duration) {
    let cluster = Cluster::start_alone(3, 1, 2).await;
    let calm = pour(&cluster, "calm", Duration::ZERO).await;
    let before = memory(&cluster);
    cluster.learners[0].signal(Signal::SIGSTOP);
    let poured = pour(&cluster, "stopped", stopped).await;
    let after = memory(&cluster);
    cluster.learners[0].signal(Signal::SIGCONT);
    check("a learner stands still", &calm, &poured, growth(&before, &after));

    let mut outcome = calm.outcome;
    outcome.merge(poured.outcome);
    let end = cluster.client().chosen_to().await.unwrap().max(outcome.end());
    let resumed = Instant::now();
    outcome.check(&cluster.log_of(&cluster.learners[0], end).await);
    eprintln!("it has caught up and was read in {:.1?}", resumed.elapsed());
    outcome.check(&cluster.log_of(&cluster.learners[1], end).await);
    cluster.digests_are_equal(end).await;
}

#[tokio::test]
async fn stalled_readers_slow_no_client_and_miss_nothing() {
    const READERS: usize = 3;
    let cluster = Cluster::start_alone(3, 1, 1).await;
    let calm = pour(&cluster, "calm", Duration::ZERO).await;
    // Each reader takes a single message, and then no more.
    let mut subscribers = Vec::new();
    let mut observers = Vec::new();
    let status = cluster.acceptor_status(0).await.unwrap();
    let caller = wire::caller(wire::read_stamp(status.stamp.as_ref()).unwrap().cluster);
    for reader in 0..READERS {
        let channel = connect_lazy(&cluster.learners[0].address);
        let mut client = LearnerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut news = client
            .subscribe(SubscribeRequest { from: 0 })
            .await
            .unwrap()
            .into_inner();
        let first = news.message().await.unwrap().unwrap();
        subscribers.push((news, first.next));

        let channel = connect_lazy(&cluster.acceptors[reader % 3].address);
        let mut client = AcceptorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = ObserveRequest {
            caller: Some(caller.clone()),
            kind: ObserveKind::Values.into(),
            from: 0,
        };
        let mut frames = client.observe(request).await.unwrap().into_inner();
        let first = frames.message().await.unwrap().unwrap();
        let seen: BTreeSet<_> = first.rows.iter().map(|row| row.slot).collect();
        observers.push((frames, seen));
    }
    let mut before = memory(&cluster);
    before.push(cluster.learners[0].resident_kib());
    let poured = pour(&cluster, "crawling", Duration::ZERO).await;
    let mut after = memory(&cluster);
    after.push(cluster.learners[0].resident_kib());
    check("readers at a crawl", &calm, &poured, growth(&before, &after));

    let mut outcome = calm.outcome;
    outcome.merge(poured.outcome);
    let end = outcome.end();
    outcome.check(&cluster.log_of(&cluster.learners[0], end).await);
    for (mut news, mut next) in subscribers {
        while next < end.get() {
            let message = tokio::time::timeout(PATIENCE, news.message()).await.unwrap();
            let message = message.unwrap().unwrap();
            for record in &message.records {
                assert_eq!(record.slot, next, "without a gap or a repeat");
                next += 1;
            }
            assert_eq!(message.next, next);
        }
    }
    for (mut frames, mut seen) in observers {
        // An acceptor may lack a slot known to a quorum of other acceptors, until the leader repairs the slot.
        while (0..end.get()).any(|slot| !seen.contains(&slot)) {
            let frame = tokio::time::timeout(PATIENCE, frames.message()).await.unwrap();
            seen.extend(frame.unwrap().unwrap().rows.iter().map(|row| row.slot));
        }
    }
}
