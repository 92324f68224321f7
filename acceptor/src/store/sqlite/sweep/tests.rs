//! Sweeps of sound tables, and of tables with rows in wrong places.

use std::path::PathBuf;

use paxos_common::sqlite::open_writer;
use sqlx::{AssertSqlSafe, Connection as _};

use super::*;

/// Size of the values of large rows: three fit a sweep.
const LARGE: usize = 300 * 1024;

fn slots(slots: std::ops::Range<i64>, size: u64) -> Vec<(i64, u64)> {
    slots.map(|slot| (slot, size)).collect()
}

#[test]
fn batch_is_bounded_in_rows_and_bytes_and_takes_at_least_one_row() {
    let max = i64::try_from(SWEEP_ROWS_MAX).unwrap();
    let taken = |rows: &[(i64, u64)]| batch(rows).map(|batch| (batch.count, batch.slots, batch.next));
    assert_eq!(taken(&[]), None);
    assert_eq!(taken(&slots(0..max, 0)), Some((256, 0..max, None)));
    assert_eq!(taken(&slots(0..max + 1, 0)), Some((256, 0..max, Some(max))));
    assert_eq!(taken(&slots(5..8, SWEEP_BYTES_MAX)), Some((1, 5..6, Some(6))));
    assert_eq!(taken(&slots(5..8, u64::MAX)), Some((1, 5..6, Some(6))));
    assert_eq!(taken(&slots(0..9, SWEEP_BYTES_MAX / 4)), Some((4, 0..4, Some(4))));
}

#[test]
fn batch_ends_before_a_row_out_of_order() {
    let rows = [(5, 0), (7, 0), (7, 0), (2, 0)];
    let ends = |from: usize| batch(&rows[from..]).map(|batch| (batch.count, batch.slots, batch.next));
    assert_eq!(ends(0), Some((2, 5..8, Some(7))));
    assert_eq!(ends(2), Some((1, 7..8, Some(2))));
    let largest = batch(&[(i64::MAX, 0)]).unwrap();
    assert_eq!(largest.slots, i64::MAX..i64::MAX);
}

/// A table of votes with rows for the slots from 0 on. Each value begins with a mark of the slot.
struct Table {
    directory: tempfile::TempDir,
    rows: i64,
    value_bytes: usize,
}

impl Table {
    async fn with(rows: i64, value_bytes: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let table = Self {
            directory,
            rows,
            value_bytes,
        };
        let mut connection = table.open().await;
        let sql = format!(
            "CREATE TABLE vote (slot INTEGER PRIMARY KEY, value BLOB NOT NULL) STRICT;
            WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {rows} - 1)
                INSERT INTO vote SELECT i, CAST(printf('<row%06d>', i) || hex(zeroblob({value_bytes} / 2)) AS BLOB)
                FROM n;"
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
        table
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("acceptor.db")
    }

    async fn open(&self) -> SqliteConnection {
        open_writer(&self.file(), 700).await.unwrap()
    }

    /// Changes the slot of a row in the bytes of the file. Both slots are below 128: a slot is a byte.
    fn change_slot(&self, from: u8, to: u8) {
        let mut bytes = std::fs::read(self.file()).unwrap();
        let mark = format!("<row{from:06}>");
        let at = bytes
            .windows(mark.len())
            .position(|part| part == mark.as_bytes())
            .unwrap();
        // Before the value: slot, length of the types, type of the slot, type of the value in 1 or 3 bytes.
        let place = at - if self.value_bytes < LARGE { 4 } else { 6 };
        assert_eq!(bytes[place], from);
        bytes[place] = to;
        std::fs::write(self.file(), bytes).unwrap();
    }

    /// Sweeps until nothing is left to do; returns the number of sweeps, and the original slots of the rows left.
    async fn swept(&self, trimmed_to: u64) -> (usize, Vec<i64>) {
        let mut connection = self.open().await;
        let trimmed_to = Slot::new(trimmed_to).unwrap();
        let mut sweeps = 0;
        loop {
            let swept = sweep(&mut connection, trimmed_to, &self.file()).await.unwrap();
            sweeps += 1;
            assert!(
                sweeps <= usize::try_from(self.rows).unwrap(),
                "a sweep without progress"
            );
            assert!(swept.rows > 0 || swept.next.is_none(), "{swept:?}");
            if swept.next.is_none() {
                break;
            }
        }
        let sql =
            "SELECT CAST(CAST(substr(value, 5, 6) AS TEXT) AS INTEGER) FROM vote WHERE +slot IS NOT NULL";
        let left = sqlx::query_scalar(sql).fetch_all(&mut connection).await;
        connection.close().await.unwrap();
        (sweeps, left.unwrap())
    }
}

#[tokio::test]
async fn sound_table_is_swept_to_the_first_slot() {
    let table = Table::with(2_000, 16).await;
    assert_eq!(table.swept(1_500).await, (7, (1_500..2_000).collect()));
    let table = Table::with(20, LARGE).await;
    assert_eq!(table.swept(10).await, (4, (10..20).collect()));
}

#[tokio::test]
async fn row_in_a_wrong_place_neither_ends_nor_stops_the_sweep() {
    for (damaged, slot, rows, bytes) in [
        // With the slot of a vote above the first slot: the first row, and rows within a sweep.
        (0, 120, 2_000, 16),
        (40, 120, 2_000, 16),
        (79, 120, 2_000, 16),
        // Ahead of rows with lower slots: no row is below the end of the first sweep.
        (0, 60, 90, LARGE),
        (1, 60, 90, LARGE),
        // Behind rows with higher slots, and with the slot of another trimmed row.
        (40, 3, 2_000, 16),
        (40, 39, 2_000, 16),
    ] {
        let table = Table::with(rows, bytes).await;
        table.change_slot(damaged, slot);
        let (_, mut left) = table.swept(80).await;
        // The damaged row itself may stay if its slot is the slot of a vote: a deletion might hit the vote.
        left.retain(|&row| slot < 80 || row != i64::from(damaged));
        assert_eq!(left, (80..rows).collect::<Vec<_>>(), "slot {damaged} as {slot}");
    }
}
