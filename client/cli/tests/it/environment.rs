//! Environment variables of commands: empty, wrong, and set for other programs.

use crate::harness::{Cluster, Environment, NO_CLUSTER, free_ports, run_with, stderr, stdout, until};

#[tokio::test]
async fn empty_variables_are_unset_and_a_wrong_one_is_named() {
    let cluster = Cluster::start(3, 1, 1).await;
    let empty = |name| (name, String::new());
    let environment: Environment = vec![
        ("PAXOS_ACCEPTORS", cluster.urls()),
        empty("PAXOS_TIMEOUT"),
        empty("PAXOS_OUTPUT"),
        empty("PAXOS_PROPOSERS"),
        empty("PAXOS_LEARNERS"),
    ];
    stdout(&run_with(&["put", "key", "value"], &environment).await);
    let listen = cluster.proposers[0].address.to_string();
    let listen = listen.strip_prefix("http://").unwrap();
    // A proposer checks ten times a second whether it is ready.
    until("the proposer is ready", async || {
        let checked = run_with(&["healthcheck", listen], &vec![empty("PAXOS_LISTEN")]).await;
        checked.status.success().then_some(())
    })
    .await;
    let refused = run_with(&["serve", "proposer"], &vec![empty("PAXOS_ACCEPTORS")]).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--acceptors"), "{refused:?}");

    let wrong: Environment = vec![("PAXOS_WORKER_THREADS", "many".to_owned())];
    let base = free_ports(210).to_string();
    let refused = run_with(&["dev", "--base-port", &base], &wrong).await;
    assert_eq!(refused.status.code(), Some(2));
    let text = stderr(&refused);
    assert!(text.starts_with("error: invalid value 'many'"), "{refused:?}");
    assert!(
        text.contains("The value is that of the environment variable PAXOS_WORKER_THREADS."),
        "{refused:?}"
    );

    let wrong: Environment = vec![("PAXOS_TIMEOUT", "soon".to_owned())];
    let refused = run_with(&["get", "key"], &wrong).await;
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        stderr(&refused).contains("The value is that of the environment variable PAXOS_TIMEOUT."),
        "{refused:?}"
    );
    let refused = run_with(&["get", "key", "--timeout", "now"], &wrong).await;
    assert!(!stderr(&refused).contains("PAXOS_TIMEOUT."), "{refused:?}");
}

#[tokio::test]
async fn settings_of_a_collector_that_are_meant_for_others_do_not_stop_a_client() {
    let cluster = Cluster::start(3, 1, 1).await;
    let urls = cluster.urls();
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", NO_CLUSTER.to_owned());
    let args = ["put", "key", "value", "--acceptors", &urls];
    for (name, value, supported) in [
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "always_on"),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "grpc or http/protobuf",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4318",
            "give http://HOST:PORT",
        ),
    ] {
        let odd = vec![endpoint.clone(), (name, value.to_owned())];
        let done = run_with(&args, &odd).await;
        stdout(&done);
        let warning = stderr(&done);
        assert!(
            warning.contains("warning: no traces are exported")
                && warning.contains(name)
                && warning.contains(value)
                && warning.contains(supported),
            "{done:?}"
        );
    }
    // An absent collector is not reported by a command.
    let done = run_with(&args, &vec![endpoint]).await;
    stdout(&done);
    assert_eq!(stderr(&done), "");
}
