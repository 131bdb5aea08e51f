//! What a caller may name: environments, customers and connections, and the one answer for everything that is not there.

use serde_json::json;

use crate::attack::{Stage, TAG};
use crate::harness::client::get;
use crate::harness::config::Config;
use crate::harness::{Canary, Reply, Sidekey, Sink, problem};

/// A declared connection of a customer.
fn customer(config: &mut Config, key: &str, integration: &str, customer: &str, token: &str) {
    config.connection(&[
        ("key", key.into()),
        ("integration", integration.into()),
        ("auth", "main".into()),
        ("customer", customer.into()),
    ]);
    config.credential(&[("token", token)]);
}

fn sent(reply: &Reply) -> String {
    let echo = reply.json();
    let headers = echo["headers"].as_array().cloned().unwrap_or_default();
    let bearer = headers.iter().find(|field| field[0] == "authorization").map(|field| field[1].clone());
    bearer.and_then(|value| Some(value.as_str()?.trim_start_matches("Bearer ").to_owned())).unwrap_or_default()
}

#[tokio::test]
async fn an_environment_is_the_requests_else_the_listeners_and_never_another() {
    let sink = Sink::https().await;
    let (production, staging) = (Canary::new("production"), Canary::new("staging"));
    let server = Sidekey::with(|config| {
        config.listener("environments", vec!["production", "staging", "development"]);
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("environment", "staging".into()),
        ]);
        config.to(&sink).bearer("c1", production.text());
        config.environment("staging").credential(&[("token", staging.text())]);
    })
    .await;
    let ask = async |listener: usize, environment: Option<&str>| {
        let mut headers = vec![("Sidekey-Connection", "c1")];
        headers.extend(environment.map(|name| ("Sidekey-Environment", name)));
        get(&server.proxies[listener], "/x", &headers).await
    };
    for (listener, environment, expected) in [
        (0, None, &production),
        (0, Some("production"), &production),
        (0, Some("staging"), &staging),
        (1, None, &staging),
        (1, Some("staging"), &staging),
    ] {
        assert_eq!(sent(&ask(listener, environment).await), expected.text(), "{listener} {environment:?}");
    }
    let before = sink.count();
    // Without a credential there, it is nobody else's turn.
    let reply = ask(0, Some("development")).await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (424, Some("credential_missing")));
    assert_eq!(reply.json()["environment"], "development");
    // Only what the listener permits, which is its own where it says nothing; unknown names answer the same.
    for (listener, environment) in [(1, "production"), (1, "development"), (1, "no-such"), (0, "no-such")] {
        let reply = ask(listener, Some(environment)).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (403, Some("environment_not_permitted")));
        assert!(!reply.text().contains(environment), "{}", reply.text());
    }
    assert_eq!(sink.count(), before);
    server.finish(&[&production, &staging]).await;
}

#[tokio::test]
async fn a_customer_gets_its_own_connection_and_the_organizations_only_where_that_is_allowed() {
    let sink = Sink::https().await;
    let [own, other, shared, lone] = ["own", "other", "shared", "lone"].map(Canary::new);
    let server = Sidekey::with(|config| {
        config.listener("customers", vec!["acme", "beta-*"]).to(&sink);
        config.bearer("crm", shared.text()).integration_key("customer_fallback", true);
        customer(config, "crm", "it-crm", "acme", own.text());
        customer(config, "crm", "it-crm", "gamma", other.text());
        config.bearer("mail", lone.text());
    })
    .await;
    let ask = async |connection: &str, customer: Option<&str>| {
        let mut headers = vec![("Sidekey-Connection", connection)];
        headers.extend(customer.map(|name| ("Sidekey-Customer", name)));
        get(server.proxy(), "/x", &headers).await
    };
    assert_eq!(sent(&ask("crm", None).await), shared.text());
    assert_eq!(sent(&ask("crm", Some("acme")).await), own.text());
    assert_eq!(sent(&ask("crm", Some("beta-1")).await), shared.text(), "the integration says customer_fallback");
    assert_eq!(sent(&ask("mail", None).await), lone.text());
    let before = sink.count();
    for (connection, customer) in
        [("mail", "acme"), ("mail", "beta-1"), ("crm", "gamma"), ("crm", "ACME"), ("none", "acme")]
    {
        let reply = ask(connection, Some(customer)).await;
        let told = (reply.status, reply.header("sidekey-error"));
        assert_eq!(told, (404, Some("connection_unknown")), "{connection} {customer}");
    }
    assert_eq!(sink.count(), before);
    server.finish(&[&own, &other, &shared, &lone]).await;
}

