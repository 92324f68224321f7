//! Counters and gauges of a learner.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use paxos_common::service::metrics::{Counter, DataDirSpace, Metrics};

use crate::{catch_up::CatchUp, service::LearnerService};

/// Counters of the learner's tasks. Cheap to clone; all clones share the same counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Instruments {
    /// Commands applied.
    pub(crate) commands: Counter,
    /// Chosen values without readable commands.
    pub(crate) unreadable: Counter,
    /// Questions put to the acceptors for linearizable reads.
    pub(crate) read_rounds: Counter,
    /// Answered calls of `Read`.
    pub(crate) reads: Counter,
    /// Installed snapshots.
    pub(crate) installs: Counter,
    /// Size of the write-ahead log in bytes, at the writer's last look.
    wal_bytes: Arc<AtomicU64>,
    /// The space of the data directory.
    pub(crate) data_dir: DataDirSpace,
}

impl Instruments {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            commands: metrics.counter(
                "paxos.learner.commands_applied",
                "Commands applied since the start",
            ),
            unreadable: metrics.counter(
                "paxos.learner.unreadable_values",
                "Chosen values without a valid batch of commands, applied as no-ops",
            ),
            read_rounds: metrics.counter(
                "paxos.learner.read_rounds",
                "Rounds of questions to the acceptors, each for all waiting linearizable reads",
            ),
            reads: metrics.counter("paxos.learner.reads", "Reads answered, of any consistency"),
            installs: metrics.counter(
                "paxos.learner.installs",
                "Snapshots of acceptors installed in place of this learner's own state",
            ),
            wal_bytes: Arc::default(),
            data_dir: DataDirSpace::shown(
                metrics,
                "paxos.learner.data_dir.size",
                "paxos.learner.data_dir.free",
            ),
        }
        .shown(metrics)
    }

    fn shown(self, metrics: &Metrics) -> Self {
        let bytes = Arc::clone(&self.wal_bytes);
        metrics.gauge(
            "paxos.learner.wal.size",
            "By",
            "Size of the write-ahead log's file",
            move || bytes.load(Ordering::Relaxed),
        );
        self
    }

    /// Records the present size of the write-ahead log in bytes.
    pub(crate) fn wal(&self, bytes: u64) {
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }
}

/// Shows the learner's progress as gauges.
pub(crate) fn show(metrics: &Metrics, service: &LearnerService, catch_up: &Arc<CatchUp>) {
    let gauge = |name, help, look: fn(&LearnerService) -> u64| {
        let service = service.clone();
        metrics.gauge(name, "", help, move || look(&service));
    };
    gauge(
        "paxos.learner.applied_to",
        "Watermark: every lower slot is applied",
        |service| service.applied_to().map_or(0, |slot| slot.get()),
    );
    gauge(
        "paxos.learner.durable_to",
        "Watermark: every lower slot is on this learner's disk",
        |service| service.durable_to().map_or(0, |slot| slot.get()),
    );
    gauge(
        "paxos.learner.log_from",
        "Oldest kept slot of the log",
        |service| service.log_from().map_or(0, |slot| slot.get()),
    );
    gauge(
        "paxos.learner.era",
        "Number of the configuration that this learner works with: each change of members begins the next era",
        |service| service.era().get(),
    );
    gauge(
        "paxos.learner.reads_waiting",
        "Waiting linearizable reads",
        LearnerService::reads_waiting,
    );
    gauge(
        "paxos.learner.registers",
        "Registers with a value",
        LearnerService::registers,
    );
    let counted = service.clone();
    metrics.gauge(
        "paxos.learner.state.size",
        "By",
        "Size of the registers and recorded outcomes, as counted against the proposers' --state-bytes-max",
        move || counted.state_bytes(),
    );
    let failing = service.clone();
    metrics.gauge(
        "paxos.learner.snapshot.failing",
        "s",
        "Time since the first failed attempt to make a snapshot, without a success since; 0 after a success",
        move || failing.snapshot_failing_seconds(),
    );
    let (service, catch_up) = (service.clone(), Arc::clone(catch_up));
    metrics.gauge(
        "paxos.learner.lag",
        "",
        "Slots reported as chosen by an acceptor and not applied yet; without reports the number stays as it is",
        move || {
            let applied_to = service.applied_to().map_or(0, |slot| slot.get());
            catch_up.tail().get().saturating_sub(applied_to)
        },
    );
}
