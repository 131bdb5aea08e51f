//! What is stored: sealed in a file, or declared in the configuration and held in memory.
//!
//! [`Vault`] is the one way to either. It hides the database and the cipher, reads for the data plane, and makes
//! changes for the control plane ([`Vault::commit`]); a change moves the [`revision`]s of what it touched before it is
//! acknowledged. Declared things stand above stored ones and are read-only.

pub mod answer;
pub mod api_key;
pub mod audit;
mod calendar;
mod ceiling;
pub mod change;
mod checkpoint;
mod create;
pub mod database;
pub mod declared;
pub mod derived;
mod durable;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod inspect;
pub mod key;
pub mod list;
mod lock;
pub mod password;
pub mod query;
pub mod rekey;
pub mod revision;
pub mod revoked;
mod schema;
mod seal;
pub mod token;
pub mod usage;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;

use crate::model::api_key::RequestLimits;
use crate::model::connection::Connection;
use crate::model::credential::Credential;
use crate::model::id::{ApiKeyId, ConnectionId, ConnectionRef, OrganizationId};
use crate::model::integration::Integration;
use crate::model::moment::Moment;
use crate::model::name::{CustomerName, EnvironmentName, Key, SecretKey};
use crate::model::oauth::{Granted, REFRESH_TOKEN};
use crate::model::version::Version;
use api_key::{KeyCheck, KnownKey};
use audit::{Author, Notice};
use calendar::Calendar;
use ceiling::Ceilings;
use change::{Change, Outcome, resource};
use database::{Database, Opened, Options};
use declared::{Declared, DeclaredCredential};
use error::DatabaseError;
use query::{Entry, Organization, StoredCredential};
use revision::{Revisions, Stamp, Subject};
use revoked::Revocations;

/// Why something could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The thing is declared in the configuration, which only its file can change.
    #[error("{0} is declared in the configuration and is changed there")]
    Declared(String),
    /// There is no database: `[vault] enabled = false`.
    #[error("the vault is off ([vault] enabled = false), so nothing can be stored")]
    Off,
    /// The server is stopping.
    #[error("the vault is closed because the server is stopping")]
    Stopped,
}

impl VaultError {
    /// Whether one stored thing is damaged, and nothing else.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, VaultError::Database(DatabaseError::Corrupt { .. }))
    }
}

/// What is stored and declared. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    declared: ArcSwap<Declared>,
    database: Option<Database>,
    revisions: Revisions,
    revocations: Revocations,
    ceilings: Ceilings,
    calendar: Calendar,
}

/// How old a note of a key's use on the admin port may become before it is written anew.
const NOTED_LATELY: Duration = Duration::from_secs(60);

/// A credential as it is stored, or none at all for auth methods that need none.
#[derive(Default)]
pub struct Held {
    /// Its fields.
    pub credential: Credential,
    /// The origins it is bound to; `None` for a declared one, which follows its file.
    pub origins: Option<Vec<String>>,
    /// When it ends to be of use, in milliseconds since 1970, where that is known.
    pub expires_at: Option<i64>,
    /// What is known of the tokens in it, where an authorization server has given them out.
    pub granted: Option<Granted>,
}

impl Held {
    /// When it ends to be of use, in milliseconds since 1970, where that is known: as people said, or with an access
    /// token in whose place no other one can be had.
    pub fn ends_at(&self) -> Option<i64> {
        let refreshes = self.credential.fields().keys().any(|name| name.as_str() == REFRESH_TOKEN);
        let granted = self.granted.as_ref().filter(|_| !refreshes).and_then(|granted| granted.expires_at);
        [self.expires_at, granted].into_iter().flatten().min()
    }
}

impl From<StoredCredential> for Held {
    fn from(StoredCredential { credential, origins, expires_at, granted }: StoredCredential) -> Self {
        Held { credential, origins: Some(origins), expires_at, granted }
    }
}

impl Vault {
    /// A vault of declared things only.
    pub fn without_database() -> Self {
        Self::over(None)
    }

    /// Opens the database, or makes it where there is nothing yet.
    pub async fn open(options: Options) -> Result<(Self, Opened), VaultError> {
        let (database, opened) = Database::open(options).await?;
        let ceilings = database.ceilings().await?;
        let vault = Self::over(Some(database));
        vault.0.ceilings.fill(ceilings);
        Ok((vault, opened))
    }

    fn over(database: Option<Database>) -> Self {
        Vault(Arc::new(Inner {
            declared: ArcSwap::default(),
            database,
            revisions: Revisions::default(),
            revocations: Revocations::default(),
            ceilings: Ceilings::default(),
            calendar: Calendar::default(),
        }))
    }

    /// Closes the database; what was begun is finished.
    pub async fn close(&self) {
        if let Some(database) = &self.0.database {
            database.clone().close().await;
        }
    }

