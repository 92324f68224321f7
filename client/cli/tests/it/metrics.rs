//! Metrics and probes of running processes over HTTP: metrics by name, and truthful probes.

mod collector;
pub(crate) mod scrape;
mod tls;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use crate::harness::{Cluster, PATIENCE, Process, free_ports, paxos, run, stdout, until};
use collector::MetricsCollector;
use nix::sys::signal::Signal;
use paxos_common::peer::connect_lazy;
use scrape::{Scrape, address, get, ready};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// Number of writes, and of linearizable reads, that a test makes.
const WRITES: usize = 40;

/// The health service of an acceptor: serves while the acceptor can vote.
const ACCEPTOR: &str = "paxos.v1.Acceptor";

/// An empty cluster; added processes serve metrics at any port.
async fn empty_cluster() -> Cluster {
    let mut cluster = Cluster::blank(0).await;
    cluster.environment = vec![("PAXOS_METRICS_LISTEN", "127.0.0.1:0".to_owned())];
    cluster
}

/// A cluster that serves metrics, and the index of the leader.
async fn cluster() -> (Cluster, usize) {
    let mut cluster = empty_cluster().await;
    for _ in 0..3 {
        cluster.add_acceptor();
    }
    for _ in 0..2 {
        cluster.add_proposer(&cluster.urls(), &[]);
    }
    cluster.add_learner("learner-1".to_owned(), &[]);
    let leader = cluster.leader().await;
    for process in cluster
        .acceptors
        .iter()
        .chain(&cluster.proposers)
        .chain(&cluster.learners)
    {
        ready(process, 200, "ready").await;
        health_is(process, ServingStatus::Serving).await;
    }
    (cluster, leader)
}

/// Waits until `grpc.health.v1` reports this status.
async fn health_is(process: &Process, status: ServingStatus) {
    service_is(process, "", status).await;
}

/// As [`health_is`], for a service by name.
async fn service_is(process: &Process, service: &str, status: ServingStatus) {
    let mut client = HealthClient::new(connect_lazy(&process.address));
    until(&format!("{} is {status:?}", process.name), async || {
        let service = service.to_owned();
        let answer = client.check(HealthCheckRequest { service }).await.unwrap();
        (answer.into_inner().status() == status).then_some(())
    })
    .await;
}

