//! The forward proxy with absolute-form targets: the origin decides where, https is meant, and nothing goes elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::attack::{Outcome, SMUGGLED, Stage, Table};
use crate::harness::{Canary, Raw, Sidekey, Sink};

fn login(user: &str) -> String {
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user))
}

fn absolute(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: api.example.test\r\n{lines}\r\n")
}

fn arrived(outcome: &Outcome, target: &str) -> bool {
    outcome.is_forwarded()
        && outcome.seen[0].target == target
        && outcome.seen[0].header("proxy-authorization").is_none()
}

/// FP-12, H1-21
#[tokio::test]
async fn an_absolute_target_goes_over_verified_tls_to_the_host_in_it() {
    let stage = Stage::with(|config| {
        config.integration_key("hosts", vec!["api.example.test:8443"]);
    })
    .await;
    let mut table = Table::default();
    for target in [
        "http://api.example.test/p?q=%20",
        "http://api.example.test:80/p?q=%20",
        "https://api.example.test/p?q=%20",
        "https://api.example.test:443/p?q=%20",
        "HTTP://API.Example.Test/p?q=%20",
        "http://api.example.test:8443/p?q=%20",
    ] {
        let outcome = stage.attack(absolute(target, &login("c1:"))).await;
        table.row(target, arrived(&outcome, "/p?q=%20"), &outcome);
        let host = if target.contains("8443") { "api.example.test:8443" } else { "api.example.test" };
        assert_eq!(outcome.seen[0].header("host"), Some(host), "{target}");
    }
    // The received Host says nothing: it is written anew from the target (RFC 9112 §3.2.2).
    for host in ["evil.test", "localhost:1", "127.0.0.1"] {
        let head = format!("GET http://api.example.test/p HTTP/1.1\r\nHost: {host}\r\n{}\r\n", login("c1:"));
        let outcome = stage.attack(head).await;
        table.row(
            host,
            arrived(&outcome, "/p") && outcome.seen[0].header("host") == Some("api.example.test"),
            &outcome,
        );
    }
    table.check();
    for number in 0..stage.sink.connection_count() {
        let connection = stage.sink.connection(number);
        assert!(connection.tls.is_some() && connection.sni.as_deref() == Some("api.example.test"));
    }
    stage.finish().await;
}

/// The base path is a convenience of the reverse mode.
#[tokio::test]
async fn an_absolute_target_takes_the_path_as_given() {
    let stage = Stage::with(|config| {
        config.integration_key("base_url", "https://api.example.test/v1");
    })
    .await;
    let mut table = Table::default();
    for (target, path) in [
        ("http://api.example.test/other?x", "/other?x"),
        ("http://api.example.test", "/"),
        ("http://api.example.test?x", "/?x"),
        ("http://api.example.test/c/c1/x", "/c/c1/x"),
        ("http://api.example.test//evil.test/", "//evil.test/"),
    ] {
        let outcome = stage.attack(absolute(target, &login("c1:"))).await;
        table.row(target, arrived(&outcome, path), &outcome);
    }
    for target in ["http://api.example.test/../x", "http://api.example.test/%2e%2e/x", "http://api.example.test/a\\b"] {
        let outcome = stage.attack(absolute(target, &login("c1:"))).await;
        table.row(target, outcome.is_refused(400) && outcome.code() == Some("target_invalid"), &outcome);
    }
    table.check();
    stage.sink.assert_strict();
    stage.server.finish(&[&stage.token]).await;
}

/// H1-21
#[tokio::test]
async fn an_origin_that_is_not_the_connections_is_never_contacted() {
    let evil = Sink::https().await;
    let stage = Stage::with(|config| {
        config.pin("evil.test", evil.addr).pin("files.example.test", evil.addr);
    })
    .await;
    let mut table = Table::default();
    let port = evil.addr.port();
    for target in [
        "http://evil.test/p",
        "https://evil.test/p",
        "http://evil.test:80/p",
        &format!("http://127.0.0.1:{port}/p"),
        &format!("https://127.0.0.1:{port}/p"),
        "http://api.example.test:8080/p",
        "https://api.example.test:80/p",
        "http://files.example.test/p",
        "http://api.example.test.evil.test/p",
        "http://sub.api.example.test/p",
        "http://example.test/p",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/p",
        "http://localhost/p",
        "http://2130706433/p",
        "http://0x7f.1/p",
        "http://127.1/p",
    ] {
        for lines in [login("c1:"), "Sidekey-Connection: c1\r\n".to_owned()] {
            let outcome = stage.attack(absolute(target, &lines)).await;
            let denied = outcome.statuses() == [403] && outcome.code() == Some("host_not_allowed");
            table.row((target, lines), denied && outcome.seen.is_empty(), &outcome);
        }
    }
    // The host of the request must not decide either, nor a second origin in a header.
    let lines = format!("{}Sidekey-Upstream: https://api.example.test\r\n", login("c1:"));
    let outcome = stage.attack(absolute("http://evil.test/p", &lines)).await;
    table.row(
        "an allowed Sidekey-Upstream beside it",
        outcome.seen.is_empty() && outcome.reply().status >= 400,
        &outcome,
    );
    table.check();
    assert_eq!(evil.connection_count(), 0);
    stage.finish().await;
}

