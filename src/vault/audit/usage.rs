//! How often a caller used a connection: a counter for each hour, written in batches.

use std::collections::BTreeMap;

use sqlx::{Connection as _, QueryBuilder, Row, Sqlite, SqliteConnection};

use super::super::database::{Database, Inner};
use super::super::error::DatabaseError;
use super::super::list::{List, Page};
use super::super::schema;
use crate::model::id::{ApiKeyId, ConnectionId, OrganizationId};
use crate::model::moment::Moment;
use crate::model::name::EnvironmentName;
use crate::vault::query::parse;

/// What stands for a caller who needed no key.
pub const LOCAL: &str = "local";

/// How often a caller used a connection in one hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Whose connection.
    pub organization: OrganizationId,
    /// Which.
    pub connection: ConnectionId,
    /// In which environment.
    pub environment: EnvironmentName,
    /// The caller's key; `None` for who needed none.
    pub caller: Option<ApiKeyId>,
    /// Hours since 1970.
    pub hour: i64,
    /// How often.
    pub count: i64,
    /// When last, in milliseconds since 1970.
    pub last: i64,
}

/// Which counters. What is `None` says nothing.
#[derive(Clone, Debug, Default)]
pub struct UsageFilter {
    /// Of this connection.
    pub connection: Option<ConnectionId>,
    /// Of this caller: a key's id, or [`LOCAL`].
    pub caller: Option<String>,
    /// Not before the hour of this moment, in milliseconds since 1970.
    pub since: Option<i64>,
    /// Hours that begin before this moment.
    pub until: Option<i64>,
}

/// In milliseconds.
const HOUR: i64 = 3_600_000;

/// For how long counters are kept.
pub const DAYS_KEPT: i64 = 400;

impl Database {
    /// Adds to the counters, in one transaction. What comes twice for an hour is added up. Counters that are older than
    /// [`DAYS_KEPT`] go, a few at a time. `put_down` is the batch that they come from, which goes with it.
    pub async fn add_usage(&self, usage: &[Usage], put_down: Option<i64>) -> Result<(), DatabaseError> {
        add(&self.inner, usage, put_down).await.map_err(|error| self.inner.note(error))
    }

    /// Notes that an API key was used on the admin port; nobody waits for it.
    pub(in crate::vault) fn note_key_use(&self, key: ApiKeyId, at: Moment) {
        let inner = self.inner.clone();
        drop(self.inner.runtime.spawn(async move {
            let noted = async {
                inner.check_writable()?;
                let mut writer = inner.writer.acquire().await?;
                note_key(&mut writer, key, at.milliseconds()).await
            };
            if let Err(error) = noted.await {
                tracing::debug!(%error, "when an API key was used last could not be noted");
            }
        }));
    }

    /// The counters of an organization, the newest hour first.
    pub async fn usage(
        &self,
        organization: OrganizationId,
        filter: &UsageFilter,
        page: Page<'_>,
    ) -> Result<List<Usage>, DatabaseError> {
        self.inner.counters.read();
        let mut query: QueryBuilder<Sqlite> = QueryBuilder::new(
            "SELECT connection_id, caller, environment, hour, count, last_at FROM audit_usage WHERE organization_id = ",
        );
        query.push_bind(organization.to_string());
        if let Some(connection) = filter.connection {
            query.push(" AND connection_id = ").push_bind(connection.to_string());
        }
        if let Some(caller) = &filter.caller {
            query.push(" AND caller = ").push_bind(caller.clone());
        }
        if let Some(since) = filter.since {
            query.push(" AND hour >= ").push_bind(since.div_euclid(HOUR));
        }
        if let Some(until) = filter.until {
            query.push(" AND hour * 3600000 < ").push_bind(until);
        }
        if let Some(cursor) = page.cursor {
            let mut parts = cursor.split('/').map(str::to_owned);
            let hour: i64 = parts.next().and_then(|hour| hour.parse().ok()).unwrap_or(i64::MAX);
            query.push(" AND (hour, connection_id, caller, environment) < (").push_bind(hour);
            for part in parts.chain([const { String::new() }, const { String::new() }, const { String::new() }]).take(3)
            {
                query.push(", ").push_bind(part);
            }
            query.push(")");
        }
        query
            .push(" ORDER BY hour DESC, connection_id DESC, caller DESC, environment DESC LIMIT ")
            .push_bind(page.fetch());
        let rows = query.build().fetch_all(&self.inner.readers).await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let texts: [String; 3] =
                [row.try_get("connection_id")?, row.try_get("caller")?, row.try_get("environment")?];
            let [connection, caller, environment] = &texts;
            Ok(Usage {
                organization,
                connection: parse(connection, "usage counter", connection)?,
                environment: parse(environment, "usage counter", connection)?,
                caller: if caller == LOCAL { None } else { Some(parse(caller, "usage counter", connection)?) },
                hour: row.try_get("hour")?,
                count: row.try_get("count")?,
                last: row.try_get("last_at")?,
            })
        };
        page.list(&rows, read, |usage| {
            format!("{}/{}/{}/{}", usage.hour, usage.connection, caller(usage), usage.environment)
        })
    }
}

