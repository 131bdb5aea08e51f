//! Connections of the vault: what is cached is read once, a change holds for the very next request, and a vault that
//! is gone does not take what is cached with it.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::harness::{Canary, Client, Sidekey, Sink, get};

/// A server whose vault has the integration `example` (bearer, basic and a header) to `sink`.
async fn setting(sink: &Sink) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.to(sink).listener("environments", vec!["production", "staging"]);
    })
    .await;
    let example = json!({
        "slug": "example",
        "base_url": "https://api.example.test",
        "auth": [
            { "method": "token", "type": "bearer" },
            { "method": "pair", "type": "basic" },
            { "method": "none", "type": "none" },
        ],
    });
    server.admin().must("POST", "integrations", example).await;
    server
}

/// A connection of `example` with a token.
async fn connect(server: &Sidekey, key: &str, token: &str) {
    let connection = json!({ "key": key, "integration": "example", "auth": "token" });
    server.admin().must("POST", "connections", connection).await;
    enter(server, key, token).await;
}

async fn enter(server: &Sidekey, key: &str, token: &str) {
    let path = format!("connections/{key}/credentials/production");
    server.admin().must("PUT", &path, json!({ "token": token })).await;
}

/// How often the database was asked, and how many sealed values were opened.
async fn touched(server: &Sidekey) -> (f64, f64) {
    let metrics = server.metrics().await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).trim().parse::<f64>().expect("a number")
    };
    (value("sidekey_vault_reads_total"), value("sidekey_vault_opens_total"))
}

/// Sends a GET and gives the token that the upstream saw.
async fn token(server: &Sidekey, sink: &Sink, connection: &str) -> Option<String> {
    let reply = get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = sink.next_request().await;
    seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned)
}

/// Enough for each worker to get some: each looks into a table of its own before it asks what all share.
const REQUESTS: usize = 40;

#[tokio::test]
async fn the_second_request_touches_neither_database_nor_cipher() {
    let (sink, one, secret) = (Sink::https().await, Canary::new("one"), Canary::new("secret"));
    let server = setting(&sink).await;
    server.admin().must("PUT", "secrets/KEY", json!({})).await;
    server.admin().must("PUT", "secrets/KEY/values/production", json!({ "value": secret.text() })).await;
    connect(&server, "plain", one.text()).await;
    connect(&server, "referring", "x-@@SECRET:KEY@@").await;
    server
        .admin()
        .must("POST", "connections", json!({ "key": "open", "integration": "example", "auth": "none" }))
        .await;
    for (connection, expected, opened) in [
        ("plain", Some(one.text().to_owned()), true),
        ("referring", Some(format!("x-{}", secret.text())), true),
        ("open", None, false),
    ] {
        let before = touched(&server).await;
        assert_eq!(token(&server, &sink, connection).await, expected);
        let cold = touched(&server).await;
        assert!(cold.0 > before.0, "the first request reads: counting works");
        assert_eq!(cold.1 > before.1, opened, "{connection}");
        for _ in 0..REQUESTS {
            assert_eq!(token(&server, &sink, connection).await, expected);
        }
        assert_eq!(touched(&server).await, cold, "{connection}: a cached request touched the vault");
    }
    // What is refused is remembered too: asking for nothing again and again costs no more than once.
    for _ in 0..2 {
        let reply =
            get(server.proxy(), "/", &[("Sidekey-Connection", "plain"), ("Sidekey-Environment", "staging")]).await;
        assert_eq!(reply.header("sidekey-error"), Some("credential_missing"));
    }
    let missing = touched(&server).await;
    for _ in 0..REQUESTS {
        get(server.proxy(), "/", &[("Sidekey-Connection", "plain"), ("Sidekey-Environment", "staging")]).await;
    }
    assert_eq!(touched(&server).await, missing);
    server.finish(&[&one, &secret]).await;
}

/// CA-05: many cold requests for one connection at once cost what one costs.
#[tokio::test]
async fn ca_05_a_stampede_costs_one_load() {
    let (sink, first, second) = (Sink::https().await, Canary::new("first"), Canary::new("second"));
    let server = setting(&sink).await;
    connect(&server, "alone", first.text()).await;
    connect(&server, "crowd", second.text()).await;
    // What they share is read with the first connection that uses it.
    connect(&server, "earlier", first.text()).await;
    token(&server, &sink, "earlier").await;
    let before = touched(&server).await;
    token(&server, &sink, "alone").await;
    let after = touched(&server).await;
    let once = (after.0 - before.0, after.1 - before.1);
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(Client::connect(server.proxy()).await);
    }
    for _ in 0..5 {
        for client in &mut clients {
            client.request("GET", "/", &[("Sidekey-Connection", "crowd")], "").await;
        }
        for client in &mut clients {
            assert_eq!(client.response().await.status, 200);
        }
    }
    let crowd = touched(&server).await;
    assert_eq!((crowd.0 - after.0, crowd.1 - after.1), once, "500 requests, 100 of them at once");
    server.finish(&[&first, &second]).await;
}

