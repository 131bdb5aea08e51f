//! Request targets in reverse mode: joined to the base URL as text, never resolved, and refused where they could climb.

use crate::attack::{Stage, TAG, Table};
use crate::harness::client::get;
use crate::harness::config::{Config, table};
use crate::harness::{Sidekey, Sink};

const C1: (&str, &str) = ("Sidekey-Connection", "c1");

/// A stage whose base URL has a path, and an upstream that must never be contacted.
async fn below_v1() -> (Stage, Sink) {
    let (sink, evil) = (Sink::https().await, Sink::https().await);
    let stage = Stage::before(sink, |config| {
        config.integration_key("base_url", "https://api.example.test/v1/");
        config.pin("evil.test", evil.addr);
    })
    .await;
    (stage, evil)
}

/// EX-01
#[tokio::test]
async fn a_path_that_looks_like_another_host_stays_below_the_base_path() {
    let (stage, evil) = below_v1().await;
    let mut rows = Table::default();
    for target in [
        "/",
        "/x",
        "//evil.test/x",
        "///evil.test",
        "/%2fevil.test",
        "/@evil.test/x",
        "/.evil.test/x",
        "/:443@evil.test/",
        "/https://evil.test/",
        "/x?",
        "/x?a=b&a=c&&",
        "/?url=https://evil.test/..",
        "/a%20b%2Fc%00",
        "/a;b=c,d'(e)!*$",
        "/%252e%252e/x",
        "/a..b/...",
        "/.well-known/x",
        "/%ff%0d%0a",
        "/|~^{}\"",
    ] {
        let outcome = stage.ask(format!("GET {target} HTTP/1.1\r\n{TAG}\r\n")).await;
        let joined = outcome.is_forwarded() && outcome.seen[0].target == format!("/v1{target}");
        rows.row(target, joined, &outcome);
    }
    rows.check();
    assert_eq!(evil.connection_count(), 0);
    finish(stage).await;
}

/// The survivor arrives below the base path here.
async fn finish(stage: Stage) {
    let reply = get(stage.server.proxy(), "/survivor", &[C1]).await;
    assert_eq!(reply.json()["target"], "/v1/survivor");
    stage.sink.assert_strict();
    assert!(stage.sink.requests().iter().all(|seen| seen.target.starts_with("/v1")));
    stage.server.finish(&[&stage.token]).await;
}

/// EX-02, H1-23
#[tokio::test]
async fn a_target_that_is_no_path_is_refused() {
    let (stage, evil) = below_v1().await;
    let mut rows = Table::default();
    for (method, target) in [
        ("GET", "@evil.test/x"),
        ("GET", ".evil.test/x"),
        ("GET", ":443@evil.test/"),
        ("GET", "evil.test/x"),
        ("GET", "evil.test"),
        ("GET", "*"),
        ("OPTIONS", "*"),
        ("OPTIONS", "*/x"),
        ("GET", "api.example.test:80"),
        ("GET", "admin"),
        ("GET", "admin/a"),
        ("GET", "?q"),
        ("GET", "\\evil.test/x"),
        ("GET", "c/c1/x"),
        ("GET", "%2fx"),
        ("GET", "#f"),
        ("GET", "/a b"),
        ("GET", "/a\tb"),
        ("GET", "/a\x7fb"),
        ("GET", "/a\x01b"),
        ("GET", "/a?caf\u{e9}"),
        ("GET", "/a\u{ff0e}\u{ff0e}/b"),
    ] {
        let outcome = stage.attack(format!("{method} {target} HTTP/1.1\r\n{TAG}\r\n")).await;
        rows.row((method, target), outcome.is_refused(400), &outcome);
    }
    rows.check();
    assert_eq!(evil.connection_count(), 0);
    finish(stage).await;
}

/// EX-04, EX-05
#[tokio::test]
async fn a_path_that_could_climb_is_refused() {
    let (stage, _evil) = below_v1().await;
    let mut rows = Table::default();
    for target in [
        "/../x",
        "/a/../../x",
        "/./x",
        "/..",
        "/.",
        "/x/..",
        "/x/.",
        "/%2e%2e/x",
        "/.%2E/x",
        "/%2E./x",
        "/..%2fx",
        "/%2e%2e%2fx",
        "/..%5cx",
        "/..%5Cx",
        "/a%2f..%2fb",
        "/..;/x",
        "/..;a=b/x",
        "/.;/x",
        "/%2e%2e;/x",
        "/%c0%ae%c0%ae/",
        "/%c0%ae./",
        "/a\\b",
        "/\\..\\x",
        "/..?q",
        "/x/..?q=/y",
        "/c/c1/../x",
        "/..%3b/x",
        "/%2e%2e%3bx/y",
    ] {
        let outcome = stage.ask(format!("GET {target} HTTP/1.1\r\n{TAG}\r\n")).await;
        rows.row(target, outcome.is_refused(400) && outcome.code() == Some("target_invalid"), &outcome);
    }
    // Only the path is judged: a query passes byte for byte.
    for target in ["/x?../..", "/x?a=/../b&c=%2e%2e/\\", "/x?.."] {
        let outcome = stage.ask(format!("GET {target} HTTP/1.1\r\n{TAG}\r\n")).await;
        rows.row(target, outcome.is_forwarded() && outcome.seen[0].target == format!("/v1{target}"), &outcome);
    }
    rows.check();
    finish(stage).await;
}

