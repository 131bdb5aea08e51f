//! Following files: the configuration's declared part, the sources of its credentials, certificates.
//!
//! At once on SIGHUP, and within two seconds of a change. A bad new state changes nothing and says why, once for each
//! state. A file that is being written is no state: an editor empties it first, and without its connections it would be
//! a good configuration. What cannot change while the server runs (listeners, the vault) is named in a warning.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::Organizations;
use crate::config::{
    AdminSettings, CacheSettings, Config, Environment, LogSettings, ProxySettings, UpstreamSettings, VaultSettings,
};
use crate::model::id::OrganizationId;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Reloaded, ServerTls};
use crate::vault::Vault;

/// What cannot change while the server runs.
struct Fixed {
    proxy: ProxySettings,
    admin: AdminSettings,
    vault: VaultSettings,
    upstream: UpstreamSettings,
    log: LogSettings,
    cache: CacheSettings,
}

impl Fixed {
    fn of(config: &Config) -> Self {
        Fixed {
            proxy: config.proxy.clone(),
            admin: config.admin.clone(),
            vault: config.vault.clone(),
            upstream: config.upstream.clone(),
            log: config.log.clone(),
            cache: config.cache.clone(),
        }
    }

    /// The sections of a new configuration that wait for the next start.
    fn changed(&self, config: &Config) -> Vec<&'static str> {
        let sections = [
            ("proxy", self.proxy != config.proxy),
            ("admin", self.admin != config.admin),
            ("vault", self.vault != config.vault),
            ("upstream", self.upstream != config.upstream),
            ("log", self.log != config.log),
            ("cache", self.cache != config.cache),
        ];
        sections.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }
}

/// What is followed.
pub struct Follower {
    explicit: Option<PathBuf>,
    environment: Environment,
    organizations: Organizations,
    vault: Vault,
    certificates: Vec<Arc<ServerTls>>,
    metrics: Arc<Metrics>,
    fixed: Fixed,
    watched: Watched,
    certificate_error: Option<String>,
}

/// What tells that a file is another one than before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Print {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

/// The files of a configuration as they were before they were read: a change while they are being read is seen at the
/// next look.
pub struct Watched {
    files: Vec<(PathBuf, Option<Print>)>,
    /// Whether one of them had changed at the last look.
    is_moving: bool,
}

impl Watched {
    /// The configuration's own file, as `own` was before it was read, and those of its declared part, not yet read.
    fn before_reading(config: &Config, own: Option<Print>) -> Self {
        let declared = config.declared.files().map(|path| (path.to_owned(), print(path)));
        let files = config.path.iter().map(|path| (path.clone(), own)).chain(declared).collect();
        Watched { files, is_moving: false }
    }

    /// Those of a configuration whose declared part is not yet read.
    pub fn of(config: &Config) -> Self {
        Self::before_reading(config, config.path.as_deref().and_then(print))
    }

    /// What they are now counts: they are about to be read.
    fn mark(&mut self) {
        self.look();
        self.is_moving = false;
    }

    /// Whether one of them has changed since and none changed between the last look and this one: whoever writes them
    /// is done.
    fn look(&mut self) -> bool {
        let mut is_moving = false;
        for (path, seen) in &mut self.files {
            let now = print(path);
            is_moving |= std::mem::replace(seen, now) != now;
        }
        std::mem::replace(&mut self.is_moving, is_moving) && !is_moving
    }
}

fn print(path: &Path) -> Option<Print> {
    let metadata = std::fs::metadata(path).ok()?;
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    Some(Print { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

impl Follower {
    /// Follows the files of a configuration that has been loaded, from the state they were in.
    pub fn new(
        config: &Config,
        environment: Environment,
        organizations: Organizations,
        vault: Vault,
        certificates: Vec<Arc<ServerTls>>,
        metrics: Arc<Metrics>,
        watched: Watched,
    ) -> Self {
        Follower {
            explicit: config.path.clone(),
            environment,
            organizations,
            vault,
            certificates,
            metrics,
            fixed: Fixed::of(config),
            watched,
            certificate_error: None,
        }
    }

    /// Looks whether anything has changed, and takes it if so.
    pub fn look(&mut self) {
        self.look_at_certificates();
        if self.watched.look() {
            self.reload();
        }
    }

    /// Takes the files as they are now, changed or not.
    pub fn reload(&mut self) {
        self.look_at_certificates();
        let Some(path) = self.explicit.clone() else { return };
        self.watched.mark();
        match self.try_reload(path) {
            Ok(()) => tracing::info!("the configuration was loaded again"),
            Err(reason) => tracing::error!(reason, "the configuration was not loaded; the one before still holds"),
        }
    }

    fn try_reload(&mut self, path: PathBuf) -> Result<(), String> {
        let own = print(&path);
        let config = Config::load(Some(path), &self.environment).map_err(|error| super::chain(&error))?;
        // Followed even if it turns out to be wrong: what mends it may be a file that only it names.
        self.watched = Watched::before_reading(&config, own);
        let declared = self.organizations.declare(&config, &self.environment).map_err(|report| report.to_string())?;
        let owners: HashSet<OrganizationId> = self.organizations.ids().collect();
        self.vault.declare(declared, &owners);
        self.metrics.reloads.inc();
        let waiting = self.fixed.changed(&config);
        if !waiting.is_empty() {
            tracing::warn!(sections = waiting.join(", "), "these settings are taken at the next start only");
        }
        Ok(())
    }

    fn look_at_certificates(&mut self) {
        for tls in &self.certificates {
            match tls.reload_if_changed() {
                Ok(Reloaded::Unchanged) => self.certificate_error = None,
                Ok(Reloaded::Changed) => {
                    self.certificate_error = None;
                    tracing::info!("a certificate was loaded again");
                }
                Err(error) => {
                    let reason = super::chain(&error);
                    if self.certificate_error.as_ref() != Some(&reason) {
                        tracing::error!(reason, "a certificate was not loaded; the one before still holds");
                        self.certificate_error = Some(reason);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_taken_when_it_is_written_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidekey.toml");
        std::fs::write(&path, "as it was").unwrap();
        let mut watched = Watched { files: vec![(path.clone(), print(&path))], is_moving: false };
        assert!(!watched.look(), "nothing has changed");
        std::fs::write(&path, "").unwrap();
        assert!(!watched.look(), "emptied to be written");
        std::fs::write(&path, "half of").unwrap();
        assert!(!watched.look(), "being written");
        std::fs::write(&path, "half of what follows").unwrap();
        assert!(!watched.look(), "written a moment ago");
        assert!(watched.look());
        assert!(!watched.look(), "taken once");
    }
}
