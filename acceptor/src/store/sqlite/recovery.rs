//! Recovery: reads and verifies the file at start, and begins a run.
//!
//! Cases at start, and the outcome of each:
//!
//! | on disk | outcome |
//! | --- | --- |
//! | nothing, or a schema without an identity | a crash before the first answer: draw a uuid and begin |
//! | a commit without a sent answer | kept: the proposer does not know the outcome, and asks again |
//! | a WAL with a torn last commit | a crash in this commit: the commit was not answered, and is dropped |
//! | a WAL that ends before a later commit, or with a damaged header (`wal.rs`) | end with 74: answers may be lost |
//! | a WAL and a database that do not fit together (`proof.rs`) | end with 74 |
//! | a commit counter below `COMMITS` (`counter_file.rs`): commits, the WAL or the database are gone | end with 74 |
//! | `COMMITS` missing, without a sound record, or of another acceptor | end with 74 |
//! | a state, identity, membership, witness or snapshot record with a wrong checksum | end with 74 |
//! | a log of slots that does not begin at the end of the recorded bottom | end with 74 |
//! | a restored cluster without the record of its seed | end with 74 |
//! | a damaged list of runs | this disk holds no proof: the other acceptors remember, and refuse it |
//! | votes or runs without an identity or state | end with 74 |
//! | a vote missing at or above the watermark, or beyond the last vote | end with 74 |
//! | a file malformed for SQLite | end with 74 |
//! | a vote with a wrong checksum, or missing below the watermark | unknown, until accepted again |
//! | an unreadable trace context or past promise | left out: both are for people |
//! | a whole older copy of the directory | this disk holds no proof: the other acceptors remember, and refuse it |
//! | votes below the first slot of the log | not shown, and swept |
//! | a file of version 1, 2 or 3 | upgraded (`upgrade.rs`) |
//! | another acceptor's name, a newer schema, a later protocol, a directory in use | end with 78 |
//! | a database of another application, unchanged | end with 78; with 74 if `COMMITS` proves that ours was here |
//!
//! Before the run begins, the WAL is emptied into the database, so that no commit stands behind another process's
//! writes.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{
        acceptor::{HeldRow, Recovered},
        ballot::Ballot,
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        slot::Slot,
        witness::RUNS_MAX,
    },
    sqlite::checksum,
};
use sqlx::{AssertSqlSafe, Connection as _, Row as _, SqliteConnection};
use tracing::warn;

use super::{
    super::{Moment, RecoveredRun, StoreError},
    identity::{Identity, load_identity},
    membership::load_membership,
    snapshots::{check_seed, load_snapshots},
    state::{OpenSlots, STATE, StateRecord, sum_of},
    votes::{VOTE, into_held},
    witnesses::{forget_surplus_witnesses, load_witnesses},
};

/// Reads and verifies everything, and commits the new run in the same transaction. So the first commit of a process
/// also makes durable the commits found in the write-ahead log.
pub(super) async fn begin_run(
    connection: &mut SqliteConnection,
    name: &str,
    run: RunNumber,
) -> Result<(AcceptorUuid, RecoveredRun, OpenSlots), StoreError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let uuid = match load_identity(&mut transaction).await? {
        Some((uuid, found)) if found == name => uuid,
        Some((_, found)) => {
            return Err(StoreError::OtherAcceptor {
                found,
                asked: name.to_owned(),
            });
        }
        None => create_identity(&mut transaction, name).await?,
    };
    let identity = Identity::new(uuid);
    let mut state = load_state(&mut transaction, &identity).await?;
    let membership = load_membership(&mut transaction, &identity).await?;
    identity.learn(&membership);
    let snapshots = load_snapshots(&mut transaction, &identity, state.moment.trimmed_to).await?;
    check_seed(uuid, &membership, &snapshots, state.moment.trimmed_to)?;
    let rows = load_votes(&mut transaction, &identity, &state).await?;
    let open = OpenSlots::new(rows.keys().copied(), state.moment.voted_to);

    let sql = "UPDATE run SET ended = ? WHERE ended IS NULL; INSERT INTO run (number) VALUES (?);
        UPDATE state SET commit_counter = ?, checksum = ? WHERE only = 0";
    let ended = state.moment.commit_counter;
    let counter = ended.next();
    state.moment.commit_counter = counter;
    sqlx::query(sql)
        .bind(ended.get().cast_signed())
        .bind(run.get().cast_signed())
        .bind(counter.get().cast_signed())
        .bind(identity.state_checksum(&state))
        .execute(&mut *transaction)
        .await?;
    forget_surplus(&mut transaction).await?;
    let past_runs = load_past_runs(&mut transaction).await?;
    let witnesses = load_witnesses(&mut transaction, &identity).await?;
    transaction.commit().await?;
    let moment = state.moment;

    let recovered = Recovered {
        uuid,
        commit_counter: counter,
        membership,
        promised: moment.promised,
        leader_address: moment.leader_address,
        known_to: moment.known_to,
        trimmed_to: moment.trimmed_to,
        voted_to: moment.voted_to,
        least_version: moment.least_version,
        rows,
    };
    Ok((
        uuid,
        RecoveredRun {
            recovered,
            past_runs,
            witnesses,
            snapshots,
        },
        open,
    ))
}

