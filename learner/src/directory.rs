//! The data directory of a learner: the given directory, or a temporary directory, removed at the end.

use std::path::PathBuf;

use paxos_common::{service::failure::Failure, sqlite::DataDir};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

/// Opens the given directory, or makes a temporary directory, removed when the second element of the pair is dropped.
///
/// # Errors
/// The directory cannot be used (74), or belongs to another process or role (78).
pub(crate) async fn open(path: Option<PathBuf>) -> Result<(DataDir, Option<TempDir>), Failure> {
    let opened = spawn_blocking(|| open_now(path)).await;
    opened.map_err(Failure::internal)?
}

fn open_now(path: Option<PathBuf>) -> Result<(DataDir, Option<TempDir>), Failure> {
    if let Some(path) = path {
        return Ok((DataDir::open(&path)?, None));
    }
    let temporary = tempfile::Builder::new()
        .prefix("paxos-learner-")
        .tempdir()
        .map_err(|error| Failure::storage(error).context("make a temporary data directory"))?;
    Ok((DataDir::open(temporary.path())?, Some(temporary)))
}

/// Removes the temporary directory, if any.
pub(crate) async fn remove(temporary: Option<TempDir>) {
    let Some(temporary) = temporary else {
        return;
    };
    let path = temporary.path().display().to_string();
    if let Ok(Err(error)) = spawn_blocking(|| temporary.close()).await {
        tracing::warn!(path, %error, "cannot remove the temporary data directory");
    }
}
