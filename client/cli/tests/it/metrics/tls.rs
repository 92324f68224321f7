//! The metrics of a role with TLS.

use std::path::Path;

use paxos_proto::v1::{AcceptorStatusRequest, PrepareRequest, acceptor_client::AcceptorClient};

use super::scrape::Scrape;
use crate::harness::{Process, free_ports, run_with, stderr, tls, until};

#[tokio::test]
async fn handshakes_refused_calls_and_dates_of_certificates_are_counted() {
    let dir = tempfile::TempDir::new().unwrap();
    let certificates = dir.path().join("certificates");
    tls::make_certificates(&certificates);
    let files = |role: &str| tls::files(&certificates, role);
    let data = dir.path().join("data").display().to_string();
    let flags = [
        "--id",
        "a1",
        "--data-dir",
        &data,
        "--metrics-listen",
        "127.0.0.1:0",
    ];
    let (name, port) = ("acceptor-1".to_owned(), free_ports(1));
    let environment = tls::variables(&files("acceptor"));
    let acceptor = Process::role_with(dir.path(), "acceptor", name, port, &flags, environment);
    let channel = tls::dialer(files("client")).to_acceptor(&acceptor.address);
    let mut client = AcceptorClient::new(channel);
    until("the acceptor answers", async || {
        client.status(AcceptorStatusRequest {}).await.ok()
    })
    .await;
    client.prepare(PrepareRequest::default()).await.unwrap_err();
    let scrape = Scrape::of(&acceptor).await;
    assert_eq!(scrape.sum("paxos_rpc_denied_total", "role=\"client\""), 1.0);
    assert!(scrape.sum("paxos_tls_handshakes_total", "outcome=\"complete\"") >= 1.0);
    let left = scrape.sum("paxos_tls_certificate_expires_seconds", "file=\"certificate\"");
    let days = left / 86_400.0;
    assert!((89.9..=90.0).contains(&days), "{days}");
    let shape = scrape.shape();
    let of_tls: Vec<_> = shape
        .lines()
        .filter(|line| line.starts_with("paxos_tls_") || line.starts_with("paxos_rpc_denied"))
        .collect();
    // Beside the snapshots of the roles: `.ci/prometheus` reads all of them.
    insta::with_settings!({ snapshot_path => "../snapshots" }, {
        insta::assert_snapshot!("tls", of_tls.join("\n"));
    });
}

/// Starts a role that waits for the others, with its own certificate.
fn start(dir: &Path, role: &str, flags: &[&str]) -> Process {
    let certificates = dir.join("certificates");
    let flags = [flags, &["--metrics-listen", "127.0.0.1:0"]].concat();
    let environment = tls::variables(&tls::files(&certificates, role));
    Process::role_with(dir, role, format!("{role}-1"), free_ports(1), &flags, environment)
}

#[tokio::test]
async fn role_that_asks_itself_for_its_readiness_refuses_no_call() {
    let dir = tempfile::TempDir::new().unwrap();
    tls::make_certificates(&dir.path().join("certificates"));
    let data = dir.path().join("data").display().to_string();
    // No acceptor listens at the discard port.
    let absent = ["--acceptors", "https://127.0.0.1:9"];
    let roles = [
        (
            "acceptor",
            &["--id", "a1", "--data-dir", &data][..],
            "not ready: /readyz says why",
        ),
        ("proposer", &absent[..], "not ready: "),
        ("learner", &absent[..], "not ready: "),
    ];
    for (role, flags, expected) in roles {
        let process = start(dir.path(), role, flags);
        let files = tls::files(&dir.path().join("certificates"), role);
        let said = until(&format!("the {role} answers"), async || {
            let asked = ["healthcheck", process.address.host_and_port()];
            let output = run_with(&asked, &tls::variables(&files)).await;
            (output.status.code() == Some(1)).then(|| stderr(&output))
        })
        .await;
        assert!(said.contains(expected), "{said}");
        let scrape = Scrape::of(&process).await;
        assert_eq!(scrape.sum("paxos_rpc_denied_total", ""), 0.0, "{role}");
        assert!(!process.log().contains("refused a call"), "{}", process.log());
    }
}
