//! Files of other applications: refused before anything in the file changes.
//!
//! Opening a file for writing changes the file: SQLite switches the file to write-ahead logging, copies a write-ahead
//! log back, or rolls a journal back. So the marks are read from the bytes of the first page, without SQLite. The first
//! page may be in the write-ahead log only: after a crash in the first start this is so for our own file too.

use std::{
    fs::File,
    io::{self, BufReader, ErrorKind, Read},
    path::Path,
};

use sqlx::{Row as _, SqliteConnection};

use super::{
    SqliteError,
    wal_format::{Chain, FRAME_HEADER_BYTES, HEADER_BYTES, ends_commit, page_of, read_whole},
    wal_limit::wal_path,
};

/// The beginning of every SQLite file.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Offset in the first page of the version of the schema.
const USER_VERSION: usize = 60;
/// Offset in the first page of the application id.
const APPLICATION_ID: usize = 68;
/// Offset in the first page of the kind of the first node of the schema's tree, and the kind of a tree of one node.
const NODE_KIND: (usize, u8) = (100, 13);
/// Offset in the first page of the number of entries in this node.
const NODE_ENTRIES: usize = 103;
/// Size of the part of the first page with all marks.
const MARKS_BYTES: usize = 105;
/// Bytes of one read from the write-ahead log.
const BUFFER_BYTES: usize = 256 * 1024;

/// The part of the first page with all marks.
type MarkedPart = [u8; MARKS_BYTES];

/// The marks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileMarks {
    /// The version of the schema.
    pub(super) user_version: i64,
    application_id: i64,
    /// Whether there is a table.
    has_tables: bool,
}

impl FileMarks {
    /// Reads the marks through SQLite. Writes nothing.
    pub(super) async fn of(connection: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let row = sqlx::query(
            "SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_schema)
             FROM pragma_user_version, pragma_application_id",
        )
        .fetch_one(connection)
        .await?;
        Ok(Self {
            user_version: row.try_get(0)?,
            application_id: row.try_get(1)?,
            has_tables: row.try_get(2)?,
        })
    }

    /// Reads the marks off the first page; `None` for a page of another format.
    fn of_page(page: &MarkedPart) -> Option<Self> {
        let number = |at: usize| {
            let bytes = [page[at], page[at + 1], page[at + 2], page[at + 3]];
            i64::from(i32::from_be_bytes(bytes))
        };
        let entries = [page[NODE_ENTRIES], page[NODE_ENTRIES + 1]];
        page.starts_with(MAGIC).then(|| Self {
            user_version: number(USER_VERSION),
            application_id: number(APPLICATION_ID),
            // A tree of more than one node has entries.
            has_tables: page[NODE_KIND.0] != NODE_KIND.1 || entries != [0, 0],
        })
    }

