//! Keys: which caller a presented text belongs to.
//!
//! A worker looks a text up in a table of its own, by its public part and the fingerprint of its secret one, and nothing
//! else is compared. What it does not find there is looked up by its public part among what all workers share, its digest
//! compared in constant time; what nobody has there is read from the vault. All of it is used only while nothing has
//! changed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::cache::{Entry, LoadFailed, Stamped};
use super::caller::Ruling;
use super::rate::{Limiter, Rates};
use super::table::Shown;
use super::{Beside, Directory, LookupError, Table};
use crate::model::api_key::{ApiKey, KeyStatus};
use crate::model::id::ApiKeyId;
use crate::model::moment::Moment;
use crate::model::role::{Grant, Permission};
use crate::vault::api_key::{KeyCheck, id_of};
use crate::vault::revision::{Stamp, Subject};
use crate::vault::{Vault, VaultError};

/// Whoever holds an API key.
#[derive(Debug)]
pub struct Holder {
    /// The key.
    pub key: Arc<ApiKey>,
    /// Its id, as access lines name the caller.
    pub name: Box<str>,
    /// Its own limits.
    pub(super) limiters: Box<[Limiter]>,
    /// What it was read at.
    stamp: Stamp,
}

impl Holder {
    /// Of a key with its limits, at the revisions it was read at.
    pub(super) fn new(key: Arc<ApiKey>, rates: &Rates, stamp: Stamp) -> Self {
        let limiters = rates.limiters_of_key(key.id, &key.terms.limits);
        Holder { name: key.id.to_string().into(), key, limiters, stamp }
    }

    /// Whether the key may still do what it was read to do. A change of it, and its end, make this false.
    pub fn is_current(&self) -> bool {
        self.stamp.is_current()
    }
}

/// A key that was looked up by its id.
#[derive(Debug)]
pub struct Supposed {
    /// The key.
    pub key: Arc<ApiKey>,
    /// Its holder, if it may use the proxy port now.
    pub shown: Option<Rc<Shown>>,
}

/// What is known of a public part: what a text is compared with, and whose it then is.
pub(super) struct Loaded {
    check: KeyCheck,
    holder: Option<Arc<Holder>>,
    stamp: Stamp,
}

impl Stamped for Arc<Loaded> {
    fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

impl Directory {
    /// The holder of a presented text, if this worker has verified it before and nothing has changed.
    pub fn known_holder<B: Beside>(&self, table: &Table<B>, presented: &[u8], now: Instant) -> Option<Rc<Shown>> {
        table.keys.get(presented, self.vault.revisions(), now)
    }

    /// The holder of a presented text: one who may use the proxy port now. Waits only for what the vault must be asked.
    pub async fn holder<B: Beside>(
        &self,
        table: &Table<B>,
        presented: &[u8],
    ) -> Result<Option<Rc<Shown>>, LookupError> {
        let Some(id) = id_of(presented) else { return Ok(None) };
        let Entry { value: loaded, expires } = self.loaded(id).await?;
        let now = self.vault.now();
        let verified = loaded.check.verify(presented, now);
        let (Some(verified), Some(holder)) = (verified, &loaded.holder) else { return Ok(None) };
        let ends = verified.until.map(|until| Instant::now() + until.since(now));
        let expires = ends.map_or(expires, |ends| ends.min(expires));
        Ok(Some(table.keys.insert(presented, Arc::clone(holder), expires)))
    }

    /// A key by its id, and its holder if whoever presented it now would be let in. For who administers it: it was not
    /// presented.
    pub async fn supposed_holder(&self, id: ApiKeyId) -> Result<Option<(Ruling, Supposed)>, LookupError> {
        let Entry { value: loaded, expires } = self.loaded(id).await?;
        let Some(key) = loaded.check.key() else { return Ok(None) };
        let ruling = rule(key, loaded.holder.is_some(), self.vault.now());
        let holder = loaded.holder.as_ref().filter(|_| ruling.passed);
        let shown = holder.map(|holder| Shown::supposed(Arc::clone(holder), expires));
        Ok(Some((ruling, Supposed { key: Arc::clone(key), shown })))
    }

    async fn loaded(&self, id: ApiKeyId) -> Result<Entry<Arc<Loaded>>, LookupError> {
        if let Some(entry) = self.keys.get(&id).await {
            return Ok(entry);
        }
        let load = || load(self.vault.clone(), id, Arc::clone(&self.rates));
        self.keys.load(&id, load).await.map_err(|error| match error {
            LoadFailed::Refused(error) => LookupError::Vault(error),
            LoadFailed::Lost => LookupError::Vault(Arc::new(VaultError::Stopped)),
        })
    }
}

/// Whether a key by itself lets somebody in, as [`KeyCheck::verify`] and [`load`] judge it.
fn rule(key: &ApiKey, may_call: bool, now: Moment) -> Ruling {
    let passed = key.is_valid(now) && may_call;
    let text = match (key.status, key.terms.expires_at) {
        (KeyStatus::Revoked, _) => "it is revoked".to_owned(),
        (KeyStatus::Suspended, _) => "it is suspended".to_owned(),
        (KeyStatus::Active, Some(end)) if end <= now => format!("it expired at {end}"),
        _ if !may_call => format!("its roles do not grant `{}`", Permission::UseProxy.as_str()),
        (KeyStatus::Active, Some(end)) => format!("it is active until {end}"),
        (KeyStatus::Active, None) => "it is active".to_owned(),
    };
    Ruling { about: "key", passed, text }
}

async fn load(vault: Vault, id: ApiKeyId, rates: Arc<Rates>) -> Result<Arc<Loaded>, VaultError> {
    let mut stamp = Stamp::default();
    stamp.take(vault.revisions(), Subject::ApiKey(id));
    let check = vault.key_check(id).await?;
    let may_call = |key: &&Arc<ApiKey>| key.terms.roles.grant(Permission::UseProxy) > Grant::None;
    let holder = check.key().filter(may_call).map(|key| Arc::new(Holder::new(Arc::clone(key), &rates, stamp.clone())));
    Ok(Arc::new(Loaded { check, holder, stamp }))
}
