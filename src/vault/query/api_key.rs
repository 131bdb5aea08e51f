//! API keys, read: to be compared with what is presented, and to be shown.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{corrupt, parse, wrapped_key};
use crate::model::api_key::{ApiKey, KeyScope, KeyTerms, RequestLimits};
use crate::model::document::{Problems, Reader};
use crate::model::id::{ApiKeyId, OrganizationId};
use crate::model::moment::Moment;
use crate::model::role::Roles;
use crate::vault::api_key::{self, KeyCheck, KnownKey, StoredKey};
use crate::vault::change::Ceiling;
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::list::{List, Page};
use crate::vault::seal::Purpose;

/// A key as it is shown.
pub(in crate::vault) const SHOWN_ONE: &str = "SELECT a.id AS api_key_id, a.organization_id AS api_key_organization_id, a.name, a.status, \
     a.roles_json, a.scope_json, a.limits_json, a.environment, a.owner_id, a.expires_at, a.created_at, a.rotated_at, \
     a.last_used_at FROM api_keys a WHERE a.organization_id = $1 AND a.id = $2";

/// A page of them.
pub(in crate::vault) const SHOWN_PAGE: &str = "SELECT a.id AS api_key_id, a.organization_id AS api_key_organization_id, a.name, a.status, \
     a.roles_json, a.scope_json, a.limits_json, a.environment, a.owner_id, a.expires_at, a.created_at, a.rotated_at, \
     a.last_used_at FROM api_keys a WHERE a.organization_id = $1 AND a.id > $2 ORDER BY a.id LIMIT $3";

/// A key as it is compared, beside every key for digests.
const COMPARED: &str = "SELECT k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, k.ciphertext, a.digest, \
     a.previous_digest, a.previous_until, a.id AS api_key_id, a.organization_id AS api_key_organization_id, a.name, a.status, \
     a.roles_json, a.scope_json, a.limits_json, a.environment, a.owner_id, a.expires_at, a.created_at, a.rotated_at, \
     a.last_used_at \
     FROM data_keys k LEFT JOIN api_keys a ON a.id = $1 WHERE k.organization_id IS NULL AND k.purpose = $2";

/// The ceiling of an organization.
pub(in crate::vault) const CEILING: &str =
    "SELECT organization_id, per_minute, per_hour, number FROM request_ceilings WHERE organization_id = $1";

impl Database {
    /// What a text with this public part is compared with.
    pub async fn key_check(&self, id: ApiKeyId) -> Result<KeyCheck, DatabaseError> {
        self.inner.counters.read();
        let masters = self.inner.masters.all();
        let rows = sqlx::query(COMPARED)
            .bind(id.to_string())
            .bind(Purpose::Digest.as_str())
            .fetch_all(&self.inner.readers)
            .await?;
        let mut digests = Vec::with_capacity(rows.len());
        for row in &rows {
            digests.push(self.inner.unwrap(&masters, &wrapped_key(row)?)?);
        }
        let stored = rows.first().map(stored).transpose()?.flatten();
        Ok(KeyCheck { digests, stored })
    }

    /// The API key that was presented, if it is one and may be used at this moment: found by its public part, then its
    /// keyed digest compared in constant time.
    pub async fn authenticate(&self, presented: &SecretString, now: Moment) -> Result<Option<KnownKey>, DatabaseError> {
        let Some(id) = api_key::id_of_secret(presented) else { return Ok(None) };
        Ok(self.key_check(id).await?.verify_secret(presented, now))
    }

    /// The API keys of an organization, the oldest first.
    pub async fn api_keys(&self, organization: OrganizationId, page: Page<'_>) -> Result<List<ApiKey>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query(SHOWN_PAGE)
            .bind(organization.to_string())
            .bind(page.cursor())
            .bind(page.fetch())
            .fetch_all(&self.inner.readers)
            .await?;
        page.list(&rows, api_key, |key| key.id.to_string())
    }

