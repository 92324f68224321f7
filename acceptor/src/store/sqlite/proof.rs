//! Proves at start, before SQLite may write, that the disk holds every answered commit.
//!
//! Three parts must agree: the database file alone, the write-ahead log, and the counter in `COMMITS`. A process
//! refused here leaves all files unchanged.

use std::{path::Path, time::Duration};

use paxos_common::{
    paxos::identity::{AcceptorUuid, CommitCounter},
    sqlite::{
        DataDir, SqliteError, refuse_foreign_file,
        wal_limit::{empty_wal, wal_bytes, wal_path},
    },
    wire::PROTOCOL_VERSION,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use tokio::time::sleep;

use super::{
    super::StoreError,
    ACCEPTOR_FILE, APPLICATION_ID, SCHEMA_VERSION,
    counter_file::{self, CounterRecord, Found},
    identity::{Identity, load_identity},
    state::{STATE, STATE_BEFORE_ERAS},
    upgrade::{OLD_STATE, OLD_VERSION, read_old_state},
    wal,
};

/// Pause before the next attempt to empty the write-ahead log at start, while another process reads the file.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Content of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DatabaseContent {
    /// No acceptor yet: no file, no schema, or no identity.
    Nothing,
    /// Foreign content: the file was replaced, or the header is damaged.
    Foreign { application: i64 },
    /// Content of a release before the first, probably with a damaged header.
    Older { version: i64 },
    /// Content of a newer release.
    Newer { version: i64 },
    /// An acceptor of a cluster with a protocol version that this release does not speak.
    LaterProtocol { least_version: u32 },
    /// An acceptor.
    Acceptor {
        uuid: AcceptorUuid,
        name: String,
        counter: CommitCounter,
        version: i64,
        /// The page of the state record: every counted commit writes this page, and no sweep does.
        state_page: u32,
    },
}

impl DatabaseContent {
    /// Why this release does not open the database as the acceptor `name`; none without a reason. Without `name`, any
    /// acceptor is opened.
    fn refusal(&self, name: Option<&str>) -> Option<StoreError> {
        let supported = i64::from(SCHEMA_VERSION);
        match self {
            Self::Foreign { application } => {
                let (found, expected) = (*application, i64::from(APPLICATION_ID));
                Some(SqliteError::Foreign { found, expected }.into())
            }
            Self::Older { version: found } => {
                let found = *found;
                Some(SqliteError::Older { found, supported }.into())
            }
            Self::Newer { version: found } => {
                let found = *found;
                Some(SqliteError::Newer { found, supported }.into())
            }
            Self::LaterProtocol { least_version } => Some(StoreError::LaterProtocol(*least_version)),
            Self::Acceptor { name: found, .. } => {
                let asked = name.filter(|asked| asked != found)?.to_owned();
                let found = found.clone();
                Some(StoreError::OtherAcceptor { found, asked })
            }
            Self::Nothing => None,
        }
    }
}

/// Refuses a database of another application, and changes nothing. Call this before SQLite opens the database.
///
/// # Errors
/// The database belongs to another application; or `COMMITS` proves that the database was an acceptor's.
pub(super) async fn refuse_foreign(directory: &DataDir) -> Result<(), StoreError> {
    let Err(refused) = refuse_foreign_file(&directory.file(ACCEPTOR_FILE), APPLICATION_ID).await else {
        return Ok(());
    };
    if let SqliteError::Foreign {
        found: application, ..
    } = refused
    {
        let found = counter_file::read(directory)?;
        let foreign = DatabaseContent::Foreign { application };
        agree_in_counter(found, &foreign).map_err(|wrong| named(directory, wrong))?;
    }
    Err(refused.into())
}

/// Examines the files of a directory, for a start as the acceptor `name`, or of any acceptor. Changes nothing.
///
/// # Errors
/// The disk lost commits; a file is damaged; the database belongs to a newer release or to another acceptor.
pub(super) async fn examine(directory: &DataDir, name: Option<&str>) -> Result<(), StoreError> {
    /// No page of a database.
    const NO_PAGE: u32 = 0;
    let database = directory.file(ACCEPTOR_FILE);
    let log = wal_path(&database);
    let found = counter_file::read(directory)?;
    // SQLite must not read a damaged log.
    commits_of(&log, NO_PAGE).await?;
    let (alone, whole) = if database.metadata().is_ok_and(|file| file.len() > 0) {
        look_both_ways(directory, is_first_start(found)).await?
    } else {
        (None, DatabaseContent::Nothing)
    };
    if let DatabaseContent::Acceptor { state_page, .. } = whole {
        let commits = commits_of(&log, state_page).await?;
        agree_in_time(alone.as_ref(), &whole, commits)
            .map_err(|what| StoreError::File { file: log, what })?;
    }
    agree_in_counter(found, &whole).map_err(|wrong| named(directory, wrong))?;
    whole.refusal(name).map_or(Ok(()), Err)
}

