//! Configuration: `sidekey.toml` and the environment, read once into a [`Config`] that is valid by construction.
//!
//! The text becomes a document, variables are laid over it, and one reading turns it into plain settings and notes
//! every mistake on the way; they are told all at once, each with file, line, key and a caret. Nothing here opens the
//! vault, binds a port or talks to an upstream; the sources of declared credentials are read by
//! [`DeclaredFile::resolve`].

mod admin;
mod caret;
mod catalogue;
mod declared;
mod environment;
mod listener;
mod mask;
mod overlay;
mod people;
mod profiles;
mod resolve;
mod settings;
mod source;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::model::document::{Problems, Reader};
use caret::{Mistake, Spot};
use declared::{Declarations, Integrations, check_references, located};
use source::{Document, Place, Sources};

pub use admin::AdminSettings;
pub use caret::{Report, Severity, Style};
pub use declared::{DeclaredConnection, DeclaredFile, DeclaredSecret, Sourced, ValueSource};
pub use environment::{Environment, VariableError};
pub use listener::{Address, Listener, ListenerTls, Trust};
pub use people::{OidcSettings, PeopleSettings, SmtpSettings, SmtpTls, Sourced as SourcedSecret};
pub use profiles::{KeySource, Profile, Profiles};
pub use settings::{
    CacheSettings, LogFormat, LogSettings, MasterKeySetting, ProxySettings, UpstreamSettings, VaultSettings,
};

/// Everything a server is told before it starts.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from; absent where there is none and the defaults hold.
    pub path: Option<PathBuf>,
    /// `[proxy]`
    pub proxy: ProxySettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[vault]`
    pub vault: VaultSettings,
    /// `[upstream]`
    pub upstream: UpstreamSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[smtp]`
    pub smtp: Option<SmtpSettings>,
    /// `[cache]`
    pub cache: CacheSettings,
    /// Integrations, connections and secrets.
    pub declared: DeclaredFile,
    /// What is accepted but not advised.
    pub warnings: Report,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A variable that names the file cannot be used.
    #[error("the variable SIDEKEY_CONFIG cannot be used")]
    Variable(#[from] VariableError),
    /// It holds mistakes.
    #[error("the configuration is wrong\n\n{0}")]
    Wrong(Report),
}

/// Where a file is looked for when nobody names one.
const PLACES: [&str; 2] = ["sidekey.toml", "/etc/sidekey/sidekey.toml"];

impl Config {
    /// The file that holds: the one named, that of `SIDEKEY_CONFIG`, `./sidekey.toml`, `/etc/sidekey/sidekey.toml`.
    /// `None` where there is none, which is no mistake.
    pub fn find(explicit: Option<PathBuf>, environment: &Environment) -> Result<Option<PathBuf>, VariableError> {
        if explicit.is_some() {
            return Ok(explicit);
        }
        if let Some(named) = environment.value("SIDEKEY_CONFIG")?.filter(|named| !named.is_empty()) {
            return Ok(Some(PathBuf::from(named.as_str())));
        }
        // A place that cannot be looked at counts as there: reading it then says why it cannot be read.
        Ok(PLACES.iter().map(PathBuf::from).find(|path| path.try_exists().unwrap_or(true)))
    }

