//! Globs: how configuration names several connections or customers at once.

use std::convert::Infallible;
use std::str::FromStr;

/// A text in which `*` stands for any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Glob(text.into()))
    }
}

impl Glob {
    /// Whether every text matches.
    pub fn is_everything(&self) -> bool {
        *self.0 == *"*"
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        if self.is_everything() {
            return true;
        }
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
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
}
