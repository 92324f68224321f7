//! Reads of the learned log on disk: short ones, beside the writer.

use std::sync::Arc;

use bytes::Bytes;
use paxos_common::{
    paxos::{identity::ClusterId, slot::Slot, value::Value},
    sqlite::Readers,
};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{integer, row_checksum, stored::decode_judgements};
use crate::history::{PAGE_BYTES_MAX, PAGE_SLOTS_MAX, Record, read_commands};

/// A page of the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("slot {0} of this learner's log is damaged")]
    Damaged(Slot),
    #[error(transparent)]
    Sqlite(#[from] sqlx::Error),
}

/// The learned log, for many short reads at once. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(super) readers: Readers,
    pub(super) cluster: ClusterId,
}

impl Log {
    /// The slots from `from` on and below `to`, as many as make a page, without gaps; at least one when `from` is
    /// below `to`. The caller knows that every slot below `to` is applied.
    pub(crate) async fn page(&self, from: Slot, to: Slot) -> Result<Vec<Arc<Record>>, ReadError> {
        let to = to.min(from.plus(PAGE_SLOTS_MAX));
        if from >= to {
            return Ok(Vec::new());
        }
        // Sizes first, so that memory never holds more than the page. Rows never change once they are there, so
        // the two reads agree; both are short, which lets checkpoints pass.
        let mut read = self.readers.read().await?;
        let sizes: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT slot, length(value) + length(traceparent) + length(judgements) FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&mut *read)
        .await?;
        let to = from.plus(slots_that_fit(
            sizes.iter().map(|&(_, bytes)| bytes.unsigned_abs()),
        ));
        let rows = sqlx::query(
            "SELECT slot, value, traceparent, judgements, checksum FROM learned WHERE slot >= ? AND slot < ? ORDER BY slot",
        )
        .bind(integer(from))
        .bind(integer(to))
        .fetch_all(&mut *read)
        .await?;
        drop(read);
        let mut page = Vec::with_capacity(rows.len());
        for (expected, row) in from.to(to).zip(&rows) {
            page.push(Arc::new(self.check(expected, row)?));
        }
        match from.to(to).nth(page.len()) {
            Some(missing) => Err(ReadError::Damaged(missing)),
            None => Ok(page),
        }
    }

    fn check(&self, expected: Slot, row: &SqliteRow) -> Result<Record, ReadError> {
        let bytes = |column| {
            row.try_get(column)
                .map(|bytes: &[u8]| Bytes::copy_from_slice(bytes))
        };
        let value = Value::from_stored(bytes(1)?, bytes(2)?);
        let judgements: &[u8] = row.try_get(3)?;
        let sound = row.try_get::<i64, _>(0)? == integer(expected)
            && row.try_get::<i64, _>(4)? == row_checksum(self.cluster, expected, &value, judgements);
        if !sound {
            return Err(ReadError::Damaged(expected));
        }
        let held = read_commands(expected, &value).map_err(|_| ReadError::Damaged(expected))?;
        let commands = held.shown;
        let judgements = decode_judgements(judgements, commands.len()).ok_or(ReadError::Damaged(expected))?;
        Ok(Record {
            slot: expected,
            value,
            commands,
            judgements,
        })
    }

    /// Closes the connections, once the reads under way are through.
    pub(crate) async fn close(&self) {
        self.readers.close().await;
    }
}

/// How many of the next slots fit a page, at least one.
fn slots_that_fit(sizes: impl Iterator<Item = u64>) -> u64 {
    let mut bytes = 0;
    let fits = |size: &u64| {
        bytes += size;
        bytes <= PAGE_BYTES_MAX as u64
    };
    (sizes.take_while(fits).count() as u64).max(1)
}
