//! Upgrades of files of older schema versions, in one transaction.
//!
//! Version 1 to 2: the state record gets the end of the votes and the sum of the open slots, each witness gets a
//! checksum, and surplus runs and witnesses are dropped. Data without a checksum in version 1 is taken without
//! verification.
//!
//! Version 2 to 3: a table of snapshot files. No file of version 2 is trimmed.
//!
//! Version 3 to 4: eras, all of them the first, and the oldest protocol version still served. Every record keeps its
//! checksum. No vote and no past promise is read: a damaged row must not hinder the upgrade.

use paxos_common::{
    paxos::identity::{CommitCounter, RunNumber},
    sqlite::{SchemaSteps, SqliteError},
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{Moment, StoreError},
    SCHEMA_VERSION,
    columns::{column, read_ballot, read_slot, read_uuid, text},
    identity::{Identity, load_identity},
    recovery::forget_surplus,
    snapshots,
    state::{StateRecord, sum_of},
};

/// The version without a sum of the open slots, and without the file `COMMITS`.
pub(super) const OLD_VERSION: i64 = 1;

/// The statements of version 1 to 2.
const TO_2: &str = "ALTER TABLE state ADD COLUMN voted_to INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE state ADD COLUMN open_slots INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE witness ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0;";

/// The statements of version 3 to 4 for the state record. They also make each connection read the schema again.
const TO_4: &str = "ALTER TABLE state ADD COLUMN promised_era INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE state ADD COLUMN least_version INTEGER NOT NULL DEFAULT 1;";

/// Adds the column of the era at the end of a table, as `ALTER TABLE` does, but in the text of the schema alone. In a
/// strict table, `ALTER TABLE` reads every row, and fails at a row with a value of a wrong type.
const ADD_ERA: &str = "UPDATE sqlite_schema
    SET sql = substr(sql, 1, length(sql) - length(') STRICT')) || ', era INTEGER NOT NULL DEFAULT 0) STRICT'
    WHERE type = 'table' AND name = ? AND sql LIKE '%) STRICT'";

/// The columns of a state record of version 1.
pub(super) const OLD_STATE: &str =
    "commit_counter, 0, promised_round, promised_proposer, leader_address, chosen_to, trimmed_to,
    checksum";

/// Reads the columns [`OLD_STATE`]; none when the record does not verify. The end of the votes is not included.
pub(super) fn read_old_state(identity: &Identity, row: &SqliteRow) -> Option<Moment> {
    let moment = Moment {
        commit_counter: CommitCounter::new(column::<i64>(row, 0)?.try_into().ok()?),
        promised: read_ballot(row, 1)?,
        leader_address: text(row, 4)?.into(),
        known_to: read_slot(row, 5)?,
        trimmed_to: read_slot(row, 6)?,
        voted_to: read_slot(row, 5)?,
        least_version: 1,
    };
    (identity.moment_checksum(&moment, &[]) == column::<i64>(row, 7)?).then_some(moment)
}

/// The upgrades of an acceptor's file.
pub(super) struct Upgrades;

impl SchemaSteps for Upgrades {
    type Error = StoreError;

    const OLDEST: i64 = OLD_VERSION;

    async fn upgrade(&self, transaction: &mut SqliteConnection, from: i64) -> Result<(), StoreError> {
        match from {
            OLD_VERSION => to_2(transaction).await,
            2 => run(transaction, snapshots::TABLE).await,
            3 => to_4(transaction).await,
            found => Err(SqliteError::Older {
                found,
                supported: i64::from(SCHEMA_VERSION),
            }
            .into()),
        }
    }
}

async fn run(transaction: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::raw_sql(sql).execute(transaction).await?;
    Ok(())
}

async fn to_4(transaction: &mut SqliteConnection) -> Result<(), StoreError> {
    run(transaction, "PRAGMA writable_schema = ON").await?;
    for table in ["vote", "promise"] {
        let query = sqlx::query(ADD_ERA).bind(table);
        if query.execute(&mut *transaction).await?.rows_affected() != 1 {
            return Err(StoreError::Damaged(table));
        }
    }
    // Also drops the schema in memory.
    run(transaction, "PRAGMA writable_schema = RESET").await?;
    run(transaction, TO_4).await
}

async fn to_2(transaction: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::raw_sql(TO_2).execute(&mut *transaction).await?;
    // Files of version 1 may hold any number of runs and witnesses.
    forget_surplus(transaction).await?;
    // Without an identity nothing was answered yet, and there are no rows.
    if let Some((uuid, _)) = load_identity(transaction).await? {
        let identity = Identity::new(uuid);
        upgrade_state(transaction, &identity).await?;
        upgrade_witnesses(transaction, &identity).await?;
    }
    Ok(())
}

async fn upgrade_state(connection: &mut SqliteConnection, identity: &Identity) -> Result<(), StoreError> {
    let sql = format!("SELECT {OLD_STATE} FROM state WHERE only = 0");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .fetch_optional(&mut *connection)
        .await?;
    let moment = row.and_then(|row| read_old_state(identity, &row));
    let mut moment = moment.ok_or(StoreError::Damaged("state"))?;
    let rows = sqlx::query("SELECT slot FROM vote WHERE slot >= ? ORDER BY slot")
        .bind(moment.known_to.get().cast_signed())
        .fetch_all(&mut *connection)
        .await?;
    let open: Option<Vec<_>> = rows.iter().map(|row| read_slot(row, 0)).collect();
    let open = open.ok_or(StoreError::Damaged("vote"))?;
    let end = open.last().map_or(moment.known_to, |slot| slot.next());
    moment.voted_to = end.max(moment.trimmed_to);
    let state = StateRecord {
        open_slots: sum_of(open),
        moment,
    };
    sqlx::query("UPDATE state SET voted_to = ?, open_slots = ?, checksum = ? WHERE only = 0")
        .bind(state.moment.voted_to.get().cast_signed())
        .bind(state.open_slots.cast_signed())
        .bind(identity.state_checksum(&state))
        .execute(connection)
        .await?;
    Ok(())
}

async fn upgrade_witnesses(connection: &mut SqliteConnection, identity: &Identity) -> Result<(), StoreError> {
    let rows = sqlx::query("SELECT acceptor, run, commit_counter FROM witness")
        .fetch_all(&mut *connection)
        .await?;
    for row in rows {
        let (run, counter): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let acceptor = read_uuid(&row, 0).ok_or(StoreError::Damaged("witness"))?;
        let sum = identity.witness_checksum(
            acceptor,
            RunNumber::from_random(run.cast_unsigned()),
            CommitCounter::new(counter.cast_unsigned()),
        );
        sqlx::query("UPDATE witness SET checksum = ? WHERE acceptor = ? AND run = ?")
            .bind(sum)
            .bind(acceptor.to_bytes().to_vec())
            .bind(run)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}
