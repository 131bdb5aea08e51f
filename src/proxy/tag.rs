//! Tags: which connection, environment and customer a request names, and whose key it shows.
//!
//! [`Tag::read`] reads them where they stand, and [`clear`] drops all of them: nothing that was a tag or a caller's key
//! can reach an upstream. Nothing is decided here about what was named.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::ProxyError;
use super::target::{Form, Requested};
use crate::model::document::parse_duration;
use crate::model::header::{Known, Meanings, Names, Spelling};
use crate::model::id::Reference;
use crate::model::name::{CustomerName, EnvironmentName};
use crate::model::origin::Origin;
use crate::wire::Fields;
use crate::wire::fields::Line;

/// What a request says about itself, beside its target; borrowed from its head where that can be.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tag<'h> {
    /// The connection; `None` leaves it to the listener.
    pub connection: Option<Reference<'h>>,
    /// The environment.
    pub environment: Option<EnvironmentName>,
    /// The customer.
    pub customer: Option<CustomerName>,
    /// The workflow's name for itself.
    pub workflow: Option<&'h str>,
    /// Another of the connection's origins.
    pub upstream: Option<Origin>,
    /// A shorter deadline for the response head.
    pub timeout: Option<Duration>,
    /// The API key that was shown.
    pub key: Option<Presented<'h>>,
    /// Whether the request is to be explained instead of being sent.
    pub explain: bool,
}

/// The text of an API key as it was shown. It shows itself to nobody by accident.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Presented<'h>(&'h [u8]);

impl<'h> Presented<'h> {
    /// The text.
    pub fn bytes(self) -> &'h [u8] {
        self.0
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(…)")
    }
}

const KEY_PREFIX: &[u8] = b"apk_";

/// Sidekey's own.
const OWN: Meanings = Meanings::of(&[Known::Own]);
/// What may hold an API key, or something of the upstream's.
const MAY_SHOW_KEY: Meanings = Meanings::of(&[Known::ApiKey, Known::Authorization]);

impl<'h> Tag<'h> {
    /// Reads the tags of a request's head. `connection_headers` are the names that may name a connection; `login` is
    /// what a forward-proxy client logged in with. A path tag is taken out of `requested` where no header names a
    /// connection.
    pub fn read(
        fields: &'h Fields,
        requested: &mut Requested<'h>,
        login: &'h Login,
        connection_headers: &Names,
    ) -> Result<Self, ProxyError> {
        let login_key = login.password.as_deref().and_then(bare_key);
        let has_more = fields.may_have(OWN.with(MAY_SHOW_KEY));
        let own = if has_more { Own::read(fields, login_key)? } else { Own { key: login_key, ..Own::default() } };
        let connection = match named(fields, connection_headers, login.user.as_deref())? {
            Some(reference) => Some(reference),
            None if matches!(requested.form, Form::Absolute(_)) => None,
            None => requested.take_path_tag().map(|tag| reference(tag.as_bytes())).transpose()?,
        };
        let mut tag = Tag { connection, key: own.key.map(Presented), ..Tag::default() };
        if own.says_more {
            tag.take(&own)?;
        }
        Ok(tag)
    }

    /// Takes what few requests say.
    fn take(&mut self, own: &Own<'h>) -> Result<(), ProxyError> {
        self.environment = parsed(own.environment, "Sidekey-Environment is no environment's name")?;
        self.customer = parsed(own.customer, "Sidekey-Customer is no customer's name")?;
        self.workflow = own.workflow.map(workflow).transpose()?;
        self.upstream = own.upstream.map(upstream).transpose()?;
        self.timeout = own.timeout.map(timeout).transpose()?;
        self.explain = own.explain.map(explain).transpose()?.unwrap_or(false);
        Ok(())
    }
}

/// What the fields say that are Sidekey's own or may show an API key, as it stands there.
#[derive(Default)]
struct Own<'h> {
    key: Option<&'h [u8]>,
    /// Whether any of the others is there.
    says_more: bool,
    environment: Option<&'h str>,
    customer: Option<&'h str>,
    workflow: Option<&'h str>,
    upstream: Option<&'h str>,
    timeout: Option<&'h str>,
    explain: Option<&'h str>,
}

