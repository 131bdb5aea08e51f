//! The admin API: what is entered over it holds for the very next request, and never comes back.

use serde_json::{Value, json};

use crate::harness::admin::Admin;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

/// A second host, at the same sink.
const OTHER: &str = "other.example.test";

/// A server that reaches `sink` under two names, and is allowed to serve every customer.
async fn server(sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        config.to(sink).pin(OTHER, sink.addr).listener("customers", vec!["*"]);
    })
    .await
}

async fn sink() -> Sink {
    Sink::builder().tls(&[HOST, OTHER]).start().await
}

/// An integration whose only auth method is `auth`.
pub(crate) fn integration(slug: &str, auth: Value) -> Value {
    json!({ "slug": slug, "base_url": format!("https://{HOST}"), "auth": [auth] })
}

pub(crate) fn bearer() -> Value {
    json!({ "method": "main", "type": "bearer" })
}

/// An integration `crm` with a connection `crm`, without a credential.
async fn with_connection(admin: &Admin, auth: Value) {
    admin.must("POST", "integrations", integration("crm", auth)).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
}

async fn ask(server: &Sidekey, connection: &str) -> Reply {
    get(server.proxy(), "/v1/me", &[("Sidekey-Connection", connection)]).await
}

async fn asked(server: &Sidekey, connection: &str) -> (u16, String) {
    let reply = ask(server, connection).await;
    (reply.status, problem(&reply).code)
}

/// The code of a refusal by the admin port.
fn refused(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

/// Where the mistakes of a document are, in their order.
fn pointers(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 422, "{}", reply.text());
    let body = problem(reply).body;
    let errors = body["errors"].as_array().expect("a list of errors");
    errors.iter().map(|error| error["pointer"].as_str().expect("a pointer").to_owned()).collect()
}

#[tokio::test]
async fn a_connection_that_is_entered_works_for_the_very_next_request() {
    let (sink, first, second) = (sink().await, Canary::new("first"), Canary::spiky("second"));
    let server = server(&sink).await;
    let admin = server.admin();
    // That there is none is remembered by the proxy; creating it must make it forget.
    assert_eq!(asked(&server, "crm").await, (404, "connection_unknown".to_owned()));
    let made = admin.must("POST", "integrations", integration("crm", bearer())).await;
    assert_eq!((made.status, made.header("location")), (201, Some("/api/v1/integrations/crm")));
    let made = admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    assert_eq!((made.status, made.json()["auth"].as_str()), (201, Some("main")));
    let standing = made.json()["environments"]["production"].clone();
    assert_eq!((&standing["status"], &standing["fields"]), (&json!("incomplete"), &json!({ "token": false })));
    assert_eq!(asked(&server, "crm").await, (424, "credential_missing".to_owned()));

    for token in [&first, &second] {
        let put = admin.put("connections/crm/credentials/production", json!({ "token": token.text() })).await;
        assert_eq!((put.status, put.text().as_str()), (204, ""));
        assert_eq!(ask(&server, "crm").await.status, 200);
        let seen = sink.next_request().await;
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    }
    let shown = admin.get("connections/crm").await.json();
    let standing = &shown["environments"]["production"];
    assert_eq!((&standing["status"], &standing["fields"]), (&json!("active"), &json!({ "token": true })));
    assert_eq!(shown["environments"]["staging"]["status"], "incomplete");
    let shown = admin.get("connections/crm/credentials/production").await.json();
    assert_eq!((&shown["status"], &shown["fields"]), (&json!("active"), &json!({ "token": true })));

    assert_eq!(admin.delete("connections/crm/credentials/production").await.status, 204);
    assert_eq!(asked(&server, "crm").await, (424, "credential_missing".to_owned()));
    assert_eq!(refused(&admin.delete("connections/crm/credentials/production").await), (404, "not_found".to_owned()));
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": first.text() })).await;
    assert_eq!(ask(&server, "crm").await.status, 200);
    let id = shown_id(&admin, "connections/crm").await;
    assert_eq!(ask(&server, &id).await.status, 200);
    assert_eq!(admin.delete(&format!("connections/{id}")).await.status, 204);
    assert_eq!(asked(&server, "crm").await, (404, "connection_unknown".to_owned()));
    assert_eq!(asked(&server, &id).await, (404, "connection_unknown".to_owned()));
    assert_eq!(admin.get("connections/crm").await.status, 404);
    assert_eq!(sink.count(), 4);
    sink.assert_strict();
    server.finish(&[&first, &second]).await;
}

