//! The records of the snapshot files: the bottom must fit the state record, the seed the membership record, and every
//! record its checksum.

use paxos_common::{
    paxos::{acceptor::Membership, era::Era, identity::AcceptorUuid, quorum::Configuration, slot::Slot},
    sqlite::checksum,
};
use sqlx::{AssertSqlSafe, SqliteConnection, sqlite::SqliteRow};

use super::{
    super::{
        StoreError,
        snapshots::{KeptSnapshot, KeptSnapshots, SnapshotId},
    },
    columns::{Binding, bytes, column, read_slot},
    identity::Identity,
};

/// Place of the bottom.
const BOTTOM: i64 = 0;
/// Place of the waiting snapshot.
const WAITING: i64 = 1;

/// Records a waiting snapshot, in a transaction without a change of the state record.
pub(super) const KEEP: &str = "BEGIN IMMEDIATE;
    INSERT OR REPLACE INTO snapshot (place, until, sha256, bytes, log_bytes, checksum) VALUES (?, ?, ?, ?, ?, ?);
    COMMIT";

/// Deletes the record of the waiting snapshot, in a transaction without a change of the state record.
pub(super) const FORGET: &str = "BEGIN IMMEDIATE;
    DELETE FROM snapshot WHERE place = 1;
    COMMIT";

/// The part of a commit that makes the waiting snapshot the bottom.
pub(super) const TRIM: &str = "DELETE FROM snapshot;
    INSERT INTO snapshot (place, until, sha256, bytes, log_bytes, checksum) VALUES (?, ?, ?, ?, ?, ?);";

/// The table of version 3.
pub(super) const TABLE: &str = "CREATE TABLE snapshot (
        place INTEGER PRIMARY KEY CHECK (place IN (0, 1)),
        until INTEGER NOT NULL,
        sha256 BLOB NOT NULL,
        bytes INTEGER NOT NULL,
        log_bytes INTEGER NOT NULL,
        checksum INTEGER NOT NULL
    ) STRICT;";

impl Identity {
    /// Binds the bottom for [`TRIM`].
    pub(super) fn bind_bottom<'q>(&self, query: Binding<'q>, kept: &KeptSnapshot) -> Binding<'q> {
        self.bind_snapshot(query, BOTTOM, kept)
    }

    /// Binds the waiting snapshot for [`KEEP`].
    pub(super) fn bind_waiting<'q>(&self, query: Binding<'q>, kept: &KeptSnapshot) -> Binding<'q> {
        self.bind_snapshot(query, WAITING, kept)
    }

    fn bind_snapshot<'q>(&self, query: Binding<'q>, place: i64, kept: &KeptSnapshot) -> Binding<'q> {
        query
            .bind(place)
            .bind(kept.id.to.get().cast_signed())
            .bind(kept.id.sha256.to_vec())
            .bind(kept.id.bytes.cast_signed())
            .bind(kept.log_bytes.cast_signed())
            .bind(self.snapshot_checksum(place, kept))
    }

    fn snapshot_checksum(&self, place: i64, kept: &KeptSnapshot) -> i64 {
        checksum(&[
            &self.uuid.to_bytes(),
            &place.to_le_bytes(),
            &kept.id.to.get().to_le_bytes(),
            &kept.id.sha256,
            &kept.id.bytes.to_le_bytes(),
            &kept.log_bytes.to_le_bytes(),
        ])
    }

    /// The place and the content of a record; none when the record does not verify.
    fn read_snapshot(&self, row: &SqliteRow) -> Option<(i64, KeptSnapshot)> {
        let place = column::<i64>(row, 0)?;
        let id = SnapshotId {
            to: read_slot(row, 1)?,
            sha256: bytes(row, 2)?.try_into().ok()?,
            bytes: column::<i64>(row, 3)?.try_into().ok()?,
        };
        let kept = KeptSnapshot {
            id,
            log_bytes: column::<i64>(row, 4)?.try_into().ok()?,
        };
        (self.snapshot_checksum(place, &kept) == column::<i64>(row, 5)?).then_some((place, kept))
    }
}

