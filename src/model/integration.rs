//! Integrations: how to talk to one provider. No secret in them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::{HeaderName, Method};
use serde_json::Value;

use super::auth::AuthMethod;
use super::base_url::{BaseUrl, RenderError, UrlTemplate, path_placeholders};
use super::document::{Problem, Problems, Reader};
use super::field::{Field, Pattern};
use super::header;
use super::id::IntegrationId;
use super::name::{FieldName, Key};
use super::oauth::Endpoints;
use super::origin::{Origin, Scheme};
use super::site::{Site, SiteError};
use super::template::Template;

/// How to talk to one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integration {
    /// Its id.
    pub id: IntegrationId,
    /// Its key, such as `github`.
    pub slug: Key,
    /// As a person reads it.
    pub name: String,
    /// What kind of API it is.
    pub kind: Kind,
    /// Where requests go.
    pub base_url: UrlTemplate,
    /// Further origins the credential may go to.
    pub hosts: Vec<UrlTemplate>,
    /// Whether `http://` is allowed.
    pub plaintext: bool,
    /// Whether the caller's own `Authorization` passes.
    pub forward_authorization: bool,
    /// Whether the organization's own connection serves customers who have none.
    pub customer_fallback: bool,
    /// Default headers; they yield to the caller's.
    pub headers: Vec<(HeaderName, Template)>,
    /// What a connection fills in.
    pub fields: Vec<Field>,
    /// The ways to authenticate.
    pub auth: Vec<AuthMethod>,
    /// How to find out whether a credential works.
    pub test: Option<TestRequest>,
    /// Deadlines of its own.
    pub timeouts: Timeouts,
    /// The default for each of its connections.
    pub limit: Option<Limit>,
    /// As it was written, for who reads it back.
    pub document: Value,
    /// The site of all its connections, where it is one.
    fixed: Option<Arc<Site>>,
}

/// What kind of API an integration talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary HTTP API.
    Rest,
    /// A model provider.
    Ai,
    /// A Model Context Protocol server.
    Mcp,
    /// A mail API.
    Email,
    /// Object or file storage.
    Storage,
}

impl std::str::FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "rest" => Ok(Kind::Rest),
            "ai" => Ok(Kind::Ai),
            "mcp" => Ok(Kind::Mcp),
            "email" => Ok(Kind::Email),
            "storage" => Ok(Kind::Storage),
            _ => Err("the kinds are rest, ai, mcp, email and storage"),
        }
    }
}

/// The request that tells whether a credential works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestRequest {
    /// Its method.
    pub method: Method,
    /// Its path below the base path, query included.
    pub path: Template,
    /// The statuses that mean success.
    pub status: Vec<u16>,
    /// A JSON body to send.
    pub body: Option<String>,
    /// What the answer must hold, for providers that answer 200 to everything.
    pub assert: Option<Assertion>,
}

/// A condition on the JSON body of a test's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// Where to look (RFC 6901).
    pub pointer: String,
    /// What must stand there.
    pub condition: Condition,
}

/// What must stand at an assertion's pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// This value.
    Equals(Value),
    /// Something (`true`) or nothing (`false`); `null` is nothing.
    Exists(bool),
}

/// Deadlines of an integration's own; absent ones are the server's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Option<Duration>,
    /// Until the response head has come.
    pub response: Option<Duration>,
    /// Between two pieces of a body.
    pub idle: Option<Duration>,
}

/// Requests per second and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// 1 to 1,000,000.
    pub per_second: u32,
    /// 1 to 1,000,000; `per_second` where it is not written.
    pub burst: u32,
}

/// What fills a host is a label of it where the field says nothing else.
static LABEL: LazyLock<Option<Pattern>> = LazyLock::new(|| "[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?".parse().ok());

/// The values that a connection gives to an integration's fields.
pub type Values = BTreeMap<FieldName, String>;

impl Integration {
    /// Reads an integration written as JSON or TOML. All mistakes at once.
    pub fn parse(document: &Value, id: IntegrationId) -> Result<Self, Vec<Problem>> {
        let problems = Problems::default();
        let integration = Reader::new(document, "", &problems).and_then(|reader| Self::read(reader, document, id));
        match integration {
            Some(integration) if problems.is_empty() => Ok(integration),
            _ => Err(problems.into_list()),
        }
    }

