//! Guarantees of a cluster of real processes while processes are killed.

use std::time::{Duration, Instant};

use crate::harness::{BackgroundLoad, Cluster, PATIENCE, Process, free_ports, run, until};
use nix::sys::signal::Signal;
use paxos_client::Slot;

#[tokio::test]
async fn acknowledged_values_survive_the_kill_of_three_leaders() {
    const CLIENTS: usize = 4;
    const EACH: usize = 5_000;
    let mut cluster = Cluster::start(3, 2, 2).await;
    let load = BackgroundLoad::start(&cluster, CLIENTS, EACH, 32);
    for quarter in 1..=3 {
        load.reached(quarter * CLIENTS * EACH / 4).await;
        let leader = cluster.leader().await;
        cluster.proposers[leader].kill();
        cluster.proposers[leader].start();
    }
    let outcome = load.finish().await;
    assert!(
        !outcome.unknown.is_empty(),
        "killing a leader under load costs at least one answer, or it was not hit"
    );
    assert_eq!(
        outcome.acknowledged.len() + outcome.unknown.len() + outcome.not_proposed.len(),
        CLIENTS * EACH,
        "every proposal has one outcome"
    );
    assert!(
        outcome.acknowledged.len() > CLIENTS * EACH * 9 / 10,
        "{} are",
        outcome.acknowledged.len()
    );

    // Unfinished work of a dead leader may follow the last acknowledged slot.
    let end = cluster.client().chosen_to().await.unwrap().max(outcome.end());
    let first = cluster.log_of(&cluster.learners[0], end).await;
    let second = cluster.log_of(&cluster.learners[1], end).await;
    outcome.check(&first);
    let upto = |log: &std::collections::BTreeMap<_, _>| -> Vec<_> {
        log.clone()
            .into_iter()
            .take_while(|(version, _): &(paxos_client::Version, Vec<u8>)| version.slot < end)
            .collect()
    };
    assert_eq!(upto(&first), upto(&second), "learners tell one order");
    cluster.digests_are_equal(end).await;
}

#[tokio::test]
async fn watermark_is_above_every_version_acknowledged_before() {
    let cluster = Cluster::start(3, 2, 1).await;
    let client = cluster.client();
    for number in 0..50 {
        let version = client.append_at_most_once(number.to_string()).await.unwrap();
        let end = client.chosen_to().await.unwrap();
        assert!(
            version.slot < end,
            "acknowledged at {version}, and then a watermark of {end}"
        );
    }
}

#[tokio::test]
async fn acknowledged_values_survive_the_kill_of_all_acceptors() {
    const EACH: usize = 4_000;
    let mut cluster = Cluster::start(3, 2, 2).await;
    let load = BackgroundLoad::start(&cluster, 1, EACH, 64);
    load.reached(EACH / 2).await;
    for acceptor in &mut cluster.acceptors {
        acceptor.kill();
    }
    for acceptor in &mut cluster.acceptors {
        acceptor.start();
    }
    let mut outcome = load.finish().await;
    let after = cluster.client().append_at_most_once("after").await.unwrap();
    outcome.acknowledged.insert(after, b"after".to_vec());
    assert!(
        outcome.acknowledged.len() > EACH / 2,
        "{} were acknowledged",
        outcome.acknowledged.len()
    );

    let end = outcome.end();
    for learner in &cluster.learners {
        outcome.check(&cluster.log_of(learner, end).await);
    }
    cluster.digests_are_equal(end).await;
}

