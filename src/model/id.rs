//! Ids: prefixed ULIDs in lower case (`conn_01j…`), and the reference by id or key that people write.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::name::{Key, NameError};

/// Every prefix an id or API key can have. No key begins with one, so that a reference can be told apart by its text.
const PREFIXES: [&str; 7] = ["org_", "intg_", "conn_", "sec_", "usr_", "evt_", "apk_"];

/// Whether a text begins as an id does.
pub fn has_id_prefix(text: &[u8]) -> bool {
    PREFIXES.iter().any(|prefix| text.starts_with(prefix.as_bytes()))
}

/// The alphabet of ULIDs (Crockford's base 32) in lower case.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The value of each byte that is in the alphabet, and [`NO_DIGIT`] for the others.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut at = 0;
    while at < ALPHABET.len() {
        values[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    values
};

const NO_DIGIT: u8 = u8::MAX;

/// How many characters of five bits hold 128 bits.
const DIGITS: usize = 26;

/// Writes a number, the most significant bits first.
fn encode(number: u128, digits: &mut [u8]) {
    for (at, digit) in digits.iter_mut().rev().enumerate() {
        *digit = ALPHABET[(number >> (at * 5)) as usize % ALPHABET.len()];
    }
}

/// Reads 26 characters of five bits without taking memory. Every number has one spelling only: nothing stands for
/// another character, and what is beyond 128 bits is refused.
fn decode(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    if bytes.len() != DIGITS || bytes[0] > b'7' {
        return None;
    }
    bytes.iter().try_fold(0, |number: u128, byte| match VALUES[usize::from(*byte)] {
        NO_DIGIT => None,
        value => Some(number << 5 | u128::from(value)),
    })
}

/// Declares an id type with its prefix.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// What stands before the 26 characters.
            pub const PREFIX: &'static str = $prefix;

            /// A new id: time-ordered, 80 random bits.
            pub fn generate() -> Self {
                $name(Ulid::generate().0)
            }

            /// Its 128 bits, the most significant first.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The same id again.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                $name(u128::from_be_bytes(bytes))
            }

            /// Shows it as it is written to somebody who need not keep it: takes no memory.
            pub fn with_text<T>(self, read: impl FnOnce(&str) -> T) -> T {
                const LENGTH: usize = $prefix.len() + DIGITS;
                let mut text = [0; LENGTH];
                let (prefix, digits) = text.split_at_mut($prefix.len());
                prefix.copy_from_slice($prefix.as_bytes());
                encode(self.0, digits);
                // Letters and digits of ASCII: it always is one.
                read(str::from_utf8(&text).unwrap_or_default())
            }

            /// The id of something declared in a file: always the same for the same name, so that logs, caches and
            /// callers can rely on it across restarts.
            pub fn derived(name: &str) -> Self {
                let digest = Sha256::digest([$prefix.as_bytes(), name.as_bytes()].concat());
                let mut bytes = [0; 16];
                bytes.copy_from_slice(&digest[..16]);
                $name(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // In one piece, so that making a text of it takes memory once.
                self.with_text(|text| f.write_str(text))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                const WRONG: NameError = NameError(concat!("an id is ", $prefix, " and 26 characters in lower case"));
                text.strip_prefix($prefix).and_then(decode).map($name).ok_or(WRONG)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

id!(
    /// An organization, the tenant.
    OrganizationId, "org_"
);
id!(
    /// An integration.
    IntegrationId, "intg_"
);
id!(
    /// A connection.
    ConnectionId, "conn_"
);
id!(
    /// A secret.
    SecretId, "sec_"
);
id!(
    /// A user.
    UserId, "usr_"
);
id!(
    /// An audit event, or a request: its id in answers and logs.
    EventId, "evt_"
);
id!(
    /// The public part of an API key.
    ApiKeyId, "apk_"
);
id!(
    /// The public part of a session's token.
    SessionId, "ses_"
);
id!(
    /// The public part of a one-time link's token.
    LinkId, "lnk_"
);

/// A connection as callers name it: by id or by key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionRef {
    /// `conn_01j…`
    Id(ConnectionId),
    /// `stripe`
    Key(Key),
}

/// A connection as a request names it: borrowed, and a key is not yet known to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reference<'a> {
    /// `conn_01j…`
    Id(ConnectionId),
    /// `stripe`, or anything else that is no id: bytes, because that they are text needs no proof to be looked up.
    Key(&'a [u8]),
}

impl<'a> Reference<'a> {
    /// Reads a text without taking memory; `None` for what begins as an id and is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        match text.starts_with(ConnectionId::PREFIX) {
            true => text.parse().ok().map(Reference::Id),
            false => Some(Reference::Key(text.as_bytes())),
        }
    }

    /// The same of what is an id or could be a key, and nothing else.
    pub fn checked(bytes: &'a [u8]) -> Result<Self, NameError> {
        if bytes.starts_with(ConnectionId::PREFIX.as_bytes()) {
            str::from_utf8(bytes).unwrap_or_default().parse().map(Reference::Id)
        } else {
            Key::check(bytes).map(|()| Reference::Key(bytes))
        }
    }
}

impl<'a> From<&'a ConnectionRef> for Reference<'a> {
    fn from(reference: &'a ConnectionRef) -> Self {
        match reference {
            ConnectionRef::Id(id) => Reference::Id(*id),
            ConnectionRef::Key(key) => Reference::Key(key.as_str().as_bytes()),
        }
    }
}

impl TryFrom<Reference<'_>> for ConnectionRef {
    type Error = NameError;

    fn try_from(reference: Reference<'_>) -> Result<Self, NameError> {
        match reference {
            Reference::Id(id) => Ok(ConnectionRef::Id(id)),
            Reference::Key(bytes) => str::from_utf8(bytes).unwrap_or_default().parse().map(ConnectionRef::Key),
        }
    }
}

impl FromStr for ConnectionRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.starts_with(ConnectionId::PREFIX) {
            text.parse().map(ConnectionRef::Id)
        } else {
            text.parse().map(ConnectionRef::Key)
        }
    }
}

impl fmt::Display for ConnectionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionRef::Id(id) => id.fmt(f),
            ConnectionRef::Key(key) => key.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_written() {
        let id = ConnectionId::generate();
        let text = id.to_string();
        assert_eq!(text.len(), "conn_".len() + 26);
        assert_eq!(text.parse::<ConnectionId>().unwrap(), id);
        assert_eq!(text.to_lowercase(), text);
        assert!(text.to_uppercase().parse::<ConnectionId>().is_err());
        assert!("conn_01".parse::<ConnectionId>().is_err());
        assert_eq!(ConnectionId::derived("a"), ConnectionId::derived("a"));
        assert_ne!(ConnectionId::derived("a"), ConnectionId::derived("b"));
        let largest = ConnectionId(u128::MAX);
        assert_eq!(largest.to_string().parse::<ConnectionId>().unwrap(), largest);
        for other in ["8", "i", "l", "o", "u", "-", "A"] {
            let text = format!("conn_{other}{}", "0".repeat(25));
            assert!(text.parse::<ConnectionId>().is_err(), "{text}");
        }
    }
}
