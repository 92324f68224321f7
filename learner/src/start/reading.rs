//! Starts the tasks behind linearizable reads.

use std::sync::Arc;

use paxos_common::{paxos::message::Leadership, service::shutdown::Shutdown};
use tokio::sync::{mpsc, watch};

use super::Starter;
use crate::{
    acceptors::ListedAcceptor,
    barrier::{self, Barrier, barrier},
    cluster::Cluster,
    fill::Filler,
    progress::Progress,
    tails::{self, Asker},
};

impl Starter {
    /// Starts the tasks behind linearizable reads.
    pub(super) fn start_barrier(
        &self,
        cluster: &Arc<Cluster>,
        acceptors: &[Arc<ListedAcceptor>],
        applied: watch::Receiver<Progress>,
        leadership: watch::Receiver<Leadership>,
        shutdown: &Shutdown,
    ) -> Barrier {
        let (tails_in, tails) = mpsc::channel(tails::TAILS_MAX);
        let (question, question_seen) = watch::channel(None);
        let (fill, wanted) = watch::channel(None);
        let rounds = self.instruments.read_rounds.clone();
        let outputs = barrier::ReadingOutputs {
            question,
            fill,
            rounds,
        };
        let electorate = cluster.electorate().clone();
        let (barrier, keeper) = barrier(electorate, tails, applied, outputs, self.tracer.clone());
        shutdown.spawn_vital("barrier", keeper.run(shutdown.clone()));
        let asker = Asker {
            cluster: Arc::clone(cluster),
            question: question_seen,
            tails: tails_in,
            tracer: self.tracer.clone(),
        };
        for acceptor in acceptors {
            let asking = asker.clone().keep_asking(Arc::clone(acceptor));
            shutdown.spawn_until_stop(asking);
        }
        let filler = Filler {
            wanted,
            leadership,
            dialer: self.dialer.clone(),
        };
        shutdown.spawn_until_stop(filler.keep_filling());
        barrier
    }
}
