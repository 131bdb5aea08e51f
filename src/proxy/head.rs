//! Heads: what is malformed, what belongs to one hop, what an upstream may say to a client.

use std::cell::RefCell;
use std::net::IpAddr;

use http::header::HeaderName;
use http::{Method, StatusCode, Version};

use super::error::ProxyError;
use super::tag;
use crate::credentials::Injection;
use crate::model::header::{self, Known, Meanings, Names, Spelling};
use crate::model::origin::{HostText, OriginError};
use crate::wire::fields::{Line, tokens};
use crate::wire::{Fields, RequestHead};

/// Whom a request says it is for, if it says so: a host, or something that is none.
pub type Named<'h> = Option<Result<HostText<'h>, OriginError>>;

/// The last `Host` that was an address: nearly all callers of a worker name the same one, which need not be read again.
#[derive(Default)]
pub struct LastHost(RefCell<Option<(Box<[u8]>, IpAddr)>>);

impl LastHost {
    fn read<'h>(&self, line: &'h [u8]) -> Result<HostText<'h>, OriginError> {
        if let Some((last, address)) = &*self.0.borrow()
            && **last == *line
        {
            return Ok(HostText::Address(*address));
        }
        let host = HostText::of_authority(line)?;
        if let HostText::Address(address) = host {
            *self.0.borrow_mut() = Some((line.into(), address));
        }
        Ok(host)
    }
}

const DISGUISE: Meanings = Meanings::of(&[Known::Disguise]);

/// Whether a request asks to be taken for one of another method or path: a rule about them would be of no use then.
pub fn is_disguised(fields: &Fields) -> bool {
    fields.may_have(DISGUISE) && fields.lines().any(|line| line.known == Known::Disguise)
}

/// Refuses what is ambiguous or malformed although it could be parsed. Gives the host that the request is for.
pub fn check<'h>(head: &'h RequestHead, last: &LastHost) -> Result<Named<'h>, ProxyError> {
    if is_refused(&head.method) {
        return Err(ProxyError::MethodRefused);
    }
    if head.version == Version::HTTP_2 { check_same_host(head) } else { check_host(head, last) }
}

/// Whether a method shows a request to whoever asks, or makes a tunnel. Methods differ by case, but not for every server:
/// one that echoes a `trace` shows the credential.
fn is_refused(method: &Method) -> bool {
    let is_plain = matches!(*method, Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE);
    !is_plain
        && ["TRACE", "CONNECT", "TRACK", "PRI"].iter().any(|refused| method.as_str().eq_ignore_ascii_case(refused))
}

/// RFC 9113 §8.3.1: beside `:authority`, a `Host` says the same or the request is malformed.
fn check_same_host(head: &RequestHead) -> Result<Named<'_>, ProxyError> {
    let mut lines = head.fields.values(Known::Host);
    let (first, second) = (lines.next(), lines.next());
    let differs = |line: &[u8]| head.authority().is_some_and(|named| !line.eq_ignore_ascii_case(named));
    if second.is_some() || first.is_some_and(differs) {
        return Err(ProxyError::RequestMalformed("Host and :authority do not name one host"));
    }
    Ok(head.authority().or(first).map(HostText::of_authority))
}

/// RFC 9112 §3.2: exactly one valid `Host` in HTTP/1.1, at most one before.
fn check_host<'h>(head: &'h RequestHead, last: &LastHost) -> Result<Named<'h>, ProxyError> {
    let mut lines = head.fields.values(Known::Host);
    let first = lines.next();
    if lines.next().is_some() {
        return Err(ProxyError::RequestMalformed("there are two Host headers"));
    }
    match first.map(|line| last.read(line)) {
        Some(Err(_)) => Err(ProxyError::RequestMalformed("the Host header is not a host with an optional port")),
        None if head.version == Version::HTTP_11 => Err(ProxyError::RequestMalformed("there is no Host header")),
        named => Ok(named),
    }
}

/// Whether a request asks to become a WebSocket (RFC 6455 §4.1).
pub fn asks_for_websocket(head: &RequestHead) -> bool {
    let fields = &head.fields;
    let mut upgrades = fields.values(Known::Upgrade);
    let websocket = upgrades.next().is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"));
    websocket
        && upgrades.next().is_none()
        && head.method == Method::GET
        && head.version == Version::HTTP_11
        && fields.lists(Known::Connection, "upgrade")
        && !fields.has(Known::ContentLength)
        && !fields.has(Known::TransferEncoding)
}

