//! Paused processes: clients continue at the new leader, and `paxos status` does not wait for paused processes.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, run, until};
use futures::future::join_all;
use nix::sys::signal::Signal;
use paxos_client::{ErrorCode, ProposeError};
use serde_json::Value;

#[tokio::test]
async fn clients_continue_while_the_leader_and_a_standby_are_paused() {
    let cluster = Cluster::start(3, 3, 1).await;
    let leader = cluster.leader().await;
    let client = cluster.client();
    client.append_at_most_once("before").await.unwrap();
    client.put("key", "before").await.unwrap();
    let paused = [leader, (leader + 1) % 3];
    for proposer in paused {
        cluster.proposers[proposer].signal(Signal::SIGSTOP);
    }
    let begun = Instant::now();
    let without_session = join_all((0..64).map(|_| client.append_at_most_once("without a session")));
    let writing = client.put("key", "after");
    let (appended, written) = tokio::join!(without_session, async { (writing.await, begun.elapsed()) });
    println!(
        "put after {:?}, all 64 answered after {:?}",
        written.1,
        begun.elapsed()
    );
    // All of this happened while both are paused: no call waited for a timeout.
    written.0.unwrap();
    for outcome in appended {
        match outcome {
            Ok(_) => {}
            Err(ProposeError::OutcomeUnknown(cause)) => {
                assert_ne!(cause.code, ErrorCode::DeadlineExceeded, "{cause}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    until("values are ordered", async || {
        client.append_at_most_once("after").await.ok()
    })
    .await;
    for proposer in paused {
        cluster.proposers[proposer].signal(Signal::SIGCONT);
    }
}

#[tokio::test]
async fn status_does_not_wait_for_a_paused_acceptor_and_standby() {
    let cluster = Cluster::start_alone(3, 2, 1).await;
    let standby = 1 - cluster.leader().await;
    let (standby, acceptor) = (&cluster.proposers[standby], &cluster.acceptors[2]);
    cluster.client().append_at_most_once("value").await.unwrap();
    for process in [standby, acceptor] {
        process.signal(Signal::SIGSTOP);
    }
    let begun = Instant::now();
    let (status, code) = cluster.status().await;
    let took = begun.elapsed();
    println!("status took {took:?}");
    let begun = Instant::now();
    let log = run(&["log", "--acceptors", &cluster.urls()]).await;
    let log_took = begun.elapsed();
    println!("log took {log_took:?}");
    for process in [standby, acceptor] {
        process.signal(Signal::SIGCONT);
    }
    // A fraction of a second on an idle machine. With too few answers, the status would wait 3 s.
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    assert!(
        log_took < Duration::from_secs(5),
        "half of the default timeout: {log_took:?}"
    );
    assert!(log.status.success(), "{log:?}");
    assert_eq!(code, Some(0), "{status}");
    let silent = &status["acceptors"][2];
    assert!(
        silent["error"].as_str().unwrap().contains("no answer within"),
        "{status}"
    );
    assert_eq!(silent["votes"], false);
    let problems = status["findings"].as_array().unwrap().iter();
    let problems: Vec<_> = problems
        .map(|finding| finding["problem"].as_str().unwrap())
        .collect();
    let problems = problems.join("\n");
    assert!(problems.contains("2 of 3 acceptors can vote"), "{problems}");
    let silent = format!(
        "proposer {} accepts connections, but does not answer",
        standby.address
    );
    assert!(problems.contains(&silent), "{problems}");
    for peer in status["attached"].as_array().unwrap() {
        let is_standby = peer["report"]["address"] == standby.address.as_str();
        let source = if is_standby { "report" } else { "itself" };
        assert_eq!(peer["source"], source, "{status}");
        if is_standby {
            assert!(
                peer["error"].as_str().unwrap().contains("no answer within"),
                "{status}"
            );
        }
    }
}

#[tokio::test]
async fn status_reports_at_once_that_all_proposers_or_all_learners_are_paused() {
    let cluster = Cluster::start(3, 2, 2).await;
    cluster.client().append_at_most_once("value").await.unwrap();
    for (paused, problem, code) in [
        (&cluster.learners, "no learner answers, so no client can read", 0),
        (&cluster.proposers, "no proposer answers", 69),
    ] {
        for process in paused {
            process.signal(Signal::SIGSTOP);
        }
        let (status, found) = cluster.status().await;
        for process in paused {
            process.signal(Signal::SIGCONT);
        }
        let findings = status["findings"].as_array().unwrap().iter();
        let problems: Vec<_> = findings
            .map(|finding| finding["problem"].as_str().unwrap())
            .collect();
        assert!(
            problems.iter().any(|text| text.starts_with(problem)),
            "{problems:?}"
        );
        assert_eq!(found, Some(code), "{status}");
    }
}

#[tokio::test]
async fn status_knows_what_was_acknowledged_a_moment_before() {
    let cluster = Cluster::start(3, 2, 2).await;
    let client = cluster.client();
    for number in 0..10 {
        client.put("key", number.to_string()).await.unwrap();
        let output = run(&["status", "--output", "json", "--acceptors", &cluster.urls()]).await;
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{status}");
        assert!(status["leader_address"].is_string(), "{status}");
        for peer in status["attached"].as_array().unwrap() {
            assert_eq!(
                (&peer["source"], &peer["age_ms"]),
                (&"itself".into(), &"0".into()),
                "{status}"
            );
        }
        // A busy machine may have a slow disk. Nothing else is wrong.
        for finding in status["findings"].as_array().unwrap() {
            assert!(finding["problem"].as_str().unwrap().contains("disk"), "{status}");
        }
    }
}
