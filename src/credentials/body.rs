//! Putting an injection into a request's body: a form, or a JSON document.
//!
//! The caller's document is not read into values and written again: what is not replaced keeps its bytes, so numbers
//! keep their digits and keys their order.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Injection;
use super::apply::names_injected;

/// A media type that an injection can be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/x-www-form-urlencoded`
    Form,
    /// `application/json` or `…+json`
    Json,
}

impl Media {
    /// The media type to declare where the request had no body.
    pub const fn as_str(self) -> &'static str {
        match self {
            Media::Form => "application/x-www-form-urlencoded",
            Media::Json => "application/json",
        }
    }

    /// Whether a `Content-Type` is of this media type, whatever its parameters.
    pub fn matches(self, content_type: &str) -> bool {
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match self {
            Media::Form => essence == self.as_str(),
            Media::Json => {
                essence == self.as_str() || essence.starts_with("application/") && essence.ends_with("+json")
            }
        }
    }
}

/// Why nothing can be put into a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is no JSON document.
    #[error("the body is not a JSON document")]
    Syntax,
    /// A key stands twice in one object, so that two readers could see two documents.
    #[error("the body has an object with the same key twice")]
    Duplicate,
    /// There is something other than an object on the way to the place.
    #[error("the place in the body for the credential is not inside an object")]
    Place,
}

impl Injection {
    /// The media type of bodies that this injection fills; `None` where it fills none.
    pub fn media(&self) -> Option<Media> {
        let elsewhere = self.elsewhere();
        if !elsewhere.json.is_empty() {
            Some(Media::Json)
        } else if !elsewhere.form.is_empty() {
            Some(Media::Form)
        } else {
            None
        }
    }

    /// The body with the injection in it. An empty body becomes the document.
    pub fn fill_body(&self, media: Media, body: &[u8]) -> Result<Vec<u8>, BodyError> {
        match media {
            Media::Form => Ok(self.fill_form(body)),
            Media::Json => self.fill_json(body),
        }
    }

    fn fill_form(&self, body: &[u8]) -> Vec<u8> {
        let injected = &self.elsewhere().form;
        let kept: Vec<&[u8]> = body.split(|b| *b == b'&').filter(|pair| !names_injected(pair, injected)).collect();
        let mut out = kept.join(&b'&');
        for pair in injected {
            if !out.is_empty() && !out.ends_with(b"&") {
                out.push(b'&');
            }
            out.extend_from_slice(pair.value.as_bytes());
        }
        out
    }

    fn fill_json(&self, body: &[u8]) -> Result<Vec<u8>, BodyError> {
        let text = std::str::from_utf8(body).map_err(|_| BodyError::Syntax)?;
        let text = if text.trim().is_empty() { "{}" } else { text };
        check_unique_keys(text)?;
        let mut document = text.to_owned();
        for (tokens, value) in &self.elsewhere().json {
            document = put(&document, tokens, value)?;
        }
        Ok(document.into_bytes())
    }
}

/// Puts a text at a place, creating objects on the way.
fn put(document: &str, tokens: &[Box<str>], value: &str) -> Result<String, BodyError> {
    let Some((token, deeper)) = tokens.split_first() else {
        return serde_json::to_string(value).map_err(|_| BodyError::Syntax);
    };
    if document.trim_start().starts_with('[') {
        return put_in_list(document, token, deeper, value);
    }
    if !document.trim_start().starts_with('{') {
        return Err(BodyError::Place);
    }
    let members: Members<'_> = serde_json::from_str(document).map_err(|_| BodyError::Syntax)?;
    let mut out = String::from("{");
    let mut placed = false;
    let mut push = |key: &str, text: &str| {
        out.push_str(if out.len() > 1 { "," } else { "" });
        out.push_str(&serde_json::to_string(key).unwrap_or_default());
        out.push(':');
        out.push_str(text);
    };
    for (key, raw) in members.0 {
        if *key == **token {
            push(&key, &put(raw.get(), deeper, value)?);
            placed = true;
        } else {
            push(&key, raw.get());
        }
    }
    if !placed {
        push(token, &put("{}", deeper, value)?);
    }
    out.push('}');
    Ok(out)
}

