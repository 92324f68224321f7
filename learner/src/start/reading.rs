//! Starts the tasks behind linearizable reads.

use std::sync::Arc;

use paxos_common::{paxos::message::Leadership, service::shutdown::Shutdown};
use tokio::sync::{mpsc, watch};

use super::Starter;
use crate::{
    barrier::{self, Barrier, barrier},
    cluster::Cluster,
    fill::Filler,
    progress::Progress,
    tails::{self, Asker},
};

impl Starter {
    /// Starts the tasks behind linearizable reads, but the tasks that ask the members.
    pub(super) fn start_barrier(
        &self,
        cluster: &Arc<Cluster>,
        applied: watch::Receiver<Progress>,
        leadership: watch::Receiver<Leadership>,
        shutdown: &Shutdown,
    ) -> (Barrier, Asker) {
        let (tails_in, tails) = mpsc::channel(tails::TAILS_MAX);
        let (question, question_seen) = watch::channel(None);
        let (fill, wanted) = watch::channel(None);
        let rounds = self.instruments.read_rounds.clone();
        let outputs = barrier::ReadingOutputs {
            question,
            fill,
            rounds,
        };
        let (barrier, keeper) = barrier(cluster.follow(), tails, applied, outputs, self.tracer.clone());
        shutdown.spawn_vital("barrier", keeper.run(shutdown.clone()));
        let asker = Asker {
            cluster: Arc::clone(cluster),
            question: question_seen,
            tails: tails_in,
            tracer: self.tracer.clone(),
        };
        let filler = Filler {
            wanted,
            leadership,
            dialer: self.dialer.clone(),
        };
        shutdown.spawn_until_stop(filler.keep_filling());
        (barrier, asker)
    }
}
