//! What was answered to requests that may be sent again: each is done once, whoever sends it twice is answered the same.
//!
//! That a request was done is written in the transaction of what it did. So however a process ends in between, either
//! both are there or neither, and a request that is sent again after it was lost is done, or was.

use sqlx::{Row, SqliteConnection};
use tracing::Instrument;

use super::change::Change;
use super::database::Database;
use super::error::{Cause, DatabaseError};
use super::key::DataKey;
use super::query;
use super::schema;
use super::seal::Purpose;

/// How long an answer is kept, in milliseconds: a day.
const KEPT: i64 = 24 * 60 * 60 * 1_000;
/// How many answers are kept for one actor, the latest.
const MOST_OF_AN_ACTOR: i64 = 1_000;
/// How many answers are kept.
const MOST: i64 = 20_000;

/// A request that is done once, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// Who sends it.
    pub actor: String,
    /// What its sender calls it.
    pub key: String,
    /// What it says, as [`Database::fingerprint`] tells one request from others.
    pub fingerprint: [u8; 32],
}

/// What was answered to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Where what was made is.
    pub location: Option<String>,
    /// Its version.
    pub etag: Option<String>,
    /// The document, without what is shown only once.
    pub body: Option<String>,
}

/// A request that was done before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What it said.
    pub fingerprint: [u8; 32],
    /// What was answered; `None` where the process ended before that was known.
    pub answer: Option<Answer>,
}

impl Change {
    /// The change itself, with the request that it is done for.
    pub(super) fn once(self) -> (Option<Once>, Change) {
        match self {
            Change::Once { once, change } => (Some(once), *change),
            change => (None, change),
        }
    }
}

impl Database {
    /// What tells a request from others. It is keyed, so that nobody who reads the vault can guess what was in one.
    pub async fn fingerprint(&self, request: &[u8]) -> Result<[u8; 32], DatabaseError> {
        let masters = self.inner.masters.all();
        let row = sqlx::query(
            "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys \
             WHERE organization_id IS NULL AND purpose = $1 \
             ORDER BY created_at, id LIMIT 1",
        )
        .bind(Purpose::Digest.as_str())
        .fetch_one(&self.inner.readers)
        .await?;
        let key: DataKey = self.inner.unwrap(&masters, &query::wrapped_key(&row)?)?;
        Ok(key.fingerprint(request))
    }

    /// The request that an actor calls by this key, if it was done lately.
    pub async fn done(&self, actor: &str, key: &str) -> Result<Option<Done>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query(
            "SELECT digest, status, location, etag, body FROM answers WHERE actor = $1 AND key = $2 AND created_at > $3",
        )
        .bind(actor)
        .bind(key)
        .bind(schema::now() - KEPT)
        .fetch_optional(&self.inner.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let digest: Vec<u8> = row.try_get("digest")?;
        let status: Option<u16> = row.try_get("status")?;
        let answer = |status| {
            let (location, etag, body) = (row.try_get("location")?, row.try_get("etag")?, row.try_get("body")?);
            Ok::<_, DatabaseError>(Answer { status, location, etag, body })
        };
        let fingerprint = digest.try_into().map_err(|_| query::corrupt("answer", key))?;
        Ok(Some(Done { fingerprint, answer: status.map(answer).transpose()? }))
    }

