//! Reads of the learned log on disk: short reads, beside the writer.

use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use paxos_common::{
    paxos::{identity::ClusterId, slot::Slot, value::Value},
    sqlite::{Readers, is_malformed},
    wire::stored,
};
use sqlx::{Row as _, sqlite::SqliteRow};
use tokio::sync::watch;

use super::{aside, integer, row_checksum, stored::decode_judgements};
use crate::{
    recent::{PAGE_BYTES_MAX, PAGE_SLOTS_MAX},
    record::{Record, read_commands},
};

/// Counted for each row beside value and trace context, in bytes: the other columns, and the time of a start to read the row.
const ROW_BYTES: u64 = 128;

/// A page of the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogReadError {
    /// The page begins below the learned log.
    #[error("these slots are not kept any more")]
    Trimmed,
    /// An installed snapshot has replaced the log.
    #[error("this learner has started again with another log")]
    Replaced,
    #[error("slot {slot} of this learner's log in {} is damaged", file.display())]
    Damaged { slot: Slot, file: PathBuf },
    #[error("read {}: {source}", file.display())]
    Sqlite { file: PathBuf, source: sqlx::Error },
}

/// A row of the learned log, with a sound checksum.
#[derive(Debug)]
pub(super) struct StoredSlot {
    pub(super) slot: Slot,
    pub(super) value: Value,
}

impl StoredSlot {
    /// The size as counted against bounds: see [`row_bytes`].
    pub(super) fn bytes(&self) -> u64 {
        row_bytes(&self.value)
    }
}

/// Size of the row of a value in bytes, about.
pub(super) fn row_bytes(value: &Value) -> u64 {
    (value.as_bytes().len() + value.traceparent().len()) as u64 + ROW_BYTES
}

/// The learned log, for many short reads at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(super) readers: Readers,
    pub(super) cluster: ClusterId,
    /// The file, for messages and marks.
    pub(super) file: Arc<Path>,
    pub(super) log_from: watch::Receiver<Slot>,
}

impl Log {
    /// The first slot of the learned log.
    pub(crate) fn from(&self) -> Slot {
        *self.log_from.borrow()
    }

    /// Follows [`Self::from`].
    #[cfg(test)]
    pub(crate) fn follow(&self) -> watch::Receiver<Slot> {
        self.log_from.clone()
    }

    /// The slots from `from` on and below `to`, at most a page, without gaps; at least one slot when `from` is below
    /// `to`. The caller knows that every slot below `to` is applied.
    ///
    /// # Errors
    /// See [`LogReadError`]. After damage, the next start sets the file aside.
    pub(crate) async fn page(&self, from: Slot, to: Slot) -> Result<Vec<Arc<Record>>, LogReadError> {
        // In a task of its own: a reader that stops in the middle must not keep a connection.
        let log = self.clone();
        let reading = tokio::spawn(async move { log.read_page(from, to).await });
        let page = match reading.await {
            Ok(page) => page,
            // A panic goes on here. The runtime ends: there is no reader any more.
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        };
        // After the read: `log_from` rises before the first lower row is deleted, so a deleted row is not taken for a
        // damaged row.
        if from < self.from() {
            return Err(LogReadError::Trimmed);
        }
        let is_damaged = match &page {
            Err(LogReadError::Damaged { .. }) => true,
            Err(LogReadError::Sqlite { source, .. }) => is_malformed(source),
            Ok(_) | Err(LogReadError::Trimmed | LogReadError::Replaced) => false,
        };
        if is_damaged {
            aside::mark(&self.file);
        }
        page
    }

    /// As [`Self::page`], without the content of the values, and also below the learned log: a start needs all slots after
    /// the snapshot.
    pub(super) async fn stored(&self, from: Slot, to: Slot) -> Result<Vec<StoredSlot>, LogReadError> {
        let rows = self.rows(from, to).await?;
        let stored = |(slot, row): (Slot, &SqliteRow)| {
            let (value, _) = self.value(slot, row).ok_or_else(|| self.damaged(slot))?;
            Ok(StoredSlot { slot, value })
        };
        rows.numbered().map(stored).collect()
    }