/// How long it must have been since a key's use was noted, in milliseconds: its row is written no more often than that,
/// however many workers have seen it (AK-11).
const NOTED_EVERY: i64 = 10_000;

/// Notes when an API key was used last, to about ten seconds.
async fn note_key(connection: &mut SqliteConnection, key: ApiKeyId, last: i64) -> Result<(), DatabaseError> {
    sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1 AND COALESCE(last_used_at, 0) <= $2 - $3")
        .bind(key.to_string())
        .bind(last)
        .bind(NOTED_EVERY)
        .execute(connection)
        .await?;
    Ok(())
}

fn caller(usage: &Usage) -> String {
    usage.caller.map_or_else(|| LOCAL.to_owned(), |caller| caller.to_string())
}

/// How many counters one statement writes: each statement is a way to the thread of the database and back.
const ROWS: usize = 100;

async fn add_rows(connection: &mut SqliteConnection, rows: &[Usage]) -> Result<(), DatabaseError> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO audit_usage (organization_id, connection_id, caller, environment, hour, count, last_at) ",
    );
    insert.push_values(rows, |mut row, one| {
        row.push_bind(one.organization.to_string())
            .push_bind(one.connection.to_string())
            .push_bind(caller(one))
            .push_bind(one.environment.as_str())
            .push_bind(one.hour)
            .push_bind(one.count)
            .push_bind(one.last);
    });
    insert.push(
        " ON CONFLICT (organization_id, hour, connection_id, caller, environment) \
         DO UPDATE SET count = count + excluded.count, last_at = MAX(last_at, excluded.last_at)",
    );
    insert.build().execute(connection).await?;
    Ok(())
}

async fn add(inner: &Inner, usage: &[Usage], put_down: Option<i64>) -> Result<(), DatabaseError> {
    inner.check_writable()?;
    let mut writer = inner.writer.acquire().await?;
    let added = async {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        for rows in usage.chunks(ROWS) {
            add_rows(&mut transaction, rows).await?;
        }
        let mut keys: BTreeMap<ApiKeyId, i64> = BTreeMap::new();
        for (key, last) in usage.iter().filter_map(|one| Some((one.caller?, one.last))) {
            let latest = keys.entry(key).or_insert(last);
            *latest = last.max(*latest);
        }
        for (key, last) in keys {
            note_key(&mut transaction, key, last).await?;
        }
        if let Some(batch) = put_down {
            sqlx::query("DELETE FROM put_down WHERE id = $1").bind(batch).execute(&mut *transaction).await?;
        }
        sqlx::query(
            "DELETE FROM audit_usage WHERE (organization_id, hour, connection_id, caller, environment) IN \
             (SELECT organization_id, hour, connection_id, caller, environment FROM audit_usage \
             WHERE hour < $1 LIMIT 1000)",
        )
        .bind((schema::now() - DAYS_KEPT * 24 * HOUR).div_euclid(HOUR))
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }
    .await;
    if let Err(error) = &added {
        schema::settle(&mut writer, error).await;
    }
    added
}
