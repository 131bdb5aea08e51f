//! API keys, and how many requests an organization's callers may make together.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::sqlite::SqliteRow;

use super::{Event, Writing};
use crate::model::api_key::{ApiKey, KeyStatus, KeyTerms, RequestLimits};
use crate::model::id::{ApiKeyId, OrganizationId};
use crate::model::moment::Moment;
use crate::model::name::EnvironmentName;
use crate::vault::api_key::PlainKey;
use crate::vault::audit::chain::Told;
use crate::vault::audit::{self, Chain};
use crate::vault::derived;
use crate::vault::error::DatabaseError;
use crate::vault::key::DataKey;
use crate::vault::query;
use crate::vault::revision::Subject;
use crate::vault::revoked::Revoked;
use crate::vault::schema;
use crate::vault::seal::Purpose;

/// How many keys a refusal names.
const MOST_NAMED: usize = 10;

/// Everything that may be done with API keys.
#[derive(Debug)]
pub enum ApiKeyChange {
    /// A new key.
    Create {
        /// Whose.
        organization: OrganizationId,
        /// Its text, of which the digest is stored.
        plain: PlainKey,
        /// What it may do.
        terms: Box<KeyTerms>,
    },
    /// Other terms for a key that is not revoked.
    Edit {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        id: ApiKeyId,
        /// What it may do from now on.
        terms: Box<KeyTerms>,
    },
    /// Suspends, resumes or revokes a key. What is revoked stays so.
    SetStatus {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        id: ApiKeyId,
        /// Its status from now on.
        status: KeyStatus,
    },
    /// Another secret for an active key.
    Rotate {
        /// Whose.
        organization: OrganizationId,
        /// Its new text, of which the digest is stored.
        plain: PlainKey,
        /// How long the old text is still of use.
        grace: Duration,
    },
    /// How many requests all callers of an organization may make together.
    SetCeiling {
        /// Whose.
        organization: OrganizationId,
        /// So many; none is no ceiling.
        limits: RequestLimits,
    },
}

/// The ceiling that a change has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    /// Whose.
    pub organization: OrganizationId,
    /// How many requests.
    pub limits: RequestLimits,
    /// Larger than that of every value before.
    pub number: i64,
}

