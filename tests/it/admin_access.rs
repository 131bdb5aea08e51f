//! The admin port: who is let in, and what is looked at before that.

use serde_json::{Value, json};

use crate::harness::client::request;
use crate::harness::{Canary, Raw, Reply, Sidekey, problem};

/// Every route that asks who is there, with a method and whether it has a body.
const ROUTES: &[(&str, &str)] = &[
    ("GET", "roles"),
    ("GET", "organizations"),
    ("POST", "organizations"),
    ("GET", "organizations/default"),
    ("DELETE", "organizations/default"),
    ("GET", "environments"),
    ("POST", "environments"),
    ("GET", "environments/production"),
    ("DELETE", "environments/production"),
    ("GET", "integrations"),
    ("POST", "integrations"),
    ("GET", "integrations/github"),
    ("PUT", "integrations/github"),
    ("DELETE", "integrations/github"),
    ("GET", "connections"),
    ("POST", "connections"),
    ("GET", "connections/crm"),
    ("PUT", "connections/crm"),
    ("DELETE", "connections/crm"),
    ("GET", "connections/crm/credentials/production"),
    ("PUT", "connections/crm/credentials/production"),
    ("DELETE", "connections/crm/credentials/production"),
    ("GET", "secrets"),
    ("POST", "secrets"),
    ("GET", "secrets/K"),
    ("PUT", "secrets/K"),
    ("DELETE", "secrets/K"),
    ("PUT", "secrets/K/values/production"),
    ("DELETE", "secrets/K/values/production"),
    ("PATCH", "connections/crm"),
    ("GET", "no/such/route"),
    ("GET", "connections/nope?organization=nope"),
    ("GET", "connections?limit=x"),
];

fn key(server: &Sidekey) -> String {
    std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key").trim().to_owned()
}

fn told(reply: &Reply) -> (u16, String) {
    let problem = problem(reply);
    (problem.status, problem.code)
}

