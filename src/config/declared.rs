//! What is declared: integrations, connections with the sources of their credentials, and secrets.
//!
//! Reading the file does not read the sources: that is [`DeclaredFile::resolve`], which needs the organizations.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretString;
use serde_json::Value;
use zeroize::Zeroizing;

use super::caret::{Mistake, Spot};
use super::catalogue;
use super::listener::default_organization;
use super::settings::{path, variable_name};
use super::source::{Place, Sources, parse};
use crate::model::connection::ConnectionDraft;
use crate::model::credential::{Piece, pieces};
use crate::model::document::{Problems, Reader};
use crate::model::id::IntegrationId;
use crate::model::integration::Integration;
use crate::model::name::{CustomerName, EnvironmentName, FieldName, Key, SecretKey};

/// Everything declared, with where each value comes from.
#[derive(Debug)]
pub struct DeclaredFile {
    /// The built-in ones, but for those that a file replaces, and the files' own. Each slug is there once.
    pub integrations: Vec<Integration>,
    /// The slugs of the built-in ones among them.
    pub built_in: HashSet<Key>,
    /// In the order of the file; no two have the same organization, customer and key.
    pub connections: Vec<DeclaredConnection>,
    /// In alphabetical order.
    pub secrets: Vec<DeclaredSecret>,
    /// The files that were read, to point into them.
    pub(super) sources: Arc<Sources>,
    /// The files and folders that were read, but for the configuration itself.
    pub(super) read: Vec<PathBuf>,
}

/// A connection and its credential for each environment.
#[derive(Debug)]
pub struct DeclaredConnection {
    /// The key of whose it is.
    pub organization: Key,
    /// The connection.
    pub draft: ConnectionDraft,
    /// Where each field of each credential comes from.
    pub credentials: BTreeMap<EnvironmentName, BTreeMap<FieldName, Sourced>>,
    pub(super) pointer: String,
}

/// A secret and where its value for each environment comes from.
#[derive(Debug)]
pub struct DeclaredSecret {
    /// The key of whose it is.
    pub organization: Key,
    /// Its key.
    pub key: SecretKey,
    /// Where its values come from.
    pub values: BTreeMap<EnvironmentName, Sourced>,
}

/// Where a value comes from, and where that is written.
#[derive(Debug)]
pub struct Sourced {
    /// Where the value comes from.
    pub from: ValueSource,
    /// The secrets that a text in the file itself refers to.
    pub refers_to: Vec<SecretKey>,
    pub(super) pointer: String,
}

/// Where a value comes from.
#[derive(Debug)]
pub enum ValueSource {
    /// A variable.
    Env(String),
    /// A file; one newline at its end is not part of the value.
    File(PathBuf),
    /// The file itself, as references to secrets or, against advice, the value.
    Text(SecretString),
}

impl DeclaredFile {
    /// The files and folders, beside the configuration, whose change may change what is declared.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let credentials = self.connections.iter().flat_map(|connection| connection.credentials.values());
        let sourced = credentials.flat_map(BTreeMap::values).chain(self.secrets.iter().flat_map(|s| s.values.values()));
        let files = sourced.filter_map(|sourced| match &sourced.from {
            ValueSource::File(path) => Some(path.as_path()),
            ValueSource::Env(_) | ValueSource::Text(_) => None,
        });
        self.read.iter().map(PathBuf::as_path).chain(files)
    }
}

/// Integrations by slug, and where each was declared; built-in ones were nowhere.
pub(super) struct Integrations {
    of_slug: HashMap<Key, (Integration, Option<Place>)>,
    order: Vec<Key>,
    /// What was read to find them.
    pub(super) read: Vec<PathBuf>,
}