/// Content of the database without the log, if readable, and content with the log.
async fn look_both_ways(
    directory: &DataDir,
    is_first_start: bool,
) -> Result<(Option<DatabaseContent>, DatabaseContent), StoreError> {
    let database = directory.file(ACCEPTOR_FILE);
    let has_journal = directory.file(&format!("{ACCEPTOR_FILE}-journal")).exists();
    // Without the log, the file may be torn by a crash in the middle of a checkpoint: a torn file proves nothing.
    let alone = look(&database, true).await.ok();
    if let Some(whole) = &alone
        && wal_bytes(&wal_path(&database)) == 0
        && !has_journal
    {
        // Beside a database without a log, SQLite would leave new files.
        let whole = whole.clone();
        return Ok((alone, whole));
    }
    match look(&database, false).await {
        Ok(whole) => Ok((alone, whole)),
        // A crash in the very first start leaves a rollback journal, usable only by a writer. A later database of
        // ours has no journal, and no request was answered yet.
        Err(_) if is_first_start && has_journal => Ok((None, DatabaseContent::Nothing)),
        Err(error) => Err(error),
    }
}

/// Number of the commits in a log that wrote a page of the database.
async fn commits_of(log: &Path, page: u32) -> Result<u64, StoreError> {
    let path = log.to_owned();
    let walked = tokio::task::spawn_blocking(move || wal::walk(&path, page)).await;
    let walked = walked.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let walked = walked.map_err(|source| SqliteError::Directory {
        path: log.to_owned(),
        source,
    })?;
    walked.map_err(|damage| {
        let offset = damage.offset;
        StoreError::File {
            file: log.to_owned(),
            what: format!("is damaged at byte {offset}: the commits after this byte cannot be read"),
        }
    })
}

/// The error of [`agree_in_counter`], with the names of the files.
fn named(directory: &DataDir, (is_database, what): (bool, String)) -> StoreError {
    let counter = counter_file::path(directory);
    let what = what.replace("{COMMITS}", &counter.display().to_string());
    let file = if is_database {
        directory.file(ACCEPTOR_FILE)
    } else {
        counter
    };
    StoreError::File { file, what }
}

/// Whether no commit was counted yet.
fn is_first_start(found: Found) -> bool {
    matches!(
        found,
        Found::Missing | Found::Record(CounterRecord { uuid: None, .. })
    )
}

/// Compares the database alone with the database plus log: each commit of the log that writes the state record adds 1 to
/// the counter. Schema commits are the few exceptions, and only weaken this check. `commits`: number of the log's
/// commits that write the state record.
fn agree_in_time(
    alone: Option<&DatabaseContent>,
    whole: &DatabaseContent,
    commits: u64,
) -> Result<(), String> {
    let DatabaseContent::Acceptor { uuid, counter, .. } = whole else {
        return Ok(());
    };
    let is_so = match alone {
        None
        | Some(
            DatabaseContent::Foreign { .. }
            | DatabaseContent::Older { .. }
            | DatabaseContent::Newer { .. }
            | DatabaseContent::LaterProtocol { .. },
        ) => true,
        Some(DatabaseContent::Nothing) => counter.get() <= commits,
        Some(DatabaseContent::Acceptor {
            uuid: alone,
            counter: from,
            ..
        }) => alone == uuid && from <= counter && counter.get() - from.get() <= commits,
    };
    if is_so {
        return Ok(());
    }
    Err(format!(
        "does not belong to the database in the same directory: one of the two files is from another time (the log \
         holds {commits} commits and ends at commit {})",
        counter.get()
    ))
}

