//! The state record on disk: the progress of the learner, and the first slot of the learned log.

use paxos_common::{
    paxos::{identity::ClusterId, machine::digest::StateDigest, slot::Slot},
    sqlite::checksum,
};
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Log, LogReadError, StoreError, integer, slot};
use crate::progress::{LogDigest, MARK_SLOTS, MARKS_KEPT, Mark, Progress};

/// The state record, without its checksum.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredState {
    pub(super) cluster: ClusterId,
    pub(super) applied_to: Slot,
    pub(super) log_from: Slot,
    pub(super) digest: LogDigest,
    pub(super) state: StateDigest,
}

impl StoredState {
    pub(super) fn checksum(&self) -> i64 {
        checksum(&[
            self.cluster.as_bytes(),
            &self.applied_to.get().to_be_bytes(),
            &self.log_from.get().to_be_bytes(),
            self.digest.as_bytes(),
            &self.state.to_bytes(),
        ])
    }

    /// The state record of a new file, whose log begins at `mark`.
    fn at(cluster: ClusterId, mark: Mark, state: StateDigest) -> Self {
        Self {
            cluster,
            applied_to: mark.to,
            log_from: mark.to,
            digest: mark.digest,
            state,
        }
    }

    /// Writes the first slot of the learned log within the open transaction, and commits.
    pub(super) async fn raise_log_from(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        sqlx::query("UPDATE state SET log_from = ?, checksum = ?; COMMIT")
            .bind(integer(self.log_from))
            .bind(self.checksum())
            .execute(connection)
            .await
            .map(drop)
    }

    /// Reads the columns of [`load`]; `None` when damaged.
    fn read(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let (cluster, digest, state) = (row.try_get(0)?, row.try_get(3)?, row.try_get(4)?);
        let (applied_to, log_from) = (slot(row.try_get(1)?), slot(row.try_get(2)?));
        let checksum: i64 = row.try_get(5)?;
        let read = || {
            Some(Self {
                cluster: ClusterId::from_slice(cluster)?,
                applied_to: applied_to?,
                log_from: log_from?,
                digest: LogDigest::from_slice(digest)?,
                state: StateDigest::from_slice(state)?,
            })
        };
        Ok(read().filter(|read| read.checksum() == checksum && read.log_from <= read.applied_to))
    }
}

/// Refuses a file of an older release that belongs to another cluster. The column is the same in every version.
pub(super) async fn check_cluster(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<(), StoreError> {
    let row = sqlx::query("SELECT cluster_id FROM state")
        .fetch_optional(connection)
        .await?;
    let stored = match &row {
        Some(row) => ClusterId::from_slice(row.try_get(0)?),
        None => None,
    };
    match stored.filter(|stored| *stored != cluster) {
        Some(stored) => Err(StoreError::OtherCluster {
            path: path.to_owned(),
            stored: stored.to_string(),
            found: cluster,
        }),
        None => Ok(()),
    }
}

/// The stored progress, and the state record.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<(Progress, StoredState), StoreError> {
    let damaged = || StoreError::Damaged {
        what: "the state record",
        path: path.to_owned(),
    };
    let Some(row) = fetch(&mut *connection).await? else {
        // A new file, or a file left by a process that ended right after making it.
        let state = StoredState::at(cluster, Mark::default(), StateDigest::default());
        write_first(connection, &state).await?;
        return Ok((Progress::default(), state));
    };
    let stored = StoredState::read(&row)?.ok_or_else(damaged)?;
    if stored.cluster != cluster {
        return Err(StoreError::OtherCluster {
            path: path.to_owned(),
            stored: stored.cluster.to_string(),
            found: cluster,
        });
    }
    let marks = sqlx::query("SELECT applied_to, digest, state FROM digest ORDER BY applied_to DESC LIMIT ?")
        .bind(i64::try_from(MARKS_KEPT).expect("a handful"))
        .fetch_all(connection)
        .await?;
    let mark = |row: &SqliteRow| -> Result<Mark, StoreError> {
        Ok(Mark {
            to: slot(row.try_get(0)?).ok_or_else(damaged)?,
            digest: LogDigest::from_slice(row.try_get(1)?).ok_or_else(damaged)?,
            state: Some(StateDigest::from_slice(row.try_get(2)?).ok_or_else(damaged)?),
        })
    };
    let marks = marks.iter().map(mark).collect::<Result<_, _>>()?;
    let latest = Mark {
        to: stored.applied_to,
        digest: stored.digest,
        state: Some(stored.state),
    };
    Ok((Progress::recovered(latest, marks), stored))
}

