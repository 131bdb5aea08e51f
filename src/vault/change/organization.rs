//! Organizations, environments and integrations.

use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::{Event, PutMode, Writing, insert_data_key};
use crate::model::id::OrganizationId;
use crate::model::integration::Integration;
use crate::model::name::{EnvironmentName, Key};
use crate::vault::error::DatabaseError;
use crate::vault::key::DataKey;
use crate::vault::revision::Subject;
use crate::vault::schema;
use crate::vault::seal::Purpose;

/// What a new organization begins with, in this order.
pub(in crate::vault) const DEFAULT_ENVIRONMENTS: [&str; 3] = ["development", "staging", "production"];

/// Stores an organization with its environments.
pub(in crate::vault) async fn insert_organization(
    connection: &mut SqliteConnection,
    id: OrganizationId,
    key: &str,
    name: &str,
    environments: &[&str],
) -> Result<(), DatabaseError> {
    sqlx::query("INSERT INTO organizations (id, key, name, created_at) VALUES ($1, $2, $3, $4)")
        .bind(id.to_string())
        .bind(key)
        .bind(name)
        .bind(schema::now())
        .execute(&mut *connection)
        .await?;
    for (position, environment) in (0i64..).zip(environments) {
        insert_environment(connection, id, environment, position).await?;
    }
    Ok(())
}

async fn insert_environment(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
    name: &str,
    position: i64,
) -> Result<(), DatabaseError> {
    sqlx::query("INSERT INTO environments (organization_id, name, position) VALUES ($1, $2, $3)")
        .bind(organization.to_string())
        .bind(name)
        .bind(position)
        .execute(connection)
        .await?;
    Ok(())
}

impl Writing<'_> {
    pub(super) async fn create_organization(
        &mut self,
        id: OrganizationId,
        key: &Key,
        name: &str,
    ) -> Result<Event, DatabaseError> {
        let taken = sqlx::query("SELECT 1 FROM organizations WHERE key = $1 OR id = $2")
            .bind(key.as_str())
            .bind(id.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        if taken.is_some() {
            return Err(DatabaseError::Conflict(format!("there is an organization {key} already")));
        }
        insert_organization(self.connection, id, key.as_str(), name, &DEFAULT_ENVIRONMENTS).await?;
        let data_key = DataKey::generate(Some(id), Purpose::Values)?;
        insert_data_key(self.connection, &self.inner.masters.current(), &data_key, &self.inner.counters).await?;
        self.outcome.created = true;
        Ok(Event {
            organization: id,
            action: "organization.create",
            object: id.to_string(),
            detail: json!({ "key": key }),
        })
    }

    pub(super) async fn delete_organization(&mut self, organization: OrganizationId) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        let rows = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM connections WHERE organization_id = $1) AS connections, \
             (SELECT COUNT(*) FROM integrations WHERE organization_id = $1) AS integrations, \
             (SELECT COUNT(*) FROM secrets WHERE organization_id = $1) AS secrets, \
             (SELECT COUNT(*) FROM api_keys WHERE organization_id = $1) AS api_keys, \
             (SELECT COUNT(*) FROM users WHERE organization_id = $1) AS users",
        )
        .bind(organization.to_string())
        .fetch_one(&mut *self.connection)
        .await?;
        for (column, what) in [
            ("connections", "connections"),
            ("integrations", "integrations"),
            ("secrets", "secrets"),
            ("api_keys", "API keys"),
            ("users", "users"),
        ] {
            let count: i64 = rows.try_get(column)?;
            if count > 0 {
                return Err(DatabaseError::InUse(format!(
                    "the organization still has {count} {what}; delete them first"
                )));
            }
        }
        sqlx::query("DELETE FROM organizations WHERE id = $1")
            .bind(organization.to_string())
            .execute(&mut *self.connection)
            .await?;
        Ok(Event { organization, action: "organization.delete", object: organization.to_string(), detail: json!({}) })
    }

    pub(super) async fn create_environment(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        if self.environments(organization).await?.contains(name) {
            return Err(DatabaseError::Conflict(format!("there is an environment {name} already")));
        }
        let last: Option<i64> = sqlx::query_scalar("SELECT MAX(position) FROM environments WHERE organization_id = $1")
            .bind(organization.to_string())
            .fetch_one(&mut *self.connection)
            .await?;
        insert_environment(self.connection, organization, name.as_str(), last.map_or(0, |last| last + 1)).await?;
        self.outcome.created = true;
        Ok(Event { organization, action: "environment.create", object: name.to_string(), detail: json!({}) })
    }

    pub(super) async fn delete_environment(
        &mut self,
        organization: OrganizationId,
        name: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        self.require_environment(organization, name).await?;
        let used: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM credentials WHERE organization_id = $1 AND environment = $2) \
             + (SELECT COUNT(*) FROM secret_values WHERE organization_id = $1 AND environment = $2)",
        )
        .bind(organization.to_string())
        .bind(name.as_str())
        .fetch_one(&mut *self.connection)
        .await?;
        if used > 0 {
            return Err(DatabaseError::InUse(format!("there are credentials or secrets in {name}; delete them first")));
        }
        sqlx::query("DELETE FROM environments WHERE organization_id = $1 AND name = $2")
            .bind(organization.to_string())
            .bind(name.as_str())
            .execute(&mut *self.connection)
            .await?;
        Ok(Event { organization, action: "environment.delete", object: name.to_string(), detail: json!({}) })
    }

    pub(super) async fn put_integration(
        &mut self,
        organization: OrganizationId,
        integration: &Integration,
        mode: PutMode,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        let slug = &integration.slug;
        let found = sqlx::query("SELECT 1 FROM integrations WHERE organization_id = $1 AND slug = $2")
            .bind(organization.to_string())
            .bind(slug.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        if found.is_some() && mode == PutMode::Create {
            return Err(DatabaseError::Conflict(format!("there is an integration {slug} already")));
        }
        sqlx::query(
            "INSERT INTO integrations (id, organization_id, slug, document, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $5) \
             ON CONFLICT (organization_id, slug) DO UPDATE SET document = $4, updated_at = $5",
        )
        .bind(integration.id.to_string())
        .bind(organization.to_string())
        .bind(slug.as_str())
        .bind(integration.document.to_string())
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        self.outcome.created = found.is_none();
        self.outcome.subjects.push(Subject::Integration(organization, slug.clone()));
        let action = if found.is_none() { "integration.create" } else { "integration.replace" };
        Ok(Event { organization, action, object: slug.to_string(), detail: json!({}) })
    }

    pub(super) async fn delete_integration(
        &mut self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Event, DatabaseError> {
        let users: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM connections WHERE organization_id = $1 AND integration = $2")
                .bind(organization.to_string())
                .bind(slug.as_str())
                .fetch_one(&mut *self.connection)
                .await?;
        let deleted = sqlx::query("DELETE FROM integrations WHERE organization_id = $1 AND slug = $2")
            .bind(organization.to_string())
            .bind(slug.as_str())
            .execute(&mut *self.connection)
            .await?;
        if deleted.rows_affected() == 0 {
            return Err(DatabaseError::NotFound("integration"));
        }
        if users > 0 {
            return Err(DatabaseError::InUse(format!("{users} connections use {slug}; delete them first")));
        }
        self.outcome.subjects.push(Subject::Integration(organization, slug.clone()));
        Ok(Event { organization, action: "integration.delete", object: slug.to_string(), detail: json!({}) })
    }
}
