//! Files of other applications: refused before anything in the file changes.
//!
//! Opening a file for writing switches the file to write-ahead logging, permanently. Our files have been switched since
//! they were made, so only other files are looked at here.

use std::{fs::File, io::Read as _, path::Path};

use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::{SqliteError, options};

/// The beginning of the header of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Position in the header of the version for writing, in bytes.
const WRITE_VERSION: usize = 18;
/// The version for writing of a file with a rollback journal.
const ROLLBACK_JOURNAL: u8 = 1;

/// The marks of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct FileMarks {
    /// The version of the schema.
    pub(super) user_version: i64,
    application_id: i64,
    /// Number of tables and indexes.
    objects: i64,
}

impl FileMarks {
    /// Reads the marks. Writes nothing.
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
             FROM pragma_user_version, pragma_application_id",
        )
        .fetch_one(connection)
        .await?;
        Ok(Self {
            user_version: row.try_get(0)?,
            application_id: row.try_get(1)?,
            objects: row.try_get(2)?,
        })
    }

    /// Whether the file has no content yet.
    pub(super) fn is_blank(self) -> bool {
        self.user_version == 0 && self.application_id == 0 && self.objects == 0
    }

    /// Checks that the file is blank or ours.
    pub(super) fn check(self, application_id: i32) -> Result<(), SqliteError> {
        let (found, expected) = (self.application_id, i64::from(application_id));
        if found == expected || self.is_blank() {
            return Ok(());
        }
        Err(SqliteError::Foreign { found, expected })
    }
}

/// Refuses a file of another application, and leaves the file as it is. Call this before the file is opened for
/// writing.
///
/// Says nothing about files that cannot be read and about files with write-ahead logging:
/// [`migrate`](super::migrate) checks such a file.
///
/// # Errors
/// [`SqliteError::Foreign`].
pub async fn refuse_foreign_file(file: &Path, application_id: i32) -> Result<(), SqliteError> {
    if !has_rollback_journal(file) {
        return Ok(());
    }
    let Ok(mut connection) = options(file).read_only(true).connect().await else {
        return Ok(());
    };
    let marks = FileMarks::of(&mut connection).await;
    // A failure to close a connection that only reads changes nothing.
    drop(connection.close().await);
    marks.map_or(Ok(()), |marks| marks.check(application_id))
}

fn has_rollback_journal(file: &Path) -> bool {
    let mut header = [0; WRITE_VERSION + 1];
    let read = File::open(file).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.starts_with(MAGIC) && header[WRITE_VERSION] == ROLLBACK_JOURNAL
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sqlite::{migrate, open_writer};

    const SCHEMA: &str = "CREATE TABLE one (id INTEGER PRIMARY KEY)";

    async fn made_by(file: &Path, sql: &'static str) {
        let mut connection = options(file).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    #[tokio::test]
    async fn file_of_another_application_is_refused_and_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.db");
        for sql in [
            "CREATE TABLE theirs (id)",
            "CREATE TABLE theirs (id); PRAGMA application_id = 8",
        ] {
            made_by(&file, sql).await;
            let before = fs::read(&file).unwrap();
            let refused = refuse_foreign_file(&file, 7).await;
            assert!(matches!(refused, Err(SqliteError::Foreign { .. })), "{refused:?}");
            assert_eq!(fs::read(&file).unwrap(), before);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
            fs::remove_file(&file).unwrap();
        }
    }

    #[tokio::test]
    async fn blank_missing_and_own_files_pass() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        refuse_foreign_file(&path("missing"), 7).await.unwrap();
        fs::write(path("empty"), "").unwrap();
        refuse_foreign_file(&path("empty"), 7).await.unwrap();
        made_by(&path("blank"), "VACUUM").await;
        refuse_foreign_file(&path("blank"), 7).await.unwrap();
        let mut connection = open_writer(&path("own"), 700).await.unwrap();
        migrate(&mut connection, SCHEMA, 1, 7).await.unwrap();
        refuse_foreign_file(&path("own"), 7).await.unwrap();
        // A copy has a rollback journal.
        let copy = format!("VACUUM INTO '{}'", path("copy").display());
        sqlx::raw_sql(sqlx::AssertSqlSafe(copy))
            .execute(&mut connection)
            .await
            .unwrap();
        assert!(has_rollback_journal(&path("copy")));
        refuse_foreign_file(&path("copy"), 7).await.unwrap();
    }
}
