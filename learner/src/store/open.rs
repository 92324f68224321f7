//! Opens the files of a learner's directory: finds, upgrades, removes or sets aside what is there, and reads the state.

use std::{path::Path, sync::Arc, time::Duration};

use paxos_common::{
    paxos::{identity::ClusterId, machine::Machine, quorum::Configuration},
    service::failure::Failure,
    sqlite::{
        self, DataDir, Readers, SchemaSteps, SqliteError,
        wal_limit::{WalLimit, empty_wal},
    },
};
use sqlx::{Connection as _, SqliteConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    APPLICATION_ID, CHECKPOINT_PAGES, LEARNER_FILE, Log, OpenedStore, READERS, SCHEMA, SCHEMA_VERSION, Store,
    StoreError, aside, load, marks, place,
    replay::{Replayed, replay},
    schema_4, set_synchronous,
    state::{self, StoredState, check_cluster},
    upgrade::Upgrade,
};
use crate::{
    disk::{DiskSpace, RETRY_PAUSE},
    progress::{LogDigest, Mark},
    snapshot_file::{self, SnapshotFile},
    start_work::StartWork,
};

/// Time between two attempts to upgrade while the disk is full: an attempt reads the old file.
const UPGRADE_PAUSE: Duration = Duration::from_secs(10);

/// Everything needed to open the files of a directory.
#[derive(Debug)]
pub(crate) struct StoreOpening<'a> {
    pub(crate) directory: Arc<DataDir>,
    pub(crate) cluster: ClusterId,
    /// The configuration that this learner works with. For new files, and for the header of a snapshot made of the file of an
    /// older release.
    pub(crate) configuration: &'a Arc<Configuration>,
    pub(crate) disk: &'a DiskSpace,
    pub(crate) work: &'a Arc<StartWork>,
}