/// H1-22
#[tokio::test]
async fn an_odd_absolute_target_is_refused() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for target in [
        "file:///etc/passwd",
        "ftp://api.example.test/",
        "gopher://api.example.test/",
        "http:/p",
        "http:///p",
        "http://:80/",
        "http://u:p@api.example.test/",
        "http://u@api.example.test/",
        "http://api.example.test@evil.test/",
        "http:p",
        "http://api.example.test:/p",
        "http://api.example.test:0/p",
        "http://api.example.test:65536/p",
        "ws://api.example.test/",
        "http://api.example.test:80:80/p",
        "http://api.example.test./p",
        "http://api..example.test/",
        "http://[::1/p",
        "http://api.example.test%00.evil.test/p",
        "http://api.example.test\\@evil.test/",
        "https+unix://x/p",
        "http://",
        "data:text/plain,x",
        "unix:/run/x",
        "http://api_%2f.test/",
        "http://[v1.x]/p",
    ] {
        let outcome = stage.attack(absolute(target, &login("c1:"))).await;
        table.row(target, outcome.is_refused(400), &outcome);
    }
    table.check();
    stage.finish().await;
}

/// FP-07, and CONTRACT §2.6: what is 401 or a missing tag elsewhere is 407 here.
#[tokio::test]
async fn a_proxy_client_without_a_login_is_asked_for_one() {
    let stage = Stage::with(|config| {
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await;
    let (local, key) = (stage.server.proxy(), stage.server.proxies[1].clone());
    for (address, lines, code) in [
        (&local, String::new(), "connection_missing"),
        (&local, "Proxy-Authorization: Bearer x\r\n".to_owned(), "connection_missing"),
        (&local, login(":"), "connection_missing"),
        (&local, login("c1:apk_unknown"), "key_unknown"),
        (&key, login("c1:"), "key_missing"),
        (&key, login("c1:not-a-key"), "key_missing"),
        (&key, login("c1:apk_unknown"), "key_unknown"),
    ] {
        let mut raw = Raw::connect(address).await;
        raw.send(absolute("http://api.example.test/p", &lines)).await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (407, Some(code)), "{lines}");
        assert!(reply.header("proxy-authenticate").is_some_and(|value| value.starts_with("Basic ")), "{lines}");
        assert_eq!(reply.header("www-authenticate"), None, "{lines}");
        assert_eq!(reply.json()["status"], 407);
    }
    for (lines, code) in [
        ("Proxy-Authorization: Basic !!!\r\n".to_owned(), "tag_malformed"),
        ("Proxy-Authorization: Basic\r\n".to_owned(), "connection_missing"),
        (login("c1:") + &login("c1:"), "tag_conflict"),
        (login("c1:") + "Sidekey-Connection: c2\r\n", "tag_conflict"),
        (login("a b:"), "tag_malformed"),
        (login("c1:apk_a") + "Sidekey-Key: apk_b\r\n", "tag_conflict"),
    ] {
        let outcome = stage.attack(absolute("http://api.example.test/p", &lines)).await;
        assert_eq!((outcome.code(), outcome.seen.len()), (Some(code), 0), "{lines}");
    }
    for lines in
        [login("c1"), login("c1:"), login("c1:ignored"), login("c1:x:y"), login("c1:") + "Connection-Id: c1\r\n"]
    {
        let outcome = stage.attack(absolute("http://api.example.test/p", &lines)).await;
        assert!(arrived(&outcome, "/p"), "{lines} {outcome:?}");
    }
    assert_eq!(stage.forwarded().len(), 5);
    stage.finish().await;
}

/// In reverse mode a proxy's login is no tag, and never reaches the upstream.
#[tokio::test]
async fn a_proxy_login_means_nothing_in_reverse_mode() {
    let stage = Stage::new().await;
    let outcome = stage.attack(format!("GET /p HTTP/1.1\r\nHost: localhost\r\n{}\r\n{SMUGGLED}", login("c1:"))).await;
    assert_eq!(outcome.replies[0].header("sidekey-error"), Some("connection_missing"));
    assert_eq!(outcome.replies[0].status, 400);
    stage.server.finish(&[&stage.token]).await;
}

/// CONTRACT §2.3: in clear only where the integration says so.
#[tokio::test]
async fn plain_http_goes_out_only_where_the_integration_allows_it() {
    let (plain, tls) = (Sink::http().await, Sink::https().await);
    let (a, b) = (Canary::new("plain"), Canary::new("both"));
    let server = Sidekey::with(|config| {
        config.pin("plain.test", plain.addr).pin("api.example.test", tls.addr);
        config.base("http://plain.test").bearer("plain", a.text());
        config.base("http://plain.test").bearer("both", b.text()).integration_key("hosts", vec!["api.example.test"]);
    })
    .await;
    let ask = async |target: &str, connection: &str| {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(absolute(target, &login(&format!("{connection}:")))).await;
        raw.response().await
    };
    assert_eq!(ask("http://plain.test/p", "plain").await.status, 200);
    assert_eq!(plain.next_request().await.header("host"), Some("plain.test"));
    assert_eq!(ask("https://plain.test/p", "plain").await.header("sidekey-error"), Some("host_not_allowed"));
    assert_eq!(ask("http://plain.test:81/p", "plain").await.header("sidekey-error"), Some("host_not_allowed"));
    // Where a host is allowed over https, http means https.
    assert_eq!(ask("http://api.example.test/p", "both").await.status, 200);
    assert_eq!(tls.next_request().await.header("authorization"), Some(&*format!("Bearer {}", b.text())));
    plain.assert_strict();
    server.finish(&[&a, &b]).await;
}
