//! Damaged rows on the disks of all acceptors: repaired at once where a quorum can say what was chosen, and an explicit
//! end otherwise.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::harness::{Cluster, until};
use paxos_client::Slot;

/// Number of slots. More than one page of damage in a row would hide a wait between two neighbouring stretches.
const SLOTS: u64 = 465;

/// The record of a slot: no part of another slot's record.
fn record(slot: u64) -> String {
    format!("<record {slot:05}>")
}

/// Writes one record per slot, waits until all acceptors vouch for the records, and stops every process but the
/// learners.
async fn stopped_with_records() -> (Cluster, u64) {
    let mut cluster = Cluster::start(3, 2, 0).await;
    let client = cluster.client();
    let mut end = Slot::ZERO;
    for number in 0..SLOTS {
        let appended = client
            .with_timeout(Duration::from_secs(20))
            .append_at_most_once(record(number))
            .await;
        end = appended.unwrap().slot.next();
    }
    for acceptor in 0..3 {
        until("every acceptor vouches for the records", async || {
            let status = cluster.acceptor_status(acceptor).await?;
            (status.chosen_to >= end.get()).then_some(())
        })
        .await;
    }
    // The watermark reaches the disks with the next commit.
    client
        .with_timeout(Duration::from_secs(20))
        .append_at_most_once("after")
        .await
        .unwrap();
    until("every acceptor has the last record", async || {
        let mut voted = Vec::new();
        for acceptor in 0..3 {
            voted.push(cluster.acceptor_status(acceptor).await?.voted_to > end.get());
        }
        voted.iter().all(|voted| *voted).then_some(())
    })
    .await;
    for process in cluster.proposers.iter_mut().chain(&mut cluster.acceptors) {
        assert!(process.stop().await.success());
    }
    (cluster, end.get())
}

fn file(cluster: &Cluster, acceptor: usize) -> PathBuf {
    PathBuf::from(cluster.path(&cluster.acceptors[acceptor].name)).join("acceptor.db")
}

/// Flips a bit in the records of these numbers, on the disk of a single acceptor.
fn damage(cluster: &Cluster, acceptor: usize, is_damaged: impl Fn(u64) -> bool) {
    let file = file(cluster, acceptor);
    let mut bytes = fs::read(&file).unwrap();
    let head = b"<record ";
    let found: Vec<usize> = bytes
        .windows(head.len() + 6)
        .enumerate()
        .filter(|(_, window)| window.starts_with(head) && window.ends_with(b">"))
        .map(|(at, _)| at)
        .collect();
    assert!(found.len() >= usize::try_from(SLOTS).unwrap(), "{}", found.len());
    for at in found {
        let number = at + head.len()..at + head.len() + 5;
        let number: u64 = std::str::from_utf8(&bytes[number]).unwrap().parse().unwrap();
        if is_damaged(number) {
            bytes[at] ^= 0x10;
        }
    }
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn interleaved_damage_on_all_acceptors_is_repaired() {
    let (mut cluster, end) = stopped_with_records().await;
    for acceptor in 0..3 {
        damage(&cluster, acceptor, |number| number % 3 == acceptor as u64);
    }
    for process in cluster.acceptors.iter_mut().chain(&mut cluster.proposers) {
        process.start();
    }
    cluster.add_learner("learner-new".to_owned(), &[]);
    let begun = Instant::now();
    for acceptor in 0..3 {
        until("all damaged rows are repaired", async || {
            let is_repaired = cluster.acceptors[acceptor]
                .log()
                .contains("all damaged rows below the watermark are repaired");
            let status = cluster.acceptor_status(acceptor).await?;
            (is_repaired && status.damaged_rows == 0 && status.chosen_to >= end).then_some(())
        })
        .await;
    }
    eprintln!(
        "{SLOTS} slots, each third damaged on another acceptor: repaired {:.1?} after the start",
        begun.elapsed()
    );
    let log = cluster
        .log_of(&cluster.learners[0], Slot::new(end).unwrap())
        .await;
    let records: Vec<String> = (0..SLOTS).map(record).collect();
    // A last record follows.
    let texts = log.into_values().map(|bytes| String::from_utf8(bytes).unwrap());
    let held: Vec<String> = texts.take(records.len()).collect();
    assert_eq!(held, records);
}

#[tokio::test]
async fn row_unreadable_on_every_acceptor_ends_the_proposers() {
    let (mut cluster, end) = stopped_with_records().await;
    for acceptor in 0..3 {
        damage(&cluster, acceptor, |number| number == 100);
    }
    for acceptor in &mut cluster.acceptors {
        acceptor.start();
    }
    until("the damage is found everywhere", async || {
        let mut first = Vec::new();
        for acceptor in 0..3 {
            let status = cluster.acceptor_status(acceptor).await?;
            assert!(status.known_chosen_to >= end, "what is chosen stays known");
            first.push((status.damaged_rows == 1).then_some(status.chosen_to)?);
        }
        assert!(first.iter().all(|slot| *slot == first[0]), "{first:?}");
        Some(())
    })
    .await;
    let slot = cluster.acceptor_status(0).await.unwrap().chosen_to;
    for proposer in &mut cluster.proposers {
        proposer.start();
    }
    for proposer in &mut cluster.proposers {
        assert_eq!(proposer.ended().await.code(), Some(70));
        let log = proposer.log();
        let text = format!("damage beyond repair: the rows of slot {slot} cannot be read any more");
        assert!(log.contains(&text), "{log}");
        assert!(log.contains("Keep every data directory"), "{log}");
    }
}
