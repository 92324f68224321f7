//! The records of the witnesses: remembered runs of the other acceptors.

use futures::TryStreamExt as _;
use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, CommitCounter, RunNumber},
        witness::{WITNESSED_RUNS_MAX, Witnesses},
    },
    sqlite::checksum,
};
use sqlx::SqliteConnection;

use super::{
    super::StoreError,
    columns::{column, read_uuid},
    identity::Identity,
};

impl Identity {
    /// Encodes all witnesses as a single parameter, so that the text is the same for any number of witnesses.
    pub(super) fn witnesses_json(&self, witnesses: &Witnesses) -> String {
        let witness = |(acceptor, run, counter): (AcceptorUuid, RunNumber, CommitCounter)| {
            let sum = self.witness_checksum(acceptor, run, counter);
            let acceptor = u128::from_be_bytes(acceptor.to_bytes());
            format!("[\"{acceptor:032x}\",{},{},{sum}]", run.get(), counter.get())
        };
        let list: Vec<_> = witnesses.iter().map(witness).collect();
        format!("[{}]", list.join(","))
    }

    pub(super) fn witness_checksum(
        &self,
        acceptor: AcceptorUuid,
        run: RunNumber,
        counter: CommitCounter,
    ) -> i64 {
        checksum(&[
            &self.uuid.to_bytes(),
            &acceptor.to_bytes(),
            &run.get().to_le_bytes(),
            &counter.get().to_le_bytes(),
        ])
    }
}

/// Part of a transaction: keeps, for each acceptor, the runs with the highest counters.
pub(super) fn forget_surplus_witnesses() -> String {
    format!(
        "DELETE FROM witness WHERE (acceptor, run) IN (SELECT acceptor, run FROM (SELECT acceptor, run, row_number() OVER
            (PARTITION BY acceptor ORDER BY commit_counter DESC, run DESC) AS place FROM witness)
            WHERE place > {WITNESSED_RUNS_MAX});"
    )
}

/// Reads and verifies all witnesses.
pub(super) async fn load_witnesses(
    connection: &mut SqliteConnection,
    identity: &Identity,
) -> Result<Witnesses, StoreError> {
    let mut witnesses = Witnesses::default();
    let mut rows =
        sqlx::query("SELECT acceptor, run, commit_counter, checksum FROM witness").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let read = || {
            let acceptor = read_uuid(&row, 0)?;
            let run = RunNumber::from_random(column::<i64>(&row, 1)?.cast_unsigned());
            let counter = CommitCounter::new(column::<i64>(&row, 2)?.cast_unsigned());
            let sum = identity.witness_checksum(acceptor, run, counter);
            (sum == column::<i64>(&row, 3)?).then_some((acceptor, run, counter))
        };
        let (acceptor, run, counter) = read().ok_or(StoreError::Damaged("witness"))?;
        witnesses.hear(acceptor, run, counter);
    }
    Ok(witnesses)
}
