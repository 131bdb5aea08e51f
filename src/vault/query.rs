//! Reads: one object each, by the name a caller has for it, within one organization.
//!
//! A row that cannot be read back into the type it was written from is a [`DatabaseError::Corrupt`] that names it; no
//! other row is affected.

pub mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::str::FromStr;

use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use subtle::ConstantTimeEq;

use super::database::Database;
use super::error::DatabaseError;
use super::key::{DataKey, WrappedKey};
use super::seal::{self, Place, Purpose, Sealed};
use crate::model::connection::Connection;
use crate::model::credential::Credential;
use crate::model::document::{Problems, Reader};
use crate::model::id::{ApiKeyId, ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::{Integration, Limit, Values};
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, SecretKey};
use crate::model::role::Roles;

/// The field under which a credential's binding is stored. No [`FieldName`] is written like it.
pub(super) const BINDING: &str = "@binding";

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Unique in the vault.
    pub key: Key,
    /// As a person reads it.
    pub name: String,
}

/// A credential with the origins it was entered for.
#[derive(Debug)]
pub struct StoredCredential {
    /// Its fields.
    pub credential: Credential,
    /// Where it may go, as given when it was stored; sealed with it, so that editing the vault cannot redirect it.
    pub origins: Vec<String>,
}

/// An API key as far as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its public part.
    pub id: ApiKeyId,
    /// Whose it is.
    pub organization: OrganizationId,
    /// As a person reads it.
    pub name: String,
    /// What its holder may do.
    pub roles: Roles,
}

/// The fields of one credential. The `+` keeps the planner from looking up all credentials of an organization in an
/// environment, which it takes to be as few as those of one connection (sqlite.org/optoverview.html#uplus).
const CREDENTIAL: &str = "SELECT c.field, c.version, c.key_id AS value_key_id, c.nonce AS value_nonce, \
     c.ciphertext AS value_ciphertext, k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, k.ciphertext \
     FROM credentials c LEFT JOIN data_keys k ON k.id = c.key_id \
     WHERE c.connection_id = $1 AND +c.organization_id = $2 AND c.environment = $3";

