//! Locks of other processes on a SQLite file: how to recognise and how to report them.
//!
//! A write that meets such a lock has written nothing, so the writer may wait and try again. Usual cause: a person
//! opens the file with another program.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sqlx::SqliteConnection;

use super::SqliteError;

/// Interval between log lines about a lasting lock.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// Whether a statement failed because another process holds a lock on the file (`SQLITE_BUSY`).
pub fn is_locked(error: &sqlx::Error) -> bool {
    /// SQLite's code for a locked file; extended codes contain this code in the low byte.
    const BUSY: u32 = 5;
    let database = error.as_database_error();
    let code = database.and_then(|error| error.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == BUSY)
}

/// Whether a transaction failed before its first write, because another process holds a lock: a batch of statements at
/// `BEGIN IMMEDIATE`, or a single statement that is a transaction of its own. SQLite rolls such a statement back. So
/// nothing was written, and the transaction may be executed again.
///
/// # Cancel safety
/// Not safe: the state of the connection is unknown afterwards.
pub async fn failed_before_the_transaction(connection: &mut SqliteConnection, error: &sqlx::Error) -> bool {
    if !is_locked(error) {
        return false;
    }
    // A rollback succeeds only inside a transaction.
    match sqlx::query("ROLLBACK").execute(connection).await {
        Ok(_) => false,
        Err(error) => error.to_string().contains("no transaction is active"),
    }
}

/// Waits until no other process holds the write lock of `file`.
///
/// # Errors
/// The file cannot be used for another reason.
///
/// # Cancel safety
/// Not safe: the connection may be inside an empty transaction afterwards, and must be closed.
pub(super) async fn wait_until_free(
    connection: &mut SqliteConnection,
    file: &Path,
) -> Result<(), SqliteError> {
    let mut report = LockReport::new(file);
    loop {
        match sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await {
            Ok(_) => break,
            // The busy timeout has passed before, so this loop does not spin.
            Err(error) if is_locked(&error) => report.held(),
            Err(error) => return Err(error.into()),
        }
    }
    sqlx::query("ROLLBACK").execute(connection).await?;
    report.free();
    Ok(())
}

/// Logs a lock of another process: at once, at intervals while the lock stays, and when the lock is gone.
#[derive(Debug)]
pub struct LockReport {
    file: PathBuf,
    held_since: Option<Instant>,
    reported_at: Option<Instant>,
}

impl LockReport {
    /// A report about `file`, assumed to be free at first.
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            held_since: None,
            reported_at: None,
        }
    }

    /// A write found the lock.
    pub fn held(&mut self) {
        let now = Instant::now();
        let since = *self.held_since.get_or_insert(now);
        let is_due = self
            .reported_at
            .is_none_or(|reported| now.duration_since(reported) >= REPORT_INTERVAL);
        if is_due {
            self.reported_at = Some(now);
            tracing::error!(
                file = %self.file.display(), waited_s = now.duration_since(since).as_secs(),
                "another process holds a lock on this file: nothing is written until the lock is free. Find the other \
                 process (with `fuser FILE`) and end it; this process then continues by itself"
            );
        }
    }

    /// A write found no lock.
    pub fn free(&mut self) {
        if let Some(since) = self.held_since.take() {
            self.reported_at = None;
            tracing::info!(
                file = %self.file.display(), waited_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                "the lock of another process on this file is free again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::*, *};

    async fn two_writers(directory: &tempfile::TempDir) -> (SqliteConnection, SqliteConnection) {
        let file = directory.path().join("test.db");
        let mut first = open_writer(&file, 700).await.unwrap();
        migrate(&mut first, "CREATE TABLE one (id INTEGER PRIMARY KEY)", 1, 7)
            .await
            .unwrap();
        (first, open_writer(&file, 700).await.unwrap())
    }

    #[tokio::test]
    async fn statements_that_met_a_foreign_lock_may_be_executed_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut holder, mut writer) = two_writers(&directory).await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut holder).await.unwrap();
        let text = "BEGIN IMMEDIATE; INSERT INTO one VALUES (1); COMMIT";
        let error = sqlx::query(text).execute(&mut writer).await.unwrap_err();
        assert!(is_locked(&error), "{error}");
        assert!(failed_before_the_transaction(&mut writer, &error).await);
        sqlx::query("ROLLBACK").execute(&mut holder).await.unwrap();
        sqlx::query(text).execute(&mut writer).await.unwrap();
    }

    #[tokio::test]
    async fn failure_inside_a_transaction_is_no_foreign_lock() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut writer) = two_writers(&directory).await;
        let text = "BEGIN IMMEDIATE; INSERT INTO one VALUES (1); INSERT INTO one VALUES (1); COMMIT";
        let error = sqlx::query(text).execute(&mut writer).await.unwrap_err();
        assert!(!failed_before_the_transaction(&mut writer, &error).await);
    }
}
