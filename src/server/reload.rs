//! Following files: the configuration's declared part, the sources of its credentials, certificates.
//!
//! At once on SIGHUP, and within two seconds of a change. A bad new state changes nothing and says why, once for each
//! state. What cannot change while the server runs (listeners, the vault) is named in a warning.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::Organizations;
use crate::config::{Config, Environment};
use crate::model::id::OrganizationId;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Reloaded, ServerTls};
use crate::vault::Vault;

/// What is followed.
pub struct Follower {
    explicit: Option<PathBuf>,
    environment: Environment,
    organizations: Organizations,
    vault: Vault,
    certificates: Vec<Arc<ServerTls>>,
    metrics: Arc<Metrics>,
    files: Vec<PathBuf>,
    seen: Vec<Option<Print>>,
    certificate_error: Option<String>,
}

/// What tells that a file is another one than before.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Print {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

fn print(path: &Path) -> Option<Print> {
    let metadata = std::fs::metadata(path).ok()?;
    let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
    Some(Print { modified: metadata.modified().ok(), length: metadata.len(), inode })
}

impl Follower {
    /// Follows the files of a configuration that has been loaded.
    pub fn new(
        config: &Config,
        environment: Environment,
        organizations: Organizations,
        vault: Vault,
        certificates: Vec<Arc<ServerTls>>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut follower = Follower {
            explicit: config.path.clone(),
            environment,
            organizations,
            vault,
            certificates,
            metrics,
            files: Vec::new(),
            seen: Vec::new(),
            certificate_error: None,
        };
        follower.remember(config);
        follower
    }

    fn remember(&mut self, config: &Config) {
        self.files = config.path.iter().cloned().chain(config.declared.files().map(Path::to_owned)).collect();
        self.seen = self.files.iter().map(|path| print(path)).collect();
    }

    /// Looks whether anything has changed, and takes it if so.
    pub fn look(&mut self) {
        self.look_at_certificates();
        let now: Vec<_> = self.files.iter().map(|path| print(path)).collect();
        if now != self.seen {
            self.seen = now;
            self.reload();
        }
    }

    /// Takes the files as they are now, changed or not.
    pub fn reload(&mut self) {
        self.look_at_certificates();
        let Some(path) = self.explicit.clone() else { return };
        match self.try_reload(path) {
            Ok(()) => tracing::info!("the configuration was loaded again"),
            Err(reason) => tracing::error!(reason, "the configuration was not loaded; the one before still holds"),
        }
    }

    fn try_reload(&mut self, path: PathBuf) -> Result<(), String> {
        let config = Config::load(Some(path), &self.environment).map_err(|error| super::chain(&error))?;
        let declared = self.organizations.declare(&config, &self.environment).map_err(|report| report.to_string())?;
        let owners: HashSet<OrganizationId> = self.organizations.ids().collect();
        self.vault.declare(declared, &owners);
        self.metrics.reloads.inc();
        self.remember(&config);
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
