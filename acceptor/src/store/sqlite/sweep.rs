//! Deletes trimmed rows, a few at a time, in a transaction without any other change.
//!
//! No checksum protects the order of the rows in the file. A row with a damaged slot stands in a wrong place: a search
//! by slot misses the row, and a search for the rows below a slot ends there. So each sweep reads the first rows of the
//! table as the rows stand in the file, and counts the deleted rows.

use std::path::Path;

use paxos_common::paxos::slot::Slot;
use sqlx::SqliteConnection;
use tracing::warn;

use super::{
    super::{SWEEP_BYTES_MAX, SWEEP_ROWS_MAX, StoreError, Swept},
    columns::column,
    execute, failed,
};

/// The first rows of the table, with the sizes of the values. SQLite reads no value for its size.
const FIRST: &str = "SELECT slot, length(value) FROM vote ORDER BY slot LIMIT ?";

/// Deletes the rows from a slot to another slot (exclusive). The statement is a transaction.
const DELETE: &str = "DELETE FROM vote WHERE slot >= ? AND slot < ?";

/// As [`DELETE`], by a look at every row of the table: also finds rows in a wrong place.
const DELETE_ANYWHERE: &str = "DELETE FROM vote WHERE +slot >= ? AND +slot < ?";

/// Deletes the lowest rows below `trimmed_to`, within the limits of a sweep.
///
/// # Errors
/// As [`Store::commit`](super::super::Store::commit).
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    trimmed_to: Slot,
    file: &Path,
) -> Result<Swept, StoreError> {
    let limit = i64::try_from(SWEEP_ROWS_MAX).unwrap_or(i64::MAX) + 1;
    let query = sqlx::query(FIRST).bind(limit);
    let rows = match query.fetch_all(&mut *connection).await {
        Ok(rows) => rows,
        Err(error) => return Err(failed(connection, error, file).await),
    };
    let is_whole_table = rows.len() <= SWEEP_ROWS_MAX;
    let rows = rows.iter().filter_map(|row| {
        // A slot is the key of the table and always a number; the size of a damaged value may be none.
        let bytes = column::<i64>(row, 1).unwrap_or(0).unsigned_abs();
        Some((column::<i64>(row, 0)?, bytes))
    });
    let trimmed_to = trimmed_to.get().cast_signed();
    let rows: Vec<_> = rows.filter(|&(slot, _)| slot < trimmed_to).collect();
    let Some(SweepBatch { count, slots, next }) = batch(&rows) else {
        return Ok(Swept::default());
    };
    let mut deleted = delete(connection, DELETE, &slots, file).await?;
    if deleted < count {
        deleted += delete(connection, DELETE_ANYWHERE, &slots, file).await?;
        warn!(
            from = slots.start,
            to = slots.end,
            deleted,
            "trimmed rows are in a wrong place of the file: a search of all rows deleted these rows. Check this disk"
        );
    }
    // A row in a wrong place can hide trimmed rows behind the rows read here.
    let next = next.or((!is_whole_table).then_some(slots.end.min(trimmed_to)));
    // Without progress the next sweep would do the same: the rows wait for the next trim.
    let next = next.filter(|_| deleted > 0);
    // A damaged row may lie below slot 0.
    let next = next.map(|slot| Slot::new(slot.max(0).unsigned_abs()).unwrap_or(Slot::ZERO));
    Ok(Swept { rows: deleted, next })
}

/// Executes a deletion; returns the number of deleted rows.
async fn delete(
    connection: &mut SqliteConnection,
    sql: &'static str,
    slots: &std::ops::Range<i64>,
    file: &Path,
) -> Result<usize, StoreError> {
    let query = sqlx::query(sql).bind(slots.start).bind(slots.end);
    let deleted = execute(connection, query, file).await?.rows_affected();
    Ok(usize::try_from(deleted).unwrap_or(usize::MAX))
}

/// Rows deleted together.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SweepBatch {
    /// Number of rows; at least 1.
    count: usize,
    /// Contains the slots of the rows, and no other slot of a sound table.
    slots: std::ops::Range<i64>,
    /// Slot of the row behind, if any.
    next: Option<i64>,
}

/// The first rows in ascending order within the limits; none without a row. The first row always fits.
fn batch(rows: &[(i64, u64)]) -> Option<SweepBatch> {
    let &(first, _) = rows.first()?;
    let (mut last, mut bytes) = (first, 0u64);
    for (count, &(slot, size)) in rows.iter().enumerate() {
        bytes = bytes.saturating_add(size);
        let is_full = count == SWEEP_ROWS_MAX || bytes > SWEEP_BYTES_MAX;
        if count > 0 && (is_full || slot <= last) {
            return Some(SweepBatch {
                count,
                slots: first..last.saturating_add(1),
                next: Some(slot),
            });
        }
        last = slot;
    }
    Some(SweepBatch {
        count: rows.len(),
        slots: first..last.saturating_add(1),
        next: None,
    })
}

#[cfg(test)]
mod tests;