    /// The database, where there is one.
    pub fn database(&self) -> Result<&Database, VaultError> {
        self.0.database.as_ref().ok_or(VaultError::Off)
    }

    /// The revisions of everything in it.
    pub fn revisions(&self) -> &Revisions {
        &self.0.revisions
    }

    /// What was revoked, for whoever keeps something open.
    pub fn revocations(&self) -> &Revocations {
        &self.0.revocations
    }

    /// What is declared.
    pub fn declared(&self) -> Arc<Declared> {
        self.0.declared.load_full()
    }

    /// Replaces what is declared, and cools what differs.
    pub fn declare(&self, mut declared: Declared, organizations: &HashSet<OrganizationId>) {
        declared.date(&self.0.declared.load());
        let now = Arc::new(declared);
        let changes = now.changes(&self.0.declared.load(), organizations);
        let revoked = now.revoked(&self.0.declared.load());
        self.0.revisions.redeclare(changes, || self.0.declared.store(now));
        self.0.revocations.tell(revoked);
    }

    /// What is declared, with its stamp: all that is read from it is of one moment. `None` while it is being replaced,
    /// which takes no longer than a look; whoever cannot wait for that asks on the vault's own runtime, where it is over.
    pub fn snapshot(&self) -> Option<(Arc<Declared>, Stamp)> {
        let stamp = Stamp::of_declared(&self.0.revisions);
        let declared = self.declared();
        stamp.is_current().then_some((declared, stamp))
    }

    /// Whether what is declared is all there is.
    pub fn is_declared_only(&self) -> bool {
        self.0.database.is_none()
    }

    /// An organization by key or id. Without a database any key is an organization: there is nothing to keep apart.
    pub async fn organization(&self, key_or_id: &str) -> Result<Option<Organization>, VaultError> {
        match &self.0.database {
            Some(database) => Ok(database.organization(key_or_id).await?),
            None => Ok(key_or_id.parse().ok().map(|key: Key| Organization {
                id: OrganizationId::derived(key_or_id),
                name: key.to_string(),
                version: Version::stored(0),
                key,
            })),
        }
    }

    /// A connection of an organization. By id: whatever its customer is.
    pub async fn connection(
        &self,
        organization: OrganizationId,
        customer: Option<&CustomerName>,
        reference: &ConnectionRef,
    ) -> Result<Option<Arc<Connection>>, VaultError> {
        let declared = self.0.declared.load().connection(organization, customer, reference).cloned();
        match (&self.0.database, declared) {
            (Some(database), None) => Ok(database.connection(organization, customer, reference).await?.map(Arc::new)),
            (_, declared) => Ok(declared),
        }
    }

