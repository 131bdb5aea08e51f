//! Credentials: each field sealed on its own, and the binding that holds them together.

use secrecy::SecretString;
use serde_json::json;

use super::{Event, Writing};
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::EnvironmentName;
use crate::vault::error::DatabaseError;
use crate::vault::query::BINDING;
use crate::vault::revision::Subject;
use crate::vault::seal::{Place, Sealed};

impl Writing<'_> {
    pub(super) async fn put_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
        credential: &Credential,
        origins: &[String],
    ) -> Result<Event, DatabaseError> {
        self.require_connection(organization, connection).await?;
        self.require_environment(organization, environment).await?;
        let names: Vec<&str> = credential.fields().keys().map(|name| name.as_str()).collect();
        let binding = SecretString::from(json!({ "origins": origins, "fields": names }).to_string());
        let values = credential.fields().iter().map(|(name, value)| (name.as_str(), value));
        let created = self.remove_credential(connection, environment).await? == 0;
        let (key, version) = self.sealing_key(organization, names.len() + 1).await?;
        for (field, value) in values.chain([(BINDING, &binding)]) {
            let place = Place::Credential { organization, connection, environment, field, version };
            let sealed = key.sealing(&self.inner.counters).seal(&place, value)?;
            self.insert_field(organization, connection, environment, field, version, sealed).await?;
        }
        self.outcome.created = created;
        self.outcome.connection = Some(connection);
        self.outcome.subjects.push(Subject::Credential(connection, environment.clone()));
        Ok(Event {
            organization,
            action: "credential.put",
            object: connection.to_string(),
            detail: json!({ "environment": environment, "fields": names, "origins": origins }),
        })
    }

    pub(super) async fn delete_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        self.require_connection(organization, connection).await?;
        if self.remove_credential(connection, environment).await? == 0 {
            return Err(DatabaseError::NotFound("credential"));
        }
        self.outcome.subjects.push(Subject::Credential(connection, environment.clone()));
        Ok(Event {
            organization,
            action: "credential.delete",
            object: connection.to_string(),
            detail: json!({ "environment": environment }),
        })
    }

    async fn require_connection(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
    ) -> Result<(), DatabaseError> {
        let found = sqlx::query("SELECT 1 FROM connections WHERE id = $1 AND organization_id = $2")
            .bind(connection.to_string())
            .bind(organization.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        found.map(drop).ok_or(DatabaseError::NotFound("connection"))
    }

    /// How many rows there were.
    async fn remove_credential(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<u64, DatabaseError> {
        let removed = sqlx::query("DELETE FROM credentials WHERE connection_id = $1 AND environment = $2")
            .bind(connection.to_string())
            .bind(environment.as_str())
            .execute(&mut *self.connection)
            .await?;
        Ok(removed.rows_affected())
    }

    async fn insert_field(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
        field: &str,
        version: i64,
        sealed: Sealed,
    ) -> Result<(), DatabaseError> {
        sqlx::query(
            "INSERT INTO credentials (connection_id, organization_id, environment, field, version, key_id, nonce, \
             ciphertext) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(connection.to_string())
        .bind(organization.to_string())
        .bind(environment.as_str())
        .bind(field)
        .bind(version)
        .bind(sealed.key_id)
        .bind(sealed.nonce)
        .bind(sealed.ciphertext)
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }
}
