//! Applies learned values in slot order: to memory at once, and hands them on to be written to disk.

use std::sync::Arc;

use paxos_common::{
    exit::Failure,
    metrics::Counter,
    paxos::{machine::Changes, slot::Slot, value::Value},
    wire::stored::Unreadable,
};
use tokio::sync::{mpsc, watch};

use crate::{
    history::{Holds, Record, TooOld, read_commands},
    knowledge::Knowledge,
    progress::{Mark, Progress},
    trace::ValueTracer,
};

/// Learned slots, ascending and without gaps; never empty.
pub(crate) type Batch = Vec<(Slot, Value)>;

/// Portions that wait for the disk: one, so that it never idles while the next is gathered.
pub(crate) const PORTIONS_MAX: usize = 1;
/// A portion is full with so many slots, …
const PORTION_SLOTS: usize = 8_192;
/// … or so many bytes: beyond, a larger transaction is no cheaper for each slot. Full: nothing more is applied before
/// the disk has caught up, so this bounds what memory is ahead of it.
const PORTION_BYTES: usize = 4 * 1024 * 1024;

/// What is written in one transaction.
#[derive(Debug)]
pub(crate) struct Portion {
    /// Following on what was written before.
    pub(crate) records: Vec<Arc<Record>>,
    /// Passed on the way.
    pub(crate) marks: Vec<Mark>,
    /// After the records.
    pub(crate) progress: Progress,
    /// Of the state machine, since the portion before.
    pub(crate) changes: Changes,
}

/// The applier.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) knowledge: Arc<Knowledge>,
    pub(crate) progress: Progress,
    /// Told after each batch is applied.
    pub(crate) applied: watch::Sender<Progress>,
    /// To the disk.
    pub(crate) portions: mpsc::Sender<Portion>,
    pub(crate) values: ValueTracer,
    /// Counts what is applied.
    pub(crate) commands: Counter,
    /// Counts values that are no commands, and are skipped.
    pub(crate) unreadable: Counter,
}

/// What is applied and was not handed on yet.
#[derive(Debug, Default)]
struct Gathered {
    records: Vec<Arc<Record>>,
    marks: Vec<Mark>,
    bytes: usize,
}

impl Gathered {
    fn has_room(&self) -> bool {
        self.records.len() < PORTION_SLOTS && self.bytes < PORTION_BYTES
    }
}

impl Applier {
    /// Applies what comes in until the sender is gone, and hands on the rest.
    ///
    /// # Errors
    /// A command is from a later release: this one is too old for the log.
    pub(crate) async fn run(mut self, mut learned: mpsc::Receiver<Batch>) -> Result<(), Failure> {
        let mut gathered = Gathered::default();
        let portions = self.portions.clone();
        loop {
            tokio::select! {
                // Cancel safe: a batch that is not returned stays queued.
                batch = learned.recv(), if gathered.has_room() => match batch {
                    Some(batch) => self.apply(batch, &mut gathered).map_err(too_old)?,
                    None => break,
                },
                // Cancel safe: nothing is sent before the permit is there.
                permit = portions.reserve(), if !gathered.records.is_empty() => match permit {
                    Ok(permit) => permit.send(self.portion(std::mem::take(&mut gathered))),
                    // The disk failed, which ends the process.
                    Err(_) => return Ok(()),
                },
            }
        }
        if !gathered.records.is_empty() {
            // As above.
            let _ = portions.send(self.portion(gathered)).await;
        }
        Ok(())
    }

    fn apply(&mut self, batch: Batch, gathered: &mut Gathered) -> Result<(), TooOld> {
        let mut spans = Vec::new();
        for (slot, value) in batch {
            spans.extend(self.values.begin("learner.apply", slot, &value));
            let Holds {
                shown,
                commands,
                unreadable,
            } = read_commands(slot, &value)?;
            if let Some(reason) = unreadable {
                self.skip(slot, &reason);
            }
            self.commands.add(commands.len() as u64);
            gathered.bytes += value.as_bytes().len();
            gathered.marks.extend(self.progress.pass(slot, &value));
            gathered
                .records
                .push(self.knowledge.apply(slot, value, shown, &commands));
        }
        self.applied.send_replace(self.progress.clone());
        // Only now does a reader see it.
        drop(spans);
        Ok(())
    }

    /// Counts a value that no state machine can apply. The first is logged: whoever wrote one can write many.
    fn skip(&self, slot: Slot, reason: &Unreadable) {
        if self.unreadable.get() == 0 {
            tracing::error!(
                %slot,
                %reason,
                "a chosen value is no batch of commands: every learner applies it as a no-op; some process that is no \
                 proposer of this cluster got acceptors of an earlier release, or its own claim, to vote for it: look who \
                 can reach the acceptors"
            );
        }
        self.unreadable.add(1);
    }

    fn portion(&self, gathered: Gathered) -> Portion {
        Portion {
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

/// The size of a batch as it counts against bounds.
pub(crate) fn bytes_of(batch: &[(Slot, Value)]) -> usize {
    batch.iter().map(|(_, value)| value.as_bytes().len()).sum()
}

#[cfg(test)]
mod tests;
