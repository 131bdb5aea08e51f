//! Heads: what is malformed, what belongs to one hop, what an upstream may say to a client.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName,
    HeaderValue, LINK, LOCATION, REFRESH, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};

use super::error::ProxyError;
use crate::credentials::Injection;
use crate::model::header;
use crate::model::origin::{Origin, Scheme};

/// Refuses what is ambiguous or malformed although hyper let it pass.
pub fn check(parts: &Parts) -> Result<(), ProxyError> {
    if matches!(parts.method, Method::TRACE | Method::CONNECT) || matches!(parts.method.as_str(), "TRACK" | "PRI") {
        return Err(ProxyError::MethodRefused);
    }
    if parts.version == Version::HTTP_2 {
        return check_same_host(parts);
    }
    check_host(parts)?;
    check_framing(&parts.headers)
}

/// RFC 9113 §8.3.1: beside `:authority`, a `Host` says the same or the request is malformed.
fn check_same_host(parts: &Parts) -> Result<(), ProxyError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let (first, second) = (lines.next(), lines.next());
    let differs = |line: &HeaderValue| {
        parts.uri.authority().is_some_and(|named| !line.as_bytes().eq_ignore_ascii_case(named.as_str().as_bytes()))
    };
    if second.is_some() || first.is_some_and(differs) {
        return Err(ProxyError::RequestMalformed("Host and :authority do not name one host"));
    }
    Ok(())
}

/// RFC 9112 §3.2: exactly one valid `Host` in HTTP/1.1, at most one before.
fn check_host(parts: &Parts) -> Result<(), ProxyError> {
    let mut lines = parts.headers.get_all(HOST).iter();
    let first = lines.next();
    if lines.next().is_some() {
        return Err(ProxyError::RequestMalformed("there are two Host headers"));
    }
    match first.map(|value| value.to_str().map(|text| Origin::from_authority(Scheme::Https, text))) {
        Some(Ok(Ok(_))) => Ok(()),
        Some(_) => Err(ProxyError::RequestMalformed("the Host header is not a host with an optional port")),
        None if parts.version == Version::HTTP_11 => Err(ProxyError::RequestMalformed("there is no Host header")),
        None => Ok(()),
    }
}

/// `Transfer-Encoding` is `chunked`, once, or absent: every other spelling is read differently by somebody.
fn check_framing(headers: &HeaderMap) -> Result<(), ProxyError> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(line) = lines.next()
        && (!line.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") || lines.next().is_some())
    {
        return Err(ProxyError::RequestMalformed("the only transfer coding is chunked, named once"));
    }
    if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
        return Err(ProxyError::RequestMalformed("the body has both a length and a transfer coding"));
    }
    Ok(())
}

/// Whether a request asks to become a WebSocket (RFC 6455 §4.1).
pub fn asks_for_websocket(parts: &Parts) -> bool {
    let named = |value: &HeaderValue| tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut upgrades = parts.headers.get_all(UPGRADE).iter();
    let websocket = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && websocket
        && upgrades.next().is_none()
        && parts.headers.get_all(CONNECTION).iter().any(named)
        && !parts.headers.contains_key(CONTENT_LENGTH)
        && !parts.headers.contains_key(TRANSFER_ENCODING)
}

/// Whether two readers could take a body for two kinds: its media type is there twice, or in a spelling that some read
/// as it.
pub fn describes_body_ambiguously(headers: &HeaderMap) -> bool {
    let is_alias = |name: &HeaderName| {
        header::folded(name.as_str()).is_some_and(|name| name == "content-type" || name == "content-encoding")
    };
    headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() || headers.keys().any(is_alias)
}

/// What `Connection` named, to keep it out of trailers too.
pub type Nominated = Vec<HeaderName>;

