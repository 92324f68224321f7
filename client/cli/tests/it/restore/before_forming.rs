//! A restore that is not finished: no repair changes its acceptors, and a proposer logs an acceptor that cannot be completed.

use paxos_proto::v1::{FormRequest, Membership, acceptor_client::AcceptorClient, form_request::Step};

use super::*;
use crate::harness::channel;

/// Carries out a step of forming at an acceptor.
async fn form(cluster: &Cluster, acceptor: usize, step: Step) {
    let mut client = AcceptorClient::new(channel(&cluster.acceptors[acceptor].address));
    let request = FormRequest {
        caller: Some(paxos_common::wire::caller(None)),
        step: Some(step),
    };
    client.form(request).await.unwrap();
}

/// Flips a bit of the only snapshot file of a stopped acceptor.
pub(super) fn damage_seed(directory: &str) {
    let mut files = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let seed = files
        .find(|path| path.extension().is_some_and(|extension| extension == "pxs"))
        .unwrap();
    let mut bytes = fs::read(&seed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&seed, bytes).unwrap();
}

#[tokio::test]
async fn repair_of_an_acceptor_in_a_restore_changes_nothing() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(2).await;
    let configuration = seed_all(&cluster, &saved.file).await;
    let uuids: Vec<_> = configuration
        .members
        .iter()
        .map(|member| &member.acceptor)
        .collect();
    let directory = cluster.path("acceptor-1");
    for (state, code, text) in [
        (Membership::Seeded, 2, "is no other member"),
        (Membership::Forming, 1, "remembers nothing"),
    ] {
        if state == Membership::Forming {
            form(&cluster, 0, Step::Store(configuration.clone())).await;
        }
        let own = cluster.acceptor_status(0).await.unwrap().stamp.unwrap().acceptor;
        let other = uuids.iter().find(|uuid| ***uuid != own).unwrap();
        let other: String = other.iter().map(|byte| format!("{byte:02x}")).collect();
        cluster.acceptors[0].kill();
        let args = ["repair", "forget-witness", "--data-dir", &directory];
        let output = run(&[&args[..], &["--acceptor", &other, "--yes"]].concat()).await;
        let refusal = refused(&output, code);
        assert!(refusal.contains(text), "{refusal}");
        cluster.acceptors[0].start();
        assert_eq!(membership(&cluster, 0).await, state);
    }
    assert_eq!(restored(&saved.file, &cluster, &[]).await, saved.to + JUMP);
}

#[tokio::test]
async fn proposer_logs_the_member_that_cannot_become_formed() {
    let saved = Saved::new().await;
    let mut cluster = Cluster::blank(3).await;
    let configuration = seed_all(&cluster, &saved.file).await;
    for acceptor in 0..3 {
        form(&cluster, acceptor, Step::Store(configuration.clone())).await;
    }
    for acceptor in 0..2 {
        form(&cluster, acceptor, Step::Complete(configuration.clone())).await;
    }
    cluster.acceptors[2].kill();
    damage_seed(&cluster.path("acceptor-3"));
    cluster.acceptors[2].start();
    assert_eq!(membership(&cluster, 2).await, Membership::Forming);
    let client = start(&mut cluster, "learner").await;
    client.put("key 00", "new").await.unwrap();
    let log = cluster.proposers[0].log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("the second step of forming failed"))
        .collect();
    let address = cluster.acceptors[2].address.to_string();
    assert!(
        !lines.is_empty()
            && lines
                .iter()
                .all(|line| line.contains("is damaged") && line.contains(&address)),
        "{log}"
    );
    assert_eq!(membership(&cluster, 2).await, Membership::Forming);
    // The restore, repeated, sends the seed again.
    let base = restored(&saved.file, &cluster, &[]).await;
    assert_eq!(membership(&cluster, 2).await, Membership::Formed);
    assert_eq!(base, saved.to + JUMP);
}
