//! A name that leads to another machine for a while: containers that start together may swap their addresses.

use crate::harness::{Cluster, Proxy, until};

const REFUSED: &str = "acceptor refused: it is not counted";

#[tokio::test]
async fn acceptor_counts_again_although_a_connection_to_its_name_reaches_another_acceptor() {
    let mut cluster = Cluster::blank(3).await;
    let [first, second, third] = [0, 1, 2].map(|number| cluster.acceptors[number].address.clone());
    // Stands for the name of the third acceptor.
    let name = Proxy::before(&third);
    let urls = format!("{first},{second},{}", name.address);
    cluster.add_proposer(&urls, &[]);
    let data_dir = cluster.path("learner-1");
    let flags = ["--acceptors", &urls, "--data-dir", &data_dir];
    cluster
        .learners
        .push(cluster.role("learner", "learner-1".to_owned(), &flags));
    let client = cluster.client();
    client.put("colour", "red").await.unwrap();
    assert_eq!(client.get("colour").await.unwrap().unwrap().value, "red");

    cluster.acceptors[2].kill();
    name.lead_to(&second);
    for process in [&cluster.proposers[0], &cluster.learners[0]] {
        let is_refused = async || process.log().contains(REFUSED).then_some(());
        until("the second acceptor answers in place of the third", is_refused).await;
    }
    // The connections to the second acceptor stay.
    name.lead_to(&third);
    cluster.acceptors[2].start();

    cluster.acceptors[0].kill();
    client.put("colour", "green").await.unwrap();
    assert_eq!(client.get("colour").await.unwrap().unwrap().value, "green");
}
