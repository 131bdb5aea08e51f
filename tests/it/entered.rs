//! What is entered over the admin API can stand where it goes, or is not stored; and no file of the vault shows it.

use serde_json::{Value, json};

use crate::harness::{Canary, Raw, Sidekey, Sink, get, soon};

/// A server with one integration for each place a value can go to, and a connection `c-{method}` for each.
async fn setting(sink: &Sink) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.to(sink);
    })
    .await;
    let key = |place: &str, name: &str| json!({ "method": place, "type": "api_key", "in": place, "name": name });
    let integration = json!({
        "slug": "example",
        "base_url": "https://api.example.test",
        "auth": [
            { "method": "bearer", "type": "bearer" },
            { "method": "basic", "type": "basic" },
            key("header", "X-Key"),
            key("query", "key"),
            key("cookie", "session"),
            key("body", "/key"),
        ],
    });
    let admin = server.admin();
    admin.must("POST", "integrations", integration).await;
    let in_path = json!({
        "slug": "in-path",
        "base_url": "https://api.example.test/bot{api_key}/x",
        "auth": [key("path", "api_key")],
    });
    admin.must("POST", "integrations", in_path).await;
    for method in ["bearer", "basic", "header", "query", "cookie", "body", "path"] {
        let integration = if method == "path" { "in-path" } else { "example" };
        let connection = json!({ "key": format!("c-{method}"), "integration": integration, "auth": method });
        admin.must("POST", "connections", connection).await;
    }
    server
}

fn path(method: &str) -> String {
    format!("connections/c-{method}/credentials/production")
}

/// HI-01, HI-07, HI-08: 422 with the field that is wrong, nothing stored, nothing repeated.
#[tokio::test]
async fn hi_01_hi_07_hi_08_a_value_that_cannot_stand_in_its_place_is_not_stored() {
    let (sink, canary) = (Sink::https().await, Canary::new("hostile"));
    let server = setting(&sink).await;
    let admin = server.admin();
    let long = "x".repeat(9 << 10);
    let control = ["\r\nX-Evil: 1", "\n", "\r", "\0", "\u{7f}", "\u{1b}"];
    let mut hostile: Vec<(&str, &str, String)> = Vec::new();
    for text in control {
        for (method, field) in [
            ("bearer", "token"),
            ("basic", "password"),
            ("basic", "username"),
            ("header", "api_key"),
            ("cookie", "api_key"),
            ("path", "api_key"),
        ] {
            hostile.push((method, field, format!("{}{text}x", canary.text())));
        }
    }
    for text in [";", ",", " ", "\"", "\\", "\u{e9}"] {
        hostile.push(("cookie", "api_key", format!("{}{text}x", canary.text())));
    }
    for text in ["/", "?", "#", "%", "%2f", "\\"] {
        hostile.push(("path", "api_key", format!("{}{text}x", canary.text())));
    }
    hostile.extend([("path", "api_key", "..".to_owned()), ("path", "api_key", ".".to_owned())]);
    hostile.push(("basic", "username", format!("{}:x", canary.text())));
    hostile.push(("header", "api_key", format!("{}{long}", canary.text())));
    hostile.push(("header", "api_key", format!(" {}", canary.text())));
    for (method, field, value) in hostile {
        let mut credential = json!({ field: value });
        if method == "basic" {
            let other = if field == "password" { "username" } else { "password" };
            credential[other] = Value::from("fine");
        }
        let reply = admin.put(&path(method), credential).await;
        assert_eq!(reply.status, 422, "{method} {field} {value:?}: {}", reply.text());
        let problem = reply.json();
        assert_eq!(problem["code"], "invalid");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{problem}");
        let shown = admin.get(&path(method)).await.json();
        assert_eq!(shown["status"], "incomplete", "{method}: {shown}");
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", &format!("c-{method}"))]).await;
        assert_eq!(reply.header("sidekey-error"), Some("credential_missing"));
    }
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&canary]).await;
}

