//! Deletes trimmed rows, a few at a time, in a transaction without any other change.

use std::path::Path;

use paxos_common::paxos::slot::Slot;
use sqlx::SqliteConnection;

use super::{
    super::{SWEEP_BYTES_MAX, SWEEP_ROWS_MAX, StoreError, Swept},
    execute, failed,
    state::column,
};

/// The lowest trimmed rows, with the sizes of the values. SQLite reads no value for its size.
const LOWEST: &str = "SELECT slot, length(value) FROM vote WHERE slot < ?1 ORDER BY slot LIMIT ?2";

const DELETE: &str = "BEGIN IMMEDIATE; DELETE FROM vote WHERE slot < ?; COMMIT";

/// Deletes the lowest rows below `trimmed_to`, within the limits of a sweep.
///
/// # Errors
/// As [`Store::commit`](super::super::Store::commit).
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    trimmed_to: Slot,
    file: &Path,
) -> Result<Swept, StoreError> {
    let trimmed_to = trimmed_to.get().cast_signed();
    let limit = i64::try_from(SWEEP_ROWS_MAX).unwrap_or(i64::MAX) + 1;
    let query = sqlx::query(LOWEST).bind(trimmed_to).bind(limit);
    let rows = match query.fetch_all(&mut *connection).await {
        Ok(rows) => rows,
        Err(error) => return Err(failed(connection, error, file).await),
    };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let (slot, bytes) = (column::<i64>(row, 0), column::<i64>(row, 1));
            // A slot is the key of the table and always a number; the size of a damaged value may be none.
            (slot.unwrap_or(trimmed_to), bytes.unwrap_or(0).unsigned_abs())
        })
        .collect();
    let (swept, next) = batch(&rows);
    if swept > 0 {
        let end = next.unwrap_or(trimmed_to);
        execute(connection, sqlx::query(DELETE).bind(end), file).await?;
    }
    // A damaged row may lie below slot 0.
    let next = next.map(|slot| Slot::new(slot.max(0).unsigned_abs()).unwrap_or(Slot::ZERO));
    Ok(Swept { rows: swept, next })
}

/// Number of the first rows within the limits, and the slot of the row behind, if any. The first row always fits.
fn batch(rows: &[(i64, u64)]) -> (usize, Option<i64>) {
    let mut bytes = 0u64;
    for (count, &(slot, size)) in rows.iter().enumerate() {
        bytes = bytes.saturating_add(size);
        if count == SWEEP_ROWS_MAX || (count > 0 && bytes > SWEEP_BYTES_MAX) {
            return (count, Some(slot));
        }
    }
    (rows.len(), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_is_bounded_in_rows_and_bytes_and_takes_at_least_one_row() {
        let rows = |count: usize, size| (0..).map(|slot| (slot, size)).take(count).collect::<Vec<_>>();
        let max = SWEEP_ROWS_MAX;
        assert_eq!(batch(&[]), (0, None));
        assert_eq!(batch(&rows(max, 0)), (max, None));
        assert_eq!(batch(&rows(max + 1, 0)), (max, Some(256)));
        assert_eq!(batch(&rows(3, SWEEP_BYTES_MAX)), (1, Some(1)));
        assert_eq!(batch(&rows(3, u64::MAX)), (1, Some(1)));
        assert_eq!(batch(&rows(9, SWEEP_BYTES_MAX / 4)), (4, Some(4)));
    }
}