/// The state record of this cluster; `None` when missing or damaged.
pub(super) async fn read_stored(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
) -> Result<Option<StoredState>, sqlx::Error> {
    let Some(row) = fetch(connection).await? else {
        return Ok(None);
    };
    Ok(StoredState::read(&row)?.filter(|stored| stored.cluster == cluster))
}

async fn fetch(connection: &mut SqliteConnection) -> Result<Option<SqliteRow>, sqlx::Error> {
    sqlx::query("SELECT cluster_id, applied_to, log_from, digest, state_digest, checksum FROM state")
        .fetch_optional(connection)
        .await
}

/// Writes the state record of a new file with the state at `mark`, and the mark if marks of this slot are kept.
pub(super) async fn begin_at(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    mark: Mark,
    state: StateDigest,
) -> Result<(), sqlx::Error> {
    write_first(connection, &StoredState::at(cluster, mark, state)).await?;
    if !mark.to.get().is_multiple_of(MARK_SLOTS) {
        return Ok(());
    }
    sqlx::query("INSERT INTO digest (applied_to, digest, state) VALUES (?, ?, ?)")
        .bind(integer(mark.to))
        .bind(&mark.digest.as_bytes()[..])
        .bind(state.to_bytes().to_vec())
        .execute(connection)
        .await
        .map(drop)
}

/// Writes the state record of a new file.
async fn write_first(connection: &mut SqliteConnection, state: &StoredState) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO state (one, cluster_id, applied_to, log_from, digest, state_digest, checksum)
         VALUES (1, ?, ?, ?, ?, ?, ?)",
    )
    .bind(&state.cluster.as_bytes()[..])
    .bind(integer(state.applied_to))
    .bind(integer(state.log_from))
    .bind(&state.digest.as_bytes()[..])
    .bind(state.state.to_bytes().to_vec())
    .bind(state.checksum())
    .execute(connection)
    .await
    .map(drop)
}

/// Restores the marks that are not stored, from the slots after the second newest stored mark, as far as these slots are
/// kept. Checks the stored digest against the slots.
pub(super) async fn with_fine_marks(
    progress: Progress,
    log: &Log,
    path: &str,
) -> Result<Progress, StoreError> {
    let Some(mut replayed) = progress.at_earlier_mark(log.from()) else {
        // The slots up to the newest mark are gone: few slots are left, and the next marks come soon.
        return Ok(progress);
    };
    while replayed.applied_to() < progress.applied_to() {
        let page = match log.page(replayed.applied_to(), progress.applied_to()).await {
            Ok(page) => page,
            Err(LogReadError::Sqlite { source, .. }) => return Err(source.into()),
            Err(error @ (LogReadError::Damaged { .. } | LogReadError::Trimmed | LogReadError::Replaced)) => {
                // The state is sound. Until the next start, only readers of this very slot notice the damage.
                tracing::warn!(
                    %error, file = path,
                    "this learner can be compared with other learners at few slots only"
                );
                return Ok(progress);
            }
        };
        for record in page {
            let state = progress.state_at(record.slot.next());
            replayed.pass(record.slot, &record.value, state);
        }
    }
    if replayed.latest() != progress.latest() {
        return Err(StoreError::Damaged {
            what: "the digest of the log",
            path: path.to_owned(),
        });
    }
    Ok(replayed)
}
