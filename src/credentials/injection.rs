//! Injections: a credential rendered for the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::directory::route::Route;
use crate::model::auth::{Place, SlotValue};
use crate::model::credential::{Credential, Piece, pieces};
use crate::model::name::{FieldName, SecretKey};
use crate::model::template::{RESERVED, Template};

/// The values of the secrets a credential refers to.
pub type Secrets = BTreeMap<SecretKey, SecretString>;

/// The largest value that is injected anywhere; a header is bounded below it.
const LARGEST: usize = 64 * 1024;
/// The largest header value, which every server takes.
const LARGEST_HEADER: usize = 8 * 1024;
/// The shortest text that is looked for in an upstream's answer.
const SHORTEST_REDACTED: usize = 4;
/// A colon stays as it is in a path segment (RFC 3986 §3.3).
const PATH_SEGMENT: &AsciiSet = &RESERVED.remove(b':');

/// What is set in a request: built when a credential is loaded, shared by every request that uses it.
#[derive(Default)]
pub struct Injection {
    pub(super) headers: Arc<[(HeaderName, HeaderValue)]>,
    pub(super) query: Vec<Pair>,
    pub(super) cookies: Vec<Pair>,
    pub(super) path: Vec<Pair>,
    pub(super) form: Vec<Pair>,
    pub(super) json: Vec<Member>,
    pub(super) spellings: Vec<Zeroizing<String>>,
}

/// Where a value goes in a JSON document: the tokens of a JSON pointer, and the value.
pub(super) type Member = (Box<[Box<str>]>, Zeroizing<String>);

/// A name and its value, encoded for the place they go to.
pub(super) struct Pair {
    pub(super) name: Box<str>,
    pub(super) value: Zeroizing<String>,
}

impl fmt::Debug for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places()).finish()
    }
}

/// Why a credential cannot be rendered. Names fields, never values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A field has no value.
    #[error("the field `{0}` is missing")]
    Field(FieldName),
    /// A referenced secret has no value.
    #[error("the secret `{0}` has no value")]
    Secret(SecretKey),
    /// A reference is not well formed.
    #[error("the field `{0}` has a malformed reference to a secret; it is written @@SECRET:KEY@@")]
    Reference(FieldName),
    /// A value cannot stand where it goes.
    #[error("the value for {place} `{name}` {why}")]
    Value {
        /// Header, query, cookie, body or path.
        place: &'static str,
        /// The slot's name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The secrets that the fields of a credential refer to.
pub fn referenced_secrets(credential: &Credential) -> BTreeSet<SecretKey> {
    let mut keys = BTreeSet::new();
    for value in credential.fields().values() {
        for piece in pieces(reveal(value)).unwrap_or_default() {
            if let Piece::Secret(key) = piece {
                keys.insert(key);
            }
        }
    }
    keys
}

#[expect(clippy::disallowed_methods, reason = "this module renders credentials for the wire")]
fn reveal(secret: &SecretString) -> &str {
    secret.expose_secret()
}

impl Injection {
    /// Renders a credential for a route. All or nothing.
    pub fn render(route: &Route, credential: &Credential, secrets: &Secrets) -> Result<Self, RenderError> {
        let fields = Fields::new(route, credential, secrets)?;
        let mut injection = Injection::default();
        let mut headers = Vec::new();
        for slot in &route.auth().slots {
            let value = fields.fill(&slot.value)?;
            injection.add(&slot.place, value, &mut headers)?;
        }
        injection.headers = headers.into();
        injection.spellings = fields.spellings(secrets);
        Ok(injection)
    }

    fn add(
        &mut self,
        place: &Place,
        value: Zeroizing<String>,
        headers: &mut Vec<(HeaderName, HeaderValue)>,
    ) -> Result<(), RenderError> {
        let wrong = |why| RenderError::Value { place: place.as_str(), name: place.name(), why };
        if value.len() > LARGEST {
            return Err(wrong("is larger than 64 KiB"));
        }
        let pair = |value: String| Pair { name: place.name().into(), value: Zeroizing::new(value) };
        match place {
            Place::Header(name) => {
                let value = header_value(&value).map_err(wrong)?;
                headers.push((name.clone(), value));
            }
            Place::Query(name) => {
                let text = format!("{}={}", utf8_percent_encode(name, RESERVED), utf8_percent_encode(&value, RESERVED));
                self.query.push(pair(text));
            }
            Place::Cookie(name) => {
                if !value.bytes().all(is_cookie_octet) {
                    return Err(wrong("holds a character that a cookie cannot (RFC 6265 §4.1.1)"));
                }
                self.cookies.push(pair(format!("{name}={}", *value)));
            }
            Place::Path(_) => {
                let climbs = matches!(&**value, "." | "..") || value.is_empty();
                let outside = |c: char| matches!(c, '/' | '?' | '#' | '%' | '\\') || c.is_control();
                if climbs || value.contains(outside) || value.split(';').next().is_some_and(|v| v == "." || v == "..") {
                    return Err(wrong("holds / ? # % or is a dot segment, which a path part cannot"));
                }
                self.path.push(pair(utf8_percent_encode(&value, PATH_SEGMENT).to_string()));
            }
            Place::Form(name) => {
                let text = format!("{}={}", utf8_percent_encode(name, RESERVED), utf8_percent_encode(&value, RESERVED));
                self.form.push(pair(text));
            }
            Place::Json(tokens) => self.json.push((tokens.clone(), value)),
        }
        Ok(())
    }

    /// The headers it sets.
    pub fn header_names(&self) -> impl Iterator<Item = HeaderName> {
        self.headers.iter().map(|(name, _)| name.clone())
    }

    /// Where something is injected, in words: `header authorization`.
    pub fn places(&self) -> Vec<String> {
        let named =
            |place: &str, pairs: &[Pair]| pairs.iter().map(|p| format!("{place} {}", p.name)).collect::<Vec<_>>();
        let mut places: Vec<String> = self.headers.iter().map(|(name, _)| format!("header {name}")).collect();
        places.extend(named("query", &self.query));
        places.extend(named("cookie", &self.cookies));
        places.extend(named("path", &self.path));
        places.extend(named("body", &self.form));
        places.extend(self.json.iter().map(|(tokens, _)| format!("body /{}", tokens.join("/"))));
        places
    }
}

/// A header value that wipes its bytes when the last request that shares it is done.
fn header_value(text: &str) -> Result<HeaderValue, &'static str> {
    if text.len() > LARGEST_HEADER {
        return Err("is larger than 8 KiB");
    }
    if text.is_empty() || text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err("is empty or begins or ends with a space");
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err("holds a control character such as a line break");
    }
    let bytes = Bytes::from_owner(Zeroizing::new(text.as_bytes().to_vec()));
    let mut value = HeaderValue::from_maybe_shared(bytes).map_err(|_| "is no header value")?;
    value.set_sensitive(true);
    Ok(value)
}

