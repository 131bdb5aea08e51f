//! What the audit log tells of a thing before and after a change of it: what is stored in clear, and never a secret.
//!
//! It is read around the change, in its transaction, and not put together by each change: so nothing that is changed is
//! forgotten, and what a change did beside what it was asked for shows too.

use serde_json::Value;

use super::resource::{self, Place, Reach};
use super::{Change, Event, PutMode, Writing};
use crate::model::connection::Connection;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::name::{EnvironmentName, Key, SecretKey};
use crate::vault::audit;
use crate::vault::error::DatabaseError;
use crate::vault::query;

/// A thing whose state is told.
#[derive(Clone, Debug)]
pub(super) enum Thing {
    Organization(OrganizationId),
    Environment(OrganizationId, EnvironmentName),
    Integration(Place, Key),
    IntegrationValues(OrganizationId, Key),
    Connection(ConnectionId),
    ConnectionNamed(OrganizationId, String, Key),
    Credential(ConnectionId, EnvironmentName),
    /// All of a connection's, by their environments.
    Credentials(ConnectionId),
    Secret(OrganizationId, SecretKey),
    SecretValue(OrganizationId, SecretKey, EnvironmentName),
}

/// What a change is about, as it is named before and after it.
pub(super) struct Watched {
    pub(super) before: Thing,
    pub(super) after: Thing,
}

impl Watched {
    fn one(thing: Thing) -> Self {
        Watched { before: thing.clone(), after: thing }
    }

    /// A connection by what names it: its key, or its id where that may be another one.
    pub(super) fn connection(connection: &Connection, mode: PutMode) -> Self {
        let customer = query::customer_column(connection.customer.as_ref()).to_owned();
        let named = Thing::ConnectionNamed(connection.organization, customer, connection.key.clone());
        match mode {
            PutMode::Update => Watched { before: Thing::Connection(connection.id), after: named },
            PutMode::Create | PutMode::Replace => Watched::one(named),
        }
    }

    pub(super) fn credential(connection: ConnectionId, environment: &EnvironmentName) -> Self {
        Watched::one(Thing::Credential(connection, environment.clone()))
    }

    pub(super) fn integration(place: Place, slug: &Key) -> Self {
        Watched::one(Thing::Integration(place, slug.clone()))
    }

    pub(super) fn integration_values(organization: OrganizationId, slug: &Key) -> Self {
        Watched::one(Thing::IntegrationValues(organization, slug.clone()))
    }

    /// What a change is about. Those that are not here tell their states themselves, or have none but secrets.
    pub(super) fn of(change: &Change) -> Option<Self> {
        let own = |organization: &OrganizationId| Place { organization: *organization, reach: Reach::Organization };
        Some(match change {
            Change::CreateOrganization { id: organization, .. } | Change::DeleteOrganization { organization } => {
                Watched::one(Thing::Organization(*organization))
            }
            Change::CreateEnvironment { organization, name } | Change::DeleteEnvironment { organization, name } => {
                Watched::one(Thing::Environment(*organization, name.clone()))
            }
            Change::PutIntegration { organization, integration, .. } => {
                Watched::integration(own(organization), &integration.slug)
            }
            Change::DeleteIntegration { organization, slug } => Watched::integration(own(organization), slug),
            Change::PutConnection { connection, mode } => Watched::connection(connection, *mode),
            Change::DeleteConnection { connection, .. } => Watched::one(Thing::Connection(*connection)),
            Change::PutCredential { connection, environment, .. }
            | Change::StoreTokens { connection, environment, .. }
            | Change::DeleteCredential { connection, environment, .. } => Watched::credential(*connection, environment),
            Change::PutSecret { organization, key, .. } | Change::DeleteSecret { organization, key } => {
                Watched::one(Thing::Secret(*organization, key.clone()))
            }
            Change::PutSecretValue { organization, key, environment, .. }
            | Change::DeleteSecretValue { organization, key, environment } => {
                Watched::one(Thing::SecretValue(*organization, key.clone(), environment.clone()))
            }
            Change::Resource(change) => Watched::of_resource(change),
            _ => return None,
        })
    }

    fn of_resource(change: &resource::Change) -> Self {
        match change {
            resource::Change::RenameOrganization { organization, .. } => {
                Watched::one(Thing::Organization(*organization))
            }
            resource::Change::CreateEnvironment { organization, environment } => {
                Watched::one(Thing::Environment(*organization, environment.name.clone()))
            }
            resource::Change::PutEnvironment { organization, name, environment } => Watched {
                before: Thing::Environment(*organization, name.clone()),
                after: Thing::Environment(*organization, environment.name.clone()),
            },
            resource::Change::PutIntegration { place, integration, .. } => {
                Watched::integration(*place, &integration.slug)
            }
            resource::Change::DeleteIntegration { place, slug } => Watched::integration(*place, slug),
            resource::Change::PutIntegrationValues { organization, slug, .. } => {
                Watched::integration_values(*organization, slug)
            }
            resource::Change::DeleteConnection { connection, .. } => Watched::one(Thing::Connection(*connection)),
            resource::Change::RevokeCredentials { connection, .. } => Watched::one(Thing::Credentials(*connection)),
            resource::Change::DeleteSecret { organization, key, .. } => {
                Watched::one(Thing::Secret(*organization, key.clone()))
            }
        }
    }
}