/// H1-24
#[tokio::test]
async fn a_fragment_is_refused() {
    let (stage, _evil) = below_v1().await;
    for target in ["/p#frag", "/p?q#/../x", "/p#"] {
        let outcome = stage.attack(format!("GET {target} HTTP/1.1\r\n{TAG}\r\n")).await;
        assert!(outcome.is_refused(400), "{target}: {outcome:?}");
    }
    finish(stage).await;
}

/// EX-09, EX-19, EX-20, EX-22: a base URL is read once and strictly.
const TWO_WAYS: [&str; 33] = [
    "http://api.example.test",
    "unix:/run/x.sock",
    "file:///etc/passwd",
    "gopher://api.example.test",
    "ftp://api.example.test",
    "data:text/plain,x",
    "http+unix://%2frun/x",
    "ws://api.example.test",
    "wss://api.example.test",
    "api.example.test",
    "//api.example.test",
    "https://",
    "https:///x",
    "https://api.test\\@evil.test",
    "https://api.test#@evil.test",
    "https://api.test:443@evil.test",
    "https://api.test%2f@evil.test",
    "https://api.test%00.evil.test",
    "https://api\u{3002}test",
    "https://api.te\tst",
    "https://api.te\nst",
    "https://api.test.",
    "https://api.test:0",
    "https://api.test:65536",
    "https://api.test:",
    "https://user@api.test",
    "https://*.api.test",
    "https://api.test/a?b",
    "https://api.test/a#b",
    "https://api.test/../b",
    "https://[::1",
    "https://[fe80::1%25eth0]/",
    "https://0x7f000001.",
];

#[tokio::test]
async fn a_base_url_that_could_be_read_in_two_ways_is_refused_at_start() {
    let mut taken = Vec::new();
    let started = Sidekey::try_with(|config| {
        for (number, url) in TWO_WAYS.iter().enumerate() {
            declare(config, number, url, &[]);
        }
    })
    .await;
    let Err(failed) = started else { panic!("it started") };
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    for (number, url) in TWO_WAYS.iter().enumerate() {
        // All mistakes are told at once, each with its line.
        let line = format!("base_url = {}", toml::Value::from(*url));
        if !failed.stderr.contains(&line) && !failed.stderr.contains(&format!("integration[{number}]")) {
            taken.push(*url);
        }
    }
    assert!(taken.is_empty(), "not told: {taken:?}\n{}", failed.stderr);
}

/// EX-09, EX-19, EX-20, EX-22 by the API: what is written is refused, and nothing is stored.
#[tokio::test]
async fn a_base_url_that_could_be_read_in_two_ways_is_refused_by_the_api() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", "t");
    })
    .await;
    let admin = server.admin();
    let auth = serde_json::json!([{ "method": "main", "type": "none" }]);
    for url in TWO_WAYS {
        let integration = serde_json::json!({ "slug": "odd", "base_url": url, "auth": auth });
        let reply = admin.post("integrations", integration).await;
        assert_eq!(reply.status, 422, "{url}: {}", reply.text());
        assert!(reply.json()["errors"].to_string().contains("/base_url"), "{url}: {}", reply.text());
    }
    assert_eq!(admin.get("integrations/odd").await.status, 404);
    server.finish(&[]).await;
}

/// EX-09: the same for the further hosts of an integration.
#[tokio::test]
async fn an_allowed_host_that_is_no_plain_origin_is_refused_at_start() {
    let hosts = [
        "http://files.test",
        "*.files.test",
        "*",
        "files.test/x",
        "user@files.test",
        "files.test:0",
        "files.test.",
        "",
    ];
    let started = Sidekey::try_with(|config| {
        for (number, host) in hosts.iter().enumerate() {
            declare(config, number, "https://api.example.test", &[host]);
        }
    })
    .await;
    let Err(failed) = started else { panic!("it started") };
    assert_eq!(failed.code, 3, "{}", failed.stderr);
    let errors = failed.stderr.matches("error").count();
    assert!(errors >= hosts.len(), "{errors} of {} were told:\n{}", hosts.len(), failed.stderr);
}

fn declare(config: &mut Config, number: usize, url: &str, hosts: &[&str]) {
    let auth = table(&[("method", "main".into()), ("type", "none".into())]);
    config.integration(&[
        ("slug", format!("it-{number}").into()),
        ("base_url", url.into()),
        ("hosts", hosts.to_vec().into()),
        ("auth", vec![auth].into()),
    ]);
}
