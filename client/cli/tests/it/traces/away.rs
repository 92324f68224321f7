//! Absent collectors, and variables without a collector.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::collector::{self, SpanCollector};
use crate::harness::{self, Cluster, free_ports, paxos, run_with, until};

#[tokio::test]
async fn absent_collector_is_logged_once_and_again_on_its_return() {
    let address = SpanCollector::start().await.address;
    let cluster = Cluster::start_with(3, 1, 1, collector::environment(address)).await;
    let client = cluster.client();
    let timeout = Duration::from_secs(20);
    let taken_nothing = |log: &str| log.matches("the trace collector accepts no spans").count();
    until("the acceptors have noticed", async || {
        client
            .with_timeout(timeout)
            .append_at_most_once("hello")
            .await
            .unwrap();
        let noticed = |acceptor: &harness::Process| taken_nothing(&acceptor.log()) > 0;
        cluster.acceptors.iter().all(noticed).then_some(())
    })
    .await;
    let collector = SpanCollector::start_at(address).await;
    until("spans come in again", async || {
        client
            .with_timeout(timeout)
            .append_at_most_once("hello")
            .await
            .unwrap();
        let has_reported =
            |acceptor: &harness::Process| acceptor.log().contains("the trace collector accepts spans again");
        (!collector.spans().is_empty() && cluster.acceptors.iter().all(has_reported)).then_some(())
    })
    .await;
    for acceptor in &cluster.acceptors {
        assert_eq!(taken_nothing(&acceptor.log()), 1, "{}", acceptor.log());
    }
}

#[tokio::test]
async fn variables_that_make_no_sense_are_refused_with_what_would() {
    let dir = tempfile::TempDir::new().unwrap();
    let data_dir = dir.path().join("a1").display().to_string();
    let acceptor = ["serve", "acceptor", "--id", "a1", "--data-dir", &data_dir];
    let proposer = ["serve", "proposer", "--acceptors", "http://127.0.0.1:1"];
    let learner = ["serve", "learner", "--acceptors", "http://127.0.0.1:1"];
    for (name, value, expected) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "jaeger:4317", "http://HOST:PORT"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "grpc or http/protobuf",
        ),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such/file", "PEM file"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
    ] {
        let environment = vec![
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", String::new()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:4317".to_owned()),
            (name, value.to_owned()),
        ];
        for role in [&acceptor[..], &proposer, &learner] {
            let listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "off"];
            let output = run_with(&[role, &listen].concat(), &environment).await;
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(
                text.contains(name) && text.contains(value) && text.contains(expected),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn collector_that_hangs_delays_the_end_of_roles_for_about_two_seconds() {
    // The kernel accepts connections. No process reads.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let environment = collector::environment(hung.local_addr().unwrap());
    let ports = free_ports(1);
    let dir = tempfile::TempDir::new().unwrap();
    let urls = "http://127.0.0.1:1";
    let mut proposer = harness::Process::role_with(
        dir.path(),
        "proposer",
        "proposer".to_owned(),
        ports,
        &["--acceptors", urls],
        environment.clone(),
    );
    until("the proposer runs", async || {
        proposer.log().contains("exporting traces").then_some(())
    })
    .await;
    let begun = Instant::now();
    assert_eq!(proposer.stop().await.code(), Some(0));
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3_500), "{took:?}");

    let base = free_ports(210);
    let mut dev = paxos(&["dev", "--base-port", &base.to_string()]);
    let mut dev = dev.envs(environment).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let is_ready = move || lines.any(|line| line.unwrap().starts_with("Ready"));
    assert!(tokio::task::spawn_blocking(is_ready).await.unwrap());
    let begun = Instant::now();
    kill(Pid::from_raw(dev.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let ended = until("the cluster ends", async || dev.try_wait().unwrap()).await;
    let took = begun.elapsed();
    assert_eq!(ended.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
}
