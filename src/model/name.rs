//! Names that people choose: keys, environments, customers, secrets, fields.
//!
//! Each is a text that was checked once; whoever holds one need not check it again. They are cheap to clone.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::id;

/// Why a text is no such name: a sentence that says what one looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub(crate) &'static str);

/// `[a-z0-9][a-z0-9_-]{0,62}`: a look into a table for each byte, because a request's key is checked each time.
fn is_slug(text: &[u8]) -> bool {
    const IN_SLUGS: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < table.len() {
            table[byte] = matches!(byte as u8, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            byte += 1;
        }
        table
    };
    text.len() <= 63
        && text.first().is_some_and(|byte| !matches!(byte, b'_' | b'-'))
        && text.iter().all(|byte| IN_SLUGS[usize::from(*byte)])
}

/// Declares a checked name: the type, its rule as a predicate, and the sentence that explains the rule.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $rule:expr, $explanation:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text as it was given.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Says what is wrong with a text that is no such name, without taking memory for one that is.
            pub fn check(text: &[u8]) -> Result<(), NameError> {
                let rule: fn(&[u8]) -> bool = $rule;
                if rule(text) { Ok(()) } else { Err(NameError($explanation)) }
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $name::check(text.as_bytes()).map(|()| $name(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

name!(
    /// The key of a connection, organization or integration: `[a-z0-9][a-z0-9_-]{0,62}`, no id prefix in front.
    Key,
    |text| is_slug(text) && !id::has_id_prefix(text),
    "a key has 1 to 63 of a-z, 0-9, _ and -, begins with a letter or digit, and not with an id prefix such as conn_"
);

name!(
    /// The name of an environment: `[a-z0-9][a-z0-9_-]{0,62}`.
    EnvironmentName,
    is_slug,
    "an environment has 1 to 63 of a-z, 0-9, _ and -, and begins with a letter or digit"
);

name!(
    /// The opaque name of a customer: `[A-Za-z0-9._:-]{1,128}`.
    CustomerName,
    |text| {
        (1..=128).contains(&text.len())
            && text.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
    },
    "a customer has 1 to 128 letters, digits and . _ : -"
);

name!(
    /// The key of a secret, as in `@@SECRET:STRIPE_API_KEY@@`: `[A-Z0-9_]{1,64}`.
    SecretKey,
    |text| {
        (1..=64).contains(&text.len())
            && text.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_')
    },
    "a secret's key has 1 to 64 of A-Z, 0-9 and _"
);

name!(
    /// The name of a field of an integration or auth method: `[a-z][a-z0-9_]{0,62}`.
    FieldName,
    |text| {
        let mut bytes = text.iter();
        text.len() <= 63
            && bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_')
    },
    "a field has 1 to 63 of a-z, 0-9 and _, and begins with a letter"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_taken_for_an_id() {
        assert!("stripe".parse::<Key>().is_ok());
        assert!("conn-00000000-00000".parse::<Key>().is_ok());
        for text in ["", "Stripe", "_a", "conn_x", "org_", "apk_1", &"a".repeat(64), "a b", "é"] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }
}
