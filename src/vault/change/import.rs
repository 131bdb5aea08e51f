//! Integrations and connections that come from elsewhere, all of them or none.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::resource::{Place, Reach};
use super::state::Watched;
use super::{Event, PutMode, Writing};
use crate::model::connection::Connection;
use crate::model::credential::Credential;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::{Integration, Values};
use crate::model::name::{EnvironmentName, Key};
use crate::vault::audit::Chain;
use crate::vault::audit::chain::{self, Told};
use crate::vault::error::DatabaseError;

/// What is stored together. What is there under the same key is replaced, and keeps its id and its credentials.
#[derive(Debug)]
pub struct Import {
    /// Whose they become.
    pub organization: OrganizationId,
    /// Before the connections, which may use them.
    pub integrations: Vec<Integration>,
    /// What the organization fills in once for all connections of an integration, whoever's that is.
    pub values: Vec<(Key, Values)>,
    /// Of this organization.
    pub connections: Vec<Connection>,
    /// Of these connections; an export has none of them, for it holds no secret.
    pub credentials: Vec<Entered>,
    /// How many events the organization had when all of this was judged. Where it has others now, something may not be
    /// as it was, and the import is [`DatabaseError::Outdated`]. `None` where nothing was looked at.
    pub judged_at: Option<i64>,
}

/// A credential that comes with its connection.
#[derive(Debug)]
pub struct Entered {
    /// The id of one of the connections of the import.
    pub connection: ConnectionId,
    /// In which environment.
    pub environment: EnvironmentName,
    /// The fields.
    pub credential: Credential,
    /// The origins it may go to, sealed with it.
    pub origins: Vec<String>,
}

impl Writing<'_> {
    pub(super) async fn import(&mut self, import: &Import) -> Result<Event, DatabaseError> {
        let Import { organization, integrations, values, connections, credentials, judged_at } = import;
        // No version is that of all of these.
        self.check_expected(*organization, &organization.to_string())?;
        let events = chain::count(self.connection, Chain::Organization(*organization)).await?;
        if judged_at.is_some_and(|judged_at| judged_at != events) {
            return Err(DatabaseError::Outdated);
        }
        let place = Place { organization: *organization, reach: Reach::Organization };
        for integration in integrations {
            let watched = Watched::integration(place, &integration.slug);
            let before = self.before(Some(&watched)).await?;
            let event = self.put_integration(place, integration, PutMode::Replace).await?;
            self.tell(event, &watched, &before).await?;
        }
        for (slug, values) in values {
            let watched = Watched::integration_values(*organization, slug);
            let before = self.before(Some(&watched)).await?;
            let event = self.put_integration_values(*organization, slug, values).await?;
            self.tell(event, &watched, &before).await?;
        }
        // One that was there before has kept its id.
        let mut stored = HashMap::with_capacity(connections.len());
        for connection in connections {
            let watched = Watched::connection(connection, PutMode::Replace);
            let before = self.before(Some(&watched)).await?;
            let event = self.put_connection(connection, PutMode::Replace).await?;
            stored.insert(connection.id, self.outcome.connection.unwrap_or(connection.id));
            self.tell(event, &watched, &before).await?;
        }
        for Entered { connection, environment, credential, origins } in credentials {
            let connection = *stored.get(connection).ok_or(DatabaseError::NotFound("connection"))?;
            let watched = Watched::credential(connection, environment);
            let before = self.before(Some(&watched)).await?;
            let event =
                self.put_credential(*organization, (connection, environment), credential, origins, None).await?;
            self.tell(event, &watched, &before).await?;
        }
        let detail = json!({
            "integrations": integrations.len(), "values": values.len(), "connections": connections.len(),
        });
        Ok(Event { organization: *organization, action: "import", object: organization.to_string(), detail })
    }

    /// Records the event of a part.
    async fn tell(&mut self, mut event: Event, watched: &Watched, before: &Value) -> Result<(), DatabaseError> {
        self.tell_states(&mut event, Some(watched), before).await?;
        let told = Told { action: event.action, object: &event.object, detail: &event.detail };
        self.inner.record(self.connection, event.chain(), self.author, told).await
    }
}
