//! What a change would do, for `--dry-run`: the difference, and the credentials that would be blocked.
//!
//! It is worked out from what the server shows, by the model that the server judges with, and told without sending
//! anything that changes something. What the server alone knows, such as a slug that is taken, it does not foresee.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Failure;
use super::access::Session;
use super::resource::{Listing, called, show};
use super::show::{Output, clean, print, text};
use crate::model::document::Problem;
use crate::model::id::IntegrationId;
use crate::model::integration::{Integration, Values};
use crate::model::origin::Origin;

/// What a change would do.
pub(super) struct Foreseen {
    /// What kind of thing is changed, and which.
    pub about: (&'static str, String),
    /// Whether it is not there yet.
    pub is_new: bool,
    /// What of it would differ: `pointer`, `before` and `after`.
    pub changes: Vec<Value>,
    /// The credentials that would be blocked: `connection` and its `environments`.
    pub blocked: Vec<Value>,
    /// Whatever else a person wants to know, a line each.
    pub notes: Vec<String>,
}

/// An integration with what the organization has filled in for its connections: it says where requests go.
pub(super) struct Aim {
    /// The integration, filled in.
    pub integration: Integration,
}

impl Foreseen {
    /// The difference that a change of one thing would make. What is only shown is no difference.
    pub(super) fn of(about: (&'static str, &str), before: &Value, after: &Value, shown_only: &[&str]) -> Self {
        let mut changes = Vec::new();
        differences(&without(before, shown_only), &without(after, shown_only), "", &mut changes);
        let about = (about.0, about.1.to_owned());
        Foreseen { about, is_new: before.is_null(), changes, blocked: Vec::new(), notes: Vec::new() }
    }

    /// Says so; nothing was changed.
    pub(super) fn tell(&self, output: Output) -> Result<(), Failure> {
        let (kind, name) = &self.about;
        if output == Output::Json {
            let would = json!({ "dry_run": true, *kind: name, "changes": self.changes, "blocked": self.blocked });
            return output.thing(&would);
        }
        let (verb, done) = if self.is_new { ("make", "made") } else { ("change", "changed") };
        let mut told = format!("this would {verb} the {kind} {}\n", clean(name));
        for change in &self.changes {
            let (sign, value) = match (&change["before"], &change["after"]) {
                (Value::Null, after) => ('+', after.to_string()),
                (before, Value::Null) => ('-', before.to_string()),
                (before, after) => ('~', format!("{before} -> {after}")),
            };
            let _infallible = writeln!(told, "{sign} {}: {}", text(&change["pointer"]), clean(&value));
        }
        for blocked in &self.blocked {
            let (connection, environments) = (text(&blocked["connection"]), text(&blocked["environments"]));
            let _infallible =
                writeln!(told, "! {connection}: its credential is blocked until it is entered again: {environments}");
        }
        for note in &self.notes {
            let _infallible = writeln!(told, "{}", clean(note));
        }
        let _infallible = writeln!(told, "nothing was {done}");
        print(&told)
    }

    /// Adds the credentials of a connection to the blocked ones, where requests would go to a host that they were not
    /// entered for.
    pub(super) fn block(&mut self, connection: &Value, before: &Aim, after: &Aim, own: &Value) -> Result<(), Failure> {
        let (Ok(bound), will_go) = (before.origins(&connection["values"]), after.origins(own)) else { return Ok(()) };
        let will_go = will_go.map_err(|why| {
            refused(&[Problem { pointer: "/values".to_owned(), detail: format!("{}: {why}", called(connection)) }])
        })?;
        let is_entered = |standing: &Value| {
            standing["fields"].as_object().is_some_and(|fields| fields.values().any(|is_set| *is_set == true))
        };
        let environments = connection["environments"].as_object().into_iter().flatten();
        let entered: Vec<&String> =
            environments.filter(|(_, standing)| is_entered(standing)).map(|(name, _)| name).collect();
        if !entered.is_empty() && will_go.iter().any(|origin| !bound.contains(origin)) {
            self.blocked.push(json!({ "connection": called(connection), "environments": entered }));
        }
        Ok(())
    }

    /// As [`Self::block`], for every connection of an integration.
    pub(super) async fn block_all(
        &mut self,
        session: &mut Session,
        slug: &str,
        before: &Aim,
        after: &Aim,
    ) -> Result<(), Failure> {
        let call = || show(&["connections"]).query("integration", slug);
        let connections = Listing { limit: None }.items(session, call).await?;
        for connection in connections {
            self.block(&connection, before, after, &connection["values"])?;
        }
        Ok(())
    }
}

impl Aim {
    /// What the server shows of an integration.
    pub(super) async fn read(session: &mut Session, slug: &str) -> Result<Self, Failure> {
        let document = session.call(show(&["integrations", slug])).await?.body;
        let filled = session.call(show(&["integrations", slug, "values"])).await?.body;
        Aim::of(&document, &filled["values"])
    }