/// Connections of one integration share it: it is read with the first of them, and again when it has changed.
#[tokio::test]
async fn an_integration_is_read_once_for_all_its_connections() {
    let (sink, token_of_all) = (Sink::https().await, Canary::new("token"));
    let server = setting(&sink).await;
    for key in ["one", "two", "three"] {
        connect(&server, key, token_of_all.text()).await;
    }
    let cost = async |key: &str| {
        let before = touched(&server).await.0;
        assert_eq!(token(&server, &sink, key).await.as_deref(), Some(token_of_all.text()));
        touched(&server).await.0 - before
    };
    let (first, second) = (cost("one").await, cost("two").await);
    assert_eq!(second, first - 2.0, "the second reads everything but the integration and what stands on it");
    let changed = json!({
        "slug": "example", "base_url": "https://api.example.test/v2", "auth": [{ "method": "token", "type": "bearer" }],
    });
    server.admin().must("PUT", "integrations/example", changed).await;
    assert_eq!(cost("three").await, first, "a changed one is read again");
    let reply = get(server.proxy(), "/x", &[("Sidekey-Connection", "two")]).await;
    assert!(reply.text().contains("/v2/x"), "{}", reply.text());
    server.finish(&[&token_of_all]).await;
}

/// CA-04 and P-07: what was unknown is known, what was changed is changed, what is deleted is gone, each for the very
/// next request after the answer to the change.
#[tokio::test]
async fn ca_04_every_change_holds_for_the_very_next_request() {
    let (sink, tokens) = (Sink::https().await, [Canary::new("t0"), Canary::new("t1"), Canary::new("t2")]);
    let server = setting(&sink).await;
    let code = async |environment: &str| {
        let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Environment", environment)];
        get(server.proxy(), "/", &tags).await.header("sidekey-error").map(str::to_owned)
    };
    let unknown = Some("connection_unknown".to_owned());
    for round in 0..5 {
        for _ in 0..8 {
            assert_eq!(code("production").await, unknown, "round {round}");
        }
        let connection = json!({ "key": "crm", "integration": "example", "auth": "token" });
        server.admin().must("POST", "connections", connection).await;
        assert_eq!(code("production").await.as_deref(), Some("credential_missing"));
        for canary in &tokens {
            enter(&server, "crm", canary.text()).await;
            for _ in 0..4 {
                assert_eq!(token(&server, &sink, "crm").await.as_deref(), Some(canary.text()));
            }
        }
        assert_eq!(code("staging").await.as_deref(), Some("credential_missing"), "never another environment's");
        enter(&server, "crm", "@@SECRET:ROTATED@@").await;
        assert_eq!(code("production").await.as_deref(), Some("secret_missing"));
        server.admin().must("PUT", "secrets/ROTATED", json!({})).await;
        for canary in &tokens {
            server.admin().must("PUT", "secrets/ROTATED/values/production", json!({ "value": canary.text() })).await;
            assert_eq!(token(&server, &sink, "crm").await.as_deref(), Some(canary.text()));
        }
        assert_eq!(server.admin().delete("secrets/ROTATED?force=true").await.status, 204);
        assert_eq!(code("production").await.as_deref(), Some("secret_missing"));
        assert_eq!(server.admin().delete("connections/crm/credentials/production").await.status, 204);
        assert_eq!(code("production").await.as_deref(), Some("credential_missing"));
        assert_eq!(server.admin().delete("connections/crm").await.status, 204);
    }
    assert_eq!(code("production").await, unknown);
    let all: Vec<&Canary> = tokens.iter().collect();
    server.finish(&all).await;
}

