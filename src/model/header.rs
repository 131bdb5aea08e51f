//! Header names with a meaning of their own: those of one hop, those that frame a message, and Sidekey's.

use http::header::HeaderName;

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
    /// `Via` and its like: who forwarded a request. Dropped, and none is added.
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
    /// `X-HTTP-Method-Override` and its like: by which some servers take a request for one of another method or path.
    Disguise,
    /// `Date`
    Date,
    /// Any other.
    Other,
}

/// Some of what names mean: one look tells whether a meaning is among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meanings(u32);

impl Meanings {
    /// Every meaning.
    pub const ALL: Self = Meanings(u32::MAX);

    /// What belongs to one hop (RFC 9110 §7.6.1).
    pub const HOP_BY_HOP: Self = Self::of(&[
        Known::Connection,
        Known::Te,
        Known::Trailer,
        Known::TransferEncoding,
        Known::Upgrade,
        Known::ProxyAuthorization,
        Known::HopByHop,
    ]);

    /// These.
    pub const fn of(list: &[Known]) -> Self {
        let (mut all, mut at) = (0, 0);
        while at < list.len() {
            all |= 1 << list[at] as u8;
            at += 1;
        }
        Meanings(all)
    }

    /// These and others.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Meanings(self.0 | others.0)
    }

    /// These without others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Meanings(self.0 & !others.0)
    }

    /// Whether a meaning is among them.
    pub const fn has(self, known: Known) -> bool {
        self.0 & 1 << known as u8 != 0
    }

    /// Whether one of them is among others too.
    pub const fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// Adds a meaning.
    pub const fn add(&mut self, known: Known) {
        self.0 |= 1 << known as u8;
    }
}

/// Names of headers that fields are looked for by, each in lower case.
#[derive(Clone, Debug, Default)]
pub struct Names {
    list: Box<[HeaderName]>,
    /// A bit for every length that one of them has: most fields are told apart by it.
    lengths: u64,
}

impl Names {
    /// Whether one of them may have so many bytes; `false` is certain.
    #[inline]
    pub fn may_have(&self, length: usize) -> bool {
        self.lengths & Self::bit(length) != 0
    }

    /// Where among them a name is, compared without case, `_` as `-`.
    pub fn position(&self, name: &[u8]) -> Option<usize> {
        self.list.iter().position(|own| is_one(name, own.as_str().as_bytes()))
    }

    /// Of a length; whatever is very long has one bit.
    const fn bit(length: usize) -> u64 {
        1 << if length < 63 { length } else { 63 }
    }
}

impl FromIterator<HeaderName> for Names {
    fn from_iter<I: IntoIterator<Item = HeaderName>>(names: I) -> Self {
        let list: Box<[HeaderName]> = names.into_iter().collect();
        let lengths = list.iter().fold(0, |all, name| all | Self::bit(name.as_str().len()));
        Names { list, lengths }
    }
}

/// Whether a name is spelled as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    /// As everybody reads it.
    Plain,
    /// With a `_` that CGI and its heirs read as `-`.
    Alias,
}

/// What a name means, in whatever case it is written. The one place that knows which headers have a meaning.
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
    let is = |other: &str, known: Known| if is_lower(name, other) { known } else { Known::Other };
    let begins = |other: &str| name.get(..other.len()).is_some_and(|begun| is_lower(begun, other));
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
        (b'x', 13) if begins("x-h") => is("x-http-method", Known::Disguise),
        (b'x', 13) => is("x-rewrite-url", Known::Disguise),
        (b'c', 14) => is("content-length", Known::ContentLength),
        (b's', 14) => is("sec-fetch-site", Known::FetchSite),
        (b'h', 14) => is("http2-settings", Known::HopByHop),
        (b'x', 14) if begins("x-original-ur") => match name[13] | 0x20 {
            b'l' | b'i' => Known::Disguise,
            _ => Known::Other,
        },
        (b'c', 16) if begins("content-e") => is("content-encoding", Known::ContentEncoding),
        (b'c', 16) => is("content-location", Known::Points),
        (b'p', 16) => is("proxy-connection", Known::HopByHop),
        (b't', 17) => is("transfer-encoding", Known::TransferEncoding),
        (b'x', 17) => is("x-method-override", Known::Disguise),
        (b'p', 18) => is("proxy-authenticate", Known::HopByHop),
        (b'p', 19) => is("proxy-authorization", Known::ProxyAuthorization),
        (b'x', 22) => is("x-http-method-override", Known::Disguise),
        (b'p', 25) => is("proxy-authentication-info", Known::HopByHop),
        _ => Known::Other,
    }
}

