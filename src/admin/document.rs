//! Bodies: JSON documents, and JSON objects whose values are secret.
//!
//! A body is at most 1 MiB and at most 2,000 values, is declared as `application/json`, and has no key twice in one
//! object, which two readers could read differently. The bytes of a body are wiped when they have been read (what
//! hyper buffered of them is not ours to wipe). No error quotes any of them.

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::{Map, Number, Value};
use zeroize::Zeroizing;

use super::error::{AdminError, Unreadable};
use crate::clock;
use crate::model::document::{Problem, Problems, Reader};

const LARGEST: usize = 1 << 20;
const MOST_VALUES: usize = 2_000;
const LARGEST_BULK: usize = 8 << 20;
const MOST_BULK_VALUES: usize = 200_000;
/// How long a body may take; a megabyte comes in less.
const DEADLINE: Duration = Duration::from_secs(30);

/// A JSON document without a secret in it.
#[derive(Clone)]
pub(super) struct Document(Value);

impl<S: Sync> FromRequest<S> for Document {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AdminError> {
        parse(&collect(request, LARGEST).await?, MOST_VALUES)
    }
}

/// A JSON document of many things: up to 8 MiB and 200,000 values.
pub(super) struct Bulk(pub Document);

impl<S: Sync> FromRequest<S> for Bulk {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AdminError> {
        parse(&collect(request, LARGEST_BULK).await?, MOST_BULK_VALUES).map(Bulk)
    }
}

fn parse(bytes: &[u8], most: usize) -> Result<Document, AdminError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let left = Cell::new(most);
    let value = Tree(&left).deserialize(&mut json).map_err(|error| syntax(&error))?;
    json.end().map_err(|error| syntax(&error))?;
    Ok(Document(value))
}

impl Document {
    /// Reads the document; what `read` does not ask for is an unknown key. All mistakes at once.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> Option<T>) -> Result<T, AdminError> {
        let problems = Problems::default();
        let found = Reader::new(&self.0, "", &problems).and_then(|reader| {
            let found = read(&reader);
            reader.finish();
            found
        });
        match found {
            Some(found) if problems.is_empty() => Ok(found),
            _ => Err(AdminError::Invalid(problems.into_list())),
        }
    }

    /// Without keys that a view shows and nobody sets, so that what was read can be sent back.
    pub(super) fn without(mut self, keys: &[&str]) -> Self {
        if let Value::Object(table) = &mut self.0 {
            table.retain(|key, _| !keys.contains(&key.as_str()));
        }
        self
    }

    /// With a key that the request's target says already, where the document does not.
    pub(super) fn or(mut self, key: &str, text: Option<&str>) -> Self {
        if let (Value::Object(table), Some(text)) = (&mut self.0, text)
            && table.get(key).is_none_or(Value::is_null)
        {
            table.insert(key.to_owned(), Value::from(text));
        }
        self
    }

    /// The whole document.
    pub(super) fn value(&self) -> &Value {
        &self.0
    }
}

/// A JSON object of texts, each of which is a secret from here on.
pub(super) struct SecretFields(pub Vec<(String, Given)>);

/// What was given for a field.
pub(super) enum Given {
    /// A text.
    Text(SecretString),
    /// Something else; what, in a person's words.
    Other(&'static str),
}

impl<S: Sync> FromRequest<S> for SecretFields {
    type Rejection = AdminError;

