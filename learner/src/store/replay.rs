//! Applies the log after the snapshot again, at a start.

use std::sync::Arc;

use paxos_common::paxos::{machine::Machine, slot::Slot};
use tokio::sync::mpsc;

use super::{Log, LogReadError, StoreError, log::StoredSlot, state::StoredState};
use crate::{
    progress::{Mark, Progress},
    record::read_commands,
    start_work::{StartStep, StartWork},
};

/// Pages of the log that are read ahead.
const PAGES_MAX: usize = 2;

/// The state of a learner after its start.
pub(super) struct Replayed {
    pub(super) progress: Progress,
    pub(super) machine: Machine,
    /// Size of the log after the snapshot in bytes.
    pub(super) log_bytes: u64,
}

/// The beginning of a replay.
struct ReplayStart<'a> {
    log: &'a Log,
    stored: &'a StoredState,
    /// The kept marks, the newest first.
    marks: Vec<Mark>,
    /// The digests at the end of the snapshot.
    base: Mark,
    path: &'a str,
    work: &'a StartWork,
}

/// Applies the stored slots from the end of the snapshot on to `machine`. Checks both digests against the state record, and
/// restores the marks that are not stored.
///
/// # Errors
/// The log or a digest is damaged, or the log is of a newer release.
///
/// # Cancel safety
/// Safe: the reads end.
pub(super) async fn replay(
    log: &Log,
    (stored, marks): (&StoredState, Vec<Mark>),
    (machine, base): (Machine, Mark),
    path: &str,
    work: &Arc<StartWork>,
) -> Result<Replayed, StoreError> {
    let start = ReplayStart {
        log,
        stored,
        marks,
        base,
        path,
        work,
    };
    let progress = start.before_base().await?;
    let replayed = start.apply(progress, machine).await?;
    if replayed.progress.latest() != stored.latest() {
        return Err(start.damaged("the digest of the log or of the state"));
    }
    Ok(replayed)
}

impl ReplayStart<'_> {
    fn damaged(&self, what: &'static str) -> StoreError {
        let path = self.path.to_owned();
        StoreError::Damaged { what, path }
    }

    /// The progress at the end of the snapshot. Kept slots below restore the finer marks, as far as these slots are kept.
    async fn before_base(&self) -> Result<Progress, StoreError> {
        let base = self.base;
        let plain = || {
            let marks = self.marks.iter().filter(|mark| mark.to <= base.to).copied();
            Progress::recovered(base, marks.collect())
        };
        let stored = Progress::recovered(self.stored.latest(), self.marks.iter().copied().collect());
        let earlier = stored.at_earlier_mark(self.stored.rows_from());
        let Some(mut earlier) = earlier.filter(|earlier| earlier.applied_to() < base.to) else {
            return Ok(plain());
        };
        let state_at = |to: Slot| {
            let known = self.marks.iter().chain([&base]);
            known.filter(|mark| mark.to == to).find_map(|mark| mark.state)
        };
        let mut pages = read_ahead(self.log, earlier.applied_to(), base.to);
        while let Some(page) = pages.recv().await {
            let page = match page {
                Ok(page) => page,
                Err(LogReadError::Sqlite { source, .. }) => return Err(source.into()),
                Err(
                    error @ (LogReadError::Damaged { .. } | LogReadError::Trimmed | LogReadError::Replaced),
                ) => {
                    // The state is sound. Until the next start, only readers of this very slot notice the damage.
                    tracing::warn!(
                        %error, file = self.path,
                        "this learner can be compared with other learners at few slots only"
                    );
                    return Ok(plain());
                }
            };
            for StoredSlot { slot, value } in page {
                earlier.pass(slot, &value, state_at(slot.next()));
            }
        }
        if earlier.latest() != base {
            return Err(self.damaged("the digest of the log"));
        }
        Ok(earlier)
    }

    async fn apply(&self, mut progress: Progress, mut machine: Machine) -> Result<Replayed, StoreError> {
        let (from, to) = (self.base.to, self.stored.applied_to);
        let mut pages = read_ahead(self.log, from, to);
        let mut log_bytes = 0;
        while let Some(page) = pages.recv().await {
            self.work.does(StartStep::Replays {
                done: progress.applied_to().since(from),
                slots: to.since(from),
            });
            let page = page.map_err(|error| match error {
                LogReadError::Sqlite { source, .. } => source.into(),
                LogReadError::Damaged { .. } | LogReadError::Trimmed | LogReadError::Replaced => {
                    self.damaged("the log after the snapshot")
                }
            })?;
            for stored in page {
                log_bytes += stored.bytes();
                let StoredSlot { slot, value } = stored;
                let read = read_commands(slot, &value).map_err(StoreError::TooOld)?;
                machine.apply(slot, &read.commands);
                progress.pass(slot, &value, Some(machine.digest()));
            }
        }
        Ok(Replayed {
            progress,
            machine,
            log_bytes,
        })
    }
}

/// Reads the slots from `from` on and below `to`, page by page. Ends with the last page, or after an error.
fn read_ahead(log: &Log, from: Slot, to: Slot) -> mpsc::Receiver<Result<Vec<StoredSlot>, LogReadError>> {
    let (read, pages) = mpsc::channel(PAGES_MAX);
    let log = log.clone();
    tokio::spawn(async move {
        let mut next = from;
        while next < to {
            let page = log.stored(next, to).await;
            let is_last = page.is_err();
            next = next.plus(page.as_ref().map_or(0, |page| page.len() as u64));
            // Without a receiver, the start is given up.
            if read.send(page).await.is_err() || is_last {
                return;
            }
        }
    });
    pages
}
