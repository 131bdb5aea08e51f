//! Reading a document somebody wrote, JSON or TOML, so that every mistake in it is told at once.
//!
//! A [`Reader`] walks one table, is asked for the keys it may hold, and notes each [`Problem`] with a JSON pointer
//! (RFC 6901) instead of stopping at the first. The admin port answers with these pointers; the configuration turns
//! them into file, line, key and caret. What is not asked for is an unknown key.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

/// One mistake: where, and what is wrong with what to do.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// RFC 6901, empty for the whole document.
    pub pointer: String,
    /// A sentence without a secret in it.
    pub detail: String,
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes a mistake.
    pub fn add(&self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.borrow_mut().push(Problem { pointer: pointer.into(), detail: detail.into() });
    }

    /// Whether nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All mistakes, in the order they were found.
    pub fn into_list(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// One table of a document.
pub struct Reader<'a> {
    table: &'a Map<String, Value>,
    pointer: String,
    problems: &'a Problems,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    /// Reads a value as a table; anything else is a problem.
    pub fn new(value: &'a Value, pointer: impl Into<String>, problems: &'a Problems) -> Option<Self> {
        let pointer = pointer.into();
        match value {
            Value::Object(table) => Some(Reader { table, pointer, problems, asked: RefCell::default() }),
            other => {
                problems.add(pointer, format!("expected a table, found {}", kind(other)));
                None
            }
        }
    }

    /// Where this table stands.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }

    /// Where a key of this table stands.
    pub fn pointer_to(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1"))
    }

    /// Notes a mistake at a key.
    pub fn problem(&self, key: &str, detail: impl Into<String>) {
        self.problems.add(self.pointer_to(key), detail);
    }

    /// The list of problems, to hand on.
    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// A key's value as it is; `null` counts as absent.
    pub fn value(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key);
        self.table.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key is there.
    pub fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Whether a key is there, be it as `null`.
    pub fn says(&self, key: &'static str) -> bool {
        self.asked.borrow_mut().insert(key);
        self.table.contains_key(key)
    }

    /// Every key and value, for tables whose keys people choose.
    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.table.iter()
    }

    fn wrong(&self, key: &str, expected: &str, found: &Value) {
        self.problem(key, format!("expected {expected}, found {}", kind(found)));
    }

    /// A text.
    pub fn text(&self, key: &'static str) -> Option<&'a str> {
        let value = self.value(key)?;
        if value.as_str().is_none() {
            self.wrong(key, "a text", value);
        }
        value.as_str()
    }

    /// A text of at most `limit` bytes without control characters: something a person reads.
    pub fn label(&self, key: &'static str, limit: usize) -> Option<&'a str> {
        let text = self.text(key)?;
        if text.len() > limit || text.chars().any(char::is_control) {
            self.problem(key, format!("expected at most {limit} bytes without control characters"));
            return None;
        }
        Some(text)
    }

    /// A text that must be read as something.
    pub fn parsed<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        text.parse().map_err(|error: T::Err| self.problem(key, error.to_string())).ok()
    }

    /// As [`parsed`](Self::parsed), and its absence is a problem.
    pub fn required<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        self.demand(key);
        self.parsed(key)
    }

    /// Notes a key that must be there and is not.
    pub fn demand(&self, key: &'static str) {
        if !self.has(key) {
            self.problems.add(self.pointer.clone(), format!("the key `{key}` is missing"));
        }
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        if value.as_bool().is_none() {
            self.wrong(key, "true or false", value);
        }
        value.as_bool()
    }

    /// A whole number within bounds.
    pub fn number(&self, key: &'static str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(key)?;
        match value.as_u64() {
            Some(number) if bounds.contains(&number) => Some(number),
            _ => {
                self.problem(key, format!("expected a whole number from {} to {}", bounds.start(), bounds.end()));
                None
            }
        }
    }

    /// A duration such as `"30s"`, `"500ms"`, `"5m"`, `"1h"`; more than zero, at most 30 days.
    pub fn duration(&self, key: &'static str) -> Option<Duration> {
        let text = self.text(key)?;
        let duration = parse_duration(text);
        if duration.is_none() {
            self.problem(key, "expected a duration such as \"500ms\", \"30s\" or \"5m\", more than zero");
        }
        duration
    }

    /// A size such as `"64KiB"`, `"1MiB"` or `"4096"` in bytes.
    pub fn size(&self, key: &'static str) -> Option<u64> {
        let text = self.text(key)?;
        let size = parse_size(text);
        if size.is_none() {
            self.problem(key, "expected a size such as \"64KiB\" or \"1MiB\"");
        }
        size
    }

    /// A table below this one.
    pub fn table(&self, key: &'static str) -> Option<Reader<'a>> {
        let value = self.value(key)?;
        Reader::new(value, self.pointer_to(key), self.problems)
    }

    /// As [`table`](Self::table), and its absence is a problem.
    pub fn required_table(&self, key: &'static str) -> Option<Reader<'a>> {
        self.demand(key);
        self.table(key)
    }

    /// A list's items with where each stands; empty where the key is absent.
    pub fn list(&self, key: &'static str) -> Vec<(String, &'a Value)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.wrong(key, "a list", value);
            return Vec::new();
        };
        let pointer = self.pointer_to(key);
        items.iter().enumerate().map(|(index, item)| (format!("{pointer}/{index}"), item)).collect()
    }

    /// A list of tables.
    pub fn tables(&self, key: &'static str) -> Vec<Reader<'a>> {
        let items = self.list(key);
        items.into_iter().filter_map(|(pointer, item)| Reader::new(item, pointer, self.problems)).collect()
    }

    /// A list of texts, each read as something.
    pub fn parsed_list<T: FromStr<Err: Display>>(&self, key: &'static str) -> Vec<T> {
        let read = |(pointer, item): (String, &Value)| match item.as_str().map(str::parse::<T>) {
            Some(Ok(parsed)) => Some(parsed),
            Some(Err(error)) => {
                self.problems.add(pointer, error.to_string());
                None
            }
            None => {
                self.problems.add(pointer, format!("expected a text, found {}", kind(item)));
                None
            }
        };
        self.list(key).into_iter().filter_map(read).collect()
    }

    /// Notes every key that nobody asked for.
    pub fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.keys().filter(|key| !asked.contains(key.as_str())) {
            let near = asked.iter().filter(|name| distance(name, key) <= 2).min_by_key(|name| distance(name, key));
            let hint = near.map_or_else(
                || format!("known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
                |name| format!("did you mean `{name}`?"),
            );
            self.problem(key, format!("unknown key `{}`; {hint}", key.escape_debug()));
        }
    }
}

