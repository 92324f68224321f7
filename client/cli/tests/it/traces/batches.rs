//! Proposals that share a batch: each proposal links to the batch, and the batch to each proposal.

use std::collections::BTreeSet;

use super::{
    collector::{SeenSpan, SpanCollector},
    traced,
};
use crate::harness::{self, stdout, until};

#[tokio::test]
async fn each_of_many_proposals_leads_to_its_batch_and_the_batch_to_each() {
    const COUNT: usize = 50;
    let collector = SpanCollector::start().await;
    let cluster = traced(&collector, 1, 1).await;
    let lines = (0..COUNT)
        .map(|number| format!("line {number}\n"))
        .collect::<String>();
    let file = cluster.path("lines");
    std::fs::write(&file, lines).unwrap();
    let urls = cluster.urls();
    let mut command = harness::paxos(&["propose", "--lines", "--acceptors", &urls]);
    command.envs(collector.environment());
    command.stdin(std::fs::File::open(file).unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    assert_eq!(stdout(&output).lines().count(), COUNT);

    let spans = until("all requests and their batches", async || {
        let spans = collector.spans();
        let is_request =
            |span: &&SeenSpan| span.name == "paxos.v1.Proposer/ProposeStream" && span.kind == "server";
        let linked: usize = spans
            .iter()
            .filter(|span| span.name == "proposer.batch")
            .map(|span| span.links.len())
            .sum();
        (spans.iter().filter(is_request).count() == COUNT && linked == COUNT).then_some(spans)
    })
    .await;
    let batches: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "proposer.batch")
        .collect();
    let largest = batches.iter().map(|batch| batch.links.len()).max();
    assert!(largest > Some(1), "fifty at once share batches");
    let mut versions = BTreeSet::new();
    for queue in spans.iter().filter(|span| span.name == "proposer.queue") {
        let [batch] = &queue.links[..] else {
            panic!("a request is in one batch: {queue:?}")
        };
        let batch = batches
            .iter()
            .find(|span| span.key() == *batch)
            .expect("the batch is there");
        let request = (queue.trace.clone(), queue.parent.clone());
        assert!(batch.links.contains(&request), "the batch names the request");
        // A search for the slot finds every request of the batch.
        let (slot, version) = (
            &batch.attributes["paxos.slot"],
            &queue.attributes["paxos.version"],
        );
        assert_eq!(queue.attributes["paxos.slot"], *slot);
        assert!(version.starts_with(&format!("{slot}.")), "{version}");
        assert!(versions.insert(version), "{version} is there twice");
        assert!(queue.ended <= batch.ended);
    }
    for batch in &batches {
        assert_eq!(batch.attributes["paxos.commands"], batch.links.len().to_string());
        assert!(
            batch.links.contains(&(batch.trace.clone(), batch.parent.clone())),
            "below its first"
        );
    }
}