#[tokio::test]
async fn nothing_is_told_or_done_without_a_key_ad_08() {
    let server = Sidekey::with(|_| {}).await;
    let key = key(&server);
    let last = if key.ends_with('A') { 'B' } else { 'A' };
    let wrong = format!("{}{last}", &key[..key.len() - 1]);
    let stranger = format!("apk_{}_{}", "0".repeat(26), &key[key.len() - 43..]);
    let bearer = |key: &str| format!("Bearer {key}");
    let cases: [Vec<(&str, String)>; 7] = [
        vec![],
        vec![("X-API-Key", wrong)],
        vec![("X-API-Key", stranger)],
        vec![("X-API-Key", "apk_".to_owned())],
        vec![("Authorization", format!("Basic {key}"))],
        vec![("X-API-Key", key.clone()), ("Authorization", bearer("apk_other"))],
        vec![("X-API-Key", key.clone()), ("X-API-Key", "apk_other".to_owned())],
    ];
    let first = request(&server.admin_address, "GET", "/api/v1/connections", &[], "").await;
    assert_eq!(first.header("www-authenticate"), Some("Bearer"));
    insta::assert_json_snapshot!("unauthenticated", problem(&first).snapshot);
    for (method, path) in ROUTES {
        for headers in &cases {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            // The body is no JSON and not declared as any: whoever reads it first would say 400 or 415.
            let body = if matches!(*method, "POST" | "PUT") { "{" } else { "" };
            let reply = request(&server.admin_address, method, &format!("/api/v1/{path}"), &headers, body).await;
            assert_eq!(reply.status, 401, "{method} {path} {}", headers.len());
            assert_eq!(reply.said(), first.said(), "{method} {path}");
        }
    }
    // A body of 100 MiB is not waited for.
    let mut raw = Raw::connect(&server.admin_address).await;
    raw.send("POST /api/v1/connections HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 401);

    let authorization = bearer(&key);
    let twice = format!("bearer  {key} ");
    for headers in [
        vec![("Authorization", authorization.as_str())],
        vec![("Authorization", twice.as_str())],
        vec![("X-API-Key", key.as_str()), ("Authorization", authorization.as_str())],
        vec![("X-API-Key", key.as_str()), ("Authorization", "Basic Zm9vOmJhcg==")],
    ] {
        let reply = request(&server.admin_address, "GET", "/api/v1/connections", &headers, "").await;
        assert_eq!((reply.status, reply.json()), (200, json!({ "items": [], "next": null })));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn another_name_or_another_page_is_refused_before_routing_ad_02_ad_03() {
    let server = Sidekey::with(|config| {
        config.set("admin.host_names", vec!["admin.example.test"]);
    })
    .await;
    let (key, port) = (key(&server), server.admin_address.tcp().port());
    let ask = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let headers = [&[("X-API-Key", key.as_str()), ("Content-Type", "application/json")], headers].concat();
        request(&server.admin_address, method, path, &headers, "").await
    };
    let paths = ["/api/v1/connections", "/healthz", "/metrics", "/", "/nope"];
    for path in paths {
        for host in [
            format!("evil.test:{port}"),
            "127.0.0.1.evil.test".to_owned(),
            "localhost.evil.test".to_owned(),
            "admin.example.test.evil.test".to_owned(),
        ] {
            assert_eq!(
                told(&ask("GET", path, &[("Host", &host)]).await),
                (421, "host_unknown".to_owned()),
                "{host}{path}"
            );
        }
        let mut raw = Raw::connect(&server.admin_address).await;
        raw.send(format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        assert_eq!(told(&raw.response().await), (421, "host_unknown".to_owned()), "no host at all");
    }
    let own = server.admin_address.to_string();
    for host in [own.as_str(), "localhost", &format!("localhost:{port}"), "[::1]", "ADMIN.example.test"] {
        assert_eq!(ask("GET", "/api/v1/connections", &[("Host", host)]).await.status, 200, "{host}");
    }
    let foreign = [
        "https://evil.test",
        "null",
        &format!("http://127.0.0.1:{}", port ^ 1),
        "",
        "http://evil.test, http://127.0.0.1",
    ];
    for origin in foreign {
        for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
            let preflight = ("Access-Control-Request-Method", "PUT");
            let reply = ask(method, "/api/v1/connections/crm", &[("Origin", origin), preflight]).await;
            assert_eq!(told(&reply), (403, "origin_not_allowed".to_owned()), "{method} {origin}");
            assert!(reply.headers.iter().all(|(name, _)| !name.to_lowercase().starts_with("access-control-")));
        }
    }
    assert_eq!(ask("DELETE", "/api/v1/connections/crm", &[("Sec-Fetch-Site", "cross-site")]).await.status, 403);
    let same = format!("http://{own}");
    assert_eq!(ask("GET", "/api/v1/connections", &[("Origin", &same)]).await.status, 200);
    server.finish(&[]).await;
}

#[tokio::test]
async fn every_answer_keeps_browsers_from_guessing_framing_and_storing_ad_05() {
    let server = Sidekey::with(|_| {}).await;
    let reply = server.admin().get("connections").await;
    for (name, value) in [
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("content-security-policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_body_is_small_flat_json_or_refused_ad_04_ad_08() {
    let canary = Canary::new("malformed");
    let server = Sidekey::with(|_| {}).await;
    let key = key(&server);
    let send = async |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        let headers = [&[("X-API-Key", key.as_str())], headers].concat();
        let mut raw = Raw::connect(&server.admin_address).await;
        raw.request("PUT", &format!("/api/v1/{path}"), &headers, body).await;
        let reply = raw.response().await;
        (told(&reply), reply.text())
    };
    let json_type = ("Content-Type", "application/json");
    for headers in [
        &[][..],
        &[("Content-Type", "text/plain")],
        &[("Content-Type", "application/x-www-form-urlencoded")],
        &[("Content-Type", "multipart/form-data; boundary=x")],
        &[("Content-Type", "application/jsonp")],
        &[json_type, json_type],
        &[json_type, ("Content-Encoding", "gzip")],
    ] {
        let (told, _) = send("connections/x", headers, b"{}").await;
        assert_eq!(told, (415, "media_type_unsupported".to_owned()), "{headers:?}");
    }
    let (before, _) = server.memory();
    let text = canary.text();
    let keys: Vec<String> = (0..60_000).map(|number| format!("\"k{number}\":[]")).collect();
    let malformed: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        format!("{{\"token\":\"{text}").into_bytes(),
        format!("{{\"token\":\"{text}\"}} x").into_bytes(),
        format!("{{\"token\":\"{text}\",\"token\":\"{text}\"}}").into_bytes(),
        format!("{{\"a\":{{\"b\":1,\"b\":2}},\"c\":\"{text}\"").into_bytes(),
        format!("'{text}'").into_bytes(),
        "[".repeat(100_000).into_bytes(),
        "{\"a\":".repeat(100_000).into_bytes(),
        format!("{{{}}}", keys.join(",")).into_bytes(),
        br#"{"a":1e999999}"#.to_vec(),
        br#"{"a":"\ud800"}"#.to_vec(),
        b"{\"a\":\"\xff\"}".to_vec(),
    ];
    for path in [
        "connections/x",
        "integrations/x",
        "secrets/K",
        "connections/x/credentials/production",
        "secrets/K/values/production",
    ] {
        for body in &malformed {
            let ((status, code), text) = send(path, &[("Content-Type", "application/json; charset=utf-8")], body).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!((status, &*code), (400, "syntax"), "{path} {shown} {text}");
        }
    }
    let (_, peak) = server.memory();
    assert!(peak.saturating_sub(before) < 32 << 20, "{before} then {peak}");
    server.finish(&[&canary]).await;
}

#[tokio::test]
async fn a_body_larger_than_a_megabyte_is_not_read() {
    let server = Sidekey::with(|_| {}).await;
    let key = key(&server);
    let head = format!(
        "PUT /api/v1/secrets/K HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n"
    );
    let mut raw = Raw::connect(&server.admin_address).await;
    raw.send(format!("{head}Content-Length: 1048577\r\n\r\n")).await;
    assert_eq!(told(&raw.response().await), (413, "body_too_large".to_owned()));
    let mut raw = Raw::connect(&server.admin_address).await;
    raw.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n100001\r\n{}\r\n", "x".repeat(0x10_0001))).await;
    assert_eq!(told(&raw.response().await), (413, "body_too_large".to_owned()));
    let mut raw = Raw::connect(&server.admin_address).await;
    raw.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n")).await;
    assert_eq!(raw.response().await.status, 201, "a chunked body is a body");
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_is_not_there_is_a_404_and_what_cannot_be_done_a_405() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    for path in [
        "nope",
        "connections/",
        "connections/nope",
        "connections/NOT%20A%20KEY",
        "connections/conn_1",
        "connections/%ff",
        "connections/a%2fb",
        "connections/crm%00",
        "connections/';--",
        "integrations/Nope",
        "secrets/lower",
        "environments/NO",
        "organizations/org_1",
        "connections?organization=nope",
        "connections?organization=';--",
        "connections/nope/credentials/production",
    ] {
        let reply = admin.get(path).await;
        assert_eq!(told(&reply), (404, "not_found".to_owned()), "{path}");
    }
    let long = format!("connections/{}", "a".repeat(8_000));
    assert_eq!(admin.get(&long).await.status, 404);
    for (method, path) in
        [("PATCH", "connections/x"), ("DELETE", "connections"), ("POST", "secrets/K/values/production")]
    {
        let reply = admin.call(method, path, &[], None).await;
        assert_eq!(told(&reply), (405, "method_not_allowed".to_owned()), "{method} {path}");
        assert!(reply.header("allow").is_some());
    }
    for query in ["limit=0", "limit=201", "limit=-1", "organisation=default", "limit=1&limit=2", "customer=a%20b"] {
        let reply = admin.get(&format!("connections?{query}")).await;
        assert_eq!(told(&reply), (422, "invalid".to_owned()), "{query}");
    }
    let body: Value = admin.get("connections?cursor=';--&limit=200").await.json();
    assert_eq!(body, json!({ "items": [], "next": null }));
    server.finish(&[]).await;
}
