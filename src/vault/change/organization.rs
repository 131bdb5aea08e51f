//! Organizations.

use serde_json::json;
use sqlx::{Row, SqliteConnection};

use super::environment::{DEFAULT_ENVIRONMENTS, Purpose, insert_environment};
use super::{Event, Writing, insert_data_key};
use crate::model::id::OrganizationId;
use crate::model::name::Key;
use crate::model::version::Version;
use crate::vault::error::DatabaseError;
use crate::vault::key::DataKey;
use crate::vault::{schema, seal};

/// Stores an organization with its environments.
pub(in crate::vault) async fn insert_organization(
    connection: &mut SqliteConnection,
    id: OrganizationId,
    key: &str,
    name: &str,
    environments: &[&str],
) -> Result<Version, DatabaseError> {
    let version = Version::fresh();
    sqlx::query("INSERT INTO organizations (id, key, name, version, created_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(id.to_string())
        .bind(key)
        .bind(name)
        .bind(version.number())
        .bind(schema::now())
        .execute(&mut *connection)
        .await?;
    for (position, environment) in (0i64..).zip(environments) {
        insert_environment(connection, id, environment, position, Purpose::Any).await?;
    }
    Ok(version)
}

impl Writing<'_> {
    pub(super) async fn create_organization(
        &mut self,
        id: OrganizationId,
        key: &Key,
        name: &str,
    ) -> Result<Event, DatabaseError> {
        self.expect(None, id, id)?;
        let taken = sqlx::query("SELECT 1 FROM organizations WHERE key = $1 OR id = $2")
            .bind(key.as_str())
            .bind(id.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        if taken.is_some() {
            return Err(DatabaseError::Conflict(format!("there is an organization {key} already")));
        }
        let version = insert_organization(self.connection, id, key.as_str(), name, &DEFAULT_ENVIRONMENTS).await?;
        self.outcome.version = Some(version);
        let data_key = DataKey::generate(Some(id), seal::Purpose::Values)?;
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
        self.expect_organization(organization).await?;
        let rows = sqlx::query(
            "SELECT (SELECT COUNT(*) FROM connections WHERE organization_id = $1) AS connections, \
             (SELECT COUNT(*) FROM integrations WHERE organization_id = $1) AS integrations, \
             (SELECT COUNT(*) FROM secrets WHERE organization_id = $1) AS secrets, \
             (SELECT COUNT(*) FROM users WHERE organization_id = $1) AS users, \
             (SELECT COUNT(*) FROM api_keys WHERE organization_id = $1 AND status != 'revoked') AS api_keys",
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
        sqlx::query("DELETE FROM api_keys WHERE organization_id = $1")
            .bind(organization.to_string())
            .execute(&mut *self.connection)
            .await?;
        sqlx::query("DELETE FROM organizations WHERE id = $1")
            .bind(organization.to_string())
            .execute(&mut *self.connection)
            .await?;
        Ok(Event { organization, action: "organization.delete", object: organization.to_string(), detail: json!({}) })
    }

    pub(super) async fn rename_organization(
        &mut self,
        organization: OrganizationId,
        key: &Key,
        name: &str,
    ) -> Result<Event, DatabaseError> {
        self.expect_organization(organization).await?;
        let taken = sqlx::query("SELECT 1 FROM organizations WHERE key = $1 AND id != $2")
            .bind(key.as_str())
            .bind(organization.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        if taken.is_some() {
            return Err(DatabaseError::Conflict(format!("there is an organization {key} already")));
        }
        let version = self.next_version();
        sqlx::query("UPDATE organizations SET key = $2, name = $3, version = $4 WHERE id = $1")
            .bind(organization.to_string())
            .bind(key.as_str())
            .bind(name)
            .bind(version)
            .execute(&mut *self.connection)
            .await?;
        let detail = json!({ "key": key, "name": name });
        Ok(Event { organization, action: "organization.rename", object: organization.to_string(), detail })
    }

    async fn expect_organization(&mut self, organization: OrganizationId) -> Result<(), DatabaseError> {
        let version = sqlx::query_scalar("SELECT version FROM organizations WHERE id = $1")
            .bind(organization.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        self.expect(version, organization, organization)?;
        version.map(drop).ok_or(DatabaseError::NotFound("organization"))
    }
}