#[tokio::test]
async fn learner_continues_after_a_kill_and_a_new_one_catches_up() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let first = BackgroundLoad::start(&cluster, 1, 1_500, 64).finish().await;
    let before = first.end();
    cluster.log_of(&cluster.learners[0], before).await;
    // A reader that stays while the learner is killed and restarted.
    let mut reader = cluster.client_of(&[&cluster.learners[0]]).log(Slot::ZERO);

    cluster.learners[0].kill();
    let second = BackgroundLoad::start(&cluster, 1, 3_000, 64);
    cluster.learners[0].start();
    let second = second.finish().await;
    let end = second.end();

    let mut slots = Vec::new();
    while slots.len() < usize::try_from(end.get()).unwrap() {
        let news = tokio::time::timeout(PATIENCE, reader.next())
            .await
            .expect("the reader is served")
            .unwrap()
            .unwrap();
        slots.extend(news.records.iter().map(|record| record.slot().get()));
    }
    assert_eq!(
        slots,
        (0..).take(slots.len()).collect::<Vec<_>>(),
        "without loss or repeats"
    );

    // The learner logs the slot to continue from: slots on its disk are not learned again.
    let resumed = cluster.learners[0]
        .log()
        .lines()
        .filter_map(started_from)
        .next_back()
        .unwrap();
    assert!(
        resumed > 0 && resumed <= before.get() + 1,
        "continued from {resumed} of {before}"
    );

    cluster.add_learner("learner-new".to_owned(), &[]);
    let old = cluster.log_of(&cluster.learners[0], end).await;
    let new = cluster.log_of(&cluster.learners[1], end).await;
    assert_eq!(old, new);
    for (version, value) in first.acknowledged.iter().chain(&second.acknowledged) {
        assert_eq!(new.get(version), Some(value));
    }
    let status = cluster.digests_are_equal(end).await;
    let learners = status["attached"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|peer| peer["report"]["role"] == "ROLE_LEARNER");
    assert_eq!(learners.count(), 2, "{status}");
}

/// The first slot to learn, from a learner's log line.
fn started_from(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(" learning ")?;
    rest.split_whitespace()
        .find_map(|field| field.strip_prefix("from="))?
        .parse()
        .ok()
}

#[tokio::test]
async fn minority_of_acceptors_can_be_away_and_returns_without_loss() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    cluster.acceptors[0].kill();
    let without = BackgroundLoad::start(&cluster, 1, 500, 32).finish().await;
    assert!(without.acknowledged.len() > 400, "a quorum is enough");
    cluster.acceptors[0].start();
    // The leader repairs the returned acceptor; then this acceptor can replace another in a quorum.
    let (returned, end) = (cluster.acceptors[0].address.clone(), without.end());
    let client = cluster.client();
    until("the acceptor that was away holds what was chosen", async || {
        let status = client.cluster_report().await;
        let report = status
            .acceptors
            .iter()
            .find(|report| report.address == returned)?;
        (report.answer.as_ref().ok()?.chosen_to >= end.get()).then_some(())
    })
    .await;
    cluster.acceptors[1].kill();
    let after = BackgroundLoad::start(&cluster, 1, 100, 32).finish().await;
    assert_eq!(after.not_proposed.len(), 0);
    let end = after.end().max(end);
    let log = cluster.log_of(&cluster.learners[0], end).await;
    for (version, value) in without.acknowledged.iter().chain(&after.acknowledged) {
        assert_eq!(log.get(version), Some(value));
    }
}

#[tokio::test]
async fn paused_leader_is_replaced_and_does_no_harm_when_it_wakes() {
    pause_leader(Duration::ZERO).await;
}

#[tokio::test]
#[ignore = "half a minute long: cargo long"]
async fn leader_paused_for_ten_seconds_does_no_harm_when_it_wakes() {
    pause_leader(Duration::from_secs(10)).await;
}

/// Pauses the leader for this time, and at least until another leader serves.
async fn pause_leader(pause: Duration) {
    let cluster = Cluster::start(3, 2, 2).await;
    let load = BackgroundLoad::named(&cluster, "before", 1, 3_000, 64);
    load.reached(500).await;
    let paused = cluster.leader().await;
    cluster.proposers[paused].signal(Signal::SIGSTOP);
    let paused_at = Instant::now();
    // Fresh clients know no leader, and get past the unanswering proposer.
    let mut outcome = BackgroundLoad::named(&cluster, "meanwhile", 2, 500, 32)
        .finish()
        .await;
    // Not all: on a busy machine, a stalled disk looks like a dead leader.
    assert!(
        outcome.acknowledged.len() > 800,
        "{} are unknown",
        outcome.unknown.len()
    );
    let longer = BackgroundLoad::named(&cluster, "longer", 1, usize::MAX, 4);
    until("the pause was long enough", async || {
        (paused_at.elapsed() >= pause).then_some(())
    })
    .await;
    cluster.proposers[paused].signal(Signal::SIGCONT);
    // Clients that waited for the paused leader, and new proposals, while the leader wakes up.
    longer.goes_on(200).await;
    outcome.merge(longer.stop().await);
    outcome.merge(load.finish().await);

    let end = outcome.end();
    for learner in &cluster.learners {
        outcome.check(&cluster.log_of(learner, end).await);
    }
    cluster.digests_are_equal(end).await;
}