    /// One API key of an organization.
    pub async fn api_key(&self, organization: OrganizationId, id: ApiKeyId) -> Result<Option<ApiKey>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query(SHOWN_ONE)
            .bind(organization.to_string())
            .bind(id.to_string())
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(api_key).transpose()
    }

    /// How many requests the callers of each organization may make together.
    pub async fn ceilings(&self) -> Result<Vec<Ceiling>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query("SELECT organization_id, per_minute, per_hour, number FROM request_ceilings")
            .fetch_all(&self.inner.readers)
            .await?;
        rows.iter().map(ceiling).collect()
    }
}

/// Reads the columns of [`CEILING`].
pub(in crate::vault) fn ceiling(row: &SqliteRow) -> Result<Ceiling, DatabaseError> {
    let id: String = row.try_get("organization_id")?;
    let number = |column: &str| -> Result<_, DatabaseError> {
        let number: Option<i64> = row.try_get(column)?;
        let read = |number: i64| u32::try_from(number).ok().and_then(std::num::NonZeroU32::new);
        number.map(|number| read(number).ok_or_else(|| corrupt("ceiling", &id))).transpose()
    };
    let limits = RequestLimits { per_minute: number("per_minute")?, per_hour: number("per_hour")? };
    Ok(Ceiling { organization: parse(&id, "ceiling", &id)?, limits, number: row.try_get("number")? })
}

fn stored(row: &SqliteRow) -> Result<Option<StoredKey>, DatabaseError> {
    let id: Option<String> = row.try_get("api_key_id")?;
    if id.is_none() {
        return Ok(None);
    }
    let previous: Option<Vec<u8>> = row.try_get("previous_digest")?;
    let until: Option<i64> = row.try_get("previous_until")?;
    Ok(Some(StoredKey {
        key: Arc::new(api_key(row)?),
        digest: row.try_get("digest")?,
        previous: previous.zip(until.map(Moment::from_milliseconds)),
    }))
}

/// Reads the columns that are shown.
pub(in crate::vault) fn api_key(row: &SqliteRow) -> Result<ApiKey, DatabaseError> {
    let id: String = row.try_get("api_key_id")?;
    let corrupt = || corrupt("API key", &id);
    let organization: String = row.try_get("api_key_organization_id")?;
    let (status, roles): (String, String) = (row.try_get("status")?, row.try_get("roles_json")?);
    let (scope, limits): (String, String) = (row.try_get("scope_json")?, row.try_get("limits_json")?);
    let environment: Option<String> = row.try_get("environment")?;
    let owner: Option<String> = row.try_get("owner_id")?;
    let moment = |column: &str| -> Result<Option<Moment>, DatabaseError> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(Moment::from_milliseconds))
    };
    Ok(ApiKey {
        id: parse(&id, "API key", &id)?,
        organization: parse(&organization, "API key", &id)?,
        status: parse(&status, "API key", &id)?,
        terms: KeyTerms {
            name: row.try_get("name")?,
            roles: read_roles(&roles).ok_or_else(corrupt)?,
            limits: read(&limits, RequestLimits::read).ok_or_else(corrupt)?,
            environment: environment.map(|name| parse(&name, "API key", &id)).transpose()?,
            scope: read(&scope, KeyScope::read).ok_or_else(corrupt)?,
            owner: owner.map(|owner| parse(&owner, "API key", &id)).transpose()?,
            expires_at: moment("expires_at")?,
        },
        created_at: moment("created_at")?.ok_or_else(corrupt)?,
        rotated_at: moment("rotated_at")?,
        last_used_at: moment("last_used_at")?,
    })
}

/// Reads the column `roles_json`.
pub(in crate::vault) fn read_roles(text: &str) -> Option<Roles> {
    let names: Vec<String> = serde_json::from_str(text).ok()?;
    names.iter().map(|name| name.parse().ok()).collect()
}

/// Reads a document that was checked when it was written.
fn read<T>(text: &str, read: impl FnOnce(&Reader<'_>) -> T) -> Option<T> {
    let document: Value = serde_json::from_str(text).ok()?;
    let problems = Problems::default();
    let reader = Reader::new(&document, "", &problems)?;
    let found = read(&reader);
    reader.finish();
    problems.is_empty().then_some(found)
}
