//! Documents that are none: every call that takes one refuses them, in the same form, and does nothing.

use serde_json::{Value, json};

use super::count;
use super::world::{World, calls};
use crate::harness::admin::Admin;
use crate::harness::provider::Provider;
use crate::harness::{Sidekey, problem};

/// Texts that are sent instead of a document that would be taken.
fn spoilt(good: &Value, largest: usize) -> Vec<(&'static str, String)> {
    let members = good.as_object().expect("an object");
    let text = good.to_string();
    // Two members of one name: which of them holds is anybody's guess.
    let twice = match members.iter().next() {
        Some((name, value)) => format!("{{{}:{value},{}", json!(name), &text[1..]),
        None => r#"{"x":1,"x":2}"#.to_owned(),
    };
    let mut unknown = good.clone();
    unknown["no_such_member"] = json!(1);
    vec![
        ("nothing", String::new()),
        ("no JSON", "{".to_owned()),
        ("more than one", format!("{text} {text}")),
        ("a comment", format!("{text} // x")),
        ("a list", format!("[{text}]")),
        ("a text", json!(text).to_string()),
        ("a number", "1".to_owned()),
        ("null", "null".to_owned()),
        ("no UTF-8 in a text", "{\"key\":\"\\ud800\"}".to_owned()),
        ("a member twice", twice),
        ("an unknown member", unknown.to_string()),
        ("deep lists", "[".repeat(100_000)),
        ("deep lists that end", format!("{}{}", "[".repeat(5_000), "]".repeat(5_000))),
        ("deep objects", format!("{}1{}", r#"{"a":"#.repeat(5_000), "}".repeat(5_000))),
        ("deep in a member", format!("{{\"key\":{}{}}}", "[".repeat(5_000), "]".repeat(5_000))),
        ("a huge number", format!("{{\"key\":1{}}}", "0".repeat(5_000))),
        ("too large", format!("{{\"key\":\"{}\"}}", "x".repeat(largest))),
    ]
}

/// A document with a member of another type, for each of its members.
fn of_other_types(good: &Value) -> Vec<(String, String)> {
    let members = good.as_object().expect("an object");
    let others = [json!(true), json!(-1.5), json!({ "x": [1] }), json!([[]]), json!([{}])];
    let mut documents = Vec::new();
    for (name, value) in members {
        let kind = |value: &Value| std::mem::discriminant(value);
        for other in others.iter().filter(|other| kind(other) != kind(value)) {
            let mut document = good.clone();
            document[name] = other.clone();
            documents.push((format!("{name} is {other}"), document.to_string()));
        }
    }
    documents
}

async fn refused(admin: &Admin, method: &str, path: &str, what: &str, text: String) {
    let length = text.len();
    let reply = admin.send(method, path, &[("Content-Type", "application/json")], text).await;
    let told = problem(&reply);
    let expected: &[u16] = match what {
        "too large" => &[413],
        _ => &[400, 422],
    };
    assert!(expected.contains(&told.status), "{method} {path}: {what}, {length} bytes: {}", reply.text());
}

#[tokio::test]
async fn what_is_no_document_is_refused_everywhere_and_changes_nothing_ad_08() {
    let provider = Provider::start().await;
    let server = Sidekey::with(|config| {
        provider.configure(config);
        config.set("admin.sign_in.per_account", 1000).set("admin.sign_in.per_address", 1000);
    })
    .await;
    let world = World::make(&server).await;
    let admin = server.admin();
    let before = (count(&admin).await, admin.get("export").await.json());
    let mut tried = 0;
    for call in calls(&server).await {
        let Some(good) = world.body(&call) else { continue };
        let path = world.path(&call);
        let largest = if call.path.ends_with("/import") { 8 << 20 } else { 1 << 20 };
        for (what, text) in spoilt(&good, largest) {
            refused(&admin, &call.method, &path, what, text).await;
            tried += 1;
        }
        for (what, text) in of_other_types(&good) {
            refused(&admin, &call.method, &path, &what, text).await;
            tried += 1;
        }
        for media in ["text/plain", "application/x-www-form-urlencoded", ""] {
            let reply = admin.send(&call.method, &path, &[("Content-Type", media)], good.to_string()).await;
            assert_eq!(reply.status, 415, "{call}: {media}: {}", reply.text());
        }
    }
    assert!(tried > 400, "{tried}");
    assert_eq!((count(&admin).await, admin.get("export").await.json()), before, "nothing was done");
    server.finish(&[]).await;
}

/// A schema, or what it refers to.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    reference.map_or(schema, |pointer| document.pointer(pointer).expect("what a reference leads to"))
}

/// Where the members stand that must be there, in a document and in all that is within it.
fn demanded(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    let schema = resolved(document, schema);
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        assert!(value.get(name).is_some(), "a document that is taken lacks {at}/{name}");
        found.push((at.to_owned(), name.to_owned()));
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        demanded(document, &schema["properties"][name], member, &format!("{at}/{name}"), found);
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        demanded(document, &schema["items"], item, &format!("{at}/{index}"), found);
    }
}

#[tokio::test]
async fn a_document_without_what_it_must_say_is_refused_everywhere_ad_08() {
    let provider = Provider::start().await;
    let server = Sidekey::with(|config| provider.configure(config)).await;
    let world = World::make(&server).await;
    let admin = server.admin();
    let described = admin.get("openapi.json").await.json();
    let exported = admin.get("export").await.json();
    let before = (count(&admin).await, exported.clone());
    let mut tried = 0;
    for call in calls(&server).await {
        let Some(good) = world.body(&call) else { continue };
        let good = if call.short() == "import" { exported.clone() } else { good };
        let schema = &call.operation["requestBody"]["content"]["application/json"]["schema"];
        let mut found = Vec::new();
        demanded(&described, schema, &good, "", &mut found);
        for (at, name) in found {
            let mut document = good.clone();
            let holder = document.pointer_mut(&at).and_then(Value::as_object_mut);
            holder.expect("where it stands").remove(&name);
            let reply = admin.call(&call.method, &world.path(&call), &[], Some(document)).await;
            let told = problem(&reply);
            let listed = told.body["errors"].as_array().map_or(0, Vec::len);
            assert!(told.status == 422 && listed > 0, "{call} without {at}/{name}: {}", reply.text());
            tried += 1;
        }
    }
    assert!(tried >= 25, "{tried}");
    assert_eq!((count(&admin).await, admin.get("export").await.json()), before, "nothing was done");
    server.finish(&[]).await;
}
