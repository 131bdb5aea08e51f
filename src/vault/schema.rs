//! The database's tables and how it is opened. The only place that knows it is SQLite.
//!
//! A commit is durable when it returns: a write-ahead log with `synchronous=FULL`, which syncs the log on every commit
//! (sqlite.org/pragma.html#pragma_synchronous). Deleted rows are overwritten, temporary tables stay in memory.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection};

use super::durable;
use super::error::{Cause, DatabaseError};
use super::key::KeyId;

static MIGRATOR: Migrator = sqlx::migrate!("src/vault/migrations");

/// Stands in the file's header and says whose it is (sqlite.org/pragma.html#pragma_application_id): "SdKy".
const APPLICATION: i64 = 0x5364_4b79;

/// How long somebody waits for a connection or for another process before being told that the vault is busy.
const PATIENCE: Duration = Duration::from_secs(5);

const READERS: u32 = 4;

const PAGE: u32 = 4096;

/// Each statement is told at `sqlx::query=debug`, one that takes longer than a second as a warning: its text, which is a
/// constant of the program, and never what is bound to it.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        .pragma("temp_store", "memory")
        .pragma("trusted_schema", "off")
        .pragma("cell_size_check", "on")
}

fn writing(path: &Path) -> SqliteConnectOptions {
    options(path)
        .page_size(PAGE)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("secure_delete", "on")
        // The log is moved by somebody else than who waits for a change (`checkpoint`).
        .pragma("wal_autocheckpoint", "0")
}

/// A connection for one look that changes nothing: without a log the file is taken as it is and no lock, log or index
/// file is made; with one, the log is read too.
pub(super) async fn look(path: &Path) -> Result<SqliteConnection, DatabaseError> {
    let length = path.metadata().map_err(DatabaseError::file("look at", path))?.len();
    let log = durable::beside(path, "-wal").metadata().map_or(0, |log| log.len());
    if length == 0 && log == 0 {
        return Err(DatabaseError::Damaged { path: path.to_owned(), problem: "is empty" });
    }
    if length % u64::from(PAGE) != 0 && log == 0 {
        return Err(DatabaseError::Damaged { path: path.to_owned(), problem: "is damaged or cut short" });
    }
    let mut connection =
        options(path).read_only(true).immutable(log == 0).connect().await.map_err(DatabaseError::opening(path))?;
    let foreign = DatabaseError::Damaged { path: path.to_owned(), problem: "is not a vault of sidekey" };
    let application: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut connection)
        .await
        .map_err(DatabaseError::opening(path))?;
    if application == APPLICATION { Ok(connection) } else { Err(foreign) }
}

/// The master key that a vault was sealed with.
pub(super) async fn wanted_key(connection: &mut SqliteConnection, path: &Path) -> Result<KeyId, DatabaseError> {
    let id: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'master_key'")
        .fetch_optional(connection)
        .await
        .map_err(DatabaseError::opening(path))?;
    let missing = DatabaseError::Damaged { path: path.to_owned(), problem: "does not say which master key it needs" };
    id.map(|id| KeyId::stored(&id)).ok_or(missing)
}

/// Makes the tables in a file that is there and empty.
pub(super) async fn create(path: &Path) -> Result<SqliteConnection, DatabaseError> {
    let mut connection = writing(path).connect().await?;
    sqlx::query("PRAGMA application_id = 1399081849").execute(&mut connection).await?;
    migrate(&mut connection, path).await?;
    Ok(connection)
}

/// Brings the tables up to date.
async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), DatabaseError> {
    MIGRATOR.run(connection).await.map_err(|error| match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => error.into(),
        MigrateError::VersionMissing(_) | MigrateError::VersionTooNew(..) => DatabaseError::Newer(path.to_owned()),
        _ => DatabaseError::Damaged { path: path.to_owned(), problem: "has tables that this sidekey did not make" },
    })
}

/// The connections of an open vault.
pub(super) struct Pools {
    /// The one that writes.
    pub writer: SqlitePool,
    /// Those that read.
    pub readers: SqlitePool,
    /// The one that moves the log into the file.
    pub checkpointer: SqlitePool,
}

/// Opens a vault, and brings its tables up to date.
pub(super) async fn open(path: &Path) -> Result<Pools, DatabaseError> {
    let pool = || {
        SqlitePoolOptions::new()
            .acquire_timeout(PATIENCE)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
    };
    let opening = DatabaseError::opening(path);
    let writer = pool().max_connections(1).connect_with(writing(path)).await.map_err(&opening)?;
    migrate(&mut *writer.acquire().await?, path).await?;
    let readers =
        pool().max_connections(READERS).connect_with(options(path).read_only(true)).await.map_err(&opening)?;
    let checkpointer = pool().max_connections(1).connect_with(writing(path)).await.map_err(&opening)?;
    Ok(Pools { writer, readers, checkpointer })
}

/// Call this after a transaction that failed. On some errors, such as a full disk, the engine ends the transaction
/// itself (sqlite.org/lang_transaction.html §3); the driver would then count it as open for ever and refuse the next
/// one. And a connection that was opened while the file could not be written can never write. Such a connection is
/// closed, and the next change gets a new one.
pub(super) async fn settle(writer: &mut PoolConnection<Sqlite>, error: &DatabaseError) {
    let is_read_only = matches!(error, DatabaseError::Unavailable(Cause::ReadOnly));
    // What was queued when the transaction was dropped is done before this is answered.
    if writer.ping().await.is_err() || writer.is_in_transaction() || is_read_only {
        writer.close_on_drop();
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
