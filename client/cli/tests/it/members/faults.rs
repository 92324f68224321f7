//! Processes killed in the middle of a change of members: the leader, the command, the joiner.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use tokio::time::sleep;

use super::*;
use crate::harness::paxos;

/// Times from the start of the command to the kill, in milliseconds: before the request, in the copy, at the switch, after.
const KILLED_AFTER: [u64; 6] = [20, 60, 120, 250, 400, 800];

/// Starts `paxos member` in the background.
fn start(cluster: &Cluster, action: &[&str]) -> Child {
    let mut command = paxos(&arguments(action, &cluster.urls()));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Starts `paxos member` in the background, and returns once the command has printed a stage, or has ended.
async fn start_to(cluster: &Cluster, action: &[&str], stage: &'static str) -> Child {
    let mut command = start(cluster, &[action, &["--output", "json"]].concat());
    let output = command.stdout.take().unwrap();
    let (seen, is_seen) = tokio::sync::oneshot::channel();
    // Reads on: the command would end at a closed pipe.
    std::thread::spawn(move || {
        let mut seen = Some(seen);
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(seen) = seen.take_if(|_| line.contains(stage)) {
                let _ = seen.send(());
            }
        }
    });
    // An error: the command has ended.
    let _ = is_seen.await;
    command
}

/// Waits for the end of a command.
async fn ended(command: Child) -> Output {
    tokio::task::spawn_blocking(move || command.wait_with_output().unwrap())
        .await
        .unwrap()
}

/// Adds the fourth acceptor in even rounds, and removes the acceptor in odd rounds.
fn change_of(cluster: &Cluster, round: usize) -> (&'static str, String) {
    match round % 2 {
        0 => ("add", cluster.acceptors[3].address.to_string()),
        _ => ("remove", "acceptor-4".to_owned()),
    }
}

#[tokio::test]
async fn change_is_made_though_its_leader_is_killed() {
    let mut cluster = Cluster::start(3, 3, 1).await;
    cluster.add_acceptor();
    under_load(&mut cluster, "leaders killed", async |cluster, load| {
        for (round, millis) in KILLED_AFTER.into_iter().enumerate() {
            let leader = cluster.leader().await;
            let (action, acceptor) = change_of(cluster, round);
            let command = start(cluster, &[action, &acceptor]);
            sleep(Duration::from_millis(millis)).await;
            cluster.proposers[leader].kill();
            let output = ended(command).await;
            println!("{millis} ms: {}", stdout(&output));
            cluster.proposers[leader].start();
            let era = u64::try_from(round).unwrap() + 1;
            all_vote(cluster, era, 4 - round % 2).await;
            load.goes_on(20).await;
        }
    })
    .await;
}

#[tokio::test]
async fn command_that_is_killed_at_any_stage_is_run_again_and_finds_its_change() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    cluster.add_acceptor();
    under_load(&mut cluster, "commands killed", async |cluster, _| {
        for (round, stage) in ["copying", "deciding", "switching", "done"]
            .into_iter()
            .enumerate()
        {
            let (action, acceptor) = change_of(cluster, round);
            let mut command = start_to(cluster, &[action, &acceptor], stage).await;
            command.kill().unwrap();
            command.wait().unwrap();
            let output = member(cluster, &[action, &acceptor]).await;
            println!(
                "{stage}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                stderr(&output)
            );
            let era = u64::try_from(round).unwrap() + 1;
            all_vote(cluster, era, 4 - round % 2).await;
        }
    })
    .await;
}

#[tokio::test]
async fn joiner_that_is_killed_while_it_copies_goes_on_after_its_start() {
    let mut cluster = Cluster::start(3, 2, 1).await;
    let client = cluster.client();
    for number in 0..64 {
        client
            .put(format!("key {number}"), "v".repeat(200_000))
            .await
            .unwrap();
    }
    cluster.add_acceptor();
    let joiner = cluster.acceptors[3].address.to_string();
    // A joiner that stays away ends the change, and nothing has changed.
    let command = start_to(&cluster, &["add", &joiner], "copying").await;
    cluster.acceptors[3].signal(Signal::SIGSTOP);
    // Meanwhile the change is no secret.
    let shown = list(&cluster).await;
    println!("{}", shown["change"]);
    assert_eq!(shown["change"]["step"], "copying", "{shown}");
    assert_eq!(shown["change"]["added"][0]["address"], joiner.as_str(), "{shown}");
    assert!(integer(&shown["change"]["since_ms"]).is_some(), "{shown}");
    let (status, _) = cluster.status().await;
    assert_eq!(status["change"]["era"], "1", "{status}");
    let output = ended(command).await;
    cluster.acceptors[3].signal(Signal::SIGCONT);
    let reason = stderr(&output);
    println!("{reason}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let expected = format!("acceptor-4 at {joiner} has stopped answering the leader");
    assert!(reason.contains(&expected), "{reason}");
    assert_eq!(list(&cluster).await["era"], "0");
    // The log also holds the values above, so it is not compared with the load.
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 4);
    load.goes_on(20).await;
    {
        let cluster = &mut cluster;
        let command = start(cluster, &["add", &joiner]);
        for millis in [100, 150] {
            sleep(Duration::from_millis(millis)).await;
            cluster.acceptors[3].kill();
            cluster.acceptors[3].start();
        }
        // The joiner was away when the leader looked for it, or too often in the copy: nothing has changed. Otherwise the
        // change is made.
        let output = ended(command).await;
        if !output.status.success() {
            println!("{}", stderr(&output));
            changed(cluster, &["add", &joiner]).await;
        }
    }
    load.goes_on(20).await;
    assert!(!load.stop().await.acknowledged.is_empty());
    all_vote(&cluster, 1, 4).await;
    serves_without(&mut cluster, 0).await;
}
