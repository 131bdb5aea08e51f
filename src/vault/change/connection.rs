//! Connections.

use serde_json::{Value, json};
use sqlx::Row;

use super::resource::Force;
use super::{Event, PutMode, Writing};
use crate::model::connection::{Connection, Sharing};
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::Limit;
use crate::model::name::{CustomerName, Key};
use crate::vault::error::DatabaseError;
use crate::vault::query;
use crate::vault::revision::Subject;
use crate::vault::revoked::Revoked;
use crate::vault::schema;
use crate::vault::usage::LATELY;

/// A connection that is there.
struct Found {
    id: ConnectionId,
    customer: Option<CustomerName>,
    key: Key,
    version: i64,
}

impl Writing<'_> {
    pub(super) async fn put_connection(
        &mut self,
        connection: &Connection,
        mode: PutMode,
    ) -> Result<Event, DatabaseError> {
        let organization = connection.organization;
        self.require_organization(organization).await?;
        let named = self.connection_named(connection).await?;
        let found = match mode {
            PutMode::Create | PutMode::Replace => named,
            PutMode::Update => {
                let same = self.connection_of_id(organization, connection.id).await?;
                if same.is_some() && named.is_some_and(|named| named.id != connection.id) {
                    return Err(taken(&connection.key));
                }
                Some(same.ok_or(DatabaseError::NotFound("connection"))?)
            }
        };
        self.expect(found.as_ref().map(|found| found.version), organization, connection.id)?;
        if found.is_some() && mode == PutMode::Create {
            return Err(taken(&connection.key));
        }
        let id = found.as_ref().map_or(connection.id, |found| found.id);
        self.write_connection(id, connection).await?;
        self.outcome.created = found.is_none();
        self.outcome.connection = Some(id);
        self.outcome.subjects.push(Subject::Connection(id));
        let name = (connection.customer.clone(), connection.key.clone());
        let before = found.map(|found| (found.customer, found.key));
        if before.as_ref() != Some(&name) {
            for (customer, key) in before.iter().chain([&name]) {
                self.outcome.subjects.push(Subject::Name(organization, customer.clone(), key.clone()));
            }
        }
        let action = match &before {
            None => "connection.create",
            Some(before) if *before == name => "connection.replace",
            Some(_) => "connection.rename",
        };
        Ok(Event { organization, action, object: id.to_string(), detail: detail(connection) })
    }

    async fn connection_named(&mut self, connection: &Connection) -> Result<Option<Found>, DatabaseError> {
        let row = sqlx::query(
            "SELECT id, customer, key, version FROM connections \
             WHERE organization_id = $1 AND customer = $2 AND key = $3",
        )
        .bind(connection.organization.to_string())
        .bind(query::customer_column(connection.customer.as_ref()))
        .bind(connection.key.as_str())
        .fetch_optional(&mut *self.connection)
        .await?;
        row.as_ref().map(found).transpose()
    }

    async fn connection_of_id(
        &mut self,
        organization: OrganizationId,
        id: ConnectionId,
    ) -> Result<Option<Found>, DatabaseError> {
        let row =
            sqlx::query("SELECT id, customer, key, version FROM connections WHERE id = $1 AND organization_id = $2")
                .bind(id.to_string())
                .bind(organization.to_string())
                .fetch_optional(&mut *self.connection)
                .await?;
        row.as_ref().map(found).transpose()
    }

    /// That it is there, in the version that is expected of it.
    pub(super) async fn expect_connection(
        &mut self,
        organization: OrganizationId,
        id: ConnectionId,
    ) -> Result<(), DatabaseError> {
        let found = self.connection_of_id(organization, id).await?;
        self.expect(found.as_ref().map(|found| found.version), organization, id)?;
        found.map(drop).ok_or(DatabaseError::NotFound("connection"))
    }

    async fn write_connection(&mut self, id: ConnectionId, connection: &Connection) -> Result<(), DatabaseError> {
        let Connection { organization, customer, key, name, integration, auth, values, limit, sharing, .. } =
            connection;
        let Sharing { visibility, owner, labels, exposed } = sharing;
        let limit = limit.map(|Limit { per_second, burst }| json!({ "per_second": per_second, "burst": burst }));
        let version = self.next_version();
        sqlx::query(
            "INSERT INTO connections (id, organization_id, customer, key, name, integration, auth, values_json, \
             limit_json, visibility, owner_id, labels_json, exposed, version, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15) \
             ON CONFLICT (id) DO UPDATE SET customer = $3, key = $4, name = $5, integration = $6, auth = $7, \
             values_json = $8, limit_json = $9, visibility = $10, owner_id = $11, labels_json = $12, exposed = $13, \
             version = $14, updated_at = $15",
        )
        .bind(id.to_string())
        .bind(organization.to_string())
        .bind(query::customer_column(customer.as_ref()))
        .bind(key.as_str())
        .bind(name.as_deref())
        .bind(integration.as_str())
        .bind(auth.as_ref().map(|auth| auth.as_str()))
        .bind(json!(values).to_string())
        .bind(limit.map(|limit| limit.to_string()))
        .bind(visibility.as_str())
        .bind(owner.map(|owner| owner.to_string()))
        .bind(json!(labels).to_string())
        .bind(exposed)
        .bind(version)
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        self.write_labels(id).await
    }

    /// Lists a connection under the labels it is stored with.
    async fn write_labels(&mut self, id: ConnectionId) -> Result<(), DatabaseError> {
        for statement in [
            "DELETE FROM connection_labels WHERE connection_id = $1",
            "INSERT INTO connection_labels (connection_id, organization_id, label, customer, key) \
             SELECT DISTINCT c.id, c.organization_id, label.value, c.customer, c.key \
             FROM connections c, json_each(c.labels_json) AS label WHERE c.id = $1",
        ] {
            sqlx::query(statement).bind(id.to_string()).execute(&mut *self.connection).await?;
        }
        Ok(())
    }

    pub(super) async fn delete_connection(
        &mut self,
        organization: OrganizationId,
        id: ConnectionId,
        force: Force,
    ) -> Result<Event, DatabaseError> {
        let found = self.connection_of_id(organization, id).await?;
        self.expect(found.as_ref().map(|found| found.version), organization, id)?;
        let Found { customer, key, .. } = found.ok_or(DatabaseError::NotFound("connection"))?;
        let since = schema::now() - LATELY;
        let workflows: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM connection_workflows WHERE connection_id = $1 AND used_at >= $2")
                .bind(id.to_string())
                .bind(since)
                .fetch_one(&mut *self.connection)
                .await?;
        if workflows > 0 && force == Force::No {
            let (who, verb) = if workflows == 1 { ("workflow", "has") } else { ("workflows", "have") };
            return Err(DatabaseError::InUse(format!(
                "{workflows} {who} {verb} used this connection in the last 30 days; add ?force=true to delete it all \
                 the same"
            )));
        }
        for statement in [
            "DELETE FROM connections WHERE id = $1 AND organization_id = $2",
            // The `+` keeps the planner from looking through all of an organization (`query::credential`).
            "DELETE FROM connection_uses WHERE connection_id = $1 AND +organization_id = $2",
            "DELETE FROM connection_workflows WHERE connection_id = $1 AND +organization_id = $2",
        ] {
            let delete = sqlx::query(statement).bind(id.to_string()).bind(organization.to_string());
            delete.execute(&mut *self.connection).await?;
        }
        let detail = json!({ "key": key, "customer": customer, "workflows": workflows });
        self.outcome.subjects.push(Subject::Name(organization, customer, key));
        self.outcome.subjects.push(Subject::Connection(id));
        self.outcome.revoked.push(Revoked::Connection(id));
        // Also where it had no credential: that there is none may be cached too.
        for environment in self.environments(organization).await? {
            self.outcome.subjects.push(Subject::Credential(id, environment));
        }
        Ok(Event { organization, action: "connection.delete", object: id.to_string(), detail })
    }
}

fn taken(key: &Key) -> DatabaseError {
    DatabaseError::Conflict(format!("there is a connection {key} already"))
}

fn found(row: &sqlx::sqlite::SqliteRow) -> Result<Found, DatabaseError> {
    let id: String = row.try_get("id")?;
    let (customer, key) = query::connection_name(row, &id)?;
    Ok(Found { id: query::parse(&id, "connection", &id)?, customer, key, version: row.try_get("version")? })
}

fn detail(connection: &Connection) -> Value {
    json!({
        "key": connection.key, "customer": connection.customer, "integration": connection.integration,
        "visibility": connection.sharing.visibility.as_str(), "owner": connection.sharing.owner,
    })
}
