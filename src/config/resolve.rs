//! From what is written to what holds: sources are read, and connections are checked against their integrations.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::str;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::caret::{Mistake, Report, Severity, Spot};
use super::declared::{DeclaredConnection, DeclaredFile, DeclaredSecret, Sourced, ValueSource};
use super::environment::Environment;
use super::source::Place;
use crate::model::auth::AuthMethod;
use crate::model::credential::{Piece, pieces};
use crate::model::field::Field;
use crate::model::id::{ConnectionId, OrganizationId};
use crate::model::integration::Integration;
use crate::model::name::{EnvironmentName, FieldName, Key};
use crate::model::oauth::REFRESH_TOKEN;
use crate::vault::declared::{Author, Declared, DeclaredCredential};

/// The longest value of a credential's field or of a secret.
const VALUE_LIMIT: u64 = 64 << 10;

impl DeclaredFile {
    /// Reads every source and checks every connection. `organization` knows an organization's id by its key; `known`
    /// tells whether an integration that is not declared exists nevertheless, in the vault: a connection of such a one
    /// is taken as it is.
    pub fn resolve(
        &self,
        environment: &Environment,
        organization: impl Fn(&Key) -> Option<OrganizationId>,
        known: impl Fn(&Key) -> bool,
    ) -> Result<Declared, Report> {
        let mut declared = Declared::default();
        for integration in &self.integrations {
            let is_built_in = self.built_in.contains(&integration.slug);
            let author = if is_built_in { Author::BuiltIn } else { Author::Operator };
            declared.add_integration(integration.clone(), author);
        }
        let resolution = Resolution {
            environment,
            integrations: self.integrations.iter().map(|integration| (&integration.slug, integration)).collect(),
            unknown: RefCell::default(),
            mistakes: RefCell::default(),
        };
        for connection in &self.connections {
            let owner = resolution.organization(&connection.organization, &connection.pointer, &organization);
            resolution.connection(connection, owner, &known, &mut declared);
        }
        for secret in &self.secrets {
            let pointer = format!("/secrets/{}", secret.key);
            let owner = resolution.organization(&secret.organization, &pointer, &organization);
            resolution.secret(secret, owner, &mut declared);
        }
        let mistakes = resolution.mistakes.into_inner();
        if mistakes.is_empty() {
            return Ok(declared);
        }
        Err(Report::new(Severity::Error, mistakes, Arc::clone(&self.sources)))
    }
}