    /// Reads an integration that stands inside a larger document.
    pub fn read(reader: Reader<'_>, document: &Value, id: IntegrationId) -> Option<Self> {
        let slug = reader.required("slug");
        let name = reader.label("name", 200).map(str::to_owned);
        let kind = reader.parsed("kind").unwrap_or(Kind::Rest);
        reader.label("docs", 500);
        let plaintext = reader.flag("plaintext").unwrap_or(false);
        let base_url = read_base_url(&reader, plaintext);
        let hosts = read_hosts(&reader, plaintext);
        let fields: Vec<Field> = reader.tables("fields").into_iter().filter_map(Field::read).collect();
        let headers = read_headers(&reader);
        let auth: Vec<AuthMethod> = reader
            .tables("auth")
            .into_iter()
            .filter_map(|auth| AuthMethod::read(auth, base_url.as_ref(), &fields))
            .collect();
        let test = reader.table("test").and_then(TestRequest::read);
        let timeouts = reader.table("timeouts").map(Timeouts::read).unwrap_or_default();
        let limit = reader.table("limit").and_then(Limit::read);
        let forward_authorization = reader.flag("forward_authorization").unwrap_or(false);
        let customer_fallback = reader.flag("customer_fallback").unwrap_or(false);
        let (Some(slug), Some(base_url)): (Option<Key>, _) = (slug, base_url) else {
            reader.finish();
            return None;
        };
        let mut integration = Integration {
            id,
            name: name.unwrap_or_else(|| slug.to_string()),
            slug,
            kind,
            base_url,
            hosts,
            plaintext,
            forward_authorization,
            customer_fallback,
            headers,
            fields,
            auth,
            test,
            timeouts,
            limit,
            document: document.clone(),
            fixed: None,
        };
        integration.fixed = Site::fixed(&integration);
        integration.check(&reader);
        reader.finish();
        Some(integration)
    }

    fn check(&self, reader: &Reader<'_>) {
        if self.auth.is_empty() {
            reader
                .problems()
                .add(reader.pointer(), "an integration needs at least one auth method (type = \"none\" for none)");
        }
        for (index, method) in self.auth.iter().enumerate() {
            if self.auth[..index].iter().any(|other| other.method == method.method) {
                reader.problem("auth", format!("the auth method `{}` is declared twice", method.method));
            }
        }
        let urls = std::iter::once(("base_url", &self.base_url)).chain(self.hosts.iter().map(|host| ("hosts", host)));
        let endpoints = self.auth.iter().flat_map(AuthMethod::endpoint_urls).map(|url| ("auth", url));
        for (key, url) in urls.chain(endpoints) {
            for name in url.fields() {
                self.check_public(reader, key, name);
            }
        }
        for (name, template) in &self.headers {
            for field in template.fields() {
                self.check_public(reader, "headers", field);
            }
            let source = template.source();
            if source.contains("@@SECRET:") || source.chars().any(|c| c.is_control()) {
                reader.problem(
                    "headers",
                    format!("the default header {name} must be plain text; secrets belong in auth"),
                );
            }
        }
        for field in self.test.iter().flat_map(|test| test.path.fields()) {
            self.check_public(reader, "test", field);
        }
    }

    /// A field used outside of auth must exist and must not be secret.
    fn check_public(&self, reader: &Reader<'_>, key: &str, name: &FieldName) {
        match self.fields.iter().find(|field| field.name == *name) {
            Some(field) if !field.secret => {}
            Some(_) => reader.problem(key, format!("`{name}` is secret and can be used in auth only")),
            None => reader.problem(key, format!("`{name}` is not in this integration's fields")),
        }
    }

    /// One of its auth methods.
    pub fn auth_method(&self, method: &Key) -> Option<&AuthMethod> {
        self.auth.iter().find(|auth| auth.method == *method)
    }

    /// A field's value: the connection's, else the default.
    pub fn value<'a>(&'a self, values: &'a Values, name: &FieldName) -> Option<&'a str> {
        let field = self.fields.iter().find(|field| field.name == *name)?;
        values.get(name).map(String::as_str).or(field.default.as_deref())
    }