impl Writing<'_> {
    pub(super) async fn change_api_key(&mut self, change: ApiKeyChange) -> Result<Event, DatabaseError> {
        match change {
            ApiKeyChange::Create { organization, plain, terms } => {
                self.create_api_key(organization, &plain, &terms).await
            }
            ApiKeyChange::Edit { organization, id, terms } => self.edit_api_key(organization, id, *terms).await,
            ApiKeyChange::SetStatus { organization, id, status } => {
                self.set_api_key_status(organization, id, status).await
            }
            ApiKeyChange::Rotate { organization, plain, grace } => {
                self.rotate_api_key(organization, &plain, grace).await
            }
            ApiKeyChange::SetCeiling { organization, limits } => self.set_ceiling(organization, limits).await,
        }
    }

    async fn create_api_key(
        &mut self,
        organization: OrganizationId,
        plain: &PlainKey,
        terms: &KeyTerms,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        self.expect(None, organization, plain.id)?;
        self.require_owner(organization, terms).await?;
        let digest = self.digest_key().await?.digest(plain.text());
        sqlx::query(
            "INSERT INTO api_keys (id, organization_id, name, digest, roles_json, created_at, status, scope_json, \
             limits_json, environment, owner_id, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(plain.id.to_string())
        .bind(organization.to_string())
        .bind(&terms.name)
        .bind(digest.as_slice())
        .bind(text(&terms.roles))
        .bind(schema::now())
        .bind(KeyStatus::Active.as_str())
        .bind(text(&terms.scope))
        .bind(text(&terms.limits))
        .bind(terms.environment.as_ref().map(ToString::to_string))
        .bind(terms.owner.map(|owner| owner.to_string()))
        .bind(terms.expires_at.map(Moment::milliseconds))
        .execute(&mut *self.connection)
        .await?;
        self.outcome.created = true;
        self.outcome.subjects.push(Subject::ApiKey(plain.id));
        let detail = audit::difference(&Value::Null, &told(terms));
        Ok(Event { organization, action: "api_key.create", object: plain.id.to_string(), detail })
    }

    async fn edit_api_key(
        &mut self,
        organization: OrganizationId,
        id: ApiKeyId,
        terms: KeyTerms,
    ) -> Result<Event, DatabaseError> {
        let before = self.living_api_key(organization, id).await?;
        self.require_owner(organization, &terms).await?;
        sqlx::query(
            "UPDATE api_keys SET name = $2, roles_json = $3, scope_json = $4, limits_json = $5, environment = $6, \
             owner_id = $7, expires_at = $8 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&terms.name)
        .bind(text(&terms.roles))
        .bind(text(&terms.scope))
        .bind(text(&terms.limits))
        .bind(terms.environment.as_ref().map(ToString::to_string))
        .bind(terms.owner.map(|owner| owner.to_string()))
        .bind(terms.expires_at.map(Moment::milliseconds))
        .execute(&mut *self.connection)
        .await?;
        self.outcome.subjects.push(Subject::ApiKey(id));
        let detail = audit::difference(&told(&before.terms), &told(&terms));
        Ok(Event { organization, action: "api_key.edit", object: id.to_string(), detail })
    }

    async fn set_api_key_status(
        &mut self,
        organization: OrganizationId,
        id: ApiKeyId,
        status: KeyStatus,
    ) -> Result<Event, DatabaseError> {
        let before = match status {
            // Revoking again is no mistake: whoever wants it gone has what they want.
            KeyStatus::Revoked => self.stored_api_key(organization, id).await?,
            KeyStatus::Active | KeyStatus::Suspended => self.living_api_key(organization, id).await?,
        };
        if status == KeyStatus::Active {
            self.require_owner(organization, &before.terms).await?;
        }
        sqlx::query("UPDATE api_keys SET status = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(status.as_str())
            .execute(&mut *self.connection)
            .await?;
        if status == KeyStatus::Revoked {
            // Nothing can be compared with it any more, whatever becomes of the status.
            sqlx::query(
                "UPDATE api_keys SET digest = x'', previous_digest = NULL, previous_until = NULL WHERE id = $1",
            )
            .bind(id.to_string())
            .execute(&mut *self.connection)
            .await?;
        }
        self.outcome.subjects.push(Subject::ApiKey(id));
        if status != KeyStatus::Active {
            self.outcome.revoked.push(Revoked::Key(id));
        }
        let action = match status {
            KeyStatus::Active => "api_key.resume",
            KeyStatus::Suspended => "api_key.suspend",
            KeyStatus::Revoked => "api_key.revoke",
        };
        let detail = audit::difference(&json!({ "status": before.status }), &json!({ "status": status }));
        Ok(Event { organization, action, object: id.to_string(), detail })
    }

    async fn rotate_api_key(
        &mut self,
        organization: OrganizationId,
        plain: &PlainKey,
        grace: Duration,
    ) -> Result<Event, DatabaseError> {
        let before = self.living_api_key(organization, plain.id).await?;
        let digest = self.digest_key().await?.digest(plain.text());
        let now = Moment::from_milliseconds(schema::now());
        let until = (!grace.is_zero()).then(|| now.after(grace));
        sqlx::query(
            "UPDATE api_keys SET previous_digest = CASE WHEN $4 IS NULL THEN NULL ELSE digest END, \
             previous_until = $4, digest = $2, rotated_at = $3 WHERE id = $1",
        )
        .bind(plain.id.to_string())
        .bind(digest.as_slice())
        .bind(now.milliseconds())
        .bind(until.map(Moment::milliseconds))
        .execute(&mut *self.connection)
        .await?;
        self.outcome.subjects.push(Subject::ApiKey(plain.id));
        let (was, is) = (json!({ "rotated_at": before.rotated_at }), json!({ "rotated_at": now }));
        let mut detail = audit::difference(&was, &is);
        detail["old_secret_until"] = json!(until);
        Ok(Event { organization, action: "api_key.rotate", object: plain.id.to_string(), detail })
    }

    async fn set_ceiling(
        &mut self,
        organization: OrganizationId,
        limits: RequestLimits,
    ) -> Result<Event, DatabaseError> {
        self.require_organization(organization).await?;
        let row = sqlx::query(query::api_key::CEILING)
            .bind(organization.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        let before = row.as_ref().map(query::api_key::ceiling).transpose()?;
        let before = before.map_or_else(RequestLimits::default, |before| before.limits);
        self.expect(Some(derived::of_ceiling(organization, &before).number()), organization, organization)?;
        let number: i64 = sqlx::query_scalar(
            "INSERT INTO request_ceilings (organization_id, per_minute, per_hour, number) VALUES ($1, $2, $3, 1) \
             ON CONFLICT (organization_id) DO UPDATE SET per_minute = $2, per_hour = $3, number = number + 1 \
             RETURNING number",
        )
        .bind(organization.to_string())
        .bind(limits.per_minute.map(|number| i64::from(number.get())))
        .bind(limits.per_hour.map(|number| i64::from(number.get())))
        .fetch_one(&mut *self.connection)
        .await?;
        self.outcome.ceiling = Some(Ceiling { organization, limits, number });
        let shown = |limits: &RequestLimits| json!({ "per_minute": limits.per_minute, "per_hour": limits.per_hour });
        let detail = audit::difference(&shown(&before), &shown(&limits));
        Ok(Event { organization, action: "organization.limit", object: organization.to_string(), detail })
    }

    /// Refuses to go on where a key that may still be used names an environment.
    pub(super) async fn require_unnamed(
        &mut self,
        organization: OrganizationId,
        environment: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let mut naming = Vec::new();
        for row in &self.all_api_keys(organization).await? {
            let ApiKey { id, status, terms, .. } = query::api_key::api_key(row)?;
            let mut named = terms.scope.environments.iter().flatten().chain(&terms.environment);
            if status != KeyStatus::Revoked && named.any(|name| name == environment) {
                naming.push(id.to_string());
            }
        }
        if naming.is_empty() {
            return Ok(());
        }
        let more = naming.len().saturating_sub(MOST_NAMED);
        naming.truncate(MOST_NAMED);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let keys = naming.join(", ");
        Err(DatabaseError::InUse(format!("API keys name {environment}: {keys}{more}; change or revoke them first")))
    }

    async fn all_api_keys(&mut self, organization: OrganizationId) -> Result<Vec<SqliteRow>, DatabaseError> {
        let all = sqlx::query(query::api_key::SHOWN_PAGE).bind(organization.to_string()).bind("").bind(i64::MAX);
        Ok(all.fetch_all(&mut *self.connection).await?)
    }

    /// Lets the keys of an organization name an environment as it is called from now on.
    pub(super) async fn move_api_keys(
        &mut self,
        organization: OrganizationId,
        from: &EnvironmentName,
        to: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        for row in &self.all_api_keys(organization).await? {
            let ApiKey { id, mut terms, .. } = query::api_key::api_key(row)?;
            let before = told(&terms);
            let named = terms.scope.environments.iter_mut().flatten().chain(&mut terms.environment);
            let renamed = named.filter(|name| **name == *from).map(|name| *name = to.clone()).count();
            if renamed == 0 {
                continue;
            }
            let detail = audit::difference(&before, &told(&terms));
            let told = Told { action: "api_key.edit", object: &id.to_string(), detail: &detail };
            self.inner.record(self.connection, Chain::Organization(organization), self.author, told).await?;
            sqlx::query("UPDATE api_keys SET environment = $2, scope_json = $3 WHERE id = $1")
                .bind(id.to_string())
                .bind(terms.environment.as_ref().map(ToString::to_string))
                .bind(text(&terms.scope))
                .execute(&mut *self.connection)
                .await?;
            self.outcome.subjects.push(Subject::ApiKey(id));
        }
        Ok(())
    }

    /// Refuses an owner who is nobody in the organization, or is disabled.
    async fn require_owner(&mut self, organization: OrganizationId, terms: &KeyTerms) -> Result<(), DatabaseError> {
        let Some(owner) = terms.owner else { return Ok(()) };
        let status: Option<String> =
            sqlx::query_scalar("SELECT status FROM users WHERE id = $1 AND organization_id = $2")
                .bind(owner.to_string())
                .bind(organization.to_string())
                .fetch_optional(&mut *self.connection)
                .await?;
        match status.ok_or(DatabaseError::NotFound("user"))?.as_str() {
            "disabled" => Err(DatabaseError::Conflict("the key's owner is disabled; enable the user first".to_owned())),
            _ => Ok(()),
        }
    }

    /// The key that digests API keys.
    async fn digest_key(&mut self) -> Result<DataKey, DatabaseError> {
        let masters = self.inner.masters.all();
        let row = sqlx::query(
            "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext FROM data_keys \
             WHERE organization_id IS NULL AND purpose = $1 ORDER BY created_at DESC, id DESC LIMIT 1",
        )
        .bind(Purpose::Digest.as_str())
        .fetch_optional(&mut *self.connection)
        .await?;
        let row = row.ok_or_else(|| DatabaseError::Corrupt { what: "data key", id: "of digests".to_owned() })?;
        self.inner.unwrap(&masters, &query::wrapped_key(&row)?)
    }

    async fn stored_api_key(&mut self, organization: OrganizationId, id: ApiKeyId) -> Result<ApiKey, DatabaseError> {
        let row = sqlx::query(query::api_key::SHOWN_ONE)
            .bind(organization.to_string())
            .bind(id.to_string())
            .fetch_optional(&mut *self.connection)
            .await?;
        let key = query::api_key::api_key(&row.ok_or(DatabaseError::NotFound("API key"))?)?;
        self.expect(Some(derived::of_api_key(&key).number()), organization, id)?;
        Ok(key)
    }

    /// A key that is not revoked.
    async fn living_api_key(&mut self, organization: OrganizationId, id: ApiKeyId) -> Result<ApiKey, DatabaseError> {
        let key = self.stored_api_key(organization, id).await?;
        match key.status {
            KeyStatus::Revoked => {
                Err(DatabaseError::Conflict("the API key is revoked, for ever; make a new one".to_owned()))
            }
            KeyStatus::Active | KeyStatus::Suspended => Ok(key),
        }
    }
}

/// What the audit log tells of terms.
fn told(terms: &KeyTerms) -> Value {
    json!({
        "name": terms.name, "roles": terms.roles, "limits": terms.limits, "environment": terms.environment,
        "scope": terms.scope, "owner": terms.owner, "expires_at": terms.expires_at,
    })
}

/// As a column holds it.
fn text(value: &impl serde::Serialize) -> String {
    json!(value).to_string()
}

#[cfg(test)]
mod tests;
