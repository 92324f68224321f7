//! The rows of files of schema version 4, in which the state machine was a row for each register and each session.

use futures::Stream;
use paxos_common::{
    paxos::{
        identity::ClusterId,
        machine::{digest::StateDigest, sessions::SessionState},
        slot::{Slot, Version},
    },
    sqlite::checksum,
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{slot, stored::decode_session};
use crate::progress::{LogDigest, Mark};

/// The version of these files.
pub(super) const VERSION: i64 = 4;

/// The state record of such a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct State4 {
    /// The end of the state, and the digests.
    pub(super) latest: Mark,
    pub(super) log_from: Slot,
}

/// The state record; `None` when damaged.
pub(super) async fn read_state(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
) -> Result<Option<State4>, sqlx::Error> {
    let row =
        sqlx::query("SELECT cluster_id, applied_to, log_from, digest, state_digest, checksum FROM state")
            .fetch_optional(connection)
            .await?;
    let Some(row) = row else {
        // Left by a process that ended right after making the file.
        let (latest, log_from) = (Mark::default(), Slot::ZERO);
        return Ok(Some(State4 { latest, log_from }));
    };
    let columns: [&[u8]; 3] = [row.try_get(0)?, row.try_get(3)?, row.try_get(4)?];
    let (applied_to, log_from) = (slot(row.try_get(1)?), slot(row.try_get(2)?));
    let stored: i64 = row.try_get(5)?;
    let [stored_cluster, digest, state] = columns;
    let read = || {
        let (to, log_from) = (applied_to?, log_from?);
        let (digest, state) = (LogDigest::from_slice(digest)?, StateDigest::from_slice(state)?);
        let found = checksum(&[
            stored_cluster,
            &to.get().to_be_bytes(),
            &log_from.get().to_be_bytes(),
            digest.as_bytes(),
            &state.to_bytes(),
        ]);
        let is_sound = found == stored && stored_cluster == cluster.as_bytes() && log_from <= to;
        let latest = Mark {
            to,
            digest,
            state: Some(state),
        };
        is_sound.then_some(State4 { latest, log_from })
    };
    Ok(read())
}

/// The rows of all registers, by key.
pub(super) fn registers(
    connection: &mut SqliteConnection,
) -> impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin + Send {
    sqlx::query("SELECT key, value, slot, command, checksum FROM register ORDER BY key").fetch(connection)
}

/// The rows of all sessions, by name.
pub(super) fn sessions(
    connection: &mut SqliteConnection,
) -> impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin + Send {
    sqlx::query("SELECT slot, command, content, checksum FROM session ORDER BY slot, command")
        .fetch(connection)
}

/// A row of a register.
pub(super) struct StoredRegister<'r> {
    pub(super) key: &'r [u8],
    pub(super) value: &'r [u8],
    pub(super) version: Version,
}

/// Reads a row of [`registers`]; `None` when damaged.
pub(super) fn read_register(
    cluster: ClusterId,
    row: &SqliteRow,
) -> Result<Option<StoredRegister<'_>>, sqlx::Error> {
    let (key, value): (&[u8], &[u8]) = (row.try_get(0)?, row.try_get(1)?);
    let version = version(row.try_get(2)?, row.try_get(3)?);
    let checksum: i64 = row.try_get(4)?;
    let sound = |version: &Version| checksum == register_checksum(cluster, key, value, *version);
    Ok(version
        .filter(sound)
        .map(|version| StoredRegister { key, value, version }))
}

/// Reads a row of [`sessions`]; `None` when damaged.
pub(super) fn read_session(
    cluster: ClusterId,
    row: &SqliteRow,
) -> Result<Option<(Version, SessionState)>, sqlx::Error> {
    let content: &[u8] = row.try_get(2)?;
    let name = version(row.try_get(0)?, row.try_get(1)?);
    let checksum: i64 = row.try_get(3)?;
    let sound = |name: &Version| checksum == session_checksum(cluster, *name, content);
    Ok(name
        .filter(sound)
        .and_then(|name| Some((name, decode_session(content)?))))
}

fn version(stored_slot: i64, stored_offset: i64) -> Option<Version> {
    Some(Version {
        slot: slot(stored_slot)?,
        offset: u16::try_from(stored_offset).ok()?,
    })
}

fn register_checksum(cluster: ClusterId, key: &[u8], value: &[u8], version: Version) -> i64 {
    let (slot, offset) = (version.slot.get().to_be_bytes(), version.offset.to_be_bytes());
    checksum(&[cluster.as_bytes(), key, value, &slot, &offset])
}

fn session_checksum(cluster: ClusterId, name: Version, content: &[u8]) -> i64 {
    let (slot, offset) = (name.slot.get().to_be_bytes(), name.offset.to_be_bytes());
    checksum(&[cluster.as_bytes(), &slot, &offset, content])
}
