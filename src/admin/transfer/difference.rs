//! What an import changes, for people and for programs.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What becomes of one thing.
#[derive(Serialize, ToSchema)]
#[schema(as = Difference)]
pub(super) struct Difference {
    /// `integration`, `values` (of the integration of that slug) or `connection`.
    kind: &'static str,
    /// Its slug or key.
    key: String,
    /// Whose it is, where it is a customer's.
    customer: Option<String>,
    /// `create`, `replace` or `same`.
    pub(super) action: &'static str,
    /// The members that differ, as they are.
    before: Option<Value>,
    /// The members that differ, as they become.
    after: Option<Value>,
    /// The same in a line for people, beginning with `+`, `~` or `=`.
    text: String,
    /// What has to be done then.
    note: Option<&'static str>,
}

impl Difference {
    /// With what has to be done then.
    pub(super) fn noted(self, note: Option<&'static str>) -> Self {
        Difference { note, ..self }
    }

    /// Whether anything is written.
    pub(super) fn changes_something(&self) -> bool {
        self.action != "same"
    }

    /// What becomes of a thing that is `before`, where it is there, and shall be `after`.
    pub(super) fn new(
        kind: &'static str,
        key: &str,
        customer: Option<&str>,
        before: Option<&Value>,
        after: Option<&Value>,
    ) -> Self {
        let told = crate::vault::audit::difference(before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null));
        let part = |name: &str| told.get(name).cloned().filter(|part| part.as_object().is_some_and(|t| !t.is_empty()));
        let (was, becomes) = (part("before"), part("after"));
        let action = match before {
            None if after.is_some() => "create",
            None => "same",
            Some(_) if was.is_none() && becomes.is_none() => "same",
            Some(_) => "replace",
        };
        let name = customer.map_or_else(|| key.to_owned(), |customer| format!("{key} (customer {customer})"));
        let text = match action {
            "create" => format!("+ {kind} {name}"),
            "same" => format!("= {kind} {name}"),
            _ => format!("~ {kind} {name}: {}", lines(was.as_ref(), becomes.as_ref())),
        };
        let (key, customer) = (key.to_owned(), customer.map(str::to_owned));
        Difference { kind, key, customer, action, before: was, after: becomes, text, note: None }
    }
}

/// `name: "A" -> "B"; limit: none -> {…}`
fn lines(before: Option<&Value>, after: Option<&Value>) -> String {
    let none = Map::new();
    let table = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_else(|| none.clone());
    let (before, after) = (table(before), table(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let show = |value: Option<&Value>| value.map_or_else(|| "none".to_owned(), ToString::to_string);
    let changes = names
        .iter()
        .map(|name| format!("{name}: {} -> {}", show(before.get(name.as_str())), show(after.get(name.as_str()))));
    changes.collect::<Vec<_>>().join("; ")
}