    async fn from_request(request: Request, _: &S) -> Result<Self, AdminError> {
        let bytes = collect(request, LARGEST).await?;
        match serde_json::from_slice(&bytes).map_err(|error| syntax(&error))? {
            Top::Fields(fields) => Ok(SecretFields(fields)),
            Top::Other(found) => {
                let detail = format!("expected a table, found {found}");
                Err(AdminError::Invalid(vec![Problem { pointer: String::new(), detail }]))
            }
        }
    }
}

async fn collect(request: Request, largest: usize) -> Result<Zeroizing<Vec<u8>>, AdminError> {
    check_media(request.headers())?;
    read_body(request.into_body(), largest).await
}

/// The bytes of a body, whatever they are.
pub(super) async fn collect_body(body: axum::body::Body) -> Result<Zeroizing<Vec<u8>>, AdminError> {
    read_body(body, LARGEST).await
}

async fn read_body(mut body: axum::body::Body, largest: usize) -> Result<Zeroizing<Vec<u8>>, AdminError> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > largest {
        return Err(AdminError::TooLarge);
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(announced));
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|_| AdminError::Unreadable(Unreadable::Malformed("the body does not end where it says")))?;
            if let Ok(data) = frame.into_data() {
                append(&mut bytes, &data, largest)?;
            }
        }
        Ok::<(), AdminError>(())
    };
    clock::timeout(DEADLINE, reading).await.map_err(|_| AdminError::RequestTimeout)??;
    Ok(bytes)
}

/// Grows by hand: a vector that grows by itself leaves its old bytes behind.
fn append(bytes: &mut Zeroizing<Vec<u8>>, data: &[u8], largest: usize) -> Result<(), AdminError> {
    let length = bytes.len() + data.len();
    if length > largest {
        return Err(AdminError::TooLarge);
    }
    if length > bytes.capacity() {
        let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two()));
        larger.extend_from_slice(bytes);
        *bytes = larger;
    }
    bytes.extend_from_slice(data);
    Ok(())
}

fn check_media(headers: &HeaderMap) -> Result<(), AdminError> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter().map(|value| value.to_str().unwrap_or_default());
    let essence = types.next().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json") && types.next().is_none();
    let is_plain = headers.get_all(header::CONTENT_ENCODING).iter().all(|coding| coding == "identity");
    if is_json && is_plain { Ok(()) } else { Err(AdminError::MediaType) }
}

const TWICE: &str = "a key stands twice in one object";
const TOO_MANY: &str = "it has too many values";

/// The error's own text is not told: it may quote the document.
fn syntax(error: &serde_json::Error) -> AdminError {
    AdminError::Syntax(match error.classify() {
        Category::Eof => "it ends early",
        Category::Data if error.to_string().starts_with(TWICE) => TWICE,
        Category::Data => TOO_MANY,
        Category::Syntax | Category::Io => "it is not written as RFC 8259 says, or too deep",
    })
}

/// Reads any value, with a bound on how many there are.
struct Tree<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1).ok_or_else(|| D::Error::custom(TOO_MANY))?;
        self.0.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Tree(self.0))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut table = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Tree(self.0))?;
            if table.insert(key, value).is_some() {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Value::Object(table))
    }
}

/// The outermost value of a body of secrets.
enum Top {
    Fields(Vec<(String, Given)>),
    Other(&'static str),
}

/// Declares how everything but a text and a table is read: as something else, which is named.
macro_rules! others {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON value")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::Other("nothing"))
        }

        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok(Self::Value::Other("true or false"))
        }

        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok(Self::Value::Other("a number"))
        }

        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok(Self::Value::Other("a number"))
        }

        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok(Self::Value::Other("a number"))
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::Other("a list"))
        }
    };
}

struct TopVisitor;

impl<'de> Visitor<'de> for TopVisitor {
    type Value = Top;

    others!();

    fn visit_str<E>(self, _: &str) -> Result<Top, E> {
        Ok(Top::Other("a text"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Top, A::Error> {
        let mut fields: Vec<(String, Given)> = Vec::new();
        while let Some((key, given)) = entries.next_entry::<String, Given>()? {
            if fields.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(TWICE));
            }
            if fields.len() == 100 {
                return Err(A::Error::custom(TOO_MANY));
            }
            fields.push((key, given));
        }
        Ok(Top::Fields(fields))
    }
}

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TopVisitor)
    }
}

struct GivenVisitor;

impl<'de> Visitor<'de> for GivenVisitor {
    type Value = Given;

    others!();

    fn visit_str<E>(self, text: &str) -> Result<Given, E> {
        Ok(Given::Text(SecretString::from(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Given, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Given::Other("a table"))
    }
}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(GivenVisitor)
    }
}
