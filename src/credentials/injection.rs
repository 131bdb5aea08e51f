//! Injections: a credential rendered for the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::fields::Fields;
use crate::directory::route::Route;
use crate::model::auth::{Place, Slot};
use crate::model::credential::{Credential, Piece, pieces, refers};
use crate::model::name::{FieldName, SecretKey};
use crate::model::template::RESERVED;

/// The values of the secrets a credential refers to.
pub type Secrets = BTreeMap<SecretKey, SecretString>;

/// The largest value that is injected anywhere; a header is bounded below it.
pub(super) const LARGEST: usize = 64 * 1024;
/// The largest header value, which every server takes.
const LARGEST_HEADER: usize = 8 * 1024;
/// The shortest text that is looked for in an upstream's answer.
const SHORTEST_REDACTED: usize = 4;
pub(super) const CONTROL: &str = "holds a control character such as a line break";
/// A colon stays as it is in a path segment (RFC 3986 §3.3).
const PATH_SEGMENT: &AsciiSet = &RESERVED.remove(b':');

/// What is set in a request: built when a credential is loaded, shared by every request that uses it.
///
/// All text of it that most have is in one block, which wipes itself: the header lines, and behind them the secrets to
/// look for in an answer.
#[derive(Default)]
pub struct Injection {
    /// The header it sets: most set one.
    first: Option<HeaderName>,
    /// The others, in the order of their lines.
    others: Box<[HeaderName]>,
    block: Zeroizing<Vec<u8>>,
    /// Where the header lines end in the block.
    lines: usize,
    /// The headers as HTTP/2 has them, made for the first request that goes over it.
    values: OnceLock<Box<[(HeaderName, HeaderValue)]>>,
    elsewhere: Option<Box<Elsewhere>>,
}

/// What goes to other places than headers.
#[derive(Default)]
pub(super) struct Elsewhere {
    pub(super) query: Vec<Pair>,
    pub(super) cookies: Vec<Pair>,
    pub(super) path: Vec<Pair>,
    pub(super) form: Vec<Pair>,
    pub(super) json: Vec<Member>,
}

static NOWHERE: Elsewhere =
    Elsewhere { query: Vec::new(), cookies: Vec::new(), path: Vec::new(), form: Vec::new(), json: Vec::new() };

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
    /// Fields make a reference only together, where none is replaced any more.
    #[error("fields make a reference to a secret only together, and it would be sent as it stands")]
    Joined,
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

/// The secrets that the values of a credential's fields refer to.
pub fn referenced_secrets<'a>(values: impl IntoIterator<Item = &'a SecretString>) -> BTreeSet<SecretKey> {
    let mut keys = BTreeSet::new();
    for value in values {
        let value = reveal(value);
        let found = if refers(value) { pieces(value).unwrap_or_default() } else { Vec::new() };
        keys.extend(found.into_iter().filter_map(|piece| match piece {
            Piece::Secret(key) => Some(key),
            Piece::Text(_) => None,
        }));
    }
    keys
}

#[expect(clippy::disallowed_methods, reason = "this module renders credentials for the wire")]
pub(super) fn reveal(secret: &SecretString) -> &str {
    secret.expose_secret()
}

impl Injection {
    /// Renders a credential for a route. All or nothing.
    pub fn render(route: &Route, credential: &Credential, secrets: &Secrets) -> Result<Self, RenderError> {
        Self::render_with(route, |name| credential.fields().get(name), secrets)
    }