impl Integrations {
    /// The built-in ones. A mistake in one of them is a mistake of ours, which a test finds; it is told like any other.
    pub(super) fn built_in(sources: &mut Sources, mistakes: &mut Vec<Mistake>) -> Self {
        let mut integrations = Integrations { of_slug: HashMap::new(), order: Vec::new(), read: Vec::new() };
        for (name, text) in catalogue::FILES {
            let text = Zeroizing::new((*text).to_owned());
            integrations.add_file(format!("{name}.toml (built in)"), text, Origin::BuiltIn, sources, mistakes);
        }
        integrations
    }

    /// The operator's own files: every `*.toml` of a folder, in alphabetical order.
    pub(super) fn add_folder(
        &mut self,
        folder: &Path,
        sources: &mut Sources,
        mistakes: &mut Vec<Mistake>,
    ) -> std::io::Result<()> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder)? {
            paths.push(entry?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort_unstable();
        self.read.push(folder.to_owned());
        for path in paths {
            let name = path.display().to_string();
            match fs::read_to_string(&path) {
                Ok(text) => self.add_file(name, Zeroizing::new(text), Origin::Operator, sources, mistakes),
                Err(error) => {
                    let source = sources.add(name, Zeroizing::default());
                    let detail = format!("the file cannot be read: {error}");
                    mistakes.push(Mistake { spot: Spot::At(Place { source, pointer: String::new() }), detail });
                }
            }
            self.read.push(path);
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        name: String,
        text: Zeroizing<String>,
        origin: Origin,
        sources: &mut Sources,
        mistakes: &mut Vec<Mistake>,
    ) {
        let source = sources.add(name, text);
        let problems = Problems::default();
        match parse(&sources.text(source).text, &problems) {
            Ok(document) => {
                let integration = Reader::new(&document, "", &problems).and_then(|r| read(r, &document));
                let place = Place { source, pointer: String::new() };
                if let Some(integration) = integration {
                    self.add(integration, (origin == Origin::Operator).then_some(place), &problems);
                }
            }
            Err(errors) => mistakes
                .extend(errors.into_iter().map(|(detail, span)| Mistake { spot: Spot::Syntax(source, span), detail })),
        }
        mistakes.extend(located(problems, source));
    }

    /// The `[[integration]]` tables of the configuration.
    pub(super) fn add_tables(&mut self, root: &Reader<'_>) {
        for (pointer, value) in root.list("integration") {
            let place = Place { source: 0, pointer: pointer.clone() };
            let reader = Reader::new(value, pointer, root.problems());
            if let Some(integration) = reader.and_then(|reader| read(reader, value)) {
                self.add(integration, Some(place), root.problems());
            }
        }
    }

    fn add(&mut self, integration: Integration, place: Option<Place>, problems: &Problems) {
        let slug = integration.slug.clone();
        match self.of_slug.insert(slug.clone(), (integration, place.clone())) {
            Some((_, Some(_))) => {
                let pointer = place.map(|place| place.pointer).unwrap_or_default();
                problems.add(format!("{pointer}/slug"), format!("the integration `{slug}` is declared twice"));
            }
            Some((_, None)) => {}
            None => self.order.push(slug),
        }
    }

    /// The slugs that no file of the operator's has taken.
    pub(super) fn built_in_slugs(&self) -> HashSet<Key> {
        self.of_slug.iter().filter(|(_, (_, place))| place.is_none()).map(|(slug, _)| slug.clone()).collect()
    }

    /// Every integration, the built-in ones first.
    pub(super) fn into_list(mut self) -> Vec<Integration> {
        let found = self.order.iter().filter_map(|slug| self.of_slug.remove(slug));
        found.map(|(integration, _)| integration).collect()
    }
}

/// Whose file an integration is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    BuiltIn,
    Operator,
}

fn read(reader: Reader<'_>, document: &Value) -> Option<Integration> {
    let slug = document.get("slug").and_then(Value::as_str).unwrap_or_default();
    Integration::read(reader, document, IntegrationId::derived(slug))
}

/// Problems of one source with their places.
pub(super) fn located(problems: Problems, source: usize) -> impl Iterator<Item = Mistake> {
    problems.into_list().into_iter().map(move |problem| Mistake {
        spot: Spot::At(Place { source, pointer: problem.pointer }),
        detail: problem.detail,
    })
}