impl Database {
    /// An organization by id or key.
    pub async fn organization(&self, key_or_id: &str) -> Result<Option<Organization>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query("SELECT id, key, name FROM organizations WHERE id = $1 OR key = $1")
            .bind(key_or_id)
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(organization).transpose()
    }

    /// The environments of an organization in their order; empty where there is no such organization.
    pub async fn environments(&self, organization: OrganizationId) -> Result<Vec<EnvironmentName>, DatabaseError> {
        self.inner.counters.read();
        environments(&mut *self.inner.readers.acquire().await?, organization).await
    }

    /// A connection. By key: the one of exactly this customer. By id: whatever its customer is.
    pub async fn connection(
        &self,
        organization: OrganizationId,
        customer: Option<&CustomerName>,
        reference: &ConnectionRef,
    ) -> Result<Option<Connection>, DatabaseError> {
        self.inner.counters.read();
        let query = match reference {
            ConnectionRef::Id(id) => sqlx::query(
                "SELECT id, organization_id, customer, key, name, integration, auth, values_json, limit_json \
                 FROM connections WHERE organization_id = $1 AND id = $2",
            )
            .bind(organization.to_string())
            .bind(id.to_string()),
            ConnectionRef::Key(key) => sqlx::query(
                "SELECT id, organization_id, customer, key, name, integration, auth, values_json, limit_json \
                 FROM connections WHERE organization_id = $1 AND customer = $2 AND key = $3",
            )
            .bind(organization.to_string())
            .bind(customer_column(customer))
            .bind(key.as_str()),
        };
        let row = query.fetch_optional(&self.inner.readers).await?;
        row.as_ref().map(connection).transpose()
    }

    /// A stored integration.
    pub async fn integration(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<Integration>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query("SELECT id, slug, document FROM integrations WHERE organization_id = $1 AND slug = $2")
            .bind(organization.to_string())
            .bind(slug.as_str())
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(integration).transpose()
    }

    /// The credential of a connection in one environment.
    pub async fn credential(
        &self,
        organization: OrganizationId,
        connection: ConnectionId,
        environment: &EnvironmentName,
    ) -> Result<Option<StoredCredential>, DatabaseError> {
        self.inner.counters.read();
        let masters = self.inner.masters.all();
        let rows = sqlx::query(CREDENTIAL)
            .bind(connection.to_string())
            .bind(organization.to_string())
            .bind(environment.as_str())
            .fetch_all(&self.inner.readers)
            .await?;
        let corrupt = || DatabaseError::Corrupt { what: "credential", id: format!("{connection} ({environment})") };
        let mut opening = Opening { database: self, masters: &masters, key: None };
        let mut fields = BTreeMap::new();
        let mut binding = None;
        let mut versions = BTreeSet::new();
        for row in &rows {
            let field: String = row.try_get("field").map_err(|_| corrupt())?;
            let version: i64 = row.try_get("version").map_err(|_| corrupt())?;
            versions.insert(version);
            let place = Place::Credential { organization, connection, environment, field: &field, version };
            if field == BINDING {
                let bytes = opening.value(row, |key, sealed| key.open_bytes(&place, sealed)).ok_or_else(corrupt)?;
                binding = Some(serde_json::from_slice::<Binding>(&bytes).map_err(|_| corrupt())?);
            } else {
                let value = opening.value(row, |key, sealed| key.open(&place, sealed)).ok_or_else(corrupt)?;
                fields.insert(field.parse::<FieldName>().map_err(|_| corrupt())?, value);
            }
        }
        match binding {
            None if rows.is_empty() => Ok(None),
            // A row that was taken away, or left from an earlier version, must not make another credential.
            Some(Binding { origins, fields: names })
                if versions.len() == 1 && names.iter().eq(fields.keys().map(FieldName::as_str)) =>
            {
                Ok(Some(StoredCredential { credential: Credential::new(fields), origins }))
            }
            _ => Err(corrupt()),
        }
    }

    /// The value of a secret in one environment.
    pub async fn secret(
        &self,
        organization: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Result<Option<SecretString>, DatabaseError> {
        self.inner.counters.read();
        let masters = self.inner.masters.all();
        let row = sqlx::query(
            "SELECT v.version, v.key_id AS value_key_id, v.nonce AS value_nonce, v.ciphertext AS value_ciphertext, \
             k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, k.ciphertext \
             FROM secrets s JOIN secret_values v ON v.secret_id = s.id LEFT JOIN data_keys k ON k.id = v.key_id \
             WHERE s.organization_id = $1 AND s.key = $2 AND v.environment = $3",
        )
        .bind(organization.to_string())
        .bind(key.as_str())
        .bind(environment.as_str())
        .fetch_optional(&self.inner.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let corrupt = || DatabaseError::Corrupt { what: "secret", id: format!("{key} ({environment})") };
        let version: i64 = row.try_get("version").map_err(|_| corrupt())?;
        let place = Place::Secret { organization, key, environment, version };
        let mut opening = Opening { database: self, masters: &masters, key: None };
        opening.value(&row, |key, sealed| key.open(&place, sealed)).map(Some).ok_or_else(corrupt)
    }

    /// The API key that was presented, if it is one: found by its public part, then its keyed digest compared in
    /// constant time.
    pub async fn authenticate(&self, presented: &SecretString) -> Result<Option<ApiKeyRecord>, DatabaseError> {
        let Some(id) = seal::api_key_id(presented) else { return Ok(None) };
        self.inner.counters.read();
        let masters = self.inner.masters.all();
        let rows = sqlx::query(
            "SELECT k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, k.ciphertext, a.id AS api_key_id, \
             a.organization_id AS api_key_organization_id, a.name, a.digest, a.roles_json \
             FROM data_keys k LEFT JOIN api_keys a ON a.id = $1 WHERE k.purpose = $2",
        )
        .bind(id.to_string())
        .bind(Purpose::Digest.as_str())
        .fetch_all(&self.inner.readers)
        .await?;
        for row in &rows {
            let key = self.inner.unwrap(&masters, &wrapped_key(row)?)?;
            // Digested also where there is no such key, so that the time does not tell.
            let digest = key.digest(presented);
            let stored: Option<Vec<u8>> = row.try_get("digest")?;
            if stored.is_some_and(|stored| bool::from(stored.ct_eq(&digest))) {
                return api_key(row, id).map(Some);
            }
        }
        Ok(None)
    }
}

/// What holds the fields of a credential together.
#[derive(Deserialize)]
struct Binding {
    origins: Vec<String>,
    /// In their order.
    fields: Vec<String>,
}

/// Opens values, and each data key once.
struct Opening<'a> {
    database: &'a Database,
    masters: &'a [std::sync::Arc<super::key::MasterKey>],
    key: Option<DataKey>,
}

impl Opening<'_> {
    /// Opens the value in a row that was read with its data key.
    fn value<T>(
        &mut self,
        row: &SqliteRow,
        open: impl FnOnce(&seal::SealingKey<'_>, &Sealed) -> Option<T>,
    ) -> Option<T> {
        let sealed = Sealed {
            key_id: row.try_get("value_key_id").ok()?,
            nonce: row.try_get("value_nonce").ok()?,
            ciphertext: row.try_get("value_ciphertext").ok()?,
        };
        let inner = &self.database.inner;
        let known = self.key.take().filter(|key| key.id == sealed.key_id);
        let key = match known {
            Some(key) => key,
            None => inner.unwrap(self.masters, &wrapped_key(row).ok()?).ok()?,
        };
        let value = open(&key.sealing(&inner.counters), &sealed);
        self.key = Some(key);
        value
    }
}

/// Reads a column that was a checked value when it was written.
pub(super) fn parse<T: FromStr>(text: &str, what: &'static str, id: impl Display) -> Result<T, DatabaseError> {
    text.parse().map_err(|_| corrupt(what, id))
}