    /// Whether the file has no content yet.
    pub(super) fn is_blank(self) -> bool {
        self.user_version == 0 && self.application_id == 0 && !self.has_tables
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

/// Refuses a file of another application, and leaves the file and SQLite's files beside it as they are. Call this before
/// the file is opened for writing.
///
/// Both the file and the write-ahead log must be blank or ours: a log left beside a foreign file would overwrite the
/// foreign file. Says nothing about a file that is no SQLite file, or cannot be read: opening the file fails.
///
/// # Errors
/// [`SqliteError::Foreign`]; [`SqliteError::Directory`] when the write-ahead log cannot be read.
pub async fn refuse_foreign_file(file: &Path, application_id: i32) -> Result<(), SqliteError> {
    let (file, log) = (file.to_owned(), wal_path(file));
    let failed = |source| SqliteError::Directory {
        path: log.clone(),
        source,
    };
    let path = log.clone();
    let read = tokio::task::spawn_blocking(move || {
        // The log first: a checkpoint of the owner in between moves the page into the file.
        let logged = first_page_of_log(&path)?;
        let mut page = [0; MARKS_BYTES];
        let is_read = File::open(file).and_then(|mut file| read_whole(&mut file, &mut page));
        Ok([logged, is_read.unwrap_or(false).then_some(page)])
    });
    let pages = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    let pages = pages.map_err(failed)?;
    let mut marks = pages.iter().flatten().filter_map(FileMarks::of_page);
    marks.try_for_each(|marks| marks.check(application_id))
}

/// The first page as of the last commit in a write-ahead log; `None` when the log is missing or has no such page.
/// Memory is bounded by one page.
fn first_page_of_log(log: &Path) -> io::Result<Option<MarkedPart>> {
    let mut log = match File::open(log) {
        Ok(file) => BufReader::with_capacity(BUFFER_BYTES, file),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut log, &mut header)? {
        return Ok(None);
    }
    Chain::start(&header).map_or(Ok(None), |chain| last_first_page(log, chain))
}

fn last_first_page(mut log: impl Read, mut chain: Chain) -> io::Result<Option<MarkedPart>> {
    let mut frame = vec![0; FRAME_HEADER_BYTES + chain.page_bytes];
    let (mut committed, mut written) = (None, None);
    while read_whole(&mut log, &mut frame)? && chain.verifies(&frame) {
        chain.sums = chain.sums_after(&frame);
        if page_of(&frame) == 1 {
            written = frame[FRAME_HEADER_BYTES..].first_chunk().copied();
        }
        if ends_commit(&frame) {
            committed = written.or(committed);
        }
    }
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, ffi::OsString, fs};

    use sqlx::{ConnectOptions as _, Connection as _};

    use super::*;
    use crate::sqlite::{migrate, open_writer, options};

    const SCHEMA: &str = "CREATE TABLE one (id INTEGER PRIMARY KEY)";

    async fn made_by(file: &Path, sql: &'static str) -> SqliteConnection {
        let mut connection = options(file).create_if_missing(true).connect().await.unwrap();
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection
    }

    /// Every file of a directory, with the content.
    fn content(directory: &Path) -> BTreeMap<OsString, Vec<u8>> {
        let files = fs::read_dir(directory).unwrap().map(Result::unwrap);
        files
            .map(|file| (file.file_name(), fs::read(file.path()).unwrap()))
            .collect()
    }

    /// Copies the files of a database as a crash leaves them.
    fn crash(from: &Path, to: &Path) {
        for (name, bytes) in content(from) {
            fs::write(to.join(name), bytes).unwrap();
        }
    }

    async fn is_refused_unchanged(directory: &Path) {
        let before = content(directory);
        let refused = refuse_foreign_file(&directory.join("test.db"), 7).await;
        assert!(matches!(refused, Err(SqliteError::Foreign { .. })), "{refused:?}");
        assert_eq!(content(directory), before);
    }

    #[tokio::test]
    async fn file_of_another_application_is_refused_and_stays_as_it_is() {
        for sql in [
            "CREATE TABLE theirs (id)",
            "CREATE TABLE theirs (id); PRAGMA application_id = 8",
            "PRAGMA user_version = 3",
        ] {
            let directory = tempfile::tempdir().unwrap();
            let connection = made_by(&directory.path().join("test.db"), sql).await;
            connection.close().await.unwrap();
            is_refused_unchanged(directory.path()).await;
        }
    }

    #[tokio::test]
    async fn foreign_file_with_its_marks_in_the_log_only_is_refused_and_stays_as_it_is() {
        let (open, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sql = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
            CREATE TABLE theirs (id); PRAGMA application_id = 8;
            INSERT INTO theirs WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT i FROM n";
        let _owner = made_by(&open.path().join("test.db"), sql).await;
        let alone = fs::read(open.path().join("test.db")).unwrap();
        let marks = FileMarks::of_page(alone.first_chunk().unwrap()).unwrap();
        assert!(marks.is_blank(), "the file alone shows nothing: {marks:?}");
        crash(open.path(), crashed.path());
        // Also while the owner has the file open.
        is_refused_unchanged(open.path()).await;
        is_refused_unchanged(crashed.path()).await;
        // A crash may tear the last commit, and leave no index.
        fs::remove_file(crashed.path().join("test.db-shm")).unwrap();
        let log = crashed.path().join("test.db-wal");
        let bytes = fs::read(&log).unwrap();
        fs::write(&log, &bytes[..bytes.len() - 100]).unwrap();
        is_refused_unchanged(crashed.path()).await;
    }

    #[tokio::test]
    async fn own_file_with_everything_in_the_log_passes_and_opens() {
        let (open, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut writer = open_writer(&open.path().join("test.db"), 700).await.unwrap();
        migrate(&mut writer, SCHEMA, 1, 7).await.unwrap();
        crash(open.path(), crashed.path());
        let file = crashed.path().join("test.db");
        let page = first_page_of_log(&wal_path(&file)).unwrap().unwrap();
        let alone = fs::read(&file).unwrap();
        let marks = [&page, alone.first_chunk().unwrap()].map(|page| FileMarks::of_page(page).unwrap());
        assert_eq!(marks.map(|marks| marks.application_id), [7, 0]);
        refuse_foreign_file(&file, 7).await.unwrap();
        let mut writer = open_writer(&file, 700).await.unwrap();
        assert!(!migrate(&mut writer, SCHEMA, 1, 7).await.unwrap());
    }

    #[tokio::test]
    async fn foreign_file_beside_a_log_of_ours_is_refused() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut writer = open_writer(&ours.path().join("test.db"), 700).await.unwrap();
        migrate(&mut writer, SCHEMA, 1, 7).await.unwrap();
        let foreign = made_by(&theirs.path().join("test.db"), "CREATE TABLE theirs (id)").await;
        foreign.close().await.unwrap();
        fs::copy(ours.path().join("test.db-wal"), theirs.path().join("test.db-wal")).unwrap();
        is_refused_unchanged(theirs.path()).await;
    }

    #[tokio::test]
    async fn commit_that_did_not_end_leaves_the_marks_of_the_commit_before() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = open_writer(&directory.path().join("test.db"), 700).await.unwrap();
        migrate(&mut writer, SCHEMA, 1, 7).await.unwrap();
        let log = directory.path().join("test.db-wal");
        let sound = fs::read(&log).unwrap();
        sqlx::raw_sql("BEGIN; PRAGMA user_version = 9; CREATE TABLE more (id); COMMIT")
            .execute(&mut writer)
            .await
            .unwrap();
        let version = |bytes: &[u8]| {
            fs::write(&log, bytes).unwrap();
            let page = first_page_of_log(&log).unwrap();
            page.and_then(|page| FileMarks::of_page(&page))
                .map(|marks| marks.user_version)
        };
        let whole = fs::read(&log).unwrap();
        assert_eq!(version(&whole), Some(9));
        for end in [
            whole.len() - 1,
            sound.len() + FRAME_HEADER_BYTES + 4096,
            sound.len(),
        ] {
            assert_eq!(version(&whole[..end]), Some(1), "{end}");
        }
        for end in [0, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 100] {
            assert_eq!(version(&whole[..end]), None, "{end}");
        }
    }

    #[tokio::test]
    async fn blank_missing_and_own_files_pass() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        refuse_foreign_file(&path("missing"), 7).await.unwrap();
        fs::write(path("empty"), "").unwrap();
        refuse_foreign_file(&path("empty"), 7).await.unwrap();
        let blank = made_by(&path("blank"), "VACUUM").await;
        blank.close().await.unwrap();
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
        refuse_foreign_file(&path("copy"), 7).await.unwrap();
    }
}