    /// Keeps what was answered to a request that was done.
    pub async fn keep_answer(&self, once: &Once, answer: Answer) -> Result<(), DatabaseError> {
        let (inner, once) = (self.inner.clone(), once.clone());
        let work = async move {
            inner.check_writable()?;
            let mut writer = inner.writer.acquire().await?;
            let kept = sqlx::query(
                "UPDATE answers SET status = $3, location = $4, etag = $5, body = $6 WHERE actor = $1 AND key = $2",
            )
            .bind(once.actor)
            .bind(once.key)
            .bind(answer.status)
            .bind(answer.location)
            .bind(answer.etag)
            .bind(answer.body)
            .execute(&mut *writer)
            .await
            .map_err(DatabaseError::from);
            if let Err(error) = &kept {
                schema::settle(&mut writer, error).await;
            }
            kept.map(drop).map_err(|error| inner.note(error))
        };
        let task = self.inner.runtime.spawn(work.in_current_span());
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

/// Writes that a request is done, in the transaction of what it does. Forgets what is too old, or too much.
pub(super) async fn mark(connection: &mut SqliteConnection, once: &Once) -> Result<(), DatabaseError> {
    let now = schema::now();
    sqlx::query("DELETE FROM answers WHERE created_at <= $1").bind(now - KEPT).execute(&mut *connection).await?;
    let marked = sqlx::query(
        "INSERT INTO answers (actor, key, digest, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(&once.actor)
    .bind(&once.key)
    .bind(&once.fingerprint[..])
    .bind(now)
    .execute(&mut *connection)
    .await?;
    if marked.rows_affected() == 0 {
        return Err(DatabaseError::Conflict("a request with this Idempotency-Key was done meanwhile".to_owned()));
    }
    sqlx::query(
        "DELETE FROM answers WHERE rowid IN \
         (SELECT rowid FROM answers WHERE actor = $1 ORDER BY created_at DESC LIMIT -1 OFFSET $2)",
    )
    .bind(&once.actor)
    .bind(MOST_OF_AN_ACTOR)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY created_at DESC LIMIT -1 OFFSET $1)",
    )
    .bind(MOST)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::audit::Author;
    use crate::vault::fixture::{Home, environment};

    fn once(key: &str) -> Once {
        Once { actor: "apk_1".to_owned(), key: key.to_owned(), fingerprint: [7; 32] }
    }

    #[tokio::test]
    async fn a_request_is_done_once_and_what_failed_was_not_done() {
        let home = Home::new();
        let database = home.open().await;
        let organization = database.default_organization().await;
        let create = |name: &str, key: &str| Change::Once {
            once: once(key),
            change: Box::new(Change::CreateEnvironment { organization, name: environment(name) }),
        };
        let author = Author::system("test");
        assert_eq!(database.done("apk_1", "a").await.unwrap(), None);
        database.commit(&author, create("one", "a")).await.unwrap();
        let done = database.done("apk_1", "a").await.unwrap().unwrap();
        assert_eq!(done, Done { fingerprint: [7; 32], answer: None });
        let answer = Answer { status: 201, location: Some("/x".to_owned()), etag: None, body: Some("{}".to_owned()) };
        database.keep_answer(&once("a"), answer.clone()).await.unwrap();
        assert_eq!(database.done("apk_1", "a").await.unwrap().unwrap().answer, Some(answer));
        assert_eq!(database.done("apk_2", "a").await.unwrap(), None, "it is its sender's");
        // Done meanwhile: nothing is done a second time.
        let again = database.commit(&author, create("two", "a")).await.unwrap_err();
        assert!(matches!(again, DatabaseError::Conflict(_)), "{again}");
        assert_eq!(database.environments(organization).await.unwrap().len(), 4);
        // What fails leaves the key free.
        database.commit(&author, create("one", "b")).await.unwrap_err();
        assert_eq!(database.done("apk_1", "b").await.unwrap(), None);
        database.close().await;
    }

    #[tokio::test]
    async fn the_answers_kept_for_one_actor_are_bounded() {
        let home = Home::new();
        let database = home.open().await;
        let mut writer = database.inner.writer.acquire().await.unwrap();
        let most = usize::try_from(MOST_OF_AN_ACTOR).unwrap();
        for number in 0..most + 5 {
            mark(&mut writer, &once(&number.to_string())).await.unwrap();
        }
        let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM answers").fetch_one(&mut *writer).await.unwrap();
        assert_eq!(kept, MOST_OF_AN_ACTOR);
        drop(writer);
        database.close().await;
    }
}
