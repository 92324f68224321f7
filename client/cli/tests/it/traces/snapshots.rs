//! Snapshots: from a learner to an acceptor's disk, up to the trim, and to a new learner.

use super::collector::SpanCollector;
use crate::{
    harness::Cluster,
    installs::{have_trimmed, trimming, write_until},
};

#[tokio::test]
async fn snapshot_is_traced_from_the_learner_to_the_trim_and_to_a_new_learner() {
    let collector = SpanCollector::start().await;
    let mut environment = collector.environment();
    environment.extend(trimming());
    let mut cluster = Cluster::start_with(3, 1, 1, environment).await;
    write_until(&cluster.client(), "all acceptors trim", async || {
        have_trimmed(&cluster, 3, 0).await
    })
    .await;
    for name in ["learner.snapshot", "acceptor.keep"] {
        collector.span(name, |span| span.name == name).await;
    }
    collector
        .span("the log is trimmed", |span| span.name == "acceptor.trim")
        .await;
    cluster.add_learner("learner-2".to_owned(), &[]);
    collector
        .span("a snapshot is installed", |span| span.name == "learner.install")
        .await;
}
