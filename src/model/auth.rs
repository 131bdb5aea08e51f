//! Auth methods, and the few shapes that all of them take on the wire.
//!
//! `bearer`, `basic`, `api_key`, `oauth2` and `custom` are different to the person who fills them in; when they are read they
//! become the same thing: fields to fill in, and [`Slot`]s of a request that templates of these fields fill.

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::base_url::{RenderError, UrlTemplate};
use super::credential::refers;
use super::document::Reader;
use super::field::Field;
use super::header;
use super::name::{FieldName, Key};
use super::oauth::{ACCESS_TOKEN, Endpoints, OAuth};
use super::template::Template;

/// One way in which an integration authenticates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthMethod {
    /// Its key in the integration, such as `token`.
    pub method: Key,
    /// Which kind it was written as.
    pub kind: AuthKind,
    /// What a credential of it holds.
    pub fields: Vec<Field>,
    /// What is set in each request.
    pub slots: Vec<Slot>,
    /// Where its tokens come from, where it is `oauth2`.
    pub oauth: Option<Box<OAuth>>,
}

/// The `type` of an auth method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthKind {
    /// `Authorization: Bearer …` (RFC 6750 §2.1).
    Bearer,
    /// `Authorization: Basic …` (RFC 7617).
    Basic,
    /// One value in one place.
    ApiKey,
    /// A token that an authorization server gives out (RFC 6749).
    OAuth2,
    /// Own fields, any list of injections.
    Custom,
    /// Nothing is injected.
    None,
}

impl AuthKind {
    /// As it is written in `type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthKind::Bearer => "bearer",
            AuthKind::Basic => "basic",
            AuthKind::ApiKey => "api_key",
            AuthKind::OAuth2 => "oauth2",
            AuthKind::Custom => "custom",
            AuthKind::None => "none",
        }
    }
}

impl std::str::FromStr for AuthKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        use AuthKind::{ApiKey, Basic, Bearer, Custom, None, OAuth2};
        [Bearer, Basic, ApiKey, OAuth2, Custom, None]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or("the auth types are bearer, basic, api_key, oauth2, custom and none")
    }
}

/// A place in the request and what fills it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Where.
    pub place: Place,
    /// A header's name as it was written: upstreams that make a difference, against RFC 9110 §5.1, are told it so.
    pub written: Option<Box<str>>,
    /// With what.
    pub value: SlotValue,
}

/// Where in a request a credential goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A header.
    Header(HeaderName),
    /// A query pair, by its decoded name.
    Query(Box<str>),
    /// A cookie, by its name (RFC 6265 §4.1.1).
    Cookie(Box<str>),
    /// A field of a form body, by its decoded name.
    Form(Box<str>),
    /// A place in a JSON body, as the tokens of a JSON pointer (RFC 6901).
    Json(Box<[Box<str>]>),
    /// The `{name}` of the base path.
    Path(Box<str>),
}

impl Place {
    /// As it is written in `in`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Place::Header(_) => "header",
            Place::Query(_) => "query",
            Place::Cookie(_) => "cookie",
            Place::Form(_) | Place::Json(_) => "body",
            Place::Path(_) => "path",
        }
    }

    /// As it is written in `name`.
    pub fn name(&self) -> String {
        match self {
            Place::Header(name) => name.to_string(),
            Place::Query(name) | Place::Cookie(name) | Place::Form(name) | Place::Path(name) => name.to_string(),
            Place::Json(tokens) => {
                tokens.iter().map(|t| format!("/{}", t.replace('~', "~0").replace('/', "~1"))).collect()
            }
        }
    }

    fn parse(place: &str, name: &str) -> Result<Self, &'static str> {
        match place {
            "header" => header::parse_settable(name).map(Place::Header),
            "query" if !name.is_empty() && name.len() <= 256 => Ok(Place::Query(name.into())),
            "query" => Err("a query pair needs a name"),
            "cookie" if HeaderName::try_from(name).is_ok() => Ok(Place::Cookie(name.into())),
            "cookie" => Err("a cookie's name is a token (RFC 6265): letters, digits and !#$%&'*+-.^_`|~"),
            "body" => match name.strip_prefix('/') {
                Some(tokens) => {
                    let unescape = |token: &str| token.replace("~1", "/").replace("~0", "~").into();
                    Ok(Place::Json(tokens.split('/').map(unescape).collect()))
                }
                None if name.is_empty() => Err("a form field needs a name; a JSON pointer begins with /"),
                None => Ok(Place::Form(name.into())),
            },
            "path" if name.parse::<FieldName>().is_ok() => Ok(Place::Path(name.into())),
            "path" => Err("a path placeholder has 1 to 63 of a-z, 0-9 and _"),
            _ => Err("the places are header, query, cookie, body and path"),
        }
    }

    /// Whether two slots would fill the same place.
    fn same_as(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Header(a), Place::Header(b)) => {
                let fold = |name: &HeaderName| name.as_str().replace('_', "-");
                fold(a) == fold(b)
            }
            // One pointer inside another cannot both hold.
            (Place::Json(a), Place::Json(b)) => a.iter().zip(b.iter()).all(|(a, b)| a == b),
            (a, b) => a == b,
        }
    }
}