/// Whether a client waits for `100 Continue` before it sends its body (RFC 9110 §10.1.1).
pub fn expects_continue(head: &RequestHead) -> bool {
    head.version == Version::HTTP_11
        && head.fields.values(Known::Expect).any(|value| value.eq_ignore_ascii_case(b"100-continue"))
}

/// Whether two readers could take a body for two kinds: its media type is there twice, or in a spelling that some read
/// as it.
pub fn describes_body_ambiguously(fields: &Fields) -> bool {
    let describes = |known| matches!(known, Known::ContentType | Known::ContentEncoding);
    fields.values(Known::ContentType).nth(1).is_some()
        || fields.lines().any(|line| line.spelling == Spelling::Alias && describes(line.known))
}

/// What no request takes along: what belongs to one hop, tells the way, or is written anew.
const NEVER_SENT: Meanings =
    Meanings::HOP_BY_HOP.with(Meanings::of(&[Known::TellsTheWay, Known::Expect, Known::Host, Known::ContentLength]));
const AUTHORIZATION: Meanings = Meanings::of(&[Known::Authorization]);
const COOKIE: Meanings = Meanings::of(&[Known::Cookie]);
/// What an answer may keep, in one way of writing it.
const SOMETIMES_TOLD: Meanings = Meanings::of(&[Known::ContentLength, Known::Trailer]);
/// What no answer brings along.
const NEVER_TOLD: Meanings = Meanings::HOP_BY_HOP.with(Meanings::of(&[Known::Own])).without(SOMETIMES_TOLD);
const POINTS: Meanings = Meanings::of(&[Known::Points]);

/// What `Connection` named, to keep it out of trailers too.
pub type Nominated = Vec<HeaderName>;

/// Takes everything out of a request that belongs to this hop, is a tag, tells the way, or that Sidekey writes itself. Of
/// the trailer fields it keeps the announcement where there is a body that can have trailers.
pub fn clean_request(head: &mut RequestHead, connection_headers: &Names, forward_authorization: bool) -> Nominated {
    let fields = &mut head.fields;
    let wants_trailers = fields.lists(Known::Te, "trailers");
    let can_have_trailers = head.version == Version::HTTP_2 || fields.has(Known::TransferEncoding);
    let nominated = remove_nominated(fields);
    let announced: Vec<Vec<u8>> = fields
        .values(Known::Trailer)
        .filter(|value| can_have_trailers && announces_only_harmless(value, &nominated))
        .map(<[u8]>::to_vec)
        .collect();
    fields.drop_known(NEVER_SENT);
    tag::clear(fields, connection_headers);
    if !forward_authorization {
        fields.drop_if(AUTHORIZATION, |line| line.spelling == Spelling::Plain);
    }
    if wants_trailers {
        fields.push(b"te", b"trailers");
    }
    if head.version == Version::HTTP_2 {
        join_cookies(fields);
    }
    for value in announced {
        fields.push(b"trailer", &value);
    }
    nominated
}

/// RFC 9113 §8.2.3: HTTP/2 may split `Cookie`, and every other protocol has one line.
fn join_cookies(fields: &mut Fields) {
    let crumbs: Vec<&[u8]> = fields.values(Known::Cookie).collect();
    if crumbs.len() > 1 {
        let line = crumbs.join(&b"; "[..]);
        fields.drop_if(COOKIE, |line| line.spelling == Spelling::Plain);
        fields.push(b"cookie", &line);
    }
}

/// Whether every field that a `Trailer` line names may be one.
fn announces_only_harmless(value: &[u8], nominated: &[HeaderName]) -> bool {
    tokens(value).all(|token| {
        HeaderName::try_from(token).is_ok_and(|name| {
            header::may_be_trailer(&name) && !nominated.iter().any(|other| header::is_same(&name, other))
        })
    })
}

/// Removes the fields that `Connection` names (RFC 9110 §7.6.1), whatever is decided about the message itself. What is
/// never passed on, named or not, needs no name to be made of it: most requests name `keep-alive` and nothing else.
fn remove_nominated(fields: &mut Fields) -> Nominated {
    let is_named = |token: &&[u8]| {
        let known = header::meaning(token);
        !known.is_framing() && known != Known::HopByHop
    };
    let tokens = fields.values(Known::Connection).flat_map(tokens).filter(is_named);
    let named: Vec<HeaderName> = tokens.filter_map(|token| HeaderName::try_from(token).ok()).collect();
    if !named.is_empty() {
        let is_one = |line: Line<'_>| named.iter().any(|name| line.name.eq_ignore_ascii_case(name.as_str().as_bytes()));
        fields.drop_if(Meanings::ALL, is_one);
    }
    named
}