/// CONTRACT §2.2: only the request id tells these answers apart.
#[tokio::test]
async fn everything_that_is_not_there_for_this_caller_answers_the_same() {
    let sink = Sink::https().await;
    let [hidden, foreign] = ["hidden", "foreign"].map(Canary::new);
    let server = Sidekey::with(|config| {
        config.listener("connections", vec!["open-*"]).listener("customers", vec!["acme"]).to(&sink);
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("customers", vec!["*"].into()),
        ]);
        config.bearer("open-crm", "t").bearer("hidden", hidden.text());
        customer(config, "open-crm", "it-open-crm", "gamma", foreign.text());
    })
    .await;
    // Their ids, as one learns them who may use them.
    let mut ids = Vec::new();
    for headers in [
        vec![("Sidekey-Connection", "hidden")],
        vec![("Sidekey-Connection", "open-crm"), ("Sidekey-Customer", "gamma")],
    ] {
        let reply = get(&server.proxies[1], "/x", &headers).await;
        assert_eq!(reply.status, 200);
        ids.push(id_of_latest(&server, ids.len() + 1).await);
    }
    // An id does not get round the customer that is named beside it, where both are in the scope.
    let headers = [("Sidekey-Connection", &*ids[1]), ("Sidekey-Customer", "acme")];
    assert_eq!(get(&server.proxies[1], "/x", &headers).await.status, 404);
    let before = sink.count();
    let mut answers = Vec::new();
    for (connection, customer) in [
        ("no-such", None),
        ("hidden", None),
        ("open-no-such", None),
        (&*ids[0], None),
        (&*ids[1], None),
        ("conn_01j9zzzzzzzzzzzzzzzzzzzzzz", None),
        ("open-crm", Some("gamma")),
        ("open-crm", Some("acme")),
        ("open-crm", Some("nobody")),
        (&*ids[1], Some("acme")),
        (&*ids[1], Some("gamma")),
        ("hidden", Some("acme")),
    ] {
        let mut headers = vec![("Sidekey-Connection", connection)];
        headers.extend(customer.map(|name| ("Sidekey-Customer", name)));
        let mut reply = get(server.proxy(), "/x", &headers).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (404, Some("connection_unknown")));
        let id = reply.header("sidekey-request-id").expect("a request id").to_owned();
        for (_, value) in &mut reply.headers {
            *value = value.replace(&id, "[request id]");
        }
        reply.headers.retain(|(name, _)| name != "date");
        answers.push((reply.headers.clone(), reply.text().replace(&id, "[request id]")));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert_eq!(sink.count(), before);
    server.finish(&[&hidden, &foreign]).await;
}

async fn id_of_latest(server: &Sidekey, count: usize) -> String {
    let lines = server.access_lines(count).await;
    lines[count - 1]["connection_id"].as_str().expect("a connection's id").to_owned()
}

#[tokio::test]
async fn a_scope_names_connections_by_key_glob_or_id() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        // A glob names ids only where it begins as they do, and each of them has `_0` in it.
        config.listener("connections", vec!["crm-*", "mail", "co*", "*_0*"]).to(&sink);
        for key in ["crm-eu", "crm-us", "crm", "mail", "mail2"] {
            config.bearer(key, "t");
        }
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("connections", Vec::<toml::Value>::new().into()),
        ]);
    })
    .await;
    for (key, status) in [("crm-eu", 200), ("crm-us", 200), ("mail", 200), ("crm", 404), ("mail2", 404)] {
        assert_eq!(get(server.proxy(), "/x", &[("Sidekey-Connection", key)]).await.status, status, "{key}");
        assert_eq!(get(&server.proxies[1], "/x", &[("Sidekey-Connection", key)]).await.status, 404, "{key}");
    }
    assert_eq!(sink.count(), 3);
    server.finish(&[]).await;
}

