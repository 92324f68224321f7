//! Stores and snapshot files for tests.

use std::{
    path::Path,
    sync::Arc,
    thread::yield_now,
    time::{Duration, Instant},
};

use paxos_common::{
    paxos::{
        identity::{AcceptorUuid, ClusterId},
        quorum::Configuration,
    },
    sqlite::{DataDir, SqliteError},
};

use super::{OpenedStore, Store, StoreError, StoreOpening};
use crate::{disk::DiskSpace, start_work::StartWork};

/// Longest wait for a lock.
const LOCK_MAX: Duration = Duration::from_secs(10);

/// A configuration of three acceptors.
pub(crate) fn configuration() -> Configuration {
    let members = (1..=3u128).map(|number| {
        let address = format!("http://127.0.0.1:700{number}");
        (AcceptorUuid::from_u128(number), Arc::from(address))
    });
    Configuration::new(members, 2, 2).unwrap()
}

/// The configuration of the era after `present`: acceptors 3 to 5.
pub(crate) fn next_configuration(present: &Configuration) -> Configuration {
    let members = (3..=5u128).map(|number| {
        let address: Arc<str> = format!("http://127.0.0.1:710{number}").into();
        (AcceptorUuid::from_u128(number), address.into())
    });
    present.changed_to(members, 2, 2).unwrap()
}

/// Opens the store of a directory.
pub(crate) async fn open_in(directory: Arc<DataDir>, cluster: ClusterId) -> Result<OpenedStore, StoreError> {
    open_with(directory, cluster, configuration()).await
}

/// The same for a learner that works with this configuration.
pub(crate) async fn open_with(
    directory: Arc<DataDir>,
    cluster: ClusterId,
    configuration: Configuration,
) -> Result<OpenedStore, StoreError> {
    Store::open(StoreOpening {
        directory,
        cluster,
        configuration: &Arc::new(configuration),
        disk: &DiskSpace::default(),
        work: &Arc::new(StartWork::default()),
    })
    .await
}

/// Locks a directory, and opens its store.
pub(crate) async fn open(path: &Path, cluster: ClusterId) -> Result<OpenedStore, StoreError> {
    open_in(lock(path), cluster).await
}

/// Locks a directory. A process that another test starts at this moment has a copy of a lock until its program begins.
pub(crate) fn lock(path: &Path) -> Arc<DataDir> {
    let begun = Instant::now();
    loop {
        match DataDir::open(path) {
            Err(SqliteError::Locked(_)) if begun.elapsed() < LOCK_MAX => yield_now(),
            locked => return Arc::new(locked.unwrap()),
        }
    }
}
