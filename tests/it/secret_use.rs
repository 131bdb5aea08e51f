//! Who may lead a secret somewhere: whoever enters a reference to one says where it goes, so that takes a permission; and
//! nothing but a credential refers to one at all.

use serde_json::{Value, json};

use crate::admin::bearer;
use crate::api_keys::create;
use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

/// A host that somebody else chose, at the same sink.
const CHOSEN: &str = "chosen.example.test";
const REFERENCE: &str = "@@SECRET:K@@";

/// A server that reaches the sink under two names, with a listener for keys.
async fn server(sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        config.to(sink).pin(CHOSEN, sink.addr);
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await
}

async fn sink() -> Sink {
    Sink::builder().tls(&[HOST, CHOSEN]).start().await
}

/// The secret `K`, and an integration whose connections say which host they lead to.
async fn enter(admin: &Admin, secret: &Canary) {
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    admin.must("PUT", "secrets/K/values/production", json!({ "value": secret.text() })).await;
    let login = json!({ "method": "login", "type": "basic" });
    let document = json!({
        "slug": "desk", "base_url": "https://{{ host }}", "auth": [bearer(), login],
        "fields": [{ "name": "host", "pattern": "[a-z.]+" }], "test": { "method": "GET", "path": "/me" },
    });
    admin.must("POST", "integrations", document).await;
}

/// Somebody of this role, and a key of theirs that may call too.
async fn somebody(server: &Sidekey, name: &str, role: &str) -> (Admin, String, String) {
    let admin = server.admin();
    let user = json!({ "email": format!("{name}@example.test"), "roles": [role] });
    let invited = admin.must("POST", "users", user).await.json();
    let id = invited["id"].as_str().expect("an id").to_owned();
    let scope = json!({ "connections": ["*"] });
    let key =
        json!({ "name": name, "roles": [role, "caller"], "owner": id, "environment": "production", "scope": scope });
    let (_, key) = create(&admin, key).await;
    (admin.with_key(&key), id, key)
}

fn to(host: &str) -> Value {
    json!({ "key": "mine", "integration": "desk", "auth": "main", "values": { "host": host } })
}

/// What is told to somebody who may not refer to a secret: where it stands, in the order of the document.
fn ungranted(reply: &Reply) -> Vec<String> {
    let told = problem(reply);
    assert_eq!((told.status, told.code.as_str()), (403, "role_insufficient"), "{}", reply.text());
    assert!(told.detail.contains("secrets.use"), "{}", told.detail);
    let errors = told.body["errors"].as_array().expect("errors").clone();
    errors.iter().map(|error| error["pointer"].as_str().expect("a pointer").to_owned()).collect()
}

/// Where the mistakes of a document are.
fn pointers(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let errors = problem(reply).body["errors"].clone();
    errors.as_array().expect("errors").iter().map(|error| error["pointer"].as_str().expect("one").to_owned()).collect()
}

#[tokio::test]
async fn a_member_leads_no_secret_to_a_host_of_their_choice_tn_06() {
    let (sink, secret, token) = (sink().await, Canary::new("secret"), Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &secret).await;
    let (ada, _, key) = somebody(&server, "ada", "member").await;
    ada.must("POST", "connections", to(CHOSEN)).await;
    let path = "connections/mine/credentials/production";
    let mut told = Vec::new();
    for value in [REFERENCE, "Token @@SECRET:K@@!", "@@SECRET:NOBODYS@@"] {
        let reply = ada.put(path, json!({ "token": value })).await;
        assert_eq!(ungranted(&reply), ["/token"], "{value}");
        told.push(problem(&reply).snapshot);
    }
    told.dedup();
    assert_eq!(told.len(), 1, "whether there is such a secret is not told");
    // In every field, also one that is not secret itself.
    ada.must(
        "PUT",
        "connections/mine",
        json!({ "integration": "desk", "auth": "login", "values": { "host": CHOSEN } }),
    )
    .await;
    let both = json!({ "username": REFERENCE, "password": REFERENCE });
    assert_eq!(ungranted(&ada.put(path, both).await), ["/password", "/username"]);
    ada.must("PUT", "connections/mine", to(CHOSEN)).await;
    assert_eq!(ada.post("connections/mine/test", json!({ "environment": "production" })).await.json()["passed"], false);
    let tags = [("Sidekey-Connection", "mine"), ("Sidekey-Key", &*key)];
    assert_eq!(problem(&get(&server.proxies[1], "/", &tags).await).code, "credential_missing");
    assert_eq!(sink.count(), 0);
    // What they have themselves they enter.
    ada.must("PUT", path, json!({ "token": token.text() })).await;
    assert_eq!(get(&server.proxies[1], "/", &tags).await.status, 200);
    assert_eq!(sink.next_request().await.header("authorization"), Some(&*format!("Bearer {}", token.text())));
    server.finish(&[&secret, &token]).await;
}

