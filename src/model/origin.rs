//! Where a request may go: scheme, host and port, parsed once.
//!
//! The host that is stored is the host that is resolved, dialled, named in TLS and written into `Host`: there is no
//! second parser that could read the same text differently. Names are ASCII (an international name is written in its
//! `xn--` form), without a trailing dot, in lower case. Nothing here resolves or dials.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

/// How bytes travel to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Inside verified TLS.
    Https,
    /// In clear; only where an integration says `plaintext = true`.
    Http,
}

impl Scheme {
    /// The port that is meant where none is written (RFC 9110 §4.2).
    pub const fn default_port(self) -> u16 {
        match self {
            Scheme::Https => 443,
            Scheme::Http => 80,
        }
    }

    /// The scheme as written before `://`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Https => "https",
            Scheme::Http => "http",
        }
    }
}

/// A host: a DNS name in lower case or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: ASCII letters, digits, `-`, `_` and `.`, at most 253 bytes, labels of 1 to 63 bytes.
    Name(Arc<str>),
    /// A literal address; IPv6 is written in brackets.
    Address(IpAddr),
}

/// Why a text is no host, origin or base URL. Says what is wrong; the caller adds where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// The scheme is neither `https` nor `http`.
    #[error("the scheme must be https (or http where the integration says plaintext = true)")]
    Scheme,
    /// The host is empty, not ASCII, has a bad label or ends with a dot.
    #[error("the host is not a DNS name in ASCII or an IP address (an international name needs its xn-- form)")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port must be a number from 1 to 65535")]
    Port,
    /// There is a user name or password in it.
    #[error("a user name or password does not belong in an address; make it a credential")]
    UserInfo,
    /// There is a path, query or fragment where only an origin is allowed.
    #[error("only scheme, host and port are allowed here")]
    Trailing,
}

/// A host as it is written in a request: valid, in whatever case, and borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostText<'a> {
    /// A DNS name.
    Name(&'a str),
    /// A literal address.
    Address(IpAddr),
}

impl<'a> HostText<'a> {
    /// Reads `host[:port]` without taking memory.
    pub fn of_authority(authority: &'a [u8]) -> Result<Self, OriginError> {
        let text = std::str::from_utf8(authority).map_err(|_| OriginError::Host)?;
        Self::parse(split_port(text)?.0)
    }

    fn parse(text: &'a str) -> Result<Self, OriginError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(OriginError::Host)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| OriginError::Host)?;
            return Ok(HostText::Address(IpAddr::V6(address)));
        }
        if text.as_bytes().first().is_some_and(u8::is_ascii_digit)
            && let Ok(address) = text.parse::<Ipv4Addr>()
        {
            return Ok(HostText::Address(IpAddr::V4(address)));
        }
        let label_ok = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if text.is_empty() || text.len() > 253 || !text.split('.').all(label_ok) {
            return Err(OriginError::Host);
        }
        Ok(HostText::Name(text))
    }
}

impl FromStr for Host {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        Ok(match HostText::parse(text)? {
            HostText::Name(name) => Host::Name(name.to_ascii_lowercase().into()),
            HostText::Address(address) => Host::Address(address),
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
        }
    }
}

/// Scheme, host and port: the boundary a credential is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// How bytes travel.
    pub scheme: Scheme,
    /// Whom they travel to.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
}

impl Origin {
    /// Reads `[scheme://]host[:port]`, https and its port where they are absent.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, rest)) => (parse_scheme(scheme)?, rest),
            None => (Scheme::Https, text),
        };
        Self::from_authority(scheme, authority)
    }

    /// Reads `host[:port]` with the scheme known.
    pub fn from_authority(scheme: Scheme, authority: &str) -> Result<Self, OriginError> {
        if authority.contains('@') {
            return Err(OriginError::UserInfo);
        }
        if authority.contains(['/', '?', '#', '\\']) {
            return Err(OriginError::Trailing);
        }
        let (host, port) = split_port(authority)?;
        Ok(Origin { scheme, host: host.parse()?, port: port.unwrap_or(scheme.default_port()) })
    }

    /// `host` or `host:port`, the port only where it is not the scheme's own: the value of `Host` and `:authority`.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Reads a scheme, without case.
pub fn parse_scheme(text: &str) -> Result<Scheme, OriginError> {
    if text.eq_ignore_ascii_case("https") {
        Ok(Scheme::Https)
    } else if text.eq_ignore_ascii_case("http") {
        Ok(Scheme::Http)
    } else {
        Err(OriginError::Scheme)
    }
}

/// Splits `host[:port]`, brackets of an IPv6 address kept.
pub fn split_port(authority: &str) -> Result<(&str, Option<u16>), OriginError> {
    let bytes = authority.as_bytes();
    let bracket_end = match bytes.first() {
        Some(b'[') => bytes.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1),
        _ => 0,
    };
    let Some(colon) = bytes[bracket_end..].iter().position(|byte| *byte == b':') else {
        return Ok((authority, None));
    };
    let (host, port) = authority.split_at(bracket_end + colon);
    let digits = &port[1..];
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(OriginError::Port);
    }
    match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok((host, Some(port))),
        _ => Err(OriginError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_and_its_port_are_meant_where_nothing_is_written() {
        let origin = Origin::parse("API.Example.test").unwrap();
        assert_eq!(origin.to_string(), "https://api.example.test");
        assert_eq!(origin.port, 443);
        assert_eq!(Origin::parse("http://[::1]:8080").unwrap().authority(), "[::1]:8080");
    }

    #[test]
    fn texts_that_parsers_read_differently_are_refused() {
        for text in [
            "https://api.test\\@evil.test",
            "https://api.test#@evil.test",
            "https://api.test:443@evil.test",
            "https://api.test%2f@evil.test",
            "https://api.test%00.evil.test",
            "https://api\u{3002}test",
            "https://api.test.",
            "https://api.te\tst",
            "https://api.test:0",
            "https://api.test:65536",
            "https://api.test:",
            "https://",
            "ws://api.test",
            "unix:/run/x",
            "https://-a.test",
            "https://a..test",
        ] {
            assert!(Origin::parse(text).is_err(), "{text:?} was taken for an origin");
        }
    }
}
