//! Clusters with mutual TLS.

mod again;
mod attacks;
mod crowds;
mod domains;
mod downgrade;
mod errors;
mod files;
mod foreign;
mod renewal;
mod rights;
mod rotation;
mod strangers;

use std::time::Duration;

use paxos_client::Condition;
use paxos_common::peer::MessageLimits as _;
use paxos_proto::v1::acceptor_client::AcceptorClient;
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use crate::harness::{BackgroundLoad, Cluster, Environment, paxos, run_with, stderr, stdout, tls, until};

/// Longest time to the end of a process that refuses to start, on a busy machine.
const REFUSAL_MAX: Duration = Duration::from_secs(20);

/// A client of an acceptor, with the certificate of this role.
fn acceptor(cluster: &Cluster, number: usize, role: &str) -> AcceptorClient<Channel> {
    let dialer = tls::dialer(cluster.files(role));
    AcceptorClient::new(dialer.to_acceptor(&cluster.acceptors[number].address)).with_message_limits()
}

/// Checks that the caller has no right to a call.
fn is_denied<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.code(), Code::PermissionDenied, "{refusal}");
}

/// The load goes on and ends: no write has failed, and the log has every acknowledged write once.
async fn goes_on_without_a_failure(cluster: &Cluster, load: BackgroundLoad) {
    load.goes_on(200).await;
    let outcome = load.stop().await;
    let (learner, end) = (&cluster.learners[0], outcome.end());
    outcome.check(&cluster.log_of(learner, end).await);
    assert!(outcome.not_proposed.is_empty(), "{:?}", outcome.not_proposed);
}

/// What a role says before it exits 2; `fault` is why it must not start.
async fn refused_start(args: &[&str], environment: &Environment, fault: &str) -> String {
    let starting = timeout(REFUSAL_MAX, run_with(args, environment)).await;
    let refused = starting.unwrap_or_else(|_| {
        panic!(
            "still runs after {} s, in spite of: {fault}",
            REFUSAL_MAX.as_secs()
        )
    });
    assert_eq!(refused.status.code(), Some(2), "{fault}: {refused:?}");
    stderr(&refused)
}

#[tokio::test]
async fn secure_cluster_serves_clients_and_changes_its_leader() {
    let mut cluster = Cluster::start_secure(3, 2, 2).await;
    let client = cluster.client();
    client.put("colour", "blue").await.unwrap();
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    let written = client.put_if("colour", "red", Condition::Absent).await.unwrap();
    assert!(!written.is_applied(), "{written:?}");
    assert_eq!(client.get("colour").await.unwrap().unwrap().value, "blue");
    cluster.proposers[leader].start();
    cluster.acceptors[0].kill();
    client.put("colour", "green").await.unwrap();
    cluster.acceptors[0].start();
    let end = client.append("end").await.unwrap();
    cluster.digests_are_equal(end.slot).await;
    let environment = cluster.commands_as("client");
    let read = run_with(&["get", "colour", "--acceptors", &cluster.urls()], &environment).await;
    assert_eq!(stdout(&read), "green");
    // A standby forwards commands to the leader.
    let standby = 1 - cluster.leader().await;
    let proposers = cluster.proposers[standby].address.to_string();
    let command = [
        "propose",
        "forwarded",
        "--proposers",
        &proposers,
        "--acceptors",
        &cluster.urls(),
    ];
    assert!(run_with(&command, &environment).await.status.success());
}

#[tokio::test]
async fn backup_of_a_secure_cluster_is_restored_by_an_operator() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("backup").display().to_string();
    let cluster = Cluster::start_secure(3, 1, 1).await;
    cluster.client().put("kept", "value").await.unwrap();
    let (operator, client) = (cluster.commands_as("operator"), cluster.commands_as("client"));
    let save = ["backup", &file, "--acceptors", &cluster.urls()];
    // Refused at once: a denial is final.
    let long = [client.clone(), vec![("PAXOS_TIMEOUT", "10m".to_owned())]].concat();
    let refusing = timeout(Duration::from_secs(60), run_with(&save, &long));
    let refused = refusing.await.unwrap();
    // An operator may not propose, and hears so at once.
    let put = [
        "put",
        "kept",
        "other",
        "--acceptors",
        &cluster.urls(),
        "--timeout",
        "10m",
    ];
    let putting = timeout(Duration::from_secs(60), run_with(&put, &operator));
    let denied = stderr(&putting.await.unwrap());
    assert!(denied.contains("this certificate says operator"), "{denied}");
    assert!(
        stderr(&refused).contains("Learner/Backup is for operators; this certificate says client"),
        "{refused:?}"
    );
    stdout(&run_with(&save, &operator).await);
    // A test that holds one cluster waits for no room for another.
    drop(cluster);
    let mut restored = Cluster::blank_and_secure(3).await;
    let operator = restored.commands_as("operator");
    let restore = ["restore", &file, "--acceptors", &restored.urls()];
    let refused = run_with(&restore, &restored.commands_as("client")).await;
    assert!(
        stderr(&refused).contains("restoring needs the certificate of an operator"),
        "{refused:?}"
    );
    stdout(&run_with(&restore, &operator).await);
    restored.add_proposer(&restored.urls(), &[]);
    restored.add_learner("learner-1".to_owned(), &[]);
    let client = restored.client();
    assert_eq!(client.get("kept").await.unwrap().unwrap().value, "value");
}