async fn create_identity(connection: &mut SqliteConnection, name: &str) -> Result<AcceptorUuid, StoreError> {
    let sql =
        "SELECT (SELECT count(*) FROM state) + (SELECT count(*) FROM run) + (SELECT count(*) FROM membership)
        + (SELECT count(*) FROM snapshot) + (SELECT count(*) FROM (SELECT 1 FROM vote LIMIT 1))";
    let others: i64 = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
    if others != 0 {
        return Err(StoreError::Damaged("identity"));
    }
    let uuid = AcceptorUuid::from_u128(uuid::Uuid::new_v4().as_u128());
    let identity = Identity::new(uuid);
    let bytes = uuid.to_bytes();
    let blank = StateRecord {
        moment: Moment {
            commit_counter: CommitCounter::default(),
            promised: Ballot::ZERO,
            leader_address: "".into(),
            known_to: Slot::ZERO,
            trimmed_to: Slot::ZERO,
            voted_to: Slot::ZERO,
            least_version: 1,
        },
        open_slots: OpenSlots::default().sum(),
    };
    sqlx::query(
        "INSERT INTO identity (only, uuid, name, checksum) VALUES (0, ?, ?, ?);
        INSERT INTO state (only, commit_counter, promised_round, promised_proposer, leader_address, chosen_to, trimmed_to,
            voted_to, open_slots, checksum) VALUES (0, 0, 0, 0, '', 0, 0, 0, 0, ?)",
    )
    .bind(bytes.to_vec())
    .bind(name.to_owned())
    .bind(checksum(&[&bytes, name.as_bytes()]))
    .bind(identity.state_checksum(&blank))
    .execute(connection)
    .await?;
    Ok(uuid)
}

async fn load_state(
    connection: &mut SqliteConnection,
    identity: &Identity,
) -> Result<StateRecord, StoreError> {
    let sql = format!("SELECT {STATE} FROM state WHERE only = 0");
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_optional(connection)
        .await?
        .ok_or(StoreError::Damaged("state"))?;
    identity.read_state(&row)
}

/// The votes from the watermark on. The slots must match the state record: no vote is missing, none lies beyond the
/// last.
async fn load_votes(
    connection: &mut SqliteConnection,
    identity: &Identity,
    state: &StateRecord,
) -> Result<BTreeMap<Slot, HeldRow>, StoreError> {
    let from = state.moment.known_to;
    let sql = format!("SELECT {VOTE} FROM vote WHERE slot >= ?1 ORDER BY slot");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(from.get().cast_signed());
    let mut found = query.fetch(connection);
    let mut held = BTreeMap::new();
    while let Some(row) = found.try_next().await? {
        held.extend(identity.read_vote(&row, 0)?.map(into_held));
    }
    if sum_of(held.keys().copied()) != state.open_slots
        || held
            .keys()
            .next_back()
            .is_some_and(|&slot| slot >= state.moment.voted_to)
    {
        return Err(StoreError::Damaged("vote"));
    }
    let damaged = held.iter().filter(|(_, held)| **held == HeldRow::Unknown);
    let damaged: Vec<_> = damaged.map(|(slot, _)| slot.get()).collect();
    if let Some(first) = damaged.first() {
        warn!(
            rows = damaged.len(),
            first, "rows above the watermark are damaged: these rows count as unknown until accepted again"
        );
    }
    Ok(held)
}

/// Deletes runs and witnesses beyond the bounds of this release: files of earlier releases may hold any number of both.
pub(super) async fn forget_surplus(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let runs_max = i64::try_from(RUNS_MAX).unwrap_or(i64::MAX);
    // Without such a run, there is none to delete.
    let sql = "DELETE FROM run WHERE position <= (SELECT position FROM run ORDER BY position DESC LIMIT 1 OFFSET ?)";
    sqlx::query(sql).bind(runs_max).execute(&mut *connection).await?;
    sqlx::query(AssertSqlSafe(forget_surplus_witnesses()))
        .execute(connection)
        .await?;
    Ok(())
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
