//! What a person sees of an answer: tables and fields; and what a script sees: the API's own JSON.

use std::fmt::Write as _;
use std::io::Write;

use serde_json::Value;

use super::Failure;

/// Who reads what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Tables and sentences.
    People,
    /// JSON, and nothing else on stdout.
    Json,
}

/// A column of a table: its title and what stands in it.
pub(super) type Column = (&'static str, fn(&Value) -> String);

impl Output {
    /// A list of things.
    pub(super) fn list(self, items: &[Value], columns: &[Column]) -> Result<(), Failure> {
        match self {
            Output::Json => self.document(&Value::from(items.to_vec())),
            Output::People => print(&table(items, columns)),
        }
    }

    /// One thing: its fields, one on a line.
    pub(super) fn thing(self, thing: &Value) -> Result<(), Failure> {
        match self {
            Output::Json => self.document(thing),
            Output::People => print(&fields(thing)),
        }
    }

    /// That something is done: a sentence, or the document that the server answered with.
    pub(super) fn done(self, sentence: &str, document: &Value) -> Result<(), Failure> {
        match self {
            Output::Json if document.is_null() => Ok(()),
            Output::Json => self.document(document),
            Output::People => print(&format!("{}\n", clean(sentence))),
        }
    }

    fn document(self, document: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(document).map_err(|error| Failure::Failed(error.to_string()))?;
        print(&format!("{text}\n"))
    }
}

/// Prints; who stops reading early, such as `head`, has read enough.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The text of a value: itself, its items, or JSON; a dash where there is nothing.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => clean(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(table) if table.is_empty() => "-".to_owned(),
        Value::Object(table) => {
            let pairs = table.iter().map(|(name, value)| format!("{}={}", clean(name), text(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A moment to the second, as a column has room for it: `2030-01-31 08:15:00`, in UTC.
pub(super) fn moment(value: &Value) -> String {
    match value.as_str().and_then(|moment| moment.split_once('T')) {
        Some((day, time)) => {
            clean(&format!("{day} {}", time.trim_end_matches('Z').split('.').next().unwrap_or_default()))
        }
        None => text(value),
    }
}

/// Text of somebody else's, made unable to move a terminal's cursor or colour it.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => clean.push('\n'),
            character if character.is_control() => clean.extend(character.escape_default()),
            character => clean.push(character),
        }
    }
    clean
}

fn table(items: &[Value], columns: &[Column]) -> String {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let line = |item: &Value| columns.iter().map(|(_, show)| show(item).replace('\n', " ")).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = std::iter::once(titles).chain(items.iter().map(line)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _infallible = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn fields(thing: &Value) -> String {
    let Value::Object(table) = thing else { return format!("{}\n", text(thing)) };
    if table.is_empty() {
        return format!("{}\n", text(thing));
    }
    let width = table.keys().map(|name| name.chars().count()).max().unwrap_or_default();
    let mut shown = String::new();
    for (name, value) in table {
        match value {
            // What is a table of tables gets a line for each.
            Value::Object(inner) if inner.values().any(Value::is_object) => {
                let _infallible = writeln!(shown, "{}", clean(name));
                for (name, value) in inner {
                    let _infallible = writeln!(shown, "  {}: {}", clean(name), text(value));
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                let _infallible = writeln!(shown, "{}", clean(name));
                for item in items {
                    let _infallible = writeln!(shown, "  {}", text(item));
                }
            }
            value => {
                let _infallible = writeln!(shown, "{:<width$}  {}", clean(name), text(value));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_lines_up_and_moves_no_cursor() {
        let items = [json!({ "key": "a", "name": "\u{1b}[31mred\ttab" }), json!({ "key": "längst", "name": null })];
        let columns: [Column; 2] = [("KEY", |item| text(&item["key"])), ("NAME", |item| text(&item["name"]))];
        assert_eq!(table(&items, &columns), "KEY     NAME\na       \\u{1b}[31mred\\ttab\nlängst  -\n");
        assert_eq!(table(&[], &columns), "KEY  NAME\n");
    }

    #[test]
    fn a_thing_has_a_line_for_each_field() {
        let thing = json!({ "key": "crm", "values": { "a": "b" }, "labels": [], "environments": { "production": { "status": "active" } } });
        let shown =
            "environments\n  production: status=active\nkey           crm\nlabels        -\nvalues        a=b\n";
        assert_eq!(fields(&thing), shown);
    }
}
