//! What a process that stops puts down of the use of credentials, for the next one to sort out.
//!
//! Sorting a batch into its tables takes many times as long as writing it, and a stop has little time.

use sqlx::Row;

use super::super::database::Database;
use super::super::error::DatabaseError;

/// One batch as it was put down.
#[derive(Debug)]
pub struct PutDown {
    /// Which.
    pub id: i64,
    /// The counters, in a form that is their writer's own.
    pub uses: Vec<u8>,
}

impl Database {
    /// Puts a batch down.
    pub async fn put_down(&self, uses: Vec<u8>) -> Result<(), DatabaseError> {
        let written = async {
            self.inner.check_writable()?;
            let mut writer = self.inner.writer.acquire().await?;
            sqlx::query("INSERT INTO put_down (uses) VALUES ($1)").bind(uses).execute(&mut *writer).await?;
            Ok(())
        };
        written.await.map_err(|error| self.inner.note(error))
    }

    /// The oldest batch that nobody has sorted out yet. It goes when its counters are added
    /// ([`add_usage`](Database::add_usage)), in the same transaction.
    pub async fn oldest_put_down(&self) -> Result<Option<PutDown>, DatabaseError> {
        self.inner.counters.read();
        let query = sqlx::query("SELECT id, uses FROM put_down ORDER BY id LIMIT 1");
        let row = query.fetch_optional(&self.inner.readers).await?;
        row.map(|row| Ok(PutDown { id: row.try_get("id")?, uses: row.try_get("uses")? })).transpose()
    }
}
