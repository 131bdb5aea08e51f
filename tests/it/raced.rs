//! A change that was answered with 2xx holds for every request that begins after that, however many are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::admin::bearer;
use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Client, Reply, Sidekey, Sink, soon};

/// A second host, at a sink of its own.
const OTHER: &str = "other.example.test";

/// How many ask at once, and how many answers there are between two changes.
const CLIENTS: usize = 64;
const BETWEEN: usize = 100;

/// How often all changes are made.
const ROUNDS: usize = 2;

/// A change, and what a request is answered that begins after it.
struct Change {
    method: &'static str,
    path: String,
    document: Value,
    answer: &'static str,
}

/// Every kind of change after which requests are answered differently, so that each of them can be told from the one
/// before. It ends as it began, but for the key.
fn changes(key: &str) -> Vec<Change> {
    let change =
        |method, path: &str, document, answer| Change { method, path: path.replace("{key}", key), document, answer };
    let credential = "connections/crm/credentials/production";
    let secret = "secrets/KEY/values/production";
    let connection = json!({ "key": "crm", "integration": "crm" });
    vec![
        change("PUT", secret, json!({ "value": "2" }), "token-2 at api"),
        change("PUT", credential, json!({ "token": "other-@@SECRET:KEY@@" }), "other-2 at api"),
        change("PUT", "api-keys/{key}/scope", json!({ "methods": ["POST"] }), "not_permitted"),
        change("PUT", "api-keys/{key}/scope", json!({ "connections": ["x*"] }), "connection_unknown"),
        change("PUT", "api-keys/{key}/scope", json!({ "connections": null, "methods": null }), "other-2 at api"),
        change("PUT", "integrations/crm", integration(OTHER), "connection_needs_reconnect"),
        change("PUT", credential, json!({ "token": "token-3" }), "token-3 at other"),
        change("POST", "api-keys/{key}/suspend", Value::Null, "key_unknown"),
        change("POST", "api-keys/{key}/resume", Value::Null, "token-3 at other"),
        change("DELETE", credential, Value::Null, "credential_missing"),
        change("DELETE", "connections/crm?force=true", Value::Null, "connection_unknown"),
        change("POST", "connections", connection, "credential_missing"),
        change("PUT", "integrations/crm", integration(HOST), "credential_missing"),
        change("PUT", secret, json!({ "value": "1" }), "credential_missing"),
        change("PUT", credential, json!({ "token": "token-@@SECRET:KEY@@" }), "token-1 at api"),
    ]
}

/// The integration, whose paths tell at which host a request arrived.
fn integration(host: &str) -> Value {
    json!({ "slug": "crm", "base_url": format!("https://{host}/at/{host}"), "auth": [bearer()] })
}

/// An answer in a word: with which token and where the request arrived, or why it did not.
fn word(reply: &Reply) -> String {
    if let Some(code) = reply.header("sidekey-error") {
        return code.to_owned();
    }
    let echoed = reply.text();
    let (_, token) = echoed.split_once("Bearer ").unwrap_or_else(|| panic!("{} {echoed}", reply.status));
    let token = token.split('"').next().unwrap_or_default();
    format!("{token} at {}", if echoed.contains(OTHER) { "other" } else { "api" })
}

/// How far the changes are, for those who ask meanwhile.
#[derive(Default)]
struct Progress {
    begun: AtomicUsize,
    answered: AtomicUsize,
    requests: AtomicUsize,
}

/// Asks until all changes were made: what is answered must have been true at a moment between the beginning of the
/// request and its end.
async fn ask(mut client: Client, key: String, progress: Arc<Progress>, answers: Arc<Vec<&'static str>>) {
    let headers = [("Sidekey-Connection", "crm"), ("Sidekey-Key", key.as_str())];
    while progress.answered.load(Ordering::SeqCst) + 1 < answers.len() {
        let earliest = progress.answered.load(Ordering::SeqCst);
        client.request("GET", "/", &headers, "").await;
        let word = word(&client.response().await);
        let latest = progress.begun.load(Ordering::SeqCst);
        let allowed = &answers[earliest..=latest];
        assert!(allowed.contains(&word.as_str()), "change {earliest} was answered, and then: {word}, not {allowed:?}");
        progress.requests.fetch_add(1, Ordering::SeqCst);
    }
}

async fn make(admin: &Admin, changes: &[Change], progress: &Progress) {
    for change in changes {
        let until = progress.requests.load(Ordering::SeqCst) + BETWEEN;
        soon("more requests", async {
            while progress.requests.load(Ordering::SeqCst) < until {
                tokio::task::yield_now().await;
            }
        })
        .await;
        progress.begun.fetch_add(1, Ordering::SeqCst);
        let document = (!change.document.is_null()).then(|| change.document.clone());
        let reply = admin.call(change.method, &change.path, &[], document).await;
        assert!(reply.status < 300, "{} {}: {}", change.method, change.path, reply.text());
        progress.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// TN-08, AK-04, SE-08, CA-04.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_requests_see_every_change_that_was_answered_before_they_began_tn_08() {
    let (api, other) = (Sink::https().await, Sink::builder().tls(&[OTHER]).start().await);
    let server = Sidekey::with(|config| {
        config.listener("trust", "key").to(&api).pin(OTHER, other.addr).set("proxy.revoke_within", "never");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "integrations", integration(HOST)).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "secrets/KEY", json!({})).await;
    admin.must("PUT", "secrets/KEY/values/production", json!({ "value": "1" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "token-@@SECRET:KEY@@" })).await;
    let (id, key) = create(&admin, json!({ "name": "caller" })).await;
    let mut all: Vec<Change> = (0..ROUNDS).flat_map(|_| changes(&id)).collect();
    let revoke = format!("api-keys/{id}/revoke");
    all.push(Change { method: "POST", path: revoke, document: Value::Null, answer: "key_unknown" });

    let answers: Arc<Vec<_>> = Arc::new(["token-1 at api"].into_iter().chain(all.iter().map(|c| c.answer)).collect());
    let progress = Arc::new(Progress::default());
    let mut asking = Vec::new();
    for _ in 0..CLIENTS {
        let client = Client::connect(server.proxy()).await;
        asking.push(tokio::spawn(ask(client, key.clone(), Arc::clone(&progress), Arc::clone(&answers))));
    }
    make(&admin, &all, &progress).await;
    for client in asking {
        client.await.expect("answers that were true");
    }
    assert!(progress.requests.load(Ordering::SeqCst) >= 1_000);
    server.finish(&[]).await;
}
