//! Reads the stored configuration of a file that is not open yet: its members may know a later one.

use std::path::Path;

use paxos_common::{
    paxos::quorum::Configuration,
    sqlite::{self, DataDir, Readers},
};

use super::{APPLICATION_ID, LEARNER_FILE, state::read_configuration};

/// The stored configuration; `None` without one, or when the file cannot be read. Nothing is verified: the configuration is of
/// use for its addresses alone. The file stays as it is.
///
/// # Cancel safety
/// Safe: the function only reads.
pub(crate) async fn stored_configuration(directory: &DataDir) -> Option<Configuration> {
    let path = directory.file(LEARNER_FILE);
    if !path.exists() {
        return None;
    }
    sqlite::refuse_foreign_file(&path, APPLICATION_ID).await.ok()?;
    read(&path).await
}

async fn read(path: &Path) -> Option<Configuration> {
    let readers = Readers::open(path, 1).await.ok()?;
    let reading = async {
        let mut connection = readers.read().await?;
        sqlx::query_scalar("SELECT configuration FROM state")
            .fetch_optional(&mut *connection)
            .await
    };
    let stored: Result<Option<Vec<u8>>, sqlx::Error> = reading.await;
    readers.close().await;
    let configuration = read_configuration(&stored.ok()??)??;
    Some(Configuration::clone(&configuration))
}
