//! Tags: which connection, environment and customer a request names, and whose key it shows.
//!
//! [`Tag::take`] reads them and takes them out of the head, so nothing that was a tag or a caller's key can reach an
//! upstream. It decides nothing about what was named.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION};

use super::error::ProxyError;
use super::target::{Form, Requested};
use crate::model::document::parse_duration;
use crate::model::header;
use crate::model::id::ConnectionRef;
use crate::model::name::{CustomerName, EnvironmentName};
use crate::model::origin::Origin;

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
const SIDEKEY_KEY: HeaderName = HeaderName::from_static("sidekey-key");
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

impl Tag {
    /// Takes the tags out of a request's head. `connection_headers` are the names that may name a connection. A path
    /// tag is taken out of `requested` where no header names a connection.
    pub fn take(
        headers: &mut HeaderMap,
        requested: &mut Requested,
        connection_headers: &[HeaderName],
    ) -> Result<Tag, ProxyError> {
        let as_proxy = matches!(requested.form, Form::Absolute(_));
        let login = if as_proxy { proxy_login(headers)? } else { Login::default() };
        let shows_key = take_keys(headers, login.password)?;
        let mut named = Vec::new();
        for name in connection_headers {
            let mut lines = headers.get_all(name).iter();
            if let Some(line) = lines.next() {
                named.push(text(line)?.to_owned());
            }
            if lines.next().is_some() {
                return Err(ProxyError::TagConflict("a header that names the connection is there twice"));
            }
        }
        named.extend(login.user);
        if named.iter().any(|text| *text != named[0]) {
            return Err(ProxyError::TagConflict("the request names two connections"));
        }
        let named = match named.pop() {
            Some(text) => Some(text),
            None if as_proxy => None,
            None => requested.take_path_tag(),
        };
        let malformed = |_| ProxyError::TagMalformed("the connection is neither an id (conn_…) nor a key");
        let mut tag = Tag {
            connection: named.map(|text| text.parse().map_err(malformed)).transpose()?,
            shows_key,
            ..Tag::default()
        };
        // Most requests have none of these, and one pass is less than five look-ups.
        if headers.keys().any(|name| header::is_own(name.as_str())) {
            tag.read_options(headers)?;
        }
        remove_own(headers, connection_headers);
        Ok(tag)
    }

    fn read_options(&mut self, headers: &HeaderMap) -> Result<(), ProxyError> {
        self.environment = parsed(headers, "sidekey-environment", "Sidekey-Environment is no environment's name")?;
        self.customer = parsed(headers, "sidekey-customer", "Sidekey-Customer is no customer's name")?;
        self.workflow = single(headers, "sidekey-workflow")?.map(workflow).transpose()?;
        self.upstream = single(headers, "sidekey-upstream")?.map(upstream).transpose()?;
        self.timeout = single(headers, "sidekey-timeout")?.map(timeout).transpose()?;
        Ok(())
    }
}

fn text(value: &HeaderValue) -> Result<&str, ProxyError> {
    value.to_str().map(str::trim).map_err(|_| ProxyError::TagMalformed("a tag holds other than printable ASCII"))
}

fn single<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, ProxyError> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next().map(text).transpose()?;
    if lines.next().is_some() {
        return Err(ProxyError::TagConflict("a Sidekey- header is there twice"));
    }
    Ok(first)
}

fn parsed<T: std::str::FromStr>(
    headers: &HeaderMap,
    name: &'static str,
    wrong: &'static str,
) -> Result<Option<T>, ProxyError> {
    single(headers, name)?.map(|text| text.parse().map_err(|_| ProxyError::TagMalformed(wrong))).transpose()
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

fn proxy_login(headers: &HeaderMap) -> Result<Login, ProxyError> {
    let mut lines = headers.get_all(PROXY_AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(Login::default()) };
    if lines.next().is_some() {
        return Err(ProxyError::TagConflict("Proxy-Authorization is there twice"));
    }
    let malformed = ProxyError::TagMalformed("Proxy-Authorization is Basic with connection:key, in base64");
    let Some(encoded) = strip_scheme(line.as_bytes(), b"basic") else { return Ok(Login::default()) };
    let Ok(decoded) = STANDARD.decode(encoded) else { return Err(malformed) };
    let colon = decoded.iter().position(|b| *b == b':').unwrap_or(decoded.len());
    let user = String::from_utf8(decoded[..colon].to_vec()).map_err(|_| malformed)?;
    let password = decoded.get(colon + 1..).map(<[u8]>::to_vec);
    Ok(Login { user: Some(user).filter(|user| !user.is_empty()), password })
}

/// What follows an auth scheme, compared without case (RFC 9110 §11.1).
fn strip_scheme<'v>(value: &'v [u8], scheme: &[u8]) -> Option<&'v [u8]> {
    let (head, rest) = value.split_at_checked(scheme.len())?;
    (head.eq_ignore_ascii_case(scheme) && rest.first() == Some(&b' ')).then(|| rest.trim_ascii())
}

