//! Tags: which connection, environment and customer a request names, and whose key it shows.
//!
//! [`Tag::take`] reads them and takes them out of the head, so nothing that was a tag or a caller's key can reach an
//! upstream. It decides nothing about what was named.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderName;

use super::error::ProxyError;
use super::target::{Form, Requested};
use crate::model::document::parse_duration;
use crate::model::header::Known;
use crate::model::id::ConnectionRef;
use crate::model::name::{CustomerName, EnvironmentName};
use crate::model::origin::Origin;
use crate::wire::Fields;
use crate::wire::fields::Ambiguous;

/// What a request says about itself, beside its target.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The connection; `None` leaves it to the listener.
    pub connection: Option<ConnectionRef>,
    /// The environment.
    pub environment: Option<EnvironmentName>,
    /// The customer.
    pub customer: Option<CustomerName>,
    /// The workflow's name for itself.
    pub workflow: Option<String>,
    /// Another of the connection's origins.
    pub upstream: Option<Origin>,
    /// A shorter deadline for the response head.
    pub timeout: Option<Duration>,
    /// Whether an API key was shown.
    pub shows_key: bool,
}

const KEY_PREFIX: &[u8] = b"apk_";
const SIDEKEY_KEY: &[u8] = b"sidekey-key";

impl Tag {
    /// Takes the tags out of a request's head. `connection_headers` are the names that may name a connection. A path
    /// tag is taken out of `requested` where no header names a connection.
    pub fn take(
        fields: &mut Fields,
        requested: &mut Requested,
        connection_headers: &[HeaderName],
    ) -> Result<Tag, ProxyError> {
        let as_proxy = matches!(requested.form, Form::Absolute(_));
        let login = if as_proxy { proxy_login(fields)? } else { Login::default() };
        let shows_key = take_keys(fields, login.password)?;
        let named = match named(fields, connection_headers, login.user.as_deref())? {
            Some(reference) => Some(reference),
            None if as_proxy => None,
            None => requested.take_path_tag().map(|text| reference(&text)).transpose()?,
        };
        let mut tag = Tag { connection: named, shows_key, ..Tag::default() };
        if fields.may_have_any(&[Known::Own]) {
            tag.read_options(fields)?;
            fields.drop_if(|line| line.known == Known::Own);
        }
        Ok(tag)
    }

    fn read_options(&mut self, fields: &Fields) -> Result<(), ProxyError> {
        self.environment = parsed(fields, "sidekey-environment", "Sidekey-Environment is no environment's name")?;
        self.customer = parsed(fields, "sidekey-customer", "Sidekey-Customer is no customer's name")?;
        self.workflow = single(fields, "sidekey-workflow")?.map(workflow).transpose()?;
        self.upstream = single(fields, "sidekey-upstream")?.map(upstream).transpose()?;
        self.timeout = single(fields, "sidekey-timeout")?.map(timeout).transpose()?;
        Ok(())
    }
}

/// What names the connection: one of its headers, or the user of a forward proxy's login. All that do must agree, and none
/// of them is left.
fn named(
    fields: &mut Fields,
    connection_headers: &[HeaderName],
    user: Option<&str>,
) -> Result<Option<ConnectionRef>, ProxyError> {
    let different = ProxyError::TagConflict("the request names two connections");
    let named = fields.take_named(connection_headers).map_err(|ambiguous| match ambiguous {
        Ambiguous::Twice => ProxyError::TagConflict("a header that names the connection is there twice"),
        Ambiguous::Different => ProxyError::TagConflict("the request names two connections"),
    })?;
    match (named.map(text).transpose()?, user) {
        (Some(named), Some(user)) if named != user => Err(different),
        (Some(named), _) | (None, Some(named)) => reference(named).map(Some),
        (None, None) => Ok(None),
    }
}

fn reference(text: &str) -> Result<ConnectionRef, ProxyError> {
    text.parse().map_err(|_| ProxyError::TagMalformed("the connection is neither an id (conn_…) nor a key"))
}

