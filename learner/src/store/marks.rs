//! The stored digests at earlier slots, each with a checksum: a flipped bit must not look like a learner that differs.

use paxos_common::{
    paxos::{identity::ClusterId, machine::digest::StateDigest, slot::Slot},
    sqlite::checksum,
};
use sqlx::{
    Row as _, SqliteConnection,
    query::Query,
    sqlite::{Sqlite, SqliteArguments, SqliteRow},
};

use super::{StoreError, integer, slot};
use crate::progress::{LogDigest, MARKS_KEPT, Mark};

/// Inserts one mark, to be bound by [`bind`].
pub(super) const INSERT: &str = "INSERT INTO digest (applied_to, digest, state, checksum) VALUES ";
/// The values of a mark.
pub(super) const VALUES: &str = "(?, ?, ?, ?)";

/// Binds the values of a mark.
///
/// # Panics
/// If the digest of the state is unknown: marks are stored with the slots that reach the marks.
pub(super) fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    cluster: ClusterId,
    mark: &Mark,
) -> Query<'q, Sqlite, SqliteArguments> {
    let state = mark.state.expect("the digest after an applied slot is known");
    query
        .bind(integer(mark.to))
        .bind(mark.digest.as_bytes().to_vec())
        .bind(state.to_bytes().to_vec())
        .bind(checksum_of(
            cluster,
            mark.to,
            mark.digest.as_bytes(),
            &state.to_bytes(),
        ))
}

/// Writes a mark.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    mark: &Mark,
) -> Result<(), sqlx::Error> {
    let sql = sqlx::AssertSqlSafe(format!("{INSERT}{VALUES}"));
    bind(sqlx::query(sql), cluster, mark)
        .execute(connection)
        .await
        .map(drop)
}

/// The newest marks, the newest first.
///
/// # Errors
/// A mark is damaged.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<Vec<Mark>, StoreError> {
    let rows = sqlx::query(
        "SELECT applied_to, digest, state, checksum FROM digest ORDER BY applied_to DESC LIMIT ?",
    )
    .bind(i64::try_from(MARKS_KEPT).expect("a handful"))
    .fetch_all(connection)
    .await?;
    let damaged = || StoreError::Damaged {
        what: "a digest at an earlier slot",
        path: path.to_owned(),
    };
    let mark = |row: &SqliteRow| -> Result<Mark, StoreError> { read(cluster, row)?.ok_or_else(damaged) };
    rows.iter().map(mark).collect()
}

/// Reads a row of [`load`]; `None` when damaged.
fn read(cluster: ClusterId, row: &SqliteRow) -> Result<Option<Mark>, sqlx::Error> {
    let (to, digest, state): (i64, &[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let stored: i64 = row.try_get(3)?;
    let read = || {
        let to = slot(to)?;
        (checksum_of(cluster, to, digest, state) == stored).then_some(())?;
        Some(Mark {
            to,
            digest: LogDigest::from_slice(digest)?,
            state: Some(StateDigest::from_slice(state)?),
        })
    };
    Ok(read())
}

/// Writes the checksums of all marks, which a release without checksums has written.
pub(super) async fn seal(connection: &mut SqliteConnection, cluster: ClusterId) -> Result<(), sqlx::Error> {
    let rows = sqlx::query("SELECT applied_to, digest, state FROM digest")
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let (to, digest, state): (i64, &[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        // A slot out of range stays without a checksum, and is found as damage.
        let Some(slot) = slot(to) else { continue };
        sqlx::query("UPDATE digest SET checksum = ? WHERE applied_to = ?")
            .bind(checksum_of(cluster, slot, digest, state))
            .bind(to)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

fn checksum_of(cluster: ClusterId, to: Slot, digest: &[u8], state: &[u8]) -> i64 {
    checksum(&[cluster.as_bytes(), &to.get().to_be_bytes(), digest, state])
}

/// Adds the checksums to a file of schema version 5, in which marks had none.
pub(super) async fn add_checksums(
    transaction: &mut SqliteConnection,
    cluster: ClusterId,
) -> Result<(), sqlx::Error> {
    sqlx::query("ALTER TABLE digest ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
        .execute(&mut *transaction)
        .await?;
    seal(transaction, cluster).await
}