/// Whether a token is this one, which is written in lower case. All of it is compared at once: what is compared has the
/// length and the first letter already, and is the same as a rule.
#[inline(always)]
fn is_lower(token: &[u8], other: &str) -> bool {
    // The bit makes a letter small and changes nothing else that stands in a token but `^` and `_`, which match nothing.
    let differs = |all, (own, other): (&u8, u8)| all | ((own | 0x20) ^ other);
    token.len() == other.len() && token.iter().zip(other.bytes()).fold(0, differs) == 0
}

impl Known {
    /// Whether it belongs to one hop (RFC 9110 §7.6.1).
    pub fn is_hop_by_hop(self) -> bool {
        Meanings::HOP_BY_HOP.has(self)
    }

    /// Whether it decides where a message ends or whom it is for.
    pub fn is_framing(self) -> bool {
        matches!(self, Known::Host | Known::ContentLength | Known::TransferEncoding | Known::Expect)
    }
}

/// Whether two names as they are written are one to everybody: compared without case, `_` as `-`.
#[inline]
pub fn is_one(name: &[u8], other: &[u8]) -> bool {
    // Most differ in length, which is seen where this is asked.
    name.len() == other.len() && is_folded_to_one(name, other)
}

fn is_folded_to_one(name: &[u8], other: &[u8]) -> bool {
    let ((words, rest), (other_words, other_rest)) = (name.as_chunks(), other.as_chunks());
    words.iter().zip(other_words).all(|(one, other)| differ_in_case_only(*one, *other) || are_folded_to_one(one, other))
        && are_folded_to_one(rest, other_rest)
}

fn are_folded_to_one(name: &[u8], other: &[u8]) -> bool {
    let fold = |byte: u8| FOLDED[usize::from(byte)];
    name.iter().zip(other).all(|(one, other)| fold(*one) == fold(*other))
}

/// Whether eight bytes are the same but for the case of letters. `false` may be wrong: almost all names that are one are
/// so in this way, and the others are compared byte by byte.
#[inline]
fn differ_in_case_only(one: [u8; 8], other: [u8; 8]) -> bool {
    const CASE: u64 = u64::from_ne_bytes([0x20; 8]);
    /// The bits that tell letters, with `@`, `[` to `_` and their like, from digits and signs.
    const LETTERS: u64 = u64::from_ne_bytes([0x40; 8]);
    let (one, other) = (u64::from_ne_bytes(one), u64::from_ne_bytes(other));
    let differs = one ^ other;
    // Of what differs by that bit and may stand in a token only `^` and `~` are no letters, and both end so.
    let signs = has_byte(one | CASE, b'~');
    differs & !CASE == 0 && differs & !(one & LETTERS) >> 1 & CASE == 0 && !signs
}

/// Whether one of eight bytes is this one; it may be said of one that stands above such.
const fn has_byte(word: u64, byte: u8) -> bool {
    let zero_there = word ^ u64::from_ne_bytes([byte; 8]);
    let ones = u64::from_ne_bytes([1; 8]);
    zero_there.wrapping_sub(ones) & !zero_there & (ones << 7) != 0
}

/// Each byte of a name as it is compared. A table, because every request's names are.
const FOLDED: [u8; 256] = {
    let mut folded = [0; 256];
    let mut byte = 0;
    while byte < folded.len() {
        folded[byte] = if byte as u8 == b'_' { b'-' } else { (byte as u8).to_ascii_lowercase() };
        byte += 1;
    }
    folded
};

/// Whether two names are one to everybody who makes no difference between `_` and `-`.
pub fn is_same(name: &HeaderName, other: &HeaderName) -> bool {
    is_one(name.as_str().as_bytes(), other.as_str().as_bytes())
}

/// Whether a name is one of these, however it is spelled.
fn is_any_of(name: &HeaderName, others: &[&str]) -> bool {
    others.iter().any(|other| is_one(name.as_str().as_bytes(), other.as_bytes()))
}

