//! Durable names: a created, renamed or removed file has a durable name only after a sync of the directory.

use std::{fs::File, io, path::Path};

/// Makes the names in a directory durable.
///
/// # Errors
/// The directory cannot be opened or synced.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes the name of `file` durable. A path without a directory is in the working directory.
///
/// # Errors
/// As [`sync_directory`].
pub fn sync_name(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_file_is_synced_in_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        sync_directory(directory.path()).unwrap();
        sync_name(&directory.path().join("file")).unwrap();
        sync_name(Path::new("file")).unwrap();
        let missing = sync_name(&directory.path().join("missing/file")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