/// What fits is stored, whatever is in it, and arrives as it is meant for its place.
#[tokio::test]
async fn what_fits_its_place_is_stored_and_arrives() {
    let (sink, canary) = (Sink::https().await, Canary::new("fits"));
    let server = setting(&sink).await;
    for (method, field, value) in [
        ("bearer", "token", format!("{}\t\u{e9} '\"\\;,%", canary.text())),
        ("query", "api_key", format!("{}\n\0&=#", canary.text())),
        ("body", "api_key", format!("-----BEGIN KEY-----\n{}\n\"\\\n", canary.text())),
        ("path", "api_key", format!("12:{} @;", canary.text())),
    ] {
        server.admin().must("PUT", &path(method), json!({ field: value })).await;
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", &format!("c-{method}"))]).await;
        assert_eq!(reply.status, 200, "{method}: {}", reply.text());
        let seen = sink.next_request().await;
        let target = percent_encoding::percent_decode_str(&seen.target).decode_utf8_lossy().into_owned();
        let body: Value = serde_json::from_str(&seen.text()).unwrap_or_default();
        let arrived = match method {
            "bearer" => seen.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
            "query" => target.strip_prefix("/?key=").map(str::to_owned),
            "body" => body["key"].as_str().map(str::to_owned),
            _ => target.strip_prefix("/bot").and_then(|rest| rest.strip_suffix("/x/")).map(str::to_owned),
        };
        assert_eq!(arrived, Some(value), "{method}");
    }
    sink.assert_strict();
    server.finish(&[&canary]).await;
}

/// HI-04, SE-10: an integration whose names or addresses could carry a secret or break the framing is not stored.
#[tokio::test]
async fn hi_04_se_10_odd_names_and_secrets_in_addresses_are_not_stored() {
    let sink = Sink::https().await;
    let server = setting(&sink).await;
    let integration = |url: &str, name: &str| {
        json!({
            "slug": "odd",
            "base_url": url,
            "auth": [{ "method": "key", "type": "api_key", "in": "header", "name": name }],
        })
    };
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "transfer_encoding",
        "Connection",
        "X-Connection-Id",
        "Sidekey-Key",
        "X A",
        "",
        ":path",
        "X-A: b",
        "X-A\r\nX-B",
        "X-\u{e9}",
        "@@SECRET:K@@",
        "X-{{ api_key }}",
        "TE",
        "Upgrade",
    ] {
        let reply = server.admin().put("integrations/odd", integration("https://api.example.test", name)).await;
        assert_eq!(
            (reply.status, reply.json()["errors"][0]["pointer"].as_str()),
            (422, Some("/auth/0/name")),
            "{name:?}"
        );
    }
    for url in [
        "https://@@SECRET:K@@.example.test",
        "https://api.example.test:@@SECRET:K@@",
        "https://@@SECRET:K@@/",
        "https://api.example.test/@@SECRET:K@@",
        "https://{{ api_key }}.example.test",
        "https://user:pass@api.example.test",
        "http://api.example.test",
        "https://api.example.test/?key=1",
        "https://api.example.test/#x",
        "https://api.example.test/../x",
    ] {
        let reply = server.admin().put("integrations/odd", integration(url, "X-Key")).await;
        assert_eq!((reply.status, reply.json()["errors"][0]["pointer"].as_str()), (422, Some("/base_url")), "{url}");
    }
    assert_eq!(server.admin().get("integrations/odd").await.status, 404);
    server.finish(&[]).await;
}

