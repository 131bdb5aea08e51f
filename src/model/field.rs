//! Fields: what a person fills in for a connection or a credential.

use std::fmt;

use regex_lite::Regex;

use super::document::Reader;
use super::name::FieldName;

/// One field of an integration or auth method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As templates name it.
    pub name: FieldName,
    /// As a person reads it.
    pub label: Option<String>,
    /// What a value must look like, as a whole.
    pub pattern: Option<Pattern>,
    /// Whether the value is secret: it is then part of a credential and never shown.
    pub secret: bool,
    /// Whether it must be given where it has no default.
    pub required: bool,
    /// What is meant where nothing is given.
    pub default: Option<String>,
}

/// A regular expression that a whole value must match. It runs in linear time.
#[derive(Clone)]
pub struct Pattern {
    source: Box<str>,
    regex: Regex,
}

impl Pattern {
    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// As it was written, without anchors.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl std::str::FromStr for Pattern {
    type Err = &'static str;

    fn from_str(source: &str) -> Result<Self, &'static str> {
        let anchored = format!(r"\A(?:{source})\z");
        let regex = Regex::new(&anchored)
            .map_err(|_| "expected a regular expression; it is matched against the whole value")?;
        Ok(Pattern { source: source.into(), regex })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
    }
}

impl Field {
    /// A field that templates need and nobody has to declare, such as the `token` of `bearer`.
    pub fn implied(name: FieldName, secret: bool) -> Self {
        Field { name, label: None, pattern: None, secret, required: true, default: None }
    }

    /// Reads `{ name, label, pattern, secret, required, default }`.
    pub fn read(reader: Reader<'_>) -> Option<Self> {
        let name = reader.required("name");
        let label = reader.label("label", 200).map(str::to_owned);
        let pattern: Option<Pattern> = reader.parsed("pattern");
        let secret = reader.flag("secret").unwrap_or(false);
        let default = reader.text("default").map(str::to_owned);
        let required = reader.flag("required").unwrap_or(true);
        if let (Some(pattern), Some(default)) = (&pattern, &default)
            && !pattern.matches(default)
        {
            reader.problem("default", "the default does not match the field's own pattern");
        }
        if default.as_deref().is_some_and(super::credential::refers) {
            reader.problem("default", "a default is plain text; secrets are referred to in credentials only");
        }
        if secret && default.is_some() {
            reader.problem("default", "a secret field has no default: an integration holds no secret");
        }
        reader.finish();
        Some(Field { name: name?, label, pattern, secret, required, default })
    }

    /// Checks a value that was given for this field.
    pub fn check(&self, value: &str) -> Result<(), String> {
        match &self.pattern {
            Some(pattern) if !pattern.matches(value) => {
                Err(format!("the value of `{}` does not match {}", self.name, pattern.source()))
            }
            _ => Ok(()),
        }
    }
}
