//! The encrypted store.

pub mod declared;
pub mod revision;

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use declared::{Declared, DeclaredCredential};
use revision::Revisions;
use secrecy::SecretString;

use crate::model::connection::Connection;
use crate::model::credential::Credential;
use crate::model::id::{ConnectionRef, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, EnvironmentName, Key, SecretKey};

/// Why something could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The server is stopping.
    #[error("the vault is closed because the server is stopping")]
    Stopped,
    /// A sealed value does not open: it was altered, moved or cut.
    #[error("a sealed value does not open: it was altered or moved")]
    Corrupt,
}

/// What is stored and declared. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    declared: ArcSwap<Declared>,
    revisions: Revisions,
}

/// A credential as it is stored (or none at all, for auth methods that need none), with the origins it was entered for.
#[derive(Default)]
pub struct StoredCredential {
    /// Its fields.
    pub credential: Credential,
    /// The origins it is bound to; `None` for a declared one, which follows its file.
    pub origins: Option<Vec<String>>,
}

impl Vault {
    /// A vault of declared things only.
    pub fn without_database() -> Self {
        Vault(Arc::new(Inner { declared: ArcSwap::default(), revisions: Revisions::default() }))
    }

    /// Closes it.
    pub async fn close(self) {}

    /// The id of an organization.
    pub async fn organization(&self, key: &Key) -> Result<Option<OrganizationId>, VaultError> {
        Ok(Some(OrganizationId::derived(key.as_str())))
    }

    /// The revisions of everything in it.
    pub fn revisions(&self) -> &Revisions {
        &self.0.revisions
    }

    /// What is declared.
    pub fn declared(&self) -> Arc<Declared> {
        self.0.declared.load_full()
    }

    /// Replaces what is declared, then cools what differs.
    pub fn declare(&self, declared: Declared, organizations: &HashSet<OrganizationId>) {
        let now = Arc::new(declared);
        let before = self.0.declared.swap(Arc::clone(&now));
        for subject in now.changes(&before, organizations) {
            self.0.revisions.advance(&subject);
        }
    }

    /// A connection of an organization.
    pub async fn connection(
        &self,
        organization: OrganizationId,
        customer: Option<&CustomerName>,
        reference: &ConnectionRef,
    ) -> Result<Option<Arc<Connection>>, VaultError> {
        Ok(self.0.declared.load().connection(organization, customer, reference).cloned())
    }

    /// What a slug means to an organization.
    pub async fn integration(
        &self,
        organization: OrganizationId,
        slug: &Key,
    ) -> Result<Option<Arc<Integration>>, VaultError> {
        let _ = organization;
        Ok(self.0.declared.load().integration(slug).cloned())
    }

    /// The credential of a connection in one environment.
    pub async fn credential(
        &self,
        connection: &Connection,
        environment: &EnvironmentName,
    ) -> Result<Option<StoredCredential>, VaultError> {
        let declared = self.0.declared.load();
        let fields = declared.credential(connection.id, environment).map(|fields: &Arc<DeclaredCredential>| {
            Credential::new(fields.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        Ok(fields.map(|credential| StoredCredential { credential, origins: None }))
    }

    /// The value of a secret in one environment.
    pub async fn secret(
        &self,
        owner: OrganizationId,
        key: &SecretKey,
        environment: &EnvironmentName,
    ) -> Result<Option<SecretString>, VaultError> {
        Ok(self.0.declared.load().secret(owner, key, environment).cloned())
    }
}
