//! Header names with a meaning of their own: those of one hop, those that frame a message, and Sidekey's.

use http::header::{self, HeaderName};

/// The headers whose meaning Sidekey knows, by what is done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Known {
    /// `Host`
    Host,
    /// `Content-Length`
    ContentLength,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Expect`
    Expect,
    /// `Connection`
    Connection,
    /// `TE`
    Te,
    /// `Trailer`
    Trailer,
    /// `Upgrade`
    Upgrade,
    /// `Proxy-Authorization`
    ProxyAuthorization,
    /// Others that belong to one hop.
    HopByHop,
    /// `Via` and its like; see [`tells_the_way`].
    TellsTheWay,
    /// `Sidekey-…`
    Own,
    /// `Authorization`
    Authorization,
    /// `X-API-Key`
    ApiKey,
    /// `Cookie`
    Cookie,
    /// `Content-Type`
    ContentType,
    /// `Content-Encoding`
    ContentEncoding,
    /// `Origin`
    Origin,
    /// `Sec-Fetch-Site`
    FetchSite,
    /// `Location` and its like, `Set-Cookie` too: what an upstream may repeat a credential in.
    Points,
    /// `Date`
    Date,
    /// Any other.
    Other,
}

/// Whether a name is spelled as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As everybody reads it.
    Plain,
    /// With a `_` that CGI and its heirs read as `-`.
    Alias,
}

/// What a name of the wire means, in whatever case it is written.
pub fn known(name: &[u8]) -> (Known, Spelling) {
    if !name.contains(&b'_') {
        return (meaning(name), Spelling::Plain);
    }
    let folded: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
    (meaning(&folded), Spelling::Alias)
}

/// What a name without any `_` means. One look at the length and the first letter leaves at most a few names to compare
/// with.
pub fn meaning(name: &[u8]) -> Known {
    let is = |other: &str, known: Known| if name.eq_ignore_ascii_case(other.as_bytes()) { known } else { Known::Other };
    let begins =
        |other: &str| name.get(..other.len()).is_some_and(|begun| begun.eq_ignore_ascii_case(other.as_bytes()));
    let Some(first) = name.first() else { return Known::Other };
    match (first.to_ascii_lowercase(), name.len()) {
        (b's', 8..) if begins("sidekey-") => Known::Own,
        (b'x', 12..) if begins("x-forwarded-") => Known::TellsTheWay,
        (b't', 2) => is("te", Known::Te),
        (b'v', 3) => is("via", Known::TellsTheWay),
        (b'h', 4) => is("host", Known::Host),
        (b'd', 4) => is("date", Known::Date),
        (b'l', 4) => is("link", Known::Points),
        (b'e', 6) => is("expect", Known::Expect),
        (b'c', 6) => is("cookie", Known::Cookie),
        (b'o', 6) => is("origin", Known::Origin),
        (b't', 7) => is("trailer", Known::Trailer),
        (b'u', 7) => is("upgrade", Known::Upgrade),
        (b'r', 7) => is("refresh", Known::Points),
        (b'l', 8) => is("location", Known::Points),
        (b'f', 9) => is("forwarded", Known::TellsTheWay),
        (b'x', 9) if begins("x-a") => is("x-api-key", Known::ApiKey),
        (b'x', 9) => is("x-real-ip", Known::TellsTheWay),
        (b'c', 10) => is("connection", Known::Connection),
        (b'k', 10) => is("keep-alive", Known::HopByHop),
        (b's', 10) => is("set-cookie", Known::Points),
        (b'c', 12) => is("content-type", Known::ContentType),
        (b'a', 13) => is("authorization", Known::Authorization),
        (b'c', 14) => is("content-length", Known::ContentLength),
        (b's', 14) => is("sec-fetch-site", Known::FetchSite),
        (b'h', 14) => is("http2-settings", Known::HopByHop),
        (b'c', 16) if begins("content-e") => is("content-encoding", Known::ContentEncoding),
        (b'c', 16) => is("content-location", Known::Points),
        (b'p', 16) => is("proxy-connection", Known::HopByHop),
        (b't', 17) => is("transfer-encoding", Known::TransferEncoding),
        (b'p', 18) => is("proxy-authenticate", Known::HopByHop),
        (b'p', 19) => is("proxy-authorization", Known::ProxyAuthorization),
        (b'p', 25) => is("proxy-authentication-info", Known::HopByHop),
        _ => Known::Other,
    }
}

impl Known {
    /// Whether it belongs to one hop (RFC 9110 §7.6.1).
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::Te
                | Known::Trailer
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::ProxyAuthorization
                | Known::HopByHop
        )
    }

    /// Whether it decides where a message ends or whom it is for.
    pub fn is_framing(self) -> bool {
        matches!(self, Known::Host | Known::ContentLength | Known::TransferEncoding | Known::Expect)
    }
}

/// Whether two names as they are written are one to everybody: compared without case, `_` as `-`.
pub fn is_one(name: &[u8], other: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == other.len() && name.iter().map(fold).eq(other.iter().map(fold))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_same_in_every_spelling() {
        for (name, expected) in [
            ("host", Known::Host),
            ("content-length", Known::ContentLength),
            ("transfer-encoding", Known::TransferEncoding),
            ("connection", Known::Connection),
            ("proxy-authorization", Known::ProxyAuthorization),
            ("content-encoding", Known::ContentEncoding),
            ("content-location", Known::Points),
            ("x-api-key", Known::ApiKey),
            ("x-real-ip", Known::TellsTheWay),
            ("x-forwarded-for", Known::TellsTheWay),
            ("sidekey-", Known::Own),
            ("sidekey-key", Known::Own),
            ("x-forwarded-", Known::TellsTheWay),
            ("sidekey-something-that-is-much-longer-than-any-name", Known::Own),
            ("set-cookie", Known::Points),
        ] {
            assert_eq!(known(name.as_bytes()), (expected, Spelling::Plain), "{name}");
            assert_eq!(known(name.to_ascii_uppercase().as_bytes()), (expected, Spelling::Plain), "{name}");
            let alias = name.replace('-', "_");
            let spelling = if alias == name { Spelling::Plain } else { Spelling::Alias };
            assert_eq!(known(alias.as_bytes()), (expected, spelling), "{name}");
            assert_eq!(
                known(format!("{name}x").as_bytes()).0 == expected,
                name.starts_with("x-f") || name.starts_with("side")
            );
        }
        for name in ["", "x", "hosts", "sidekey", "x-forwarded", "accept"] {
            assert_eq!(known(name.as_bytes()).0, Known::Other, "{name}");
        }
    }

    /// Every header that is treated by its name's text is treated the same by what its name means.
    #[test]
    fn both_views_of_a_name_agree() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "proxy-authentication-info",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "host",
            "content-length",
            "expect",
            "via",
            "forwarded",
            "accept",
            "authorization",
        ] {
            let (known, _) = known(name.as_bytes());
            assert_eq!(known.is_hop_by_hop(), is_hop_by_hop(name), "{name}");
            assert_eq!(known.is_framing(), is_framing(name), "{name}");
            assert_eq!(known == Known::TellsTheWay, tells_the_way(name), "{name}");
        }
    }
}
