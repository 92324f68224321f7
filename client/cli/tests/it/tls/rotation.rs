//! Changes of certificates and of the CA under load, and the end of connections with expired certificates.

use std::{fs, path::Path, time::Duration};

use paxos_client::{Client, ClientConfig, TlsFiles};

use tokio::time::Instant;

use super::goes_on_without_a_failure;
use crate::harness::{BackgroundLoad, Cluster, Process, tls, until};

const ROLES: [&str; 5] = ["acceptor", "proposer", "learner", "client", "operator"];

pub(super) fn processes(cluster: &Cluster) -> impl Iterator<Item = &Process> {
    cluster
        .acceptors
        .iter()
        .chain(&cluster.proposers)
        .chain(&cluster.learners)
}

/// Replaces the certificates of all roles, and waits until every process has taken them `times` in all.
async fn replace(cluster: &Cluster, ca: &tls::TestCa, trusted: &str, seconds: i64, times: usize) {
    for role in ROLES {
        let name = format!("{role}.paxos.internal");
        let names = [name.as_str()];
        let wanted = tls::Wanted {
            valid: (-60, seconds),
            ..tls::Wanted::of(&names)
        };
        // Beside the files, and then one after the other in place, as an operator would.
        let new = ca.issue(&wanted, trusted, &cluster.dir.path().join("new"));
        move_into(&new, &cluster.files(role));
    }
    for process in processes(cluster) {
        until(&format!("{} takes new files", process.name), async || {
            let taken = process.log().matches("took new certificate files").count();
            (taken >= times).then_some(())
        })
        .await;
    }
}

/// Moves files into the place of others, one after the other.
pub(super) fn move_into(new: &TlsFiles, place: &TlsFiles) {
    let rename = |from: &Path, to: &Path| fs::rename(from, to).unwrap();
    rename(&new.ca, &place.ca);
    rename(&new.key, &place.key);
    rename(&new.cert, &place.cert);
}

#[tokio::test]
async fn certificates_and_the_ca_change_under_load_without_a_loss() {
    change_all(1).await;
}

#[tokio::test]
#[ignore = "a minute long: cargo long"]
async fn certificates_change_three_times_and_then_the_ca_without_a_loss() {
    change_all(3).await;
}

/// Changes the certificates this number of times, and then the CA in three steps.
async fn change_all(times: usize) {
    let mut cluster = Cluster::start_secure(3, 2, 2).await;
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 4);
    cluster.leader().await;
    let (leaders_before, ballot_before) = (leaders(&cluster), ballot(&cluster).await);
    let old = tls::TestCa::of_cluster(&cluster.certificates());
    for time in 1..=times {
        replace(&cluster, &old, &old.pem, 3_600, time).await;
        load.goes_on(50).await;
    }
    // The CA in three steps: both are trusted, then new certificates, then the old CA goes.
    let new = tls::TestCa::new("new CA");
    let both = format!("{}{}", old.pem, new.pem);
    replace(&cluster, &old, &both, 3_600, times + 1).await;
    replace(&cluster, &new, &both, 3_600, times + 2).await;
    replace(&cluster, &new, &new.pem, 3_600, times + 3).await;
    // The connections of before end, and the next use the new certificates.
    load.goes_on(100).await;
    let outcome = load.stop().await;
    let (learner, end) = (&cluster.learners[0], outcome.end());
    outcome.check(&cluster.log_of(learner, end).await);
    assert!(outcome.not_proposed.is_empty(), "{:?}", outcome.not_proposed);
    cluster.digests_are_equal(end).await;
    let (changes, ballot_after) = (leaders(&cluster) - leaders_before, ballot(&cluster).await);
    println!("{changes} changes of the leader; promised {ballot_before:?}, then {ballot_after:?}");
    assert!(changes <= 1, "the leader changed {changes} times");
    // A campaign may be promised, and lost.
    assert!(
        changes == 0 || ballot_before != ballot_after,
        "each change has a ballot of its own"
    );
    // A change of the leader is seen in the logs.
    let leader = cluster.leader().await;
    cluster.proposers[leader].kill();
    until("the change is counted", async || {
        (leaders(&cluster) > leaders_before + changes).then_some(())
    })
    .await;
}

/// The ballot that the acceptors have promised.
async fn ballot(cluster: &Cluster) -> (u64, u64) {
    until("an acceptor answers", async || {
        let promised = cluster.acceptor_status(0).await?.leadership?.promised?;
        Some((promised.round, promised.proposer))
    })
    .await
}

