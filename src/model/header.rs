//! Header names with a meaning of their own: those of one hop, those that frame a message, and Sidekey's.

use http::header::{self, HeaderName};

/// The headers whose meaning Sidekey knows, by what is done about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Names longer than this have no meaning to Sidekey, but for those that are known by how they begin.
const LONGEST_KNOWN: usize = 32;

/// What a name of the wire means, in whatever case it is written.
pub fn known(name: &[u8]) -> (Known, Spelling) {
    let mut folded = [0; LONGEST_KNOWN];
    let length = name.len().min(LONGEST_KNOWN);
    let mut spelling = Spelling::Plain;
    for (to, from) in folded.iter_mut().zip(name) {
        *to = match from {
            b'_' => {
                spelling = Spelling::Alias;
                b'-'
            }
            other => other.to_ascii_lowercase(),
        };
    }
    if name.len() > LONGEST_KNOWN && name[LONGEST_KNOWN..].contains(&b'_') {
        spelling = Spelling::Alias;
    }
    let known = match &folded[..length] {
        begun if begun.starts_with(b"sidekey-") => Known::Own,
        begun if begun.starts_with(b"x-forwarded-") => Known::TellsTheWay,
        _ if name.len() > LONGEST_KNOWN => Known::Other,
        whole => meaning(whole),
    };
    (known, spelling)
}

fn meaning(name: &[u8]) -> Known {
    match name {
        b"host" => Known::Host,
        b"content-length" => Known::ContentLength,
        b"transfer-encoding" => Known::TransferEncoding,
        b"expect" => Known::Expect,
        b"connection" => Known::Connection,
        b"te" => Known::Te,
        b"trailer" => Known::Trailer,
        b"upgrade" => Known::Upgrade,
        b"proxy-authorization" => Known::ProxyAuthorization,
        b"keep-alive"
        | b"proxy-connection"
        | b"proxy-authenticate"
        | b"proxy-authentication-info"
        | b"http2-settings" => Known::HopByHop,
        b"forwarded" | b"x-real-ip" | b"via" => Known::TellsTheWay,
        b"authorization" => Known::Authorization,
        b"x-api-key" => Known::ApiKey,
        b"cookie" => Known::Cookie,
        b"content-type" => Known::ContentType,
        b"content-encoding" => Known::ContentEncoding,
        b"origin" => Known::Origin,
        b"sec-fetch-site" => Known::FetchSite,
        b"location" | b"content-location" | b"link" | b"refresh" | b"set-cookie" => Known::Points,
        b"date" => Known::Date,
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
