//! What people do to resources beside creating, replacing and deleting them.

use super::{Event, PutMode, Writing};
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::{Integration, Values};
use crate::model::name::{EnvironmentName, Key, SecretKey};
use crate::model::version::Version;
use crate::vault::error::DatabaseError;

/// A change of a resource.
#[derive(Debug)]
pub enum Change {
    /// Another key or name for an organization.
    RenameOrganization {
        /// Which.
        organization: OrganizationId,
        /// Its key from now on.
        key: Key,
        /// Its name from now on.
        name: String,
    },
    /// A further environment, where it is put and what it is for.
    CreateEnvironment {
        /// Whose.
        organization: OrganizationId,
        /// What is stored.
        environment: EnvironmentDraft,
    },
    /// Another name, place or purpose for an environment. Its credentials and values go with it.
    PutEnvironment {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        name: EnvironmentName,
        /// What is stored.
        environment: EnvironmentDraft,
    },
    /// Stores a version of an integration.
    PutIntegration {
        /// Whose it is.
        place: Place,
        /// What to store.
        integration: Box<Integration>,
        /// Whether one may be there.
        mode: PutMode,
    },
    /// Only when no stored connection uses it.
    DeleteIntegration {
        /// Whose it is.
        place: Place,
        /// Which.
        slug: Key,
    },
    /// What an organization fills in once for all its connections of an integration.
    PutIntegrationValues {
        /// Whose.
        organization: OrganizationId,
        /// Of which integration, whoever's it is.
        slug: Key,
        /// The values; empty ones are none.
        values: Values,
    },
    /// With its credentials.
    DeleteConnection {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        connection: ConnectionId,
        /// Whether also where workflows have used it lately.
        force: Force,
    },
    /// Removes the credentials of a connection, in one environment or in all. That there is none is no error.
    RevokeCredentials {
        /// Whose.
        organization: OrganizationId,
        /// Of which connection.
        connection: ConnectionId,
        /// In which environment; in all of them where it is not said.
        environment: Option<EnvironmentName>,
        /// Credentials that were read, and in which version; it is a [`DatabaseError::Outdated`] where one is another by
        /// now.
        seen: Vec<(EnvironmentName, Version)>,
    },
    /// With its values.
    DeleteSecret {
        /// Whose.
        organization: OrganizationId,
        /// Which.
        key: SecretKey,
        /// Whether also where credentials refer to it.
        force: Force,
    },
}

/// An environment as somebody writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentDraft {
    /// Its name from now on.
    pub name: EnvironmentName,
    /// Its place in the order, from 0; `None` leaves it where it is, or puts a new one last.
    pub position: Option<u32>,
    /// Whether workflows are built with its credentials; `None` leaves it as it is, and a new one is not. One environment
    /// of an organization is the designer's at most.
    pub designer: Option<bool>,
}

/// Whose an integration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who changes it: also where the event is told.
    pub organization: OrganizationId,
    /// Who may use it.
    pub reach: Reach,
}

/// Who may use an integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The organization.
    Organization,
    /// Every organization.
    System,
}

/// Whether something is done although others rely on what it does away with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// It is a [`DatabaseError::InUse`] then.
    No,
    /// It is.
    Yes,
}

impl Writing<'_> {
    pub(super) async fn write_resource(&mut self, change: Change) -> Result<Event, DatabaseError> {
        match change {
            Change::RenameOrganization { organization, key, name } => {
                self.rename_organization(organization, &key, &name).await
            }
            Change::CreateEnvironment { organization, environment } => {
                self.create_environment(organization, &environment).await
            }
            Change::PutEnvironment { organization, name, environment } => {
                self.put_environment(organization, &name, &environment).await
            }
            Change::PutIntegration { place, integration, mode } => {
                self.put_integration(place, &integration, mode).await
            }
            Change::DeleteIntegration { place, slug } => self.delete_integration(place, &slug).await,
            Change::PutIntegrationValues { organization, slug, values } => {
                self.put_integration_values(organization, &slug, &values).await
            }
            Change::DeleteConnection { organization, connection, force } => {
                self.delete_connection(organization, connection, force).await
            }
            Change::RevokeCredentials { organization, connection, environment, seen } => {
                self.check_seen(connection, &seen).await?;
                self.revoke_credentials(organization, connection, environment).await
            }
            Change::DeleteSecret { organization, key, force } => self.delete_secret(organization, &key, force).await,
        }
    }
}