struct Resolution<'a> {
    environment: &'a Environment,
    integrations: HashMap<&'a Key, &'a Integration>,
    /// Organizations that were reported already.
    unknown: RefCell<HashSet<Key>>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl Resolution<'_> {
    fn wrong(&self, pointer: impl Into<String>, detail: impl Into<String>) {
        let place = Place { source: 0, pointer: pointer.into() };
        self.mistakes.borrow_mut().push(Mistake { spot: Spot::At(place), detail: detail.into() });
    }

    fn organization(
        &self,
        key: &Key,
        pointer: &str,
        organization: impl Fn(&Key) -> Option<OrganizationId>,
    ) -> Option<OrganizationId> {
        let id = organization(key);
        if id.is_none() && self.unknown.borrow_mut().insert(key.clone()) {
            self.wrong(format!("{pointer}/organization"), format!("there is no organization `{key}`"));
        }
        id
    }

    fn connection(
        &self,
        connection: &DeclaredConnection,
        owner: Option<OrganizationId>,
        known: impl Fn(&Key) -> bool,
        declared: &mut Declared,
    ) {
        let DeclaredConnection { organization, draft, credentials, pointer } = connection;
        let integration = self.integrations.get(&draft.integration).copied();
        if integration.is_none() && !known(&draft.integration) {
            let detail = format!("there is no integration `{}`{}", draft.integration, self.near(&draft.integration));
            self.wrong(format!("{pointer}/integration"), detail);
        }
        let method = integration.and_then(|integration| self.method(connection, integration));
        if let Some(integration) = integration {
            for (field, detail) in integration.check_values(&draft.values) {
                self.wrong(format!("{pointer}/values/{field}"), detail);
            }
        }
        let customer = draft.customer.as_ref().map_or("", |customer| customer.as_str());
        let id = ConnectionId::derived(&format!("{organization}/{customer}/{}", draft.key));
        for (environment, fields) in credentials {
            let at = format!("{pointer}/credentials/{environment}");
            let values = self.credential(fields);
            if let (Some(integration), Some(method)) = (integration, method) {
                self.check_credential(&at, integration, method, fields, &values);
            }
            declared.add_credential(id, environment.clone(), values);
        }
        if let Some(owner) = owner {
            declared.add_connection(draft.clone().into_connection(id, owner));
        }
    }

    /// A built-in slug that may have been meant.
    fn near(&self, slug: &Key) -> String {
        let folded = |text: &str| text.replace(['-', '_'], "");
        let near = self.integrations.keys().find(|known| folded(known.as_str()) == folded(slug.as_str()));
        near.map_or_else(
            || "; declare it with [[integration]] or name a built-in one".to_owned(),
            |near| format!("; did you mean `{near}`?"),
        )
    }

    fn method<'i>(&self, connection: &DeclaredConnection, integration: &'i Integration) -> Option<&'i AuthMethod> {
        let names = || integration.auth.iter().map(|auth| auth.method.as_str()).collect::<Vec<_>>().join(", ");
        let slug = &integration.slug;
        match &connection.draft.auth {
            Some(name) => {
                let method = integration.auth_method(name);
                if method.is_none() {
                    let detail = format!("`{slug}` has no auth method `{name}`; there are: {}", names());
                    self.wrong(format!("{}/auth", connection.pointer), detail);
                }
                method
            }
            None if integration.auth.len() == 1 => integration.auth.first(),
            None => {
                let detail = format!("`{slug}` has several auth methods; say which one: auth = one of {}", names());
                self.wrong(&*connection.pointer, detail);
                None
            }
        }
    }

    fn credential(&self, fields: &BTreeMap<FieldName, Sourced>) -> DeclaredCredential {
        let read = |(name, sourced): (&FieldName, &Sourced)| Some((name.clone(), self.read(sourced)?));
        fields.iter().filter_map(read).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "a declared value must fit its field before anybody relies on it")]
    fn check_credential(
        &self,
        at: &str,
        integration: &Integration,
        method: &AuthMethod,
        fields: &BTreeMap<FieldName, Sourced>,
        values: &DeclaredCredential,
    ) {
        let is_kept = |field: &Field| method.oauth.is_none() || field.name.as_str() != REFRESH_TOKEN;
        let expected: Vec<&Field> =
            method.credential_fields(&integration.fields).filter(|field| is_kept(field)).collect();
        for field in &expected {
            if method.needs(field, true) && !fields.contains_key(&field.name) {
                let detail = format!("the field `{}` of the auth method `{}` is missing", field.name, method.method);
                self.wrong(at, detail);
            }
        }
        for name in fields.keys().filter(|name| !expected.iter().any(|field| field.name == **name)) {
            let names: Vec<&str> = expected.iter().map(|field| field.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let detail = format!("the auth method `{}` has no such field; there are: {there}", method.method);
            self.wrong(format!("{at}/{name}"), detail);
        }
        for (name, value) in values {
            let Some(sourced) = fields.get(name) else { continue };
            let text = value.expose_secret();
            match pieces(text) {
                Err(error) => self.wrong(&*sourced.pointer, error.to_string()),
                // What a secret will hold is not known before it is looked up.
                Ok(found) if found.iter().any(|piece| matches!(piece, Piece::Secret(_))) => {}
                Ok(_) => {
                    let field = expected.iter().find(|field| field.name == *name);
                    if let Some(Err(detail)) = field.map(|field| field.check(text)) {
                        self.wrong(&*sourced.pointer, detail);
                    }
                }
            }
        }
    }

    fn secret(&self, secret: &DeclaredSecret, owner: Option<OrganizationId>, declared: &mut Declared) {
        for (environment, sourced) in &secret.values {
            let environment: &EnvironmentName = environment;
            if let (Some(value), Some(owner)) = (self.read(sourced), owner) {
                declared.add_secret(owner, secret.key.clone(), environment.clone(), value);
            }
        }
    }

    /// Reads a source; what is wrong with it is noted.
    fn read(&self, sourced: &Sourced) -> Option<SecretString> {
        let read = match &sourced.from {
            ValueSource::Env(name) => self.variable(name),
            ValueSource::File(path) => read_file(path),
            ValueSource::Text(text) => return Some(text.clone()),
        };
        match read {
            // The text moves into the secret, so that no copy stays behind.
            Ok(mut text) => Some(SecretString::from(std::mem::take(&mut *text))),
            Err(detail) => {
                let key = if matches!(sourced.from, ValueSource::Env(_)) { "env" } else { "file" };
                self.wrong(format!("{}/{key}", sourced.pointer), detail);
                None
            }
        }
    }

    fn variable(&self, name: &str) -> Result<Zeroizing<String>, String> {
        let shown = name.escape_debug();
        match self.environment.value(name) {
            Ok(Some(text)) if text.is_empty() => Err(format!("the variable {shown} is empty")),
            Ok(Some(text)) if text.len() as u64 > VALUE_LIMIT => {
                Err(format!("the variable {shown} holds more than 64KiB"))
            }
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(format!("the variable {shown} is not set")),
            Err(error) => Err(format!("the variable {shown} cannot be used: {error}")),
        }
    }
}

/// Reads a value from a file, without one newline at its end.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let unreadable = |error: io::Error| format!("{shown} cannot be read: {error}");
    let metadata = fs::metadata(path).map_err(unreadable)?;
    // A pipe or a device could keep the start waiting for ever.
    if !metadata.is_file() {
        return Err(format!("{shown} is not a file"));
    }
    // Room for one byte more than the limit, so the buffer never grows and leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_LIMIT as usize + 1));
    File::open(path).map_err(unreadable)?.take(VALUE_LIMIT + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > VALUE_LIMIT {
        return Err(format!("{shown} holds more than 64KiB"));
    }
    let text = str::from_utf8(&bytes).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    match text.is_empty() {
        true => Err(format!("{shown} is empty")),
        false => Ok(Zeroizing::new(text.to_owned())),
    }
}