/// How often a proposer began to lead, by the logs.
fn leaders(cluster: &Cluster) -> usize {
    let begun = |process: &Process| process.log().matches(" leading").count();
    cluster.proposers.iter().map(begun).sum()
}

/// Replaces the certificate of a role, or of a client with a name of its own: valid for this number of seconds.
pub(super) fn replace_role(cluster: &Cluster, ca: &tls::TestCa, role: &str, seconds: i64) {
    let name = format!("{role}.paxos.internal");
    let names = [name.as_str()];
    let wanted = tls::Wanted {
        valid: (-200, seconds),
        ..tls::Wanted::of(&names)
    };
    let new = ca.issue(&wanted, &ca.pem, &cluster.dir.path().join("new"));
    move_into(&new, &cluster.files(role));
}

#[tokio::test]
async fn connections_end_with_the_certificate_and_go_on_with_the_next() {
    const LIFE: u64 = 20;
    let cluster = Cluster::start_secure(3, 1, 1).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    let issued = Instant::now();
    replace_role(&cluster, &ca, "client", i64::try_from(LIFE).unwrap());
    let load = BackgroundLoad::start(&cluster, 2, usize::MAX, 4);
    load.goes_on(50).await;
    // The clients take the next certificate within 10 s, for new connections.
    replace_role(&cluster, &ca, "client", 3_600);
    let has_ended = |process: &Process| process.log().contains("trusted no longer");
    assert!(
        !processes(&cluster).any(has_ended),
        "before the end of the certificate"
    );
    // The leader ends the connections that were made with the certificate before.
    until("a connection ends", async || {
        has_ended(&cluster.proposers[0]).then_some(())
    })
    .await;
    let after = issued.elapsed();
    println!("connections ended {after:?} after the issue of their certificate");
    assert!(after >= Duration::from_secs(LIFE - 1), "{after:?}");
    assert!(after <= Duration::from_secs(LIFE + 10), "{after:?}");
    goes_on_without_a_failure(&cluster, load).await;
}

#[tokio::test]
async fn expired_proposer_and_learner_say_so_and_go_on_with_new_files_without_a_restart() {
    let mut cluster = Cluster::blank_and_secure(3).await;
    let ca = tls::TestCa::of_cluster(&cluster.certificates());
    // Valid at the start, and not much longer.
    for role in ["proposer", "learner"] {
        replace_role(&cluster, &ca, role, 15);
    }
    cluster.add_proposer(&cluster.urls(), &[]);
    cluster.add_learner("learner-1".to_owned(), &[]);
    for (process, role) in [
        (&cluster.proposers[0], "proposer"),
        (&cluster.learners[0], "learner"),
    ] {
        let line = until(
            &format!("the {role} logs the end of its certificate"),
            async || {
                let log = process.log();
                let line = log
                    .lines()
                    .find(|line| line.contains("the certificate has expired"));
                line.map(str::to_owned)
            },
        )
        .await;
        let file = format!("{role}/cert.pem");
        assert!(line.contains(&file) && line.contains("renew it"), "{line}");
        // The acceptors refuse it: its log names its own file, and the dates.
        let refusal = format!("{file} is valid from 20");
        until(&format!("the {role} logs the refusal"), async || {
            let log = process.log();
            let is_refusal = |line: &str| line.contains("CertificateExpired") && line.contains(&refusal);
            log.lines().any(is_refusal).then_some(())
        })
        .await;
    }
    let mut config = ClientConfig::new(cluster.urls().split(',')).unwrap();
    config.proposers = vec![cluster.proposers[0].address.clone()];
    config.learners = vec![cluster.learners[0].address.clone()];
    config.tls = Some(tls::settings(cluster.files("client")));
    config.timeout = Duration::from_secs(2);
    let client = Client::new(config).unwrap();
    let (append, get) = (
        client.append_at_most_once("x").await.unwrap_err().to_string(),
        client.get("x").await.unwrap_err().to_string(),
    );
    for said in [append, get] {
        assert!(said.contains("certificate expired"), "{said}");
    }
    for role in ["proposer", "learner"] {
        replace_role(&cluster, &ca, role, 3_600);
    }
    let client = cluster.client();
    client.put("colour", "blue").await.unwrap();
    assert_eq!(client.get("colour").await.unwrap().unwrap().value, "blue");
}
