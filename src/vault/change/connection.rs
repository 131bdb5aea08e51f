//! Connections.

use serde_json::{Value, json};

use super::{Event, PutMode, Writing};
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::Limit;
use crate::vault::error::DatabaseError;
use crate::vault::query;
use crate::vault::revision::Subject;
use crate::vault::schema;

impl Writing<'_> {
    pub(super) async fn put_connection(
        &mut self,
        connection: &Connection,
        mode: PutMode,
    ) -> Result<Event, DatabaseError> {
        let organization = connection.organization;
        self.require_organization(organization).await?;
        let customer = query::customer_column(connection.customer.as_ref());
        let found: Option<String> =
            sqlx::query_scalar("SELECT id FROM connections WHERE organization_id = $1 AND customer = $2 AND key = $3")
                .bind(organization.to_string())
                .bind(customer)
                .bind(connection.key.as_str())
                .fetch_optional(&mut *self.connection)
                .await?;
        let id = match &found {
            Some(_) if mode == PutMode::Create => {
                return Err(DatabaseError::Conflict(format!("there is a connection {} already", connection.key)));
            }
            Some(id) => query::parse(id, "connection", id)?,
            None => connection.id,
        };
        self.write_connection(id, connection).await?;
        self.outcome.created = found.is_none();
        self.outcome.connection = Some(id);
        self.outcome.subjects.push(Subject::Connection(id));
        if found.is_none() {
            let name = Subject::Name(organization, connection.customer.clone(), connection.key.clone());
            self.outcome.subjects.push(name);
        }
        Ok(Event {
            organization,
            action: if found.is_none() { "connection.create" } else { "connection.replace" },
            object: id.to_string(),
            detail: detail(connection),
        })
    }

    async fn write_connection(&mut self, id: ConnectionId, connection: &Connection) -> Result<(), DatabaseError> {
        let Connection { organization, customer, key, name, integration, auth, values, limit, .. } = connection;
        let limit = limit.map(|Limit { per_second, burst }| json!({ "per_second": per_second, "burst": burst }));
        sqlx::query(
            "INSERT INTO connections (id, organization_id, customer, key, name, integration, auth, values_json, \
             limit_json, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10) \
             ON CONFLICT (organization_id, customer, key) DO UPDATE SET \
             name = $5, integration = $6, auth = $7, values_json = $8, limit_json = $9, updated_at = $10",
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
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    pub(super) async fn delete_connection(
        &mut self,
        organization: OrganizationId,
        id: ConnectionId,
    ) -> Result<Event, DatabaseError> {
        let row = sqlx::query("SELECT customer, key FROM connections WHERE id = $1 AND organization_id = $2")
            .bind(id.to_string())
            .bind(organization.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        let row = row.ok_or(DatabaseError::NotFound("connection"))?;
        let (customer, key) = query::connection_name(&row, id)?;
        sqlx::query("DELETE FROM connections WHERE id = $1 AND organization_id = $2")
            .bind(id.to_string())
            .bind(organization.to_string())
            .execute(&mut *self.connection)
            .await?;
        let detail = json!({ "key": key, "customer": customer });
        self.outcome.subjects.push(Subject::Name(organization, customer, key));
        self.outcome.subjects.push(Subject::Connection(id));
        // Also where it had no credential: that there is none may be cached too.
        for environment in self.environments(organization).await? {
            self.outcome.subjects.push(Subject::Credential(id, environment));
        }
        Ok(Event { organization, action: "connection.delete", object: id.to_string(), detail })
    }
}

fn detail(connection: &Connection) -> Value {
    json!({ "key": connection.key, "customer": connection.customer, "integration": connection.integration })
}