/// What fills a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotValue {
    /// A template of fields.
    Template(Template),
    /// `Basic base64(username ":" password)`, where the user name must not hold a colon (RFC 7617 §2).
    Basic {
        /// Template of the user name.
        username: Template,
        /// Template of the password.
        password: Template,
    },
}

impl SlotValue {
    fn templates(&self) -> impl Iterator<Item = &Template> {
        let (first, second) = match self {
            SlotValue::Template(template) => (template, None),
            SlotValue::Basic { username, password } => (username, Some(password)),
        };
        std::iter::once(first).chain(second)
    }

    /// The fields it asks for.
    pub fn fields(&self) -> Vec<&FieldName> {
        match self {
            SlotValue::Template(template) => template.fields().collect(),
            SlotValue::Basic { username, password } => username.fields().chain(password.fields()).collect(),
        }
    }
}

impl AuthMethod {
    /// Reads one `[[integration.auth]]`. `url` is the integration's base URL, `shared` are the integration's fields,
    /// which templates may name too.
    pub fn read(reader: Reader<'_>, url: Option<&UrlTemplate>, shared: &[Field]) -> Option<Self> {
        let method = reader.required("method");
        let kind: Option<AuthKind> = reader.required("type");
        let own: Vec<Field> = reader.tables("fields").into_iter().filter_map(Field::read).collect();
        let oauth = match kind? {
            AuthKind::OAuth2 => Some(Box::new(OAuth::read(&reader)?)),
            _ => None,
        };
        let (fields, slots) = match kind? {
            AuthKind::Bearer => read_bearer(&reader, own),
            AuthKind::Basic => read_basic(&reader, own),
            AuthKind::ApiKey => read_api_key(&reader, own),
            AuthKind::Custom => (own, reader.tables("inject").into_iter().filter_map(read_slot).collect()),
            AuthKind::OAuth2 => read_oauth(&reader, own, oauth.as_deref(), shared),
            AuthKind::None => (own, Vec::new()),
        };
        let (Some(method), Some(kind)) = (method, kind) else {
            reader.finish();
            return None;
        };
        let method = AuthMethod { method, kind, fields, slots, oauth };
        method.check(&reader, url, shared);
        reader.finish();
        Some(method)
    }

    /// The fields whose values make a credential: the method's own and the secret ones of the integration.
    pub fn credential_fields<'a>(&'a self, shared: &'a [Field]) -> impl Iterator<Item = &'a Field> {
        let is_entered = |field: &&Field| self.oauth.as_ref().is_none_or(|oauth| oauth.is_entered(&field.name));
        self.fields.iter().filter(is_entered).chain(shared.iter().filter(|field| field.secret))
    }

    /// The fields that its slots may ask for, beside the public ones of the integration.
    pub fn injected_fields<'a>(&'a self, shared: &'a [Field]) -> impl Iterator<Item = &'a Field> {
        let is_injected = |field: &&Field| self.oauth.is_none() || OAuth::is_injected(&field.name);
        self.fields.iter().filter(is_injected).chain(shared.iter().filter(|field| field.secret))
    }

    /// Whether a credential is of no use without a field. Nobody signs in for what is declared, which has nowhere to keep a
    /// token that takes the place of another: of that an access token is needed, and nothing else.
    pub fn needs(&self, field: &Field, is_declared: bool) -> bool {
        match &self.oauth {
            Some(oauth) if is_declared && oauth.is_signed_in() => field.name.as_str() == ACCESS_TOKEN,
            _ => field.required && field.default.is_none(),
        }
    }

    /// Every address of its authorization server.
    pub fn endpoint_urls(&self) -> impl Iterator<Item = &UrlTemplate> {
        self.oauth.iter().flat_map(|oauth| oauth.urls())
    }

