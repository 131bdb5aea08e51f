//! What is known of connections beside what people wrote: when they were entered and used, and by which workflows.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Row, SqliteConnection};

use super::parse;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::EnvironmentName;
use crate::model::version::Version;
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::schema;
use crate::vault::usage::LATELY;

/// How many of the workflows that use a connection are named.
const MOST_NAMED: i64 = 100;

/// What is known of a connection. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFacts {
    /// What tells this state of it from others; a declared one has none.
    pub version: Option<Version>,
    /// When it was made and changed last; `None` for a declared one.
    pub stored_at: Option<(i64, i64)>,
    /// Its credentials.
    pub entries: BTreeMap<EnvironmentName, Entry>,
    /// Since when it has no credential where it had one. Where there is one again this means nothing.
    pub removals: BTreeMap<EnvironmentName, i64>,
    /// When it was used last.
    pub uses: BTreeMap<EnvironmentName, Used>,
    /// How many workflows have used it in the last 30 days.
    pub workflow_count: u32,
    /// Those of them that used it last, at most 100.
    pub workflows: Vec<String>,
}

/// What is known of a credential without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What tells this state of it from others.
    pub version: Version,
    /// When it was entered.
    pub entered_at: i64,
    /// When it ends to be of use, where that is known.
    pub expires_at: Option<i64>,
}

/// When a connection was used last in an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// When.
    pub used_at: i64,
    /// That it was refused, since when and why.
    pub refused: Option<Refusal>,
}

/// An upstream that does not take a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Since when.
    pub since: i64,
    /// In a person's words.
    pub reason: String,
}

impl Database {
    /// What is known of connections of an organization, whether stored or declared.
    pub async fn connection_facts(
        &self,
        organization: OrganizationId,
        connections: &[ConnectionId],
    ) -> Result<HashMap<ConnectionId, ConnectionFacts>, DatabaseError> {
        self.inner.counters.read();
        let wanted = serde_json::json!(connections).to_string();
        let mut facts: HashMap<ConnectionId, ConnectionFacts> = HashMap::with_capacity(connections.len());
        // Of one moment: what a use has written together is seen together.
        let mut snapshot = self.inner.readers.begin().await?;
        Self::read_versions(&mut snapshot, organization, &wanted, &mut facts).await?;
        Self::read_entries(&mut snapshot, organization, &wanted, &mut facts).await?;
        Self::read_uses(&mut snapshot, organization, &wanted, &mut facts).await?;
        Self::read_workflows(&mut snapshot, organization, &wanted, &mut facts).await?;
        snapshot.commit().await?;
        Ok(facts)
    }

    async fn read_versions(
        snapshot: &mut SqliteConnection,
        organization: OrganizationId,
        wanted: &str,
        facts: &mut HashMap<ConnectionId, ConnectionFacts>,
    ) -> Result<(), DatabaseError> {
        let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
            "SELECT c.id, c.version, c.created_at, c.updated_at FROM json_each($1) AS wanted \
             CROSS JOIN connections c ON c.id = wanted.value WHERE c.organization_id = $2",
        )
        .bind(wanted)
        .bind(organization.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
        for (id, version, created_at, updated_at) in rows {
            let facts = facts.entry(parse(&id, "connection", &id)?).or_default();
            facts.version = Some(Version::stored(version));
            facts.stored_at = Some((created_at, updated_at));
        }
        Ok(())
    }

    async fn read_entries(
        snapshot: &mut SqliteConnection,
        organization: OrganizationId,
        wanted: &str,
        facts: &mut HashMap<ConnectionId, ConnectionFacts>,
    ) -> Result<(), DatabaseError> {
        let rows = sqlx::query(
            "SELECT e.connection_id, e.environment, e.version, e.entered_at, e.expires_at FROM json_each($1) AS wanted \
             CROSS JOIN credential_entries e ON e.connection_id = wanted.value WHERE +e.organization_id = $2",
        )
        .bind(wanted)
        .bind(organization.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
        for row in rows {
            let (id, environment): (String, String) = (row.try_get("connection_id")?, row.try_get("environment")?);
            let entry = Entry {
                version: Version::stored(row.try_get("version")?),
                entered_at: row.try_get("entered_at")?,
                expires_at: row.try_get("expires_at")?,
            };
            let entries = &mut facts.entry(parse(&id, "credential", &id)?).or_default().entries;
            entries.insert(parse(&environment, "credential", &id)?, entry);
        }
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT r.connection_id, r.environment, r.removed_at FROM json_each($1) AS wanted \
             CROSS JOIN credential_removals r ON r.connection_id = wanted.value WHERE +r.organization_id = $2",
        )
        .bind(wanted)
        .bind(organization.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
        for (id, environment, removed_at) in rows {
            let removals = &mut facts.entry(parse(&id, "credential", &id)?).or_default().removals;
            removals.insert(parse(&environment, "credential", &id)?, removed_at);
        }
        Ok(())
    }

    async fn read_uses(
        snapshot: &mut SqliteConnection,
        organization: OrganizationId,
        wanted: &str,
        facts: &mut HashMap<ConnectionId, ConnectionFacts>,
    ) -> Result<(), DatabaseError> {
        let rows = sqlx::query(
            "SELECT u.connection_id, u.environment, u.used_at, u.refused_at, u.reason FROM json_each($1) AS wanted \
             CROSS JOIN connection_uses u ON u.connection_id = wanted.value WHERE +u.organization_id = $2",
        )
        .bind(wanted)
        .bind(organization.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
        for row in rows {
            let (id, environment): (String, String) = (row.try_get("connection_id")?, row.try_get("environment")?);
            let refused: Option<(i64, String)> =
                Option::zip(row.try_get::<Option<i64>, _>("refused_at")?, row.try_get("reason")?);
            let used = Used {
                used_at: row.try_get("used_at")?,
                refused: refused.map(|(since, reason)| Refusal { since, reason }),
            };
            let uses = &mut facts.entry(parse(&id, "use", &id)?).or_default().uses;
            uses.insert(parse(&environment, "use", &id)?, used);
        }
        Ok(())
    }

    async fn read_workflows(
        snapshot: &mut SqliteConnection,
        organization: OrganizationId,
        wanted: &str,
        facts: &mut HashMap<ConnectionId, ConnectionFacts>,
    ) -> Result<(), DatabaseError> {
        let rows: Vec<(String, String, u32)> = sqlx::query_as(
            "SELECT connection_id, workflow, count FROM (SELECT w.connection_id, w.workflow, \
             COUNT(*) OVER (PARTITION BY w.connection_id) AS count, \
             ROW_NUMBER() OVER (PARTITION BY w.connection_id ORDER BY w.used_at DESC, w.workflow) AS place \
             FROM json_each($1) AS wanted CROSS JOIN connection_workflows w ON w.connection_id = wanted.value \
             WHERE +w.organization_id = $2 AND +w.used_at >= $3) WHERE place <= $4 ORDER BY connection_id, place",
        )
        .bind(wanted)
        .bind(organization.to_string())
        .bind(schema::now() - LATELY)
        .bind(MOST_NAMED)
        .fetch_all(&mut *snapshot)
        .await?;
        for (id, workflow, count) in rows {
            let facts = facts.entry(parse(&id, "use", &id)?).or_default();
            facts.workflow_count = count;
            facts.workflows.push(workflow);
        }
        Ok(())
    }
}
