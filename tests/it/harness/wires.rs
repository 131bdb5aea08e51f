//! Which versions of HTTP the two sides of Sidekey speak in this run of the tests.
//!
//! `SIDEKEY_WIRES` says so for every test that is about neither: `1-1` (where it is not set), `1-2`, `2-1` or `2-2`,
//! the client's version before the upstream's. It is read here and nowhere else. What it decides: the protocol of
//! [`Client`](super::client::Client) and of the one-shot requests beside it, and what a [`Sink`](super::Sink) that
//! speaks TLS negotiates. A test whose subject is one version says so: `Raw`, `H2`, `Sink::https1`, `Sink::https2`.

use std::sync::OnceLock;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: with prior knowledge from clients, by ALPN to upstreams.
    Http2,
}

impl Version {
    /// Its name in ALPN.
    pub fn alpn(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

/// The pair of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wires {
    /// What clients speak to Sidekey.
    pub client: Version,
    /// What upstreams agree on with Sidekey.
    pub upstream: Version,
}

/// The pair of this run; panics where the variable names none.
#[expect(clippy::disallowed_methods, reason = "what the tests speak is no configuration of the server")]
pub fn wires() -> Wires {
    static WIRES: OnceLock<Wires> = OnceLock::new();
    *WIRES.get_or_init(|| match std::env::var("SIDEKEY_WIRES") {
        Ok(name) => named(&name).unwrap_or_else(|| panic!("SIDEKEY_WIRES={name}: it is 1-1, 1-2, 2-1 or 2-2")),
        Err(std::env::VarError::NotPresent) => Wires { client: Version::Http1, upstream: Version::Http1 },
        Err(error) => panic!("SIDEKEY_WIRES: {error}"),
    })
}

fn named(name: &str) -> Option<Wires> {
    let version = |digit| match digit {
        "1" => Some(Version::Http1),
        "2" => Some(Version::Http2),
        _ => None,
    };
    let (client, upstream) = name.split_once('-')?;
    Some(Wires { client: version(client)?, upstream: version(upstream)? })
}

#[cfg(test)]
mod tests {
    use super::{Version, named};

    #[test]
    fn a_pair_is_named_by_two_digits() {
        let pair = named("1-2").expect("a pair");
        assert_eq!((pair.client, pair.upstream), (Version::Http1, Version::Http2));
        assert!(["", "1", "12", "1-3", "2-2-1", "h2-h2"].into_iter().all(|name| named(name).is_none()));
    }
}