/// The columns of a connection that are told.
macro_rules! connection_where {
    ($condition:literal) => {
        concat!(
            "SELECT json_object('key', key, 'customer', NULLIF(customer, ''), 'name', name, 'integration', integration, ",
            "'auth', auth, 'values', json(values_json), 'limit', json(limit_json), 'visibility', visibility, ",
            "'owner', owner_id, 'labels', json(labels_json), 'exposed', json(iif(exposed, 'true', 'false'))) ",
            "FROM connections WHERE ",
            $condition
        )
    };
}

impl Thing {
    /// The statement that tells its state, and what is put into it.
    fn question(&self) -> (&'static str, Vec<Option<String>>) {
        let text = |text: &dyn ToString| Some(text.to_string());
        match self {
            Thing::Organization(id) => {
                let sql = "SELECT json_object('key', key, 'name', name) FROM organizations WHERE id = $1";
                (sql, vec![text(id)])
            }
            Thing::Environment(organization, name) => {
                let sql = "SELECT json_object('name', name, 'position', position, 'designer', \
                           json(iif(designer, 'true', 'false'))) FROM environments \
                           WHERE organization_id = $1 AND name = $2";
                (sql, vec![text(organization), text(name)])
            }
            Thing::Integration(place, slug) => {
                let organization = (place.reach == Reach::Organization).then(|| place.organization.to_string());
                let sql = "SELECT document FROM integrations WHERE organization_id IS $1 AND slug = $2";
                (sql, vec![organization, text(slug)])
            }
            Thing::IntegrationValues(organization, slug) => {
                let sql = "SELECT values_json FROM integration_values WHERE organization_id = $1 AND slug = $2";
                (sql, vec![text(organization), text(slug)])
            }
            Thing::Connection(id) => (connection_where!("id = $1"), vec![text(id)]),
            Thing::ConnectionNamed(organization, customer, key) => {
                let sql = connection_where!("organization_id = $1 AND customer = $2 AND key = $3");
                (sql, vec![text(organization), text(customer), text(key)])
            }
            Thing::Credential(connection, environment) => {
                let sql = "SELECT json_object('environment', $2, 'entered_at', \
                           strftime('%Y-%m-%dT%H:%M:%fZ', e.entered_at / 1000.0, 'unixepoch'), 'expires_at', \
                           strftime('%Y-%m-%dT%H:%M:%fZ', e.expires_at / 1000.0, 'unixepoch'), 'fields', json((SELECT json_group_array(field) FROM (SELECT field FROM \
                           credentials WHERE connection_id = $1 AND environment = $2 AND field NOT LIKE '@%' \
                           ORDER BY field)))) FROM credential_entries e \
                           WHERE e.connection_id = $1 AND e.environment = $2";
                (sql, vec![text(connection), text(environment)])
            }
            Thing::Credentials(connection) => {
                let sql = "SELECT json_group_object(environment, json(fields)) FROM (SELECT environment, \
                           json_group_array(field) AS fields FROM (SELECT environment, field FROM credentials \
                           WHERE connection_id = $1 AND field NOT LIKE '@%' ORDER BY environment, field) \
                           GROUP BY environment)";
                (sql, vec![text(connection)])
            }
            Thing::Secret(organization, key) => {
                let sql = "SELECT json_object('key', key, 'description', description) FROM secrets \
                           WHERE organization_id = $1 AND key = $2";
                (sql, vec![text(organization), text(key)])
            }
            // A value that takes the place of another one shows by its version.
            Thing::SecretValue(organization, key, environment) => {
                let sql = "SELECT json_object('environment', v.environment, 'version', v.version) \
                           FROM secret_values v JOIN secrets s ON s.id = v.secret_id \
                           WHERE s.organization_id = $1 AND s.key = $2 AND v.environment = $3";
                (sql, vec![text(organization), text(key), text(environment)])
            }
        }
    }
}

impl Writing<'_> {
    /// How a thing is now; `Null` where it is not there.
    async fn state(&mut self, thing: &Thing) -> Result<Value, DatabaseError> {
        let (sql, texts) = thing.question();
        let mut query = sqlx::query_scalar::<_, String>(sql);
        for text in texts {
            query = query.bind(text);
        }
        let found = query.fetch_optional(&mut *self.connection).await?;
        // What cannot be read any more is told as something that is not there.
        Ok(found.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null))
    }

    /// How what a change is about is before it.
    pub(super) async fn before(&mut self, watched: Option<&Watched>) -> Result<Value, DatabaseError> {
        match watched {
            Some(watched) => self.state(&watched.before).await,
            None => Ok(Value::Null),
        }
    }

    /// Adds to an event how what it is about was and is.
    pub(super) async fn tell_states(
        &mut self,
        event: &mut Event,
        watched: Option<&Watched>,
        before: &Value,
    ) -> Result<(), DatabaseError> {
        let Some(watched) = watched else { return Ok(()) };
        let after = self.state(&watched.after).await?;
        if let (Value::Object(told), Value::Object(states)) = (&mut event.detail, audit::difference(before, &after)) {
            told.extend(states);
        }
        Ok(())
    }
}
