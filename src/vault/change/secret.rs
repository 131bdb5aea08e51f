//! Secrets and their values.

use secrecy::SecretString;
use serde_json::json;

use super::resource::Force;
use super::{Event, PutMode, Writing};
use crate::model::id::{OrganizationId, SecretId};
use crate::model::name::{EnvironmentName, SecretKey};
use crate::vault::error::DatabaseError;
use crate::vault::revision::Subject;
use crate::vault::schema;
use crate::vault::seal::Place;

/// How many of those who refer to a secret are named.
const MOST_NAMED: usize = 20;

impl Writing<'_> {
    pub(super) async fn put_secret(
        &mut self,
        organization: OrganizationId,
        key: &SecretKey,
        description: Option<&str>,
        mode: PutMode,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        let found = self.secret_id(organization, key).await?;
        self.expect_secret(organization, key).await?;
        if found.is_some() && mode == PutMode::Create {
            return Err(DatabaseError::Conflict(format!("there is a secret {key} already")));
        }
        let version = self.next_version();
        sqlx::query(
            "INSERT INTO secrets (id, organization_id, key, description, created_at, updated_at, version) \
             VALUES ($1, $2, $3, $4, $5, $5, $6) \
             ON CONFLICT (organization_id, key) DO UPDATE SET description = $4, updated_at = $5, version = $6",
        )
        .bind(SecretId::generate().to_string())
        .bind(organization.to_string())
        .bind(key.as_str())
        .bind(description)
        .bind(schema::now())
        .bind(version)
        .execute(&mut *self.connection)
        .await?;
        self.outcome.created = found.is_none();
        let action = if found.is_none() { "secret.create" } else { "secret.replace" };
        Ok(Event { organization, action, object: key.to_string(), detail: json!({}) })
    }

    pub(super) async fn delete_secret(
        &mut self,
        organization: OrganizationId,
        key: &SecretKey,
        force: Force,
    ) -> Result<Event, DatabaseError> {
        self.expect_secret(organization, key).await?;
        if force == Force::No {
            self.check_unreferenced(organization, key).await?;
        }
        let deleted = sqlx::query("DELETE FROM secrets WHERE organization_id = $1 AND key = $2")
            .bind(organization.to_string())
            .bind(key.as_str())
            .execute(&mut *self.connection)
            .await?;
        if deleted.rows_affected() == 0 {
            return Err(DatabaseError::NotFound("secret"));
        }
        for environment in self.environments(organization).await? {
            self.outcome.subjects.push(Subject::Secret(organization, key.clone(), environment));
        }
        Ok(Event { organization, action: "secret.delete", object: key.to_string(), detail: json!({}) })
    }

    pub(super) async fn put_secret_value(
        &mut self,
        organization: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
        value: &SecretString,
    ) -> Result<Event, DatabaseError> {
        let secret = self.secret_id(organization, key).await?.ok_or(DatabaseError::NotFound("secret"))?;
        self.require_environment(organization, environment).await?;
        self.expect_secret(organization, key).await?;
        let created = self.remove_value(&secret, environment).await? == 0;
        let (data_key, version) = self.sealing_key(organization, 1).await?;
        let place = Place::Secret { organization, key, environment, version };
        let sealed = data_key.sealing(&self.inner.counters).seal(&place, value)?;
        sqlx::query(
            "INSERT INTO secret_values (secret_id, organization_id, environment, version, key_id, nonce, ciphertext) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&secret)
        .bind(organization.to_string())
        .bind(environment.as_str())
        .bind(version)
        .bind(sealed.key_id)
        .bind(sealed.nonce)
        .bind(sealed.ciphertext)
        .execute(&mut *self.connection)
        .await?;
        self.renew_secret(&secret).await?;
        self.outcome.created = created;
        Ok(self.value_event("secret.put_value", organization, key, environment))
    }

    pub(super) async fn delete_secret_value(
        &mut self,
        organization: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Result<Event, DatabaseError> {
        let secret = self.secret_id(organization, key).await?.ok_or(DatabaseError::NotFound("secret"))?;
        self.expect_secret(organization, key).await?;
        if self.remove_value(&secret, environment).await? == 0 {
            return Err(DatabaseError::NotFound("value of this secret"));
        }
        self.renew_secret(&secret).await?;
        Ok(self.value_event("secret.delete_value", organization, key, environment))
    }

    /// Another version for a secret whose values are not what they were.
    async fn renew_secret(&mut self, id: &str) -> Result<(), DatabaseError> {
        let version = self.next_version();
        sqlx::query("UPDATE secrets SET version = $2 WHERE id = $1")
            .bind(id)
            .bind(version)
            .execute(&mut *self.connection)
            .await?;
        Ok(())
    }

    fn value_event(
        &mut self,
        action: &'static str,
        organization: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Event {
        self.outcome.subjects.push(Subject::Secret(organization, key.clone(), environment.clone()));
        Event { organization, action, object: key.to_string(), detail: json!({ "environment": environment }) }
    }

    async fn expect_secret(&mut self, organization: OrganizationId, key: &SecretKey) -> Result<(), DatabaseError> {
        let version = sqlx::query_scalar("SELECT version FROM secrets WHERE organization_id = $1 AND key = $2")
            .bind(organization.to_string())
            .bind(key.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        self.expect(version, organization, key)
    }

    /// Refuses to take away what credentials refer to, and says whose they are.
    async fn check_unreferenced(&mut self, organization: OrganizationId, key: &SecretKey) -> Result<(), DatabaseError> {
        let users: Vec<(Option<String>, i64)> = sqlx::query_as(
            "SELECT CASE WHEN visibility = 'personal' THEN NULL WHEN customer = '' THEN key \
             ELSE customer || '/' || key END AS name, COUNT(*) FROM connections WHERE id IN \
             (SELECT connection_id FROM credential_secrets WHERE organization_id = $1 AND secret_key = $2) \
             GROUP BY name ORDER BY name IS NULL, name",
        )
        .bind(organization.to_string())
        .bind(key.as_str())
        .fetch_all(&mut *self.connection)
        .await?;
        if users.is_empty() {
            return Ok(());
        }
        // Personal ones are nobody else's business; that there are some is.
        let personal: i64 = users.iter().filter(|(name, _)| name.is_none()).map(|(_, count)| count).sum();
        let mut names: Vec<String> = users.into_iter().filter_map(|(name, _)| name).collect();
        if names.len() > MOST_NAMED {
            let more = names.len() - MOST_NAMED;
            names.truncate(MOST_NAMED);
            names.push(format!("{more} more"));
        }
        if personal > 0 {
            names.push(format!("{personal} personal"));
        }
        Err(DatabaseError::InUse(format!(
            "credentials of these connections refer to the secret {key}: {}; change them first, or add ?force=true",
            names.join(", ")
        )))
    }

    async fn secret_id(
        &mut self,
        organization: OrganizationId,
        key: &SecretKey,
    ) -> Result<Option<String>, DatabaseError> {
        let id = sqlx::query_scalar("SELECT id FROM secrets WHERE organization_id = $1 AND key = $2")
            .bind(organization.to_string())
            .bind(key.as_str());
        Ok(id.fetch_optional(&mut *self.connection).await?)
    }

    /// How many rows there were.
    async fn remove_value(&mut self, secret: &str, environment: &EnvironmentName) -> Result<u64, DatabaseError> {
        let removed = sqlx::query("DELETE FROM secret_values WHERE secret_id = $1 AND environment = $2")
            .bind(secret)
            .bind(environment.as_str())
            .execute(&mut *self.connection)
            .await?;
        Ok(removed.rows_affected())
    }
}
