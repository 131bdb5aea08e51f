//! Base URLs: how they are written (with fields in them), what they become, and how a request's path is joined.
//!
//! A field's value can fill a place in the host or in the path and nothing else: scheme, port and everything after the
//! last placeholder of the host are literal. Paths are joined as text and never resolved, so a path that could climb
//! out of the base path is refused instead of cleaned.

use std::fmt;

use percent_encoding::percent_decode;

use super::name::FieldName;
use super::origin::{self, Origin, OriginError, Scheme};
use super::template::{Segment, Template, TemplateError, Undefined};

/// A base URL as an integration writes it: `https://{{ subdomain }}.zendesk.com/api/v2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlTemplate {
    scheme: Scheme,
    host: Template,
    port: u16,
    path: Template,
}

/// Why a text is no base URL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlTemplateError {
    /// Scheme, host or port.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A placeholder.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A field stands where scheme or port are.
    #[error("a field may stand in the host or in the path, not in scheme or port")]
    Misplaced,
    /// A query or fragment.
    #[error("a base URL has no query and no fragment; add a query injection or a path")]
    Query,
    /// A path that no request could be joined to.
    #[error("the path must be plain: no `.` or `..` segment, no backslash, no control or space character")]
    Path,
    /// A secret reference, which would end up in DNS.
    #[error("a secret must not stand in an address")]
    Secret,
}

/// Why a base URL could not be made from the values of a connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A field has no value.
    #[error(transparent)]
    Undefined(#[from] Undefined),
    /// The host does not hold together with these values.
    #[error("with these values the host is not a DNS name")]
    Host,
    /// A value would change the path's depth.
    #[error("the value of `{0}` must not hold / ? # % or dot segments where it fills a path")]
    PathValue(FieldName),
}

impl UrlTemplate {
    /// Reads a base URL. A trailing `/` is dropped.
    pub fn parse(text: &str) -> Result<Self, UrlTemplateError> {
        let (url, path) = Self::split(text)?;
        url.with_path(path, path.trim_end_matches('/'))
    }

    /// Reads an address that requests go to as it stands, a trailing `/` included.
    pub fn parse_endpoint(text: &str) -> Result<Self, UrlTemplateError> {
        let (url, path) = Self::split(text)?;
        url.with_path(path, path)
    }

    /// The same with a path, where what was `written` is nothing but one.
    fn with_path(self, written: &str, path: &str) -> Result<Self, UrlTemplateError> {
        if written.contains(['?', '#']) {
            return Err(UrlTemplateError::Query);
        }
        let spaced = path.contains("{{");
        let plain = |c: char| !c.is_control() && c != '\\' && (spaced || c != ' ');
        if !path.chars().all(plain) || check_path(path.as_bytes()).is_err() {
            return Err(UrlTemplateError::Path);
        }
        Ok(UrlTemplate { path: path.parse()?, ..self })
    }

    /// Reads `[scheme://]host[:port]`, https where no scheme is written: an allowed host.
    pub fn parse_origin(text: &str) -> Result<Self, UrlTemplateError> {
        let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let (url, path) = Self::split(&text)?;
        if path.is_empty() { Ok(url) } else { Err(OriginError::Trailing.into()) }
    }

    /// The origin part as a template without path, and the rest as text.
    fn split(text: &str) -> Result<(Self, &str), UrlTemplateError> {
        if text.contains("@@") {
            return Err(UrlTemplateError::Secret);
        }
        let (scheme, rest) = text.split_once("://").ok_or(OriginError::Scheme)?;
        if scheme.contains("{{") {
            return Err(UrlTemplateError::Misplaced);
        }
        let scheme = origin::parse_scheme(scheme)?;
        let path_at = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        if authority.contains('@') {
            return Err(OriginError::UserInfo.into());
        }
        let after_host = authority.rfind("}}").map_or(0, |at| at + 2);
        if authority.find(':').is_some_and(|colon| colon < after_host && !authority.starts_with('[')) {
            return Err(UrlTemplateError::Misplaced);
        }
        let (host, port) = origin::split_port(authority)?;
        let host: Template = host.parse()?;
        if host.segments().iter().any(|s| matches!(s, Segment::Field { filters, .. } if !filters.is_empty())) {
            return Err(UrlTemplateError::Misplaced);
        }
        // The literal parts must make a host with any label in the places of the fields.
        let sample = host.render(|_| Some("x")).unwrap_or_default();
        sample.parse::<origin::Host>()?;
        let path_template = Template::default();
        Ok((UrlTemplate { scheme, host, port: port.unwrap_or(scheme.default_port()), path: path_template }, path))
    }