/// Takes everything out of a request that belongs to this hop, tells the way, or that Sidekey writes itself. Of the
/// trailer fields it keeps the announcement where there is a body that can have trailers.
pub fn clean_request(parts: &mut Parts, forward_authorization: bool) -> Nominated {
    let headers = &mut parts.headers;
    let wants_trailers =
        headers.get_all(TE).iter().any(|value| tokens(value).any(|t| t.eq_ignore_ascii_case("trailers")));
    let can_have_trailers = parts.version == Version::HTTP_2 || headers.contains_key(TRANSFER_ENCODING);
    let announced: Vec<HeaderValue> = headers.get_all(TRAILER).iter().filter(|_| can_have_trailers).cloned().collect();
    let nominated = remove_nominated(headers);
    let goes = |name: &HeaderName| {
        let folded = header::folded(name.as_str());
        let alias = folded.is_some();
        let name = folded.as_deref().unwrap_or(name.as_str());
        header::is_hop_by_hop(name)
            || header::tells_the_way(name)
            || name == "expect"
            || alias && header::is_framing(name)
    };
    while let Some(name) = headers.keys().find(|name| goes(name)).cloned() {
        headers.remove(name);
    }
    headers.remove(HOST);
    if !forward_authorization {
        headers.remove(AUTHORIZATION);
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if parts.version == Version::HTTP_2 {
        join_cookies(headers);
    }
    for value in announced {
        if announces_only_harmless(&value, &nominated) {
            headers.append(TRAILER, value);
        }
    }
    nominated
}

/// RFC 9113 §8.2.3: HTTP/2 may split `Cookie`, and every other protocol has one line.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(line) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, line);
    }
}

/// Whether every field that a `Trailer` line names may be one.
fn announces_only_harmless(value: &HeaderValue, nominated: &[HeaderName]) -> bool {
    tokens(value).all(|token| {
        HeaderName::try_from(token).is_ok_and(|name| {
            header::may_be_trailer(&name) && !nominated.iter().any(|other| header::is_same(&name, other))
        })
    })
}

/// Removes the fields that `Connection` names (RFC 9110 §7.6.1), whatever is decided about the message itself.
fn remove_nominated(headers: &mut HeaderMap) -> Nominated {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::try_from(token).ok())
        .filter(|name| !header::is_framing(name.as_str()))
        .collect();
    for name in &named {
        headers.remove(name);
    }
    named
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    // One by one: a token that is no text must not hide the others.
    let tokens = value.as_bytes().split(|byte| *byte == b',');
    tokens.filter_map(|token| std::str::from_utf8(token).ok()).map(str::trim).filter(|token| !token.is_empty())
}

/// Takes everything out of an upstream's answer that belongs to its hop or is Sidekey's to say, and every injected
/// value out of the headers that point somewhere.
pub fn clean_answer(headers: &mut HeaderMap, injection: &Injection) {
    remove_nominated(headers);
    let goes = |name: &HeaderName| {
        let folded = header::folded(name.as_str());
        let name = folded.as_deref().unwrap_or(name.as_str());
        header::is_own(name) || header::is_hop_by_hop(name) && name != "trailer"
    };
    while let Some(name) = headers.keys().find(|name| goes(name)).cloned() {
        headers.remove(name);
    }
    let points = |name: &HeaderName| [LOCATION, CONTENT_LOCATION, LINK, REFRESH, SET_COOKIE].contains(name);
    for (_, value) in headers.iter_mut().filter(|(name, _)| points(name)) {
        if let Some(Ok(redacted)) = injection.redact(value.as_bytes()).map(|text| HeaderValue::from_bytes(&text)) {
            *value = redacted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    #[test]
    fn cookies_that_http2_has_split_become_one_line() {
        let mut split = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut split);
        assert_eq!(split.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn a_body_whose_kind_is_told_twice_is_ambiguous() {
        assert!(!describes_body_ambiguously(&headers(&[("content-type", "application/json"), ("x_a", "b")])));
        let twice = headers(&[("content-type", "application/json"), ("content-type", "text/plain")]);
        assert!(describes_body_ambiguously(&twice));
        assert!(describes_body_ambiguously(&headers(&[("content_encoding", "gzip")])));
    }

    #[test]
    fn an_upstream_cannot_speak_for_sidekey() {
        let mut answer =
            headers(&[("sidekey-error", "x"), ("sidekey_error", "x"), ("connection", "x-a"), ("x-a", "b")]);
        clean_answer(&mut answer, &Injection::default());
        assert!(answer.is_empty());
    }
}
