//! From a server without anything to a connection that somebody has signed in for.

use serde_json::{Value, json};

use super::{AUTHORIZER, Answer, Authorizer, CLIENT};
use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Browser, Reply, Sidekey, Sink, get};

/// Where the connection's credential in production is entered.
pub const CREDENTIAL: &str = "connections/crm/credentials/production";

/// A server that reaches the authorization server and `sink`, and has nothing of its own.
pub async fn server(authorizer: &Authorizer, sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        authorizer.pin(config.to(sink));
    })
    .await
}

/// The auth method `main` at the authorization server, with `more` in it; what is null there is left out.
pub fn method(more: &Value) -> Value {
    let mut method = json!({
        "method": "main",
        "type": "oauth2",
        "authorize_url": format!("https://{AUTHORIZER}/authorize"),
        "token_url": format!("https://{AUTHORIZER}/token"),
        "revoke_url": format!("https://{AUTHORIZER}/revoke"),
        "scopes": ["read", "write"],
    });
    let all = method.as_object_mut().expect("an object");
    for (name, value) in more.as_object().expect("an object") {
        all.insert(name.clone(), value.clone());
    }
    all.retain(|_, value| !value.is_null());
    method
}

/// The same by client credentials: there is nobody who could sign in.
pub fn client_credentials(more: &Value) -> Value {
    let mut method = method(more);
    let all = method.as_object_mut().expect("an object");
    all.remove("authorize_url");
    all.insert("grant".to_owned(), "client_credentials".into());
    method
}

/// An integration `slug` whose only auth method is this.
pub fn integration(slug: &str, method: &Value) -> Value {
    json!({ "slug": slug, "base_url": format!("https://{HOST}"), "auth": [method], "test": { "path": "/me" } })
}

/// What is entered of [`CLIENT`].
pub fn client(authorizer: &Authorizer) -> Value {
    json!({ "client_id": CLIENT, "client_secret": authorizer.secret.text() })
}

/// The integration and connection `crm`, with `credential` entered in production.
pub async fn connect(admin: &Admin, method: &Value, credential: Value) {
    connect_as(admin, "crm", method, credential).await;
}

/// The same under another name.
pub async fn connect_as(admin: &Admin, key: &str, method: &Value, credential: Value) {
    admin.must("POST", "integrations", integration(key, method)).await;
    admin.must("POST", "connections", json!({ "key": key, "integration": key })).await;
    admin.must("PUT", &format!("connections/{key}/credentials/production"), credential).await;
}

/// A connection `crm` of [`CLIENT`] that nobody has signed in for yet.
pub async fn connected(authorizer: &Authorizer, sink: &Sink) -> Sidekey {
    let server = server(authorizer, sink).await;
    connect(&server.admin(), &method(&json!({})), client(authorizer)).await;
    server
}

/// A connection `crm` that somebody has signed in for, in a browser that is forgotten.
pub async fn signed_in(authorizer: &Authorizer, sink: &Sink) -> Sidekey {
    let server = connected(authorizer, sink).await;
    sign_in(&server, authorizer, "crm").await;
    server
}

/// Begins a sign-in as an administrator with a key does, and gives what was answered.
pub async fn begin(server: &Sidekey, connection: &str, body: Value) -> Value {
    server.admin().must("POST", &format!("connections/{connection}/authorize"), body).await.json()
}

/// Signs in for `connection` in production, in a new browser: from the address that is handed on to the page at the end.
pub async fn sign_in(server: &Sidekey, authorizer: &Authorizer, connection: &str) -> Browser {
    let begun = begin(server, connection, json!({ "environment": "production" })).await;
    let mut browser = Browser::new(server);
    let address = follow(&mut browser, &begun).await;
    let reply = come_back(&mut browser, &authorizer.consent(&address)).await;
    assert_eq!(reply.status, 303, "{}", reply.text());
    browser
}

/// Opens the address that was handed on, presses the button there, and gives the address at the provider to which it
/// leads.
pub async fn follow(browser: &mut Browser, begun: &Value) -> String {
    let start = path(begun["start_url"].as_str().expect("a start_url"));
    let page = browser.open(start).await;
    assert_eq!(page.status, 200, "{}", page.text());
    let reply = browser.call("POST", start, None).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["authorize_url"].as_str().expect("a provider to go to").to_owned()
}

/// The provider's page leads back.
pub async fn come_back(browser: &mut Browser, answer: &Answer) -> Reply {
    browser.open_from_elsewhere(&answer.path).await
}

/// The path and query of an address.
pub fn path(address: &str) -> &str {
    let after = address.split_once("://").expect("an absolute address").1;
    &after[after.find('/').expect("a path")..]
}

/// A request over `crm`.
pub async fn ask(server: &Sidekey) -> Reply {
    get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await
}

/// What the upstream was shown last.
#[track_caller]
pub fn shown(sink: &Sink) -> String {
    let seen = sink.requests().pop().expect("a request");
    seen.header("authorization").expect("a credential").to_owned()
}

/// How the credential of `crm` in production stands.
pub async fn standing(server: &Sidekey) -> Value {
    let reply = server.admin().get(CREDENTIAL).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// The events of this kind, the newest first.
pub async fn events(server: &Sidekey, action: &str) -> Vec<Value> {
    let found = server.admin().get(&format!("audit?action={action}")).await.json();
    found["items"].as_array().expect("events").clone()
}
