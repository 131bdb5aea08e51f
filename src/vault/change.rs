//! Changes: everything that may be written, each in one transaction with its audit event.

mod api_key;
mod connection;
mod credential;
mod environment;
pub mod import;
mod integration;
pub mod link;
mod organization;
mod precondition;
pub mod resource;
mod secret;
pub mod session;
mod state;
pub mod tokens;
pub mod user;

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;
use sqlx::{Connection as _, Row, SqliteConnection};
use tracing::Instrument;

pub use api_key::{ApiKeyChange, Ceiling};
pub(super) use environment::DEFAULT_ENVIRONMENTS;
pub(super) use organization::insert_organization;
use precondition::Guards;
pub use precondition::{Attempt, Expected};
use resource::{EnvironmentDraft, Force, Place, Reach};
use state::Watched;
use tokens::Obtained;

use super::answer::{self, Once};
use super::audit::chain::Told;
use super::audit::{Author, Chain};
use super::database::{Database, Inner};
use super::error::{Cause, DatabaseError};
use super::key::{DataKey, MasterKey};
use super::query;
use super::revision::Subject;
use super::revoked::Revoked;
use super::schema;
use super::seal::{Counters, Purpose};
use crate::model::connection::Connection;
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId, UserId};
use crate::model::integration::Integration;
use crate::model::name::{EnvironmentName, Key, SecretKey};
use crate::model::version::Version;

/// Everything that may be done to the vault.
#[derive(Debug)]
pub enum Change {
    /// A new tenant with the three default environments.
    CreateOrganization {
        /// Its id.
        id: OrganizationId,
        /// Unique in the vault.
        key: Key,
        /// As a person reads it.
        name: String,
    },
    /// Only when it holds no integration, connection, secret or API key that is not revoked.
    DeleteOrganization {
        /// Which.
        organization: OrganizationId,
    },
    /// A further environment, ordered last.
    CreateEnvironment {
        /// Whose.
        organization: OrganizationId,
        /// Its name.
        name: EnvironmentName,
    },
    /// Only when there is no credential and no secret for it.
    DeleteEnvironment {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        name: EnvironmentName,
    },
    /// Stores the integration's document. One that is replaced keeps its id.
    PutIntegration {
        /// Whose.
        organization: OrganizationId,
        /// What to store.
        integration: Box<Integration>,
        /// Whether one may be there.
        mode: PutMode,
    },
    /// Only when no stored connection uses it.
    DeleteIntegration {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        slug: Key,
    },
    /// Stores a connection. One that is replaced keeps its id and its credentials.
    PutConnection {
        /// What to store.
        connection: Box<Connection>,
        /// Whether one of its customer and key may be there.
        mode: PutMode,
    },
    /// With its credentials.
    DeleteConnection {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        connection: ConnectionId,
    },
    /// Replaces all fields of a credential.
    PutCredential {
        /// Whose.
        organization: OrganizationId,
        /// Of which connection.
        connection: ConnectionId,
        /// In which environment.
        environment: EnvironmentName,
        /// The fields.
        credential: Credential,
        /// The origins it may go to, sealed with it.
        origins: Vec<String>,
        /// When it ends to be of use, in milliseconds since 1970, where that is known.
        expires_at: Option<i64>,
    },
    /// Stores the tokens that an authorization server has given out for a credential. What people entered stays.
    StoreTokens {
        /// Whose.
        organization: OrganizationId,
        /// Of which connection.
        connection: ConnectionId,
        /// In which environment.
        environment: EnvironmentName,
        /// What it answered.
        obtained: Arc<Obtained>,
    },
    /// Removes a credential.
    DeleteCredential {
        /// Whose.
        organization: OrganizationId,
        /// Of which connection.
        connection: ConnectionId,
        /// In which environment.
        environment: EnvironmentName,
    },
    /// A secret without values, or the description of one.
    PutSecret {
        /// Whose.
        organization: OrganizationId,
        /// As references name it.
        key: SecretKey,
        /// As a person reads it.
        description: Option<String>,
        /// Whether one may be there.
        mode: PutMode,
    },
    /// With its values.
    DeleteSecret {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        key: SecretKey,
    },
    /// The value of a secret that is there.
    PutSecretValue {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        key: SecretKey,
        /// In which environment.
        environment: EnvironmentName,
        /// Its value.
        value: SecretString,
    },
    /// API keys.
    ApiKey(ApiKeyChange),
    /// Removes the value in one environment.
    DeleteSecretValue {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        key: SecretKey,
        /// In which environment.
        environment: EnvironmentName,
    },
    /// Integrations and connections from elsewhere, all of them or none.
    Import(import::Import),
    /// Something with users and their links.
    User(user::UserChange),
    /// Something with sessions.
    Session(session::SessionChange),
    /// What else people do to integrations, environments, organizations, connections and secrets.
    Resource(resource::Change),
    /// Another change, if what it changes is as expected.
    Guarded {
        /// How the thing must be.
        expected: Expected,
        /// What to do then.
        change: Box<Change>,
    },
    /// Another change, which was judged by looking at what it changes. Where that is not as it was any more, it is
    /// [`DatabaseError::Outdated`] and to be judged anew.
    Judged {
        /// The version that was looked at; none where it was not there.
        at: Option<Version>,
        /// What to do.
        change: Box<Change>,
    },
    /// Another change, which a request asks for that may be sent again.
    Once {
        /// The request.
        once: Once,
        /// What it asks for.
        change: Box<Change>,
    },
}