/// A credential is bound to the hosts it was entered for: other hosts get nothing until it is entered again.
#[tokio::test]
async fn a_changed_host_blocks_the_credential_until_it_is_entered_again() {
    let (sink, other, canary) = (Sink::https().await, Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).pin("localhost", other.addr);
    })
    .await;
    let integration = |base_url: &str, hosts: &[&str]| json!({ "slug": "example", "base_url": base_url, "hosts": hosts, "auth": [{ "method": "token", "type": "bearer" }] });
    server.admin().must("PUT", "integrations/example", integration("https://api.example.test", &[])).await;
    connect(&server, "crm", canary.text()).await;
    assert_eq!(token(&server, &sink, "crm").await.as_deref(), Some(canary.text()));
    for changed in [integration("https://localhost", &[]), integration("https://api.example.test", &["localhost"])] {
        server.admin().must("PUT", "integrations/example", changed).await;
        for upstream in ["https://localhost", "https://api.example.test"] {
            let reply =
                get(server.proxy(), "/", &[("Sidekey-Connection", "crm"), ("Sidekey-Upstream", upstream)]).await;
            assert!([403, 424].contains(&reply.status), "{}", reply.text());
        }
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (424, Some("connection_needs_reconnect")));
    }
    assert_eq!((sink.count(), other.count()), (1, 0));
    enter(&server, "crm", canary.text()).await;
    assert_eq!(
        get(server.proxy(), "/", &[("Sidekey-Connection", "crm"), ("Sidekey-Upstream", "https://localhost")])
            .await
            .status,
        200
    );
    assert_eq!(other.count(), 1);
    server.finish(&[&canary]).await;
}

/// SE-08: a request has its secrets of one moment: both old or both new, and only new ones after the change is
/// answered. Scaled down: 60 changes under as many requests as one client can send.
#[tokio::test]
async fn se_08_two_references_are_of_one_moment() {
    let sink = Sink::https().await;
    let server = setting(&sink).await;
    let value = |round: usize| format!("value-{round}-");
    server.admin().must("PUT", "secrets/K", json!({})).await;
    server.admin().must("PUT", "secrets/K/values/production", json!({ "value": value(0) })).await;
    let connection = json!({ "key": "crm", "integration": "example", "auth": "pair" });
    server.admin().must("POST", "connections", connection).await;
    let pair = json!({ "username": "@@SECRET:K@@", "password": "@@SECRET:K@@@@SECRET:K@@" });
    server.admin().must("PUT", "connections/crm/credentials/production", pair).await;
    let done = AtomicBool::new(false);
    let asking = async {
        let mut raw = Client::connect(server.proxy()).await;
        let mut asked = 0;
        while !done.load(Ordering::Relaxed) {
            raw.request("GET", "/", &[("Sidekey-Connection", "crm")], "").await;
            assert_eq!(raw.response().await.status, 200);
            asked += 1;
        }
        asked
    };
    let changing = async {
        for round in 1..=60 {
            server.admin().must("PUT", "secrets/K/values/production", json!({ "value": value(round) })).await;
            let reply = get(server.proxy(), "/now", &[("Sidekey-Connection", "crm")]).await;
            assert!(reply.text().contains(&authorization(&value(round))), "an old value after the change was answered");
        }
        done.store(true, Ordering::Relaxed);
    };
    let (asked, ()) = tokio::join!(asking, changing);
    assert!(asked > 60, "{asked} requests between the changes");
    let allowed: Vec<String> = (0..=60).map(|round| authorization(&value(round))).collect();
    for seen in sink.requests() {
        let authorization = seen.header("authorization").expect("a credential");
        assert!(allowed.iter().any(|allowed| allowed == authorization), "mixed: {authorization}");
    }
    server.finish(&[]).await;
}

fn authorization(value: &str) -> String {
    use base64::Engine as _;
    let pair = format!("{value}:{value}{value}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// CA-03: while the vault cannot be read, what is cached goes on, and what is not is a 503 and never a 404.
#[tokio::test]
async fn ca_03_what_is_cached_outlives_the_vault() {
    let (sink, warm, cold) = (Sink::https().await, Canary::new("warm"), Canary::new("cold"));
    let server = setting(&sink).await;
    connect(&server, "warm", warm.text()).await;
    connect(&server, "cold", cold.text()).await;
    assert_eq!(token(&server, &sink, "warm").await.as_deref(), Some(warm.text()));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(server.folder().join("sidekey.vault"));
    let mut database = sqlx::ConnectOptions::connect(&options).await.expect("the vault's file");
    for (table, hidden) in [("credentials", "hidden_1"), ("connections", "hidden_2")] {
        let statement = format!("ALTER TABLE {table} RENAME TO {hidden}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.expect("a renamed table");
    }
    for _ in 0..REQUESTS {
        assert_eq!(token(&server, &sink, "warm").await.as_deref(), Some(warm.text()));
    }
    for connection in ["cold", "nobody"] {
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (503, Some("vault_unavailable")), "{connection}");
        assert!(reply.header("retry-after").is_some());
    }
    for (table, hidden) in [("credentials", "hidden_1"), ("connections", "hidden_2")] {
        let statement = format!("ALTER TABLE {hidden} RENAME TO {table}");
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.expect("a table with its name again");
    }
    assert_eq!(token(&server, &sink, "cold").await.as_deref(), Some(cold.text()), "it is back without a restart");
    server.finish(&[&warm, &cold]).await;
}