fn text(value: &[u8]) -> Result<&str, ProxyError> {
    let is_printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let text = std::str::from_utf8(value.trim_ascii()).ok().filter(|_| is_printable);
    text.ok_or(ProxyError::TagMalformed("a tag holds other than printable ASCII"))
}

fn single<'f>(fields: &'f Fields, name: &'static str) -> Result<Option<&'f str>, ProxyError> {
    let mut lines = fields.lines().filter(|line| line.name.eq_ignore_ascii_case(name.as_bytes()));
    let first = lines.next().map(|line| text(line.value)).transpose()?;
    if lines.next().is_some() {
        return Err(ProxyError::TagConflict("a Sidekey- header is there twice"));
    }
    Ok(first)
}

fn parsed<T: std::str::FromStr>(
    fields: &Fields,
    name: &'static str,
    wrong: &'static str,
) -> Result<Option<T>, ProxyError> {
    single(fields, name)?.map(|text| text.parse().map_err(|_| ProxyError::TagMalformed(wrong))).transpose()
}

fn workflow(text: &str) -> Result<String, ProxyError> {
    let fits = (1..=128).contains(&text.len());
    fits.then(|| text.to_owned()).ok_or(ProxyError::TagMalformed("Sidekey-Workflow has 1 to 128 characters"))
}

fn upstream(text: &str) -> Result<Origin, ProxyError> {
    Origin::parse(text).map_err(|_| ProxyError::TagMalformed("Sidekey-Upstream is an origin: [https://]host[:port]"))
}

fn timeout(text: &str) -> Result<Duration, ProxyError> {
    parse_duration(text).ok_or(ProxyError::TagMalformed("Sidekey-Timeout is a duration such as 500ms or 30s"))
}

/// What a forward-proxy client logs in with.
#[derive(Default)]
struct Login {
    user: Option<String>,
    password: Option<Vec<u8>>,
}

fn proxy_login(fields: &Fields) -> Result<Login, ProxyError> {
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

/// What follows an auth scheme, compared without case (RFC 9110 §11.1).
fn strip_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    (head.eq_ignore_ascii_case(scheme) && matches!(rest, [b' ' | b'\t', ..])).then(|| rest.trim_ascii())
}

/// Takes every API key out of the head. Two that differ are a conflict. A name with `_` for `-` is the same to many
/// servers, so a key must not pass under it either.
fn take_keys(fields: &mut Fields, password: Option<Vec<u8>>) -> Result<bool, ProxyError> {
    let mut keys: Vec<Vec<u8>> = password.into_iter().filter(|password| bare_key(password).is_some()).collect();
    if keys.is_empty() && !fields.may_have_any(&[Known::Own, Known::ApiKey, Known::Authorization]) {
        return Ok(false);
    }
    let mut own = fields.lines().filter(|line| line.name.eq_ignore_ascii_case(SIDEKEY_KEY));
    keys.extend(own.next().and_then(|line| bare_key(line.value)).map(<[u8]>::to_vec));
    let is_twice = own.next().is_some();
    drop(own);
    if is_twice {
        return Err(ProxyError::TagConflict("Sidekey-Key is there twice"));
    }
    fields.drop_if(|line| {
        let key = match line.known {
            Known::ApiKey => bare_key(line.value),
            Known::Authorization => strip_scheme(line.value, b"bearer").and_then(bare_key),
            _ => None,
        };
        keys.extend(key.map(<[u8]>::to_vec));
        key.is_some()
    });
    if keys.iter().any(|key| *key != keys[0]) {
        return Err(ProxyError::TagConflict("the request shows two different API keys"));
    }
    Ok(!keys.is_empty())
}

fn bare_key(value: &[u8]) -> Option<&[u8]> {
    Some(value).filter(|value| value.starts_with(KEY_PREFIX))
}

#[cfg(test)]
mod tests {
    use http::{Method, Version};

    use super::*;
    use crate::wire::RequestHead;

    const NAMES: [HeaderName; 2] =
        [HeaderName::from_static("sidekey-connection"), HeaderName::from_static("x-connection-id")];