/// Compares the database and `COMMITS`. In an error, `true`: the database is wrong.
fn agree_in_counter(found: Found, whole: &DatabaseContent) -> Result<(), (bool, String)> {
    match (found, whole) {
        (Found::Missing, DatabaseContent::Acceptor { counter, version, .. }) if *version > OLD_VERSION => {
            Err((
                false,
                format!(
                    "is missing, but the database in the same directory holds {} commits",
                    counter.get()
                ),
            ))
        }
        (Found::Damaged, _) => Err((false, "is damaged: none of its records verifies".to_owned())),
        (
            Found::Record(CounterRecord {
                counter,
                uuid: Some(_),
            }),
            DatabaseContent::Nothing,
        ) => Err((
            true,
            format!(
                "holds nothing, but {{COMMITS}} proves that this acceptor answered for {} commits",
                counter.get()
            ),
        )),
        (
            Found::Record(CounterRecord { uuid: Some(_), .. }),
            DatabaseContent::Foreign { .. } | DatabaseContent::Older { .. },
        ) => Err((
            true,
            "is not an acceptor's database any more: the header is damaged, or the file was replaced"
                .to_owned(),
        )),
        (Found::Record(CounterRecord { uuid: Some(ours), .. }), DatabaseContent::Acceptor { uuid, .. })
            if ours != *uuid =>
        {
            Err((
                false,
                format!(
                    "belongs to acceptor {ours}, but the database in the same directory to acceptor {uuid}"
                ),
            ))
        }
        (Found::Record(CounterRecord { counter, .. }), DatabaseContent::Acceptor { counter: held, .. })
            if *held < counter =>
        {
            Err((
                true,
                format!(
                    "holds only the commits up to {}, but {{COMMITS}} proves that this acceptor answered for commit \
                     {}: the database or its write-ahead log lost commits",
                    held.get(),
                    counter.get()
                ),
            ))
        }
        (
            Found::Missing | Found::Record(_),
            DatabaseContent::Nothing
            | DatabaseContent::Foreign { .. }
            | DatabaseContent::Older { .. }
            | DatabaseContent::Newer { .. }
            | DatabaseContent::LaterProtocol { .. }
            | DatabaseContent::Acceptor { .. },
        ) => Ok(()),
    }
}

/// Reads a database; with `alone`, without the log. Writes nothing.
async fn look(file: &Path, alone: bool) -> Result<DatabaseContent, StoreError> {
    let mut connection = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .immutable(alone)
        .disable_statement_logging()
        .connect()
        .await?;
    let held = read(&mut connection).await;
    // A failure to close is ignored: the next open shows the same failure.
    drop(connection.close().await);
    held
}

async fn read(connection: &mut SqliteConnection) -> Result<DatabaseContent, StoreError> {
    // A transaction shows a single moment.
    let mut transaction = connection.begin().await?;
    let row = sqlx::query(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_schema)
         FROM pragma_user_version, pragma_application_id",
    )
    .fetch_one(&mut *transaction)
    .await?;
    let (version, application, objects): (i64, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if (version, application, objects) == (0, 0, 0) {
        return Ok(DatabaseContent::Nothing);
    }
    if application != i64::from(APPLICATION_ID) {
        return Ok(DatabaseContent::Foreign { application });
    }
    if version < OLD_VERSION {
        return Ok(DatabaseContent::Older { version });
    }
    if version > i64::from(SCHEMA_VERSION) {
        return Ok(DatabaseContent::Newer { version });
    }
    let Some((uuid, name)) = load_identity(&mut transaction).await? else {
        return Ok(DatabaseContent::Nothing);
    };
    let identity = Identity::new(uuid);
    let columns = match version {
        OLD_VERSION => OLD_STATE,
        2 | 3 => STATE_BEFORE_ERAS,
        _ => STATE,
    };
    let sql = format!("SELECT {columns} FROM state WHERE only = 0");
    let row = sqlx::query(AssertSqlSafe(sql))
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(StoreError::Damaged("state"))?;
    let moment = if version == OLD_VERSION {
        read_old_state(&identity, &row).ok_or(StoreError::Damaged("state"))?
    } else {
        identity.read_state(&row)?.moment
    };
    if moment.least_version > PROTOCOL_VERSION {
        let least_version = moment.least_version;
        return Ok(DatabaseContent::LaterProtocol { least_version });
    }
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'state'";
    let state_page: i64 = sqlx::query_scalar(sql).fetch_one(&mut *transaction).await?;
    Ok(DatabaseContent::Acceptor {
        uuid,
        name,
        counter: moment.commit_counter,
        version,
        state_page: u32::try_from(state_page).map_err(|_| StoreError::Damaged("state"))?,
    })
}