    /// What a slug means to an organization, with what it has filled in for all its connections.
    pub async fn integration(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<Arc<Integration>>, VaultError> {
        let declared = self.0.declared.load().integration(slug).cloned();
        let Some(database) = &self.0.database else { return Ok(declared) };
        let found = match declared {
            Some(declared) => Some(declared),
            None => database.integration(organization, slug).await?.map(Arc::new),
        };
        let Some(integration) = found else { return Ok(None) };
        Ok(Some(match database.integration_values(organization, slug).await? {
            Some((values, _)) if !values.is_empty() => Arc::new(integration.filled(&values)),
            _ => integration,
        }))
    }

    /// The credential of a connection in one environment. A declared connection has declared credentials only.
    pub async fn credential(
        &self,
        connection: &Connection,
        environment: &EnvironmentName,
    ) -> Result<Option<Held>, VaultError> {
        let declared = self.0.declared.load();
        let fields = declared.credential(connection.id, environment).map(|fields: &DeclaredCredential| {
            Credential::new(fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        if let Some(credential) = fields {
            return Ok(Some(Held { credential, ..Held::default() }));
        }
        match &self.0.database {
            Some(database) if !self.declares(connection.id) => {
                let stored = database.credential(connection.organization, connection.id, environment).await?;
                Ok(stored.map(Held::from))
            }
            _ => Ok(None),
        }
    }

    /// What is known of the credential of a connection in one environment without opening it.
    pub async fn credential_entry(
        &self,
        connection: &Connection,
        environment: &EnvironmentName,
    ) -> Result<Option<Entry>, VaultError> {
        let Some(database) = &self.0.database else { return Ok(None) };
        let mut facts = database.connection_facts(connection.organization, &[connection.id]).await?;
        Ok(facts.remove(&connection.id).and_then(|mut facts| facts.entries.remove(environment)))
    }

    /// The value of a secret in one environment.
    pub async fn secret(
        &self,
        owner: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Result<Option<SecretString>, VaultError> {
        let declared = self.0.declared.load().secret(owner, key, environment).cloned();
        match (&self.0.database, declared) {
            (Some(database), None) => Ok(database.secret(owner, key, environment).await?),
            (_, declared) => Ok(declared),
        }
    }

    /// The API key that was presented, if it is one and may be used now.
    pub async fn authenticate(&self, presented: &SecretString) -> Result<Option<KnownKey>, VaultError> {
        let (database, now) = (self.database()?, self.now());
        let known = database.authenticate(presented, now).await?;
        if let Some(KnownKey { key, .. }) = &known
            && key.last_used_at.is_none_or(|last| now.since(last) > NOTED_LATELY)
        {
            database.note_key_use(key.id, now);
        }
        Ok(known)
    }

    /// What a text with this public part is compared with. Without a database there are no keys.
    pub async fn key_check(&self, id: ApiKeyId) -> Result<KeyCheck, VaultError> {
        match &self.0.database {
            Some(database) => Ok(database.key_check(id).await?),
            None => Ok(KeyCheck::nothing()),
        }
    }

    /// How many requests all callers of an organization may make together. Waits for nothing.
    pub fn ceiling(&self, organization: OrganizationId) -> RequestLimits {
        self.0.ceilings.of(organization)
    }

    /// The time of day that expiry is judged by. It never goes back.
    pub fn now(&self) -> Moment {
        self.0.calendar.now()
    }

    /// Whether a connection is declared.
    pub fn declares(&self, id: ConnectionId) -> bool {
        self.0.declared.load().declares(id)
    }

    /// Makes a change. When this returns it is durable and holds for the very next request; on an error nothing was
    /// changed.
    pub async fn commit(&self, author: &Author, change: Change) -> Result<Outcome, VaultError> {
        self.check_not_declared(&change)?;
        let inner = Arc::clone(&self.0);
        let advance = move |outcome: &Outcome| {
            for subject in &outcome.subjects {
                inner.revisions.advance(subject);
            }
            if let Some(ceiling) = outcome.ceiling {
                // Everything of the organization was read with the ceiling; declared things are made again at once.
                let subject = Subject::Ceiling(ceiling.organization);
                inner.revisions.redeclare([subject], || inner.ceilings.set(ceiling));
            }
            inner.revocations.tell(outcome.revoked.iter().cloned());
        };
        Ok(self.database()?.commit_then(author, change, advance).await?)
    }

    /// Records an event that is no change, such as somebody signing in: see [`Database::record_event`].
    pub async fn record_event(&self, author: &Author, notice: Notice) -> Result<(), VaultError> {
        Ok(self.database()?.record_event(author, notice).await?)
    }

    /// What is declared is changed in its file, and what is stored does not take its place.
    fn check_not_declared(&self, change: &Change) -> Result<(), VaultError> {
        let declared = self.0.declared.load();
        let connection_taken = |connection: &Connection| {
            let reference = ConnectionRef::Key(connection.key.clone());
            let named = declared.connection(connection.organization, connection.customer.as_ref(), &reference);
            (named.is_some() || declared.declares(connection.id)).then(|| format!("the connection {}", connection.key))
        };
        let integration_taken = |slug: &Key| declared.integration(slug).map(|_| format!("the integration {slug}"));
        let taken = match change {
            Change::Guarded { change, .. } | Change::Judged { change, .. } | Change::Once { change, .. } => {
                return self.check_not_declared(change);
            }
            Change::PutIntegration { integration, .. }
            | Change::Resource(resource::Change::PutIntegration { integration, .. }) => {
                integration_taken(&integration.slug)
            }
            Change::DeleteIntegration { slug, .. }
            | Change::Resource(resource::Change::DeleteIntegration { slug, .. }) => integration_taken(slug),
            Change::PutConnection { connection, .. } => connection_taken(connection),
            Change::Import(import) => {
                let integrations = import.integrations.iter().map(|integration| &integration.slug);
                integrations
                    .filter_map(integration_taken)
                    .chain(import.connections.iter().filter_map(connection_taken))
                    .next()
            }
            Change::DeleteConnection { connection, .. }
            | Change::Resource(resource::Change::DeleteConnection { connection, .. })
            | Change::Resource(resource::Change::RevokeCredentials { connection, .. })
            | Change::PutCredential { connection, .. }
            | Change::StoreTokens { connection, .. }
            | Change::DeleteCredential { connection, .. } => {
                self.declares(*connection).then(|| "the connection".to_owned())
            }
            Change::DeleteSecret { organization, key }
            | Change::Resource(resource::Change::DeleteSecret { organization, key, .. })
            | Change::PutSecret { organization, key, .. }
            | Change::PutSecretValue { organization, key, .. }
            | Change::DeleteSecretValue { organization, key, .. } => declared
                .secrets()
                .any(|(owner, declared, _)| owner == organization && declared == key)
                .then(|| format!("the secret {key}")),
            _ => None,
        };
        taken.map_or(Ok(()), |what| Err(VaultError::Declared(what)))
    }
}