/// Reads what is declared in the configuration, besides integrations.
pub(super) struct Declarations<'a> {
    /// Relative paths start here.
    pub(super) folder: &'a Path,
    /// What is accepted but not advised.
    pub(super) warnings: &'a Problems,
}

impl Declarations<'_> {
    /// Every `[[connection]]`.
    pub(super) fn connections(&self, root: &Reader<'_>) -> Vec<DeclaredConnection> {
        let mut seen: HashMap<(Key, Option<CustomerName>, Key), String> = HashMap::new();
        let mut connections = Vec::new();
        for reader in root.tables("connection") {
            let pointer = reader.pointer().to_owned();
            let Some(connection) = self.connection(reader) else { continue };
            let draft = &connection.draft;
            let named = (connection.organization.clone(), draft.customer.clone(), draft.key.clone());
            if let Some(first) = seen.insert(named, pointer.clone()) {
                let first = first.trim_start_matches("/connection/").parse().map_or(0, |index: usize| index + 1);
                let detail =
                    format!("the connection `{}` is declared twice; entry {first} has this key too", draft.key);
                root.problems().add(format!("{pointer}/key"), detail);
            }
            connections.push(connection);
        }
        connections
    }

    fn connection(&self, reader: Reader<'_>) -> Option<DeclaredConnection> {
        let organization = reader.parsed("organization").unwrap_or_else(default_organization);
        let draft = ConnectionDraft::read(&reader);
        let credentials = reader.table("credentials").map(|table| self.credentials(&table)).unwrap_or_default();
        let pointer = reader.pointer().to_owned();
        reader.finish();
        Some(DeclaredConnection { organization, draft: draft?, credentials, pointer })
    }

    fn credentials(&self, table: &Reader<'_>) -> BTreeMap<EnvironmentName, BTreeMap<FieldName, Sourced>> {
        let mut credentials = BTreeMap::new();
        for (name, value) in table.entries() {
            let environment = name.parse::<EnvironmentName>();
            let Some(fields) = Reader::new(value, table.pointer_to(name), table.problems()) else { continue };
            let fields = self.fields(&fields);
            match environment {
                Ok(environment) => drop(credentials.insert(environment, fields)),
                Err(error) => table.problem(name, error.to_string()),
            }
        }
        credentials
    }

    fn fields(&self, table: &Reader<'_>) -> BTreeMap<FieldName, Sourced> {
        let mut fields = BTreeMap::new();
        for (name, value) in table.entries() {
            let sourced = self.source(value, table.pointer_to(name), table.problems(), Text::MayRefer);
            match (name.parse::<FieldName>(), sourced) {
                (Ok(name), Some(sourced)) => drop(fields.insert(name, sourced)),
                (Ok(_), None) => {}
                (Err(error), _) => table.problem(name, error.to_string()),
            }
        }
        fields
    }

    /// Every `[secrets.KEY]`.
    pub(super) fn secrets(&self, root: &Reader<'_>) -> Vec<DeclaredSecret> {
        let Some(table) = root.table("secrets") else { return Vec::new() };
        let mut secrets = Vec::new();
        for (name, value) in table.entries() {
            let key = name.parse::<SecretKey>().map_err(|error| table.problem(name, error.to_string()));
            let Some(reader) = Reader::new(value, table.pointer_to(name), table.problems()) else { continue };
            let secret = self.secret(&reader);
            if let Ok(key) = key {
                let (organization, values) = secret;
                secrets.push(DeclaredSecret { organization, key, values });
            }
        }
        secrets
    }

    fn secret(&self, table: &Reader<'_>) -> (Key, BTreeMap<EnvironmentName, Sourced>) {
        // An environment may be called `organization` too; its value is a table.
        let is_owner = |name: &str, value: &Value| name == "organization" && value.is_string();
        let owner = table.entries().any(|(name, value)| is_owner(name, value));
        let organization = owner.then(|| table.parsed("organization")).flatten();
        let mut values = BTreeMap::new();
        for (name, value) in table.entries().filter(|(name, value)| !is_owner(name, value)) {
            let sourced = self.source(value, table.pointer_to(name), table.problems(), Text::MayNotRefer);
            match (name.parse::<EnvironmentName>(), sourced) {
                (Ok(environment), Some(sourced)) => drop(values.insert(environment, sourced)),
                (Ok(_), None) => {}
                (Err(error), _) => table.problem(name, error.to_string()),
            }
        }
        (organization.unwrap_or_else(default_organization), values)
    }

    /// Reads `{ env }`, `{ file }`, `{ value }` or a text with references to secrets.
    fn source(&self, value: &Value, pointer: String, problems: &Problems, text: Text) -> Option<Sourced> {
        if let Value::String(plain) = value {
            let refers_to = references(plain, text).map_err(|detail| problems.add(pointer.clone(), detail)).ok()?;
            return Some(Sourced { from: ValueSource::Text(SecretString::from(plain.as_str())), refers_to, pointer });
        }
        let reader = Reader::new(value, pointer.clone(), problems)?;
        let env = variable_name(&reader, "env").map(ValueSource::Env);
        let file = path(&reader, "file", self.folder).map(ValueSource::File);
        let inline = reader.text("value").map(|text| ValueSource::Text(SecretString::from(text)));
        if ["env", "file", "value"].into_iter().filter(|key| reader.has(key)).count() != 1 {
            problems.add(pointer.clone(), format!("name one source of the value: {SOURCES}"));
        }
        reader.finish();
        if inline.is_some() {
            let detail = "the value stands in the file itself, where everybody who reads the file reads it; \
                          prefer { file = \"…\" } or { env = \"…\" }";
            self.warnings.add(pointer.clone(), detail);
        }
        Some(Sourced { from: env.or(file).or(inline)?, refers_to: Vec::new(), pointer })
    }
}

