//! Applies learned values in slot order: to memory at once, and hands the slots on to be written to disk, at a pace.
//!
//! A commit costs as much as tens of slots. So the disk may lag: a transaction is handed on once it is full, once some
//! time has passed since the last, or once a task waits for the disk.

use std::{sync::Arc, time::Duration};

use paxos_common::{
    paxos::{era::Era, slot::Slot, value::Value},
    service::{alarm::Alarm, failure::Failure, metrics::Counter},
    wire::stored::Unreadable,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use crate::{
    cluster::Cluster,
    knowledge::{KeptView, Knowledge},
    progress::{Mark, Progress},
    record::{Decoded, Record, TooOld, read_commands},
    snapshot_end::{CommonEnd, WantedEnd},
    store::Transaction,
    trace::ValueTracer,
};

/// Learned slots, ascending and without gaps; never empty.
pub(crate) type Batch = Vec<(Slot, Value)>;

/// Capacity of the queue of transactions: one, so that the disk never idles while the next transaction is gathered.
pub(crate) const TRANSACTIONS_MAX: usize = 1;
/// Shortest time between two transactions that are not full and that no task waits for. So this time bounds how long a
/// disk without other work stays behind memory.
pub(crate) const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Slots in a full transaction.
const TRANSACTION_SLOTS: usize = 8_192;
/// Bytes of values in a full transaction: beyond this size, a larger transaction is no cheaper per slot. While the transaction
/// is full, nothing more is applied until the disk has caught up. So this limit bounds how far memory is ahead of the
/// disk.
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// A request to keep the state, for a snapshot that ends there.
#[derive(Debug)]
pub(crate) struct ViewRequest {
    pub(crate) end: WantedEnd,
    pub(crate) answer: oneshot::Sender<KeptView>,
}

/// The applier.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) knowledge: Arc<Knowledge>,
    pub(crate) progress: Progress,
    /// A change of members is adopted here, once applied.
    pub(crate) cluster: Arc<Cluster>,
    /// The era on disk. A later one is handed on at once.
    pub(crate) stored_era: Era,
    /// Updated after each applied batch.
    pub(crate) applied: watch::Sender<Progress>,
    /// To the disk.
    pub(crate) transactions: mpsc::Sender<Transaction>,
    /// Requests to keep the state between two slots.
    pub(crate) views: mpsc::Receiver<ViewRequest>,
    /// Usually [`COMMIT_INTERVAL`].
    pub(crate) commit_interval: Duration,
    pub(crate) values: ValueTracer,
    /// Counts applied commands.
    pub(crate) commands: Counter,
    /// Counts skipped values: values without readable commands.
    pub(crate) unreadable: Counter,
}

/// Applied, but not handed on yet.
#[derive(Debug, Default)]
struct Gathered {
    records: Vec<Arc<Record>>,
    marks: Vec<Mark>,
    bytes: usize,
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.records.len() < TRANSACTION_SLOTS && self.bytes < TRANSACTION_BYTES
    }
}

/// The pace of the transactions.
#[derive(Debug)]
struct CommitPace {
    interval: Duration,
    /// The time of the next transaction, at the latest.
    next_at: Instant,
    /// Every slot below is handed on.
    handed_to: Slot,
    /// The era that is handed on.
    handed_era: Era,
}

impl CommitPace {
    /// Whether to hand on what is gathered; `wanted_to`: some task waits for the disk up to this slot.
    fn is_due(&self, gathered: &Gathered, wanted_to: Slot, era: Era, now: Instant) -> bool {
        let ends_wait = now >= self.next_at || wanted_to > self.handed_to;
        let is_enough = !gathered.records.is_empty() && (ends_wait || !gathered.has_room());
        is_enough || era > self.handed_era
    }

    fn handed_on(&mut self, to: Slot, era: Era, now: Instant) {
        self.handed_to = to;
        self.handed_era = era;
        self.next_at = now + self.interval;
    }
}