    fn take(target: &str, lines: &[(&str, &str)]) -> (Result<Tag, &'static str>, Fields, String) {
        let mut fields = Fields::default();
        lines.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.trim().as_bytes()));
        let mut head = RequestHead::new(Method::GET, Version::HTTP_11, target.as_bytes(), None, fields);
        let mut requested = Requested::parse(&head).unwrap();
        let tag = Tag::take(&mut head.fields, &mut requested, &NAMES).map_err(|error| error.code());
        (tag, head.fields, requested.rest)
    }

    fn names(fields: &Fields) -> Vec<&[u8]> {
        fields.lines().map(|line| line.name).collect()
    }

    #[test]
    fn a_connection_is_named_by_header_login_or_path() {
        let stripe = Some("stripe".parse().unwrap());
        let (tag, headers, _) =
            take("/p", &[("x-connection-id", " stripe "), ("x_connection_id", "other"), ("accept", "*/*")]);
        assert_eq!(tag.unwrap().connection, stripe);
        assert_eq!(names(&headers), [b"accept"]);
        let login = format!("Basic {}", STANDARD.encode("stripe:"));
        let (tag, ..) = take("http://api.test/p", &[("proxy-authorization", &login)]);
        assert_eq!(tag.unwrap().connection, stripe);
        let (tag, _, rest) = take("/c/stripe/v1?a=b", &[]);
        assert_eq!((tag.unwrap().connection, &*rest), (stripe.clone(), "/v1?a=b"));
        let (tag, _, rest) = take("/c/stripe", &[]);
        assert_eq!((tag.unwrap().connection, &*rest), (stripe.clone(), ""));
        let (tag, _, rest) = take("/c/other/v1", &[("sidekey-connection", "stripe")]);
        assert_eq!((tag.unwrap().connection, &*rest), (stripe, "/c/other/v1"));
    }

    #[test]
    fn contradictions_and_nonsense_are_told_apart() {
        let code = |lines: &[(&str, &str)]| take("/p", lines).0.unwrap_err();
        assert_eq!(code(&[("x-connection-id", "a"), ("x-connection-id", "a")]), "tag_conflict");
        assert_eq!(code(&[("x-connection-id", "a"), ("sidekey-connection", "b")]), "tag_conflict");
        assert_eq!(code(&[("sidekey-key", "apk_a"), ("x-api-key", "apk_b")]), "tag_conflict");
        for text in ["", "a,b", "../a", "a%00", "' or 1=1--", "A", "conn_1"] {
            assert_eq!(code(&[("x-connection-id", text)]), "tag_malformed", "{text:?}");
        }
        assert_eq!(code(&[("sidekey-timeout", "soon")]), "tag_malformed");
        assert_eq!(code(&[("sidekey-upstream", "https://a/b")]), "tag_malformed");
        assert_eq!(take("/c/A%20b/x", &[]).0.unwrap_err(), "tag_malformed");
    }

    #[test]
    fn keys_are_taken_out_wherever_they_are_shown_and_nothing_else_is() {
        let (tag, headers, _) = take(
            "/p",
            &[
                ("authorization", "bEARER apk_1"),
                ("x-api-key", "apk_1"),
                ("x-api-key", "theirs"),
                ("sidekey-key", "apk_1"),
            ],
        );
        assert!(tag.unwrap().shows_key);
        assert_eq!(headers.values(Known::ApiKey).collect::<Vec<_>>(), [b"theirs"]);
        assert_eq!(headers.lines().count(), 1);
        let (tag, headers, _) = take("/p", &[("authorization", "Bearer theirs"), ("sidekey-key", "no key")]);
        assert!(!tag.unwrap().shows_key);
        assert_eq!(headers.lines().count(), 1);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_no_tag_is_left(name in "[sS]idekey[-_][a-z_-]{1,12}", value in "[ -~]{0,40}") {
            let (tag, headers, _) = take("/p", &[(&name, &value)]);
            if tag.is_ok() {
                proptest::prop_assert_eq!(headers.lines().count(), 0);
            }
        }
    }
}