const SOURCES: &str = "{ file = \"…\" }, { env = \"…\" } or { value = \"…\" }";

/// Whether a text may refer to secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    MayRefer,
    /// A secret's own value is never searched for references, so that none leads to another.
    MayNotRefer,
}

/// The secrets that a plain text refers to; it must refer to one.
fn references(plain: &str, text: Text) -> Result<Vec<SecretKey>, String> {
    if text == Text::MayNotRefer {
        return Err(format!("name the source of the value: {SOURCES}"));
    }
    let secret = |piece| match piece {
        Piece::Secret(key) => Some(key),
        Piece::Text(_) => None,
    };
    let found: Vec<SecretKey> =
        pieces(plain).map_err(|error| error.to_string())?.into_iter().filter_map(secret).collect();
    match found.is_empty() {
        true => Err(format!("a plain text is no credential; use {SOURCES}, or a secret: \"@@SECRET:KEY@@\"")),
        false => Ok(found),
    }
}

/// Without a vault, a secret that is not declared is nowhere.
pub(super) fn check_references(connections: &[DeclaredConnection], secrets: &[DeclaredSecret], problems: &Problems) {
    let declared: HashMap<(&Key, &SecretKey), &DeclaredSecret> =
        secrets.iter().map(|secret| ((&secret.organization, &secret.key), secret)).collect();
    for connection in connections {
        for (environment, fields) in &connection.credentials {
            for sourced in fields.values() {
                let is_there = |key: &&SecretKey| {
                    let secret = declared.get(&(&connection.organization, *key));
                    secret.is_some_and(|secret| secret.values.contains_key(environment))
                };
                if let Some(key) = sourced.refers_to.iter().find(|key| !is_there(key)) {
                    let detail = format!(
                        "the secret {key} is not declared for {environment}, and the vault, where it could be, is off"
                    );
                    problems.add(sourced.pointer.clone(), detail);
                }
            }
        }
    }
}
