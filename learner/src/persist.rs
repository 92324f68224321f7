//! Brings what is applied to disk, behind the applier: as much in each transaction as came meanwhile.

use std::sync::Arc;

use paxos_common::exit::Failure;
use tokio::sync::mpsc;

use crate::{apply::Portion, knowledge::Knowledge, store::Store};

/// Writes until the sender is gone, then closes the store.
///
/// # Errors
/// The store failed; nothing is written after that.
///
/// # Cancel safety
/// Not safe: the store's commit is not.
pub(crate) async fn run(
    mut store: Store,
    knowledge: Arc<Knowledge>,
    mut portions: mpsc::Receiver<Portion>,
) -> Result<(), Failure> {
    while let Some(portion) = portions.recv().await {
        store
            .commit(&portion)
            .await
            .map_err(|error| Failure::storage(error).context("write what is applied"))?;
        knowledge.made_durable(portion.progress.applied_to());
    }
    store
        .close()
        .await
        .map_err(|error| Failure::storage(error).context("close the store"))
}
