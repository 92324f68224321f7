//! Brings a file of schema version 2 to version 3. Version 3 stores the opener of each session.
//!
//! The release of version 2 ignored openers. So a file is upgraded only when no session in the file was opened with an
//! opener, according to the learned values. If a session had an opener, or the learned value is damaged, that release
//! may have applied commands that other learners skip. The learner must then learn everything again. Learners are
//! updated before clients, so honest files have no such session.

use paxos_common::paxos::{command::Operation, identity::ClusterId, slot::Version, value::Value};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use super::{
    APPLICATION_ID, StoreError, integer, load,
    registers::{load_sessions, write_sessions},
    row_checksum,
};
use crate::record::read_commands;

/// The schema version before the upgrade.
const OLD_VERSION: i64 = 2;

/// Upgrades the file in one transaction, if it is of version 2.
///
/// # Errors
/// A session is damaged, or the write failed. The file is unchanged.
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
    // Refuses a file of another cluster, before the checksums are verified with the id of this cluster.
    load(&mut transaction, cluster, path).await?;
    let mut changes = Vec::new();
    for (name, session) in load_sessions(&mut transaction, cluster, path).await? {
        if !was_opened_by_nobody(&mut transaction, cluster, name).await? {
            return Err(StoreError::Damaged {
                what: "a session stored by an earlier release",
                path: path.to_owned(),
            });
        }
        changes.push((name, Some(session)));
    }
    write_sessions(&mut transaction, cluster, &changes).await?;
    sqlx::query("PRAGMA user_version = 3")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether the learned value that opened the session `name` is sound and states no opener.
async fn was_opened_by_nobody(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    name: Version,
) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT value, traceparent, judgements, checksum FROM learned WHERE slot = ?")
        .bind(integer(name.slot))
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(false) };
    let bytes = |column| row.try_get(column).map(bytes::Bytes::copy_from_slice);
    let value = Value::from_stored(bytes(0)?, bytes(1)?);
    let checksum = row_checksum(cluster, name.slot, &value, row.try_get(2)?);
    if row.try_get::<i64, _>(3)? != checksum {
        return Ok(false);
    }
    let Ok(held) = read_commands(name.slot, &value) else {
        return Ok(false);
    };
    let opening = held.commands.get(usize::from(name.offset));
    Ok(matches!(
        opening.map(|command| &command.operation),
        Some(Operation::OpenSession { opener: None })
    ))
}
