//! The state record on disk: the progress of the learner, the first slot of the learned log, the snapshot file, and the
//! configuration of the cluster.

use std::sync::Arc;

use paxos_common::{
    paxos::{identity::ClusterId, machine::digest::StateDigest, quorum::Configuration, slot::Slot},
    sqlite::checksum,
};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{StoreError, integer, marks, slot};
use crate::{
    progress::{LogDigest, MARK_SLOTS, Mark},
    snapshot_file::RecordedSnapshot,
};

/// The state record, without its checksum.
#[derive(Clone, Debug)]
pub(super) struct StoredState {
    pub(super) cluster: ClusterId,
    pub(super) applied_to: Slot,
    pub(super) log_from: Slot,
    pub(super) digest: LogDigest,
    pub(super) state: StateDigest,
    /// The file with the state after every slot below its end; `None`: the empty state before slot 0.
    pub(super) snapshot: Option<RecordedSnapshot>,
    /// The latest configuration that this learner has worked with; `None`: that of the first era, in a file of an older
    /// release.
    pub(super) configuration: Option<Arc<Configuration>>,
}

/// The later configuration; `present`, if both are of the same era.
pub(super) fn later(present: &Arc<Configuration>, other: &Arc<Configuration>) -> Arc<Configuration> {
    let is_later = other.era() > present.era();
    Arc::clone(if is_later { other } else { present })
}

impl StoredState {
    pub(super) fn checksum(&self) -> i64 {
        let (to, sha256, bytes) = self.snapshot_columns();
        let (applied_to, log_from) = (
            self.applied_to.get().to_be_bytes(),
            self.log_from.get().to_be_bytes(),
        );
        let (state, to, bytes) = (self.state.to_bytes(), to.to_be_bytes(), bytes.to_be_bytes());
        let configuration = self.configuration_column();
        let all: [&[u8]; 9] = [
            self.cluster.as_bytes(),
            &applied_to,
            &log_from,
            self.digest.as_bytes(),
            &state,
            &to,
            sha256,
            &bytes,
            &configuration,
        ];
        let parts = if configuration.is_empty() {
            &all[..8]
        } else {
            &all[..]
        };
        checksum(parts)
    }

    /// The encoding of the configuration; empty without a configuration.
    pub(super) fn configuration_column(&self) -> Vec<u8> {
        let encoded =
            |configuration: &Arc<Configuration>| pb::Configuration::from(&**configuration).encode_to_vec();
        self.configuration.as_ref().map(encoded).unwrap_or_default()
    }

    /// The configuration after a transaction at a learner with the configuration `present`. The configuration never goes back.
    pub(super) fn configuration_after(&self, present: &Arc<Configuration>) -> Arc<Configuration> {
        let stored = self.configuration.as_ref();
        stored.map_or_else(|| Arc::clone(present), |stored| later(stored, present))
    }

    /// Whether the file lacks this configuration.
    pub(super) fn lacks(&self, configuration: &Configuration) -> bool {
        self.configuration.as_ref().map(|stored| stored.era()) < Some(configuration.era())
    }

    fn snapshot_columns(&self) -> (i64, &[u8], i64) {
        match &self.snapshot {
            Some(snapshot) => (
                integer(snapshot.to),
                &snapshot.sha256[..],
                snapshot.bytes.cast_signed(),
            ),
            None => (0, &[][..], 0),
        }
    }

    /// The state record of a new file: the log begins at `mark`, after this snapshot.
    pub(super) fn at(
        cluster: ClusterId,
        mark: Mark,
        snapshot: Option<RecordedSnapshot>,
        configuration: Arc<Configuration>,
    ) -> Self {
        Self {
            configuration: Some(configuration),
            cluster,
            applied_to: mark.to,
            log_from: mark.to,
            digest: mark.digest,
            state: mark.state.unwrap_or_default(),
            snapshot,
        }
    }

    /// The digests of log and state.
    pub(super) fn latest(&self) -> Mark {
        Mark {
            to: self.applied_to,
            digest: self.digest,
            state: Some(self.state),
        }
    }

    /// The first slot that the next start needs.
    pub(super) fn replayed_from(&self) -> Slot {
        self.snapshot.as_ref().map_or(Slot::ZERO, |snapshot| snapshot.to)
    }

