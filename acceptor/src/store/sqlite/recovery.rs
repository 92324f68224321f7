//! Recovery: reads the file at start, verifies it, and begins a run.
//!
//! What is found at start, and what becomes of it:
//!
//! | on disk | then |
//! | --- | --- |
//! | nothing, or a schema without an identity | a crash before the first answer: draw a uuid and begin |
//! | a commit whose answer never left | kept: whoever asked does not know, and asks again |
//! | a state, identity or membership record that fails its checksum | end with 74: promises may be lost |
//! | votes or runs without an identity or state | the same |
//! | a vote that fails its checksum, or is missing below the watermark | unknown, until it is accepted again |
//! | another acceptor's name, a newer schema, a directory in use | end with 78 |

use std::{collections::BTreeMap, sync::Arc};

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{
        acceptor::{Held, Membership, Recovered},
        ballot::Ballot,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        slot::Slot,
        witness::{RUNS_MAX, Witnesses},
    },
    sqlite::checksum,
};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tracing::warn;

use super::{
    super::{Moment, Opened, StoreError},
    Identity, VOTE, forget_surplus_witnesses, into_held, read_moment,
};

/// Reads everything, verifies it, and commits the new run in the same transaction: the first commit of a process also
/// makes durable what recovery found in the write-ahead log.
pub(super) async fn begin_run(
    connection: &mut SqliteConnection,
    name: &str,
    run: RunNumber,
) -> Result<(AcceptorUuid, Opened), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let uuid = match load_identity(&mut transaction, name).await? {
        Some(uuid) => uuid,
        None => create_identity(&mut transaction, name).await?,
    };
    let identity = Identity {
        uuid,
        cluster: Arc::default(),
    };
    let (moment, ended) = load_state(&mut transaction, &identity).await?;
    let membership = load_membership(&mut transaction, &identity).await?;
    identity.learn(&membership);
    let rows = load_votes(&mut transaction, &identity, moment.chosen_to).await?;

    let sql = "UPDATE run SET ended = ? WHERE ended IS NULL; INSERT INTO run (number) VALUES (?);
        UPDATE state SET commit_counter = ?, checksum = ? WHERE only = 0";
    let counter = ended.next();
    sqlx::query(sql)
        .bind(ended.get().cast_signed())
        .bind(run.get().cast_signed())
        .bind(counter.get().cast_signed())
        .bind(identity.state_checksum(counter, moment.promised, &moment.leader_address, moment.chosen_to))
        .execute(&mut *transaction)
        .await?;
    forget_surplus(&mut transaction).await?;
    let past_runs = load_past_runs(&mut transaction).await?;
    let witnesses = load_witnesses(&mut transaction).await?;
    transaction.commit().await?;

    let recovered = Recovered {
        uuid,
        commit_counter: counter,
        membership,
        promised: moment.promised,
        leader_address: moment.leader_address,
        chosen_to: moment.chosen_to,
        trimmed_to: moment.trimmed_to,
        voted_to: moment.voted_to,
        rows,
    };
    Ok((
        uuid,
        Opened {
            recovered,
            past_runs,
            witnesses,
        },
    ))
}