/// Copies the write-ahead log into the database and truncates the log to zero bytes.
///
/// After a failed sync the kernel takes the unwritten pages for clean. SQLite ends the log at the first missing frame,
/// so a commit behind such pages would be answered, and lost with the next power loss. So no commit of this process
/// stands behind a frame of an earlier process: all frames are written and synced again. While another process reads
/// the file, this call waits and logs once.
///
/// # Errors
/// The write failed.
///
/// # Cancel safety
/// Safe: the log may be whole or empty.
pub(super) async fn empty_log(connection: &mut SqliteConnection, file: &Path) -> Result<(), StoreError> {
    let mut waits = false;
    while !empty_wal(&mut *connection).await? {
        if !waits {
            waits = true;
            tracing::warn!(
                file = %file.display(),
                "another process reads this file: the start waits until that process has finished (`fuser FILE` \
                 names the process)"
            );
        }
        sleep(RETRY_INTERVAL).await;
    }
    if waits {
        tracing::info!(file = %file.display(), "the other process has finished: the start continues");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acceptor(uuid: u128, counter: u64) -> DatabaseContent {
        DatabaseContent::Acceptor {
            uuid: AcceptorUuid::from_u128(uuid),
            name: "a1".into(),
            counter: CommitCounter::new(counter),
            version: i64::from(SCHEMA_VERSION),
            state_page: 3,
        }
    }

    const FOREIGN: DatabaseContent = DatabaseContent::Foreign { application: 7 };
    const OLDER: DatabaseContent = DatabaseContent::Older { version: 0 };
    const NEWER: DatabaseContent = DatabaseContent::Newer { version: 99 };

    fn record(uuid: Option<u128>, counter: u64) -> Found {
        Found::Record(CounterRecord {
            counter: CommitCounter::new(counter),
            uuid: uuid.map(AcceptorUuid::from_u128),
        })
    }

    #[test]
    fn log_belongs_to_a_database_that_it_continues() {
        let agree = |alone: Option<DatabaseContent>, commits| {
            agree_in_time(alone.as_ref(), &acceptor(1, 20), commits).is_ok()
        };
        assert!(agree(None, 0) && agree(Some(FOREIGN), 0) && agree(Some(OLDER), 0) && agree(Some(NEWER), 0));
        assert!(agree(Some(acceptor(1, 20)), 0) && agree(Some(acceptor(1, 15)), 5));
        assert!(agree(Some(acceptor(1, 18)), 5), "a part of it was copied");
        assert!(agree(Some(DatabaseContent::Nothing), 21));
        assert!(!agree(Some(acceptor(1, 14)), 5), "the database is older");
        assert!(!agree(Some(acceptor(1, 21)), 5), "the log is older");
        assert!(!agree(Some(acceptor(2, 18)), 5), "the log is another acceptor's");
        assert!(!agree(Some(DatabaseContent::Nothing), 5));
    }

    #[test]
    fn database_that_lost_commits_or_its_counter_is_refused() {
        let agree = |found, held: DatabaseContent| agree_in_counter(found, &held).is_ok();
        assert!(
            agree(Found::Missing, DatabaseContent::Nothing)
                && agree(record(None, 0), DatabaseContent::Nothing)
        );
        assert!(
            agree(record(None, 0), acceptor(1, 1)),
            "a crash in the first start"
        );
        assert!(agree(record(Some(1), 7), acceptor(1, 7)) && agree(record(Some(1), 7), acceptor(1, 9)));
        assert!(!agree(record(Some(1), 7), acceptor(1, 6)));
        assert!(!agree(record(Some(2), 7), acceptor(1, 7)));
        assert!(!agree(record(Some(1), 7), DatabaseContent::Nothing));
        assert!(!agree(Found::Missing, acceptor(1, 7)) && !agree(Found::Damaged, acceptor(1, 7)));
        assert!(!agree(Found::Damaged, DatabaseContent::Nothing));
        assert!(!agree(record(Some(1), 7), FOREIGN) && !agree(record(Some(1), 7), OLDER));
        // The counter says nothing against these: each has a refusal of its own.
        assert!(agree(record(Some(1), 7), NEWER) && agree(Found::Missing, FOREIGN));
        let old = DatabaseContent::Acceptor {
            uuid: AcceptorUuid::from_u128(1),
            name: "a1".into(),
            counter: CommitCounter::new(7),
            version: OLD_VERSION,
            state_page: 3,
        };
        assert!(agree(Found::Missing, old), "it never had one");
    }

    #[test]
    fn database_of_another_release_or_acceptor_is_refused() {
        let refused = |content: DatabaseContent, name| content.refusal(name).map(|error| error.to_string());
        for content in [FOREIGN, OLDER, NEWER] {
            assert!(refused(content.clone(), None).is_some(), "{content:?}");
        }
        assert_eq!(refused(DatabaseContent::Nothing, Some("a1")), None);
        assert_eq!(refused(acceptor(1, 7), Some("a1")), None);
        assert_eq!(refused(acceptor(1, 7), None), None);
        let other = refused(acceptor(1, 7), Some("a2")).unwrap();
        assert!(other.contains("belongs to acceptor \"a1\""), "{other}");
    }
}
