//! The log and the file: what is committed is in the log; later it is moved into the file.
//!
//! That is done aside, once a second where something was written, by a connection of its own: a change waits for its own
//! few pages to be on disk, and never for those of hundreds of changes before it, which in a large vault lie far apart.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use sqlx::sqlite::SqlitePool;
use sqlx::{Row, SqliteConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::database::Inner;
use super::durable;
use super::error::{Cause, DatabaseError};
use crate::clock;

/// How often it is looked whether something was written.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long somebody who needs an empty log waits for others who move it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The task that moves the log.
#[derive(Debug)]
pub(super) struct Checkpoints {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Checkpoints {
    /// Begins, with a pool of one connection that is used for nothing else.
    pub(super) fn begin(inner: &Arc<Inner>, pool: SqlitePool) -> Self {
        let (log, stop) = (durable::beside(&inner.path, "-wal"), CancellationToken::new());
        let task = inner.runtime.spawn(run(Arc::downgrade(inner), log, pool, stop.clone()));
        Checkpoints { task, stop }
    }

    /// Ends, when what is under way is done.
    pub(super) async fn end(self) {
        self.stop.cancel();
        // It panics nowhere; were it so, the log is moved by who closes the vault.
        let _ = self.task.await;
    }
}

async fn run(vault: Weak<Inner>, log: PathBuf, pool: SqlitePool, stop: CancellationToken) {
    let mut moved: Option<SystemTime> = None;
    while stop.run_until_cancelled(clock::sleep(INTERVAL)).await.is_some() {
        // Taken before: what is written meanwhile is looked at the next time.
        let written = log.metadata().and_then(|log| log.modified()).ok();
        if written.is_none() || written == moved {
            continue;
        }
        // Whoever reads or writes is not kept waiting.
        match sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&pool).await {
            Ok(_) => moved = written,
            // On a full disk the log stays as it is, and is whole.
            Err(error) => {
                let Some(vault) = vault.upgrade() else { break };
                let error = vault.note(error.into());
                tracing::debug!(%error, "the log of the vault was not moved into its file");
            }
        }
    }
    pool.close().await;
}

/// Moves the log into the file and empties it, so that nothing that was replaced stays in it.
pub(super) async fn empty_log(connection: &mut SqliteConnection) -> Result<(), DatabaseError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await?;
        // Nobody waits for another checkpoint, not even with a timeout (sqlite.org/c3ref/wal_checkpoint_v2.html).
        if row.try_get::<i64, _>(0)? == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(DatabaseError::Unavailable(Cause::Busy));
        }
        clock::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::fixture::Home;

    #[tokio::test]
    async fn what_is_committed_gets_into_the_file_aside() {
        let home = Home::new();
        let database = home.open().await;
        let organization = database.default_organization().await;
        let length = || home.vault().metadata().map_or(0, |file| file.len());
        let before = length();
        for number in 0..20 {
            database.put_connection(organization, &format!("connection-{number}")).await;
        }
        // Nobody does anything more, and nothing is closed.
        let until = Instant::now() + 20 * INTERVAL;
        while length() == before {
            assert!(Instant::now() < until, "the file is as it was");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut writer = database.inner.writer.acquire().await.unwrap();
        empty_log(&mut writer).await.unwrap();
        assert_eq!(durable::beside(&home.vault(), "-wal").metadata().unwrap().len(), 0);
        drop(writer);
        database.close().await;
    }
}
