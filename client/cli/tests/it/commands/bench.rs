//! `paxos bench` beside a whole cluster: rates, latencies, processor time of the roles.

use serde_json::{Value, json};

use super::Dev;
use crate::harness::{integer, stdout};

#[tokio::test]
async fn bench_prints_rates_latencies_and_the_processor_time_of_the_roles() {
    let dev = Dev::start(&[]).await;
    let args: Vec<_> = "bench --duration 200ms --in-flight 8 --output json"
        .split(' ')
        .collect();
    let bench = dev.run(&args).await;
    let bench: Value = serde_json::from_str(&stdout(&bench)).unwrap();
    assert!(
        integer(&bench["proposals"]).unwrap() > 0 && bench["outcome_unknown"] == "0",
        "{bench}"
    );
    // The cluster is one process, and this command another.
    let processes = bench["processes"].as_array().unwrap();
    let roles: Vec<_> = processes.iter().map(|process| &process["roles"]).collect();
    assert_eq!(
        roles,
        [&json!(["acceptor", "proposer", "learner"]), &json!(["client"])],
        "{bench}"
    );
    assert!(
        processes[0]["cpu_us_for_each_operation"].as_f64().unwrap() > 0.0,
        "{bench}"
    );
    for kind in ["--unary", "--exactly-once"] {
        let args = ["bench", kind, "--duration", "200ms", "--in-flight", "2"];
        let bench = stdout(&dev.run(&args).await);
        assert!(
            bench.contains("p99.9") && bench.contains("0 outcome unknown"),
            "{bench}"
        );
    }

    let mixed = [
        "bench",
        "--reads",
        "50",
        "--registers",
        "300",
        "--duration",
        "200ms",
        "--output",
        "json",
    ];
    let mixed: Value = serde_json::from_str(&stdout(&dev.run(&mixed).await)).unwrap();
    assert!(
        integer(&mixed["reads"]["answered"]).unwrap() > 0
            && mixed["reads"]["failed"] == "0"
            && mixed["reads"]["latency_ms"]["p50"].as_f64().unwrap() > 0.0
            && integer(&mixed["proposals"]).unwrap() > 0,
        "{mixed}"
    );
    let written = stdout(&dev.run(&["get", "--prefix", "paxos-bench/"]).await);
    assert_eq!(written.lines().count(), 300);
    let reads = stdout(&dev.run(&["bench", "--reads", "100", "--duration", "200ms"]).await);
    assert!(
        reads.starts_with("reads ")
            && reads.contains("failed     0\nCPU        µs for each operation: acceptor+"),
        "{reads}"
    );
}