    /// The same for a credential in whatever shape: `given` knows its fields by name.
    pub fn render_with<'a>(
        route: &'a Route,
        given: impl Fn(&FieldName) -> Option<&'a SecretString>,
        secrets: &Secrets,
    ) -> Result<Self, RenderError> {
        let fields = Fields::new(route, given, secrets)?;
        let slots = &route.auth().slots;
        let mut rendering = Rendering { headers: Vec::with_capacity(slots.len()), elsewhere: None };
        for slot in slots {
            rendering.add(slot, fields.fill(&slot.value)?)?;
        }
        let pairs = fields.pairs();
        Ok(rendering.finish(fields.told(secrets, &pairs)))
    }

    /// The headers it sets as lines of HTTP/1.1, each with its line break; names as the integration writes them.
    pub fn header_lines(&self) -> &[u8] {
        &self.block[..self.lines]
    }

    /// One that nothing comes of, and that tells of a secret.
    #[cfg(test)]
    pub(super) fn of_secret(text: &str) -> Self {
        Rendering::default().finish(std::iter::once(Secret { kind: SecretKind::Value, text }))
    }

    /// One that goes to other places than headers.
    #[cfg(test)]
    pub(super) fn of_elsewhere(elsewhere: Elsewhere) -> Self {
        Injection { elsewhere: Some(Box::new(elsewhere)), ..Injection::default() }
    }

    pub(super) fn elsewhere(&self) -> &Elsewhere {
        self.elsewhere.as_deref().unwrap_or(&NOWHERE)
    }

    /// What is taken out of an answer's headers: every secret value as it is and in base64, whichever field it came
    /// through; the longest first, so that no part of one is left when a shorter one was taken out before it.
    /// Percent-encoding is seen through when they are looked for. Made for the few answers that are looked through.
    pub(super) fn spellings(&self) -> Vec<Zeroizing<String>> {
        let mut spellings = BTreeSet::new();
        for secret in Secret::read(&self.block[self.lines..]) {
            if secret.kind == SecretKind::Value {
                spellings.insert(secret.text.to_owned());
            }
            spellings.insert(STANDARD_NO_PAD.encode(secret.text));
            spellings.insert(URL_SAFE_NO_PAD.encode(secret.text));
        }
        let mut spellings: Vec<_> = spellings.into_iter().map(Zeroizing::new).collect();
        // Shorter values would be found in texts that have nothing to do with them.
        spellings.retain(|text| text.len() >= SHORTEST_REDACTED);
        spellings.sort_by_key(|text| std::cmp::Reverse(text.len()));
        spellings
    }

    /// The secrets in it as texts, a user name with its password among them.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        Secret::read(&self.block[self.lines..]).map(|secret| secret.text)
    }

    /// The headers it sets.
    pub fn header_names(&self) -> impl Iterator<Item = &HeaderName> {
        self.first.iter().chain(&*self.others)
    }

    /// The same with their values, which are marked as sensitive and wipe themselves.
    pub(super) fn header_values(&self) -> &[(HeaderName, HeaderValue)] {
        self.values.get_or_init(|| {
            let block = Bytes::from_owner(Zeroizing::new(self.header_lines().to_vec()));
            let mut end = 0;
            let values = self.header_names().filter_map(|name| {
                let line = &self.header_lines()[end..];
                let at = |mark: &[u8; 2]| line.windows(2).position(|pair| pair == mark);
                let (colon, length) = (at(b": ")?, at(b"\r\n")?);
                let value = block.slice(end + colon + 2..end + length);
                end += length + 2;
                let mut value = HeaderValue::from_maybe_shared(value).ok()?;
                value.set_sensitive(true);
                Some((name.clone(), value))
            });
            values.collect()
        })
    }

    /// Where something is injected, in words: `header authorization`.
    pub fn places(&self) -> Vec<String> {
        let named =
            |place: &str, pairs: &[Pair]| pairs.iter().map(|p| format!("{place} {}", p.name)).collect::<Vec<_>>();
        let Elsewhere { query, cookies, path, form, json } = self.elsewhere();
        let mut places: Vec<String> = self.header_names().map(|name| format!("header {name}")).collect();
        places.extend(named("query", query));
        places.extend(named("cookie", cookies));
        places.extend(named("path", path));
        places.extend(named("body", form));
        places.extend(json.iter().map(|(tokens, _)| format!("body /{}", tokens.join("/"))));
        places
    }
}

/// What an injection tells about the values in it, so that they can be found in an answer.
#[derive(Clone, Copy)]
pub(super) struct Secret<'a> {
    pub(super) kind: SecretKind,
    pub(super) text: &'a str,
}

/// How a value may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SecretKind {
    /// As it is, or in base64.
    Value,
    /// In base64 only: a user name with its password.
    Pair,
}

impl<'a> Secret<'a> {
    /// Kind, length and text.
    fn write(&self, block: &mut Vec<u8>) {
        block.push(self.kind as u8);
        block.extend_from_slice(&(self.text.len() as u32).to_be_bytes());
        block.extend_from_slice(self.text.as_bytes());
    }

    const HEAD: usize = 5;

    fn read(mut block: &'a [u8]) -> impl Iterator<Item = Secret<'a>> {
        std::iter::from_fn(move || {
            let ([kind, length @ ..], rest) = block.split_first_chunk::<{ Secret::HEAD }>()?;
            let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            block = rest;
            let kind = if *kind == SecretKind::Value as u8 { SecretKind::Value } else { SecretKind::Pair };
            Some(Secret { kind, text: str::from_utf8(text).ok()? })
        })
    }
}

/// A header on its way.
struct Line<'a> {
    name: &'a HeaderName,
    written: &'a str,
    value: Zeroizing<String>,
}

