//! Ids: prefixed ULIDs in lower case (`conn_01j…`), and the reference by id or key that people write.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use ulid::Ulid;

use super::name::{Key, NameError};

/// Every prefix an id or API key can have. No key begins with one, so that a reference can be told apart by its text.
const PREFIXES: [&str; 7] = ["org_", "intg_", "conn_", "sec_", "usr_", "evt_", "apk_"];

/// Whether a text begins as an id does.
pub fn has_id_prefix(text: &str) -> bool {
    PREFIXES.iter().any(|prefix| text.starts_with(prefix))
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
                let mut text = Ulid(self.0).to_string();
                text.make_ascii_lowercase();
                write!(f, concat!($prefix, "{}"), text)
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
                let ulid = text.strip_prefix($prefix).ok_or(WRONG)?;
                if ulid.len() != 26 || ulid.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(WRONG);
                }
                let id = Ulid::from_string(&ulid.to_ascii_uppercase()).map(|ulid| $name(ulid.0)).map_err(|_| WRONG)?;
                // The decoder drops what is beyond 128 bits: every id has one spelling only.
                if id.to_string() == text { Ok(id) } else { Err(WRONG) }
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

/// A connection as callers name it: by id or by key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionRef {
    /// `conn_01j…`
    Id(ConnectionId),
    /// `stripe`
    Key(Key),
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
    }
}