fn is_cookie_octet(b: u8) -> bool {
    matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

/// The values that templates may ask for.
struct Fields<'a> {
    route: &'a Route,
    values: BTreeMap<&'a FieldName, Zeroizing<String>>,
    secret: BTreeSet<&'a FieldName>,
}

impl<'a> Fields<'a> {
    fn new(route: &'a Route, credential: &Credential, secrets: &Secrets) -> Result<Self, RenderError> {
        let mut fields = Fields { route, values: BTreeMap::new(), secret: BTreeSet::new() };
        for field in route.auth().credential_fields(&route.integration.fields) {
            if let Some(value) = credential.fields().get(&field.name) {
                let value = resolve(&field.name, reveal(value), secrets)?;
                fields.values.insert(&field.name, value);
            } else if let Some(default) = &field.default {
                fields.values.insert(&field.name, Zeroizing::new(default.clone()));
            }
            if field.secret {
                fields.secret.insert(&field.name);
            }
        }
        Ok(fields)
    }

    fn value(&self, name: &FieldName) -> Option<&str> {
        self.values.get(name).map(|value| value.as_str()).or_else(|| self.route.value(name))
    }

    fn template(&self, template: &Template) -> Result<Zeroizing<String>, RenderError> {
        template.render(|name| self.value(name)).map_err(|undefined| RenderError::Field(undefined.0))
    }

    fn fill(&self, value: &SlotValue) -> Result<Zeroizing<String>, RenderError> {
        let (username, password) = match value {
            SlotValue::Template(template) => return self.template(template),
            SlotValue::Basic { username, password } => (self.template(username)?, self.template(password)?),
        };
        let wrong = |why| RenderError::Value { place: "header", name: "authorization".to_owned(), why };
        if username.contains(':') {
            return Err(wrong("has a colon in its user name, which Basic cannot carry (RFC 7617 §2)"));
        }
        if username.chars().chain(password.chars()).any(char::is_control) {
            return Err(wrong("holds a control character such as a line break"));
        }
        let pair = Zeroizing::new(format!("{}:{}", *username, *password));
        Ok(Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes()))))
    }

    /// What is taken out of an answer's headers: every secret value as it is and in base64, whichever field it came
    /// through. Percent-encoding is seen through when they are looked for.
    fn spellings(&self, secrets: &Secrets) -> Vec<Zeroizing<String>> {
        let fields =
            self.values.iter().filter(|(name, _)| self.secret.contains(*name)).map(|(_, value)| value.as_str());
        let mut spellings = BTreeSet::new();
        for value in fields.chain(secrets.values().map(reveal)) {
            spellings.insert(value.to_owned());
            spellings.insert(STANDARD_NO_PAD.encode(value));
            spellings.insert(URL_SAFE_NO_PAD.encode(value));
        }
        let basic = self.route.auth().slots.iter().filter(|slot| matches!(slot.value, SlotValue::Basic { .. }));
        for value in basic.filter_map(|slot| self.fill(&slot.value).ok()) {
            let pair = value.trim_start_matches("Basic ").trim_end_matches('=');
            spellings.insert(pair.replace('+', "-").replace('/', "_"));
            spellings.insert(pair.to_owned());
        }
        let mut spellings: Vec<_> = spellings.into_iter().map(Zeroizing::new).collect();
        // Shorter values would be found in texts that have nothing to do with them.
        spellings.retain(|text| text.len() >= SHORTEST_REDACTED);
        // The longest first, so that no part of one is left when a shorter one was taken out before it.
        spellings.sort_by_key(|text| std::cmp::Reverse(text.len()));
        spellings
    }
}

/// A field's value with its references replaced, once: a secret's own value is not looked at again.
fn resolve(name: &FieldName, value: &str, secrets: &Secrets) -> Result<Zeroizing<String>, RenderError> {
    let mut text = Zeroizing::new(String::with_capacity(value.len()));
    for piece in pieces(value).map_err(|_| RenderError::Reference(name.clone()))? {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Secret(key) => {
                text.push_str(reveal(secrets.get(&key).ok_or_else(|| RenderError::Secret(key.clone()))?))
            }
        }
        if text.len() > LARGEST {
            return Err(RenderError::Value { place: "field", name: name.to_string(), why: "is larger than 64 KiB" });
        }
    }
    Ok(text)
}