impl<'h> Own<'h> {
    /// Reads the fields in one pass. Two keys that differ are a conflict, wherever they are shown. A name with `_` for `-`
    /// is the same to many servers, so a key under it is one too; but it is no tag.
    fn read(fields: &'h Fields, login_key: Option<&'h [u8]>) -> Result<Self, ProxyError> {
        let mut own = Own { key: login_key, ..Own::default() };
        let mut has_key_header = false;
        for line in fields.lines() {
            let key = match line.known {
                Known::Own if line.spelling == Spelling::Alias => None,
                Known::Own if names_key(line.name) => {
                    if std::mem::replace(&mut has_key_header, true) {
                        return Err(ProxyError::TagConflict("Sidekey-Key is there twice"));
                    }
                    bare_key(line.value)
                }
                Known::Own => {
                    own.take(&line)?;
                    None
                }
                _ => api_key(&line),
            };
            if key.is_some_and(|key| *own.key.get_or_insert(key) != key) {
                return Err(ProxyError::TagConflict("the request shows two different API keys"));
            }
        }
        Ok(own)
    }

    /// Takes one of the headers that are there at most once. Others of Sidekey's say nothing.
    fn take(&mut self, line: &Line<'h>) -> Result<(), ProxyError> {
        let is = |name: &str| line.name[OWN_PREFIX..].eq_ignore_ascii_case(name.as_bytes());
        let slot = match line.name.len() - OWN_PREFIX {
            11 if is("environment") => &mut self.environment,
            8 if is("customer") => &mut self.customer,
            8 if is("workflow") => &mut self.workflow,
            8 if is("upstream") => &mut self.upstream,
            7 if is("timeout") => &mut self.timeout,
            7 if is("explain") => &mut self.explain,
            _ => return Ok(()),
        };
        if slot.replace(text(line.value)?).is_some() {
            return Err(ProxyError::TagConflict("a Sidekey- header is there twice"));
        }
        self.says_more = true;
        Ok(())
    }
}

/// How long `sidekey-` is, which every header of Sidekey's own begins with.
const OWN_PREFIX: usize = "sidekey-".len();

/// Whether a header of Sidekey's own is `Sidekey-Key`.
fn names_key(name: &[u8]) -> bool {
    name.len() == OWN_PREFIX + 3 && name[OWN_PREFIX..].eq_ignore_ascii_case(b"key")
}

/// Drops the tags and what shows an API key, however the names are spelled: none such goes on.
pub fn clear(fields: &mut Fields, connection_headers: &Names) {
    fields.drop_known(OWN);
    fields.drop_if(MAY_SHOW_KEY, |line| api_key(&line).is_some());
    fields.drop_named(connection_headers);
}

/// What names the connection: one of its headers, or the user of a forward proxy's login. All that do must agree.
fn named<'h>(
    fields: &'h Fields,
    connection_headers: &Names,
    user: Option<&'h str>,
) -> Result<Option<Reference<'h>>, ProxyError> {
    let different = || ProxyError::TagConflict("the request names two connections");
    let (mut found, mut seen, mut differ) = (None, 0_u64, false);
    // A name with `_` for `-` names nothing; it only does not go on.
    for (header, line) in fields.named(connection_headers).filter(|(_, line)| line.spelling == Spelling::Plain) {
        let bit = 1 << (header % 64);
        if seen & bit != 0 {
            return Err(ProxyError::TagConflict("a header that names the connection is there twice"));
        }
        seen |= bit;
        differ |= *found.get_or_insert(line.value) != line.value;
    }
    if differ {
        return Err(different());
    }
    match (found.map(<[u8]>::trim_ascii), user.map(str::as_bytes)) {
        (Some(named), Some(user)) if named != user => Err(different()),
        (Some(named), _) | (None, Some(named)) => reference(named).map(Some),
        (None, None) => Ok(None),
    }
}

fn reference(bytes: &[u8]) -> Result<Reference<'_>, ProxyError> {
    Reference::checked(bytes)
        .map_err(|_| ProxyError::TagMalformed("the connection is neither an id (conn_…) nor a key"))
}

fn explain(text: &str) -> Result<bool, ProxyError> {
    match text {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(ProxyError::TagMalformed("Sidekey-Explain is 1 or 0")),
    }
}

