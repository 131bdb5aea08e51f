//! Where settings were written: texts of files, and variables laid over the first of them.
//!
//! A text is parsed into a [`Document`] to be read, and parsed a second time only if something has to be pointed at:
//! positions cost nothing while all is well.

use std::borrow::Cow;
use std::fmt;
use std::ops::{Deref, Range};

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};
use zeroize::{Zeroize, Zeroizing};

use crate::model::document::Problems;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which of the [`Sources`].
    pub(super) source: usize,
    /// RFC 6901, in that source.
    pub(super) pointer: String,
}

/// Every text that settings were read from. The first one is the configuration file; it is empty where there is none.
pub(super) struct Sources {
    texts: Vec<Text>,
    variables: Vec<Variable>,
}

/// One file.
pub(super) struct Text {
    /// As a person would name it.
    pub(super) name: String,
    /// It may hold secrets, so it is wiped when it goes.
    pub(super) text: Zeroizing<String>,
}

/// A variable that was laid over the first text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: String,
    /// What it sets.
    pub(super) pointer: String,
}

impl Sources {
    pub(super) fn new(name: String, text: Zeroizing<String>) -> Self {
        Sources { texts: vec![Text { name, text }], variables: Vec::new() }
    }

    /// Adds a file; the answer is its number.
    pub(super) fn add(&mut self, name: String, text: Zeroizing<String>) -> usize {
        self.texts.push(Text { name, text });
        self.texts.len() - 1
    }

    pub(super) fn overlay(&mut self, variables: Vec<Variable>) {
        self.variables = variables;
    }

    pub(super) fn text(&self, source: usize) -> &Text {
        &self.texts[source]
    }

    /// The variable that set what stands at a place: it itself, something above it or, where the file has nothing of
    /// the kind, something below it.
    pub(super) fn variable(&self, place: &Place, in_file: bool) -> Option<&Variable> {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let of = |variable: &&Variable| within(&place.pointer, &variable.pointer);
        let below = |variable: &&Variable| !in_file && within(&variable.pointer, &place.pointer);
        let variables = (place.source == 0).then_some(&self.variables)?;
        variables.iter().find(of).or_else(|| variables.iter().find(below))
    }
}

/// Names only: the texts may hold secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts.iter().map(|text| &text.name)).finish()
    }
}

/// A parsed text. It may hold secrets, so its texts are wiped when it goes.
#[derive(Default)]
pub(super) struct Document(Value);

impl Document {
    /// The value, to lay variables over.
    pub(super) fn value_mut(&mut self) -> &mut Value {
        &mut self.0
    }
}

impl Deref for Document {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl Drop for Document {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(table) => table.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What is not TOML, and where; the messages are the parser's own and quote nothing of the text.
pub(super) type SyntaxError = (String, Option<Range<usize>>);

/// Parses a text. Kinds of values that no setting has, such as dates, are noted as problems.
pub(super) fn parse(text: &str, problems: &Problems) -> Result<Document, Vec<SyntaxError>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(Document(table_to_json(table.into_inner(), &mut String::new(), problems)));
    }
    Err(errors.into_iter().map(|error| (error.message().to_owned(), error.span())).collect())
}

/// Parses one value, as it would stand behind `=`.
pub(super) fn parse_value(text: &str) -> Option<Value> {
    let problems = Problems::default();
    let value = DeValue::parse(text).ok()?;
    let value = value_to_json(value.into_inner(), &mut String::new(), &problems);
    problems.is_empty().then_some(value)
}

fn table_to_json(table: DeTable<'_>, pointer: &mut String, problems: &Problems) -> Value {
    let length = pointer.len();
    let mut object = Map::new();
    for (key, value) in table {
        let key = key.into_inner();
        push_token(pointer, &key);
        object.insert(key.into_owned(), value_to_json(value.into_inner(), pointer, problems));
        pointer.truncate(length);
    }
    Value::Object(object)
}

fn value_to_json(value: DeValue<'_>, pointer: &mut String, problems: &Problems) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Boolean(flag) => Value::Bool(flag),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::from(number),
            Err(_) => {
                problems.add(pointer.clone(), "the number is too large");
                Value::Null
            }
        },
        DeValue::Float(number) => {
            let parsed: Option<f64> = number.as_str().parse().ok();
            parsed.and_then(serde_json::Number::from_f64).map(Value::Number).unwrap_or_else(|| {
                problems.add(pointer.clone(), "expected a finite number");
                Value::Null
            })
        }
        DeValue::Datetime(_) => {
            problems.add(pointer.clone(), "no setting is a date; a text stands in quotes");
            Value::Null
        }
        DeValue::Array(mut items) => {
            let length = pointer.len();
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.iter_mut().enumerate() {
                push_token(pointer, &index.to_string());
                let item = std::mem::replace(item.get_mut(), DeValue::Boolean(false));
                list.push(value_to_json(item, pointer, problems));
                pointer.truncate(length);
            }
            Value::Array(list)
        }
        DeValue::Table(table) => table_to_json(table, pointer, problems),
    }
}

/// Appends one token to a JSON pointer.
pub(super) fn push_token(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

/// The tokens of a JSON pointer.
pub(super) fn tokens(pointer: &str) -> impl Iterator<Item = Cow<'_, str>> {
    pointer.split('/').skip(1).map(|token| {
        if token.contains('~') { token.replace("~1", "/").replace("~0", "~").into() } else { token.into() }
    })
}
