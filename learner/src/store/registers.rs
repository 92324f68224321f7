//! The state machine on disk: a row for each register and each session.

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use paxos_common::{
    paxos::{
        identity::ClusterId,
        machine::{KeyedRegister, Machine, sessions::SessionState},
        slot::Version,
    },
    sqlite::checksum,
};
use sqlx::{AssertSqlSafe, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    StoreError, chunks, integer, push_tuples, slot,
    stored::{decode_session, encode_session},
};

/// Writes the changed registers, within the open transaction.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    changes: &[(Bytes, Option<KeyedRegister>)],
) -> Result<(), sqlx::Error> {
    let mut put = Vec::new();
    let mut removed = Vec::new();
    for (key, register) in changes {
        match register {
            Some(register) => put.push(register),
            None => removed.push(key),
        }
    }
    for registers in chunks(&put) {
        let mut sql = "INSERT INTO register (key, value, slot, command, checksum) VALUES ".to_owned();
        push_tuples(&mut sql, registers.len(), "(?, ?, ?, ?, ?)");
        sql.push_str(
            " ON CONFLICT (key) DO UPDATE
             SET value = excluded.value, slot = excluded.slot, command = excluded.command, checksum = excluded.checksum",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for register in registers {
            let (key, value, version) = (register.key(), register.value(), register.version());
            query = query
                .bind(key)
                .bind(value)
                .bind(integer(version.slot))
                .bind(i64::from(version.offset))
                .bind(register_checksum(cluster, key, value, version));
        }
        query.execute(&mut *connection).await?;
    }
    for keys in chunks(&removed) {
        let mut sql = "DELETE FROM register WHERE key IN (".to_owned();
        push_tuples(&mut sql, keys.len(), "?");
        sql.push(')');
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for key in keys {
            query = query.bind(&key[..]);
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Writes the changed sessions, within the open transaction.
pub(super) async fn write_sessions(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    changes: &[(Version, Option<SessionState>)],
) -> Result<(), sqlx::Error> {
    let mut open = Vec::new();
    let mut expired = Vec::new();
    for (name, session) in changes {
        match session {
            Some(session) => open.push((*name, encode_session(session))),
            None => expired.push(*name),
        }
    }
    for sessions in chunks(&open) {
        let mut sql = "INSERT INTO session (slot, command, content, checksum) VALUES ".to_owned();
        push_tuples(&mut sql, sessions.len(), "(?, ?, ?, ?)");
        sql.push_str(
            " ON CONFLICT (slot, command) DO UPDATE SET content = excluded.content, checksum = excluded.checksum",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (name, content) in sessions {
            query = query
                .bind(integer(name.slot))
                .bind(i64::from(name.offset))
                .bind(&content[..])
                .bind(session_checksum(cluster, *name, content));
        }
        query.execute(&mut *connection).await?;
    }
    for names in chunks(&expired) {
        let mut sql = "DELETE FROM session WHERE (slot, command) IN (VALUES ".to_owned();
        push_tuples(&mut sql, names.len(), "(?, ?)");
        sql.push(')');
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for name in names {
            query = query.bind(integer(name.slot)).bind(i64::from(name.offset));
        }
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// Reads all registers into the machine, row by row.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
    machine: &mut Machine,
) -> Result<(), StoreError> {
    let rows = sqlx::query("SELECT key, value, slot, command, checksum FROM register").fetch(connection);
    let read = |row: SqliteRow| {
        let Some(StoredRegister { key, value, version }) = read_register(cluster, &row)? else {
            return Ok(false);
        };
        Ok(machine.restore_register(key, value, version))
    };
    for_each(rows, read, "a register", path).await
}

/// Reads all sessions into the machine, row by row.
pub(super) async fn load_sessions(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
    machine: &mut Machine,
) -> Result<(), StoreError> {
    let rows = sqlx::query("SELECT slot, command, content, checksum FROM session").fetch(connection);
    let read = |row: SqliteRow| {
        let Some((name, session)) = read_session(cluster, &row)? else {
            return Ok(false);
        };
        Ok(machine.restore_session(name, session))
    };
    for_each(rows, read, "a session", path).await
}

/// The rows of all registers, by key.
pub(super) fn in_order(
    connection: &mut SqliteConnection,
) -> impl Stream<Item = Result<SqliteRow, sqlx::Error>> + Unpin + Send {
    sqlx::query("SELECT key, value, slot, command, checksum FROM register ORDER BY key").fetch(connection)
}

/// The rows of all sessions, by name.
pub(super) fn sessions_in_order(
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

/// Reads the columns of [`load`]; `None` when damaged.
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

/// Reads the columns of [`load_sessions`]; `None` when damaged.
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

/// Reads every row. A row that `read` finds unreadable is damage.
async fn for_each(
    rows: impl Stream<Item = Result<SqliteRow, sqlx::Error>>,
    mut read: impl FnMut(SqliteRow) -> Result<bool, sqlx::Error>,
    what: &'static str,
    path: &str,
) -> Result<(), StoreError> {
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        if !read(row)? {
            return Err(StoreError::Damaged {
                what,
                path: path.to_owned(),
            });
        }
    }
    Ok(())
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