    /// The integration that a document describes, where it describes one.
    pub(super) fn of(document: &Value, filled: &Value) -> Result<Self, Failure> {
        let id = document["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_else(IntegrationId::generate);
        let document = without(document, &crate::admin::integrations::SHOWN_ONLY);
        let integration = Integration::parse(&document, id).map_err(|problems| refused(&problems))?;
        Ok(Aim { integration: integration.filled(&values(filled)) })
    }

    /// Judges the values of a connection, or of all connections where `is_partial`.
    pub(super) fn judge(&self, own: &Value, is_partial: bool) -> Result<(), Failure> {
        let own = values(own);
        let wrong = self.integration.check_values(&own).into_iter();
        let problems: Vec<Problem> = wrong
            .filter(|(field, _)| !is_partial || own.contains_key(field))
            .map(|(field, detail)| Problem { pointer: format!("/values/{field}"), detail })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(refused(&problems)) }
    }

    /// Judges an auth method, and the fields that somebody wants to enter for it.
    pub(super) fn judge_fields<'a>(
        &self,
        method: Option<&str>,
        entered: impl Iterator<Item = &'a str>,
    ) -> Result<(), Failure> {
        let all = &self.integration.auth;
        let method = match method {
            Some(named) => all.iter().find(|auth| auth.method.as_str() == named),
            None => all.first().filter(|_| all.len() == 1),
        };
        // Which methods there are is told by the server.
        let Some(method) = method else { return Ok(()) };
        let fields: Vec<&str> =
            method.credential_fields(&self.integration.fields).map(|field| field.name.as_str()).collect();
        let mut unknown = entered.filter(|name| !fields.contains(name));
        let Some(name) = unknown.next() else { return Ok(()) };
        let there = if fields.is_empty() { "none".to_owned() } else { fields.join(", ") };
        Err(Failure::Usage(format!(
            "--set {name}: the auth method `{}` of {} has no such field; there are: {there}",
            method.method, self.integration.slug
        )))
    }

    fn origins(&self, own: &Value) -> Result<Vec<Origin>, String> {
        self.integration.place(&values(own)).map(|(_, origins)| origins).map_err(|error| error.to_string())
    }
}

/// Tells what a deletion would take along or stumble over; nothing was deleted.
pub(super) fn deletion(output: Output, kind: &str, name: &str, along: &[(&str, Value)]) -> Result<(), Failure> {
    if output == Output::Json {
        let mut would = Map::from_iter([("dry_run".to_owned(), true.into()), (kind.to_owned(), name.into())]);
        would.extend(along.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        return output.thing(&would.into());
    }
    let mut told = format!("this would delete the {kind} {}\n", clean(name));
    for (key, value) in along {
        let _infallible = writeln!(told, "{}: {}", key.replace('_', " "), text(value));
    }
    told.push_str("nothing was deleted\n");
    print(&told)
}

/// What the server would answer.
fn refused(problems: &[Problem]) -> Failure {
    let mut told = "this would be refused".to_owned();
    for Problem { pointer, detail } in problems {
        let at = if pointer.is_empty() { "the document" } else { pointer };
        let _infallible = write!(told, "\n  {at}: {detail}");
    }
    Failure::Failed(told)
}

/// The values of fields; what has no name of a field has no value either.
fn values(document: &Value) -> Values {
    let pairs = document.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str()?.to_owned()))).collect()
}