/// An injection on its way.
#[derive(Default)]
struct Rendering<'a> {
    headers: Vec<Line<'a>>,
    elsewhere: Option<Box<Elsewhere>>,
}

impl<'a> Rendering<'a> {
    fn add(&mut self, slot: &'a Slot, value: Zeroizing<String>) -> Result<(), RenderError> {
        let place = &slot.place;
        let wrong = |why| RenderError::Value { place: place.as_str(), name: place.name(), why };
        if value.len() > LARGEST {
            return Err(wrong("is larger than 64 KiB"));
        }
        let pair = |value: String| Pair { name: place.name().into(), value: Zeroizing::new(value) };
        if let Place::Header(name) = place {
            check_header_value(&value).map_err(wrong)?;
            let written = slot.written.as_deref().unwrap_or(name.as_str());
            self.headers.push(Line { name, written, value });
            return Ok(());
        }
        let elsewhere = self.elsewhere.get_or_insert_default();
        match place {
            Place::Header(_) => {}
            Place::Query(name) => {
                let text = format!("{}={}", utf8_percent_encode(name, RESERVED), utf8_percent_encode(&value, RESERVED));
                elsewhere.query.push(pair(text));
            }
            Place::Cookie(name) => {
                if !value.bytes().all(is_cookie_octet) {
                    return Err(wrong("holds a character that a cookie cannot (RFC 6265 §4.1.1)"));
                }
                elsewhere.cookies.push(pair(format!("{name}={}", *value)));
            }
            Place::Path(_) => {
                let climbs = matches!(&**value, "." | "..") || value.is_empty();
                let outside = |c: char| matches!(c, '/' | '?' | '#' | '%' | '\\') || c.is_control();
                if climbs || value.contains(outside) || value.split(';').next().is_some_and(|v| v == "." || v == "..") {
                    return Err(wrong("holds / ? # % or is a dot segment, which a path part cannot"));
                }
                elsewhere.path.push(pair(utf8_percent_encode(&value, PATH_SEGMENT).to_string()));
            }
            Place::Form(name) => {
                let text = format!("{}={}", utf8_percent_encode(name, RESERVED), utf8_percent_encode(&value, RESERVED));
                elsewhere.form.push(pair(text));
            }
            Place::Json(tokens) => elsewhere.json.push((tokens.clone(), value)),
        }
        Ok(())
    }

    /// Puts everything into one block of just the right size, so that no copy is left where it would have grown.
    fn finish<'s>(self, secrets: impl Iterator<Item = Secret<'s>> + Clone) -> Injection {
        let told: usize = secrets.clone().map(|secret| Secret::HEAD + secret.text.len()).sum();
        let mut block = Zeroizing::new(Vec::with_capacity(lines_length(&self.headers) + told));
        for line in &self.headers {
            for part in [line.written.as_bytes(), b": ", line.value.as_bytes(), b"\r\n"] {
                block.extend_from_slice(part);
            }
        }
        secrets.for_each(|secret| secret.write(&mut block));
        let lines = lines_length(&self.headers);
        let mut names = self.headers.into_iter().map(|line| line.name.clone());
        let (first, others) = (names.next(), names.collect());
        Injection { first, others, block, lines, values: OnceLock::new(), elsewhere: self.elsewhere }
    }
}

/// How long lines are, each with its colon and line break.
fn lines_length(lines: &[Line<'_>]) -> usize {
    lines.iter().map(|line| line.written.len() + line.value.len() + 4).sum()
}

fn check_header_value(text: &str) -> Result<(), &'static str> {
    if text.len() > LARGEST_HEADER {
        return Err("is larger than 8 KiB");
    }
    if text.is_empty() || text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        return Err("is empty or begins or ends with a space");
    }
    // Nearly all are ASCII, where no characters need to be put together.
    let is_control = |c: char| c.is_control() && c != '\t';
    if text.bytes().any(|byte| byte.is_ascii() && is_control(byte.into()))
        || !text.is_ascii() && text.chars().any(is_control)
    {
        return Err(CONTROL);
    }
    Ok(())
}

fn is_cookie_octet(b: u8) -> bool {
    matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}