/// What would go as it stands in the place of a secret is refused, wherever it comes from.
#[tokio::test]
async fn a_reference_that_is_not_replaced_is_never_sent() {
    let sink = Sink::https().await;
    let server = setting(&sink).await;
    let admin = server.admin();
    let document =
        |slug: &str, auth: Value| json!({ "slug": slug, "base_url": "https://api.example.test", "auth": [auth] });
    let secret = "x @@SECRET:K@@";
    for auth in [
        json!({ "method": "main", "type": "bearer", "template": secret }),
        json!({ "method": "main", "type": "basic", "password": secret }),
        json!({ "method": "main", "type": "api_key", "in": "query", "name": "k", "template": secret }),
        json!({ "method": "main", "type": "custom", "inject": [{ "in": "header", "name": "X-K", "value": secret }] }),
    ] {
        let reply = admin.post("integrations", document("fixed", auth)).await;
        assert_eq!(reply.status, 422, "{}", reply.text());
    }
    let parts = json!({ "method": "main", "type": "custom", "fields": [{ "name": "a" }, { "name": "b" }],
        "inject": [{ "in": "header", "name": "X-A", "value": "{{ a }}" }, { "in": "header", "name": "X-B", "value": "{{ b }}" }] });
    admin.must("POST", "integrations", document("parts", parts)).await;
    admin.must("POST", "connections", json!({ "key": "parts", "integration": "parts" })).await;
    let halves = json!({ "a": "@@", "b": "SECRET:K@@" });
    admin.must("PUT", "connections/parts/credentials/production", halves.clone()).await;
    let ask = async || get(server.proxy(), "/", &[("Sidekey-Connection", "parts")]).await.status;
    assert_eq!(ask().await, 200, "neither is a reference");
    let joined = json!({ "method": "main", "type": "custom", "fields": [{ "name": "a" }, { "name": "b" }],
        "inject": [{ "in": "header", "name": "X-A", "value": "{{ a }}{{ b }}" }] });
    admin.must("PUT", "integrations/parts", document("parts", joined)).await;
    let before = sink.count();
    assert_eq!((ask().await, sink.count()), (424, before));
    let reply = admin.put("connections/parts/credentials/production", halves).await;
    assert_eq!(reply.status, 422, "{}", reply.text());
    server.finish(&[]).await;
}

/// SE-05: a reference leads to no other, so nothing grows; what is too large all the same is refused, and not sent.
#[tokio::test]
async fn se_05_what_references_expand_to_is_bounded() {
    let sink = Sink::https().await;
    let server = setting(&sink).await;
    let admin = server.admin();
    for (key, value) in
        [("SMALL", "x".repeat(1 << 10)), ("LARGE", "x".repeat(60 << 10)), ("BOMB", "@@SECRET:LARGE@@".repeat(10))]
    {
        admin.must("PUT", &format!("secrets/{key}"), json!({})).await;
        admin.must("PUT", &format!("secrets/{key}/values/production"), json!({ "value": value })).await;
    }
    let many = |key: &str, times: usize| format!("@@SECRET:{key}@@").repeat(times);
    for (method, value, status) in [
        ("header", many("SMALL", 8), 200),
        ("header", many("SMALL", 9), 424),
        ("header", many("BOMB", 1), 200),
        ("query", many("SMALL", 20), 200),
        ("body", many("LARGE", 1), 200),
        ("body", many("LARGE", 2), 424),
        ("body", many("SMALL", 1000), 424),
    ] {
        admin.must("PUT", &path(method), json!({ "api_key": value })).await;
        let before = sink.count();
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", &format!("c-{method}"))]).await;
        assert_eq!(reply.status, status, "{method}: {}", reply.text());
        assert_eq!(sink.count() - before, usize::from(status == 200));
        assert!(
            !sink
                .requests()
                .iter()
                .any(|seen| seen.header("x-key").is_some_and(|key| key.starts_with("xx") && key.len() > 8 << 10))
        );
    }
    let too_long = admin.put("secrets/SMALL/values/production", json!({ "value": "x".repeat(1 << 20) })).await;
    assert!([413, 422].contains(&too_long.status), "{}", too_long.status);
    server.finish(&[]).await;
}