    /// Whether requests over this integration go nowhere else than over another one, whatever the values of a
    /// connection: only then may it take the other's place without anybody looking at its credentials.
    pub fn leads_as(&self, other: &Integration) -> bool {
        let leading = |integration: &Integration| -> Vec<Field> {
            let names: Vec<&FieldName> = integration.urls().flat_map(UrlTemplate::fields).collect();
            integration.fields.iter().filter(|field| names.contains(&&field.name)).cloned().collect()
        };
        self.base_url == other.base_url
            && self.hosts == other.hosts
            && self.plaintext == other.plaintext
            && leading(self) == leading(other)
            && self.auth.iter().all(|method| {
                let before = other.auth_method(&method.method);
                before.is_none_or(|before| method.endpoint_urls().eq(before.endpoint_urls()))
            })
    }

    /// Every address in it that something goes to.
    fn urls(&self) -> impl Iterator<Item = &UrlTemplate> {
        let endpoints = self.auth.iter().flat_map(AuthMethod::endpoint_urls);
        std::iter::once(&self.base_url).chain(&self.hosts).chain(endpoints)
    }

    /// What a credential that is entered now is bound to: where requests go, and where the auth method's tokens come
    /// from. It is of no use where any of that is another one.
    pub fn bindings(&self, values: &Values, method: &AuthMethod) -> Result<Vec<String>, RenderError> {
        let (_, origins) = self.place(values)?;
        let endpoints = method.endpoints(|name| self.value(values, name))?;
        let bindings = origins.iter().map(ToString::to_string);
        Ok(bindings.chain(endpoints.iter().flat_map(Endpoints::bindings)).collect())
    }

    /// The same with other defaults: what an organization has filled in once for all its connections. A value for a
    /// field that is secret, or is there no more, is nothing.
    pub fn filled(&self, values: &Values) -> Integration {
        let mut filled = self.clone();
        for field in filled.fields.iter_mut().filter(|field| !field.secret) {
            if let Some(value) = values.get(&field.name) {
                field.default = Some(value.clone());
            }
        }
        filled.fixed = Site::fixed(&filled);
        filled
    }

    /// Checks the values of a connection; the problems' pointers begin with a field's name.
    pub fn check_values(&self, values: &Values) -> Vec<(FieldName, String)> {
        let mut wrong = Vec::new();
        for name in values.keys().filter(|name| !self.fields.iter().any(|f| f.name == **name && !f.secret)) {
            wrong.push((name.clone(), format!("the integration {} has no such public field", self.slug)));
        }
        for field in self.fields.iter().filter(|field| !field.secret) {
            let Some(value) = values.get(&field.name).or(field.default.as_ref()) else {
                if field.required {
                    wrong.push((field.name.clone(), "a value is needed and there is no default".to_owned()));
                }
                continue;
            };
            let in_host = self.urls().any(|url| url.host_fields().any(|n| *n == field.name));
            let pattern = field.pattern.as_ref().or_else(|| if in_host { LABEL.as_ref() } else { None });
            if let Some(pattern) = pattern.filter(|pattern| !pattern.matches(value)) {
                wrong.push((field.name.clone(), format!("the value does not match {}", pattern.source())));
            } else if value.contains("@@SECRET:") || value.chars().any(char::is_control) {
                wrong.push((field.name.clone(), "a value is plain text; secrets belong in the credential".to_owned()));
            }
        }
        wrong
    }

    /// Everything that depends on the values of a connection; shared where nothing does.
    pub fn site(&self, values: &Values) -> Result<Arc<Site>, SiteError> {
        match &self.fixed {
            Some(fixed) => Ok(Arc::clone(fixed)),
            None => Site::new(self, values).map(Arc::new),
        }
    }

    /// Base URL and every allowed origin, the base URL's first, for the values of a connection.
    pub fn place(&self, values: &Values) -> Result<(BaseUrl, Vec<Origin>), RenderError> {
        let value = |name: &FieldName| self.value(values, name);
        let base = self.base_url.render(value)?;
        let mut origins = vec![base.origin().clone()];
        for host in &self.hosts {
            let origin = host.render(value)?.origin().clone();
            if !origins.contains(&origin) {
                origins.push(origin);
            }
        }
        Ok((base, origins))
    }
}

fn read_base_url(reader: &Reader<'_>, plaintext: bool) -> Option<UrlTemplate> {
    let text: String = reader.required("base_url")?;
    let url = UrlTemplate::parse(&text).map_err(|error| reader.problem("base_url", error.to_string())).ok()?;
    if url.scheme() == Scheme::Http && !plaintext {
        reader.problem("base_url", "http:// would send the credential in clear; say plaintext = true if that is meant");
    }
    let names: Vec<&str> = path_placeholders(&text[text.find("://").map_or(0, |at| at + 3)..]).collect();
    if names.iter().enumerate().any(|(index, name)| names[..index].contains(name)) {
        reader.problem("base_url", "a path placeholder stands there twice");
    }
    Some(url)
}

