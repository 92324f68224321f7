//! The schema of a file: created in a blank file, upgraded from older versions, and refused in every other case.

use std::future::Future;

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::{SqliteError, foreign_file::FileMarks};

/// The upgrades of a role's files.
pub trait SchemaSteps: Sync {
    /// Why a step fails.
    type Error: From<SqliteError> + From<sqlx::Error>;

    /// The oldest version that the steps upgrade. Older files are refused.
    const OLDEST: i64;

    /// Upgrades a file from version `from` to the next version. All steps of a file run in one transaction, and
    /// [`migrate_by_steps`] writes the new version.
    ///
    /// # Errors
    /// The file is damaged, or the write failed: the file stays unchanged.
    fn upgrade(
        &self,
        transaction: &mut SqliteConnection,
        from: i64,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Brings a file to `version` of the schema: creates the schema in a blank file in one transaction, accepts a file of
/// this version unchanged, and refuses every other file. Returns whether the file was blank.
///
/// `application_id` marks the file as ours and distinguishes the files of different roles.
///
/// # Errors
/// [`SqliteError::Foreign`], [`SqliteError::Newer`], [`SqliteError::Older`].
pub async fn migrate(
    connection: &mut SqliteConnection,
    schema_sql: &str,
    version: i32,
    application_id: i32,
) -> Result<bool, SqliteError> {
    migrate_by_steps(connection, schema_sql, version, application_id, &NoSteps).await
}

/// As [`migrate`], and upgrades an older file, in one transaction. An upgrade is logged in one line.
///
/// # Errors
/// As [`migrate`], and the errors of the steps. The file is unchanged.
pub async fn migrate_by_steps<S: SchemaSteps>(
    connection: &mut SqliteConnection,
    schema_sql: &str,
    version: i32,
    application_id: i32,
    steps: &S,
) -> Result<bool, S::Error> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let marks = FileMarks::of(&mut transaction).await?;
    let (supported, expected) = (i64::from(version), i64::from(application_id));
    if marks.is_blank() {
        // Both pragmas are in the file's header and are part of the transaction.
        let sql =
            format!("{schema_sql};\nPRAGMA application_id = {expected};\nPRAGMA user_version = {supported};");
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        return Ok(true);
    }
    let found = marks.user_version;
    let refusal = match marks.check(application_id) {
        Err(foreign) => Some(foreign),
        Ok(()) if found > supported => Some(SqliteError::Newer { found, supported }),
        Ok(()) if found < supported && found < S::OLDEST => Some(SqliteError::Older { found, supported }),
        Ok(()) => None,
    };
    if let Some(refusal) = refusal {
        transaction.rollback().await?;
        return Err(refusal.into());
    }
    if found == supported {
        transaction.rollback().await?;
        return Ok(false);
    }
    for from in found..supported {
        steps.upgrade(&mut transaction, from).await?;
    }
    let sql = format!("PRAGMA user_version = {supported}");
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    tracing::info!(
        from = found,
        to = supported,
        "upgraded the data file to the schema of this release: no older release reads the file any more"
    );
    Ok(false)
}

/// For files without upgrades.
struct NoSteps;

impl SchemaSteps for NoSteps {
    type Error = SqliteError;

    const OLDEST: i64 = i64::MAX;

    async fn upgrade(&self, _transaction: &mut SqliteConnection, _from: i64) -> Result<(), SqliteError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::open_writer;

    const SCHEMA: &str =
        "CREATE TABLE one (id INTEGER PRIMARY KEY); CREATE TABLE two (id INTEGER PRIMARY KEY)";

    #[tokio::test]
    async fn schema_is_created_once_and_other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open_writer(&directory.path().join("test.db"), 700).await.unwrap();
        assert!(migrate(&mut connection, SCHEMA, 2, 7).await.unwrap());
        assert!(!migrate(&mut connection, SCHEMA, 2, 7).await.unwrap());
        let newer = migrate(&mut connection, SCHEMA, 1, 7).await.unwrap_err();
        assert!(newer.to_string().contains("newer release"), "{newer}");
        assert!(matches!(
            migrate(&mut connection, SCHEMA, 3, 7).await,
            Err(SqliteError::Older { .. })
        ));
        assert!(matches!(
            migrate(&mut connection, SCHEMA, 2, 8).await,
            Err(SqliteError::Foreign { .. })
        ));

        let mut other = open_writer(&directory.path().join("other.db"), 700)
            .await
            .unwrap();
        sqlx::raw_sql("CREATE TABLE theirs (id)")
            .execute(&mut other)
            .await
            .unwrap();
        assert!(matches!(
            migrate(&mut other, SCHEMA, 1, 7).await,
            Err(SqliteError::Foreign { .. })
        ));
    }

    #[tokio::test]
    async fn schema_that_fails_leaves_the_file_blank() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open_writer(&directory.path().join("test.db"), 700).await.unwrap();
        assert!(
            migrate(&mut connection, "CREATE TABLE one (id); nonsense", 1, 7)
                .await
                .is_err()
        );
        assert!(migrate(&mut connection, SCHEMA, 1, 7).await.unwrap());
    }

    /// Each step adds a table named after the version.
    struct Tables {
        /// The step from this version fails after its write.
        fails: Option<i64>,
    }

    impl SchemaSteps for Tables {
        type Error = SqliteError;

        const OLDEST: i64 = 2;

        async fn upgrade(&self, transaction: &mut SqliteConnection, from: i64) -> Result<(), SqliteError> {
            let sql = format!("CREATE TABLE from_{from} (id)");
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut *transaction)
                .await?;
            if self.fails == Some(from) {
                sqlx::raw_sql("nonsense").execute(transaction).await?;
            }
            Ok(())
        }
    }

    /// The version in the file, and the names of its tables.
    async fn content(connection: &mut SqliteConnection) -> (i64, Vec<String>) {
        let version = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *connection)
            .await;
        let tables = sqlx::query_scalar("SELECT name FROM sqlite_schema ORDER BY name")
            .fetch_all(connection)
            .await;
        (version.unwrap(), tables.unwrap())
    }

    #[tokio::test]
    async fn older_file_takes_every_step_or_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open_writer(&directory.path().join("test.db"), 700).await.unwrap();
        let steps = Tables { fails: Some(3) };
        migrate(&mut connection, SCHEMA, 2, 7).await.unwrap();
        let before = content(&mut connection).await;
        assert!(
            migrate_by_steps(&mut connection, SCHEMA, 4, 7, &steps)
                .await
                .is_err()
        );
        assert_eq!(content(&mut connection).await, before);
        let steps = Tables { fails: None };
        assert!(
            !migrate_by_steps(&mut connection, SCHEMA, 4, 7, &steps)
                .await
                .unwrap()
        );
        let tables = ["from_2", "from_3", "one", "two"].map(str::to_owned).to_vec();
        assert_eq!(content(&mut connection).await, (4, tables));
        assert!(
            !migrate_by_steps(&mut connection, SCHEMA, 4, 7, &steps)
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn file_older_than_the_first_step_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut connection = open_writer(&directory.path().join("test.db"), 700).await.unwrap();
        migrate(&mut connection, SCHEMA, 1, 7).await.unwrap();
        let refused = migrate_by_steps(&mut connection, SCHEMA, 4, 7, &Tables { fails: None }).await;
        assert!(matches!(
            refused,
            Err(SqliteError::Older {
                found: 1,
                supported: 4
            })
        ));
        assert_eq!(content(&mut connection).await.0, 1);
    }
}
