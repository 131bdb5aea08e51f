//! The cookies of the admin port: a session, the mark of a browser that was signed in before, a sign-in under way.
//!
//! None can be read by a script. Where people reach the port over https the names begin with `__Host-` and the cookies
//! are `Secure`, so no other host can set them and none travels in clear.

use std::time::Duration;

use axum::http::header::{self, HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};

/// What a cookie is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Who is signed in.
    Session,
    /// An account was signed in here before; it lets nobody in.
    Browser,
    /// Which sign-in at the identity provider began here.
    SignIn,
    /// Which connections this browser is signing in at their providers.
    Authorize,
}

/// Whether people reach this port over https only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// In clear, on loopback or inside of a network that is trusted.
    #[default]
    Plain,
    /// Over TLS: the port has a certificate, or `admin.url` says `https://`, because something in front of it has.
    Secure,
}

impl Kind {
    fn name(self, transport: Transport) -> &'static str {
        match (self, transport) {
            (Kind::Session, Transport::Plain) => "sidekey-session",
            (Kind::Session, Transport::Secure) => "__Host-sidekey-session",
            (Kind::Browser, Transport::Plain) => "sidekey-browser",
            (Kind::Browser, Transport::Secure) => "__Host-sidekey-browser",
            (Kind::SignIn, Transport::Plain) => "sidekey-sign-in",
            (Kind::SignIn, Transport::Secure) => "__Host-sidekey-sign-in",
            (Kind::Authorize, Transport::Plain) => "sidekey-authorize",
            (Kind::Authorize, Transport::Secure) => "__Host-sidekey-authorize",
        }
    }

    /// A provider's answer is a navigation from its page to ours, with which a strict cookie does not travel.
    fn same_site(self) -> &'static str {
        if matches!(self, Kind::SignIn | Kind::Authorize) { "Lax" } else { "Strict" }
    }
}

/// The pairs of a cookie's name, each with the value in it.
fn pairs(headers: &HeaderMap, kind: Kind, transport: Transport) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).map(str::trim).filter_map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        (name == kind.name(transport)).then_some((pair, value))
    })
}

/// The value of a cookie; `None` where there is none, or two that differ.
pub(super) fn read(headers: &HeaderMap, kind: Kind, transport: Transport) -> Option<SecretString> {
    let mut values = pairs(headers, kind, transport).map(|(_, value)| value);
    let value = values.next()?;
    values.all(|other| other == value).then(|| SecretString::from(value))
}

/// The part of a request's cookies that [`read`] looks at.
pub(super) fn only(headers: &HeaderMap, kind: Kind, transport: Transport) -> Option<HeaderValue> {
    let (pair, _) = pairs(headers, kind, transport).next()?;
    let mut value = HeaderValue::from_str(pair).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// As [`read`], of a cookie that lets nobody in.
#[expect(clippy::disallowed_methods, reason = "a cookie that lets nobody in is no secret")]
pub(super) fn read_text(headers: &HeaderMap, kind: Kind, transport: Transport) -> Option<String> {
    read(headers, kind, transport).map(|value| value.expose_secret().to_owned())
}

/// Sets a cookie that lets somebody in.
#[expect(clippy::disallowed_methods, reason = "the token of a session goes to its browser, once")]
pub(super) fn set_secret(
    headers: &mut HeaderMap,
    kind: Kind,
    transport: Transport,
    value: &SecretString,
    lifetime: Duration,
) {
    set(headers, kind, transport, value.expose_secret(), lifetime);
}

/// Sets a cookie. `value` has no byte that means something in a cookie.
pub(super) fn set(headers: &mut HeaderMap, kind: Kind, transport: Transport, value: &str, lifetime: Duration) {
    let secure = if transport == Transport::Secure { "; Secure" } else { "" };
    let (name, same_site, seconds) = (kind.name(transport), kind.same_site(), lifetime.as_secs());
    let line = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite={same_site}{secure}");
    if let Ok(mut line) = HeaderValue::try_from(line) {
        line.set_sensitive(true);
        headers.append(header::SET_COOKIE, line);
    }
}

/// Makes the browser forget a cookie.
pub(super) fn clear(headers: &mut HeaderMap, kind: Kind, transport: Transport) {
    set(headers, kind, transport, "", Duration::ZERO);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn a_cookie_is_found_among_others_and_two_different_ones_are_none() {
        let found = |lines: &[&'static str]| read(&cookies(lines), Kind::Session, Transport::Plain).is_some();
        assert!(found(&["a=b; sidekey-session=x; c"]) && found(&["a=b", "sidekey-session=x"]));
        assert!(found(&["sidekey-session=x; sidekey-session=x"]));
        assert!(!found(&["sidekey-session=x; sidekey-session=y"]));
        let kept = only(&cookies(&["a=b; sidekey-session=x; c"]), Kind::Session, Transport::Plain);
        assert_eq!(kept, Some(HeaderValue::from_static("sidekey-session=x")));
        assert!(!found(&["__Host-sidekey-session=x"]) && !found(&["xsidekey-session=x"]) && !found(&[]));
    }

    #[test]
    fn a_cookie_says_where_it_may_go() {
        let line = |kind, transport| {
            let mut headers = HeaderMap::new();
            set(&mut headers, kind, transport, "x", Duration::from_secs(60));
            headers[header::SET_COOKIE].to_str().unwrap().to_owned()
        };
        assert_eq!(
            line(Kind::Session, Transport::Secure),
            "__Host-sidekey-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Strict; Secure"
        );
        assert_eq!(
            line(Kind::SignIn, Transport::Plain),
            "sidekey-sign-in=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax"
        );
    }
}