/// LK-13: no file beside the vault shows what was entered, also after a kill in the middle of writing.
#[tokio::test]
async fn lk_13_no_file_of_the_vault_shows_a_secret() {
    let (sink, credential, secret) = (Sink::https().await, Canary::spiky("credential"), Canary::spiky("secret"));
    let mut server = setting(&sink).await;
    server.admin().must("PUT", &path("bearer"), json!({ "token": credential.text() })).await;
    server.admin().must("PUT", "secrets/KEY", json!({ "description": "not secret" })).await;
    server.admin().must("PUT", "secrets/KEY/values/production", json!({ "value": secret.text() })).await;
    server.admin().must("PUT", &path("query"), json!({ "api_key": "@@SECRET:KEY@@" })).await;
    server.assert_no_leak(&[&credential, &secret]);
    let last = Canary::new("last");
    let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("the admin key's file");
    let mut raw = Raw::connect(&server.admin_address).await;
    let (acknowledged, mut acknowledgements) = tokio::sync::mpsc::unbounded_channel();
    let (target, body) = (format!("/api/v1/{}", path("header")), json!({ "api_key": last.text() }).to_string());
    let head = format!(
        "PUT {target} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        key.trim(),
        body.len()
    );
    let writing = tokio::spawn(async move {
        while raw.try_send(format!("{head}{body}")).await.is_ok() {
            let Ok(reply) = raw.try_response().await else { return };
            assert_eq!(reply.status, 204, "{}", reply.text());
            acknowledged.send(()).expect("a test that listens");
        }
    });
    for _ in 0..20 {
        soon("an acknowledged write", acknowledgements.recv()).await.expect("a writer that goes on");
    }
    server.kill().await;
    soon("the end of the writer", writing).await.expect("a writer that saw nothing wrong");
    server.assert_no_leak(&[&credential, &secret, &last]);
    server.restart().await;
    for (connection, canary) in [("c-bearer", &credential), ("c-query", &secret), ("c-header", &last)] {
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = sink.next_request().await;
        let shown =
            format!("{:?}{}", seen.headers, percent_encoding::percent_decode_str(&seen.target).decode_utf8_lossy());
        assert!(crate::harness::canary::is_present(shown.as_bytes(), canary), "{connection}");
    }
    // What was deleted is overwritten and not only forgotten.
    for method in ["bearer", "header", "query"] {
        assert_eq!(server.admin().delete(&path(method)).await.status, 204);
    }
    assert_eq!(server.admin().delete("secrets/KEY").await.status, 204);
    server.finish(&[&credential, &secret, &last]).await;
}

/// ST-17: names with the metacharacters of SQL are data or mistakes, and nothing of the database shows in an answer.
#[tokio::test]
async fn st_17_names_are_never_statements() {
    let sink = Sink::https().await;
    let server = setting(&sink).await;
    let admin = server.admin();
    let long = "x".repeat(100_000);
    for name in [
        "' OR 1=1 --",
        "x'; DROP TABLE connections; --",
        "%",
        "\0",
        "a\u{0}b",
        "\"",
        "1) UNION SELECT 1",
        long.as_str(),
    ] {
        let encoded = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string();
        let mut answers =
            vec![admin.post("connections", json!({ "key": name, "integration": "example", "auth": "bearer" })).await];
        answers.push(admin.post("secrets", json!({ "key": name })).await);
        answers.push(admin.post("environments", json!({ "name": name })).await);
        if name.len() < 1000 {
            for path in ["connections", "integrations", "secrets", "environments"] {
                answers.push(admin.get(&format!("{path}/{encoded}")).await);
                answers.push(admin.delete(&format!("{path}/{encoded}")).await);
                answers.push(admin.get(&format!("{path}?cursor={encoded}")).await);
            }
            answers.push(
                get(server.proxy(), "/", &[("Sidekey-Customer", "x'--"), ("Sidekey-Connection", "c-bearer")]).await,
            );
        }
        for reply in answers {
            let said = reply.text().to_lowercase();
            assert!(reply.status < 500 && reply.status != 201, "{name:?}: {} {said}", reply.status);
            for telling in ["sqlite", "syntax error", "select ", "near \"", "sqlx", "constraint"] {
                assert!(!said.contains(telling), "{telling} in {said}");
            }
        }
    }
    assert_eq!(admin.get("connections").await.json()["items"].as_array().map(Vec::len), Some(7), "all are still there");
    server.finish(&[]).await;
}
