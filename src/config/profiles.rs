//! Profiles: the servers that somebody's command line talks to, in `profiles.toml` of their own folder.
//!
//! A profile never holds a key, only where it is; and a key goes to the server of its profile and to no other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::caret::{Mistake, Spot};
use super::declared::located;
use super::source::{self, Sources};
use super::{ConfigError, Environment, wrong};
use crate::model::document::{Problems, Reader};
use crate::model::name::Key;
use crate::model::origin::Origin;

/// The servers that are known by name.
#[derive(Debug)]
pub struct Profiles {
    /// The file they stand in.
    pub path: PathBuf,
    /// The one that is meant where nobody names one.
    pub default: Option<Key>,
    /// Each by its name.
    pub named: BTreeMap<Key, Profile>,
}

/// One server, and how to ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its admin port.
    pub server: Origin,
    /// Its proxy port, for `sidekey curl`.
    pub proxy: Option<Origin>,
    /// Where the API key is that the admin port is asked with.
    pub key: Option<KeySource>,
    /// Where the API key is that `sidekey curl` shows to the proxy port; one that trusts its network needs none.
    pub caller_key: Option<KeySource>,
    /// The organization that is meant, for super admins.
    pub organization: Option<String>,
    /// The environment that is meant where a command needs one.
    pub environment: Option<String>,
    /// CAs that are trusted beside the system's, PEM files.
    pub ca_files: Vec<PathBuf>,
    /// Whether a key may go to another machine in clear.
    pub plaintext: bool,
}

/// Where an API key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In a file.
    File(PathBuf),
    /// In a variable.
    Env(String),
}

impl Profiles {
    /// Reads the file, or nothing where there is none: `SIDEKEY_PROFILES`, else `sidekey/profiles.toml` in
    /// `XDG_CONFIG_HOME`, else in `~/.config`.
    pub fn load(environment: &Environment) -> Result<Option<Self>, ConfigError> {
        let Some(path) = Self::find(environment)? else { return Ok(None) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::read(path, Zeroizing::new(text)).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfigError::Unreadable { path, source }),
        }
    }

    fn find(environment: &Environment) -> Result<Option<PathBuf>, ConfigError> {
        let value = |name: &str| -> Result<Option<PathBuf>, ConfigError> {
            let value = environment.value(name)?.filter(|value| !value.is_empty());
            Ok(value.map(|value| PathBuf::from(value.as_str())))
        };
        if let Some(named) = value("SIDEKEY_PROFILES")? {
            return Ok(Some(named));
        }
        let folder = match value("XDG_CONFIG_HOME")? {
            Some(folder) => Some(folder),
            None => value("HOME")?.map(|home| home.join(".config")),
        };
        Ok(folder.map(|folder| folder.join("sidekey/profiles.toml")))
    }

    /// Reads a text as if it stood in the file `path`.
    pub fn read(path: PathBuf, text: Zeroizing<String>) -> Result<Self, ConfigError> {
        let sources = Sources::new(path.display().to_string(), text);
        let problems = Problems::default();
        let document = match source::parse(&sources.text(0).text, &problems) {
            Ok(document) => document,
            Err(errors) => {
                let spot = |(detail, span)| Mistake { spot: Spot::Syntax(0, span), detail };
                return Err(wrong(errors.into_iter().map(spot).collect(), sources));
            }
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let read = Reader::new(&document, "", &problems).map(|root| {
            let default: Option<Key> = root.parsed("default");
            let named = root.table("profiles").map(|table| read_profiles(&table, &folder)).unwrap_or_default();
            if let Some(default) = default.as_ref().filter(|default| !named.contains_key(*default)) {
                root.problem("default", format!("there is no profile {default}"));
            }
            root.finish();
            Profiles { path, default, named }
        });
        match read {
            Some(profiles) if problems.is_empty() => Ok(profiles),
            _ => Err(ConfigError::Wrong(super::Report::new(
                super::Severity::Error,
                located(problems, 0).collect(),
                Arc::new(sources),
            ))),
        }
    }
}

