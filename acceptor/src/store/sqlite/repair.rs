//! Repair: what an operator may look at and change in the file of an acceptor that is stopped.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use paxos_common::{
    paxos::{acceptor::Membership, identity::AcceptorUuid, witness::Witnesses},
    sqlite::{DataDir, SqliteError, migrate, open_writer},
};
use sqlx::{Connection as _, SqliteConnection};

use super::{
    super::StoreError,
    APPLICATION_ID, CHECKPOINT_PAGES, FILE, Identity, SCHEMA, SCHEMA_VERSION, proof,
    recovery::{load_identity, load_membership, load_witnesses},
};

/// The file of an acceptor that does not run. Its directory is locked as long as the value lives.
#[derive(Debug)]
pub struct Stopped {
    connection: SqliteConnection,
    uuid: AcceptorUuid,
    name: String,
    membership: Membership,
    _directory: DataDir,
}

impl Stopped {
    /// Takes the lock of a data directory and opens the acceptor's file in it. Nothing is created, and no run begins.
    ///
    /// # Errors
    /// There is no acceptor's file; another process holds the directory; the file cannot be read; the disk lost commits; a
    /// record is damaged.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE);
        if !path.is_file() {
            let source = io::Error::new(io::ErrorKind::NotFound, "there is no acceptor's file");
            return Err(SqliteError::Directory { path, source }.into());
        }
        let directory = DataDir::open(data_dir)?;
        // As at a start: opening a damaged log for writing would destroy the proof, and what stands behind the damage.
        proof::examine(&directory).await?;
        let mut connection = open_writer(&path, CHECKPOINT_PAGES[0]).await?;
        proof::empty_log(&mut connection, &path).await?;
        migrate(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID).await?;
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

    /// Who it is.
    pub fn uuid(&self) -> AcceptorUuid {
        self.uuid
    }

    /// The name that it was first started with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The members of its cluster with their addresses; none while it is blank.
    pub fn members(&self) -> BTreeMap<AcceptorUuid, Arc<str>> {
        self.membership
            .configuration()
            .map_or_else(BTreeMap::new, |configuration| configuration.members().clone())
    }

    /// What it remembers of the other acceptors' runs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn witnesses(&mut self) -> Result<Witnesses, StoreError> {
        load_witnesses(&mut self.connection, &Identity::new(self.uuid)).await
    }

    /// Forgets what it remembers of one acceptor; returns how many runs that were. Durable when it returns.
    ///
    /// # Errors
    /// The write failed; what was remembered may be there or not.
    ///
    /// # Cancel safety
    /// Not safe: what was cancelled may yet be written.
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
    /// SQLite could not; what was changed is safe.
    pub async fn close(self) -> Result<(), StoreError> {
        Ok(self.connection.close().await?)
    }
}
