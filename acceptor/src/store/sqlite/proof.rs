//! Proves at start, before SQLite may write, that the disk holds every answered commit.
//!
//! Three parts must agree: the database file alone, the write-ahead log, and the counter in `COMMITS`. A process
//! refused here leaves all files unchanged.

use std::{path::Path, time::Duration};

use paxos_common::{
    paxos::identity::{AcceptorUuid, CommitCounter},
    sqlite::{
        DataDir, SqliteError, refuse_foreign_file,
        wal_limit::{empty_wal, wal_path},
    },
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use tokio::time::sleep;

use super::{
    super::StoreError,
    APPLICATION_ID, FILE, Identity, SCHEMA_VERSION,
    counter_file::{self, CounterRecord, Found},
    recovery::load_identity,
    state::STATE,
    upgrade::{OLD_STATE, OLD_VERSION, read_old_state},
    wal,
};

/// Pause before the next attempt to empty the write-ahead log at start, while another process reads the file.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Content of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DatabaseContent {
    /// No acceptor yet: no file, no schema, or no identity.
    Nothing,
    /// Foreign content: the file was replaced, or the header is damaged.
    Foreign,
    /// Content of a newer release; opening the file is refused.
    Newer,
    /// An acceptor.
    Acceptor {
        uuid: AcceptorUuid,
        counter: CommitCounter,
        version: i64,
        /// The page of the state record: every counted commit writes this page, and no sweep does.
        state_page: u32,
    },
}

/// Refuses a database of another application, and changes nothing. Call this before SQLite opens the database.
///
/// # Errors
/// The database belongs to another application; or `COMMITS` proves that the database was an acceptor's.
pub(super) async fn refuse_foreign(directory: &DataDir) -> Result<(), StoreError> {
    let Err(refused) = refuse_foreign_file(&directory.file(FILE), APPLICATION_ID).await else {
        return Ok(());
    };
    if matches!(refused, SqliteError::Foreign { .. }) {
        let found = counter_file::read(directory)?;
        agree_in_counter(found, DatabaseContent::Foreign).map_err(|wrong| named(directory, wrong))?;
    }
    Err(refused.into())
}

/// Examines the files of a directory. Changes nothing.
///
/// # Errors
/// The disk lost commits, or a file is damaged.
pub(super) async fn examine(directory: &DataDir) -> Result<(), StoreError> {
    let database = directory.file(FILE);
    let log = wal_path(&database);
    let found = counter_file::read(directory)?;
    let path = log.clone();
    let walked = tokio::task::spawn_blocking(move || wal::walk(&path)).await;
    let walked = walked.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let walked = walked.map_err(|source| SqliteError::Directory {
        path: log.clone(),
        source,
    })?;
    let sound = match walked {
        Ok(sound) => sound,
        Err(damage) => {
            let what = format!(
                "is damaged at byte {}: the commits after this byte cannot be read",
                damage.offset
            );
            return Err(StoreError::File { file: log, what });
        }
    };
    let (alone, whole) = if database.metadata().is_ok_and(|file| file.len() > 0) {
        // Without the log, the file may be torn by a crash in the middle of a checkpoint: a torn file proves nothing.
        let alone = look(&database, true).await.ok();
        match look(&database, false).await {
            Ok(whole) => (alone, whole),
            // A crash in the very first start leaves a rollback journal, usable only by a writer. A later database of
            // ours has no journal, and no request was answered yet.
            Err(_) if is_first_start(found) && directory.file(&format!("{FILE}-journal")).exists() => {
                (None, DatabaseContent::Nothing)
            }
            Err(error) => return Err(error),
        }
    } else {
        (None, DatabaseContent::Nothing)
    };
    agree_in_time(alone, whole, |page| sound.commits_of(page))
        .map_err(|what| StoreError::File { file: log, what })?;
    agree_in_counter(found, whole).map_err(|wrong| named(directory, wrong))
}

