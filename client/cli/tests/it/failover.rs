//! Clients of a cluster while processes die and return under load.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::harness::{BackgroundLoad, Cluster};
use nix::sys::signal::Signal;
use paxos_client::{Slot, Version};

/// Upper bound of a gap in service, on the slowest machines. The aim is printed beside the measured gap.
const GAP_MAX: Duration = Duration::from_secs(10);

/// The next process to kill.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Leader,
    Acceptor(usize),
    Learner(usize),
}

/// Ten leaders, each acceptor once, each learner once, in turn.
const VICTIMS: [Victim; 15] = [
    Victim::Leader,
    Victim::Leader,
    Victim::Acceptor(0),
    Victim::Leader,
    Victim::Leader,
    Victim::Learner(0),
    Victim::Leader,
    Victim::Acceptor(1),
    Victim::Leader,
    Victim::Leader,
    Victim::Learner(1),
    Victim::Leader,
    Victim::Acceptor(2),
    Victim::Leader,
    Victim::Leader,
];

#[tokio::test]
async fn nothing_acknowledged_is_lost_though_every_process_is_killed_in_turn() {
    kill_every_process(20_000).await;
}

#[tokio::test]
#[ignore = "a minute long: cargo long"]
async fn many_acknowledged_values_survive_the_kill_of_every_process() {
    kill_every_process(100_000).await;
}

async fn kill_every_process(values: usize) {
    const CLIENTS: usize = 4;
    let each = values / CLIENTS;
    let begun = Instant::now();
    let mut cluster = Cluster::start(3, 3, 2).await;
    let load = BackgroundLoad::of_processes(&cluster, CLIENTS, each, 32);
    // A killed process stays away for half of the time until the next kill.
    let stretch = CLIENTS * each / (2 * VICTIMS.len() + 2);
    for (victim, number) in VICTIMS.into_iter().zip(1..) {
        load.reached(2 * number * stretch).await;
        let process = match victim {
            Victim::Leader => {
                let leader = cluster.leader().await;
                &mut cluster.proposers[leader]
            }
            Victim::Acceptor(number) => &mut cluster.acceptors[number],
            Victim::Learner(number) => &mut cluster.learners[number],
        };
        process.kill();
        load.reached((2 * number + 1) * stretch).await;
        process.start();
    }
    let outcome = load.finish().await;
    let loaded = begun.elapsed();
    assert_eq!(
        outcome.acknowledged.len() + outcome.unknown.len() + outcome.not_proposed.len(),
        CLIENTS * each,
        "every proposal has one outcome"
    );
    assert!(outcome.acknowledged.len() > CLIENTS * each * 9 / 10);

    // Unfinished work of a dead leader may follow the last acknowledged slot.
    let end = cluster.client().chosen_to().await.unwrap();
    assert!(end >= outcome.end(), "a watermark is past what was acknowledged");
    let first = cluster.log_of(&cluster.learners[0], end).await;
    let second = cluster.log_of(&cluster.learners[1], end).await;
    outcome.check(&first);
    assert_eq!(below(&first, end), below(&second, end), "learners tell one order");
    cluster.digests_are_equal(end).await;
    eprintln!(
        "{} values in {loaded:.1?}, checked after {:.1?}: {} acknowledged, {} unknown, of which {} are in the log, \
         {} not proposed",
        CLIENTS * each,
        begun.elapsed(),
        outcome.acknowledged.len(),
        outcome.unknown.len(),
        first.len() - outcome.acknowledged.len(),
        outcome.not_proposed.len(),
    );
}

fn below(log: &BTreeMap<Version, Vec<u8>>, end: Slot) -> Vec<(&Version, &Vec<u8>)> {
    log.iter().take_while(|(version, _)| version.slot < end).collect()
}

/// Measures the gap after each of several leaders gets this signal. `aim`: the gap aimed for on an idle machine.
async fn gaps(signal: Signal, aim: Duration) {
    const ROUNDS: usize = 5;
    let mut cluster = Cluster::start_alone(3, 3, 1).await;
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 16);
    let mut gaps = Vec::new();
    for _ in 0..ROUNDS {
        load.goes_on(300).await;
        let leader = cluster.leader().await;
        let undisturbed = load.take_gap();
        cluster.proposers[leader].signal(signal);
        let status = cluster.proposers[leader].ended().await;
        assert_eq!(
            status.code(),
            (signal == Signal::SIGTERM).then_some(0),
            "a stop is clean"
        );
        // Enough proposals that some must have started after the signal.
        load.goes_on(300).await;
        let gap = load.take_gap();
        assert!(gap < GAP_MAX, "{gap:?} without a success after {signal}");
        gaps.push((gap, undisturbed));
        cluster.proposers[leader].start();
    }
    let outcome = load.stop().await;
    let end = cluster.client().chosen_to().await.unwrap().max(outcome.end());
    outcome.check(&cluster.log_of(&cluster.learners[0], end).await);
    eprintln!(
        "gap in successful proposals after {signal} to the leader (aim: {aim:?}), and before it: {gaps:.0?}; {} of {} unknown",
        outcome.unknown.len(),
        outcome.unknown.len() + outcome.acknowledged.len(),
    );
}

#[tokio::test]
async fn leader_that_is_stopped_hands_over() {
    gaps(Signal::SIGTERM, Duration::from_millis(100)).await;
}

#[tokio::test]
async fn leader_that_is_killed_is_replaced() {
    gaps(Signal::SIGKILL, Duration::from_millis(500)).await;
}