/// Takes everything out of an upstream's answer that belongs to its hop or is Sidekey's to say, and every injected
/// value out of the headers that point somewhere. A length that tells nothing of the body to come stays, as one line.
pub fn clean_answer(fields: &mut Fields, status: StatusCode, method: &Method, injection: &Injection) {
    remove_nominated(fields);
    fields.drop_known(NEVER_TOLD);
    let may_tell_length = has_no_body(status, method) && status != StatusCode::NO_CONTENT;
    let mut told_length = false;
    fields.drop_if(SOMETIMES_TOLD, |line| match (line.known, line.spelling) {
        (Known::ContentLength, Spelling::Plain) => {
            let is_number = line.value.iter().all(u8::is_ascii_digit);
            !may_tell_length || !is_number || std::mem::replace(&mut told_length, true)
        }
        (known, spelling) => known == Known::Trailer && spelling == Spelling::Alias,
    });
    if fields.may_have(POINTS) {
        fields.change(|line| (line.known == Known::Points).then(|| injection.redact(line.value)).flatten());
    }
}

/// Whether an answer has no body, whatever its length says (RFC 9110 §6.4.1).
pub fn has_no_body(status: StatusCode, method: &Method) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        lines.iter().for_each(|(name, value)| fields.push(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn methods_that_show_or_tunnel_are_refused_in_any_case() {
        for (method, refused) in [("TRACE", true), ("trace", true), ("Connect", true), ("TRACER", false)] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let head = RequestHead::new(method, Version::HTTP_11, b"/", None, fields(&[("host", "h")]));
            assert_eq!(
                matches!(check(&head, &LastHost::default()), Err(ProxyError::MethodRefused)),
                refused,
                "{}",
                head.method
            );
        }
    }

    #[test]
    fn the_last_host_is_told_from_every_other() {
        let last = LastHost::default();
        let ours = HostText::Address([127, 0, 0, 1].into());
        for _ in 0..2 {
            assert_eq!(last.read(b"127.0.0.1:8000"), Ok(ours));
            assert_eq!(last.read(b"evil.test"), Ok(HostText::Name("evil.test")));
            assert!(last.read(b"127.0.0.1:8000x").is_err() && last.read(b"127.0.0.1:").is_err());
        }
    }

    #[test]
    fn a_connection_is_kept_as_its_client_says() {
        for (version, lines, kept) in [
            (Version::HTTP_11, &[][..], true),
            (Version::HTTP_11, &["Close"], false),
            (Version::HTTP_11, &["x-a, CLOSE ,"], false),
            (Version::HTTP_11, &["keep-alive", "close"], false),
            (Version::HTTP_11, &["closed"], true),
            (Version::HTTP_10, &[], false),
            (Version::HTTP_10, &["Keep-Alive"], true),
            (Version::HTTP_10, &["keep-alive, close"], false),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("connection", *line)).collect();
            let head = RequestHead::new(Method::GET, version, b"/", None, fields(&lines));
            assert_eq!(head.fields.keep_alive(head.version), kept, "{version:?} {lines:?}");
        }
    }

    #[test]
    fn cookies_that_http2_has_split_become_one_line() {
        let mut split = fields(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut split);
        assert_eq!(split.values(Known::Cookie).collect::<Vec<_>>(), [b"a=1; b=2; c=3"]);
    }

    #[test]
    fn a_body_whose_kind_is_told_twice_is_ambiguous() {
        assert!(!describes_body_ambiguously(&fields(&[("content-type", "application/json"), ("x_a", "b")])));
        let twice = fields(&[("content-type", "application/json"), ("content-type", "text/plain")]);
        assert!(describes_body_ambiguously(&twice));
        assert!(describes_body_ambiguously(&fields(&[("content_encoding", "gzip")])));
    }

    #[test]
    fn an_upstream_cannot_speak_for_sidekey() {
        let mut answer = fields(&[("Sidekey-Error", "x"), ("sidekey_error", "x"), ("Connection", "X-A"), ("x-a", "b")]);
        clean_answer(&mut answer, StatusCode::OK, &Method::GET, &Injection::default());
        assert_eq!(answer.lines().count(), 0);
    }
}
