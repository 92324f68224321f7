//! The acceptor's identity: the uuid, the name and the cluster.

use std::sync::{Arc, OnceLock};

use paxos_common::{
    paxos::{
        acceptor::Membership,
        identity::{AcceptorUuid, ClusterId},
    },
    sqlite::checksum,
};
use sqlx::SqliteConnection;

use super::{
    super::StoreError,
    columns::{column, read_uuid, text},
};

/// Part of every checksum: a row of another acceptor or cluster is no row of ours.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) uuid: AcceptorUuid,
    /// Set once, with the configuration; votes come after.
    cluster: Arc<OnceLock<ClusterId>>,
}

impl Identity {
    pub(super) fn new(uuid: AcceptorUuid) -> Self {
        Self {
            uuid,
            cluster: Arc::default(),
        }
    }

    /// Takes the cluster of a configuration.
    pub(super) fn learn(&self, membership: &Membership) {
        if let Some(configuration) = membership.configuration() {
            let cluster = self.cluster.get_or_init(|| configuration.cluster_id());
            assert_eq!(
                *cluster,
                configuration.cluster_id(),
                "an acceptor never changes its cluster"
            );
        }
    }

    /// The cluster.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: without a cluster. A vote without a cluster is possible only on a disk that lost the
    /// membership record.
    pub(super) fn cluster(&self) -> Result<&ClusterId, StoreError> {
        self.cluster.get().ok_or(StoreError::Damaged("membership"))
    }
}

/// The acceptor's uuid and name; none before the first start.
pub(super) async fn load_identity(
    connection: &mut SqliteConnection,
) -> Result<Option<(AcceptorUuid, String)>, StoreError> {
    let row = sqlx::query("SELECT uuid, name, checksum FROM identity")
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let read = || {
        let (uuid, name) = (read_uuid(&row, 0)?, text(&row, 1)?);
        let sum = checksum(&[&uuid.to_bytes(), name.as_bytes()]);
        (sum == column::<i64>(&row, 2)?).then_some((uuid, name))
    };
    read().map(Some).ok_or(StoreError::Damaged("identity"))
}
