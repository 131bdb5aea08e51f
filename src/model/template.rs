//! Templates: a text with `{{ name }}` placeholders, each with filters `base64` or `urlencode`.
//!
//! A template is read when an integration is stored and rendered when a credential is loaded: never on the hot path,
//! and never from anything a caller sent. It has no loops, no expressions and no nesting on purpose: what a template
//! can do to a credential must be seen at a glance. Rendering an undefined name is an error, not an empty text.

use std::str::FromStr;

use base64::Engine;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::name::FieldName;

/// Everything but the unreserved characters of RFC 3986 §2.3.
pub const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text with placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    source: Box<str>,
    segments: Box<[Segment]>,
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Copied as it is.
    Literal(Box<str>),
    /// Replaced by a field's value, filtered from left to right.
    Field {
        /// Whose value.
        name: FieldName,
        /// What is done to it.
        filters: Box<[Filter]>,
    },
}

/// What a template can do to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Standard alphabet with padding (RFC 4648 §4).
    Base64,
    /// Percent-encodes everything but unreserved characters (RFC 3986 §2.1).
    UrlEncode,
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A `{{` without its `}}`, or the reverse.
    #[error("a placeholder is written {{{{ name }}}}; one brace pair is not closed")]
    Unclosed,
    /// `{%` or `{#`.
    #[error("only {{{{ name }}}} and the filters base64 and urlencode are known; there are no statements")]
    Statement,
    /// What stands between the braces is no field name.
    #[error("`{0}` is not a field name (a-z, 0-9 and _)")]
    Name(String),
    /// A filter that does not exist.
    #[error("the filter `{0}` is unknown; there are base64 and urlencode")]
    Filter(String),
}

/// A template asked for a field that has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field `{0}` has no value")]
pub struct Undefined(pub FieldName);

impl Template {
    /// The text as it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The pieces in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The fields it asks for.
    pub fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Field { name, .. } => Some(name),
            Segment::Literal(_) => None,
        })
    }

    /// Renders it; the result may hold a secret and wipes itself.
    pub fn render<'v>(&self, value: impl Fn(&FieldName) -> Option<&'v str>) -> Result<Zeroizing<String>, Undefined> {
        // Room for all of it, so that the text never grows and leaves a copy behind.
        let room = self.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => text.len(),
            Segment::Field { name, filters } => {
                value(name).unwrap_or_default().len() * 3usize.pow(filters.len() as u32)
            }
        });
        let mut out = Zeroizing::new(String::with_capacity(room.sum()));
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Field { name, filters } => {
                    let value = value(name).ok_or_else(|| Undefined(name.clone()))?;
                    match filters.is_empty() {
                        true => out.push_str(value),
                        false => out.push_str(&filter(value, filters)),
                    }
                }
            }
        }
        Ok(out)
    }
}

fn filter(value: &str, filters: &[Filter]) -> Zeroizing<String> {
    filters.iter().fold(Zeroizing::new(value.to_owned()), |value, filter| {
        Zeroizing::new(match filter {
            Filter::Base64 => base64::engine::general_purpose::STANDARD.encode(value.as_bytes()),
            Filter::UrlEncode => utf8_percent_encode(&value, RESERVED).to_string(),
        })
    })
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(source: &str) -> Result<Self, TemplateError> {
        if source.contains("{%") || source.contains("{#") {
            return Err(TemplateError::Statement);
        }
        let mut segments = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find("{{") {
            let (literal, placeholder) = rest.split_at(open);
            let close = placeholder.find("}}").ok_or(TemplateError::Unclosed)?;
            push_literal(&mut segments, literal)?;
            segments.push(parse_placeholder(&placeholder[2..close])?);
            rest = &placeholder[close + 2..];
        }
        push_literal(&mut segments, rest)?;
        Ok(Template { source: source.into(), segments: segments.into() })
    }
}

fn push_literal(segments: &mut Vec<Segment>, text: &str) -> Result<(), TemplateError> {
    if text.contains("}}") {
        return Err(TemplateError::Unclosed);
    }
    if !text.is_empty() {
        segments.push(Segment::Literal(text.into()));
    }
    Ok(())
}

fn parse_placeholder(text: &str) -> Result<Segment, TemplateError> {
    let mut parts = text.split('|').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let name = name.parse().map_err(|_| TemplateError::Name(name.escape_debug().to_string()))?;
    let filters = parts
        .map(|part| match part {
            "base64" => Ok(Filter::Base64),
            "urlencode" => Ok(Filter::UrlEncode),
            other => Err(TemplateError::Filter(other.escape_debug().to_string())),
        })
        .collect::<Result<_, _>>()?;
    Ok(Segment::Field { name, filters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, String> {
        let template: Template = source.parse().map_err(|error: TemplateError| error.to_string())?;
        let value = |name: &FieldName| match name.as_str() {
            "user" => Some("a b"),
            "hostile" => Some("{{ user }}"),
            _ => None,
        };
        template.render(value).map(|text| text.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_replaced_and_filtered_once() {
        assert_eq!(render("Token {{ user }}").unwrap(), "Token a b");
        assert_eq!(render("{{user|urlencode|base64}}").unwrap(), "YSUyMGI=");
        assert_eq!(render("{{ hostile }}").unwrap(), "{{ user }}", "a value is never read as a template");
        assert_eq!(render("{token}").unwrap(), "{token}");
    }

    #[test]
    fn what_cannot_be_rendered_is_an_error() {
        for source in ["{{ nobody }}", "{{ user", "user }}", "{{ }}", "{% if a %}", "{{ user | upper }}", "{{ a.b }}"] {
            assert!(render(source).is_err(), "{source}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics_and_literals_are_kept(text in "\\PC{0,60}") {
            if let Ok(template) = text.parse::<Template>() {
                let rendered = template.render(|_| Some("")).unwrap();
                proptest::prop_assert!(template.fields().next().is_some() || rendered.as_str() == text);
            }
        }
    }
}