async fn load_identity(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<AcceptorUuid>, StoreError> {
    let row = sqlx::query("SELECT uuid, name, checksum FROM identity")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (bytes, found, sum): (Vec<u8>, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if checksum(&[&bytes, found.as_bytes()]) != sum {
        return Err(StoreError::Damaged("identity"));
    }
    if found != name {
        return Err(StoreError::OtherAcceptor {
            found,
            asked: name.to_owned(),
        });
    }
    AcceptorUuid::from_slice(&bytes)
        .map(Some)
        .ok_or(StoreError::Damaged("identity"))
}

async fn create_identity(connection: &mut SqliteConnection, name: &str) -> Result<AcceptorUuid, StoreError> {
    let sql =
        "SELECT (SELECT count(*) FROM state) + (SELECT count(*) FROM run) + (SELECT count(*) FROM membership)
        + (SELECT count(*) FROM (SELECT 1 FROM vote LIMIT 1))";
    let others: i64 = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
    if others != 0 {
        return Err(StoreError::Damaged("identity"));
    }
    let uuid = AcceptorUuid::from_u128(uuid::Uuid::new_v4().as_u128());
    let identity = Identity {
        uuid,
        cluster: Arc::default(),
    };
    let bytes = uuid.to_bytes();
    sqlx::query(
        "INSERT INTO identity (only, uuid, name, checksum) VALUES (0, ?, ?, ?);
        INSERT INTO state VALUES (0, 0, 0, 0, '', 0, 0, ?)",
    )
    .bind(bytes.to_vec())
    .bind(name.to_owned())
    .bind(checksum(&[&bytes, name.as_bytes()]))
    .bind(identity.state_checksum(CommitCounter::default(), Ballot::ZERO, "", Slot::ZERO))
    .execute(connection)
    .await?;
    Ok(uuid)
}

async fn load_state(
    connection: &mut SqliteConnection,
    identity: &Identity,
) -> Result<(Moment, CommitCounter), StoreError> {
    let sql =
        "SELECT commit_counter, promised_round, promised_proposer, leader_address, chosen_to, trimmed_to,
        (SELECT max(slot) FROM vote), checksum FROM state";
    let row = sqlx::query(sql)
        .fetch_optional(connection)
        .await?
        .ok_or(StoreError::Damaged("state"))?;
    let moment = read_moment(&row)?;
    let counter = moment.commit_counter;
    let sum = identity.state_checksum(counter, moment.promised, &moment.leader_address, moment.chosen_to);
    if sum != row.try_get::<i64, _>(7)? || moment.trimmed_to != Slot::ZERO {
        return Err(StoreError::Damaged("state"));
    }
    Ok((moment, counter))
}

pub(super) async fn load_membership(
    connection: &mut SqliteConnection,
    identity: &Identity,
) -> Result<Membership, StoreError> {
    let row = sqlx::query("SELECT formed, configuration, checksum FROM membership")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(Membership::Blank);
    };
    let (formed, encoded, sum): (i64, Vec<u8>, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let damaged = || StoreError::Damaged("membership");
    if identity.membership_checksum(formed, &encoded) != sum {
        return Err(damaged());
    }
    let configuration = pb::Configuration::decode(&encoded[..]).map_err(|_| damaged())?;
    let configuration = configuration.try_into().map_err(|_| damaged())?;
    Ok(if formed == 1 {
        Membership::Formed(configuration)
    } else {
        Membership::Forming(configuration)
    })
}

async fn load_votes(
    connection: &mut SqliteConnection,
    identity: &Identity,
    from: Slot,
) -> Result<BTreeMap<Slot, Held>, StoreError> {
    let sql = format!("SELECT {VOTE} FROM vote WHERE slot >= ?1 ORDER BY slot");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(from.get().cast_signed());
    let mut found = query.fetch(connection);
    let mut held = BTreeMap::new();
    while let Some(row) = found.try_next().await? {
        held.extend(identity.read_vote(&row, 0)?.map(into_held));
    }
    let damaged = held.iter().filter(|(_, held)| **held == Held::Unknown);
    let damaged: Vec<_> = damaged.map(|(slot, _)| slot.get()).collect();
    if let Some(first) = damaged.first() {
        warn!(
            rows = damaged.len(),
            first,
            "rows above the watermark are damaged: they count as unknown until they are accepted again"
        );
    }
    Ok(held)
}

/// Deletes what is beyond the bounds of this release: files of earlier ones may hold any number of runs and witnesses.
async fn forget_surplus(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let runs_max = i64::try_from(RUNS_MAX).unwrap_or(i64::MAX);
    // Where there is no such run, there is none to delete.
    let sql = "DELETE FROM run WHERE position <= (SELECT position FROM run ORDER BY position DESC LIMIT 1 OFFSET ?)";
    sqlx::query(sql).bind(runs_max).execute(&mut *connection).await?;
    sqlx::query(AssertSqlSafe(forget_surplus_witnesses()))
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn load_witnesses(connection: &mut SqliteConnection) -> Result<Witnesses, StoreError> {
    let mut witnesses = Witnesses::default();
    let mut rows = sqlx::query("SELECT acceptor, run, commit_counter FROM witness").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let (acceptor, run, counter): (Vec<u8>, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let acceptor = AcceptorUuid::from_slice(&acceptor).ok_or(StoreError::Damaged("witness"))?;
        let run = RunNumber::from_random(run.cast_unsigned());
        witnesses.hear(acceptor, run, CommitCounter::new(counter.cast_unsigned()));
    }
    Ok(witnesses)
}

async fn load_past_runs(
    connection: &mut SqliteConnection,
) -> Result<Vec<(RunNumber, CommitCounter)>, StoreError> {
    let sql = "SELECT number, ended FROM run WHERE ended IS NOT NULL ORDER BY position";
    let rows = sqlx::query(sql).fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let (number, ended): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            Ok((
                RunNumber::from_random(number.unsigned_abs()),
                CommitCounter::new(ended.unsigned_abs()),
            ))
        })
        .collect()
}