/// Whether something may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// It is a [`DatabaseError::Conflict`] if it is.
    Create,
    /// It is replaced if it is, and created if it is not.
    Replace,
    /// It is replaced, and must be there under its id. Of connections only: its key may be another one now.
    Update,
}

/// What a change has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Everything that is not as it was: what was cached of these is stale.
    pub subjects: Vec<Subject>,
    /// What of it may not be used any more, not even by what is open already.
    pub revoked: Vec<Revoked>,
    /// Something was there that was not before.
    pub created: bool,
    /// The connection that was stored. It is another id than the one given where a connection was replaced.
    pub connection: Option<ConnectionId>,
    /// The user who followed a link.
    pub user: Option<UserId>,
    /// How many requests an organization's callers may make together, where that was set.
    pub ceiling: Option<Ceiling>,
    /// The version of what was stored.
    pub version: Option<Version>,
}

impl Database {
    /// Makes a change. When this returns, the change and its audit event are durable; on an error nothing was changed.
    /// Dropping the returned future does not stop what was begun.
    pub async fn commit(&self, author: &Author, change: Change) -> Result<Outcome, DatabaseError> {
        self.commit_then(author, change, |_| ()).await
    }

    /// As [`commit`](Self::commit), and calls `then` after the change is durable and before it is acknowledged, even
    /// when nobody waits for the acknowledgement any more.
    pub async fn commit_then<F>(&self, author: &Author, change: Change, then: F) -> Result<Outcome, DatabaseError>
    where
        F: FnOnce(&Outcome) + Send + 'static,
    {
        let (inner, author) = (self.inner.clone(), author.clone());
        let work = async move {
            let applied = apply(&inner, &author, change).await;
            if let Err(DatabaseError::Overtaken(attempt)) = &applied {
                precondition::record_attempt(&inner, &author, attempt).await.map_err(|error| inner.note(error))?;
            }
            let outcome = applied.map_err(|error| inner.note(error))?;
            then(&outcome);
            Ok(outcome)
        };
        let task = self.inner.runtime.spawn(work.in_current_span());
        task.await.unwrap_or(Err(DatabaseError::Unavailable(Cause::Closed)))
    }
}

async fn apply(inner: &Inner, author: &Author, change: Change) -> Result<Outcome, DatabaseError> {
    inner.check_writable()?;
    let mut writer = inner.writer.acquire().await?;
    let applied = transact(inner, &mut writer, author, change).await;
    if let Err(error) = &applied {
        schema::settle(&mut writer, error).await;
    }
    applied
}

