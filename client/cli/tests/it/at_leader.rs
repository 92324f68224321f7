//! Clients with a list of proposers write at the leader, and not through a standby.

use nix::sys::signal::Signal;
use paxos_client::{Client, ClientConfig, ProposeError};

use crate::{
    harness::{Cluster, PATIENCE, until},
    metrics::scrape::Scrape,
};

/// Commands answered by each proposer.
async fn answered(cluster: &Cluster) -> Vec<f64> {
    let mut answered = Vec::new();
    for proposer in &cluster.proposers {
        let scrape = Scrape::of(proposer).await;
        answered.push(scrape.sum("paxos_proposer_proposals_total", ""));
    }
    answered
}

/// Writes until 20 commands in a row are answered by the leader alone.
async fn written_at_leader(cluster: &Cluster, client: &Client) {
    until("the client writes at the leader", async || {
        let leader = cluster.leader().await;
        let before = answered(cluster).await;
        for _ in 0..20 {
            match client.append_at_most_once("value").await {
                Ok(_) => {}
                // A busy machine's leader may step down for a moment.
                Err(ProposeError::NotProposed(_) | ProposeError::OutcomeUnknown(_)) => return None,
                Err(refused) => panic!("{refused:?}"),
            }
        }
        let after = answered(cluster).await;
        let grown = before.iter().zip(&after).map(|(before, after)| after - before);
        let alone = |(number, grown): (usize, f64)| (grown > 0.0) == (number == leader);
        grown.enumerate().all(alone).then_some(())
    })
    .await;
}

#[tokio::test]
async fn client_with_a_list_of_proposers_follows_the_leader() {
    let environment = vec![("PAXOS_METRICS_LISTEN", "127.0.0.1:0".to_owned())];
    let cluster = Cluster::start_with(3, 2, 1, environment).await;
    let leader = cluster.leader().await;
    // The standby first.
    let mut config = ClientConfig::new([&cluster.acceptors[0].address]).unwrap();
    config.proposers = [1 - leader, leader]
        .map(|proposer| cluster.proposers[proposer].address.clone())
        .into();
    config.timeout = PATIENCE;
    let client = Client::new(config).unwrap();
    written_at_leader(&cluster, &client).await;

    // The client stays connected to the former leader, without an open command, and learns of the next leader from an
    // answer alone.
    let leader = cluster.leader().await;
    cluster.proposers[leader].signal(Signal::SIGSTOP);
    until("the other proposer leads", async || {
        (cluster.leader().await != leader).then_some(())
    })
    .await;
    cluster.proposers[leader].signal(Signal::SIGCONT);
    written_at_leader(&cluster, &client).await;
}
