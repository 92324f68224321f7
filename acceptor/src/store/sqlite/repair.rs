//! Repair: an operator's view of a stopped acceptor's file, and changes to the file.

use std::{collections::BTreeMap, io, path::Path};

use paxos_common::{
    paxos::{acceptor::Membership, identity::AcceptorUuid, quorum::MemberEntry, witness::Witnesses},
    sqlite::{DataDir, SqliteError, migrate_by_steps, open_writer},
};
use sqlx::{Connection as _, SqliteConnection};

use super::{
    super::StoreError,
    ACCEPTOR_FILE, APPLICATION_ID, CHECKPOINT_PAGES, CounterFile, SCHEMA, SCHEMA_VERSION,
    identity::{Identity, load_identity},
    membership::load_membership,
    proof,
    upgrade::Upgrades,
    witnesses::load_witnesses,
};

/// The file of a stopped acceptor. The directory is locked for the lifetime of the value.
#[derive(Debug)]
pub struct Stopped {
    connection: SqliteConnection,
    uuid: AcceptorUuid,
    name: String,
    membership: Membership,
    _directory: DataDir,
}

impl Stopped {
    /// Takes the lock of a data directory and opens the acceptor's file. No acceptor is created, and no run begins. An
    /// older file is upgraded, as at a start.
    ///
    /// # Errors
    /// The acceptor's file is missing; another process holds the directory; the file cannot be read; the disk lost
    /// commits; a record is damaged.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(ACCEPTOR_FILE);
        if !path.is_file() {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no acceptor's file");
            return Err(SqliteError::Directory { path, source }.into());
        }
        let directory = DataDir::open(data_dir)?;
        let opened = Self::open_file(directory, &path).await;
        opened.map_err(|error| error.of_file(&path))
    }

    async fn open_file(directory: DataDir, path: &Path) -> Result<Self, StoreError> {
        proof::refuse_foreign(&directory).await?;
        // As at a start: opening a damaged log for writing would destroy the proof, and the data behind the damage.
        proof::examine(&directory, None).await?;
        // An upgraded file without `COMMITS` would be refused.
        CounterFile::open(&directory)?;
        let mut connection = open_writer(path, CHECKPOINT_PAGES[0]).await?;
        proof::empty_log(&mut connection, path).await?;
        migrate_by_steps(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID, &Upgrades).await?;
        let (uuid, name) = load_identity(&mut connection)
            .await?
            .ok_or(StoreError::Damaged("identity"))?;
        let identity = Identity::new(uuid);
        let membership = load_membership(&mut connection, &identity).await?;
        Ok(Self {
            connection,
            uuid,
            name,
            membership,
            _directory: directory,
        })
    }

    /// The acceptor's uuid.
    pub fn uuid(&self) -> AcceptorUuid {
        self.uuid
    }

    /// The acceptor's name from the first start.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The members of the acceptor's cluster, with addresses; none for a blank acceptor.
    pub fn members(&self) -> BTreeMap<AcceptorUuid, MemberEntry> {
        self.membership
            .configuration()
            .map_or_else(BTreeMap::new, |configuration| configuration.members().clone())
    }

    /// The stored witnesses: remembered runs of the other acceptors.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn witnesses(&mut self) -> Result<Witnesses, StoreError> {
        load_witnesses(&mut self.connection, &Identity::new(self.uuid)).await
    }

    /// Deletes the remembered runs of one acceptor; returns the number of deleted runs. Durable on return.
    ///
    /// # Errors
    /// The write failed; the remembered runs may be deleted or not.
    ///
    /// # Cancel safety
    /// Not safe: a cancelled write may still reach the disk.
    pub async fn forget(&mut self, acceptor: AcceptorUuid) -> Result<u64, StoreError> {
        let done = sqlx::query("DELETE FROM witness WHERE acceptor = ?")
            .bind(acceptor.to_bytes().to_vec())
            .execute(&mut self.connection)
            .await?;
        Ok(done.rows_affected())
    }

    /// Closes the file in good order.
    ///
    /// # Errors
    /// SQLite failed to close the file; the changes are safe.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}