/// Takes every API key out of the head. Two that differ are a conflict.
fn take_keys(headers: &mut HeaderMap, password: Option<Vec<u8>>) -> Result<bool, ProxyError> {
    let mut keys: Vec<Vec<u8>> = password.into_iter().filter(|password| bare_key(password).is_some()).collect();
    let mut lines = headers.get_all(SIDEKEY_KEY).iter();
    keys.extend(lines.next().map(|line| line.as_bytes().to_vec()).filter(|key| bare_key(key).is_some()));
    if lines.next().is_some() {
        return Err(ProxyError::TagConflict("Sidekey-Key is there twice"));
    }
    keys.extend(take_lines(headers, &X_API_KEY, bare_key));
    keys.extend(take_lines(headers, &AUTHORIZATION, bearer_key));
    if keys.iter().any(|key| *key != keys[0]) {
        return Err(ProxyError::TagConflict("the request shows two different API keys"));
    }
    Ok(!keys.is_empty())
}

fn bare_key(value: &[u8]) -> Option<&[u8]> {
    Some(value).filter(|value| value.starts_with(KEY_PREFIX))
}

fn bearer_key(value: &[u8]) -> Option<&[u8]> {
    strip_scheme(value, b"bearer").and_then(bare_key)
}

/// Removes the lines of a header that hold a key, and gives the keys; other lines stay. A name with `_` for `-` is the
/// same to many servers, so a key must not pass under it either.
fn take_lines(headers: &mut HeaderMap, name: &HeaderName, key: fn(&[u8]) -> Option<&[u8]>) -> Vec<Vec<u8>> {
    let misspelt = |other: &&HeaderName| other.as_str().contains('_') && header::is_same(other, name);
    let misspelt: Vec<HeaderName> = headers.keys().filter(misspelt).cloned().collect();
    std::iter::once(name).chain(&misspelt).flat_map(|name| take_named(headers, name, key)).collect()
}

fn take_named(headers: &mut HeaderMap, name: &HeaderName, key: fn(&[u8]) -> Option<&[u8]>) -> Vec<Vec<u8>> {
    let keys: Vec<Vec<u8>> =
        headers.get_all(name).iter().filter_map(|v| key(v.as_bytes()).map(<[u8]>::to_vec)).collect();
    if !keys.is_empty() {
        let kept: Vec<HeaderValue> =
            headers.get_all(name).iter().filter(|v| key(v.as_bytes()).is_none()).cloned().collect();
        headers.remove(name);
        for value in kept {
            headers.append(name.clone(), value);
        }
    }
    keys
}

/// Removes everything that is Sidekey's own, in any spelling that a server might read as it.
fn remove_own(headers: &mut HeaderMap, connection_headers: &[HeaderName]) {
    let is_own = |name: &HeaderName| {
        let folded = header::folded(name.as_str());
        let name = folded.as_deref().unwrap_or(name.as_str());
        header::is_own(name) || connection_headers.iter().any(|own| own.as_str() == name)
    };
    while let Some(name) = headers.keys().find(|name| is_own(name)).cloned() {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [HeaderName; 2] =
        [HeaderName::from_static("sidekey-connection"), HeaderName::from_static("x-connection-id")];

    fn take(target: &str, lines: &[(&str, &str)]) -> (Result<Tag, &'static str>, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let mut requested = Requested::parse(&target.parse().unwrap(), http::Version::HTTP_11).unwrap();
        let tag = Tag::take(&mut headers, &mut requested, &NAMES).map_err(|error| error.code());
        (tag, headers, requested.rest)
    }

    #[test]
    fn a_connection_is_named_by_header_login_or_path() {
        let stripe = Some("stripe".parse().unwrap());
        let (tag, headers, _) =
            take("/p", &[("x-connection-id", " stripe "), ("x_connection_id", "other"), ("accept", "*/*")]);
        assert_eq!(tag.unwrap().connection, stripe);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
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
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["x-api-key"], "theirs");
        let (tag, headers, _) = take("/p", &[("authorization", "Bearer theirs"), ("sidekey-key", "no key")]);
        assert!(!tag.unwrap().shows_key);
        assert_eq!(headers.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_sent_no_tag_is_left(name in "[sS]idekey[-_][a-z_-]{1,12}", value in "[ -~]{0,40}") {
            let (tag, headers, _) = take("/p", &[(&name, &value)]);
            if tag.is_ok() {
                proptest::prop_assert!(headers.is_empty());
            }
        }
    }
}