    /// Finds the file and reads it, or takes the defaults where there is none; variables lie over both.
    pub fn load(explicit: Option<PathBuf>, environment: &Environment) -> Result<Self, ConfigError> {
        let Some(path) = Self::find(explicit, environment)? else {
            return Self::read(None, Zeroizing::default(), environment);
        };
        match fs::read_to_string(&path) {
            Ok(text) => Self::read(Some(path), Zeroizing::new(text), environment),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    /// Reads a text as if it stood in the file `path`, which need not exist. Without a path, relative paths start at
    /// the working directory.
    pub fn read(
        path: Option<PathBuf>,
        text: Zeroizing<String>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        let name = path.as_ref().map_or_else(|| "defaults".to_owned(), |path| path.display().to_string());
        let mut sources = Sources::new(name, text);
        let mut mistakes = Vec::new();
        let problems = Problems::default();
        let mut document = match source::parse(&sources.text(0).text, &problems) {
            Ok(document) => document,
            Err(errors) => {
                let spot = |(detail, span)| Mistake { spot: Spot::Syntax(0, span), detail };
                return Err(wrong(errors.into_iter().map(spot).collect(), sources));
            }
        };
        let (variables, unusable) = overlay::lay(document.value_mut(), environment);
        sources.overlay(variables);
        mistakes.extend(
            unusable.into_iter().map(|(variable, detail)| Mistake { spot: Spot::Variable(variable.name), detail }),
        );
        let reading = Reading { path, problems, warnings: Problems::default() };
        reading.read(document, sources, mistakes)
    }
}

/// Reads a document that somebody wrote in TOML into the values that JSON has. The error quotes nothing of it.
pub fn parse_toml(text: &str) -> Result<Value, String> {
    let problems = Problems::default();
    let mut document = source::parse(text, &problems).map_err(|errors| {
        let details: Vec<String> = errors.into_iter().map(|(detail, _)| detail).collect();
        format!("it is not TOML: {}", details.join("; "))
    })?;
    match problems.into_list().first() {
        Some(problem) => Err(format!("{}: {}", problem.pointer, problem.detail)),
        None => Ok(document.value_mut().take()),
    }
}

fn wrong(mistakes: Vec<Mistake>, sources: Sources) -> ConfigError {
    ConfigError::Wrong(Report::new(Severity::Error, mistakes, Arc::new(sources)))
}

/// One reading of a document.
struct Reading {
    path: Option<PathBuf>,
    problems: Problems,
    warnings: Problems,
}

impl Reading {
    fn read(self, document: Document, mut sources: Sources, mut mistakes: Vec<Mistake>) -> Result<Config, ConfigError> {
        let folder = self.folder();
        let Some(root) = Reader::new(&document, "", &self.problems) else {
            mistakes.extend(located(self.problems, 0));
            return Err(wrong(mistakes, sources));
        };
        let proxy = root.table("proxy").map(|table| ProxySettings::read(table, &folder)).unwrap_or_default();
        let admin = root.table("admin").map(|table| AdminSettings::read(table, &folder)).unwrap_or_default();
        let vault = root.table("vault").map(|table| VaultSettings::read(table, &folder));
        let vault = vault.unwrap_or_else(|| VaultSettings::absent(&folder));
        let upstream = root.table("upstream").map(|table| UpstreamSettings::read(table, &folder)).unwrap_or_default();
        let log = root.table("log").map(LogSettings::read).unwrap_or_default();
        let smtp = root.table("smtp").and_then(|table| SmtpSettings::read(table, &folder));
        let cache = root.table("cache").map(CacheSettings::read).unwrap_or_default();
        let mut integrations = Integrations::built_in(&mut sources, &mut mistakes);
        self.integrations(&root, &folder, &mut integrations, &mut sources, &mut mistakes);
        let declarations = Declarations { folder: &folder, warnings: &self.warnings };
        let (connections, secrets) = (declarations.connections(&root), declarations.secrets(&root));
        self.contradictions(&root, &proxy, &admin, &vault);
        if !vault.enabled {
            check_references(&connections, &secrets, &self.problems);
        }
        root.finish();
        drop(document);
        mistakes.extend(located(self.problems, 0));
        if !mistakes.is_empty() {
            return Err(wrong(mistakes, sources));
        }
        let sources = Arc::new(sources);
        let warnings = Report::new(Severity::Warning, located(self.warnings, 0).collect(), Arc::clone(&sources));
        let read = std::mem::take(&mut integrations.read);
        let built_in = integrations.built_in_slugs();
        let integrations = integrations.into_list();
        let declared = DeclaredFile { integrations, built_in, connections, secrets, sources, read };
        Ok(Config { path: self.path, proxy, admin, vault, upstream, log, smtp, cache, declared, warnings })
    }

    /// Where relative paths start.
    fn folder(&self) -> PathBuf {
        let folder = self.path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        // An absolute path holds even if the process changes its working directory; where the directory is gone, the
        // relative one is as good as any.
        std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder })
            .unwrap_or_else(|_| folder.to_owned())
    }

    /// Adds the operator's files and the tables of the configuration.
    fn integrations(
        &self,
        root: &Reader<'_>,
        folder: &Path,
        integrations: &mut Integrations,
        sources: &mut Sources,
        mistakes: &mut Vec<Mistake>,
    ) {
        let named = settings::path(root, "integrations_dir", folder);
        // Without a configuration nobody meant a folder of that name for Sidekey.
        let beside = || self.path.is_some().then(|| folder.join("integrations")).filter(|path| path.is_dir());
        let place = Place { source: 0, pointer: "/integrations_dir".to_owned() };
        if let Some(path) = named.or_else(beside)
            && let Err(error) = integrations.add_folder(&path, sources, mistakes)
        {
            let detail = format!("the folder {} cannot be read: {error}", path.display());
            mistakes.push(Mistake { spot: Spot::At(place), detail });
        }
        integrations.add_tables(root);
    }

    /// What is right by itself and wrong together, across sections.
    fn contradictions(&self, root: &Reader<'_>, proxy: &ProxySettings, admin: &AdminSettings, vault: &VaultSettings) {
        for (index, listener) in proxy.listeners.iter().enumerate() {
            let pointer = format!("/proxy/listeners/{index}");
            if admin.enabled && listener.address.clashes_with(&admin.listener_address()) {
                let detail = format!("the admin port has the address {} already", admin.address);
                self.problems.add(format!("{pointer}/address"), detail);
            }
            if !vault.enabled && listener.trust == Trust::Key {
                let detail = "API keys are kept in the vault, which is off; enable it or use trust = \"local\"";
                self.problems.add(format!("{pointer}/trust"), detail);
            }
            if listener.trust == Trust::Key && listener.tls.is_none() && listener.address.is_reachable_from_outside() {
                let detail = "API keys and answers would travel in clear; give the listener a certificate, unless \
                              the network around it is trusted";
                self.warnings.add(format!("{pointer}/address"), detail);
            }
        }
        let open = admin.listener_address().is_reachable_from_outside() && admin.tls.is_none();
        if admin.enabled && open {
            let detail = "the admin port can be reached from outside without TLS; give it a certificate or a loopback \
                          address";
            self.warnings.add("/admin/address", detail);
        }
        let set =
            |key: &str| root.value("vault").and_then(|table| table.get(key)).is_some_and(|v: &Value| !v.is_null());
        for key in ["path", "master_key"].into_iter().filter(|key| !vault.enabled && set(key)) {
            self.warnings.add(format!("/vault/{key}"), "not used while the vault is off");
        }
        if vault.enabled && matches!(vault.master_key, MasterKeySetting::Env(_)) {
            let detail = "a variable stays readable in /proc for as long as the process lives; prefer a file or a \
                          descriptor";
            self.warnings.add("/vault/master_key", detail);
        }
    }
}

#[cfg(test)]
mod tests;