/// The error of [`agree_in_counter`], with the names of the files.
fn named(directory: &DataDir, (is_database, what): (bool, String)) -> StoreError {
    let counter = counter_file::path(directory);
    let what = what.replace("{COMMITS}", &counter.display().to_string());
    let file = if is_database {
        directory.file(FILE)
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
/// the counter. Schema commits are the few exceptions, and only weaken this check. `commits_of`: number of the log's
/// commits that write a page.
fn agree_in_time(
    alone: Option<DatabaseContent>,
    whole: DatabaseContent,
    commits_of: impl FnOnce(u32) -> u64,
) -> Result<(), String> {
    let DatabaseContent::Acceptor {
        uuid,
        counter,
        state_page,
        ..
    } = whole
    else {
        return Ok(());
    };
    let commits = commits_of(state_page);
    let is_so = match alone {
        None | Some(DatabaseContent::Foreign | DatabaseContent::Newer) => true,
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
fn agree_in_counter(found: Found, whole: DatabaseContent) -> Result<(), (bool, String)> {
    match (found, whole) {
        (Found::Missing, DatabaseContent::Acceptor { counter, version, .. }) if version > OLD_VERSION => {
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
        (Found::Record(CounterRecord { uuid: Some(_), .. }), DatabaseContent::Foreign) => Err((
            true,
            "is not an acceptor's database any more: the header is damaged, or the file was replaced"
                .to_owned(),
        )),
        (Found::Record(CounterRecord { uuid: Some(ours), .. }), DatabaseContent::Acceptor { uuid, .. })
            if ours != uuid =>
        {
            Err((
                false,
                format!(
                    "belongs to acceptor {ours}, but the database in the same directory to acceptor {uuid}"
                ),
            ))
        }
        (Found::Record(CounterRecord { counter, .. }), DatabaseContent::Acceptor { counter: held, .. })
            if held < counter =>
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
            | DatabaseContent::Foreign
            | DatabaseContent::Newer
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
    if application != i64::from(APPLICATION_ID) || version < OLD_VERSION {
        return Ok(DatabaseContent::Foreign);
    }
    if version > i64::from(SCHEMA_VERSION) {
        return Ok(DatabaseContent::Newer);
    }
    let Some((uuid, _)) = load_identity(&mut transaction).await? else {
        return Ok(DatabaseContent::Nothing);
    };
    let identity = Identity::new(uuid);
    let columns = if version == OLD_VERSION { OLD_STATE } else { STATE };
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
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'state'";
    let state_page: i64 = sqlx::query_scalar(sql).fetch_one(&mut *transaction).await?;
    Ok(DatabaseContent::Acceptor {
        uuid,
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
            counter: CommitCounter::new(counter),
            version: i64::from(SCHEMA_VERSION),
            state_page: 3,
        }
    }

    fn record(uuid: Option<u128>, counter: u64) -> Found {
        Found::Record(CounterRecord {
            counter: CommitCounter::new(counter),
            uuid: uuid.map(AcceptorUuid::from_u128),
        })
    }

    #[test]
    fn log_belongs_to_a_database_that_it_continues() {
        let agree = |alone, commits| agree_in_time(alone, acceptor(1, 20), |_| commits).is_ok();
        assert!(agree(None, 0) && agree(Some(DatabaseContent::Foreign), 0));
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
        let agree = |found, held| agree_in_counter(found, held).is_ok();
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
        assert!(!agree(record(Some(1), 7), DatabaseContent::Foreign));
        // `agree` accepts both cases: opening the file reports a separate error for each.
        assert!(
            agree(record(Some(1), 7), DatabaseContent::Newer)
                && agree(Found::Missing, DatabaseContent::Foreign)
        );
        let old = DatabaseContent::Acceptor {
            uuid: AcceptorUuid::from_u128(1),
            counter: CommitCounter::new(7),
            version: OLD_VERSION,
            state_page: 3,
        };
        assert!(agree(Found::Missing, old), "it never had one");
    }
}
