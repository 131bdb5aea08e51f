//! Credentials: one for a request, or all of a few connections to see how they stand.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{BINDING, Opening, parse};
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{EnvironmentName, FieldName};
use crate::model::oauth::Granted;
use crate::vault::database::Database;
use crate::vault::error::DatabaseError;
use crate::vault::seal::Place;

/// A credential with the origins it was entered for.
#[derive(Debug)]
pub struct StoredCredential {
    /// Its fields.
    pub credential: Credential,
    /// Where it may go, as given when it was stored; sealed with it, so that editing the vault cannot redirect it.
    pub origins: Vec<String>,
    /// When it ends to be of use, in milliseconds since 1970, where that is known.
    pub expires_at: Option<i64>,
    /// What is known of the tokens in it, where an authorization server has given them out.
    pub granted: Option<Granted>,
}

/// The credentials of several connections, each opened or damaged.
pub type StoredCredentials = BTreeMap<(ConnectionId, EnvironmentName), Result<StoredCredential, DatabaseError>>;

/// The fields of one credential. The `+` keeps the planner from looking up all credentials of an organization in an
/// environment, which it takes to be as few as those of one connection (sqlite.org/optoverview.html#uplus).
pub(in crate::vault) const CREDENTIAL: &str = "SELECT c.field, c.version, c.key_id AS value_key_id, c.nonce AS value_nonce, \
     c.ciphertext AS value_ciphertext, k.id, k.organization_id, k.purpose, k.master_key_id, k.nonce, k.ciphertext \
     FROM credentials c LEFT JOIN data_keys k ON k.id = c.key_id \
     WHERE c.connection_id = $1 AND +c.organization_id = $2 AND c.environment = $3";

/// The fields of the credentials of several connections, each credential's beside one another.
const CREDENTIALS: &str = "SELECT c.connection_id, c.environment, c.field, c.version, c.key_id AS value_key_id, \
     c.nonce AS value_nonce, c.ciphertext AS value_ciphertext, k.id, k.organization_id, k.purpose, k.master_key_id, \
     k.nonce, k.ciphertext FROM json_each($1) AS wanted CROSS JOIN credentials c ON c.connection_id = wanted.value \
     LEFT JOIN data_keys k ON k.id = c.key_id WHERE +c.organization_id = $2 ORDER BY c.connection_id, c.environment";

impl Database {
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
        if rows.is_empty() {
            return Ok(None);
        }
        let owner = CredentialOwner { organization, connection, environment };
        let mut opening = Opening::new(&self.inner, &masters);
        owner.open(&mut opening, &rows).map(Some).ok_or_else(|| owner.corrupt())
    }

    /// All credentials of connections of an organization. One that is damaged does not keep the others from being read.
    pub async fn credentials(
        &self,
        organization: OrganizationId,
        connections: &[ConnectionId],
    ) -> Result<StoredCredentials, DatabaseError> {
        self.inner.counters.read();
        let masters = self.inner.masters.all();
        let rows = sqlx::query(CREDENTIALS)
            .bind(serde_json::json!(connections).to_string())
            .bind(organization.to_string())
            .fetch_all(&self.inner.readers)
            .await?;
        let mut opening = Opening::new(&self.inner, &masters);
        let mut credentials = StoredCredentials::new();
        let named = |row: &SqliteRow| -> Result<(String, String), DatabaseError> {
            Ok((row.try_get("connection_id")?, row.try_get("environment")?))
        };
        let mut rest = &rows[..];
        while let Some(first) = rest.first() {
            let (id, environment) = named(first)?;
            let is_other = |row: &SqliteRow| named(row).is_ok_and(|other| other != (id.clone(), environment.clone()));
            let count = rest.iter().position(is_other).unwrap_or(rest.len());
            let connection = parse(&id, "credential", &id)?;
            let environment: EnvironmentName = parse(&environment, "credential", &id)?;
            let owner = CredentialOwner { organization, connection, environment: &environment };
            let opened = owner.open(&mut opening, &rest[..count]).ok_or_else(|| owner.corrupt());
            credentials.insert((connection, environment), opened);
            rest = &rest[count..];
        }
        Ok(credentials)
    }
}

/// What is sealed beside the fields of a credential.
#[derive(Clone, Deserialize, Serialize)]
pub(in crate::vault) struct Binding {
    pub(in crate::vault) origins: Vec<String>,
    #[serde(default)]
    pub(in crate::vault) expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::vault) granted: Option<Granted>,
}

/// It holds the fields together.
#[derive(Deserialize, Serialize)]
struct Whole {
    #[serde(flatten)]
    binding: Binding,
    /// In their order.
    fields: Vec<String>,
}

impl Binding {
    /// The credential that it is sealed with.
    pub(in crate::vault) fn of(self, credential: Credential) -> StoredCredential {
        let Binding { origins, expires_at, granted } = self;
        StoredCredential { credential, origins, expires_at, granted }
    }

    /// As it is sealed with the fields of a credential.
    pub(in crate::vault) fn around(self, credential: &Credential) -> String {
        let fields = credential.fields().keys().map(ToString::to_string).collect();
        serde_json::json!(Whole { binding: self, fields }).to_string()
    }
}

/// Whose a credential is.
pub(in crate::vault) struct CredentialOwner<'a> {
    pub(in crate::vault) organization: OrganizationId,
    pub(in crate::vault) connection: ConnectionId,
    pub(in crate::vault) environment: &'a EnvironmentName,
}

impl CredentialOwner<'_> {
    pub(in crate::vault) fn corrupt(&self) -> DatabaseError {
        DatabaseError::Corrupt { what: "credential", id: format!("{} ({})", self.connection, self.environment) }
    }

    /// Opens the fields of one credential, where they are all there and of one version.
    pub(in crate::vault) fn open(&self, opening: &mut Opening<'_>, rows: &[SqliteRow]) -> Option<StoredCredential> {
        let CredentialOwner { organization, connection, environment } = *self;
        let (mut fields, mut binding, mut versions) = (BTreeMap::new(), None, BTreeSet::new());
        for row in rows {
            let field: String = row.try_get("field").ok()?;
            let version: i64 = row.try_get("version").ok()?;
            versions.insert(version);
            let place = Place::Credential { organization, connection, environment, field: &field, version };
            if field == BINDING {
                let bytes = opening.value(row, |key, sealed| key.open_bytes(&place, sealed))?;
                binding = Some(serde_json::from_slice::<Whole>(&bytes).ok()?);
            } else {
                let value = opening.value(row, |key, sealed| key.open(&place, sealed))?;
                fields.insert(field.parse::<FieldName>().ok()?, value);
            }
        }
        let Whole { binding, fields: names } = binding?;
        // A row that was taken away, or left from an earlier version, must not make another credential.
        let is_whole = versions.len() == 1 && names.iter().eq(fields.keys().map(FieldName::as_str));
        is_whole.then(|| binding.of(Credential::new(fields)))
    }
}