fn text(value: &[u8]) -> Result<&str, ProxyError> {
    let is_printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let text = std::str::from_utf8(value.trim_ascii()).ok().filter(|_| is_printable);
    text.ok_or(ProxyError::TagMalformed("a tag holds other than printable ASCII"))
}

fn parsed<T: std::str::FromStr>(text: Option<&str>, malformed: &'static str) -> Result<Option<T>, ProxyError> {
    text.map(str::parse).transpose().map_err(|_| ProxyError::TagMalformed(malformed))
}

fn workflow(text: &str) -> Result<&str, ProxyError> {
    let fits = (1..=128).contains(&text.len());
    fits.then_some(text).ok_or(ProxyError::TagMalformed("Sidekey-Workflow has 1 to 128 characters"))
}

fn upstream(text: &str) -> Result<Origin, ProxyError> {
    Origin::parse(text).map_err(|_| ProxyError::TagMalformed("Sidekey-Upstream is an origin: [https://]host[:port]"))
}

fn timeout(text: &str) -> Result<Duration, ProxyError> {
    parse_duration(text).ok_or(ProxyError::TagMalformed("Sidekey-Timeout is a duration such as 500ms or 30s"))
}

/// What a forward-proxy client logs in with.
#[derive(Default)]
pub struct Login {
    user: Option<String>,
    password: Option<Vec<u8>>,
}

impl Login {
    /// Reads the login of a request; one that takes Sidekey for the server has none.
    pub fn read(fields: &Fields, form: &Form) -> Result<Self, ProxyError> {
        if *form == Form::Origin {
            return Ok(Login::default());
        }
        let mut lines = fields.values(Known::ProxyAuthorization);
        let Some(line) = lines.next() else { return Ok(Login::default()) };
        if lines.next().is_some() {
            return Err(ProxyError::TagConflict("Proxy-Authorization is there twice"));
        }
        let malformed = ProxyError::TagMalformed("Proxy-Authorization is Basic with connection:key, in base64");
        let Some(encoded) = strip_scheme(line, b"basic") else { return Ok(Login::default()) };
        let Ok(decoded) = STANDARD.decode(encoded) else { return Err(malformed) };
        let colon = decoded.iter().position(|b| *b == b':').unwrap_or(decoded.len());
        let user = String::from_utf8(decoded[..colon].to_vec()).map_err(|_| malformed)?;
        let password = decoded.get(colon + 1..).map(<[u8]>::to_vec);
        Ok(Login { user: Some(user).filter(|user| !user.is_empty()), password })
    }
}

/// What follows an auth scheme, compared without case (RFC 9110 §11.1).
fn strip_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    (head.eq_ignore_ascii_case(scheme) && matches!(rest, [b' ' | b'\t', ..])).then(|| rest.trim_ascii())
}

/// The API key in a field that may also hold something of the upstream's.
fn api_key<'h>(line: &Line<'h>) -> Option<&'h [u8]> {
    match line.known {
        Known::ApiKey => bare_key(line.value),
        Known::Authorization => strip_scheme(line.value, b"bearer").and_then(bare_key),
        _ => None,
    }
}