fn read_profiles(table: &Reader<'_>, folder: &Path) -> BTreeMap<Key, Profile> {
    let read = |(name, value): (&String, &serde_json::Value)| {
        let key = name.parse::<Key>().map_err(|error| table.problem(name, error.to_string())).ok();
        let profile = Reader::new(value, table.pointer_to(name), table.problems()).and_then(|reader| {
            let profile = Profile::read(&reader, folder);
            reader.finish();
            profile
        });
        Some((key?, profile?))
    };
    table.entries().filter_map(read).collect()
}

impl Profile {
    fn read(reader: &Reader<'_>, folder: &Path) -> Option<Self> {
        let server = read_origin(reader, "server");
        if !reader.has("server") {
            reader.problems().add(reader.pointer(), "the key `server` is missing: the origin of the admin port");
        }
        let proxy = read_origin(reader, "proxy");
        let (key, caller_key) = (read_key(reader, "key", folder), read_key(reader, "caller_key", folder));
        let text = |name| reader.label(name, 200).map(str::to_owned);
        let (organization, environment) = (text("organization"), text("environment"));
        let ca_files = reader.parsed_list::<PathBuf>("ca_files").into_iter().map(|path| folder.join(path)).collect();
        let plaintext = reader.flag("plaintext").unwrap_or(false);
        Some(Profile { server: server?, proxy, key, caller_key, organization, environment, ca_files, plaintext })
    }
}

fn read_origin(reader: &Reader<'_>, key: &'static str) -> Option<Origin> {
    let text = reader.text(key)?;
    let parsed = Origin::parse(text.strip_suffix('/').unwrap_or(text));
    parsed.map_err(|error| reader.problem(key, error.to_string())).ok()
}

fn read_key(reader: &Reader<'_>, key: &'static str, folder: &Path) -> Option<KeySource> {
    let table = reader.table(key)?;
    let file = table.text("file").map(|path| KeySource::File(folder.join(path)));
    let env = table.text("env").map(|name| KeySource::Env(name.to_owned()));
    if file.is_some() == env.is_some() {
        table.problems().add(table.pointer(), "say either `file` or `env`: where the key is, never the key");
    }
    table.finish();
    file.or(env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Profiles, ConfigError> {
        Profiles::read("/config/sidekey/profiles.toml".into(), Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn a_profile_says_where_everything_is() {
        let profiles = read(
            "default = \"prod\"\n[profiles.prod]\nserver = \"https://sidekey.example.test:7879/\"\n\
             key = { file = \"prod.key\" }\norganization = \"acme\"\nca_files = [\"ca.pem\"]\n[profiles.here]\n\
             server = \"http://127.0.0.1:7879\"\nproxy = \"http://127.0.0.1:7878\"\nkey = { env = \"HERE\" }\n\
             caller_key = { file = \"caller.key\" }",
        )
        .unwrap();
        assert_eq!(profiles.default.as_ref().map(Key::as_str), Some("prod"));
        let prod = &profiles.named["prod"];
        assert_eq!(prod.server.to_string(), "https://sidekey.example.test:7879");
        assert_eq!(prod.key, Some(KeySource::File("/config/sidekey/prod.key".into())));
        assert_eq!(prod.ca_files, [PathBuf::from("/config/sidekey/ca.pem")]);
        assert_eq!(profiles.named["here"].key, Some(KeySource::Env("HERE".to_owned())));
        assert_eq!(profiles.named["here"].caller_key, Some(KeySource::File("/config/sidekey/caller.key".into())));
        assert_eq!(prod.caller_key, None, "an administrator's key is no caller's");
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_place() {
        let error = read(
            "default = \"nope\"\n[profiles.a]\nserver = \"ftp://x\"\nkey = \"apk_x\"\n[profiles.b]\ntokn = 1\n\
             [profiles.c]\nserver = \"https://x\"\nkey = { file = \"a\", env = \"b\" }",
        )
        .unwrap_err();
        let ConfigError::Wrong(report) = error else { panic!("{error}") };
        let mut places: Vec<_> = report.places().map(|(place, _)| place).collect();
        places.sort_unstable();
        let expected =
            ["/default", "/profiles/a/key", "/profiles/a/server", "/profiles/b", "/profiles/b/tokn", "/profiles/c/key"];
        assert_eq!(places, expected);
        assert!(
            !report.render(crate::config::Style::Plain).contains("apk_x"),
            "a key that was written there is not shown"
        );
    }
}
