//! Answers `Status`: how far this learner has come.

use bytes::Bytes;
use paxos_common::{
    paxos::era::Era,
    service::{config, metrics::UnreadyReason},
};
use paxos_proto::v1 as pb;
use tokio::sync::Semaphore;

use super::{LearnerService, SUBSCRIBERS_MAX, WATCHERS_MAX};
use crate::snapshots::SnapshotTrouble;

impl LearnerService {
    /// The era of the configuration that this learner works with; the first before the cluster is found.
    pub(crate) fn era(&self) -> Era {
        self.look()
            .map_or(Era::FIRST, |opened| opened.cluster.present().era())
    }

    /// Number of waiting linearizable reads.
    pub(crate) fn reads_waiting(&self) -> u64 {
        self.look().map_or(0, |opened| opened.barrier.waiting())
    }

    /// Seconds since the first attempt to make a snapshot that failed, without a success since; 0 after a success.
    pub(crate) fn snapshot_failing_seconds(&self) -> u64 {
        let trouble = self.look().and_then(|opened| opened.snapshots.trouble());
        trouble.map_or(0, |trouble| trouble.since.elapsed().as_secs().max(1))
    }

    /// The present state of this learner.
    pub(super) fn own_status(&self) -> pb::LearnerStatusResponse {
        let taken = |places: &Semaphore, all: usize| (all - places.available_permits()) as u64;
        let mut status = pb::LearnerStatusResponse {
            learner: self.learner,
            address: self.address.to_string(),
            software: config::version().to_owned(),
            subscribers: taken(&self.subscribers, SUBSCRIBERS_MAX),
            watchers: taken(&self.watchers, WATCHERS_MAX),
            reads_answered: self.reads_answered.get(),
            not_ready: self
                .readiness()
                .err()
                .map(UnreadyReason::into_owned)
                .unwrap_or_default(),
            data_size_bytes: self.data_dir.size_bytes(),
            data_free_bytes: self.data_dir.free_bytes(),
            installing: self.installing.look().map(|state| pb::InstallingSnapshot {
                to: state.to.get(),
                received: state.received,
                bytes: state.bytes,
            }),
            ..Default::default()
        };
        if let Some(opened) = self.look() {
            let progress = opened.applied.borrow().clone();
            status.cluster_id = Bytes::copy_from_slice(opened.cluster.id().as_bytes());
            status.configuration = Some((&**opened.cluster.present().configuration()).into());
            status.applied_to = progress.applied_to().get();
            status.log_from = opened.history.kept().from.get();
            status.durable_to = opened.knowledge.recent(|recent| recent.durable_to().get());
            status.digests = progress.digests();
            status.value_feed = opened.feed.borrow().map_or_else(Bytes::new, |acceptor| {
                Bytes::copy_from_slice(&acceptor.to_bytes())
            });
            status.reads_waiting = opened.barrier.waiting();
            status.snapshot_failure = opened.snapshots.trouble().map(failure);
            opened.knowledge.machine(|machine| {
                status.registers = machine.register_count() as u64;
                status.sessions = machine.sessions().count() as u64;
                status.state_bytes = machine.state_bytes();
            });
        }
        status
    }
}

fn failure(SnapshotTrouble { since, reason }: SnapshotTrouble) -> pb::SnapshotFailure {
    let failing_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    pb::SnapshotFailure { reason, failing_ms }
}
