//! The description of the admin API: it is there, it is whole, and it is true of the endpoints.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{Sidekey, get};

async fn document(server: &Sidekey) -> Value {
    // Nobody is asked for a key.
    let reply = server.admin().with_key("").get("openapi.json").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

/// Every endpoint: its path, its method, what is said of it.
fn operations(document: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = document["paths"].as_object().expect("paths").iter();
    paths
        .flat_map(|(path, item)| {
            let item = item.as_object().expect("a path's methods");
            item.iter().map(|(method, operation)| (path.as_str(), method.as_str(), operation))
        })
        .collect()
}

/// Every value under a key, however deep.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(table) => {
            for (name, value) in table {
                if name == key {
                    found.push(value);
                }
                all(value, key, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| all(item, key, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_description_is_what_was_agreed() {
    let server = Sidekey::with(|_| {}).await;
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    insta::assert_json_snapshot!("openapi", document);
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_description_is_whole() {
    let server = Sidekey::with(|_| {}).await;
    let document = document(&server).await;
    let mut references = Vec::new();
    all(&document, "$ref", &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer =
            reference.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference into the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let names: Vec<&str> =
        operations(&document).iter().filter_map(|(_, _, operation)| operation["operationId"].as_str()).collect();
    let once: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!((names.len(), once.len()), (operations(&document).len(), names.len()), "{names:?}");
    for (path, method, operation) in operations(&document) {
        let text = operation["summary"].as_str().unwrap_or_default();
        assert!(text.ends_with('.'), "{method} {path} says what it does: {text:?}");
        let answers = operation["responses"].as_object().expect("answers");
        assert!(answers.keys().any(|status| status.starts_with(['2', '3'])), "{method} {path}");
        for status in ["403", "421"] {
            assert!(answers.contains_key(status), "{method} {path} lacks {status}");
        }
        let asks = operation.get("security").is_none();
        // Coming in needs the vault as much as what asks who is there.
        let comes_in = method == "post" && ["/sign-", "/invite"].iter().any(|part| path.contains(part));
        assert_eq!(answers.contains_key("503"), asks || comes_in || path == "/readyz", "{method} {path}");
        for (status, answer) in answers {
            let refers = answer["$ref"].is_string() || answer["content"].is_object();
            assert!(refers || status.starts_with('2'), "{method} {path} {status} says nothing of its problem");
        }
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_endpoint_takes_the_methods_that_are_described_and_no_others() {
    let server = Sidekey::with(|_| {}).await;
    let document = document(&server).await;
    for (path, item) in document["paths"].as_object().expect("paths") {
        let mut described: BTreeSet<String> =
            item.as_object().expect("methods").keys().map(|method| method.to_uppercase()).collect();
        if described.contains("GET") {
            described.insert("HEAD".to_owned());
        }
        let target: String = path
            .split('{')
            .map(|part| part.rsplit_once('}').map_or(part.to_owned(), |(_, rest)| format!("x{rest}")))
            .collect();
        let reply = server.admin().call("OPTIONS", &target, &[], None).await;
        assert_eq!(reply.status, 405, "{path}: {}", reply.text());
        let allowed = reply
            .header("allow")
            .expect("the methods that are allowed")
            .split(',')
            .map(|method| method.trim().to_owned());
        assert_eq!(allowed.collect::<BTreeSet<_>>(), described, "{path}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_description_is_kept_from_other_peoples_pages() {
    let server = Sidekey::with(|_| {}).await;
    for (headers, status) in [(("Origin", "https://elsewhere.test"), 403), (("Sec-Fetch-Site", "none"), 200)] {
        assert_eq!(get(server.admin_address.clone(), "/api/v1/openapi.json", &[headers]).await.status, status);
    }
    server.finish(&[]).await;
}