async fn transact(
    inner: &Inner,
    writer: &mut SqliteConnection,
    author: &Author,
    change: Change,
) -> Result<Outcome, DatabaseError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let (once, change) = change.once();
    let (guards, change) = change.unguarded();
    let outcome = Outcome::default();
    let mut writing = Writing { inner, author, connection: &mut transaction, outcome, guards };
    let watched = Watched::of(&change);
    let before = writing.before(watched.as_ref()).await?;
    let mut event = writing.write(change).await?;
    writing.tell_states(&mut event, watched.as_ref(), &before).await?;
    writing.check_expected(event.organization, &event.object)?;
    let outcome = writing.outcome;
    if let Some(once) = &once {
        answer::mark(&mut transaction, once).await?;
    }
    let told = Told { action: event.action, object: &event.object, detail: &event.detail };
    inner.record(&mut transaction, event.chain(), author, told).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// A change under way.
struct Writing<'a> {
    inner: &'a Inner,
    author: &'a Author,
    connection: &'a mut SqliteConnection,
    outcome: Outcome,
    /// How the thing must be that is changed, until it was looked at.
    guards: Guards,
}

/// What the audit log tells of a change.
struct Event {
    organization: OrganizationId,
    action: &'static str,
    object: String,
    /// Without a secret. The members `before` and `after` are the two states of the thing: `audit::difference` of them.
    detail: Value,
}

impl Event {
    /// Where it is recorded. Nobody can ask for the events of an organization that is gone.
    fn chain(&self) -> Chain {
        match self.action {
            "organization.delete" => Chain::Vault,
            _ => Chain::Organization(self.organization),
        }
    }
}

