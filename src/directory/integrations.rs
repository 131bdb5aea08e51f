//! Stored integrations in use: thousands of connections share one, so it is read and parsed once and kept once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::model::id::OrganizationId;
use crate::model::integration::Integration;
use crate::model::name::Key;
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

/// Those that somebody uses. An integration is here for as long as a route of it is anywhere.
#[derive(Default)]
pub(super) struct Integrations(Mutex<HashMap<(OrganizationId, Key), Shared>>);

struct Shared {
    integration: Weak<Integration>,
    stamp: Stamp,
}

impl Integrations {
    /// What a slug means to an organization. `stamp` is that of what is made of it.
    pub(super) async fn get(
        &self,
        vault: &Vault,
        organization: OrganizationId,
        slug: &Key,
        stamp: &mut Stamp,
    ) -> Result<Option<Arc<Integration>>, VaultError> {
        let take = |stamp: &mut Stamp| {
            for subject in [Subject::Integration(organization, slug.clone()), Subject::SystemIntegration(slug.clone())]
            {
                stamp.take(vault.revisions(), subject);
            }
        };
        take(stamp);
        let named = (organization, slug.clone());
        if let Some(integration) = self.current(&named) {
            return Ok(Some(integration));
        }
        let mut own = Stamp::default();
        take(&mut own);
        let found = vault.integration(organization, slug).await?;
        if let Some(integration) = &found {
            self.keep(named, Shared { integration: Arc::downgrade(integration), stamp: own });
        }
        Ok(found)
    }

    /// One that has not changed since it was read.
    fn current(&self, named: &(OrganizationId, Key)) -> Option<Arc<Integration>> {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get(named).filter(|shared| shared.stamp.is_current()).and_then(|shared| shared.integration.upgrade())
    }

    fn keep(&self, named: (OrganizationId, Key), integration: Shared) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The unused are swept when the table would grow, so its size follows what is used.
        if shared.len() == shared.capacity() {
            shared.retain(|_, shared| shared.integration.strong_count() > 0);
        }
        shared.insert(named, integration);
    }
}
