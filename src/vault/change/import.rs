//! Integrations and connections that come from elsewhere, all of them or none.

use serde_json::{Value, json};

use super::resource::{Place, Reach};
use super::state::Watched;
use super::{Event, PutMode, Writing};
use crate::model::connection::Connection;
use crate::model::id::OrganizationId;
use crate::model::integration::Integration;
use crate::vault::audit::chain::Told;
use crate::vault::error::DatabaseError;

/// What is stored together. What is there under the same key is replaced, and keeps its id and its credentials.
#[derive(Debug)]
pub struct Import {
    /// Whose they become.
    pub organization: OrganizationId,
    /// Before the connections, which may use them.
    pub integrations: Vec<Integration>,
    /// Of this organization.
    pub connections: Vec<Connection>,
}

impl Writing<'_> {
    pub(super) async fn import(&mut self, import: &Import) -> Result<Event, DatabaseError> {
        let Import { organization, integrations, connections } = import;
        let place = Place { organization: *organization, reach: Reach::Organization };
        for integration in integrations {
            let watched = Watched::integration(place, &integration.slug);
            let before = self.before(Some(&watched)).await?;
            let event = self.put_integration(place, integration, PutMode::Replace).await?;
            self.tell(event, &watched, &before).await?;
        }
        for connection in connections {
            let watched = Watched::connection(connection, PutMode::Replace);
            let before = self.before(Some(&watched)).await?;
            let event = self.put_connection(connection, PutMode::Replace).await?;
            self.tell(event, &watched, &before).await?;
        }
        let detail = json!({ "integrations": integrations.len(), "connections": connections.len() });
        Ok(Event { organization: *organization, action: "import", object: organization.to_string(), detail })
    }

    /// Records the event of a part.
    async fn tell(&mut self, mut event: Event, watched: &Watched, before: &Value) -> Result<(), DatabaseError> {
        self.tell_states(&mut event, Some(watched), before).await?;
        let told = Told { action: event.action, object: &event.object, detail: &event.detail };
        self.inner.record(self.connection, event.chain(), self.author, told).await
    }
}