async fn shown_id(admin: &Admin, path: &str) -> String {
    admin.get(path).await.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_secret_that_is_replaced_is_replaced_in_the_next_request() {
    let (sink, first, second) = (sink().await, Canary::new("first"), Canary::new("second"));
    let server = server(&sink).await;
    let admin = server.admin();
    with_connection(&admin, bearer()).await;
    let reference = json!({ "token": "pre-@@SECRET:CRM@@" });
    admin.must("PUT", "connections/crm/credentials/production", reference).await;
    assert_eq!(asked(&server, "crm").await, (424, "secret_missing".to_owned()));
    assert_eq!(admin.put("secrets/CRM/values/production", json!({ "value": "x" })).await.status, 404);
    let made = admin.must("POST", "secrets", json!({ "key": "CRM", "description": "the CRM's token" })).await;
    assert_eq!((made.status, &made.json()["environments"]), (201, &json!([])));
    assert_eq!(asked(&server, "crm").await, (424, "secret_missing".to_owned()));

    for value in [&first, &second] {
        let put = admin.put("secrets/CRM/values/production", json!({ "value": value.text() })).await;
        assert_eq!((put.status, put.text().as_str()), (204, ""));
        assert_eq!(ask(&server, "crm").await.status, 200);
        let seen = sink.next_request().await;
        assert_eq!(seen.header("authorization"), Some(format!("Bearer pre-{}", value.text()).as_str()));
    }
    assert_eq!(admin.get("secrets/CRM").await.json()["environments"], json!(["production"]));
    // HI-01, where it can only be seen when it is resolved: a value that no header can carry is not sent.
    admin.must("PUT", "secrets/CRM/values/production", json!({ "value": "abc\r\nX-Evil: 1" })).await;
    assert_eq!(asked(&server, "crm").await, (424, "credential_corrupt".to_owned()));
    // A new description leaves the values alone.
    assert_eq!(admin.put("secrets/CRM", json!({ "description": "another" })).await.status, 200);
    assert_eq!(admin.get("secrets/CRM").await.json()["environments"], json!(["production"]));
    assert_eq!(admin.delete("secrets/CRM/values/production").await.status, 204);
    assert_eq!(asked(&server, "crm").await, (424, "secret_missing".to_owned()));
    let used = admin.delete("secrets/CRM").await;
    assert_eq!(refused(&used), (409, "conflict".to_owned()));
    assert!(problem(&used).detail.contains("refer to the secret CRM: crm;"), "{}", used.text());
    assert_eq!(admin.delete("secrets/CRM?force=true").await.status, 204);
    assert_eq!(admin.get("secrets/CRM").await.status, 404);
    assert_eq!(sink.count(), 2);
    server.finish(&[&first, &second]).await;
}

#[tokio::test]
async fn a_credential_stays_with_the_hosts_it_was_entered_for() {
    let (sink, token, other) = (sink().await, Canary::new("token"), Canary::new("other"));
    let server = server(&sink).await;
    let admin = server.admin();
    with_connection(&admin, bearer()).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    assert_eq!(ask(&server, "crm").await.status, 200);

    let here = integration("crm", bearer());
    let mut elsewhere = here.clone();
    elsewhere["base_url"] = format!("https://{OTHER}").into();
    let mut wider = here.clone();
    wider["hosts"] = json!([OTHER]);
    for changed in [&elsewhere, &wider] {
        assert_eq!(admin.put("integrations/crm", changed.clone()).await.status, 200);
        assert_eq!(asked(&server, "crm").await, (424, "connection_needs_reconnect".to_owned()));
        let shown = admin.get("connections/crm").await.json();
        assert_eq!(shown["environments"]["production"]["status"], "expired");
    }
    admin.must("PUT", "integrations/crm", here).await;
    assert_eq!(ask(&server, "crm").await.status, 200);
    assert_eq!(sink.count(), 2, "nothing was sent while the hosts were others");

    admin.must("PUT", "integrations/crm", elsewhere).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": other.text() })).await;
    assert_eq!(ask(&server, "crm").await.status, 200);
    let seen = sink.request_where("the other host", |seen| seen.header("host") == Some(OTHER)).await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", other.text()).as_str()));
    server.finish(&[&token, &other]).await;
}

#[tokio::test]
async fn the_values_of_a_connection_decide_its_host_and_bind_its_credential() {
    let (sink, token) = (sink().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    let mut desk = integration("desk", bearer());
    desk["base_url"] = "https://{{ name }}.example.test/v2".into();
    desk["fields"] = json!([{ "name": "name" }]);
    admin.must("POST", "integrations", desk).await;
    let connection = |name: &str| json!({ "integration": "desk", "values": { "name": name } });
    assert_eq!(admin.put("connections/desk", connection("api")).await.status, 201);
    admin.must("PUT", "connections/desk/credentials/production", json!({ "token": token.text() })).await;
    assert_eq!(ask(&server, "desk").await.status, 200);
    assert_eq!(sink.next_request().await.target, "/v2/v1/me");
    let id = shown_id(&admin, "connections/desk").await;
    assert_eq!(admin.put("connections/desk", connection("other")).await.status, 200);
    assert_eq!(asked(&server, "desk").await, (424, "connection_needs_reconnect".to_owned()));
    assert_eq!(shown_id(&admin, "connections/desk").await, id, "a replaced connection keeps its id");
    // What was read can be sent back.
    let shown = admin.get("connections/desk").await.json();
    assert_eq!(admin.put(&format!("connections/{id}"), shown).await.status, 200);
    for name in ["evil.test/", "a@evil.test", "a.b", "", "@@SECRET:K@@", "a\r\nb"] {
        assert_eq!(pointers(&admin.put("connections/desk", connection(name)).await), ["/values/name"], "{name:?}");
    }
    let unknown = json!({ "integration": "desk", "values": { "nam": "api" }, "auth": "nope" });
    assert_eq!(pointers(&admin.put("connections/desk", unknown).await), ["/auth", "/values/nam", "/values"]);
    let nowhere = json!({ "key": "x", "integration": "nope" });
    assert_eq!(pointers(&admin.post("connections", nowhere).await), ["/integration"]);
    assert_eq!(sink.count(), 1);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_customer_has_connections_of_its_own() {
    let (sink, own, acme) = (sink().await, Canary::new("own"), Canary::new("acme"));
    let server = server(&sink).await;
    let admin = server.admin();
    with_connection(&admin, bearer()).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": own.text() })).await;
    let made = admin.put("connections/crm?customer=acme", json!({ "integration": "crm" })).await;
    assert_eq!((made.status, made.json()["customer"].as_str()), (201, Some("acme")));
    admin.must("PUT", "connections/crm/credentials/production?customer=acme", json!({ "token": acme.text() })).await;
    for (headers, token) in [
        (&[("Sidekey-Connection", "crm")][..], &own),
        (&[("Sidekey-Connection", "crm"), ("Sidekey-Customer", "acme")], &acme),
    ] {
        assert_eq!(get(server.proxy(), "/", headers).await.status, 200);
        let seen = sink.next_request().await;
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    }
    let by_key = json!({ "integration": "crm", "customer": "acme" });
    assert_eq!(pointers(&admin.put("connections/crm", by_key).await), ["/customer"]);
    assert_eq!(admin.get("connections/crm?customer=nobody").await.status, 404);
    let id = shown_id(&admin, "connections/crm?customer=acme").await;
    assert_eq!(admin.get(&format!("connections/{id}?customer=nobody")).await.status, 404);
    let listed = |list: Value| list["items"].as_array().expect("items").len();
    assert_eq!(listed(admin.get("connections").await.json()), 2);
    assert_eq!(listed(admin.get("connections?customer=acme").await.json()), 1);
    assert_eq!(admin.delete("connections/crm?customer=acme").await.status, 204);
    assert_eq!(admin.get("connections/crm").await.status, 200, "the organization's own is another one");
    server.finish(&[&own, &acme]).await;
}

#[tokio::test]
async fn what_is_built_in_or_declared_is_shown_and_not_changed() {
    let (sink, token) = (Sink::https().await, Canary::new("declared"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text()).secret("SHARED", token.text());
    })
    .await;
    let admin = server.admin();
    assert_eq!(admin.get("integrations/github").await.json()["source"], "built_in");
    assert_eq!(admin.get("integrations/it-stripe").await.json()["source"], "declared");
    let shown = admin.get("connections/stripe").await.json();
    assert_eq!(
        (&shown["source"], &shown["environments"]["production"]["status"]),
        (&json!("declared"), &json!("active"))
    );
    assert_eq!(admin.get("secrets/SHARED").await.json()["source"], "declared");
    let taken = json!({ "key": "stripe", "integration": "it-stripe" });
    for (method, path, body) in [
        ("PUT", "integrations/github", Some(integration("github", bearer()))),
        ("POST", "integrations", Some(integration("github", bearer()))),
        ("DELETE", "integrations/github", None),
        ("PUT", "integrations/it-stripe", Some(integration("it-stripe", bearer()))),
        ("DELETE", "integrations/it-stripe", None),
        ("POST", "connections", Some(taken.clone())),
        ("PUT", "connections/stripe", Some(taken)),
        ("DELETE", "connections/stripe", None),
        ("PUT", "connections/stripe/credentials/production", Some(json!({ "token": "x" }))),
        ("DELETE", "connections/stripe/credentials/production", None),
        ("PUT", "secrets/SHARED/values/production", Some(json!({ "value": "x" }))),
        ("DELETE", "secrets/SHARED", None),
    ] {
        let reply = admin.call(method, path, &[], body).await;
        assert_eq!(refused(&reply), (409, "conflict".to_owned()), "{method} {path}");
        let detail = problem(&reply).detail;
        let why = if path == "integrations/github" { "is built in" } else { "is declared in the configuration" };
        assert!(detail.contains(why) || method == "POST", "{detail}");
    }
    assert_eq!(ask(&server, "stripe").await.status, 200);
    // A connection of one's own may use what is built in.
    admin.must("POST", "connections", json!({ "key": "gh", "integration": "github" })).await;
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn lists_show_everything_once_however_the_pages_are_cut() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("b", "t").bearer("d", "t").secret("B", "s").secret("D", "s");
    })
    .await;
    let admin = server.admin();
    for key in ["a", "c", "e"] {
        admin.must("POST", "integrations", integration(&format!("own-{key}"), bearer())).await;
        admin.must("POST", "connections", json!({ "key": key, "integration": "own-a" })).await;
        admin.must("POST", "connections", json!({ "key": key, "integration": "own-a", "customer": "a-b" })).await;
        admin.must("POST", "secrets", json!({ "key": key.to_uppercase() })).await;
    }
    for (resource, name, count) in [
        ("integrations", "slug", 35),
        ("connections", "key", 8),
        ("secrets", "key", 5),
        ("environments", "name", 3),
        ("organizations", "key", 1),
    ] {
        let whole = walk(&admin, resource, 200).await;
        assert_eq!(whole.len(), count, "{resource}");
        for limit in [1, 2, 3] {
            assert_eq!(walk(&admin, resource, limit).await, whole, "{resource} by {limit}");
        }
        let names: Vec<_> = whole.iter().map(|item| (item["customer"].as_str(), item[name].as_str())).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert!(resource == "environments" || names == sorted, "{resource}: {names:?}");
    }
    assert_eq!(walk(&admin, "connections?customer=a-b", 2).await.len(), 3, "only that customer's");
    server.finish(&[]).await;
}

