//! Brings a file of schema version 2 to version 3: each session gets its opener, which version 2 did not store.
//!
//! The opener is in the learned value that holds the session's opening, which version 2 stored as it was chosen.

use paxos_common::paxos::{
    command::{Opener, Operation},
    identity::ClusterId,
    slot::Version,
    value::Value,
};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::{
    APPLICATION_ID, StoreError, integer, load,
    registers::{load_sessions, write_sessions},
    row_checksum,
};
use crate::history::read_commands;

/// The version that is read here.
const OLD_VERSION: i64 = 2;

/// Upgrades the file in one transaction, if it is of version 2.
///
/// # Errors
/// A session is damaged, or the write failed: the file is as it was.
pub(super) async fn run(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<(), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let row =
        sqlx::query("SELECT user_version, application_id FROM pragma_user_version, pragma_application_id")
            .fetch_one(&mut *transaction)
            .await?;
    let found: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    if found != (OLD_VERSION, i64::from(APPLICATION_ID)) {
        transaction.rollback().await?;
        return Ok(());
    }
    // Refuses a file of another cluster, before its checksums are held against this one.
    load(&mut transaction, cluster, path).await?;
    let mut changes = Vec::new();
    for (name, mut session) in load_sessions(&mut transaction, cluster, path).await? {
        session.opener = opener(&mut transaction, cluster, name).await?;
        changes.push((name, Some(session)));
    }
    write_sessions(&mut transaction, cluster, &changes).await?;
    sqlx::query("PRAGMA user_version = 3")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// The opener that the opening of this name states. A row that is gone or damaged binds its session to no opener, as
/// version 2 did.
async fn opener(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    name: Version,
) -> Result<Option<Opener>, StoreError> {
    let row = sqlx::query("SELECT value, traceparent, judgements, checksum FROM learned WHERE slot = ?")
        .bind(integer(name.slot))
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let bytes = |column| row.try_get(column).map(bytes::Bytes::copy_from_slice);
    let value = Value::from_stored(bytes(0)?, bytes(1)?);
    let checksum = row_checksum(cluster, name.slot, &value, row.try_get(2)?);
    if row.try_get::<i64, _>(3)? != checksum {
        return Ok(None);
    }
    let Ok(held) = read_commands(name.slot, &value) else {
        return Ok(None);
    };
    let opening = held.commands.get(usize::from(name.offset));
    Ok(match opening.map(|command| &command.operation) {
        Some(Operation::OpenSession { opener }) => *opener,
        _ => None,
    })
}