fn bare_key(value: &[u8]) -> Option<&[u8]> {
    Some(value).filter(|value| value.starts_with(KEY_PREFIX))
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use http::{Method, Version};

    use super::*;
    use crate::model::id::ConnectionRef;
    use crate::wire::RequestHead;

    fn tag_names() -> Names {
        ["sidekey-connection", "x-connection-id"].into_iter().map(HeaderName::from_static).collect()
    }

    /// A head with these lines.
    fn head(target: &str, lines: &[(&str, &str)]) -> RequestHead {
        let mut fields = Fields::default();
        lines.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.trim().as_bytes()));
        RequestHead::new(Method::GET, Version::HTTP_11, target.as_bytes(), None, fields)
    }

    /// What is read of a head, and what is left of it.
    fn read<T>(
        target: &str,
        lines: &[(&str, &str)],
        told: impl FnOnce(Result<Tag<'_>, &'static str>, &str) -> T,
    ) -> (T, Fields) {
        let mut head = head(target, lines);
        let mut requested = Requested::parse(&head).unwrap();
        let login = Login::read(&head.fields, &requested.form).unwrap();
        let names = tag_names();
        let tag = Tag::read(&head.fields, &mut requested, &login, &names).map_err(|error| error.code());
        let told = told(tag, requested.rest);
        clear(&mut head.fields, &names);
        head.fields.drop_known(Meanings::HOP_BY_HOP);
        (told, head.fields)
    }

    /// The connection that is named, and what is left of the target.
    fn connection(target: &str, lines: &[(&str, &str)]) -> (Option<ConnectionRef>, String) {
        let told = |tag: Result<Tag<'_>, _>, rest: &str| {
            (tag.unwrap().connection.map(|reference| reference.try_into().unwrap()), rest.to_owned())
        };
        read(target, lines, told).0
    }

    fn names(fields: &Fields) -> Vec<&[u8]> {
        fields.lines().map(|line| line.name).collect()
    }

    #[test]
    fn a_connection_is_named_by_header_login_or_path() {
        let stripe: Option<ConnectionRef> = Some("stripe".parse().unwrap());
        let lines = [("x-connection-id", " stripe "), ("x_connection_id", "other"), ("accept", "*/*")];
        assert_eq!(connection("/p", &lines).0, stripe);
        assert_eq!(names(&read("/p", &lines, |_, _| ()).1), [b"accept"]);
        let login = format!("Basic {}", STANDARD.encode("stripe:"));
        assert_eq!(connection("http://api.test/p", &[("proxy-authorization", &login)]).0, stripe);
        assert_eq!(connection("/c/stripe/v1?a=b", &[]), (stripe.clone(), "/v1?a=b".to_owned()));
        assert_eq!(connection("/c/stripe", &[]), (stripe.clone(), String::new()));
        let named = connection("/c/other/v1", &[("sidekey-connection", "stripe")]);
        assert_eq!(named, (stripe, "/c/other/v1".to_owned()));
    }

    #[test]
    fn contradictions_and_nonsense_are_told_apart() {
        let code_of = |target, lines: &[(&str, &str)]| read(target, lines, |tag, _| tag.unwrap_err()).0;
        let code = |lines: &[(&str, &str)]| code_of("/p", lines);
        assert_eq!(code(&[("x-connection-id", "a"), ("x-connection-id", "a")]), "tag_conflict");
        assert_eq!(code(&[("x-connection-id", "a"), ("sidekey-connection", "b")]), "tag_conflict");
        assert_eq!(code(&[("sidekey-key", "apk_a"), ("x-api-key", "apk_b")]), "tag_conflict");
        for text in ["", "a,b", "../a", "a%00", "' or 1=1--", "A", "conn_1"] {
            assert_eq!(code(&[("x-connection-id", text)]), "tag_malformed", "{text:?}");
        }
        assert_eq!(code(&[("sidekey-timeout", "soon")]), "tag_malformed");
        assert_eq!(code(&[("sidekey-upstream", "https://a/b")]), "tag_malformed");
        assert_eq!(code_of("/c/A%20b/x", &[]), "tag_malformed");
    }

    #[test]
    fn keys_are_taken_out_wherever_they_are_shown_and_nothing_else_is() {
        let shows_key = |lines: &[(&str, &str)]| read("/p", lines, |tag, _| tag.unwrap().key.is_some());
        let (shown, headers) = shows_key(&[
            ("authorization", "bEARER apk_1"),
            ("x-api-key", "apk_1"),
            ("x-api-key", "theirs"),
            ("sidekey-key", "apk_1"),
        ]);
        assert!(shown);
        assert_eq!(headers.values(Known::ApiKey).collect::<Vec<_>>(), [b"theirs"]);
        assert_eq!(headers.lines().count(), 1);
        let (shown, headers) = shows_key(&[("authorization", "Bearer theirs"), ("sidekey-key", "no key")]);
        assert!(!shown);
        assert_eq!(headers.lines().count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_no_tag_is_left(name in "[sS]idekey[-_][a-z_-]{1,12}", value in "[ -~]{0,40}") {
            let (_, headers) = read("/p", &[(&name, &value)], |_, _| ());
            proptest::prop_assert_eq!(headers.lines().count(), 0);
        }
    }
}
