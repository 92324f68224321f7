//! The end of the first catch-up: from then on, single values are traced.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::{mpsc, watch};

use crate::{attach::Greeting, cluster::Cluster, progress::Progress, trace::ValueTracer};

/// Begins to trace single values once this learner has applied everything known to be chosen at the time of attaching.
///
/// A phase-1 quorum of acceptors has to report first. Chosen and acknowledged slots, a leader's watermark included,
/// become known to some acceptor of the quorum sooner or later. A single acceptor may have been away for long.
pub(crate) async fn go_live_when_caught_up(
    cluster: Arc<Cluster>,
    mut greetings: mpsc::Receiver<Greeting>,
    mut applied: watch::Receiver<Progress>,
    values: ValueTracer,
) {
    let mut reported = BTreeSet::new();
    let mut target = applied.borrow().applied_to();
    loop {
        let present = cluster.present();
        let members = reported
            .iter()
            .filter(|&&acceptor| present.electorate().includes(acceptor));
        if members.count() >= present.quorum() {
            break;
        }
        let Some(Greeting { acceptor, chosen_to }) = greetings.recv().await else {
            return;
        };
        reported.insert(acceptor);
        target = target.max(chosen_to);
    }
    drop(greetings);
    if applied
        .wait_for(|state| state.applied_to() >= target)
        .await
        .is_ok()
    {
        tracing::info!(%target, "caught up");
        values.go_live();
    }
}
