//! Header names with a meaning of their own: those of one hop, those that frame a message, and Sidekey's.

use http::header::{self, HeaderName};

/// Whether a header belongs to one connection only and never passes a gateway (RFC 9110 §7.6.1), apart from those that
/// `Connection` names. `te` and `trailer` are handled where trailers are.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Whether a header says who forwarded a request; dropped, and none is added.
pub fn tells_the_way(name: &str) -> bool {
    matches!(name, "forwarded" | "x-real-ip" | "via") || name.starts_with("x-forwarded-")
}

/// Whether a header decides where a message ends or whom it is for; never taken from configuration.
pub fn is_framing(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "transfer-encoding" | "expect")
}

/// Whether a header is Sidekey's own.
pub fn is_own(name: &str) -> bool {
    name.starts_with("sidekey-")
}

/// A header's name as everybody would read it: lower case, `_` as `-` (CGI and its heirs make no difference).
/// `None` where that is the name itself.
pub fn folded(name: &str) -> Option<String> {
    name.contains('_').then(|| name.replace('_', "-"))
}

/// Whether two names are one to everybody who makes no difference between `_` and `-`.
pub fn is_same(name: &HeaderName, other: &HeaderName) -> bool {
    let folded = |name: &HeaderName| folded(name.as_str()).unwrap_or_else(|| name.as_str().to_owned());
    name == other || folded(name) == folded(other)
}

/// Reads the name of a header that configuration may set: a token (RFC 9110 §5.1) that neither frames the message, nor
/// belongs to one hop, nor is Sidekey's own.
pub fn parse_settable(name: &str) -> Result<HeaderName, &'static str> {
    let parsed =
        HeaderName::try_from(name).map_err(|_| "a header name is a token: letters, digits and !#$%&'*+-.^_`|~")?;
    let folded = folded(parsed.as_str());
    let name = folded.as_deref().unwrap_or(parsed.as_str());
    if is_framing(name) || is_hop_by_hop(name) || tells_the_way(name) {
        return Err("this header frames or routes the message; Sidekey sets it itself");
    }
    if is_own(name) || matches!(name, "x-connection-id" | "connection-id") {
        return Err("this header is a tag of Sidekey's own and never reaches an upstream");
    }
    Ok(parsed)
}

/// Whether a trailer field may pass (RFC 9110 §6.5.1): nothing that frames, routes, authenticates, sets a cookie or
/// points somewhere.
pub fn may_be_trailer(name: &HeaderName) -> bool {
    let folded = folded(name.as_str());
    let text = folded.as_deref().unwrap_or(name.as_str());
    !(is_framing(text)
        || is_hop_by_hop(text)
        || tells_the_way(text)
        || is_own(text)
        || [header::AUTHORIZATION, header::COOKIE, header::SET_COOKIE, header::CONTENT_TYPE, header::CONTENT_ENCODING]
            .iter()
            .any(|forbidden| forbidden.as_str() == text)
        || matches!(text, "location" | "content-location" | "link" | "refresh")
        || matches!(text, "x-api-key" | "x-connection-id" | "connection-id" | "content-range"))
}