/// What a value is, in a person's words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// Reads a duration: digits and one of `ms`, `s`, `m`, `h`, `d`; more than zero, at most 30 days.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, unit) = text.split_at(unit_at);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let milliseconds = digits.parse::<u64>().ok()?.checked_mul(factor)?;
    (1..=30 * 86_400_000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
}

/// Reads a size: digits and nothing, `B`, `KiB`, `MiB` or `GiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// How many single-character edits lie between two short texts (Levenshtein), for "did you mean".
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once() {
        let document = serde_json::json!({ "name": 3, "tiemout": "5s", "wait": "soon", "port": 70000 });
        let problems = Problems::default();
        let reader = Reader::new(&document, "", &problems).unwrap();
        reader.text("name");
        reader.duration("timeout");
        reader.duration("wait");
        reader.number("port", 0..=65535);
        reader.required::<String>("key");
        reader.finish();
        let told: Vec<_> = problems.into_list().into_iter().map(|p| p.pointer).collect();
        assert_eq!(told, ["/name", "/wait", "/port", "", "/tiemout"]);
    }

    #[test]
    fn durations_have_a_unit_and_are_not_zero() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        for text in ["", "5", "0s", "s", "5 s", "-5s", "1.5s", "31d", "99999999999999999999s"] {
            assert_eq!(parse_duration(text), None, "{text:?}");
        }
        assert_eq!(parse_size("64KiB"), Some(65536));
        assert_eq!(parse_size("64kb"), None);
    }
}