fn without(document: &Value, keys: &[&str]) -> Value {
    let mut document = document.clone();
    if let Some(table) = document.as_object_mut() {
        table.retain(|key, _| !keys.contains(&key.as_str()));
    }
    document
}

/// Walks down two documents side by side. Nothing, an empty list and an empty table are the same.
fn differences(before: &Value, after: &Value, at: &str, found: &mut Vec<Value>) {
    let none = Map::new();
    let is_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(table) => table.is_empty(),
        _ => false,
    };
    let table = |value: &Value| value.as_object().cloned().or_else(|| value.is_null().then(|| none.clone()));
    match (table(before), table(after)) {
        (Some(was), Some(becomes)) if before != after && !(before.is_null() && after.is_null()) => {
            let added = becomes.keys().filter(|key| !was.contains_key(*key));
            for key in was.keys().chain(added) {
                let part = |table: &Map<String, Value>| table.get(key).cloned().unwrap_or_default();
                let below = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
                differences(&part(&was), &part(&becomes), &below, found);
            }
        }
        _ if before == after || (is_nothing(before) && is_nothing(after)) => {}
        _ => found.push(json!({ "pointer": at, "before": before, "after": after })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_told_at_its_place() {
        let before = json!({ "id": "x", "name": "A", "values": { "region": "eu" }, "labels": [], "hosts": ["a"] });
        let after = json!({ "name": "B", "values": { "region": "us", "a/b": "c" }, "limit": { "burst": 1 }, "hosts": ["a", "b"] });
        let foreseen = Foreseen::of(("connection", "crm"), &before, &after, &["id"]);
        let told: Vec<String> = foreseen.changes.iter().map(Value::to_string).collect();
        let expected = [
            json!({ "pointer": "/hosts", "before": ["a"], "after": ["a", "b"] }),
            json!({ "pointer": "/name", "before": "A", "after": "B" }),
            json!({ "pointer": "/values/region", "before": "eu", "after": "us" }),
            json!({ "pointer": "/values/a~1b", "before": null, "after": "c" }),
            json!({ "pointer": "/limit/burst", "before": null, "after": 1 }),
        ];
        assert_eq!(told, expected.map(|change| change.to_string()));
        assert!(Foreseen::of(("connection", "crm"), &before, &before, &[]).changes.is_empty());
    }

    #[test]
    fn a_credential_is_blocked_where_requests_would_go_to_a_host_it_was_not_entered_for() {
        let document = |base: &str| {
            json!({ "slug": "crm", "base_url": base, "fields": [{ "name": "region", "default": "eu" }],
                    "auth": [{ "method": "main", "type": "bearer" }] })
        };
        let aim = |base: &str, filled: Value| Aim::of(&document(base), &filled).unwrap();
        let connection = |is_set: bool| json!({ "key": "crm", "values": {}, "environments": { "production": { "fields": { "token": is_set } } } });
        let blocked = |connection: &Value, before: &Aim, after: &Aim, own: Value| {
            let mut foreseen = Foreseen::of(("integration", "crm"), &Value::Null, &Value::Null, &[]);
            foreseen.block(connection, before, after, &own).unwrap();
            foreseen.blocked
        };
        let here = aim("https://{{ region }}.example.test", json!({}));
        let filled = aim("https://{{ region }}.example.test", json!({ "region": "us" }));
        let expected = json!([{ "connection": "crm", "environments": ["production"] }]);
        assert_eq!(Value::from(blocked(&connection(true), &here, &filled, json!({}))), expected);
        assert_eq!(Value::from(blocked(&connection(true), &here, &here, json!({ "region": "us" }))), expected);
        assert!(blocked(&connection(true), &here, &filled, json!({ "region": "eu" })).is_empty(), "its own holds");
        assert!(blocked(&connection(false), &here, &filled, json!({})).is_empty(), "there is none to block");
        assert!(here.judge(&json!({ "region": "a.b" }), false).is_err() && here.judge(&json!({}), false).is_ok());
        let told = here.judge_fields(None, ["tokn"].into_iter()).unwrap_err().to_string();
        assert!(told.ends_with("there are: token"), "{told}");
        assert!(here.judge_fields(Some("main"), ["token"].into_iter()).is_ok());
    }
}