    /// The same with the values of a connection, where it has one.
    pub fn endpoints<'v>(
        &self,
        value: impl Fn(&FieldName) -> Option<&'v str>,
    ) -> Result<Option<Endpoints>, RenderError> {
        self.oauth.as_ref().map(|oauth| oauth.endpoints(value)).transpose()
    }

    fn check(&self, reader: &Reader<'_>, url: Option<&UrlTemplate>, shared: &[Field]) {
        let at = reader.pointer();
        let problems = reader.problems();
        if self.kind == AuthKind::Custom && self.slots.is_empty() {
            problems.add(at, "a custom auth method needs at least one entry in `inject`; use type = \"none\" for none");
        }
        for (index, field) in self.fields.iter().enumerate() {
            let twice = self.fields[..index].iter().chain(shared).any(|other| other.name == field.name);
            if twice {
                problems.add(at, format!("the field `{}` is declared twice", field.name));
            }
        }
        for (index, slot) in self.slots.iter().enumerate() {
            // It would be sent as it stands: only a credential's own values refer to secrets.
            if slot.value.templates().any(|template| refers(template.source())) {
                problems
                    .add(at, "a template is plain text and fields; a secret is referred to by a credential's value");
            }
            for name in slot.value.fields() {
                if self.oauth.is_some() && !OAuth::is_injected(name) {
                    problems.add(at, format!("`{name}` goes to the token endpoint and nowhere else"));
                }
                if !self.fields.iter().chain(shared).any(|field| field.name == *name) {
                    problems.add(at, format!("the template asks for `{name}`, which is no field of this method"));
                }
            }
            if self.slots[..index].iter().any(|other| other.place.same_as(&slot.place)) {
                problems.add(at, format!("{} `{}` is injected twice", slot.place.as_str(), slot.place.name()));
            }
            if let (Place::Path(name), Some(url)) = (&slot.place, url)
                && !url.has_path_placeholder(name)
            {
                problems.add(at, format!("the base URL has no placeholder {{{name}}} in its path"));
            }
        }
        let mut bodies = self.slots.iter().map(|slot| matches!(slot.place, Place::Form(_)));
        let json = self.slots.iter().any(|slot| matches!(slot.place, Place::Json(_)));
        if json && bodies.any(|form| form) {
            problems.add(at, "a body is a form or a JSON document, not both");
        }
    }
}

fn template(text: &'static str) -> Template {
    text.parse().unwrap_or_default()
}

fn field_name(text: &'static str) -> Option<FieldName> {
    text.parse().ok()
}

/// Own fields, or the implied ones where none are declared.
fn own_or(own: Vec<Field>, implied: &[(&'static str, bool)]) -> Vec<Field> {
    if !own.is_empty() {
        return own;
    }
    let make = |(name, secret): &(&'static str, bool)| Some(Field::implied(field_name(name)?, *secret));
    implied.iter().filter_map(make).collect()
}

fn read_bearer(reader: &Reader<'_>, own: Vec<Field>) -> (Vec<Field>, Vec<Slot>) {
    let value = reader.parsed("template").unwrap_or_else(|| template("Bearer {{ token }}"));
    let slot = Slot::authorization(SlotValue::Template(value));
    (own_or(own, &[("token", true)]), vec![slot])
}

fn read_basic(reader: &Reader<'_>, own: Vec<Field>) -> (Vec<Field>, Vec<Slot>) {
    let username = reader.parsed("username").unwrap_or_else(|| template("{{ username }}"));
    let password = reader.parsed("password").unwrap_or_else(|| template("{{ password }}"));
    let fields = own_or(own, &[("username", false), ("password", true)]);
    let slot = Slot::authorization(SlotValue::Basic { username, password });
    (fields, vec![slot])
}

fn read_oauth(
    reader: &Reader<'_>,
    own: Vec<Field>,
    oauth: Option<&OAuth>,
    shared: &[Field],
) -> (Vec<Field>, Vec<Slot>) {
    let slots = if reader.has("inject") {
        reader.tables("inject").into_iter().filter_map(read_slot).collect()
    } else {
        let value = reader.parsed("template").unwrap_or_else(|| template("Bearer {{ access_token }}"));
        vec![Slot::authorization(SlotValue::Template(value))]
    };
    let implied = oauth.map(|oauth| oauth.fields(shared)).unwrap_or_default();
    (implied.into_iter().chain(own).collect(), slots)
}

fn read_api_key(reader: &Reader<'_>, own: Vec<Field>) -> (Vec<Field>, Vec<Slot>) {
    let value = reader.parsed("template").unwrap_or_else(|| template("{{ api_key }}"));
    let slots = read_place(reader).map(|place| place.filled(value)).into_iter().collect();
    (own_or(own, &[("api_key", true)]), slots)
}

/// A place as it was read.
struct Written {
    place: Place,
    name: String,
}

impl Written {
    fn filled(self, value: Template) -> Slot {
        let written = matches!(self.place, Place::Header(_)).then(|| self.name.into());
        Slot { place: self.place, written, value: SlotValue::Template(value) }
    }
}

impl Slot {
    fn authorization(value: SlotValue) -> Self {
        Slot { place: Place::Header(AUTHORIZATION), written: Some("Authorization".into()), value }
    }
}

fn read_place(reader: &Reader<'_>) -> Option<Written> {
    let place: Option<String> = reader.required("in");
    let name: Option<String> = reader.required("name");
    let (place, name) = (place?, name?);
    match Place::parse(&place, &name) {
        Ok(place) => Some(Written { place, name }),
        Err(explanation) => {
            let known = matches!(&*place, "header" | "query" | "cookie" | "body" | "path");
            reader.problem(if known { "name" } else { "in" }, explanation);
            None
        }
    }
}

fn read_slot(reader: Reader<'_>) -> Option<Slot> {
    let place = read_place(&reader);
    let value = reader.required("value");
    reader.finish();
    Some(place?.filled(value?))
}
