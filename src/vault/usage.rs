//! What is noted of the use of connections: when, by which workflows, and whether upstreams took their credentials.
//!
//! The data plane counts in memory of its own; what it counted is written here in batches, with no event in the audit
//! log: it is nobody's change.

use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection};

use super::database::{Database, Inner};
use super::error::{Cause, DatabaseError};
use super::schema;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::EnvironmentName;

/// How long it counts that a workflow has used a connection, in milliseconds: 30 days.
pub const LATELY: i64 = 30 * 24 * 60 * 60 * 1_000;

/// How many workflows of one connection are kept; those that used it last.
const MOST_WORKFLOWS: i64 = 1_000;

/// How many uses one transaction writes: others wait for it.
const BATCH: usize = 200;

/// The use of a connection in one environment since it was noted last. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Whose.
    pub organization: OrganizationId,
    /// Which.
    pub connection: ConnectionId,
    /// Where.
    pub environment: EnvironmentName,
    /// When it was used last.
    pub used_at: i64,
    /// What the upstream said of its credential last.
    pub verdict: Verdict,
    /// Why it was refused, where that is another reason than the verdict's own.
    pub reason: Option<String>,
    /// Which workflows used it, and when.
    pub workflows: Vec<(String, i64)>,
}

/// What an upstream's answers say of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Unknown,
    /// It was taken, at this time.
    Taken(i64),
    /// It was refused, at this time.
    Refused(i64),
    /// It was tried at this time, and the answer was not the one that is expected.
    Failed(i64),
}

/// What is told of a credential that an upstream answered with 401.
const REFUSED: &str = "the upstream refused the credential (401); enter it again";

/// What is told of one whose test did not pass.
const FAILED: &str = "the test request of its integration was not answered as expected; run the test to see how";

