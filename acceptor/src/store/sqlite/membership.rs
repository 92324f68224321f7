//! The record of the membership: the stored configuration of the cluster.

use paxos_common::{paxos::acceptor::Membership, sqlite::checksum};
use paxos_proto::v1 as pb;
use prost::Message as _;
use sqlx::SqliteConnection;

use super::{
    super::StoreError,
    columns::{Binding, bytes, column},
    identity::Identity,
};

impl Identity {
    /// Binds the columns of the record.
    pub(super) fn bind_membership<'q>(&self, query: Binding<'q>, membership: &Membership) -> Binding<'q> {
        let encoded = membership
            .configuration()
            .map(pb::Configuration::from)
            .unwrap_or_default()
            .encode_to_vec();
        let formed = i64::from(matches!(membership, Membership::Formed(_)));
        let sum = self.membership_checksum(formed, &encoded);
        query.bind(formed).bind(encoded).bind(sum)
    }

    fn membership_checksum(&self, formed: i64, encoded: &[u8]) -> i64 {
        checksum(&[&self.uuid.to_bytes(), &formed.to_le_bytes(), encoded])
    }
}

/// Reads and verifies the record; blank without a record.
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
    let damaged = || StoreError::Damaged("membership");
    let read = || {
        let (formed, encoded) = (column::<i64>(&row, 0)?, bytes(&row, 1)?);
        let sum = identity.membership_checksum(formed, &encoded);
        (sum == column::<i64>(&row, 2)?).then_some((formed, encoded))
    };
    let (formed, encoded) = read().ok_or_else(damaged)?;
    let configuration = pb::Configuration::decode(&encoded[..]).map_err(|_| damaged())?;
    let configuration = configuration.try_into().map_err(|_| damaged())?;
    Ok(if formed == 1 {
        Membership::Formed(configuration)
    } else {
        Membership::Forming(configuration)
    })
}