fn parse(name: &str) -> Result<HeaderName, &'static str> {
    HeaderName::try_from(name).map_err(|_| "a header name is a token: letters, digits and !#$%&'*+-.^_`|~")
}

/// Reads the name of a header that may name a connection: a token that has no other meaning.
pub fn parse_tag(name: &str) -> Result<HeaderName, &'static str> {
    let parsed = parse(name)?;
    let is_taken = match known(parsed.as_str().as_bytes()).0 {
        Known::TellsTheWay
        | Known::Authorization
        | Known::Cookie
        | Known::ApiKey
        | Known::ContentType
        | Known::ContentEncoding => true,
        Known::Own => !is_any_of(&parsed, &["sidekey-connection"]),
        other => other.is_framing() || other.is_hop_by_hop() || is_any_of(&parsed, &["accept"]),
    };
    if is_taken { Err("this header has a meaning of its own and cannot name a connection") } else { Ok(parsed) }
}

/// Reads the name of a header that configuration may set: a token (RFC 9110 §5.1) that neither frames the message, nor
/// belongs to one hop, nor is Sidekey's own.
pub fn parse_settable(name: &str) -> Result<HeaderName, &'static str> {
    let parsed = parse(name)?;
    let (known, _) = known(parsed.as_str().as_bytes());
    if known.is_framing() || known.is_hop_by_hop() || known == Known::TellsTheWay {
        return Err("this header frames or routes the message; Sidekey sets it itself");
    }
    if known == Known::Own || is_any_of(&parsed, &["x-connection-id", "connection-id"]) {
        return Err("this header is a tag of Sidekey's own and never reaches an upstream");
    }
    Ok(parsed)
}

/// Whether a trailer field may pass (RFC 9110 §6.5.1): nothing that frames, routes, authenticates, sets a cookie or
/// points somewhere.
pub fn may_be_trailer(name: &HeaderName) -> bool {
    let (known, _) = known(name.as_str().as_bytes());
    let is_kept_out = match known {
        Known::TellsTheWay
        | Known::Own
        | Known::Authorization
        | Known::ApiKey
        | Known::Cookie
        | Known::ContentType
        | Known::ContentEncoding
        | Known::Points => true,
        other => other.is_framing() || other.is_hop_by_hop(),
    };
    !is_kept_out && !is_any_of(name, &["x-connection-id", "connection-id", "content-range"])
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn names_are_compared_as_if_byte_by_byte(
            name in "[!#-'*+.^_`|~0-9A-Za-z-]{0,40}",
            changed in proptest::collection::vec(0_usize..24, 40),
        ) {
            let change = |(byte, change): (u8, &usize)| match change {
                0 => byte ^ 0x20,
                1 if byte == b'_' => b'-',
                2 => byte.to_ascii_uppercase(),
                3 => b'~',
                _ => byte,
            };
            let other: Vec<u8> = name.bytes().zip(&changed).map(change).filter(|byte| TOKEN.contains(byte)).collect();
            let expected = name.len() == other.len() && are_folded_to_one(name.as_bytes(), &other);
            proptest::prop_assert_eq!(is_one(name.as_bytes(), &other), expected);
            proptest::prop_assert_eq!(is_one(&other, name.as_bytes()), expected);
        }
    }

    const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

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
            ("x-http-method-override", Known::Disguise),
            ("x-http-method", Known::Disguise),
            ("x-method-override", Known::Disguise),
            ("x-original-url", Known::Disguise),
            ("x-original-uri", Known::Disguise),
            ("x-rewrite-url", Known::Disguise),
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

    #[test]
    fn what_belongs_to_a_hop_frames_or_tells_the_way_is_known_as_such() {
        let hop_by_hop = [
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
        ];
        let framing = ["host", "content-length", "transfer-encoding", "expect"];
        let way = ["via", "forwarded", "x-real-ip"];
        for name in hop_by_hop.iter().chain(&framing).chain(&way).chain(&["accept", "authorization"]) {
            let (known, _) = known(name.as_bytes());
            assert_eq!(known.is_hop_by_hop(), hop_by_hop.contains(name), "{name}");
            assert_eq!(known.is_framing(), framing.contains(name), "{name}");
            assert_eq!(known == Known::TellsTheWay, way.contains(name), "{name}");
        }
    }
}