    async fn read_page(&self, from: Slot, to: Slot) -> Result<Vec<Arc<Record>>, LogReadError> {
        let rows = self.rows(from, to).await?;
        let record = |(slot, row): (Slot, &SqliteRow)| {
            let record = self.record(slot, row).ok_or_else(|| self.damaged(slot))?;
            Ok(Arc::new(record))
        };
        rows.numbered().map(record).collect()
    }

    /// The rows of a page, one for each slot from `from` on.
    async fn rows(&self, from: Slot, to: Slot) -> Result<RowPage, LogReadError> {
        let failed = |source| {
            if matches!(source, sqlx::Error::PoolClosed) {
                return LogReadError::Replaced;
            }
            let file = self.file.to_path_buf();
            LogReadError::Sqlite { file, source }
        };
        let to = to.min(from.plus(PAGE_SLOTS_MAX));
        if from >= to {
            let rows = Vec::new();
            return Ok(RowPage { from, rows });
        }
        // Sizes first, so that memory never holds more than the page. Rows never change after the write, so the two
        // reads agree, unless a sweep deletes rows in between. Both reads are short, so checkpoints are not held up.
        let mut read = self.readers.read().await.map_err(failed)?;
        let sizes: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT slot, length(value) + length(traceparent) + length(judgements) FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&mut *read)
        .await
        .map_err(failed)?;
        let to = from.plus(slots_that_fit(
            sizes.iter().map(|&(_, bytes)| bytes.unsigned_abs()),
        ));
        let rows = sqlx::query(
            "SELECT slot, value, traceparent, judgements, checksum FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&mut *read)
        .await
        .map_err(failed)?;
        drop(read);
        // A wrong slot in an earlier row is found by the check of this row.
        match from.to(to).nth(rows.len()) {
            Some(missing) => Err(self.missing(from, missing, &rows)),
            None => Ok(RowPage { from, rows }),
        }
    }

    /// The error for a page with too few rows: names the first wrong slot.
    fn missing(&self, from: Slot, end: Slot, rows: &[SqliteRow]) -> LogReadError {
        let is_wrong = |(expected, row): &(Slot, &SqliteRow)| self.value(*expected, row).is_none();
        let wrong = from.to(end).zip(rows).find(is_wrong);
        self.damaged(wrong.map_or(end, |(slot, _)| slot))
    }

    fn damaged(&self, slot: Slot) -> LogReadError {
        LogReadError::Damaged {
            slot,
            file: self.file.to_path_buf(),
        }
    }

    /// The value and the stored judgements of a row; `None` when the row is damaged. A column of another type is damage, too.
    fn value<'r>(&self, expected: Slot, row: &'r SqliteRow) -> Option<(Value, &'r [u8])> {
        let bytes = |column| {
            let bytes: &[u8] = row.try_get(column).ok()?;
            Some(Bytes::copy_from_slice(bytes))
        };
        let value = stored::value(bytes(1)?, bytes(2)?);
        let judgements: &[u8] = row.try_get(3).ok()?;
        let sound = row.try_get::<i64, _>(0).ok()? == integer(expected)
            && row.try_get::<i64, _>(4).ok()? == row_checksum(self.cluster, expected, &value, judgements);
        sound.then_some((value, judgements))
    }

    /// `None` when the row is damaged.
    fn record(&self, expected: Slot, row: &SqliteRow) -> Option<Record> {
        let (value, judgements) = self.value(expected, row)?;
        let held = read_commands(expected, &value).ok()?;
        let commands = held.shown;
        let judgements = decode_judgements(judgements, commands.len())?;
        Some(Record {
            slot: expected,
            value,
            commands,
            judgements,
        })
    }

    /// Closes the connections, after the running reads.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

/// Rows of consecutive slots.
struct RowPage {
    from: Slot,
    rows: Vec<SqliteRow>,
}

impl RowPage {
    /// The rows with the slots that the rows must have.
    fn numbered(&self) -> impl Iterator<Item = (Slot, &SqliteRow)> {
        let end = self.from.plus(self.rows.len() as u64);
        self.from.to(end).zip(&self.rows)
    }
}

/// Number of the next slots that fit a page, at least one.
fn slots_that_fit(sizes: impl Iterator<Item = u64>) -> u64 {
    let mut bytes = 0;
    let fits = |size: &u64| {
        bytes += size;
        bytes <= PAGE_BYTES_MAX as u64
    };
    (sizes.take_while(fits).count() as u64).max(1)
}
