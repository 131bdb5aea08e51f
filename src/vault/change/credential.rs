//! Credentials: each field sealed on its own, and the binding that holds them together.

use std::collections::BTreeSet;

use secrecy::SecretString;
use serde_json::json;

use super::{Event, Writing};
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{EnvironmentName, SecretKey};
use crate::model::version::Version;
use crate::vault::error::DatabaseError;
use crate::vault::query::{self, BINDING, Binding};
use crate::vault::revision::Subject;
use crate::vault::revoked::Revoked;
use crate::vault::schema;
use crate::vault::seal::{self, Place, Sealed};

impl Writing<'_> {
    pub(super) async fn put_credential(
        &mut self,
        organization: OrganizationId,
        (connection, environment): (ConnectionId, &EnvironmentName),
        credential: &Credential,
        origins: &[String],
        expires_at: Option<i64>,
    ) -> Result<Event, DatabaseError> {
        self.require_connection(organization, connection).await?;
        self.require_environment(organization, environment).await?;
        self.expect_credential(organization, connection, environment).await?;
        let names: Vec<&str> = credential.fields().keys().map(|name| name.as_str()).collect();
        let created = self.remove_credential(connection, environment).await? == 0;
        let binding = Binding { origins: origins.to_owned(), expires_at, granted: None };
        self.seal_credential(organization, (connection, environment), credential, binding).await?;
        let entry = (organization, connection, environment);
        self.insert_entry(entry, expires_at, &seal::referenced_secrets(credential)).await?;
        self.outcome.created = created;
        self.outcome.connection = Some(connection);
        self.outcome.subjects.push(Subject::Credential(connection, environment.clone()));
        Ok(Event {
            organization,
            action: "credential.put",
            object: connection.to_string(),
            detail: json!({
                "environment": environment, "fields": names, "origins": origins, "expires_at": expires_at,
            }),
        })
    }

    /// Seals every field of a credential, and what holds them together.
    pub(super) async fn seal_credential(
        &mut self,
        organization: OrganizationId,
        (connection, environment): (ConnectionId, &EnvironmentName),
        credential: &Credential,
        binding: Binding,
    ) -> Result<(), DatabaseError> {
        let binding = SecretString::from(binding.around(credential));
        let fields = credential.fields();
        let values = fields.iter().map(|(name, value)| (name.as_str(), value));
        let (key, version) = self.sealing_key(organization, fields.len() + 1).await?;
        for (field, value) in values.chain([(BINDING, &binding)]) {
            let place = Place::Credential { organization, connection, environment, field, version };
            let sealed = key.sealing(&self.inner.counters).seal(&place, value)?;
            self.insert_field(organization, connection, environment, field, version, sealed).await?;
        }
        Ok(())
    }

    pub(super) async fn delete_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        self.require_connection(organization, connection).await?;
        self.expect_credential(organization, connection, environment).await?;
        if !self.revoke_credential(organization, connection, environment).await? {
            return Err(DatabaseError::NotFound("credential"));
        }
        Ok(Event {
            organization,
            action: "credential.delete",
            object: connection.to_string(),
            detail: json!({ "environment": environment }),
        })
    }

    /// Every credential of a connection, or that of one environment. The version that is expected is the connection's.
    pub(super) async fn revoke_credentials(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: Option<EnvironmentName>,
    ) -> Result<Event, DatabaseError> {
        self.expect_connection(organization, connection).await?;
        let mut revoked = Vec::new();
        for environment in environment.map_or(self.entered(connection).await?, |environment| vec![environment]) {
            if self.revoke_credential(organization, connection, &environment).await? {
                revoked.push(environment);
            }
        }
        Ok(Event {
            organization,
            action: "connection.revoke",
            object: connection.to_string(),
            detail: json!({ "environments": revoked }),
        })
    }

    /// The environments in which a connection has a credential, by name.
    async fn entered(&mut self, connection: ConnectionId) -> Result<Vec<EnvironmentName>, DatabaseError> {
        let found: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT environment FROM credentials WHERE connection_id = $1 ORDER BY 1")
                .bind(connection.to_string())
                .fetch_all(&mut *self.connection)
                .await?;
        found.iter().map(|name| query::parse(name, "credential of", connection)).collect()
    }

    /// Removes a credential, so that what rests on it ends; false where there is none.
    async fn revoke_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<bool, DatabaseError> {
        if self.remove_credential(connection, environment).await? == 0 {
            return Ok(false);
        }
        sqlx::query(
            "INSERT INTO credential_removals (connection_id, organization_id, environment, removed_at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (connection_id, environment) DO UPDATE SET removed_at = $4",
        )
        .bind(connection.to_string())
        .bind(organization.to_string())
        .bind(environment.as_str())
        .bind(schema::now())
        .execute(&mut *self.connection)
        .await?;
        self.outcome.subjects.push(Subject::Credential(connection, environment.clone()));
        self.outcome.revoked.push(Revoked::Credential(connection, environment.clone()));
        Ok(true)
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

    pub(super) async fn expect_credential(
        &mut self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let version = self.credential_version(connection, environment).await?;
        self.expect(version, organization, connection)
    }

    pub(super) async fn credential_version(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<Option<i64>, DatabaseError> {
        Ok(sqlx::query_scalar("SELECT version FROM credential_entries WHERE connection_id = $1 AND environment = $2")
            .bind(connection.to_string())
            .bind(environment.as_str())
            .fetch_optional(&mut *self.connection)
            .await?)
    }

    /// Whether credentials are still in the versions in which they were read.
    pub(super) async fn check_seen(
        &mut self,
        connection: ConnectionId,
        seen: &[(EnvironmentName, Version)],
    ) -> Result<(), DatabaseError> {
        for (environment, version) in seen {
            if self.credential_version(connection, environment).await? != Some(version.number()) {
                return Err(DatabaseError::Outdated);
            }
        }
        Ok(())
    }

    /// Notes what may be known of a credential without opening it.
    async fn insert_entry(
        &mut self,
        (organization, connection, environment): (OrganizationId, ConnectionId, &EnvironmentName),
        expires_at: Option<i64>,
        secrets: &BTreeSet<SecretKey>,
    ) -> Result<(), DatabaseError> {
        let version = self.next_version();
        sqlx::query(
            "INSERT INTO credential_entries (connection_id, organization_id, environment, version, entered_at, \
             expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(connection.to_string())
        .bind(organization.to_string())
        .bind(environment.as_str())
        .bind(version)
        .bind(schema::now())
        .bind(expires_at)
        .execute(&mut *self.connection)
        .await?;
        for secret in secrets {
            sqlx::query(
                "INSERT INTO credential_secrets (connection_id, organization_id, environment, secret_key) \
                 VALUES ($1, $2, $3, $4)",
            )
            .bind(connection.to_string())
            .bind(organization.to_string())
            .bind(environment.as_str())
            .bind(secret.as_str())
            .execute(&mut *self.connection)
            .await?;
        }
        self.forget_refusal(connection, environment).await
    }

    /// That the credential before was refused says nothing of the one that is there now.
    pub(super) async fn forget_refusal(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        sqlx::query(
            "UPDATE connection_uses SET refused_at = NULL, reason = NULL WHERE connection_id = $1 AND environment = $2",
        )
        .bind(connection.to_string())
        .bind(environment.as_str())
        .execute(&mut *self.connection)
        .await?;
        Ok(())
    }

    /// How many rows there were.
    async fn remove_credential(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<u64, DatabaseError> {
        sqlx::query("DELETE FROM credential_entries WHERE connection_id = $1 AND environment = $2")
            .bind(connection.to_string())
            .bind(environment.as_str())
            .execute(&mut *self.connection)
            .await?;
        self.remove_fields(connection, environment).await
    }

    /// How many there were.
    pub(super) async fn remove_fields(
        &mut self,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<u64, DatabaseError> {
        let delete = sqlx::query("DELETE FROM credentials WHERE connection_id = $1 AND environment = $2")
            .bind(connection.to_string())
            .bind(environment.as_str());
        Ok(delete.execute(&mut *self.connection).await?.rows_affected())
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