impl Database {
    /// Notes uses. `is_declared` tells which connections are in the configuration and not in the vault; what is in
    /// neither any more is not noted.
    pub async fn note_uses(
        &self,
        uses: Vec<Use>,
        is_declared: impl Fn(ConnectionId) -> bool + Send + Sync + 'static,
    ) -> Result<(), DatabaseError> {
        let inner = self.inner.clone();
        let task = self.inner.runtime.spawn(async move {
            for batch in uses.chunks(BATCH) {
                inner.check_writable()?;
                let mut writer = inner.writer.acquire().await?;
                let noted = note(&mut writer, batch, &is_declared).await;
                if let Err(error) = &noted {
                    schema::settle(&mut writer, error).await;
                }
                noted.map_err(|error| Inner::note(&inner, error))?;
            }
            Ok(())
        });
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

async fn note(
    writer: &mut SqliteConnection,
    uses: &[Use],
    is_declared: &(impl Fn(ConnectionId) -> bool + Sync),
) -> Result<(), DatabaseError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let rows: Vec<Value> = uses.iter().map(|one| row(one, is_declared(one.connection))).collect();
    sqlx::query(NOTE).bind(Value::from(rows).to_string()).execute(&mut *transaction).await?;
    for one in uses.iter().filter(|one| !one.workflows.is_empty()) {
        let known = is_declared(one.connection) || is_stored(&mut transaction, one).await?;
        if known {
            note_workflows(&mut transaction, one).await?;
        }
    }
    sqlx::query("DELETE FROM connection_workflows WHERE used_at < $1")
        .bind(schema::now() - LATELY)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

async fn is_stored(connection: &mut SqliteConnection, one: &Use) -> Result<bool, DatabaseError> {
    let found = sqlx::query("SELECT 1 FROM connections WHERE id = $1 AND organization_id = $2")
        .bind(one.connection.to_string())
        .bind(one.organization.to_string())
        .fetch_optional(connection)
        .await?;
    Ok(found.is_some())
}

/// A use as [`NOTE`] reads it.
fn row(one: &Use, is_declared: bool) -> Value {
    let (verdict_at, refused_at) = match one.verdict {
        Verdict::Unknown => (None, None),
        Verdict::Taken(at) => (Some(at), None),
        Verdict::Refused(at) | Verdict::Failed(at) => (Some(at), Some(at)),
    };
    let own = if matches!(one.verdict, Verdict::Failed(_)) { FAILED } else { REFUSED };
    let reason = one.reason.as_deref().unwrap_or(own);
    json!({
        "organization": one.organization, "connection": one.connection, "environment": one.environment,
        "used_at": one.used_at, "refused_at": refused_at, "reason": reason, "verdict_at": verdict_at,
        "declared": is_declared,
    })
}

/// Notes many uses in one statement: each statement is a way to the thread of the database and back, and changes wait.
///
/// A refusal of the credential that was there before says nothing of the one that is there now, and what one worker tells
/// late says nothing against what another one saw since. Both are known to the second.
const NOTE: &str = "INSERT INTO connection_uses (organization_id, connection_id, environment, used_at, refused_at, \
     reason, verdict_at) SELECT organization, connection, environment, used_at, refused, \
     CASE WHEN refused IS NULL THEN NULL ELSE reason END, verdict_at FROM \
     (SELECT value ->> 'organization' AS organization, value ->> 'connection' AS connection, \
     value ->> 'environment' AS environment, value ->> 'used_at' AS used_at, value ->> 'reason' AS reason, \
     value ->> 'verdict_at' AS verdict_at, value ->> 'declared' AS declared, \
     CASE WHEN EXISTS (SELECT 1 FROM credential_entries e WHERE e.connection_id = value ->> 'connection' \
     AND e.environment = value ->> 'environment' AND e.entered_at > (value ->> 'refused_at') + 999) \
     THEN NULL ELSE value ->> 'refused_at' END AS refused FROM json_each($1)) AS given \
     WHERE declared OR EXISTS (SELECT 1 FROM connections c WHERE c.id = given.connection \
     AND c.organization_id = given.organization) \
     ON CONFLICT (connection_id, environment) DO UPDATE SET used_at = MAX(used_at, excluded.used_at), \
     refused_at = CASE WHEN excluded.verdict_at IS NULL OR excluded.verdict_at / 1000 < verdict_at / 1000 \
     THEN refused_at WHEN excluded.refused_at IS NULL THEN NULL ELSE COALESCE(refused_at, excluded.refused_at) END, \
     reason = CASE WHEN excluded.verdict_at IS NULL OR excluded.verdict_at / 1000 < verdict_at / 1000 THEN reason \
     ELSE excluded.reason END, \
     verdict_at = MAX(COALESCE(verdict_at, excluded.verdict_at), COALESCE(excluded.verdict_at, verdict_at))";

async fn note_workflows(connection: &mut SqliteConnection, one: &Use) -> Result<(), DatabaseError> {
    if one.workflows.is_empty() {
        return Ok(());
    }
    for (workflow, used_at) in &one.workflows {
        sqlx::query(
            "INSERT INTO connection_workflows (organization_id, connection_id, workflow, used_at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (connection_id, workflow) DO UPDATE SET used_at = MAX(used_at, $4)",
        )
        .bind(one.organization.to_string())
        .bind(one.connection.to_string())
        .bind(workflow)
        .bind(used_at)
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query(
        "DELETE FROM connection_workflows WHERE connection_id = $1 AND workflow NOT IN \
         (SELECT workflow FROM connection_workflows WHERE connection_id = $1 ORDER BY used_at DESC, workflow LIMIT $2)",
    )
    .bind(one.connection.to_string())
    .bind(MOST_WORKFLOWS)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::fixture::{Home, environment};

    #[tokio::test]
    async fn what_is_told_late_says_nothing_against_what_was_seen_since() {
        let home = Home::new();
        let database = home.open().await;
        let organization = database.default_organization().await;
        let connection = database.put_connection(organization, "one").await;
        // A whole second: verdicts are known no better.
        let now = (schema::now() / 1_000 + 60) * 1_000;
        let noted = async |verdict, used_at| {
            let environment = environment("production");
            let one =
                Use { organization, connection, environment, used_at, verdict, reason: None, workflows: Vec::new() };
            database.note_uses(vec![one], |_| false).await.unwrap();
            let facts = database.connection_facts(organization, &[connection]).await.unwrap();
            let used = facts[&connection].uses["production"].clone();
            (used.used_at - now, used.refused.map(|refused| refused.since - now))
        };
        assert_eq!(noted(Verdict::Refused(now), now).await, (0, Some(0)));
        assert_eq!(noted(Verdict::Refused(now + 1_000), now + 1_000).await, (1_000, Some(0)), "since the first one");
        assert_eq!(noted(Verdict::Unknown, now + 2_000).await, (2_000, Some(0)));
        assert_eq!(noted(Verdict::Taken(now + 3_000), now + 3_000).await, (3_000, None));
        assert_eq!(
            noted(Verdict::Refused(now + 2_000), now + 2_000).await,
            (3_000, None),
            "told late by another worker"
        );
        assert_eq!(noted(Verdict::Failed(now + 3_500), now + 3_500).await, (3_500, Some(3_500)));
        assert_eq!(noted(Verdict::Taken(now + 3_000), now + 3_000).await, (3_500, None), "the same second");
        // What a credential was that is there no more says nothing of the one that is.
        database.put_token(organization, connection, "production", "t").await;
        assert_eq!(noted(Verdict::Refused(schema::now() - 60_000), now).await, (3_500, None));
        database.close().await;
    }

    #[tokio::test]
    async fn nothing_is_noted_of_what_is_not_there_and_workflows_are_bounded() {
        let home = Home::new();
        let database = home.open().await;
        let organization = database.default_organization().await;
        let connection = database.put_connection(organization, "one").await;
        let now = schema::now();
        let used = |connection, workflows| Use {
            organization,
            connection,
            environment: environment("production"),
            used_at: now,
            verdict: Verdict::Unknown,
            reason: None,
            workflows,
        };
        let gone = ConnectionId::generate();
        database.note_uses(vec![used(gone, vec![("w".to_owned(), now)])], |_| false).await.unwrap();
        assert!(database.connection_facts(organization, &[gone]).await.unwrap().is_empty());
        database.note_uses(vec![used(gone, Vec::new())], move |id| id == gone).await.unwrap();
        assert_eq!(database.connection_facts(organization, &[gone]).await.unwrap().len(), 1, "a declared one");
        let most = usize::try_from(MOST_WORKFLOWS).unwrap();
        let many =
            (0..most + 5).map(|number| (format!("w{number}"), now)).chain([("old".to_owned(), now - LATELY - 1)]);
        database.note_uses(vec![used(connection, many.collect())], |_| false).await.unwrap();
        let facts = database.connection_facts(organization, &[connection]).await.unwrap();
        assert_eq!(facts[&connection].workflow_count, 1_000);
        assert_eq!(facts[&connection].workflows.len(), 100);
        database.close().await;
    }
}