#[tokio::test]
async fn operator_replaces_a_member_of_a_secure_cluster_and_a_client_does_not() {
    let mut cluster = Cluster::start_secure(3, 2, 1).await;
    cluster.client().put("before", "the change").await.unwrap();
    // Starts with the certificate of an acceptor.
    cluster.add_acceptor();
    let (urls, joiner) = (cluster.urls(), cluster.acceptors[3].address.to_string());
    let replace = [
        "member",
        "replace",
        "acceptor-3",
        "--with",
        &joiner,
        "--acceptors",
        &urls,
    ];
    let refused = run_with(&replace, &cluster.commands_as("client")).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        stderr(&refused).contains("Proposer/ChangeMembers is for operators; this certificate says client"),
        "{refused:?}"
    );
    let operator = cluster.commands_as("operator");
    let replaced = stdout(&run_with(&replace, &operator).await);
    assert!(
        replaced.contains("era 1, 3 members, one may be lost"),
        "{replaced}"
    );
    // The new acceptor votes, and the replaced one is not needed.
    cluster.acceptors[2].kill();
    cluster.acceptors[0].kill();
    let client = cluster.client();
    client.put("after", "the change").await.unwrap();
    assert_eq!(client.get("before").await.unwrap().unwrap().value, "the change");
}

#[tokio::test]
async fn dev_cluster_makes_its_certificates_and_says_how_to_use_them() {
    let port = crate::harness::free_ports(400);
    let dir = tempfile::TempDir::new().unwrap();
    let log = dir.path().join("out");
    let (base, data) = (port.to_string(), dir.path().join("data").display().to_string());
    let mut child = paxos(&["dev", "--tls", "--base-port", &base, "--data-dir", &data])
        // A client's settings in the environment concern no role.
        .env("PAXOS_TLS_CERT", "/no/such/file")
        .stdout(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = until("the cluster is ready", async || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("Ready after").then_some(said)
    })
    .await;
    let exports = said.lines().find(|line| line.trim_start().starts_with("export "));
    let exports = exports.unwrap().trim_start().trim_start_matches("export ");
    let environment = exports.split(' ').map(|variable| {
        let (name, value) = variable.split_once('=').unwrap();
        let name = ["PAXOS_TLS_CERT", "PAXOS_TLS_KEY", "PAXOS_TLS_CA"]
            .into_iter()
            .find(|known| *known == name);
        (name.unwrap(), value.to_owned())
    });
    let acceptors = format!("https://127.0.0.1:{}", port + 1);
    let put = ["put", "colour", "blue", "--acceptors", &acceptors];
    stdout(&run_with(&put, &environment.collect()).await);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn role_that_listens_for_other_machines_needs_certificates_or_insecure() {
    let dir = tempfile::TempDir::new().unwrap();
    let data = dir.path().join("data").display().to_string();
    let acceptor = [
        "serve",
        "acceptor",
        "--id",
        "a1",
        "--data-dir",
        &data,
        "--listen",
        "0.0.0.0:0",
    ];
    let said = refused_start(&acceptor, &Vec::new(), "plaintext beyond loopback").await;
    assert!(
        said.contains("--tls-cert") && said.contains("--insecure"),
        "{said}"
    );
    let mut child = paxos(&acceptor)
        .env("PAXOS_INSECURE", "true")
        .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    until("the acceptor runs", async || {
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        log.contains("acceptor recovered").then_some(())
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The export of traces switches on a feature `tls-…` of tonic in this program, as another crate may do in a program with
/// the library. `.ci/clients` runs the library in a program without.
#[tokio::test]
async fn library_connects_in_a_program_with_the_tls_of_tonic() {
    // Exists with such a feature alone.
    let _own = tonic::transport::ClientTlsConfig::new();
    let cluster = Cluster::start_secure(1, 1, 1).await;
    let client = cluster.client_with(cluster.files("client"));
    client.put("colour", "blue").await.unwrap();
    assert_eq!(client.get("colour").await.unwrap().unwrap().value, "blue");
}

#[tokio::test]
async fn cluster_formed_in_plaintext_goes_on_with_tls() {
    let mut cluster = Cluster::start(3, 1, 1).await;
    let load = BackgroundLoad::start(&cluster, 1, 100, 4).finish().await;
    let log_before = cluster.log_of(&cluster.learners[0], load.end()).await;
    let before = cluster_id(&cluster).await;
    let processes = cluster
        .acceptors
        .iter_mut()
        .chain(&mut cluster.proposers)
        .chain(&mut cluster.learners);
    for process in processes {
        process.kill();
    }
    cluster.make_secure().await;
    let log_after = cluster.log_of(&cluster.learners[0], load.end()).await;
    assert!(!log_before.is_empty());
    assert_eq!(log_before, log_after);
    cluster.client().put("colour", "red").await.unwrap();
    assert!(!before.is_empty());
    assert_eq!(cluster_id(&cluster).await, before);
    // The acceptors keep the addresses of before, until an operator corrects these.
    let (urls, operator) = (cluster.urls(), cluster.commands_as("operator"));
    let list = ["member", "list", "--acceptors", &urls];
    let listed = async || stdout(&run_with(&list, &operator).await);
    assert!(listed().await.contains("http://"));
    for acceptor in &cluster.acceptors {
        let (name, address) = (&acceptor.name, acceptor.address.as_str());
        let replace = ["member", "replace", name, "--with", address, "--acceptors", &urls];
        stdout(&run_with(&replace, &operator).await);
    }
    let corrected = listed().await;
    assert!(!corrected.contains("http://"), "{corrected}");
}

async fn cluster_id(cluster: &Cluster) -> Vec<u8> {
    until("an acceptor answers", async || cluster.acceptor_status(0).await)
        .await
        .stamp
        .unwrap()
        .cluster_id
        .to_vec()
}