impl Writing<'_> {
    async fn write(&mut self, change: Change) -> Result<Event, DatabaseError> {
        match change {
            Change::CreateOrganization { id, key, name } => self.create_organization(id, &key, &name).await,
            Change::DeleteOrganization { organization } => self.delete_organization(organization).await,
            Change::CreateEnvironment { organization, name } => {
                self.create_environment(organization, &EnvironmentDraft { name, position: None, designer: None }).await
            }
            Change::DeleteEnvironment { organization, name } => self.delete_environment(organization, &name).await,
            Change::PutIntegration { organization, integration, mode } => {
                let place = Place { organization, reach: Reach::Organization };
                self.put_integration(place, &integration, mode).await
            }
            Change::DeleteIntegration { organization, slug } => {
                self.delete_integration(Place { organization, reach: Reach::Organization }, &slug).await
            }
            Change::PutConnection { connection, mode } => self.put_connection(&connection, mode).await,
            Change::DeleteConnection { organization, connection } => {
                self.delete_connection(organization, connection, Force::Yes).await
            }
            Change::PutCredential { organization, connection, environment, credential, origins, expires_at } => {
                let place = (connection, &environment);
                self.put_credential(organization, place, &credential, &origins, expires_at).await
            }
            Change::StoreTokens { organization, connection, environment, obtained } => {
                self.store_tokens(organization, (connection, &environment), &obtained).await
            }
            Change::DeleteCredential { organization, connection, environment } => {
                self.delete_credential(organization, connection, &environment).await
            }
            Change::PutSecret { organization, key, description, mode } => {
                self.put_secret(organization, &key, description.as_deref(), mode).await
            }
            Change::DeleteSecret { organization, key } => self.delete_secret(organization, &key, Force::No).await,
            Change::PutSecretValue { organization, key, environment, value } => {
                self.put_secret_value(organization, &key, &environment, &value).await
            }
            Change::ApiKey(change) => self.change_api_key(change).await,
            Change::DeleteSecretValue { organization, key, environment } => {
                self.delete_secret_value(organization, &key, &environment).await
            }
            Change::Import(import) => self.import(&import).await,
            Change::User(change) => self.change_user(change).await,
            Change::Session(change) => self.change_session(change).await,
            Change::Resource(change) => self.write_resource(change).await,
            // Taken apart before anything is written.
            Change::Guarded { .. } | Change::Judged { .. } | Change::Once { .. } => {
                Err(DatabaseError::Conflict("a change was wrapped twice".to_owned()))
            }
        }
    }

    /// The key that seals an organization's values, with the number of its seals once `count` more are counted: a
    /// number that no other commit gets with this key.
    async fn sealing_key(
        &mut self,
        organization: OrganizationId,
        count: usize,
    ) -> Result<(DataKey, i64), DatabaseError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let masters = self.inner.masters.all();
        let row = sqlx::query(
            "SELECT id, organization_id, purpose, master_key_id, nonce, ciphertext, seals FROM data_keys \
             WHERE organization_id = $1 AND purpose = $2 ORDER BY created_at DESC, id DESC LIMIT 1",
        )
        .bind(organization.to_string())
        .bind(Purpose::Values.as_str())
        .fetch_optional(&mut *self.connection)
        .await?;
        let row = row.ok_or_else(|| DatabaseError::Corrupt { what: "data key of", id: organization.to_string() })?;
        let used: i64 = row.try_get("seals")?;
        let fresh = used.checked_add(count).is_some_and(|sum| (0..=SEALS_OF_A_KEY).contains(&sum));
        let known = query::wrapped_key(&row).and_then(|wrapped| self.inner.unwrap(&masters, &wrapped));
        let key = match known {
            Ok(key) if fresh => key,
            // Also where the key was damaged: what it sealed is lost, what is entered again shall be kept.
            _ => {
                let key = DataKey::generate(Some(organization), Purpose::Values)?;
                let master = self.inner.masters.current();
                insert_data_key(self.connection, &master, &key, &self.inner.counters).await?;
                key
            }
        };
        let seals: i64 = sqlx::query_scalar("UPDATE data_keys SET seals = seals + $2 WHERE id = $1 RETURNING seals")
            .bind(&key.id)
            .bind(count)
            .fetch_one(&mut *self.connection)
            .await?;
        Ok((key, seals))
    }

    async fn require_organization(&mut self, organization: OrganizationId) -> Result<(), DatabaseError> {
        let found = sqlx::query("SELECT 1 FROM organizations WHERE id = $1").bind(organization.to_string());
        let found = found.fetch_optional(&mut *self.connection).await?;
        found.map(drop).ok_or(DatabaseError::NotFound("organization"))
    }

    async fn require_environment(
        &mut self,
        organization: OrganizationId,
        environment: &EnvironmentName,
    ) -> Result<(), DatabaseError> {
        let found = sqlx::query("SELECT 1 FROM environments WHERE organization_id = $1 AND name = $2")
            .bind(organization.to_string())
            .bind(environment.as_str())
            .fetch_optional(&mut *self.connection)
            .await?;
        found.map(drop).ok_or(DatabaseError::NotFound("environment"))
    }

    async fn environments(&mut self, organization: OrganizationId) -> Result<Vec<EnvironmentName>, DatabaseError> {
        query::environments(self.connection, organization).await
    }
}

/// How many values one key seals before a new one takes its place. With random nonces of 96 bits the chance that one
/// was used twice stays below 2^-35 (NIST SP 800-38D §8.3 allows 2^32 seals and 2^-32).
const SEALS_OF_A_KEY: i64 = 1 << 31;

/// Stores a data key, wrapped.
pub(super) async fn insert_data_key(
    connection: &mut SqliteConnection,
    master: &MasterKey,
    key: &DataKey,
    counters: &Counters,
) -> Result<(), DatabaseError> {
    let wrapped = master.wrap(key, counters)?;
    sqlx::query(
        "INSERT INTO data_keys (id, organization_id, purpose, master_key_id, nonce, ciphertext, seals, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, 0, $7)",
    )
    .bind(&key.id)
    .bind(key.organization().map(|id| id.to_string()))
    .bind(key.purpose().as_str())
    .bind(wrapped.key_id)
    .bind(wrapped.nonce)
    .bind(wrapped.ciphertext)
    .bind(schema::now())
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