/// Reads the records. `trimmed_to`: from the verified state record.
///
/// # Errors
/// [`StoreError::Damaged`]: a record does not verify, or the log does not stand on the bottom.
pub(super) async fn load_snapshots(
    connection: &mut SqliteConnection,
    identity: &Identity,
    trimmed_to: Slot,
) -> Result<KeptSnapshots, StoreError> {
    let sql = "SELECT place, until, sha256, bytes, log_bytes, checksum FROM snapshot";
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
    let mut found = KeptSnapshots::default();
    for row in &rows {
        match identity.read_snapshot(row) {
            Some((BOTTOM, kept)) => found.bottom = Some(kept),
            Some((WAITING, kept)) => found.waiting = Some(kept),
            Some(_) | None => return Err(StoreError::Damaged("snapshot")),
        }
    }
    let stands_on = found.bottom.map_or(Slot::ZERO, |bottom| bottom.id.to);
    let is_newer = found.waiting.is_none_or(|waiting| waiting.id.to > trimmed_to);
    if stands_on != trimmed_to || !is_newer {
        return Err(StoreError::Damaged("snapshot"));
    }
    Ok(found)
}

/// Checks the records against the membership: until a restored cluster is formed, its seed waits; then the log begins at
/// the end of the seed or above. An acceptor that has joined later begins with an empty log, until its first snapshot comes.
///
/// # Errors
/// [`StoreError::Damaged`]: a record of the seed is gone, or a snapshot waits without a cluster to be restored.
pub(super) fn check_seed(
    uuid: AcceptorUuid,
    membership: &Membership,
    snapshots: &KeptSnapshots,
    trimmed_to: Slot,
) -> Result<(), StoreError> {
    let base = membership
        .configuration()
        .and_then(Configuration::origin)
        .map(|origin| origin.base());
    let fits = match membership {
        // The file says to which cluster the seed belongs.
        Membership::Blank | Membership::Seeded(_) => snapshots.bottom.is_none(),
        Membership::Forming(_) => snapshots.waiting.map(|waiting| waiting.id.to) == base,
        Membership::Formed(configuration) => {
            let has_formed = configuration.era() == Era::FIRST && configuration.members().contains_key(&uuid);
            let is_empty_joiner = !has_formed && trimmed_to == Slot::ZERO;
            base.is_none_or(|base| trimmed_to >= base || is_empty_joiner)
        }
    };
    if fits {
        Ok(())
    } else {
        Err(StoreError::Damaged("snapshot"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use paxos_common::paxos::origin::Origin;

    use super::*;

    #[test]
    fn records_fit_the_membership_at_every_step_of_a_restore() {
        let uuid = AcceptorUuid::from_u128(1);
        let plain = Configuration::new([(uuid, "http://a:1".into())], 1, 1).unwrap();
        let origin = Origin::after([7; 32], Slot::ZERO, None).unwrap();
        let (base, next) = (Some(origin.base()), Some(origin.base().next()));
        let restored = plain.clone().restored_from(origin);
        let kept = |to| KeptSnapshot {
            id: SnapshotId {
                to,
                sha256: [7; 32],
                bytes: 40,
            },
            log_bytes: 0,
        };
        let fits = |membership: &Membership, bottom: Option<Slot>, waiting: Option<Slot>| {
            let snapshots = KeptSnapshots {
                bottom: bottom.map(kept),
                waiting: waiting.map(kept),
            };
            check_seed(uuid, membership, &snapshots, bottom.unwrap_or_default()).is_ok()
        };
        assert!(fits(&Membership::Blank, None, None) && fits(&Membership::Blank, None, base));
        assert!(!fits(&Membership::Blank, base, None));
        let forming = Membership::Forming(restored.clone());
        assert!(fits(&forming, None, base));
        assert!(!fits(&forming, None, None) && !fits(&forming, None, next));
        let forming = Membership::Forming(plain.clone());
        assert!(fits(&forming, None, None) && !fits(&forming, None, base));
        let formed = Membership::Formed(restored.clone());
        assert!(fits(&formed, base, None) && fits(&formed, next, None) && fits(&formed, base, next));
        assert!(!fits(&formed, None, None) && !fits(&formed, None, base));
        // A joiner of a later era is empty, or its log begins at a snapshot of the restored cluster.
        let entry = |number| {
            (
                AcceptorUuid::from_u128(number),
                Arc::<str>::from("http://a:1").into(),
            )
        };
        let below = base.map(|base| Slot::new(base.get() - 1).unwrap());
        for members in [[1, 2], [2, 3]] {
            let joined = restored.changed_to(members.map(entry), 2, 2).unwrap();
            let joined = Membership::Formed(joined);
            assert!(fits(&joined, None, None) && fits(&joined, None, base) && fits(&joined, base, next));
            assert!(!fits(&joined, below, None));
        }
        let formed = Membership::Formed(plain);
        assert!(fits(&formed, None, None) && fits(&formed, None, base));
    }
}
