//! Reads: one object each, by the name a caller has for it, within one organization.
//!
//! A row that cannot be read back into the type it was written from is a [`DatabaseError::Corrupt`] that names it; no
//! other row is affected.

pub(in crate::vault) mod api_key;
mod credential;
mod facts;
mod integration;
pub mod user;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::database::{Database, Inner};
use super::error::DatabaseError;
use super::key::{DataKey, MasterKey, WrappedKey};
use super::seal::{self, Place, Purpose, Sealed};
use crate::model::connection::{Connection, Sharing};
use crate::model::document::{Problems, Reader};
use crate::model::id::{ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::{Integration, Limit, Values};
use crate::model::name::{CustomerName, EnvironmentName, Key, SecretKey};
use crate::model::version::Version;

/// The field under which a credential's binding is stored. No [`FieldName`] is written like it.
pub(super) const BINDING: &str = "@binding";

pub(super) use credential::{Binding, CREDENTIAL, CredentialOwner};
pub use credential::{StoredCredential, StoredCredentials};
pub use facts::{ConnectionFacts, Entry, Refusal, Used};
pub use integration::{IntegrationFacts, IntegrationVersion};

/// The columns that a [`Connection`] is read from; the table is called `c`.
macro_rules! connection_columns {
    () => {
        "c.id, c.organization_id, c.customer, c.key, c.name, c.integration, c.auth, c.values_json, c.limit_json, \
         c.visibility, c.owner_id, c.labels_json, c.exposed"
    };
}
pub(super) use connection_columns;

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Unique in the vault.
    pub key: Key,
    /// As a person reads it.
    pub name: String,
    /// What tells this state of it from others.
    pub version: Version,
}

/// An environment of an organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// Its name.
    pub name: EnvironmentName,
    /// Whether workflows are built with its credentials.
    pub designer: bool,
    /// What tells this state of it from others.
    pub version: Version,
}

impl Database {
    /// An organization by id or key.
    pub async fn organization(&self, key_or_id: &str) -> Result<Option<Organization>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query("SELECT id, key, name, version FROM organizations WHERE id = $1 OR key = $1")
            .bind(key_or_id)
            .fetch_optional(&self.inner.readers)
            .await?;
        row.as_ref().map(organization).transpose()
    }

    /// The environments of an organization in their order, with what each is for.
    pub async fn environment_list(&self, organization: OrganizationId) -> Result<Vec<Environment>, DatabaseError> {
        self.inner.counters.read();
        let rows = sqlx::query(
            "SELECT name, designer, version FROM environments WHERE organization_id = $1 ORDER BY position, name",
        )
        .bind(organization.to_string())
        .fetch_all(&self.inner.readers)
        .await?;
        let environment = |row: &SqliteRow| {
            let name: String = row.try_get("name")?;
            Ok(Environment {
                name: parse(&name, "environment", &name)?,
                designer: row.try_get("designer")?,
                version: Version::stored(row.try_get("version")?),
            })
        };
        rows.iter().map(environment).collect()
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
            ConnectionRef::Id(id) => sqlx::query(concat!(
                "SELECT ",
                connection_columns!(),
                " FROM connections c WHERE organization_id = $1 AND id = $2"
            ))
            .bind(organization.to_string())
            .bind(id.to_string()),
            ConnectionRef::Key(key) => sqlx::query(concat!(
                "SELECT ",
                connection_columns!(),
                " FROM connections c WHERE organization_id = $1 AND customer = $2 AND key = $3"
            ))
            .bind(organization.to_string())
            .bind(customer_column(customer))
            .bind(key.as_str()),
        };
        let row = query.fetch_optional(&self.inner.readers).await?;
        row.as_ref().map(connection).transpose()
    }

    /// The version of a connection. Read before the connection, it is never newer than that.
    pub async fn connection_version(
        &self,
        organization: OrganizationId,
        id: ConnectionId,
    ) -> Result<Option<Version>, DatabaseError> {
        self.inner.counters.read();
        let version: Option<i64> =
            sqlx::query_scalar("SELECT version FROM connections WHERE organization_id = $1 AND id = $2")
                .bind(organization.to_string())
                .bind(id.to_string())
                .fetch_optional(&self.inner.readers)
                .await?;
        Ok(version.map(Version::stored))
    }

    /// A stored integration: the organization's own, else the one that all organizations share.
    pub async fn integration(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<Integration>, DatabaseError> {
        self.inner.counters.read();
        let row = sqlx::query(
            "SELECT id, slug, document FROM integrations \
             WHERE slug = $2 AND (organization_id = $1 OR organization_id IS NULL) \
             ORDER BY organization_id IS NULL LIMIT 1",
        )
        .bind(organization.to_string())
        .bind(slug.as_str())
        .fetch_optional(&self.inner.readers)
        .await?;
        row.as_ref().map(integration).transpose()
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
        let mut opening = Opening::new(&self.inner, &masters);
        opening.value(&row, |key, sealed| key.open(&place, sealed)).map(Some).ok_or_else(corrupt)
    }
}

/// Opens values, and each data key once.
pub(super) struct Opening<'a> {
    inner: &'a Inner,
    masters: &'a [Arc<MasterKey>],
    key: Option<DataKey>,
}

impl<'a> Opening<'a> {
    /// With the master keys that were known before the rows were read.
    pub(super) fn new(inner: &'a Inner, masters: &'a [Arc<MasterKey>]) -> Self {
        Opening { inner, masters, key: None }
    }

    /// Opens the value in a row that was read with its data key.
    pub(super) fn value<T>(
        &mut self,
        row: &SqliteRow,
        open: impl FnOnce(&seal::SealingKey<'_>, &Sealed) -> Option<T>,
    ) -> Option<T> {
        let (sealed, inner) = (sealed(row).ok()?, self.inner);
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

/// Reads the columns `value_key_id`, `value_nonce` and `value_ciphertext`.
pub(super) fn sealed(row: &SqliteRow) -> Result<Sealed, DatabaseError> {
    Ok(Sealed {
        key_id: row.try_get("value_key_id")?,
        nonce: row.try_get("value_nonce")?,
        ciphertext: row.try_get("value_ciphertext")?,
    })
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
        version: Version::stored(row.try_get("version")?),
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
        sharing: sharing(row, &id)?,
        id: parse(&id, "connection", &id)?,
    })
}

fn sharing(row: &SqliteRow, id: &str) -> Result<Sharing, DatabaseError> {
    let (visibility, labels): (String, String) = (row.try_get("visibility")?, row.try_get("labels_json")?);
    let owner: Option<String> = row.try_get("owner_id")?;
    let labels: Vec<String> = serde_json::from_str(&labels).map_err(|_| corrupt("connection", id))?;
    Ok(Sharing {
        visibility: parse(&visibility, "connection", id)?,
        owner: owner.map(|owner| parse(&owner, "connection", id)).transpose()?,
        labels: labels.iter().map(|label| parse(label, "connection", id)).collect::<Result<_, _>>()?,
        exposed: row.try_get("exposed")?,
    })
}

pub(super) fn read_values(text: &str) -> Option<Values> {
    let values: BTreeMap<String, String> = serde_json::from_str(text).ok()?;
    values.into_iter().map(|(name, value)| Some((name.parse().ok()?, value))).collect()
}

fn read_limit(text: &str) -> Option<Limit> {
    let document: Value = serde_json::from_str(text).ok()?;
    let problems = Problems::default();
    let limit = Limit::read(Reader::new(&document, "", &problems)?);
    limit.filter(|_| problems.is_empty())
}

#[cfg(test)]
mod tests;
