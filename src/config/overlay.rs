//! Variables laid over the file: `SIDEKEY_PROXY__LISTENERS__0__ADDRESS` sets `proxy.listeners[0].address`.
//!
//! A variable's text is a TOML value where it is one (`true`, `3`, `["a", "b"]`) and a text where it is not, so that
//! nobody has to put quotes into quotes.

use serde_json::{Map, Value};

use super::environment::{Environment, PREFIX};
use super::source::{Variable, parse_value, push_token};

/// Tables whose values are texts whatever they look like: a token may consist of digits.
const TEXTS: [&str; 4] = ["credentials", "secrets", "values", "headers"];

/// Lays every override over a document. Answers what each variable set, and what is wrong with which variable.
pub(super) fn lay(document: &mut Value, environment: &Environment) -> (Vec<Variable>, Vec<(Variable, String)>) {
    let mut names = environment.overrides();
    names.sort_by(|a, b| a.split("__").map(in_order).cmp(b.split("__").map(in_order)));
    let (mut variables, mut wrong) = (Vec::new(), Vec::new());
    for name in names {
        let mut variable = Variable { name, pointer: String::new() };
        match lay_one(document, &mut variable, environment) {
            Ok(()) => variables.push(variable),
            Err(detail) => wrong.push((variable, detail)),
        }
    }
    (variables, wrong)
}

/// Items of a list come in the order of their numbers, or the tenth would be added before the second.
fn in_order(segment: &str) -> (u32, &str) {
    (segment.parse().unwrap_or(u32::MAX), segment)
}

fn lay_one(document: &mut Value, variable: &mut Variable, environment: &Environment) -> Result<(), String> {
    let text = environment.value(&variable.name).map_err(|error| error.to_string())?.unwrap_or_default();
    let path = variable.name.strip_prefix(PREFIX).unwrap_or_default();
    let segments: Vec<&str> = path.split("__").collect();
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err("this is no name of a setting: sections and keys are separated by exactly two underscores".into());
    }
    let mut target = document;
    for segment in &segments {
        target = step(target, segment, &mut variable.pointer)?;
    }
    let is_text = segments.iter().any(|segment| TEXTS.contains(&segment.to_ascii_lowercase().as_str()));
    *target = read(&text, is_text || target.is_string());
    Ok(())
}

/// One step down, to what is there or to a new place.
fn step<'a>(value: &'a mut Value, segment: &str, pointer: &mut String) -> Result<&'a mut Value, String> {
    let index: Option<usize> = segment.parse().ok();
    if value.is_null() {
        if index.is_some_and(|index| index > 0) {
            return Err(format!("there is no list yet, and `{segment}` is not its first item; that is 0"));
        }
        *value = if index.is_some() { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
    }
    match value {
        Value::Array(items) => {
            let count = items.len();
            let index = index.filter(|index| *index <= count);
            let index = index.ok_or_else(|| format!("`{segment}` is no item of this list; it has {count} so far"))?;
            push_token(pointer, &index.to_string());
            if index == count {
                items.push(Value::Null);
            }
            Ok(&mut items[index])
        }
        Value::Object(table) => {
            let name = key(table, segment, pointer);
            push_token(pointer, &name);
            Ok(table.entry(name).or_insert(Value::Null))
        }
        _ => Err("what stands above this setting in the file is neither a table nor a list".into()),
    }
}

/// The key a segment names: one that is there, compared without case and with `-` as `_`, else the segment itself.
fn key(table: &Map<String, Value>, segment: &str, pointer: &str) -> String {
    let fold = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let own = if pointer == "/secrets" { segment.to_ascii_uppercase() } else { segment.to_ascii_lowercase() };
    let there = table.contains_key(&own).then_some(&own);
    let there = there.or_else(|| table.keys().find(|key| fold(key) == fold(segment)));
    there.cloned().unwrap_or(own)
}

fn read(text: &str, is_text: bool) -> Value {
    match parse_value(text) {
        Some(value @ (Value::String(_) | Value::Array(_) | Value::Object(_))) => value,
        Some(value) if !is_text => value,
        _ => Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenth_item_of_a_list_comes_after_the_second() {
        let names: Vec<String> = (0..12).map(|n| format!("SIDEKEY_UPSTREAM__CA_FILES__{n}")).collect();
        let variables = names.iter().enumerate().map(|(n, name)| (name.as_str(), format!("{n}.pem")));
        let mut document = Value::Object(Map::new());
        let (variables, wrong) = lay(&mut document, &Environment::of(variables));
        assert_eq!((variables.len(), wrong.len()), (12, 0));
        assert_eq!(document["upstream"]["ca_files"][10], "10.pem");
    }

    #[test]
    fn a_text_of_digits_stays_a_text_where_texts_are_meant() {
        let mut document = serde_json::json!({ "log": { "level": "info" } });
        let variables =
            [("SIDEKEY_CONNECTION__0__VALUES__ACCOUNT", "007"), ("SIDEKEY_LOG__LEVEL", "1"), ("SIDEKEY_A__B", "1")];
        lay(&mut document, &Environment::of(variables));
        assert_eq!(document["connection"][0]["values"]["account"], "007");
        assert_eq!(document["log"]["level"], "1");
        assert_eq!(document["a"]["b"], 1);
    }
}
