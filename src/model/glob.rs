//! Globs: how configuration names several connections or customers at once.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use super::id::{ConnectionId, ConnectionRef};
use super::name::Key;

/// A text in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    text: Box<str>,
    kind: Kind,
}

/// What a glob comes to; looked at once, so that a request compares no more than it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `*`
    Everything,
    /// No `*` in it.
    Exact,
    /// The only `*` stands behind everything else.
    Prefix,
    /// Any other.
    Parts,
}

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let kind = match text.find('*') {
            None => Kind::Exact,
            Some(0) if text.len() == 1 => Kind::Everything,
            Some(at) if at + 1 == text.len() => Kind::Prefix,
            Some(_) => Kind::Parts,
        };
        Ok(Glob { text: text.into(), kind })
    }
}

impl Glob {
    /// The one that every text matches.
    pub fn everything() -> Self {
        Glob { text: "*".into(), kind: Kind::Everything }
    }

    /// Whether every text matches.
    pub fn is_everything(&self) -> bool {
        self.kind == Kind::Everything
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        match self.kind {
            Kind::Everything => true,
            Kind::Exact => *self.text == *text,
            Kind::Prefix => text.as_bytes().starts_with(&self.text.as_bytes()[..self.text.len() - 1]),
            Kind::Parts => self.matches_parts(text),
        }
    }

    /// Whether it names a connection, by its key or by its id. An id is meant by itself or by a glob that begins as ids do:
    /// any other would name connections by what nobody has chosen, such as `c*` every one.
    pub fn names_connection(&self, key: &str, id: &str) -> bool {
        self.matches(key) || self.looks_at_ids() && self.matches(id)
    }

    /// Whether every connection that another glob names is named by this one. `false` may also mean that it cannot be
    /// told.
    pub fn contains_connections_of(&self, other: &Glob) -> bool {
        self.contains(other) && (self.looks_at_ids() || !other.looks_at_ids())
    }

    fn looks_at_ids(&self) -> bool {
        self.is_everything() || self.text.starts_with(ConnectionId::PREFIX)
    }

    fn matches_parts(&self, text: &str) -> bool {
        let mut parts = self.text.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// Whether every text that matches another glob matches this one. A `*` of the other can only lie in what a `*` of
    /// this one stands for, and what it stands for lies there too. `false` may also mean that it cannot be told.
    pub fn contains(&self, other: &Glob) -> bool {
        self.matches(&other.text)
    }
}

/// Checks that a text can name connections: an id, a key, or a glob over them. What may stand in a key may stand in a
/// glob over keys.
pub fn check_connections(text: &str) -> Result<(), String> {
    if !text.contains('*') {
        let named: Result<ConnectionRef, _> = text.parse();
        return named.map(drop).map_err(|error| format!("neither an id, a key nor a glob: {error}"));
    }
    if text.len() > 256 {
        return Err("a glob has at most 256 characters".to_owned());
    }
    let fits = |part: &str| format!("k{part}").parse::<Key>().is_ok();
    match text.split('*').filter(|part| !part.is_empty()).all(fits) {
        true => Ok(()),
        false => Err("a glob has a-z, 0-9, _, - and * for any text".to_owned()),
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl serde::Serialize for Glob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        let matches = |glob: &str, text: &str| glob.parse::<Glob>().unwrap().matches(text);
        for (glob, text) in
            [("*", "stripe"), ("crm-*", "crm-eu"), ("*-eu", "crm-eu"), ("a*b*c", "aXbYc"), ("a", "a"), ("**", "")]
        {
            assert!(matches(glob, text), "{glob} {text}");
        }
        for (glob, text) in [("crm-*", "crm"), ("a", "ab"), ("", "a"), ("a*a", "a"), ("a*b*c", "acb")] {
            assert!(!matches(glob, text), "{glob} {text}");
        }
    }

    #[test]
    fn one_glob_is_inside_another() {
        let contains =
            |outer: &str, inner: &str| outer.parse::<Glob>().unwrap().contains(&inner.parse::<Glob>().unwrap());
        for (outer, inner) in [("*", "a*b"), ("crm-*", "crm-eu-*"), ("a*c", "ab*c"), ("a", "a"), ("*b*", "a*b*c")] {
            assert!(contains(outer, inner), "{outer} {inner}");
        }
        for (outer, inner) in
            [("crm-*", "*"), ("a", "*"), ("a*", "*a"), ("crm-eu-*", "crm-*"), ("a*b", "a*"), ("ab", "a*")]
        {
            assert!(!contains(outer, inner), "{outer} {inner}");
        }
    }

    #[test]
    fn ids_are_named_by_what_begins_as_they_do() {
        let glob = |text: &str| text.parse::<Glob>().unwrap();
        let id = "conn_01jabcdefghjkmnpqrstvwxyz0";
        for named in ["*", id, "conn_*", "conn_01*", "conn_*z0", "crm", "c*m"] {
            assert!(glob(named).names_connection("crm", id), "{named}");
        }
        for other in ["co*", "*1*", "*0", "conn*", "*_*", "?"] {
            assert!(!glob(other).names_connection("crm", id), "{other}");
        }
        for (outer, inner) in [("*", id), ("conn_01*", id), ("c*", "crm-*"), ("c*", "co*"), (id, id)] {
            assert!(glob(outer).contains_connections_of(&glob(inner)), "{outer} {inner}");
        }
        for (outer, inner) in [("c*", id), ("*1*", "conn_*1*"), ("conn*", "conn_*"), ("**", "*")] {
            assert!(!glob(outer).contains_connections_of(&glob(inner)), "{outer} {inner}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_inside_matches(outer in "[ab*]{0,6}", inner in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let (outer, inner): (Glob, Glob) = (outer.parse().unwrap(), inner.parse().unwrap());
            if outer.contains(&inner) && inner.matches(&text) {
                proptest::prop_assert!(outer.matches(&text), "{outer} {inner} {text}");
            }
        }
    }
}