/// Writes registers in turn, and reads after each write.
async fn use_it(cluster: &Cluster) {
    let client = cluster.client();
    for _ in 0..WRITES {
        client.append_at_most_once("record").await.unwrap();
        client.get("key").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_shows_its_metrics_and_they_move_with_load() {
    let (cluster, leader) = cluster().await;
    let (leader, acceptor, learner) = (
        &cluster.proposers[leader],
        &cluster.acceptors[0],
        &cluster.learners[0],
    );
    use_it(&cluster).await;
    let before = [
        Scrape::of(leader).await,
        Scrape::of(acceptor).await,
        Scrape::of(learner).await,
    ];
    insta::assert_snapshot!("proposer", before[0].shape());
    insta::assert_snapshot!("acceptor", before[1].shape());
    insta::assert_snapshot!("learner", before[2].shape());

    use_it(&cluster).await;
    let writes = WRITES as f64;
    for (process, index, name, label) in [
        (leader, 0, "paxos_proposer_proposals_total", "outcome=\"chosen\""),
        (leader, 0, "paxos_proposer_batch_commands_sum", ""),
        (leader, 0, "paxos_proposer_batch_size_bytes_count", ""),
        (leader, 0, "paxos_proposer_chosen_to", ""),
        (acceptor, 1, "paxos_acceptor_commit_duration_seconds_count", ""),
        (acceptor, 1, "paxos_acceptor_commit_rows_sum", ""),
        (acceptor, 1, "paxos_acceptor_voted_to", ""),
        (learner, 2, "paxos_learner_applied_to", ""),
        (learner, 2, "paxos_learner_commands_applied_total", ""),
        (learner, 2, "paxos_learner_reads_total", ""),
        (learner, 2, "paxos_learner_read_rounds_total", ""),
    ] {
        // An acceptor outside some quorums, and a learner, catch up a moment later.
        until(&format!("{name} grows by {writes}"), async || {
            let now = Scrape::of(process).await.sum(name, label);
            (now - before[index].sum(name, label) >= writes).then_some(())
        })
        .await;
    }
    let read = Scrape::of(learner).await;
    let ok = "rpc_method=\"paxos.v1.Learner/Read\",rpc_response_status_code=\"OK\"";
    assert_eq!(
        read.sum("rpc_server_call_duration_seconds_count", ok),
        2.0 * writes
    );
    assert_eq!(read.sum("paxos_learner_lag", ""), 0.0);
    let shown = Scrape::of(acceptor).await;
    // Two proposers and a learner are attached; the leader's stream is open, and the learner's stream of votes.
    for (method, least) in [("Attach", 3.0), ("Accept", 1.0), ("Observe", 1.0)] {
        let method = format!("rpc_method=\"paxos.v1.Acceptor/{method}\"");
        assert!(shown.sum("paxos_rpc_open_calls", &method) >= least, "{method}");
    }
    until("the write-ahead log is seen", async || {
        let bytes = Scrape::of(acceptor)
            .await
            .sum("paxos_acceptor_wal_size_bytes", "");
        (bytes > 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_ends_in_the_usual_way_leaves_no_call_that_failed() {
    let (cluster, _) = cluster().await;
    let urls = cluster.urls();
    let processes = || {
        let roles = [&cluster.acceptors, &cluster.proposers, &cluster.learners];
        roles.into_iter().flatten()
    };
    let mut before = Vec::new();
    for process in processes() {
        before.push(Scrape::of(process).await.calls_not_ok());
    }
    let lines = [
        &["put", "key", "value"][..],
        &["get", "key"],
        &["propose", "value"],
        &["log"],
        &["status"],
    ];
    for line in lines {
        stdout(&run(&[line, &["--acceptors", &urls]].concat()).await);
    }
    // This command's output is closed after the first line.
    let mut watch = paxos(&["watch", "key", "--from", "0.0", "--acceptors", &urls]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(watch.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();

    let ended = |shown: &Scrape, method: &str| {
        let ok = format!("rpc_method=\"paxos.v1.{method}\",rpc_response_status_code=\"OK\"");
        shown
            .has("rpc_server_call_duration_seconds_count", &ok)
            .then_some(())
    };
    for method in ["Learner/Subscribe", "Learner/Watch"] {
        until(&format!("{method} has ended"), async || {
            ended(&Scrape::of(&cluster.learners[0]).await, method)
        })
        .await;
    }
    until("Proposer/ProposeStream has ended", async || {
        for proposer in &cluster.proposers {
            if let Some(()) = ended(&Scrape::of(proposer).await, "Proposer/ProposeStream") {
                return Some(());
            }
        }
        None
    })
    .await;
    for (process, before) in processes().zip(before) {
        for (call, count) in Scrape::of(process).await.calls_not_ok() {
            // After the answers of a quorum of acceptors, a client does not wait for the other acceptors.
            let is_left = call.contains("/Status\"") && call.contains("\"CANCELLED\"");
            let earlier = before.get(&call).copied().unwrap_or_default();
            assert!(
                count == earlier || is_left,
                "{}: {call} from {earlier} to {count}",
                process.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_the_leader_shows_as_campaigns_and_step_downs() {
    let (mut cluster, _) = cluster().await;
    // Both may have campaigned at the start, in quick succession, so the test asks for the present leader here.
    let leader = until("a proposer leads", async || {
        for index in 0..2 {
            let shown = Scrape::of(&cluster.proposers[index]).await;
            if shown.sum("paxos_proposer_leading", "") == 1.0 {
                return Some(index);
            }
        }
        None
    })
    .await;
    let standby = 1 - leader;
    let campaigns = "paxos_proposer_campaigns_total";
    let before = Scrape::of(&cluster.proposers[standby]).await.sum(campaigns, "");
    cluster.proposers[leader].kill();
    until("the standby leads", async || {
        let shown = Scrape::of(&cluster.proposers[standby]).await;
        (shown.sum("paxos_proposer_leading", "") == 1.0).then_some(())
    })
    .await;
    let shown = Scrape::of(&cluster.proposers[standby]).await;
    assert!(shown.sum(campaigns, "") > before);
    cluster.acceptors[0].kill();
    cluster.acceptors[1].kill();
    until("it does not lead without a quorum", async || {
        let shown = Scrape::of(&cluster.proposers[standby]).await;
        (shown.sum("paxos_proposer_step_downs_total", "") >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_ready_when_they_are_of_use_and_say_why_not() {
    let mut cluster = empty_cluster().await;
    for _ in 0..3 {
        cluster.add_acceptor();
    }
    ready(&cluster.acceptors[0], 503, "no formed cluster").await;
    // The process is live, because a cluster forms by questions to blank acceptors. The acceptor cannot vote.
    health_is(&cluster.acceptors[0], ServingStatus::Serving).await;
    service_is(&cluster.acceptors[0], ACCEPTOR, ServingStatus::NotServing).await;
    cluster.acceptors[2].kill();
    let urls = cluster.urls();
    cluster.add_proposer(&urls, &[]);
    cluster.add_learner("learner-1".to_owned(), &[]);
    ready(&cluster.proposers[0], 503, "not formed yet").await;
    ready(&cluster.learners[0], 503, "no formed cluster").await;
    let (status, body) = get(address(&cluster.proposers[0]).await, "/livez").await.unwrap();
    assert_eq!((status, body.as_str()), (200, "alive\n"));

    cluster.acceptors[2].start();
    for process in cluster
        .acceptors
        .iter()
        .chain(&cluster.proposers)
        .chain(&cluster.learners)
    {
        ready(process, 200, "ready").await;
    }
    service_is(&cluster.acceptors[0], ACCEPTOR, ServingStatus::Serving).await;

    // Cut off from a quorum, no proposer can order commands, and no learner knows the end of the log.
    for acceptor in &cluster.acceptors[..2] {
        acceptor.signal(Signal::SIGSTOP);
    }
    ready(&cluster.proposers[0], 503, "not ready").await;
    ready(
        &cluster.learners[0],
        503,
        "recent reports from 1 of the acceptors",
    )
    .await;
    health_is(&cluster.proposers[0], ServingStatus::NotServing).await;
    health_is(&cluster.learners[0], ServingStatus::NotServing).await;
    for acceptor in &cluster.acceptors[..2] {
        acceptor.signal(Signal::SIGCONT);
    }
    ready(&cluster.proposers[0], 200, "ready").await;
    ready(&cluster.learners[0], 200, "ready").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_unfinished_requests_are_cut_off_and_delay_no_probe() {
    let mut cluster = empty_cluster().await;
    cluster.add_acceptor();
    let acceptor = &cluster.acceptors[0];
    let at = address(acceptor).await;
    let begun = Instant::now();
    let mut held = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(at).await.unwrap();
        // Connections that were already cut off do not matter.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ").await;
        held.push(stream);
        if held.len() % 50 == 0 {
            assert_eq!(get(at, "/livez").await.unwrap().0, 200);
        }
    }
    // A client that sends byte by byte is cut off too.
    let mut slow = held.pop().unwrap();
    let cut = async {
        let mut rest = [0; 1024];
        loop {
            tokio::select! {
                read = slow.read(&mut rest) => if matches!(read, Ok(0) | Err(_)) { break },
                () = tokio::time::sleep(Duration::from_millis(200)) => {
                    if slow.write_all(b"x").await.is_err() { break }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("it is cut off");
    eprintln!("the slow one was cut off after {:?}", begun.elapsed());
    assert_eq!(get(at, "/livez").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn port_that_is_taken_matters_only_when_it_was_asked_for() {
    let _room = empty_cluster().await;
    let dir = TempDir::new().unwrap();
    let start = |name: &str, metrics: Option<&str>| {
        let data_dir = dir.path().join(name).display().to_string();
        let listen = format!("127.0.0.1:{}", free_ports(1));
        let args = [
            "serve",
            "acceptor",
            "--id",
            name,
            "--data-dir",
            &data_dir,
            "--listen",
            &listen,
        ];
        let mut command = paxos(&args);
        command.env_remove("PAXOS_METRICS_LISTEN");
        command.args(metrics.iter().flat_map(|metrics| ["--metrics-listen", metrics]));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        (child.stderr.take().unwrap(), child)
    };
    let asked = format!("127.0.0.1:{}", free_ports(1));
    let taken = std::net::TcpListener::bind(&asked).unwrap();
    let (mut log, mut child) = start("a1", Some(&asked));
    let status = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut log, &mut text).unwrap();
        (child.wait().unwrap().code(), text)
    });
    let (code, text) = status.await.unwrap();
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("serve metrics") && text.contains(&asked), "{text}");
    drop(taken);

    // Of two processes at the usual port, at most one gets the port, and both run.
    let usual = |name: &str| {
        let (log, child) = start(name, None);
        (std::io::BufRead::lines(BufReader::new(log)), child)
    };
    let mut running = [usual("a2"), usual("a3")];
    let found = tokio::task::spawn_blocking(move || {
        let found = running.each_mut().map(|(lines, _)| {
            let line = lines.find_map(|line| {
                let line = line.unwrap();
                (line.contains("serving /metrics") || line.contains("no metrics are served")).then_some(line)
            });
            // A later line shows that the process continues.
            let goes_on = lines.next().is_some_and(|line| line.is_ok());
            (line.unwrap_or_default(), goes_on)
        });
        // Only after both have tried the port.
        for (_, child) in &mut running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        found
    });
    let found = found.await.unwrap();
    let without = found
        .iter()
        .filter(|(line, _)| line.contains("--metrics-listen ADDRESS"));
    assert!(without.count() >= 1, "{found:?}");
    assert!(found.iter().all(|(_, goes_on)| *goes_on), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_names_only_what_a_running_cluster_shows() {
    let (cluster, _) = cluster().await;
    use_it(&cluster).await;
    let mut shown = BTreeSet::new();
    for process in cluster
        .acceptors
        .iter()
        .chain(&cluster.proposers)
        .chain(&cluster.learners)
    {
        shown.extend(Scrape::of(process).await.names());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let text = fs::read_to_string(root.join("deploy/grafana/dashboards/paxos.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let expressions: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten())
        .map(|target| target["expr"].as_str().unwrap())
        .collect();
    assert!(expressions.len() >= 8, "{expressions:?}");
    for expression in expressions {
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics: Vec<_> = words
            .filter(|word| {
                ["paxos_", "rpc_server_call", "process_"]
                    .iter()
                    .any(|start| word.starts_with(start))
            })
            .collect();
        assert!(!metrics.is_empty(), "{expression}");
        for metric in metrics {
            assert!(
                shown.contains(metric),
                "{metric} of {expression} is shown by no process"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_serves_metrics_of_every_role_when_asked() {
    // Keeps other clusters of this test program from taking ports meanwhile.
    let _room = empty_cluster().await;
    let base = free_ports(300);
    let dir = TempDir::new().unwrap();
    let mut dev = paxos(&["dev", "--metrics", "--base-port", &base.to_string()]);
    let log = fs::File::create(dir.path().join("log")).unwrap();
    let mut child = dev.stdout(Stdio::null()).stderr(log).spawn().unwrap();
    for (above, role) in [(1_001, "acceptor"), (1_101, "proposer"), (1_202, "learner")] {
        let address = ([127, 0, 0, 1], base + above).into();
        until(&format!("the {role} shows itself"), async || {
            let (_, text) = get(address, "/metrics").await?;
            text.contains(&format!("role=\"{role}\"")).then_some(())
        })
        .await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn collector_is_sent_the_same_metrics_while_they_run_and_when_they_stop() {
    let (collector, at) = MetricsCollector::start().await;
    let mut cluster = empty_cluster().await;
    let endpoint = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", format!("http://{at}"));
    let interval = |millis: &str| ("OTEL_METRIC_EXPORT_INTERVAL", millis.to_owned());
    cluster.environment = vec![endpoint.clone(), interval("100")];
    cluster.add_acceptor();
    cluster.environment = vec![endpoint, interval("3600000")];
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.leader().await;
    until("the acceptor's commits are sent", async || {
        collector
            .has("paxos-acceptor", "paxos.acceptor.commit.duration")
            .then_some(())
    })
    .await;
    assert!(!collector.has("paxos-proposer", "paxos.proposer.campaigns"));
    assert!(cluster.proposers[0].stop().await.success());
    assert!(collector.has("paxos-proposer", "paxos.proposer.campaigns"));
}
