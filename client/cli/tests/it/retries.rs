//! Retries take effect once, even when leaders are killed while commands are in flight.

use std::time::{Duration, Instant};

use crate::harness::Cluster;
use futures::future::join_all;
use paxos_client::{Client, Condition, Version, Written};

const CLIENTS: u64 = 16;
/// Interval between kills of the leader.
const KILL_EVERY: Duration = Duration::from_secs(2);

/// The counts of a client.
#[derive(Debug, Default)]
struct IncrementCounts {
    incremented: u64,
    unknown: u64,
}

/// Increments the counter until `until`.
async fn count(client: Client, until: Instant) -> IncrementCounts {
    let mut counted = IncrementCounts::default();
    while Instant::now() < until {
        let found = client.get("counter").await.unwrap();
        let (value, condition) = match found {
            None => (0, Condition::Absent),
            Some(register) => {
                let text = std::str::from_utf8(&register.value).unwrap();
                (text.parse::<u64>().unwrap(), Condition::Version(register.version))
            }
        };
        let more = (value + 1).to_string();
        match client.put_if("counter", more, condition).await {
            Ok(Written::Applied { .. }) => counted.incremented += 1,
            Ok(Written::ConditionFailed { .. }) => {}
            Ok(unknown) => panic!("{unknown:?}"),
            Err(error) if error.had_no_effect() => {}
            Err(_) => counted.unknown += 1,
        }
    }
    counted
}

async fn counter_counts_every_success_once(length: Duration) {
    let mut cluster = Cluster::start(3, 3, 2).await;
    let until = Instant::now() + length;
    let clients = (0..CLIENTS).map(|_| tokio::spawn(count(cluster.client(), until)));
    let counting = tokio::spawn(join_all(clients.collect::<Vec<_>>()));
    let mut kills = 0;
    while Instant::now() + KILL_EVERY < until {
        tokio::time::sleep(KILL_EVERY).await;
        let leader = cluster.leader().await;
        cluster.proposers[leader].kill();
        cluster.proposers[leader].start();
        kills += 1;
    }
    let counted: Vec<IncrementCounts> = counting
        .await
        .unwrap()
        .into_iter()
        .map(|counted| counted.unwrap())
        .collect();
    let incremented: u64 = counted.iter().map(|counted| counted.incremented).sum();
    let unknown: u64 = counted.iter().map(|counted| counted.unknown).sum();
    let found = cluster.client().get("counter").await.unwrap().unwrap();
    let value: u64 = std::str::from_utf8(&found.value).unwrap().parse().unwrap();
    println!(
        "{kills} leaders killed; {incremented} increments, {unknown} unknown; the counter is at {value}"
    );
    assert!(
        kills > 0 && incremented > kills,
        "without increments in each reign it tests nothing"
    );
    // The library repeats commands within the session for as long as this test waits, so no outcome may stay unknown.
    assert_eq!(unknown, 0);
    assert_eq!(value, incremented);
}

#[tokio::test]
async fn counter_counts_every_success_once_while_leaders_are_killed() {
    counter_counts_every_success_once(Duration::from_secs(13)).await;
}

#[tokio::test]
#[ignore = "takes a minute: cargo long"]
async fn counter_counts_every_success_once_for_a_minute() {
    counter_counts_every_success_once(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn append_that_is_repeated_is_in_the_log_once() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let client = cluster.client();
    let appending = tokio::spawn(async move {
        let mut versions: Vec<Version> = Vec::new();
        for number in 0..400 {
            versions.push(client.append(format!("{number}")).await.unwrap());
        }
        versions
    });
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let leader = cluster.leader().await;
        cluster.proposers[leader].kill();
        cluster.proposers[leader].start();
    }
    let versions = appending.await.unwrap();
    assert!(versions.is_sorted(), "each is ordered after the one before");
    assert_eq!(versions.len(), 400);
}
