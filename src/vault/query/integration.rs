//! Integrations: what is known of them beside their documents, and the versions they had.

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{corrupt, parse, read_values};
use crate::model::id::OrganizationId;
use crate::model::integration::Values;
use crate::model::name::Key;
use crate::model::version::Version;
use crate::vault::change::resource::Reach;
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::list::{List, Page};

/// What is known of a stored integration beside its document. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegrationFacts {
    /// Who may use it.
    pub reach: Reach,
    /// What tells this state of it from others.
    pub version: Version,
    /// Which version of its document it is, from 1.
    pub number: u32,
    /// Since when its requests go to these hosts.
    pub moved_at: i64,
}

/// A version that an integration has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntegrationVersion {
    /// Its number, from 1.
    pub number: u32,
    /// As it was written.
    pub document: Value,
    /// Who wrote it.
    pub actor: String,
    /// When.
    pub created_at: i64,
}

impl Database {
    /// What is known of a stored integration that an organization may use.
    pub async fn integration_facts(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<IntegrationFacts>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query(
            "SELECT organization_id IS NULL AS is_of_all, version, number, moved_at FROM integrations \
             WHERE slug = $2 AND (organization_id = $1 OR organization_id IS NULL) \
             ORDER BY organization_id IS NULL LIMIT 1",
        )
        .bind(organization.to_string())
        .bind(slug.as_str())
        .fetch_optional(&self.inner.readers)
        .await?;
        row.as_ref().map(facts).transpose()
    }

    /// The versions of a stored integration that an organization may use, the newest first.
    pub async fn integration_versions(
        &self,
        organization: OrganizationId,
        slug: &Key,
        page: Page<'_>,
    ) -> Result<List<IntegrationVersion>, DatabaseError> {
        self.inner.counters.read();
        let before = page.cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(i64::MAX);
        let rows = sqlx::query(
            "SELECT number, document, actor, created_at FROM integration_versions WHERE integration_id = \
             (SELECT id FROM integrations WHERE slug = $2 AND (organization_id = $1 OR organization_id IS NULL) \
             ORDER BY organization_id IS NULL LIMIT 1) AND number < $3 ORDER BY number DESC LIMIT $4",
        )
        .bind(organization.to_string())
        .bind(slug.as_str())
        .bind(before)
        .bind(i64::from(page.limit) + 1)
        .fetch_all(&self.inner.readers)
        .await?;
        page.list(&rows, |row| version(row, slug), |version| version.number.to_string())
    }

    /// What an organization has filled in for all its connections of each integration, by slug.
    pub async fn all_integration_values(
        &self,
        organization: OrganizationId,
    ) -> Result<Vec<(Key, Values)>, DatabaseError> {
        self.inner.counters.read();
        let rows =
            sqlx::query("SELECT slug, values_json FROM integration_values WHERE organization_id = $1 ORDER BY slug")
                .bind(organization.to_string())
                .fetch_all(&self.inner.readers)
                .await?;
        let read = |row: &SqliteRow| {
            let (slug, values): (String, String) = (row.try_get("slug")?, row.try_get("values_json")?);
            let values = read_values(&values).ok_or_else(|| corrupt("values of the integration", &slug))?;
            Ok((parse(&slug, "values of the integration", &slug)?, values))
        };
        rows.iter().map(read).collect()
    }

    /// What an organization has filled in for all its connections of an integration.
    pub async fn integration_values(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<(Values, Version)>, DatabaseError> {
        self.inner.counters.read();
        let row =
            sqlx::query("SELECT values_json, version FROM integration_values WHERE organization_id = $1 AND slug = $2")
                .bind(organization.to_string())
                .bind(slug.as_str())
                .fetch_optional(&self.inner.readers)
                .await?;
        let read = |row: SqliteRow| {
            let values: String = row.try_get("values_json")?;
            let values = read_values(&values).ok_or_else(|| corrupt("values of the integration", slug))?;
            Ok((values, Version::stored(row.try_get("version")?)))
        };
        row.map(read).transpose()
    }
}

fn facts(row: &SqliteRow) -> Result<IntegrationFacts, DatabaseError> {
    let is_of_all: bool = row.try_get("is_of_all")?;
    Ok(IntegrationFacts {
        reach: if is_of_all { Reach::System } else { Reach::Organization },
        version: Version::stored(row.try_get("version")?),
        number: row.try_get("number")?,
        moved_at: row.try_get("moved_at")?,
    })
}

fn version(row: &SqliteRow, slug: &Key) -> Result<IntegrationVersion, DatabaseError> {
    let document: String = row.try_get("document")?;
    Ok(IntegrationVersion {
        number: row.try_get("number")?,
        document: serde_json::from_str(&document).map_err(|_| corrupt("version of the integration", slug))?,
        actor: row.try_get("actor")?,
        created_at: row.try_get("created_at")?,
    })
}
