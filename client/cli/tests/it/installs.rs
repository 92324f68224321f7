//! Trimmed logs of real acceptors: new and late learners install snapshots, and an acceptor that was away is lifted.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use paxos_client::Client;
use paxos_proto::v1::AcceptorStatusResponse;
use serde_json::Value;
use tokio::time::sleep;

use crate::harness::{Cluster, Process, integer, until};

/// Environment of acceptors that keep 1 MiB of the log at least, and trim one second after their start.
pub(crate) fn trimming() -> Vec<(&'static str, String)> {
    vec![
        ("PAXOS_RETAIN_BYTES", "1MiB".to_owned()),
        ("PAXOS_RESTART_MAX", "1s".to_owned()),
    ]
}

/// Pause between two rounds of writes.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for a trim.
const TRIM_PATIENCE: Duration = Duration::from_secs(180);

/// Writes registers of about 200 KiB in all, again and again, until `is_enough`.
pub(crate) async fn write_until(client: &Client, what: &str, mut is_enough: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    let mut round = 0_u32;
    while !is_enough().await {
        assert!(
            begun.elapsed() < TRIM_PATIENCE,
            "{what}: did not happen within {} s",
            TRIM_PATIENCE.as_secs()
        );
        for number in 0..20 {
            let value = format!("{round} {}", "v".repeat(10_000));
            client.put(format!("key {number}"), value).await.unwrap();
        }
        round += 1;
        // Other tests run at the same time.
        sleep(ROUND_PAUSE).await;
    }
}

async fn statuses(cluster: &Cluster) -> Vec<AcceptorStatusResponse> {
    let mut statuses = Vec::new();
    for acceptor in 0..cluster.acceptors.len() {
        statuses.extend(cluster.acceptor_status(acceptor).await);
    }
    statuses
}

/// All of this number of acceptors have trimmed above this slot.
pub(crate) async fn have_trimmed(cluster: &Cluster, acceptors: usize, above: u64) -> bool {
    let statuses = statuses(cluster).await;
    let trimmed = statuses.iter().filter(|status| status.trimmed_to > above);
    trimmed.count() >= acceptors
}

/// The learner's own state, in the JSON of `paxos status`.
async fn learner(cluster: &Cluster, learner: &Process) -> Option<Value> {
    let (status, _) = cluster.status().await;
    let peers = status["attached"].as_array()?.clone();
    let address = learner.address.to_string();
    peers
        .into_iter()
        .find(|peer| peer["report"]["address"] == address.as_str() && peer["source"] == "itself")
}

/// Waits until the learner is ready and its log begins above slot 0.
async fn has_installed(cluster: &Cluster, process: &Process) {
    until("the learner has installed a snapshot", async || {
        let learner = learner(cluster, process).await?;
        let is_ready = learner["not_ready"] == "";
        (is_ready && integer(&learner["log_from"])? > 0).then_some(())
    })
    .await;
    let log = process.log();
    assert!(log.contains("installed a snapshot"), "{log}");
}

/// The digests of all learners are equal, and both learners serve the same registers.
pub(crate) async fn agree(cluster: &Cluster) {
    until("the digests of the learners are equal", async || {
        let (status, _) = cluster.status().await;
        assert_ne!(status["digests"]["verdict"], "differ", "{status}");
        assert_ne!(status["digests"]["verdict"], "states differ", "{status}");
        (status["digests"]["verdict"] == "equal").then_some(())
    })
    .await;
    for number in 0..20 {
        let key = format!("key {number}");
        let mut values = Vec::new();
        for learner in &cluster.learners {
            let register = cluster.client_of(&[learner]).get(key.clone()).await.unwrap();
            values.push(register.unwrap());
        }
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "{key}");
    }
}

#[tokio::test]
async fn new_learner_on_an_empty_disk_installs_a_snapshot_and_agrees() {
    let mut cluster = Cluster::start_with(3, 1, 1, trimming()).await;
    let client = cluster.client();
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    cluster.add_learner("learner-2".to_owned(), &[]);
    has_installed(&cluster, &cluster.learners[1]).await;
    client.put("key 0", "after").await.unwrap();
    agree(&cluster).await;
}

#[tokio::test]
async fn late_learners_install_a_snapshot_after_a_restart_and_after_a_pause() {
    let mut cluster = Cluster::start_with(3, 1, 3, trimming()).await;
    let client = cluster.client();
    client.put("key 0", "before").await.unwrap();
    assert!(cluster.learners[1].stop().await.success());
    cluster.learners[2].signal(Signal::SIGSTOP);
    let tail = statuses(&cluster)
        .await
        .iter()
        .map(|status| status.chosen_to)
        .max();
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, tail.unwrap()).await
    })
    .await;
    cluster.learners[1].start();
    cluster.learners[2].signal(Signal::SIGCONT);
    has_installed(&cluster, &cluster.learners[1]).await;
    // The paused learner may have received everything before the pause, or before the trims.
    until("the paused learner is ready", async || {
        let learner = learner(&cluster, &cluster.learners[2]).await?;
        (learner["not_ready"] == "").then_some(())
    })
    .await;
    client.put("key 0", "after").await.unwrap();
    agree(&cluster).await;
}

#[tokio::test]
async fn learner_killed_in_the_middle_of_an_installation_begins_again() {
    let mut cluster = Cluster::start_with(3, 1, 1, trimming()).await;
    let client = cluster.client();
    write_until(&client, "all acceptors trim", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    let data_dir = cluster.path("learner-2");
    cluster.add_learner("learner-2".to_owned(), &["--data-dir", &data_dir]);
    // Different moments of the start: the installation takes a fraction of a second.
    for millis in [50, 100, 150, 200, 300, 400] {
        sleep(Duration::from_millis(millis)).await;
        cluster.learners[1].kill_if_it_runs();
        cluster.learners[1].start();
    }
    until("the learner is ready", async || {
        let learner = learner(&cluster, &cluster.learners[1]).await?;
        (learner["not_ready"] == "").then_some(())
    })
    .await;
    client.put("key 0", "after").await.unwrap();
    agree(&cluster).await;
    let names = std::fs::read_dir(&data_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    let is_left = |name: &String| name.starts_with("learner-");
    assert!(!names.iter().any(is_left), "{names:?}");
}

#[tokio::test]
async fn acceptor_that_was_away_while_others_trimmed_is_lifted() {
    let mut cluster = Cluster::start_with(3, 1, 1, trimming()).await;
    let client = cluster.client();
    client.put("key 0", "before").await.unwrap();
    cluster.acceptors[2].kill();
    write_until(&client, "two acceptors trim", async || {
        have_trimmed(&cluster, 2, 0).await
    })
    .await;
    // The next leader has no values in memory, and no acceptor has the trimmed rows.
    cluster.proposers[0].kill();
    cluster.proposers[0].start();
    cluster.leader().await;
    cluster.acceptors[2].start();
    until("the acceptor is lifted", async || {
        client.put("key 0", "after").await.unwrap();
        let status = cluster.acceptor_status(2).await?;
        let chosen_to = statuses(&cluster)
            .await
            .iter()
            .map(|status| status.chosen_to)
            .max()?;
        (status.chosen_to + 100 > chosen_to && status.trimmed_to > 0).then_some(())
    })
    .await;
    // A snapshot of the learner lifted the acceptor, and votes of the acceptor count again.
    assert!(
        cluster.learners[0]
            .log()
            .contains("gave a snapshot to an acceptor")
    );
    cluster.acceptors[0].kill();
    client.put("key 0", "with the lifted acceptor").await.unwrap();
}
