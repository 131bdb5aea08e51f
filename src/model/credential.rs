//! Credentials: the secret material of one connection in one environment, and references to secrets in it.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::SecretString;

use super::name::{FieldName, SecretKey};

/// The fields of a credential. It can be neither cloned nor serialized, and its `Debug` shows names only.
#[derive(Default)]
pub struct Credential {
    fields: BTreeMap<FieldName, SecretString>,
}

impl Credential {
    /// A credential of these fields.
    pub fn new(fields: BTreeMap<FieldName, SecretString>) -> Self {
        Credential { fields }
    }

    /// Every field with its value.
    pub fn fields(&self) -> &BTreeMap<FieldName, SecretString> {
        &self.fields
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.fields.keys()).finish()
    }
}

/// A `@@SECRET:` that is not followed by a key and `@@`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a reference to a secret is written @@SECRET:KEY@@, with A-Z, 0-9 and _ in the key")]
pub struct BadReference;

const OPEN: &str = "@@SECRET:";
const CLOSE: &str = "@@";

/// A piece of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text as it stands.
    Text(&'a str),
    /// The value of a secret.
    Secret(SecretKey),
}

/// Whether a value has anything in it that [`pieces`] splits at.
pub fn refers(value: &str) -> bool {
    // Most hold no such character at all, which is seen much faster.
    value.contains('@') && value.contains(OPEN)
}

/// Splits a credential's value at its references to secrets. A secret's own value is never split again, so a
/// reference cannot lead to another.
pub fn pieces(value: &str) -> Result<Vec<Piece<'_>>, BadReference> {
    let mut pieces = Vec::new();
    let mut rest = value;
    while let Some(open) = rest.find(OPEN) {
        if open > 0 {
            pieces.push(Piece::Text(&rest[..open]));
        }
        let after = &rest[open + OPEN.len()..];
        let close = after.find(CLOSE).ok_or(BadReference)?;
        pieces.push(Piece::Secret(after[..close].parse().map_err(|_| BadReference)?));
        rest = &after[close + CLOSE.len()..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_the_whole_value_or_a_part() {
        let key: SecretKey = "A_1".parse().unwrap();
        assert_eq!(pieces("@@SECRET:A_1@@").unwrap(), [Piece::Secret(key.clone())]);
        assert_eq!(
            pieces("x-@@SECRET:A_1@@-y@@").unwrap(),
            [Piece::Text("x-"), Piece::Secret(key), Piece::Text("-y@@")]
        );
        for text in ["@@SECRET:", "@@SECRET:a@@", "@@SECRET:@@", "@@SECRET:A", "@@SECRET:A @@"] {
            assert!(pieces(text).is_err(), "{text}");
        }
    }

    #[test]
    fn debug_shows_names_only() {
        let name: FieldName = "token".parse().unwrap();
        let credential = Credential::new([(name, SecretString::from("canary"))].into());
        assert_eq!(format!("{credential:?}"), "{FieldName(\"token\")}");
    }
}
