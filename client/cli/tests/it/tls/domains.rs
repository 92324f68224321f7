//! Domains: clusters with certificates of the same CA keep apart.

use paxos_client::TlsSettings;
use paxos_common::{
    peer::Dialer,
    tls::{OwnRole, Tls},
};
use paxos_proto::v1::{self as pb, acceptor_client::AcceptorClient};
use tempfile::TempDir;
use tonic::Code;

use crate::harness::{Environment, Process, free_ports, run_with, stderr, stdout, tls, until};

/// The domain of the other cluster.
const OTHER: &str = "other.example";

#[tokio::test]
async fn certificate_of_another_domain_has_no_rights() {
    let dir = TempDir::new().unwrap();
    let ca = tls::TestCa::new("shared by two clusters");
    let names = ["acceptor.paxos.internal", "acceptor.other.example"];
    let own = ca.issue(&tls::Wanted::of(&names), &ca.pem, &dir.path().join("acceptor"));
    let data = dir.path().join("data").display().to_string();
    let flags = ["--id", "a1", "--data-dir", &data];
    let (name, port) = ("acceptor-1".to_owned(), free_ports(1));
    let acceptor = Process::role_with(dir.path(), "acceptor", name, port, &flags, tls::variables(&own));
    for (number, name) in ["client.other.example", "operator.other.example"]
        .iter()
        .enumerate()
    {
        let dir = dir.path().join(number.to_string());
        let settings = TlsSettings {
            files: ca.issue(&tls::Wanted::of(&[*name]), &ca.pem, &dir),
            domain: OTHER.parse().unwrap(),
        };
        let dialer = Dialer::new(Some(Tls::load(settings, OwnRole::Any).unwrap()));
        let refusal = until("the acceptor answers", async || {
            let mut client = AcceptorClient::new(dialer.to_acceptor(&acceptor.address));
            let answer = client.status(pb::AcceptorStatusRequest {}).await;
            answer.err().filter(|status| status.code() != Code::Unavailable)
        })
        .await;
        assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
        assert!(
            refusal.message().ends_with("this certificate says no role"),
            "{refusal}"
        );
    }
}

#[tokio::test]
async fn cluster_with_a_domain_of_its_own_serves_clients_of_this_domain_alone() {
    let dir = TempDir::new().unwrap();
    let certificates = dir.path().join("certificates");
    let out = certificates.to_str().unwrap();
    let make = ["cert", "--domain", OTHER, "--out", out];
    stdout(&run_with(&make, &Environment::new()).await);
    let environment = |role: &str| -> Environment {
        let mut environment = tls::variables(&tls::files(&certificates, role));
        environment.push(("PAXOS_TLS_DOMAIN", OTHER.to_owned()));
        environment
    };
    let data = dir.path().join("data").display().to_string();
    let start = |role: &str, flags: &[&str]| {
        let name = format!("{role}-1");
        Process::role_with(dir.path(), role, name, free_ports(1), flags, environment(role))
    };
    let acceptor = start("acceptor", &["--id", "a1", "--data-dir", &data]);
    let urls = acceptor.address.to_string();
    let _others = ["proposer", "learner"].map(|role| start(role, &["--acceptors", &urls]));
    let put = ["put", "colour", "blue", "--timeout", "60s", "--acceptors", &urls];
    stdout(&run_with(&put, &environment("client")).await);
    let get = ["get", "colour", "--timeout", "60s", "--acceptors", &urls];
    assert_eq!(stdout(&run_with(&get, &environment("client")).await), "blue");

    // A client of the default domain, with a certificate of the same CA, accepts none of these processes.
    let ca = tls::TestCa::of_cluster(&certificates);
    let wanted = tls::Wanted::of(&["client.paxos.internal"]);
    let stray = tls::variables(&ca.issue(&wanted, &ca.pem, &dir.path().join("stray")));
    let put = ["put", "colour", "red", "--timeout", "2s", "--acceptors", &urls];
    let said = stderr(&run_with(&put, &stray).await);
    assert!(
        said.contains("not valid for name \"acceptor.paxos.internal\"")
            && said.contains("only valid for DnsName(\"acceptor.other.example\")"),
        "{said}"
    );
    // A certificate of the default domain is none of a role of this cluster.
    let missing = [stray, vec![("PAXOS_TLS_DOMAIN", OTHER.to_owned())]].concat();
    let refused = run_with(&put, &missing).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let wanted = "does not have the DNS name client.other.example or operator.other.example";
    assert!(stderr(&refused).contains(wanted), "{refused:?}");
}