impl Applier {
    /// Applies incoming batches until the sender is gone, and hands on the rest.
    ///
    /// # Errors
    /// A command is from a later release: this release is too old for the log.
    pub(crate) async fn run(mut self, mut learned: mpsc::Receiver<Batch>) -> Result<(), Failure> {
        let mut gathered = Gathered::default();
        let transactions = self.transactions.clone();
        let mut pace = CommitPace {
            interval: self.commit_interval,
            next_at: Instant::now(),
            handed_to: self.progress.applied_to(),
            handed_era: self.stored_era,
        };
        let mut eras = self.cluster.follow();
        let mut wanted_to = self.knowledge.follow_wanted();
        let mut alarm = Alarm::new();
        let mut common = CommonEnd::NONE;
        loop {
            let (position, now) = (self.progress.applied_to(), Instant::now());
            if let Some(answer) = common.stands(position, now) {
                self.keep(answer);
            }
            let era = eras.borrow_and_update().era();
            let is_due = pace.is_due(&gathered, *wanted_to.borrow_and_update(), era, now);
            let due_at = (!is_due && !gathered.records.is_empty()).then_some(pace.next_at);
            let wake_at = [due_at, common.due_at(position)].into_iter().flatten().min();
            tokio::select! {
                // Cancel safe: a batch not returned stays queued.
                batch = learned.recv(), if gathered.has_room() => match batch {
                    Some(batch) => self.apply(batch, &mut gathered, &mut common).map_err(too_old)?,
                    None => break,
                },
                // Cancel safe: nothing is sent before the permit is granted.
                permit = transactions.reserve(), if is_due => match permit {
                    Ok(permit) => {
                        let transaction = self.transaction(std::mem::take(&mut gathered));
                        pace.handed_on(self.progress.applied_to(), transaction.configuration.era(), Instant::now());
                        permit.send(transaction);
                    }
                    // The disk failed; the failure ends the process.
                    Err(_) => return Ok(()),
                },
                // Cancel safe: a request not received stays queued.
                Some(ViewRequest { end, answer }) = self.views.recv() => match end {
                    WantedEnd::Present => self.keep(answer),
                    WantedEnd::Common => common.wanted(answer, position, Instant::now()),
                },
                // Only waits.
                () = alarm.wait_until(wake_at) => {}
                // Only waits. No error: `self` has the sender.
                _ = wanted_to.changed() => {}
                // As above.
                _ = eras.changed() => {}
            }
        }
        if !gathered.records.is_empty() {
            // As above.
            let _ = transactions.send(self.transaction(gathered)).await;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        batch: Batch,
        gathered: &mut Gathered,
        common: &mut CommonEnd<oneshot::Sender<KeptView>>,
    ) -> Result<(), TooOld> {
        let mut spans = Vec::new();
        let now = Instant::now();
        for (slot, value) in batch {
            spans.extend(self.values.begin("learner.apply", slot, &value));
            let Decoded {
                shown,
                commands,
                unreadable,
            } = read_commands(slot, &value)?;
            if let Some(reason) = unreadable {
                self.skip(slot, &reason);
            }
            if value.change().is_some()
                && let Some(change) = value.ends(self.cluster.present().electorate())
            {
                // Before the change shows as applied. Later slots are of the next era.
                self.cluster.adopt(change, slot.next());
            }
            self.commands.add(commands.len() as u64);
            gathered.bytes += value.as_bytes().len();
            let (record, state) = self.knowledge.apply(slot, value, shown, &commands);
            let mark = self.progress.pass(slot, &record.value, Some(state));
            gathered.marks.extend(mark);
            gathered.records.push(record);
            if let Some(answer) = common.passes(self.progress.applied_to(), now) {
                self.keep(answer);
            }
        }
        self.applied.send_replace(self.progress.clone());
        // Readers see the batch only now.
        drop(spans);
        Ok(())
    }

    /// Keeps the present state.
    fn keep(&self, answer: oneshot::Sender<KeptView>) {
        // A caller that gave up meanwhile drops the kept state.
        let _ = answer.send(self.knowledge.keep(self.progress.latest()));
    }

    /// Counts a value that no state machine can apply. Only the first is logged: its writer can write many more.
    fn skip(&self, slot: Slot, reason: &Unreadable) {
        if self.unreadable.get() == 0 {
            tracing::error!(
                %slot,
                %reason,
                "a chosen value is no batch of commands: every learner applies the value as a no-op. A process other \
                 than the proposers of this cluster got votes for the value from acceptors of an earlier release, or \
                 claimed votes of its own: check which processes can reach the acceptors"
            );
        }
        self.unreadable.add(1);
    }

    fn transaction(&self, gathered: Gathered) -> Transaction {
        Transaction {
            records: gathered.records,
            marks: gathered.marks,
            progress: self.progress.clone(),
            configuration: Arc::clone(self.cluster.present().configuration()),
        }
    }
}

fn too_old(error: TooOld) -> Failure {
    Failure::refused(error).context("a newer release wrote this log: run that release or a newer one")
}

/// The size of a batch in bytes, as counted against bounds.
pub(crate) fn bytes_of(batch: &[(Slot, Value)]) -> usize {
    batch.iter().map(|(_, value)| value.as_bytes().len()).sum()
}

#[cfg(test)]
mod tests;