impl Store {
    /// Opens the files of the directory, and reads their content. A missing file is made. A damaged file is set aside, a file
    /// of schema version 4 or 5 is upgraded, an older file is removed. An interrupted installation is continued. Waits while the
    /// disk is full.
    ///
    /// # Cancel safety
    /// Safe: the files stay whole.
    pub(crate) async fn open(opening: StoreOpening<'_>) -> Result<OpenedStore, StoreError> {
        let (directory, work) = (&opening.directory, opening.work);
        let path = directory.file(LEARNER_FILE);
        place::recover(directory)
            .await
            .map_err(StoreError::NotRecovered)?;
        if let Err(source) = sqlite::refuse_foreign_file(&path, APPLICATION_ID).await {
            return Err(StoreError::Unusable { path, source });
        }
        if aside::is_marked(&path) {
            set_aside(&path, "an earlier run of this learner found the damage").await?;
        }
        let mut is_set_aside = false;
        loop {
            let opened = match Self::open_file(&opening, &path).await {
                Ok(FoundFile::Upgradable) => opening.upgrade().run().await.map(|()| None),
                Ok(FoundFile::Older) => remove_older(&path).await.map(|()| None),
                Ok(FoundFile::Opened(opened)) => Ok(Some(opened)),
                Err(error) => Err(error),
            };
            match opened {
                Ok(Some(opened)) => {
                    opening.disk.has_space();
                    work.end();
                    return Ok(*opened);
                }
                Ok(None) => {}
                Err(error) if error.is_no_space(&path) => {
                    opening.disk.is_full(&path);
                    let is_upgrade = matches!(error, StoreError::NotUpgraded(_));
                    sleep(if is_upgrade { UPGRADE_PAUSE } else { RETRY_PAUSE }).await;
                }
                Err(error) if error.is_damage() && !is_set_aside => {
                    if let StoreError::DamagedSnapshot { path: snapshot, .. } = &error {
                        aside::set_snapshot_aside(snapshot);
                    }
                    set_aside(&path, &Failure::from(error).to_string()).await?;
                    is_set_aside = true;
                }
                Err(StoreError::Sqlite(source)) => return Err(StoreError::Unusable { path, source }),
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes the snapshot files that the file of this learner does not record: an installation needs the space. A running
    /// learner that is cut off may have such a file. No connection to the file may be in use. Without a readable record
    /// nothing is removed; the next start removes the files.
    ///
    /// # Cancel safety
    /// Safe: the files stay whole.
    pub(crate) async fn remove_unrecorded(directory: &DataDir, cluster: ClusterId) {
        let path = directory.file(LEARNER_FILE);
        if place::is_on_its_way(directory) || !path.exists() {
            return;
        }
        let read = async {
            let mut connection = sqlite::open_writer(&path, CHECKPOINT_PAGES).await?;
            let loaded = state::load_if_any(&mut connection, cluster, &path.display().to_string()).await;
            connection.close().await?;
            loaded
        };
        match read.await {
            Ok(None) => {}
            Ok(Some((stored, _))) => {
                let kept = stored.snapshot.map(|snapshot| snapshot.name());
                snapshot_file::remove_all_but(directory.path().to_owned(), kept).await;
            }
            Err(error) => {
                tracing::debug!(error = %Failure::from(error), "old snapshot files stay until the next start");
            }
        }
    }

    async fn open_file(opening: &StoreOpening<'_>, path: &Path) -> Result<FoundFile, StoreError> {
        let (directory, cluster) = (&opening.directory, opening.cluster);
        let mut connection = sqlite::open_writer(path, CHECKPOINT_PAGES).await?;
        // Only a checkpoint waits for the disk, and the record of a snapshot. After power loss the file is whole, but may
        // lack the last commits; a learner learns missing slots again. Only acceptors must forget nothing.
        set_synchronous(&mut connection, "NORMAL").await?;
        let named = path.display().to_string();
        let steps = ToPresent {
            path: &named,
            cluster,
        };
        let migrated =
            sqlite::migrate_by_steps(&mut connection, SCHEMA, SCHEMA_VERSION, APPLICATION_ID, &steps).await;
        match migrated {
            Err(StoreError::Sqlite(SqliteError::Older { found, .. })) => {
                check_cluster(&mut connection, cluster, &named).await?;
                connection.close().await?;
                return Ok(match found {
                    schema_4::VERSION => FoundFile::Upgradable,
                    _ => FoundFile::Older,
                });
            }
            other => other.map(drop)?,
        }
        // The database is ours.
        directory.tighten(LEARNER_FILE, &aside::FILES);
        if !empty_wal(&mut connection).await? {
            tracing::warn!(
                file = named,
                "another process reads this file: the write-ahead log was not emptied"
            );
        }
        let readers = Readers::open(path, READERS).await?;
        let (stored, marks) = state::load(&mut connection, (cluster, opening.configuration), &named).await?;
        let log_from = watch::Sender::new(stored.log_from);
        let log = Log {
            readers: readers.clone(),
            cluster,
            file: path.into(),
            log_from: log_from.subscribe(),
        };
        let (base, machine, snapshot) = opening.load(&stored).await?;
        let replayed = replay(&log, (&stored, marks), (machine, base), &named, opening.work).await?;
        let Replayed {
            progress,
            machine,
            log_bytes,
        } = replayed;
        let configuration = stored.configuration.clone();
        let kept = stored.snapshot.map(|snapshot| snapshot.name());
        snapshot_file::remove_all_but(directory.path().to_owned(), kept).await;
        Ok(FoundFile::Opened(Box::new(OpenedStore {
            store: Self {
                connection,
                wal_limit: WalLimit::new(path, readers),
                path: path.to_owned(),
                written: stored,
                log_from,
                _directory: Arc::clone(directory),
            },
            log,
            machine,
            progress,
            snapshot: snapshot.map(Arc::new),
            log_bytes,
            configuration,
        })))
    }
}

/// Upgrades a file of schema version 5 where it is: the state record gets an empty configuration, and the stored digests get
/// checksums.
struct ToPresent<'a> {
    path: &'a str,
    /// The learner's cluster. The file of another cluster is refused before it is changed.
    cluster: ClusterId,
}

impl SchemaSteps for ToPresent<'_> {
    type Error = StoreError;

    const OLDEST: i64 = 5;

    async fn upgrade(&self, transaction: &mut SqliteConnection, _from: i64) -> Result<(), StoreError> {
        /// SQLite's code for a row against a rule of its table: `ALTER TABLE` reads the row.
        const CONSTRAINT: u32 = 19;
        check_cluster(&mut *transaction, self.cluster, self.path).await?;
        let added = sqlx::query("ALTER TABLE state ADD COLUMN configuration BLOB NOT NULL DEFAULT x''");
        let Err(error) = added.execute(&mut *transaction).await else {
            return Ok(marks::add_checksums(transaction, self.cluster).await?);
        };
        let database = error.as_database_error();
        let code = database.and_then(|error| error.code()?.parse::<u32>().ok());
        if code.is_some_and(|code| code & 0xff == CONSTRAINT) {
            let path = self.path.to_owned();
            return Err(StoreError::Damaged {
                what: "the state record",
                path,
            });
        }
        Err(error.into())
    }
}

/// A usable file in the directory.
enum FoundFile {
    Opened(Box<OpenedStore>),
    /// Of schema version 4: to be upgraded.
    Upgradable,
    /// Of an older version: to be removed.
    Older,
}

impl StoreOpening<'_> {
    fn upgrade(&self) -> Upgrade<'_> {
        Upgrade {
            directory: &self.directory,
            cluster: self.cluster,
            configuration: self.configuration,
            work: self.work,
        }
    }

    /// The state in the recorded snapshot file with its digests, and the file; the empty state without a file.
    async fn load(&self, stored: &StoredState) -> Result<(Mark, Machine, Option<SnapshotFile>), StoreError> {
        let Some(recorded) = stored.snapshot else {
            return Ok((Mark::default(), Machine::default(), None));
        };
        let begun = Instant::now();
        let loaded = load::load(self.directory.path(), self.cluster, recorded, self.work).await;
        let (machine, file) = loaded?;
        tracing::info!(
            to = %recorded.to, bytes = recorded.bytes, registers = file.summary.footer.registers,
            took_ms = begun.elapsed().as_millis(),
            "loaded the state of this learner"
        );
        let base = Mark {
            to: recorded.to,
            digest: LogDigest::from_snapshot(file.summary.header.log_digest),
            state: Some(file.summary.footer.digest),
        };
        Ok((base, machine, Some(file)))
    }
}

/// Removes a file of an older release, and logs this.
async fn remove_older(path: &Path) -> Result<(), StoreError> {
    let removed = aside::remove(path).await;
    removed.map_err(|source| StoreError::NotRemoved {
        path: path.to_owned(),
        source,
    })?;
    tracing::warn!(
        file = %path.display(),
        "an older release wrote the file of this learner, and the file is removed: the learner learns everything again \
         from the acceptors"
    );
    Ok(())
}

/// Sets the damaged file aside, and logs what is lost.
async fn set_aside(path: &Path, reason: &str) -> Result<(), StoreError> {
    let moved = aside::set_aside(path).await;
    let aside = moved.map_err(|source| StoreError::NotSetAside {
        path: path.to_owned(),
        source,
    })?;
    tracing::warn!(
        file = %path.display(), set_aside = %aside.display(), reason,
        "the file of this learner is damaged and is set aside: the learner learns everything again from the acceptors. The \
         file was also a proof of how far the log was chosen: if the acceptors have lost commits that this learner had \
         applied, this learner does not notice"
    );
    Ok(())
}