#[tokio::test]
async fn a_connection_that_is_given_to_a_member_takes_its_secret_nowhere_else() {
    let (sink, secret) = (sink().await, Canary::new("secret"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &secret).await;
    let (eve, eve_id, _) = somebody(&server, "eve", "editor").await;
    let (ada, ada_id, key) = somebody(&server, "ada", "member").await;
    // An editor may refer to it, for secrets are theirs to manage.
    eve.must("POST", "connections", to(HOST)).await;
    assert_eq!(eve.get("connections/mine").await.json()["owner"], &*eve_id);
    eve.must("PUT", "connections/mine/credentials/production", json!({ "token": REFERENCE })).await;
    let mut given = to(HOST);
    given["owner"] = json!(&*ada_id);
    admin.must("PUT", "connections/mine", given).await;
    let ask = async || get(&server.proxies[1], "/", &[("Sidekey-Connection", "mine"), ("Sidekey-Key", &*key)]).await;
    assert_eq!(ask().await.status, 200);
    assert_eq!(sink.next_request().await.header("authorization"), Some(&*format!("Bearer {}", secret.text())));
    // Its owner leads it elsewhere, and what was entered stays behind.
    ada.must("PUT", "connections/mine", to(CHOSEN)).await;
    assert_eq!(problem(&ask().await).code, "connection_needs_reconnect");
    assert_eq!(ada.post("connections/mine/test", json!({ "environment": "production" })).await.json()["passed"], false);
    let again = ada.put("connections/mine/credentials/production", json!({ "token": REFERENCE })).await;
    assert_eq!(ungranted(&again), ["/token"]);
    assert_eq!(sink.count(), 1);
    server.finish(&[&secret]).await;
}

#[tokio::test]
async fn a_host_that_is_changed_back_is_the_one_that_the_credential_was_entered_for() {
    let (sink, token) = (sink().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &token).await;
    admin.must("POST", "connections", to(HOST)).await;
    admin.must("PUT", "connections/mine/credentials/production", json!({ "token": token.text() })).await;
    let ask = async || get(server.proxy(), "/", &[("Sidekey-Connection", "mine")]).await;
    let status = async || admin.get("connections/mine").await.json()["environments"]["production"]["status"].clone();
    assert_eq!((ask().await.status, status().await), (200, json!("active")));
    admin.must("PUT", "connections/mine", to(CHOSEN)).await;
    assert_eq!((ask().await.status, status().await), (424, json!("expired")));
    admin.must("PUT", "connections/mine", to(HOST)).await;
    assert_eq!((ask().await.status, status().await), (200, json!("active")));
    let hosts: Vec<_> = sink.requests().iter().map(|seen| seen.header("host").map(str::to_owned)).collect();
    assert_eq!(hosts, [Some(HOST.to_owned()), Some(HOST.to_owned())]);
    server.finish(&[&token]).await;
}

/// SE-10: what says where a request goes is plain text, whoever writes it.
#[tokio::test]
async fn nothing_but_a_credential_refers_to_a_secret_se_10() {
    let (sink, secret) = (sink().await, Canary::new("secret"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &secret).await;
    assert_eq!(pointers(&admin.post("connections", to(REFERENCE)).await), ["/values/host"]);
    let values = json!({ "values": { "host": REFERENCE } });
    assert_eq!(pointers(&admin.put("integrations/desk/values", values).await), ["/values/host"]);
    let import = json!({ "version": 1, "integrations": [], "connections": [to(REFERENCE)] });
    assert_eq!(pointers(&admin.post("import", import).await), ["/connections/0"]);
    let with = |change: Value| {
        let mut document = json!({
            "slug": "x", "base_url": "https://{{ host }}", "auth": [bearer()],
            "fields": [{ "name": "host", "pattern": ".+" }],
        });
        for (name, value) in change.as_object().expect("a table") {
            document[name] = value.clone();
        }
        document
    };
    for (pointer, change) in [
        ("/base_url", json!({ "base_url": "https://@@SECRET:K@@.example.test" })),
        ("/base_url", json!({ "base_url": "https://{{ host }}/@@SECRET:K@@" })),
        ("/hosts/0", json!({ "hosts": ["@@SECRET:K@@.example.test"] })),
        ("/headers", json!({ "headers": { "X-Key": REFERENCE } })),
        ("/fields/0/default", json!({ "fields": [{ "name": "host", "pattern": ".+", "default": REFERENCE }] })),
    ] {
        assert_eq!(pointers(&admin.post("integrations", with(change.clone())).await), [pointer], "{change}");
    }
    // Where the field takes any text, too.
    admin.must("POST", "integrations", with(json!({}))).await;
    let wide = json!({ "key": "x", "integration": "x", "values": { "host": REFERENCE } });
    assert_eq!(pointers(&admin.post("connections", wide).await), ["/values/host"]);
    // A test request of an integration is sent as it is written, and a template holds none.
    let method = |template: &str| json!({ "method": "main", "type": "bearer", "template": template });
    let literal = |template: &str| {
        json!({
            "slug": "y", "base_url": format!("https://{HOST}"), "auth": [method(template)],
            "test": { "method": "POST", "path": "/@@SECRET:K@@", "body": "\"@@SECRET:K@@\"" },
        })
    };
    assert_eq!(pointers(&admin.post("integrations", literal("Bearer {{ token }} @@SECRET:K@@")).await), ["/auth/0"]);
    admin.must("POST", "integrations", literal("Bearer {{ token }}")).await;
    admin.must("POST", "connections", json!({ "key": "y", "integration": "y" })).await;
    admin.must("PUT", "connections/y/credentials/production", json!({ "token": "t" })).await;
    admin.must("POST", "connections/y/test", json!({ "environment": "production" })).await;
    let seen = sink.next_request().await;
    assert_eq!((&*seen.target, &*seen.text()), ("/@@SECRET:K@@", "\"@@SECRET:K@@\""));
    assert_eq!(seen.header("authorization"), Some("Bearer t"));
    server.finish(&[&secret]).await;
}