    /// How bytes will travel.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The fields that stand in the host.
    pub fn host_fields(&self) -> impl Iterator<Item = &FieldName> {
        self.host.fields()
    }

    /// The fields that stand in host or path.
    pub fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.host.fields().chain(self.path.fields())
    }

    /// Whether the path has the placeholder `{name}` of a path injection.
    pub fn has_path_placeholder(&self, name: &str) -> bool {
        path_placeholders(self.path.source()).any(|found| found == name)
    }

    /// Fills in the values of a connection.
    pub fn render<'v>(&self, value: impl Fn(&FieldName) -> Option<&'v str>) -> Result<BaseUrl, RenderError> {
        for name in self.host.fields() {
            let text = value(name).ok_or_else(|| Undefined(name.clone()))?;
            let in_host = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
            if !text.bytes().all(in_host) {
                return Err(RenderError::Host);
            }
        }
        for name in self.path.fields() {
            let text = value(name).ok_or_else(|| Undefined(name.clone()))?;
            if !is_path_part(text) {
                return Err(RenderError::PathValue(name.clone()));
            }
        }
        let host = self.host.render(&value)?.parse().map_err(|_| RenderError::Host)?;
        let origin = Origin { scheme: self.scheme, host, port: self.port };
        Ok(BaseUrl { origin, path: self.path.render(&value)?.as_str().into() })
    }
}

/// The `{name}` placeholders of a path, for path injection.
pub fn path_placeholders(path: &str) -> impl Iterator<Item = &str> {
    let mut rest = path;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once('{')?;
        let (name, tail) = after.split_once('}')?;
        rest = tail;
        Some(name)
    })
    .filter(|name| name.parse::<FieldName>().is_ok())
}

/// Whether a value can fill a place in a path without changing its depth or ending it: printable, not empty, none of
/// `/ \ ? # %`, and no dot segment by itself.
pub fn is_path_part(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b'\\' | b'?' | b'#' | b'%' | b';'))
}

/// A base URL with every value filled in. Its path has no trailing `/` and joining cannot escape it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    origin: Origin,
    path: Box<str>,
}

