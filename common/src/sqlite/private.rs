//! Access to a data directory: for the user of the process alone, because the files hold every value and the openers of
//! sessions.
//!
//! A directory gets mode 0700 and files get 0600. The directory and our files of an earlier release are tightened at
//! start, once the database is known to be ours. Other files are left alone.
//! Kubernetes gives a volume to a group (`fsGroup`), sets the setgid bit of the volume's root, and checks at each mount
//! that the group may still write. Such a directory keeps the rights of the group and loses only the rights of all
//! other users.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{fs::Mode, process::umask};

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// Files in such a directory belong to its group.
const SETGID: u32 = 0o2000;
/// The rights of the group and of others.
const OF_OTHERS: u32 = 0o077;

/// From now on only the process's user can read new files of this process, SQLite's write-ahead log included.
pub(super) fn begin() {
    umask(Mode::from_raw_mode(OF_OTHERS));
}

/// Creates the directory and missing parents.
pub(super) fn create(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(DIRECTORY).create(path)
}

/// Removes the rights of other users from an existing directory and the files of these names. A failure is logged: the
/// owner, another user, decides.
pub(super) fn tighten(directory: &Path, names: &[String]) {
    let Ok(found) = fs::metadata(directory) else {
        return;
    };
    let taken = if found.mode() & SETGID == 0 {
        OF_OTHERS
    } else {
        0o007
    };
    restrict(directory, found.mode(), taken);
    for path in names.iter().map(|name| directory.join(name)) {
        // Links are not followed.
        if let Ok(found) = fs::symlink_metadata(&path)
            && found.is_file()
        {
            restrict(&path, found.mode(), OF_OTHERS);
        }
    }
}

fn restrict(path: &Path, mode: u32, taken: u32) {
    if mode & taken == 0 {
        return;
    }
    let wanted = mode & 0o7777 & !taken;
    match fs::set_permissions(path, fs::Permissions::from_mode(wanted)) {
        Ok(()) => tracing::info!(
            path = %path.display(),
            before = format!("{:04o}", mode & 0o7777),
            now = format!("{wanted:04o}"),
            "removed the access of other users to the data directory"
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(
            path = %path.display(),
            mode = format!("{:04o}", mode & 0o7777),
            %error,
            "other users of this machine may be able to read this data: have its owner set mode {DIRECTORY:04o} for the \
             directory and {FILE:04o} for its files"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::{DataDir, open_writer};

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn new_directory_and_its_files_are_for_their_user_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("above/data");
        let directory = DataDir::open(&path).unwrap();
        let mut writer = open_writer(&directory.file("test.db"), 700).await.unwrap();
        sqlx::raw_sql("CREATE TABLE one (id)")
            .execute(&mut writer)
            .await
            .unwrap();
        assert_eq!(
            (mode(&path), mode(path.parent().unwrap())),
            (DIRECTORY, DIRECTORY)
        );
        let files = ["LOCK", "test.db", "test.db-wal", "test.db-shm"];
        let modes = files.map(|file| mode(&path.join(file)));
        assert_eq!(modes, [FILE; 4]);
    }

    #[test]
    fn loose_directory_of_an_earlier_release_is_tightened() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        fs::create_dir(&path).unwrap();
        let elsewhere = temporary.path().join("elsewhere");
        fs::write(&elsewhere, "x").unwrap();
        set(&elsewhere, 0o644);
        std::os::unix::fs::symlink(&elsewhere, path.join("COMMITS")).unwrap();
        let files = ["acceptor.db", "acceptor.db-wal", "LOCK", "foreign"].map(|name| path.join(name));
        for file in &files {
            fs::write(file, "x").unwrap();
            set(file, 0o644);
        }
        set(&path, 0o755);
        let directory = DataDir::open(&path).unwrap();
        let modes = || files.each_ref().map(|file| mode(file));
        assert_eq!(
            (mode(&path), modes()),
            (0o755, [0o644; 4]),
            "not known to be ours"
        );
        directory.tighten("acceptor.db", &["COMMITS"]);
        assert_eq!((mode(&path), modes()), (DIRECTORY, [FILE, FILE, FILE, 0o644]));
        assert_eq!(mode(&elsewhere), 0o644, "what a link leads to is not ours");
    }

    #[test]
    fn volume_of_a_group_stays_that_of_the_group() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("data");
        fs::create_dir(&path).unwrap();
        set(&path, 0o2775);
        DataDir::open(&path).unwrap().tighten("acceptor.db", &[]);
        assert_eq!(mode(&path), 0o2770);
    }
}
