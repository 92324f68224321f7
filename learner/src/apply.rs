//! Applies learned values in slot order: to memory at once, and hands the slots on to be written to disk.

use std::sync::Arc;

use paxos_common::{
    paxos::{slot::Slot, value::Value},
    service::{failure::Failure, metrics::Counter},
    wire::stored::Unreadable,
};
use tokio::sync::{mpsc, watch};

use crate::{
    knowledge::Knowledge,
    progress::{Mark, Progress},
    record::{Decoded, Record, TooOld, read_commands},
    store::Transaction,
    trace::ValueTracer,
};

/// Learned slots, ascending and without gaps; never empty.
pub(crate) type Batch = Vec<(Slot, Value)>;

/// Capacity of the queue of transactions: one, so that the disk never idles while the next transaction is gathered.
pub(crate) const TRANSACTIONS_MAX: usize = 1;
/// Slots in a full transaction.
const TRANSACTION_SLOTS: usize = 8_192;
/// Bytes of values in a full transaction: beyond this size, a larger transaction is no cheaper per slot. While the transaction
/// is full, nothing more is applied until the disk has caught up. So this limit bounds how far memory is ahead of the
/// disk.
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// The applier.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) knowledge: Arc<Knowledge>,
    pub(crate) progress: Progress,
    /// Updated after each applied batch.
    pub(crate) applied: watch::Sender<Progress>,
    /// To the disk.
    pub(crate) transactions: mpsc::Sender<Transaction>,
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

impl Applier {
    /// Applies incoming batches until the sender is gone, and hands on the rest.
    ///
    /// # Errors
    /// A command is from a later release: this release is too old for the log.
    pub(crate) async fn run(mut self, mut learned: mpsc::Receiver<Batch>) -> Result<(), Failure> {
        let mut gathered = Gathered::default();
        let transactions = self.transactions.clone();
        loop {
            tokio::select! {
                // Cancel safe: a batch not returned stays queued.
                batch = learned.recv(), if gathered.has_room() => match batch {
                    Some(batch) => self.apply(batch, &mut gathered).map_err(too_old)?,
                    None => break,
                },
                // Cancel safe: nothing is sent before the permit is granted.
                permit = transactions.reserve(), if !gathered.records.is_empty() => match permit {
                    Ok(permit) => permit.send(self.transaction(std::mem::take(&mut gathered))),
                    // The disk failed; the failure ends the process.
                    Err(_) => return Ok(()),
                },
            }
        }
        if !gathered.records.is_empty() {
            // As above.
            let _ = transactions.send(self.transaction(gathered)).await;
        }
        Ok(())
    }

    fn apply(&mut self, batch: Batch, gathered: &mut Gathered) -> Result<(), TooOld> {
        let mut spans = Vec::new();
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
            self.commands.add(commands.len() as u64);
            gathered.bytes += value.as_bytes().len();
            let (record, state) = self.knowledge.apply(slot, value, shown, &commands);
            let mark = self.progress.pass(slot, &record.value, Some(state));
            gathered.marks.extend(mark);
            gathered.records.push(record);
        }
        self.applied.send_replace(self.progress.clone());
        // Readers see the batch only now.
        drop(spans);
        Ok(())
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
            changes: self.knowledge.take_changes(),
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