fn put_in_list(document: &str, token: &str, deeper: &[Box<str>], value: &str) -> Result<String, BodyError> {
    let items: Vec<&RawValue> = serde_json::from_str(document).map_err(|_| BodyError::Syntax)?;
    let index: usize = token.parse().map_err(|_| BodyError::Place)?;
    if index >= items.len() {
        return Err(BodyError::Place);
    }
    let mut texts: Vec<String> = items.iter().map(|item| item.get().to_owned()).collect();
    texts[index] = put(&texts[index], deeper, value)?;
    Ok(format!("[{}]", texts.join(",")))
}

/// The members of one object in order, their values as text.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

const DUPLICATE: &str = "sidekey: the same key twice";

/// Refuses a document in which any object has a key twice.
fn check_unique_keys(text: &str) -> Result<(), BodyError> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = UniqueKeys.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|error| if error.to_string().contains(DUPLICATE) { BodyError::Duplicate } else { BodyError::Syntax })
}

/// Reads any value, keeping nothing but the keys of the objects it is inside of.
struct UniqueKeys;

impl<'de> DeserializeSeed<'de> for UniqueKeys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(UniqueKeys)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom(DUPLICATE));
            }
            map.next_value_seed(UniqueKeys)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::injection::{Elsewhere, Pair};
    use super::*;

    fn json(pointer: &str, body: &str) -> Result<String, BodyError> {
        let tokens = pointer[1..].split('/').map(Into::into).collect();
        let injection = Injection::of_elsewhere(Elsewhere {
            json: vec![(tokens, Zeroizing::new("k\"ey".into()))],
            ..Elsewhere::default()
        });
        injection.fill_body(Media::Json, body.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_json_body_keeps_its_bytes_around_the_injected_member() {
        let body = r#"{"b": 1.10, "key":"evil", "a":[123456789012345678901234567890 , "é\u00e9"]}"#;
        assert_eq!(
            json("/key", body).unwrap(),
            r#"{"b":1.10,"key":"k\"ey","a":[123456789012345678901234567890 , "é\u00e9"]}"#
        );
        assert_eq!(json("/auth/key", "").unwrap(), r#"{"auth":{"key":"k\"ey"}}"#);
        assert_eq!(json("/auth/key", r#"{"auth":{"x":1}}"#).unwrap(), r#"{"auth":{"x":1,"key":"k\"ey"}}"#);
        assert_eq!(json("/0/key", r#"[{"x":1}]"#).unwrap(), r#"[{"x":1,"key":"k\"ey"}]"#);
    }

    #[test]
    fn documents_that_two_readers_could_read_differently_are_refused() {
        assert_eq!(json("/key", r#"{"a":1,"\u0061":2}"#), Err(BodyError::Duplicate));
        assert_eq!(json("/key", r#"{"x":[{"a":1,"a":2}]}"#), Err(BodyError::Duplicate));
        assert_eq!(json("/key", "{} {}"), Err(BodyError::Syntax));
        assert_eq!(json("/key", "[1]"), Err(BodyError::Place));
        assert_eq!(json("/key", "\"text\""), Err(BodyError::Place));
        assert_eq!(json("/key", &"[".repeat(100_000)), Err(BodyError::Syntax));
    }

    #[test]
    fn a_form_body_has_the_injected_field_once() {
        let pair = Pair { name: "api key".into(), value: Zeroizing::new("api%20key=k".into()) };
        let injection = Injection::of_elsewhere(Elsewhere { form: vec![pair], ..Elsewhere::default() });
        let fill = |body: &str| String::from_utf8(injection.fill_body(Media::Form, body.as_bytes()).unwrap()).unwrap();
        assert_eq!(fill("a=1&api+key=evil&b=%2F&api%20key=e"), "a=1&b=%2F&api%20key=k");
        assert_eq!(fill(""), "api%20key=k");
        assert_eq!(fill("&a&&b&"), "&a&&b&api%20key=k");
    }
}