impl BaseUrl {
    /// Scheme, host and port.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path, empty or beginning with `/`, without a trailing `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The base path followed by a request's own path and query, as text. `rest` is empty, or begins with `/` or `?`;
    /// it was checked by [`check_path`].
    pub fn join(&self, rest: &str) -> String {
        let needs_slash = self.path.is_empty() && !rest.starts_with('/');
        [&*self.path, if needs_slash { "/" } else { "" }, rest].concat()
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// A path that an upstream could read as climbing out of the base path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has a dot segment, a backslash or an encoded form of them")]
pub struct Climbs;

/// Refuses a path that some server could resolve to another one: a backslash, or a segment that is `.` or `..` as it
/// stands, after one percent-decoding (also the overlong `%c0%ae`), or before a `;` parameter. Everything else,
/// doubly encoded text included, is left alone: it is forwarded byte for byte.
pub fn check_path(path: &[u8]) -> Result<(), Climbs> {
    let (mut climbs, mut may_climb) = (false, false);
    for byte in path {
        climbs |= *byte == b'\\';
        may_climb |= matches!(*byte, b'.' | b'%');
    }
    if climbs {
        return Err(Climbs);
    }
    if !may_climb {
        return Ok(());
    }
    path.split(|b| *b == b'/').try_for_each(check_segment)
}

fn check_segment(segment: &[u8]) -> Result<(), Climbs> {
    let decoded: Vec<u8> = percent_decode(segment).collect();
    let is_dots = |part: &[u8]| {
        let name = part.split(|b| *b == b';').next().unwrap_or_default();
        matches!(name, b"." | b".." | b"\xc0\xae" | b"\xc0\xae\xc0\xae" | b".\xc0\xae" | b"\xc0\xae.")
    };
    if decoded.split(|b| matches!(b, b'/' | b'\\')).any(is_dots) { Err(Climbs) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(url: &str, value: &str) -> Result<String, String> {
        let url = UrlTemplate::parse(url).map_err(|error| error.to_string())?;
        url.render(|_| Some(value)).map(|base| base.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_value_fills_its_place_and_nothing_else() {
        assert_eq!(rendered("https://{{ s }}.zendesk.com/api/", "acme").unwrap(), "https://acme.zendesk.com/api");
        assert_eq!(rendered("https://x.test/a/{{ s }}", "42").unwrap(), "https://x.test/a/42");
        assert_eq!(rendered("https://x.test/bot{token}", "-").unwrap(), "https://x.test/bot{token}");
        for value in ["evil.test/", "a@evil.test", "a:1", "a#", "", ".", "a..", "é", "[::1]", "a b", "a\\b", "%2e"] {
            assert!(rendered("https://{{ s }}.zendesk.com", value).is_err(), "{value:?}");
        }
        for value in ["a/b", "..", ".", "a?b", "a#b", "a%2f", "", "a\nb", "a;b"] {
            assert!(rendered("https://x.test/a/{{ s }}", value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn fields_stand_in_host_or_path_only() {
        for url in [
            "{{ s }}://x.test",
            "https://x.test:{{ s }}",
            "https://{{ s | base64 }}.test",
            "https://x.test/?a={{ s }}",
            "https://x.test/#a",
            "https://u@x.test",
            "https://x.test/a/../b",
            "https://x.test/a\\b",
            "ftp://x.test",
            "x.test",
            "https://@@SECRET:K@@.test",
        ] {
            assert!(UrlTemplate::parse(url).is_err(), "{url}");
        }
        assert!(UrlTemplate::parse_origin("files.x.test:8443").is_ok());
        assert!(UrlTemplate::parse_origin("https://files.x.test/a").is_err());
    }

    #[test]
    fn paths_that_could_climb_are_refused_and_others_are_left_alone() {
        for path in [
            "/../x",
            "/a/../../x",
            "/./x",
            "/..",
            "/.",
            "/%2e%2e/x",
            "/.%2E/x",
            "/..%2fx",
            "/%2e%2e%2fx",
            "/..%5cx",
            "/..;/x",
            "/a\\b",
            "/%c0%ae%c0%ae/x",
            "/x/..;a=b/y",
        ] {
            assert!(check_path(path.as_bytes()).is_err(), "{path}");
        }
        for path in ["/%252e%252e/", "/a..b", "/...", "//evil.test/x", "/a%2fb", "/.well-known/x", "/a;b", "/@x"] {
            assert!(check_path(path.as_bytes()).is_ok(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn joining_keeps_the_origin_and_the_base_path(rest in "(/[ -~]{0,40})?") {
            let base = UrlTemplate::parse("https://api.test/v1/").unwrap().render(|_| None).unwrap();
            let joined = base.join(&rest);
            proptest::prop_assert!(joined == "/v1" || joined.starts_with("/v1/"));
            proptest::prop_assert_eq!(&joined["/v1".len()..], rest.as_str());
            // What was let through does not climb when a strict resolver (RFC 3986 §5.2.4) reads it after one decoding.
            if check_path(rest.as_bytes()).is_ok() {
                let decoded = percent_encoding::percent_decode_str(&rest).decode_utf8_lossy().replace('\\', "/");
                let mut depth = 0i32;
                for part in decoded.split('/').skip(1) {
                    depth += match part { ".." => -1, "." => 0, _ => 1 };
                    proptest::prop_assert!(depth >= 0);
                }
            }
        }

        #[test]
        fn a_host_value_never_changes_the_suffix(value in "\\PC{1,20}") {
            let url = UrlTemplate::parse("https://{{ s }}.zendesk.com:8443/api").unwrap();
            if let Ok(base) = url.render(|_| Some(&value)) {
                proptest::prop_assert!(base.origin().host.to_string().ends_with(".zendesk.com"));
                proptest::prop_assert_eq!(base.origin().port, 8443);
            }
        }
    }
}