    /// The first slot on disk, at most: the rows of lower slots are of no use.
    pub(super) fn rows_from(&self) -> Slot {
        self.replayed_from().min(self.log_from)
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

    /// Writes the snapshot file within the open transaction, and commits.
    pub(super) async fn record_snapshot(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let (to, sha256, bytes) = self.snapshot_columns();
        sqlx::query(
            "UPDATE state SET snapshot_to = ?, snapshot_sha256 = ?, snapshot_bytes = ?, checksum = ?; COMMIT",
        )
        .bind(to)
        .bind(sha256)
        .bind(bytes)
        .bind(self.checksum())
        .execute(connection)
        .await
        .map(drop)
    }

    /// Writes the state record of a new file.
    pub(super) async fn write_first(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        let (to, sha256, bytes) = self.snapshot_columns();
        sqlx::query(
            "INSERT INTO state (one, cluster_id, applied_to, log_from, digest, state_digest, snapshot_to,
                                snapshot_sha256, snapshot_bytes, checksum, configuration)
             VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(&self.cluster.as_bytes()[..])
        .bind(integer(self.applied_to))
        .bind(integer(self.log_from))
        .bind(&self.digest.as_bytes()[..])
        .bind(self.state.to_bytes().to_vec())
        .bind(to)
        .bind(sha256)
        .bind(bytes)
        .bind(self.checksum())
        .bind(self.configuration_column())
        .execute(connection)
        .await
        .map(drop)
    }

    /// Reads the columns of [`load`]; `None` when damaged.
    fn read(row: &SqliteRow) -> Result<Option<Self>, sqlx::Error> {
        let (cluster, digest, state) = (row.try_get(0)?, row.try_get(3)?, row.try_get(4)?);
        let (applied_to, log_from) = (slot(row.try_get(1)?), slot(row.try_get(2)?));
        let (to, bytes): (i64, i64) = (row.try_get(5)?, row.try_get(7)?);
        let sha256: &[u8] = row.try_get(6)?;
        let (checksum, configuration): (i64, &[u8]) = (row.try_get(8)?, row.try_get(9)?);
        let snapshot = || {
            if sha256.is_empty() {
                return (to == 0 && bytes == 0).then_some(None);
            }
            Some(Some(RecordedSnapshot {
                to: slot(to)?,
                sha256: sha256.try_into().ok()?,
                bytes: u64::try_from(bytes).ok()?,
            }))
        };
        let read = || {
            Some(Self {
                cluster: ClusterId::from_slice(cluster)?,
                applied_to: applied_to?,
                log_from: log_from?,
                digest: LogDigest::from_slice(digest)?,
                state: StateDigest::from_slice(state)?,
                snapshot: snapshot()?,
                configuration: read_configuration(configuration)?,
            })
        };
        let is_sound = |read: &Self| {
            read.checksum() == checksum && read.log_from.max(read.replayed_from()) <= read.applied_to
        };
        Ok(read().filter(is_sound))
    }
}

/// Reads the column of the configuration: `Some(None)` when empty, `None` when damaged.
pub(super) fn read_configuration(stored: &[u8]) -> Option<Option<Arc<Configuration>>> {
    if stored.is_empty() {
        return Some(None);
    }
    let decoded = pb::Configuration::decode(stored).ok()?;
    let configuration = Configuration::try_from(decoded).ok()?;
    Some(Some(Arc::new(configuration)))
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
        Some(stored) => Err(other_cluster(path, stored, cluster)),
        None => Ok(()),
    }
}

fn other_cluster(path: &str, stored: ClusterId, found: ClusterId) -> StoreError {
    StoreError::OtherCluster {
        path: path.to_owned(),
        stored: stored.to_string(),
        found,
    }
}

/// The state record, and the newest kept marks, the newest first. A new file gets this configuration.
pub(super) async fn load(
    connection: &mut SqliteConnection,
    (cluster, configuration): (ClusterId, &Arc<Configuration>),
    path: &str,
) -> Result<(StoredState, Vec<Mark>), StoreError> {
    if let Some(stored) = load_if_any(connection, cluster, path).await? {
        return Ok(stored);
    }
    // A new file, or a file left by a process that ended right after making it.
    let state = StoredState::at(cluster, Mark::default(), None, Arc::clone(configuration));
    state.write_first(connection).await?;
    Ok((state, Vec::new()))
}

/// As [`load`]; `None` without a state record.
pub(super) async fn load_if_any(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    path: &str,
) -> Result<Option<(StoredState, Vec<Mark>)>, StoreError> {
    let damaged = || StoreError::Damaged {
        what: "the state record",
        path: path.to_owned(),
    };
    let row = sqlx::query(
        "SELECT cluster_id, applied_to, log_from, digest, state_digest, snapshot_to, snapshot_sha256,
                snapshot_bytes, checksum, configuration FROM state",
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let stored = StoredState::read(&row)?.ok_or_else(damaged)?;
    if stored.cluster != cluster {
        return Err(other_cluster(path, stored.cluster, cluster));
    }
    let marks = marks::load(connection, cluster, path).await?;
    Ok(Some((stored, marks)))
}

/// Writes the state record of a new file with the state at `mark` in a snapshot, and the mark if marks of this slot are
/// kept.
pub(super) async fn begin_at(
    connection: &mut SqliteConnection,
    cluster: ClusterId,
    mark: Mark,
    snapshot: RecordedSnapshot,
    configuration: Arc<Configuration>,
) -> Result<(), sqlx::Error> {
    let state = StoredState::at(cluster, mark, Some(snapshot), configuration);
    state.write_first(connection).await?;
    if !mark.to.get().is_multiple_of(MARK_SLOTS) {
        return Ok(());
    }
    marks::insert(connection, cluster, &state.latest()).await
}
