//! Renewed certificates without a restart: of clients with a name of their own, of servers, and of a command that waits.

use std::{
    fs::{self, File},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    goes_on_without_a_failure,
    rotation::{move_into, processes, replace_role},
};
use crate::harness::{BackgroundLoad, Cluster, Environment, Process, paxos, run_with, stdout, tls, until};

/// Lifetime in seconds of the certificates that expire: the ten seconds of a reload, and a start on a busy machine.
const LIFE: u64 = 40;
/// Directory of the certificate of a client with a name of its own. The DNS name begins with the same text.
const BILLING: &str = "billing.client";

/// Checks that connections ended with a certificate of [`LIFE`] from this moment on, and not much later.
fn ended_on_time(issued: Instant) {
    let after = issued.elapsed();
    println!("connections ended {after:?} after the issue of the certificate");
    assert!(after >= Duration::from_secs(LIFE - 1), "{after:?}");
    assert!(after <= Duration::from_secs(LIFE + 10), "{after:?}");
}

/// Waits until the log of each process has the text.
async fn all_log<'a>(processes: impl Iterator<Item = &'a Process>, text: &str) {
    for process in processes {
        until(&format!("{} logs {text:?}", process.name), async || {
            process.log().contains(text).then_some(())
        })
        .await;
    }
}

/// The number of sessions that clients have opened.
async fn sessions(cluster: &Cluster) -> usize {
    let log = ["log", "--all", "--acceptors", &cluster.urls()];
    let log = stdout(&run_with(&log, &cluster.commands_as("client")).await);
    log.matches("open session").count()
}

#[tokio::test]
async fn named_client_and_its_command_go_on_with_the_certificate_that_a_later_run_renews() {
    let cluster = Cluster::start_secure(3, 1, 1).await;
    let dir = cluster.certificates();
    let (out, urls) = (dir.to_str().unwrap(), cluster.urls());
    let cert = async |flags: &[&str]| {
        let command = [&["cert", "--out", out][..], flags].concat();
        stdout(&run_with(&command, &Environment::new()).await)
    };
    cert(&["--client", "billing"]).await;
    let issued = Instant::now();
    // More than two thirds of its lifetime are over: 200 of 240 seconds.
    let ca = tls::TestCa::of_cluster(&dir);
    replace_role(&cluster, &ca, BILLING, i64::try_from(LIFE).unwrap());
    let files = cluster.files(BILLING);
    let client = cluster
        .client_with(files.clone())
        .with_timeout(Duration::from_secs(30));
    client.put("colour", "blue").await.unwrap();
    let printed = cluster.dir.path().join("followed");
    let mut following = tokio::process::Command::from(paxos(&[
        "log",
        "--follow",
        "--timeout",
        "30s",
        "--acceptors",
        &urls,
    ]));
    let _following = following
        .envs(tls::variables(&files))
        .stdout(File::create(&printed).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let is_printed = async |text: &str| {
        until(&format!("the command prints {text:?}"), async || {
            fs::read_to_string(&printed).unwrap().contains(text).then_some(())
        })
        .await;
    };
    is_printed("put colour = blue").await;
    let opened = sessions(&cluster).await;
    // A later run finds the client by its directory.
    let renewed = cert(&[]).await;
    let line = renewed
        .lines()
        .find(|line| line.contains("billing.client/cert.pem"));
    assert!(line.is_some_and(|line| line.starts_with("renewed")), "{renewed}");
    assert!(
        !processes(&cluster).any(|process| process.log().contains("trusted no longer")),
        "before the end of the certificate"
    );
    // The client writes by the proposer, and the command reads from the learner.
    let called = [&cluster.proposers[0], &cluster.learners[0]];
    let ended = all_log(
        called.into_iter(),
        "the caller's certificate is trusted no longer",
    );
    let writing = async {
        // A session without writes for 20 s would be replaced.
        loop {
            client.put("colour", "green").await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = writing => {}
    }
    ended_on_time(issued);
    client.put("colour", "red").await.unwrap();
    is_printed("put colour = red").await;
    assert_eq!(
        sessions(&cluster).await,
        opened,
        "the session belongs to the same name"
    );
}

#[tokio::test]
async fn callers_leave_servers_with_expired_certificates_and_go_on_with_the_next() {
    let mut cluster = Cluster::blank_and_secure(3).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    cluster.acceptors.iter_mut().for_each(Process::kill);
    let issued = Instant::now();
    replace_role(&cluster, &ca, "acceptor", i64::try_from(LIFE).unwrap());
    cluster.acceptors.iter_mut().for_each(Process::start);
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.add_learner("learner-1".to_owned(), &[]);
    let load = BackgroundLoad::start(&cluster, 1, usize::MAX, 4);
    load.goes_on(50).await;
    replace_role(&cluster, &ca, "acceptor", 3_600);
    all_log(cluster.acceptors.iter(), "took new certificate files").await;
    let callers = || cluster.proposers.iter().chain(&cluster.learners);
    let ended = "the certificate of the server is trusted no longer";
    assert!(
        !callers().any(|process| process.log().contains(ended)),
        "before the end of the certificate"
    );
    all_log(callers(), ended).await;
    ended_on_time(issued);
    goes_on_without_a_failure(&cluster, load).await;
}

#[tokio::test]
async fn restore_that_waits_takes_the_files_of_an_operator_when_they_are_put_right() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("backup").display().to_string();
    let cluster = Cluster::start_secure(1, 1, 1).await;
    cluster.client().put("kept", "value").await.unwrap();
    let save = ["backup", &file, "--acceptors", &cluster.urls()];
    stdout(&run_with(&save, &cluster.commands_as("operator")).await);
    // A test that holds one cluster waits for no room for another.
    drop(cluster);
    let restored = Cluster::blank_and_secure(1).await;
    let ca = tls::TestCa::of_cluster(&restored.certificates());
    let wanted = tls::Wanted::of(&["operator.paxos.internal"]);
    let place = |name: &str| restored.dir.path().join(name);
    let files = tls::TestCa::new("another cluster").issue(&wanted, &ca.pem, &place("operator"));
    let (urls, environment) = (restored.urls(), tls::variables(&files));
    let restore = ["restore", &file, "--timeout", "60s", "--acceptors", &urls];
    let putting_right = async {
        all_log(restored.acceptors.iter(), "a TLS handshake failed").await;
        move_into(&ca.issue(&wanted, &ca.pem, &place("new")), &files);
    };
    let (output, ()) = tokio::join!(run_with(&restore, &environment), putting_right);
    let said = stdout(&output);
    assert!(said.contains("The cluster is formed"), "{said}");
}