fn read_hosts(reader: &Reader<'_>, plaintext: bool) -> Vec<UrlTemplate> {
    let read = |(pointer, item): (String, &Value)| {
        let text = item.as_str().unwrap_or_default();
        if text.contains('*') {
            reader.problems().add(pointer, "wildcards are not allowed: name each host, or use a field");
            return None;
        }
        match UrlTemplate::parse_origin(text) {
            Ok(url) if url.scheme() == Scheme::Http && !plaintext => {
                reader
                    .problems()
                    .add(pointer, "http:// would send the credential in clear; say plaintext = true if that is meant");
                None
            }
            Ok(url) => Some(url),
            Err(error) => {
                reader.problems().add(pointer, error.to_string());
                None
            }
        }
    };
    reader.list("hosts").into_iter().filter_map(read).collect()
}

fn read_headers(reader: &Reader<'_>) -> Vec<(HeaderName, Template)> {
    let Some(table) = reader.table("headers") else { return Vec::new() };
    let read = |(name, value): (&String, &Value)| {
        let parsed_name = header::parse_settable(name).map_err(|error| table.problem(name, error));
        let template = match value.as_str().map(str::parse) {
            Some(Ok(template)) => Some(template),
            Some(Err(error)) => {
                let error: super::template::TemplateError = error;
                table.problem(name, error.to_string());
                None
            }
            None => {
                table.problem(name, "expected a text");
                None
            }
        };
        Some((parsed_name.ok()?, template?))
    };
    table.entries().filter_map(read).collect()
}

impl TestRequest {
    fn read(reader: Reader<'_>) -> Option<Self> {
        let method = reader.parsed("method").unwrap_or(Method::GET);
        let path: Option<Template> = reader.required("path");
        if path.as_ref().is_some_and(|path| !path.source().starts_with(['/', '?'])) {
            reader.problem("path", "the path begins with / and goes below the base URL");
        }
        let mut status: Vec<u16> = Vec::new();
        for (pointer, item) in reader.list("status") {
            match item.as_u64() {
                Some(code @ 200..=599) => status.push(code as u16),
                _ => reader.problems().add(pointer, "expected a status from 200 to 599"),
            }
        }
        if status.is_empty() {
            status.push(200);
        }
        let body = reader.text("body").map(str::to_owned);
        if body.as_deref().is_some_and(|body| serde_json::from_str::<Value>(body).is_err()) {
            reader.problem("body", "expected a JSON document as text");
        }
        let assert = reader.table("assert").and_then(Assertion::read);
        reader.finish();
        Some(TestRequest { method, path: path?, status, body, assert })
    }
}

impl Assertion {
    fn read(reader: Reader<'_>) -> Option<Self> {
        let pointer: Option<String> = reader.required("pointer");
        let equals = reader.value("equals").cloned().map(Condition::Equals);
        let exists = reader.flag("exists").map(Condition::Exists);
        if pointer.as_ref().is_some_and(|pointer| !pointer.starts_with('/')) {
            reader.problem("pointer", "a JSON pointer begins with /");
        }
        if equals.is_some() == exists.is_some() {
            reader.problems().add(reader.pointer(), "say either `equals` or `exists`");
        }
        reader.finish();
        Some(Assertion { pointer: pointer?, condition: equals.or(exists)? })
    }
}

impl Timeouts {
    fn read(reader: Reader<'_>) -> Self {
        let timeouts = Timeouts {
            connect: reader.duration("connect"),
            response: reader.duration("response"),
            idle: reader.duration("idle"),
        };
        reader.finish();
        timeouts
    }
}

impl Limit {
    /// Reads `{ per_second, burst }`.
    pub fn read(reader: Reader<'_>) -> Option<Self> {
        let per_second = reader.number("per_second", 1..=1_000_000);
        let burst = reader.number("burst", 1..=1_000_000);
        reader.demand("per_second");
        reader.finish();
        let per_second = u32::try_from(per_second?).ok()?;
        Some(Limit { per_second, burst: burst.map_or(Some(per_second), |burst| u32::try_from(burst).ok())? })
    }
}
