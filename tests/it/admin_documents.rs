//! The admin API: what is written wrongly is refused, all of it at once, and nothing of it is stored or repeated.

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

/// Where the mistakes of a document are, in their order.
fn pointers(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let body = problem(reply).body;
    let errors = body["errors"].as_array().expect("a list of errors");
    errors.iter().map(|error| error["pointer"].as_str().expect("a pointer").to_owned()).collect()
}

fn api_key(place: &str, name: &str) -> Value {
    json!({ "method": "main", "type": "api_key", "in": place, "name": name })
}

/// An integration and a connection of the same key.
async fn connect(admin: &Admin, key: &str, auth: Value) {
    let mut integration = integration(key, auth);
    if integration["auth"][0]["in"] == "path" {
        integration["base_url"] = format!("https://{HOST}/bot{{key}}/x").into();
    }
    admin.must("POST", "integrations", integration).await;
    admin.must("POST", "connections", json!({ "key": key, "integration": key })).await;
}

#[tokio::test]
async fn every_mistake_of_a_document_is_told_at_once() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let document = json!({
        "slug": "CRM", "base_url": "http://api.example.test/a?b=c", "hosts": ["*.example.test", "ftp://x.test"], "tiemout": "5s",
        "fields": [{ "name": "region", "pattern": "[", "secret": "yes" }], "headers": { "Host": "x", "X-A": "{{ nope }}" },
        "auth": [{ "method": "main", "type": "api_key", "in": "header", "name": "X A" }, { "type": "beerer" }],
        "limit": { "per_second": 0 },
    });
    let reply = admin.post("integrations", document).await;
    insta::assert_json_snapshot!("integration", problem(&reply).snapshot);
    admin.must("POST", "integrations", integration("crm", bearer())).await;
    let document = json!({ "key": "conn_x", "auth": "a b", "values": { "X": "y", "z": 3 }, "limit": [], "customer": "a b", "colour": "red" });
    let reply = admin.post("connections", document).await;
    insta::assert_json_snapshot!("connection", problem(&reply).snapshot);
    let document = json!({ "key": "lower", "description": 3, "value": "is put apart" });
    insta::assert_json_snapshot!("secret", problem(&admin.post("secrets", document).await).snapshot);
    for key in ["crm", "conn_x", "lower"] {
        assert_eq!(admin.get(&format!("connections/{key}")).await.status, 404);
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_base_url_is_read_once_and_one_way_ex_09_ex_19_ex_20_se_10() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let mut document = integration("x", bearer());
    for url in [
        // EX-09: no clear text where nobody asked for it.
        "http://api.example.test",
        "HTTP://api.example.test",
        // EX-19
        "unix:/run/x",
        "file:///etc/passwd",
        "gopher://api.example.test",
        "ftp://api.example.test",
        "data:text/plain,x",
        "http+unix://%2Frun%2Fx/",
        "ws://api.example.test",
        "//api.example.test",
        "api.example.test",
        "",
        // EX-20
        "https://api.test\\@evil.test",
        "https://api.test#@evil.test",
        "https://api.test:443@evil.test",
        "https://api.test%2f@evil.test",
        "https://api.test%00.evil.test",
        "https://api\u{3002}test",
        "https://api.te\tst",
        "https://api.te\nst",
        "https://api.test.",
        "https://user:password@api.test",
        "https://api.test?x=1",
        "https://api.test/a/../b",
        "https://api.test/a\\b",
        "https:///api.test",
        // EX-22
        "https://api.test:0",
        "https://api.test:65536",
        // SE-10
        "https://@@SECRET:K@@.evil.test",
        "https://api.test:@@SECRET:PORT@@",
        "https://{{ nope }}.test",
        "{{ scheme }}://api.test",
    ] {
        document["base_url"] = url.into();
        assert_eq!(pointers(&admin.post("integrations", document.clone()).await)[0], "/base_url", "{url:?}");
    }
    assert_eq!(admin.get("integrations/x").await.status, 404);
    document["base_url"] = format!("https://{HOST}").into();
    for host in
        ["http://files.test", "*.test", "files.test/a", "files.test@evil.test", "@@SECRET:K@@.test", "{{ nope }}.test"]
    {
        document["hosts"] = json!([host]);
        assert!(pointers(&admin.post("integrations", document.clone()).await)[0].starts_with("/hosts"), "{host:?}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_host_that_was_taken_is_the_host_that_is_dialled_ex_20() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    let mut document = integration("x", json!({ "method": "main", "type": "none" }));
    for url in ["https://API.Example.TEST", "HTTPS://api.example.test:443/", "https://api.example.test///"] {
        document["base_url"] = url.into();
        admin.must("PUT", "integrations/x", document.clone()).await;
        admin.must("PUT", "connections/x", json!({ "integration": "x" })).await;
        assert_eq!(get(server.proxy(), "/me", &[("Sidekey-Connection", "x")]).await.status, 200, "{url}");
        let seen = sink.next_request().await;
        assert_eq!((seen.header("host"), &*seen.target), (Some(HOST), "/me"), "{url}");
        assert_eq!(sink.connection(seen.connection).sni.as_deref(), Some(HOST));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_header_that_frames_or_routes_is_not_for_a_credential_hi_04() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    for name in [
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "transfer_encoding",
        "Connection",
        "TE",
        "Upgrade",
        "X-Connection-Id",
        "Sidekey-Connection",
        "X-Forwarded-For",
        "X A",
        "",
        ":path",
        "X-A: b",
        "X-A\r\nX-B",
        "X-@@SECRET:K@@",
        "{{ name }}",
    ] {
        let reply = admin.post("integrations", integration("x", api_key("header", name))).await;
        assert_eq!(pointers(&reply), ["/auth/0/name"], "{name:?}");
        let mut document = integration("x", bearer());
        document["headers"] = json!({ name: "x" });
        let told = pointers(&admin.post("integrations", document).await);
        assert!(told[0].starts_with("/headers/"), "{name:?}: {told:?}");
    }
    assert_eq!(admin.get("integrations/x").await.status, 404);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_credential_that_cannot_be_sent_is_not_stored_hi_01_hi_07_hi_08() {
    let (sink, canary) = (Sink::https().await, Canary::new("refused"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    connect(&admin, "bearer", bearer()).await;
    connect(&admin, "basic", json!({ "method": "main", "type": "basic" })).await;
    connect(&admin, "cookie", api_key("cookie", "session")).await;
    connect(&admin, "path", api_key("path", "key")).await;
    let text = canary.text();
    let with = |tail: &str| format!("{text}{tail}");
    // HI-01
    for tail in ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u{7f}", " "] {
        let reply = put(&admin, "bearer", json!({ "token": with(tail) })).await;
        assert_eq!(pointers(&reply), ["/token"], "{tail:?}");
        let reply = put(&admin, "bearer", json!({ "token": format!("@@SECRET:K@@{tail}") })).await;
        assert_eq!(pointers(&reply), ["/token"], "beside a reference: {tail:?}");
    }
    let reply = put(&admin, "basic", json!({ "username": with(":"), "password": "p" })).await;
    assert_eq!(pointers(&reply), ["/username"]);
    let reply = put(&admin, "basic", json!({ "username": with("\n"), "password": with("\r") })).await;
    assert_eq!(pointers(&reply), ["/password", "/username"]);
    // HI-07
    for tail in [";", ",", " ", "\r", "\"", "é"] {
        assert_eq!(pointers(&put(&admin, "cookie", json!({ "api_key": with(tail) })).await), ["/api_key"], "{tail:?}");
    }
    // HI-08
    for value in
        [with("/x"), with("?"), with("#"), with("%2e"), with("\\"), with("\n"), "..".into(), ".".into(), "..;".into()]
    {
        assert_eq!(pointers(&put(&admin, "path", json!({ "api_key": value })).await), ["/api_key"], "{value:?}");
    }
    for key in ["bearer", "basic", "cookie", "path"] {
        let shown = admin.get(&format!("connections/{key}/credentials/production")).await.json();
        assert_eq!(shown["status"], "incomplete", "{key}: nothing was stored");
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", key)]).await;
        assert_eq!(problem(&reply).code, "credential_missing");
    }
    assert_eq!(sink.count(), 0);
    // What a path can carry when it is encoded is encoded (HI-08 asks for a refusal; CONTRACT 2.5 for this).
    admin.must("PUT", "connections/path/credentials/production", json!({ "api_key": with(":@ x") })).await;
    assert_eq!(get(server.proxy(), "/me", &[("Sidekey-Connection", "path")]).await.status, 200);
    assert_eq!(sink.next_request().await.target, format!("/bot{text}:%40%20x/x/me"));
    server.finish(&[&canary]).await;
}

async fn put(admin: &Admin, connection: &str, body: Value) -> Reply {
    admin.put(&format!("connections/{connection}/credentials/production"), body).await
}

#[tokio::test]
async fn a_credential_has_the_fields_of_its_auth_method_and_texts_in_them() {
    let canary = Canary::new("misplaced");
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let mut fields = integration(
        "fields",
        json!({
            "method": "main", "type": "custom",
            "fields": [{ "name": "account", "pattern": "ac_[0-9]+" }, { "name": "key", "secret": true }, { "name": "extra", "required": false }],
            "inject": [{ "in": "header", "name": "X-Key", "value": "{{ account }}:{{ key }}" }],
        }),
    );
    fields["auth"].as_array_mut().expect("auth").push(json!({ "method": "open", "type": "none" }));
    admin.must("POST", "integrations", fields).await;
    admin.must("POST", "connections", json!({ "key": "f", "integration": "fields", "auth": "main" })).await;
    admin.must("POST", "connections", json!({ "key": "open", "integration": "fields", "auth": "open" })).await;
    let text = canary.text();
    let reply = put(&admin, "f", json!({ "account": text, "tokn": text, "a/b~c": text })).await;
    insta::assert_json_snapshot!("credential", problem(&reply).snapshot);
    for (wrong, found) in [
        (json!({ "env": "TOKEN" }), "a table"),
        (json!({ "file": "/etc/passwd" }), "a table"),
        (json!([text]), "a list"),
        (json!(12), "a number"),
        (json!(true), "true or false"),
        (Value::Null, "nothing"),
    ] {
        let reply = put(&admin, "f", json!({ "account": "ac_1", "key": wrong })).await;
        assert_eq!(pointers(&reply), ["/key"]);
        assert!(reply.text().contains(found), "{}", reply.text());
    }
    assert_eq!(pointers(&put(&admin, "f", json!({ "account": "ac_1", "key": "" })).await), ["/key"]);
    assert_eq!(pointers(&put(&admin, "f", json!({ "account": "ac_1", "key": "x".repeat(65_537) })).await), ["/key"]);
    assert_eq!(
        pointers(&put(&admin, "f", json!({ "account": "ac_1", "key": "x".repeat(9_000) })).await),
        ["/key"],
        "SE-05: no header is so long"
    );
    assert_eq!(pointers(&put(&admin, "f", json!({ "account": "ac_1", "key": "@@SECRET:lower@@" })).await), ["/key"]);
    for body in [json!(text), json!([text]), json!(3), Value::Null] {
        assert_eq!(pointers(&put(&admin, "f", body).await), [""]);
    }
    assert_eq!(pointers(&put(&admin, "open", json!({ "token": text })).await), ["/token"]);
    assert_eq!(admin.get("connections/open").await.json()["environments"]["production"]["status"], "active");
    // A pattern cannot judge what a secret will hold.
    admin
        .must("PUT", "connections/f/credentials/production", json!({ "account": "@@SECRET:ACCOUNT@@", "key": text }))
        .await;
    let shown = admin.get("connections/f/credentials/production").await.json();
    let set = json!({ "account": true, "key": true, "extra": false });
    assert_eq!((&shown["status"], &shown["fields"]), (&json!("error"), &set), "that secret has no value yet");
    for path in [
        "connections/f/credentials/nowhere",
        "connections/f/credentials/No%20Where",
        "connections/nope/credentials/production",
    ] {
        assert_eq!(admin.put(path, json!({ "account": "ac_1", "key": text })).await.status, 404, "{path}");
        assert_eq!(admin.get(path).await.status, 404, "{path}");
    }
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_secret_has_one_value_which_is_a_text() {
    let canary = Canary::new("misplaced");
    let server = Sidekey::with(|_| {}).await;
    let (admin, text) = (server.admin(), canary.text());
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    for (body, told) in [
        (json!({}), ""),
        (json!({ "value": "" }), "/value"),
        (json!({ "value": { "env": "X" } }), "/value"),
        (json!({ "value": "x".repeat(65_537) }), "/value"),
        (json!({ "value": "x", "other": text }), "/other"),
    ] {
        assert_eq!(pointers(&admin.put("secrets/K/values/production", body).await), [told]);
    }
    server.finish(&[&canary]).await;
}