#[tokio::test]
async fn healthcheck_distinguishes_ready_unready_and_unavailable() {
    const READY: Option<i32> = Some(0);
    const NOT_READY: Option<i32> = Some(1);
    const UNAVAILABLE: Option<i32> = Some(69);
    let mut cluster = Cluster::blank(2).await;
    let port = free_ports(1);
    // The third acceptor is missing, so no proposer can form the cluster.
    let urls = format!("{},http://127.0.0.1:{port}", cluster.urls());
    cluster.add_proposer(&urls, &[]);
    let listen = |process: &Process| process.address.as_str().replace("http://", "");
    let (acceptor, proposer) = (listen(&cluster.acceptors[0]), listen(&cluster.proposers[0]));
    let check = async |address: &str| run(&["healthcheck", address]).await.status.code();
    until("the acceptor answers", async || {
        (check(&acceptor).await == NOT_READY).then_some(())
    })
    .await;
    let blank = run(&["healthcheck", &acceptor]).await;
    let reason = String::from_utf8_lossy(&blank.stderr);
    assert!(
        reason.contains("this acceptor belongs to no formed cluster yet"),
        "{reason}"
    );
    // A blank acceptor is live, because a cluster forms by questions to blank acceptors.
    let live = async |address: &str| run(&["healthcheck", "--live", address]).await.status.code();
    assert_eq!(live(&acceptor).await, READY);
    until("the proposer answers", async || {
        (check(&proposer).await == NOT_READY).then_some(())
    })
    .await;
    assert_eq!(check(&format!("127.0.0.1:{port}")).await, UNAVAILABLE);
    assert_eq!(live(&format!("127.0.0.1:{port}")).await, UNAVAILABLE);
    let closed = run(&["healthcheck", &format!("127.0.0.1:{port}")]).await;
    assert_eq!(
        String::from_utf8_lossy(&closed.stderr),
        format!("error: http://127.0.0.1:{port}: no connection: Connection refused (os error 111)\n")
    );
    let data_dir = cluster.path("late");
    let flags = ["--id", "late", "--data-dir", &data_dir];
    let late = Process::role(cluster.dir.path(), "acceptor", "late".to_owned(), port, &flags);
    cluster.acceptors.push(late);
    for address in [&proposer, &acceptor] {
        until("it is ready", async || {
            (check(address).await == READY).then_some(())
        })
        .await;
    }
}

/// The problems found by `paxos status` with these acceptors, line by line, and the exit code.
async fn problems(urls: &str) -> (String, Option<i32>) {
    let output = run(&["status", "--output", "json", "--acceptors", urls]).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = status["findings"].as_array().unwrap().iter();
    let problems: Vec<_> = findings
        .map(|finding| finding["problem"].as_str().unwrap())
        .collect();
    (problems.join("\n"), output.status.code())
}

#[tokio::test]
async fn status_judges_members_that_were_not_given_and_learners_that_are_gone() {
    let mut cluster = Cluster::start(5, 1, 2).await;
    let given: Vec<_> = cluster.acceptors[..3]
        .iter()
        .map(|acceptor| acceptor.address.to_string())
        .collect();
    let given = given.join(",");
    for acceptor in [3, 4] {
        cluster.acceptors[acceptor].kill();
    }
    let (found, code) = problems(&given).await;
    assert_eq!(code, Some(0), "{found}");
    for acceptor in &cluster.acceptors[3..] {
        let silent = format!(
            "acceptor {}, a member that --acceptors does not list",
            acceptor.address
        );
        assert!(found.contains(&silent), "{found}");
    }
    assert!(
        found.contains("3 of 5 acceptors can vote, and 3 make a quorum"),
        "{found}"
    );

    // The first learner ends without notice; the second reports its stop.
    cluster.learners[0].kill();
    assert!(cluster.learners[1].stop().await.success());
    let gone = format!("learner {} is gone", cluster.learners[0].address);
    until("the acceptors have noticed", async || {
        problems(&given).await.0.contains(&gone).then_some(())
    })
    .await;
    let (found, _) = problems(&given).await;
    assert!(!found.contains(cluster.learners[1].address.as_str()), "{found}");
    assert!(found.contains("no learner is attached"), "{found}");
    cluster.learners[0].start();
    until("it is back", async || {
        (!problems(&given).await.0.contains(&gone)).then_some(())
    })
    .await;
}