async fn walk(admin: &Admin, resource: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let start = format!("{resource}{}limit={limit}", if resource.contains('?') { '&' } else { '?' });
    let mut path = start.clone();
    loop {
        let page = admin.get(&path).await.json();
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= limit && (!items.is_empty() || all.is_empty()));
        all.extend(items.iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        path = format!("{start}&cursor={next}");
    }
}

#[tokio::test]
async fn organizations_and_environments_are_made_and_deleted_when_empty() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let made = admin.must("POST", "organizations", json!({ "key": "acme", "name": "Acme Ltd" })).await;
    assert_eq!((made.status, made.json()["name"].as_str()), (201, Some("Acme Ltd")));
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(refused(&admin.post("organizations", json!({ "key": "acme" })).await), (409, "conflict".to_owned()));
    let names = |list: Value| {
        list["items"].as_array().expect("items").iter().map(|item| item["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        names(admin.get("environments?organization=acme").await.json()),
        ["development", "staging", "production"]
    );
    admin.must("POST", "environments?organization=acme", json!({ "name": "canary" })).await;
    assert_eq!(admin.get("environments/canary").await.status, 404, "it is another organization's");
    assert_eq!(
        refused(&admin.post(&format!("environments?organization={id}"), json!({ "name": "canary" })).await).0,
        409
    );

    admin.must("POST", "integrations?organization=acme", integration("crm", bearer())).await;
    assert_eq!(refused(&admin.delete("organizations/acme").await), (409, "conflict".to_owned()));
    assert_eq!(admin.delete("integrations/crm?organization=acme").await.status, 204);
    assert_eq!(admin.delete("environments/canary?organization=acme").await.status, 204);
    assert_eq!(admin.delete(&format!("organizations/{id}")).await.status, 204);
    assert_eq!(admin.get("organizations/acme").await.status, 404);
    assert_eq!(admin.get("environments?organization=acme").await.status, 404);
    let own = admin.delete("organizations/default").await;
    assert_eq!(refused(&own), (409, "conflict".to_owned()), "the admin key is in it");
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_belongs_to_one_organization_is_nothing_to_another_tn_01_tn_07() {
    let (sink, token) = (sink().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    with_connection(&admin, bearer()).await;
    let connection = shown_id(&admin, "connections/crm").await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
    admin.must("POST", "secrets", json!({ "key": "K" })).await;
    let unknown = admin.get("connections/conn_00000000000000000000000000?organization=acme").await;
    for (method, path, body) in [
        ("GET", format!("connections/{connection}"), None),
        ("GET", "connections/crm".to_owned(), None),
        ("DELETE", format!("connections/{connection}"), None),
        ("PUT", format!("connections/{connection}"), Some(json!({ "integration": "crm" }))),
        ("PUT", format!("connections/{connection}/credentials/production"), Some(json!({ "token": "x" }))),
        ("DELETE", format!("connections/{connection}/credentials/production"), None),
    ] {
        let reply = admin.call(method, &format!("{path}?organization=acme"), &[], body).await;
        assert_eq!((reply.status, reply.said()), (404, unknown.said()), "{method} {path}");
    }
    assert_eq!(admin.get("integrations/crm?organization=acme").await.status, 404);
    assert_eq!(admin.get("secrets/K?organization=acme").await.status, 404);
    assert_eq!(ask(&server, "crm").await.status, 200, "nothing has changed");
    // TN-07: nobody's organization is chosen by a body.
    let body = json!({ "key": "x", "integration": "crm", "organization": "acme", "id": connection });
    assert_eq!(pointers(&admin.post("connections", body).await), ["/organization"]);

    assert_eq!(refused(&admin.delete("environments/production").await), (409, "conflict".to_owned()));
    assert_eq!(refused(&admin.delete("integrations/crm").await), (409, "conflict".to_owned()));
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn everything_is_as_it_was_after_a_restart() {
    let (sink, token) = (sink().await, Canary::new("token"));
    let mut server = server(&sink).await;
    with_connection(&server.admin(), bearer()).await;
    server.admin().must("POST", "secrets", json!({ "key": "K" })).await;
    server.admin().must("PUT", "secrets/K/values/production", json!({ "value": token.text() })).await;
    server.admin().must("PUT", "connections/crm/credentials/production", json!({ "token": "@@SECRET:K@@" })).await;
    let before = server.admin().get("connections").await.json();
    server.restart().await;
    assert_eq!(server.admin().get("connections").await.json(), before);
    assert_eq!(ask(&server, "crm").await.status, 200);
    let seen = sink.next_request().await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    server.finish(&[&token]).await;
}