/// CONTRACT §2.6: a request that is wrong in every way is told of one thing after the other, in this order.
#[tokio::test]
async fn decisions_come_in_the_order_of_the_contract() {
    let stage = Stage::with(|config| {
        config.set("upstream.allow_networks", Vec::<&str>::new());
        let auth = crate::harness::config::table(&[("method", "main".into()), ("type", "bearer".into())]);
        config.integration(&[
            ("slug", "empty".into()),
            ("base_url", "https://api.example.test".into()),
            ("auth", vec![auth].into()),
        ]);
        config.connection(&[("key", "empty".into()), ("integration", "empty".into()), ("auth", "main".into())]);
    })
    .await;
    let wrong = [
        ("request_malformed", "Host: localhost\r\n"),
        ("browser_request", "Origin: http://evil.test\r\n"),
        ("key_unknown", "Sidekey-Key: apk_x\r\n"),
        ("environment_not_permitted", "Sidekey-Environment: no-such\r\n"),
        ("connection_unknown", "Sidekey-Connection: nobody\r\n"),
        ("host_not_allowed", "Sidekey-Upstream: evil.test\r\n"),
        ("credential_missing", ""),
    ];
    for first in 0..wrong.len() {
        let (code, _) = wrong[first];
        let mut lines: String = wrong[first..].iter().map(|(_, line)| *line).collect();
        if first > 4 {
            lines += "Sidekey-Connection: empty\r\n";
        }
        let text = format!("GET /p HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n");
        // Two hosts are what only HTTP/1.1 can say.
        let outcome = if first == 0 { stage.attack(text).await } else { stage.ask(text).await };
        assert_eq!(outcome.code(), Some(code), "{outcome:?}");
    }
    // What is malformed comes before the method, the method before everything that depends on who asks.
    let outcome = stage.ask(format!("TRACE /p HTTP/1.1\r\n{TAG}Origin: http://evil.test\r\n\r\n")).await;
    assert_eq!(outcome.code(), Some("method_refused"));
    let outcome = stage.ask(format!("GET /../p HTTP/1.1\r\n{TAG}Origin: http://evil.test\r\n\r\n")).await;
    assert_eq!(outcome.code(), Some("target_invalid"));
    let outcome = stage.ask("GET /p HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.test\r\n\r\n").await;
    assert_eq!(outcome.code(), Some("browser_request"), "a page is not told what else is missing");
    // With a credential, the address is the last thing that is refused before anything is dialled.
    let outcome = stage.ask(format!("GET /p HTTP/1.1\r\n{TAG}\r\n")).await;
    assert_eq!((outcome.reply().status, outcome.code()), (403, Some("address_prohibited")));
    assert_eq!(stage.sink.connection_count(), 0);
    stage.server.finish(&[&stage.token]).await;
}

/// CONTRACT §2.2: another organization's connection is one that does not exist, by its key and by its id.
#[tokio::test]
async fn another_organizations_connection_is_not_there() {
    let (sink, theirs) = (Sink::https().await, Canary::new("theirs"));
    let mut server = Sidekey::with(|config| {
        config.to(&sink).bearer("crm", "ours");
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let auth = json!([{ "method": "main", "type": "bearer" }]);
    let integration = json!({ "slug": "api", "base_url": "https://api.example.test", "auth": auth });
    admin.must("POST", "integrations?organization=other", integration).await;
    let mut ids = Vec::new();
    for key in ["crm", "theirs"] {
        let connection = json!({ "key": key, "integration": "api", "auth": "main" });
        let made = admin.must("POST", "connections?organization=other", connection).await;
        ids.push(made.json()["id"].as_str().expect("an id").to_owned());
        let path = format!("connections/{key}/credentials/production?organization=other");
        admin.must("PUT", &path, json!({ "token": theirs.text() })).await;
    }
    server.reconfigure(|config| {
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("organization", "other".into()),
        ]);
    });
    server.restart().await;
    let ask =
        async |listener: usize, name: &str| get(&server.proxies[listener], "/x", &[("Sidekey-Connection", name)]).await;
    assert_eq!(sent(&ask(0, "crm").await), "ours");
    for name in ["crm", "theirs", &ids[0], &ids[1]] {
        assert_eq!(sent(&ask(1, name).await), theirs.text(), "{name}");
    }
    let before = sink.count();
    let mut answers = Vec::new();
    for name in ["no-such", "theirs", &ids[0], &ids[1]] {
        let reply = ask(0, name).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (404, Some("connection_unknown")), "{name}");
        answers.push(problem(&reply).snapshot);
    }
    answers.dedup();
    assert_eq!((answers.len(), sink.count()), (1, before), "{answers:#?}");
    server.finish(&[&theirs]).await;
}