pub(super) fn corrupt(what: &'static str, id: impl Display) -> DatabaseError {
    DatabaseError::Corrupt { what, id: id.to_string().escape_debug().to_string() }
}

/// Reads the columns `id`, `organization_id`, `purpose`, `master_key_id`, `nonce` and `ciphertext`.
pub(super) fn wrapped_key(row: &SqliteRow) -> Result<WrappedKey, DatabaseError> {
    let id: String = row.try_get("id")?;
    let organization: Option<String> = row.try_get("organization_id")?;
    let purpose: String = row.try_get("purpose")?;
    Ok(WrappedKey {
        organization: organization.map(|text| parse(&text, "data key", &id)).transpose()?,
        purpose: Purpose::parse(&purpose).ok_or_else(|| corrupt("data key", &id))?,
        sealed: Sealed {
            key_id: row.try_get("master_key_id")?,
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("ciphertext")?,
        },
        id,
    })
}

/// The organization's own connections have an empty customer, which no customer has.
pub(super) fn customer_column(customer: Option<&CustomerName>) -> &str {
    customer.map_or("", CustomerName::as_str)
}

pub(super) fn organization(row: &SqliteRow) -> Result<Organization, DatabaseError> {
    let (id, key): (String, String) = (row.try_get("id")?, row.try_get("key")?);
    Ok(Organization {
        id: parse(&id, "organization", &id)?,
        key: parse(&key, "organization", &id)?,
        name: row.try_get("name")?,
    })
}

pub(super) async fn environments(
    connection: &mut SqliteConnection,
    organization: OrganizationId,
) -> Result<Vec<EnvironmentName>, DatabaseError> {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM environments WHERE organization_id = $1 ORDER BY position, name")
            .bind(organization.to_string())
            .fetch_all(connection)
            .await?;
    names.iter().map(|name| parse(name, "environment", name)).collect()
}

pub(super) fn integration(row: &SqliteRow) -> Result<Integration, DatabaseError> {
    let (id, slug, document): (String, String, String) =
        (row.try_get("id")?, row.try_get("slug")?, row.try_get("document")?);
    let corrupt = || corrupt("integration", &slug);
    let document: Value = serde_json::from_str(&document).map_err(|_| corrupt())?;
    let integration = Integration::parse(&document, parse(&id, "integration", &slug)?).map_err(|_| corrupt())?;
    if integration.slug.as_str() == slug { Ok(integration) } else { Err(corrupt()) }
}

/// Reads the columns `customer` and `key`.
pub(super) fn connection_name(row: &SqliteRow, id: impl Display) -> Result<(Option<CustomerName>, Key), DatabaseError> {
    let (customer, key): (String, String) = (row.try_get("customer")?, row.try_get("key")?);
    let customer = if customer.is_empty() { None } else { Some(parse(&customer, "connection", &id)?) };
    Ok((customer, parse(&key, "connection", &id)?))
}

pub(super) fn connection(row: &SqliteRow) -> Result<Connection, DatabaseError> {
    let id: String = row.try_get("id")?;
    let (organization, integration): (String, String) = (row.try_get("organization_id")?, row.try_get("integration")?);
    let (auth, limit): (Option<String>, Option<String>) = (row.try_get("auth")?, row.try_get("limit_json")?);
    let values: String = row.try_get("values_json")?;
    let (customer, key) = connection_name(row, &id)?;
    Ok(Connection {
        organization: parse(&organization, "connection", &id)?,
        customer,
        key,
        name: row.try_get("name")?,
        integration: parse(&integration, "connection", &id)?,
        auth: auth.map(|auth| parse(&auth, "connection", &id)).transpose()?,
        values: read_values(&values).ok_or_else(|| corrupt("connection", &id))?,
        limit: limit.map(|limit| read_limit(&limit).ok_or_else(|| corrupt("connection", &id))).transpose()?,
        id: parse(&id, "connection", &id)?,
    })
}

fn read_values(text: &str) -> Option<Values> {
    let values: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    values.into_iter().map(|(name, value)| Some((name.parse().ok()?, value))).collect()
}

fn read_limit(text: &str) -> Option<Limit> {
    let document: Value = serde_json::from_str(text).ok()?;
    let problems = Problems::default();
    let limit = Limit::read(Reader::new(&document, "", &problems)?);
    limit.filter(|_| problems.is_empty())
}

fn read_roles(text: &str) -> Option<Roles> {
    let names: Vec<String> = serde_json::from_str(text).ok()?;
    names.iter().map(|name| name.parse().ok()).collect()
}

fn api_key(row: &SqliteRow, id: ApiKeyId) -> Result<ApiKeyRecord, DatabaseError> {
    let organization: String = row.try_get("api_key_organization_id")?;
    let roles: String = row.try_get("roles_json")?;
    Ok(ApiKeyRecord {
        id,
        organization: parse(&organization, "API key", id)?,
        name: row.try_get("name")?,
        roles: read_roles(&roles).ok_or_else(|| corrupt("API key", id))?,
    })
}

#[cfg(test)]
mod tests;
