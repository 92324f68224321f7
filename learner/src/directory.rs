//! The data directory of a learner: the given directory, or a temporary directory, removed at the end.

use std::{
    env,
    path::{Path, PathBuf},
};

use paxos_common::{
    service::{failure::Failure, temporary::TemporaryDir},
    sqlite::{ACCEPTOR_FILE, DataDir},
};
use tokio::task::spawn_blocking;

/// The beginning of the names of temporary directories.
const PREFIX: &str = "paxos-learner-";

/// Opens the given directory, or makes a temporary directory, removed when the second element of the pair is dropped.
/// A learner that makes a temporary directory first removes the temporary directories of killed learners.
///
/// # Errors
/// The directory cannot be used (74), or belongs to another process or role (78).
pub(crate) async fn open(path: Option<PathBuf>) -> Result<(DataDir, Option<TemporaryDir>), Failure> {
    let opened = spawn_blocking(|| open_now(path, &env::temp_dir())).await;
    opened.map_err(Failure::internal)?
}

fn open_now(path: Option<PathBuf>, parent: &Path) -> Result<(DataDir, Option<TemporaryDir>), Failure> {
    if let Some(path) = path {
        let directory = DataDir::open(&path)?;
        directory.refuse_file_of_other_role(ACCEPTOR_FILE)?;
        return Ok((directory, None));
    }
    let temporary = TemporaryDir::new(parent, PREFIX)
        .map_err(|error| Failure::storage(error).context("make a temporary data directory"))?;
    Ok((DataDir::open(temporary.path())?, Some(temporary)))
}

/// Removes the temporary directory, if any.
pub(crate) async fn remove(temporary: Option<TemporaryDir>) {
    let Some(temporary) = temporary else {
        return;
    };
    let path = temporary.path().display().to_string();
    if let Ok(Err(error)) = spawn_blocking(|| temporary.close()).await {
        tracing::warn!(path, %error, "cannot remove the temporary data directory");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use paxos_common::{service::failure::Exit, sqlite::LEARNER_FILE};

    use super::*;

    #[test]
    fn directory_of_an_acceptor_is_refused_and_its_snapshots_stay() {
        let directory = tempfile::tempdir().unwrap();
        let names = [ACCEPTOR_FILE, LEARNER_FILE, "snapshot-51200-0ab100ff.pxs"];
        for name in names {
            fs::write(directory.path().join(name), "content").unwrap();
        }
        let refused = open_now(Some(directory.path().to_owned()), &env::temp_dir()).unwrap_err();
        assert_eq!(refused.code, Exit::Refused, "{refused}");
        assert!(refused.to_string().contains("holds acceptor.db"), "{refused}");
        assert!(names.iter().all(|name| directory.path().join(name).exists()));
    }

    #[tokio::test]
    async fn temporary_directory_of_a_killed_learner_is_removed_by_the_next() {
        let parent = tempfile::tempdir().unwrap();
        let make = || open_now(None, parent.path()).unwrap();
        let (living, killed) = (make(), make());
        let path = killed.0.path().to_owned();
        // As after SIGKILL: the locks are gone, and the files stay.
        let copy = parent.path().join(format!("{PREFIX}killed"));
        fs::create_dir(&copy).unwrap();
        for file in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
        let next = make();
        assert!(!copy.exists() && path.exists() && living.0.path().exists());
        drop((living, killed));
        remove(next.1).await;
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
