//! The beginning of the learned log: `log_from` rises in a commit of its own, and the rows below go afterwards, as far as
//! the next start does not need them.

use paxos_common::paxos::slot::Slot;
use sqlx::SqliteConnection;

use super::{Store, StoreWriteError, integer, state};

/// Limit of rows, and of marks, deleted in a commit (inclusive).
pub(super) const SWEEP_ROWS_MAX: usize = 1_024;
/// Limit of deleted bytes of values in a commit (inclusive), unless the first row has more.
const SWEEP_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The lowest rows below a slot, with the sizes of the values. SQLite reads no value for its size.
const LOWEST: &str = "SELECT slot, length(value) FROM learned WHERE slot < ?1 ORDER BY slot LIMIT ?2";

const DELETE_ROWS: &str = "DELETE FROM learned WHERE slot < ?";
const DELETE_MARKS: &str = "DELETE FROM digest WHERE applied_to IN
     (SELECT applied_to FROM digest WHERE applied_to < ?1 ORDER BY applied_to LIMIT ?2)";

/// The result of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SweptRows {
    /// Number of deleted rows.
    pub(crate) rows: usize,
    /// Rows or marks may be left.
    pub(crate) more: bool,
}

impl Store {
    /// Lets the learned log begin at `slot`, or at the end of the written slots, if lower. The log never begins lower
    /// again. Returns `true` after a commit: from then on no reader gets a lower slot.
    ///
    /// # Errors
    /// As [`Store::write`].
    ///
    /// # Cancel safety
    /// Not safe, as [`Store::write`].
    pub(crate) async fn keep_from(&mut self, slot: Slot) -> Result<bool, StoreWriteError> {
        let log_from = slot.min(self.written.applied_to);
        if log_from <= self.written.log_from {
            return Ok(false);
        }
        let state = state::StoredState {
            log_from,
            ..self.written.clone()
        };
        self.begin().await?;
        let raised = state.raise_log_from(&mut self.connection).await;
        self.ended(raised).await?;
        self.written = state;
        // Before the first deletion: a reader that misses a row finds the new value.
        self.log_from.send_replace(log_from);
        tracing::debug!(%log_from, "the learned log begins later");
        Ok(true)
    }

    /// Deletes some of the rows and digest marks below `log_from`, in one commit. Rows after the snapshot stay.
    ///
    /// # Errors
    /// As [`Store::write`].
    ///
    /// # Cancel safety
    /// Not safe, as [`Store::write`].
    pub(crate) async fn sweep(&mut self) -> Result<SweptRows, StoreWriteError> {
        let rows_from = self.written.rows_from();
        if rows_from == Slot::ZERO {
            return Ok(SweptRows::default());
        }
        self.begin().await?;
        let swept = sweep(&mut self.connection, rows_from).await;
        self.ended(swept).await
    }
}

/// Deletes within the open transaction, and commits.
async fn sweep(connection: &mut SqliteConnection, rows_from: Slot) -> Result<SweptRows, sqlx::Error> {
    let limit = i64::try_from(SWEEP_ROWS_MAX).unwrap_or(i64::MAX);
    let lowest: Vec<(i64, i64)> = sqlx::query_as(LOWEST)
        .bind(integer(rows_from))
        .bind(limit + 1)
        .fetch_all(&mut *connection)
        .await?;
    let (rows, next) = batch(&lowest);
    if rows > 0 {
        let end = next.unwrap_or(integer(rows_from));
        let deleting = sqlx::query(DELETE_ROWS).bind(end);
        deleting.execute(&mut *connection).await?;
    }
    let marks = sqlx::query(DELETE_MARKS).bind(integer(rows_from)).bind(limit);
    let marks = marks.execute(&mut *connection).await?.rows_affected();
    sqlx::query("COMMIT").execute(connection).await?;
    Ok(SweptRows {
        rows,
        more: next.is_some() || marks >= limit.unsigned_abs(),
    })
}

/// Number of the first rows within the limits, and the slot of the row behind, if any. The first row always fits.
pub(super) fn batch(rows: &[(i64, i64)]) -> (usize, Option<i64>) {
    let mut bytes = 0u64;
    for (count, &(slot, size)) in rows.iter().enumerate() {
        bytes = bytes.saturating_add(size.unsigned_abs());
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
        let bytes = SWEEP_BYTES_MAX.cast_signed();
        assert_eq!(batch(&[]), (0, None));
        assert_eq!(batch(&rows(SWEEP_ROWS_MAX, 0)), (SWEEP_ROWS_MAX, None));
        assert_eq!(batch(&rows(SWEEP_ROWS_MAX + 1, 0)), (SWEEP_ROWS_MAX, Some(1_024)));
        assert_eq!(batch(&rows(3, bytes)), (1, Some(1)));
        assert_eq!(batch(&rows(3, i64::MAX)), (1, Some(1)));
        assert_eq!(batch(&rows(9, bytes / 4)), (4, Some(4)));
    }
}
