//! Several messages on one connection: what follows a message is either a message of its own or nothing at all.

use rand::RngExt as _;
use serde_json::json;

use crate::api_keys::create;
use crate::attack::{SMUGGLED, Stage, TAG, Table};
use crate::harness::{Raw, Script, Sink, client};

/// H1-37
#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_and_an_http_1_0_client_never_does() {
    let stage = Stage::new().await;
    let mut raw = Raw::connect(stage.server.proxy()).await;
    raw.send(format!("POST /p HTTP/1.1\r\n{TAG}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    assert_eq!(raw.interim().await, 100);
    raw.send("hello").await;
    assert_eq!(raw.response().await.json()["body"], "hello");

    let mut raw = Raw::connect(stage.server.proxy()).await;
    raw.send(format!("POST /p HTTP/1.0\r\n{TAG}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    raw.send("hello").await;
    let reply = raw.response().await;
    assert_eq!((reply.interim.as_slice(), &reply.json()["body"]), (&[][..], &"hello".into()));
    assert!(stage.forwarded().iter().all(|seen| seen.header("expect").is_none()));
    stage.finish().await;
}

/// H1-38
#[tokio::test]
async fn an_early_answer_to_a_waiting_client_leaves_no_body_where_a_request_is_expected() {
    let stage = Stage::new().await;
    for (number, status) in [401, 417, 200].into_iter().enumerate() {
        let path = format!("/early-{number}");
        stage.sink.on(&path, Script::early(status, &[], "early"));
        let mut raw = Raw::connect(stage.server.proxy()).await;
        let length = SMUGGLED.len();
        let head = format!("POST {path} HTTP/1.1\r\n{TAG}Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
        raw.send(head).await;
        assert_eq!(raw.head().await.status, status);
        while raw.piece().await.is_some() {}
        // The body, as if 100 had come, and a second request behind it.
        let second = format!("{SMUGGLED}GET /second-{number} HTTP/1.1\r\n{TAG}\r\n");
        if raw.try_send(second).await.is_ok() {
            match raw.try_response().await {
                Ok(reply) => assert_eq!(reply.json()["target"], format!("/second-{number}")),
                Err(ended) => assert!(ended.partial.is_none(), "half an answer: {ended:?}"),
            }
        }
        stage.survives().await;
    }
    stage.finish().await;
}

/// H1-39
#[tokio::test]
async fn an_expectation_that_is_not_understood_changes_nothing_about_the_body() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for expect in ["y 100-continue", "100-continue, x", "100-Continue\t", "200-ok", "", "100-continue\r\nExpect: x"] {
        let head = format!("POST /p HTTP/1.1\r\n{TAG}Expect: {expect}\r\nContent-Length: 5\r\n\r\nhello");
        let outcome = stage.attack(head).await;
        let arrives =
            outcome.is_forwarded() && outcome.seen[0].text() == "hello" && outcome.seen[0].header("expect").is_none();
        table.row(expect, arrives, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-41, H1-43
#[tokio::test]
async fn messages_one_after_another_stay_apart_and_an_invalid_one_is_the_last() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\n{TAG}\r\n");
    let targets = |outcome: &crate::attack::Outcome| -> Vec<String> {
        outcome.seen.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    };

    let outcome = stage.attack([get("/1"), get("/2"), get("/3")].concat()).await;
    let apart = outcome.statuses() == [200; 3] && targets(&outcome) == ["GET /1", "GET /2", "GET /3"];
    table.row("three", apart, &outcome);

    // One byte too many belongs to the next message and to nobody else's.
    let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}Content-Length: 0\r\n\r\nX{}", get("/p"))).await;
    table.row("a byte too many", targets(&outcome) == ["POST /p", "XGET /p"], &outcome);
    let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}Content-Length: 0\r\n\r\n\x01{}", get("/p"))).await;
    let malformed = outcome.statuses() == [200, 400] && outcome.code() == Some("request_malformed");
    let refused = malformed && targets(&outcome) == ["POST /p"];
    table.row("a byte that is no method", refused, &outcome);

    let invalid = format!("GET /SMUG HTTP/1.1\r\n{TAG}Content-Length: x\r\n\r\n");
    let outcome = stage.attack([get("/1"), invalid, get("/SMUG")].concat()).await;
    let malformed = outcome.statuses() == [200, 400] && outcome.code() == Some("request_malformed");
    table.row("valid, invalid, valid", malformed && targets(&outcome) == ["GET /1"], &outcome);
    table.check();
    stage.finish().await;
}

/// H1-43, H1-45: a body that nobody wants is read as strictly as any other before the next request is believed.
#[tokio::test]
async fn a_refused_request_whose_trailers_are_no_fields_is_the_last_on_its_connection() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for (trailer, goes_on) in [("X-T: 1", true), ("X\0T: 1", false), ("X-T", false), ("X-T: 1\r2", false)] {
        let refused = "POST /p HTTP/1.1\r\nHost: evil.test\r\nSidekey-Connection: c1\r\nTransfer-Encoding: chunked\r\n";
        let next = format!("GET /next HTTP/1.1\r\n{TAG}\r\n");
        let outcome = stage.attack(format!("{refused}\r\n5\r\nhello\r\n0\r\n{trailer}\r\n\r\n{next}")).await;
        let expected: &[u16] = if goes_on { &[403, 200] } else { &[403] };
        let holds = outcome.statuses() == expected && outcome.seen.len() == usize::from(goes_on);
        table.row(trailer, holds && outcome.closed != goes_on, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-45: answers of Sidekey's own; that it is overloaded is among the tests of that.
#[tokio::test]
async fn the_body_of_a_request_that_sidekey_answers_itself_is_never_a_request() {
    let stage = Stage::with(|config| {
        config.api_key("in-body", "body", "/key", "k");
        config.bearer("bare", "t").environment("staging");
        config.integration(&[
            ("slug", "empty".into()),
            ("base_url", "https://api.example.test".into()),
            (
                "auth",
                vec![crate::harness::config::table(&[("method", "main".into()), ("type", "bearer".into())])].into(),
            ),
        ]);
        config.connection(&[("key", "empty".into()), ("integration", "empty".into()), ("auth", "main".into())]);
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await;
    let mut table = Table::default();
    // A key whose one request of this hour is the one that shows its limit.
    let spent = json!({ "name": "spent", "limits": { "per_hour": 1 } });
    let (_, spent) = create(&stage.server.admin(), spent).await;
    let spent = format!("{TAG}Sidekey-Key: {spent}\r\n");
    let outcome = stage.attack(format!("GET /p HTTP/1.1\r\n{spent}\r\n")).await;
    table.row("the first of an hour", outcome.is_forwarded(), &outcome);
    let rows = [
        (429, "rate_limited", "/p", &*spent),
        (400, "connection_missing", "/p", "Host: localhost\r\n"),
        (400, "tag_malformed", "/p", "Host: localhost\r\nSidekey-Connection: A b\r\n"),
        (400, "tag_conflict", "/p", "Host: localhost\r\nSidekey-Connection: a\r\nConnection-Id: b\r\n"),
        (400, "target_invalid", "/../p", TAG),
        (403, "browser_request", "/p", "Host: localhost\r\nSidekey-Connection: c1\r\nOrigin: http://evil.test\r\n"),
        (401, "key_unknown", "/p", "Host: localhost\r\nSidekey-Connection: c1\r\nSidekey-Key: apk_x\r\n"),
        (
            403,
            "environment_not_permitted",
            "/p",
            "Host: localhost\r\nSidekey-Connection: c1\r\nSidekey-Environment: dev\r\n",
        ),
        (404, "connection_unknown", "/p", "Host: localhost\r\nSidekey-Connection: nobody\r\n"),
        (403, "host_not_allowed", "/p", "Host: localhost\r\nSidekey-Connection: c1\r\nSidekey-Upstream: evil.test\r\n"),
        (424, "credential_missing", "/p", "Host: localhost\r\nSidekey-Connection: empty\r\n"),
        (
            415,
            "body_unsupported",
            "/p",
            "Host: localhost\r\nSidekey-Connection: in-body\r\nContent-Type: text/plain\r\n",
        ),
    ];
    for (status, code, target, head) in rows {
        let framed = [
            ("all of it", format!("Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len())),
            ("a part of it", format!("Content-Length: 1000000\r\n\r\n{SMUGGLED}")),
            ("chunked", format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len())),
        ];
        for (name, body) in framed {
            if (status, name) == (415, "a part of it") {
                continue; // It waits for the body, rightly.
            }
            let outcome = stage.attack(format!("POST {target} HTTP/1.1\r\n{head}{body}")).await;
            let once = outcome.statuses() == [status] && outcome.code() == Some(code) && outcome.seen.is_empty();
            table.row((code, name), once, &outcome);
        }
    }
    let large = "x".repeat(100 << 10);
    let head = "Host: localhost\r\nSidekey-Connection: in-body\r\nContent-Type: application/json\r\n";
    let length = large.len() + SMUGGLED.len();
    let outcome =
        stage.attack(format!("POST /p HTTP/1.1\r\n{head}Content-Length: {length}\r\n\r\n{large}{SMUGGLED}")).await;
    table.row("body_too_large", outcome.statuses() == [413] && outcome.code() == Some("body_too_large"), &outcome);
    table.check();

    let mut raw = Raw::connect(&stage.server.proxies[1]).await;
    raw.request("POST", "/p", &[("Sidekey-Connection", "c1")], SMUGGLED).await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (401, Some("key_missing")));
    raw.finish().await;
    raw.closed().await;
    stage.finish().await;
}

/// H1-46, H1-47
#[tokio::test]
async fn an_upgrade_that_nobody_agreed_to_opens_no_tunnel() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    stage.sink.on("/no-websocket", Script::ok("plain"));
    let pipelined = format!("GET /next HTTP/1.1\r\n{TAG}\r\n");
    let outcome = stage.attack(format!("GET /no-websocket HTTP/1.1\r\n{TAG}{upgrade}\r\n{pipelined}")).await;
    assert_eq!(outcome.replies[0].text(), "plain");
    let targets: Vec<&str> = outcome.seen.iter().map(|seen| &*seen.target).collect();
    assert!(targets == ["/no-websocket"] || targets == ["/no-websocket", "/next"], "{targets:?}");

    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let outcome = stage.attack(format!("GET /plain HTTP/1.1\r\n{TAG}{h2c}\r\n")).await;
    assert!(outcome.is_forwarded());
    for name in ["connection", "upgrade", "http2-settings"] {
        assert_eq!(outcome.seen[0].header(name), None, "{name} arrived");
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    stage.sink.on("/switches", Script::malformed(switch));
    let outcome = stage.attack(format!("GET /switches HTTP/1.1\r\n{TAG}{h2c}\r\n{SMUGGLED}")).await;
    assert_eq!(
        (outcome.replies[0].status, outcome.replies[0].header("sidekey-error")),
        (502, Some("upstream_malformed"))
    );
    assert_eq!(outcome.seen.iter().filter(|seen| seen.target == "/switches").count(), 1);
    // What followed was a request of its own, with a head and a credential of its own, or nothing.
    assert!(outcome.replies.len() <= 2);
    stage.sink.assert_strict();
    stage.server.finish(&[&stage.token]).await;
}

/// H1-48
#[tokio::test]
async fn only_a_whole_websocket_handshake_asks_for_an_upgrade() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let rows = [
        ("GET", "1.1", "Connection: Upgrade\r\nUpgrade: foo\r\n"),
        ("GET", "1.1", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("GET", "1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        ("GET", "1.1", "Upgrade: websocket\r\n"),
        ("GET", "1.1", "Connection: keep-alive\r\nUpgrade: websocket\r\n"),
        ("GET", "1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        ("POST", "1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"),
        ("GET", "1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"),
    ];
    for (method, version, lines) in rows {
        let body = if lines.contains("chunked") { "0\r\n\r\n" } else { "" };
        let outcome = stage.attack(format!("{method} /p HTTP/{version}\r\n{TAG}{lines}\r\n{body}")).await;
        let plain = outcome.is_forwarded()
            && outcome.seen[0].header("upgrade").is_none()
            && outcome.seen[0].header("connection").is_none();
        table.row((method, version, lines), plain, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-60
#[tokio::test]
async fn what_is_not_named_in_the_contract_arrives_unchanged_both_ways() {
    let stage = Stage::new().await;
    let mut sent: Vec<(String, String)> =
        (0..50).map(|n| (format!("X-Field-{n}"), format!("value {n}; a=\"b, c\""))).collect();
    for (name, value) in [
        ("X-Twice", "one"),
        ("X-Twice", "two"),
        ("X-Twice", "one"),
        ("x-TWICE", "three"),
        ("X-Empty", ""),
        ("Accept", "*/*"),
        ("Accept-Encoding", "gzip, br"),
        ("User-Agent", "it/1"),
        ("Cookie", "a=1; b=2"),
        ("Content-Type", "application/octet-stream"),
    ] {
        sent.push((name.to_owned(), value.to_owned()));
    }
    let answered = [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2, 3"),
        ("set-cookie", "a=1; Path=/"),
        ("www-authenticate", "Basic realm=\"x\""),
        ("www-authenticate", "Bearer"),
        ("x-empty", ""),
        ("content-encoding", "gzip"),
        ("etag", "\"e\""),
    ];
    let mut body = vec![0; 1 << 20];
    rand::rng().fill(&mut body[..]);
    let back: Vec<u8> = body.iter().rev().copied().collect();
    stage.sink.next(Script::respond(207, &answered, &back));
    let headers: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (&**name, &**value)).collect();
    let tagged = [&headers[..], &[("Sidekey-Connection", "c1")]].concat();
    let reply = client::request(stage.server.proxy(), "POST", "/p?a=%20&b", &tagged, &body).await;

    assert_eq!((reply.status, reply.body == back), (207, true));
    let expected = [&answered[..], &[("content-length", "1048576")]].concat();
    assert_eq!(multiset(pairs(&reply.headers).filter(|(name, _)| name != "date")), multiset(owned(&expected)));
    let seen = stage.sink.next_request().await;
    assert_eq!((seen.target.as_str(), seen.body == body), ("/p?a=%20&b", true));
    let credential = format!("Bearer {}", stage.token.text());
    let added = [("host", crate::harness::sink::HOST), ("content-length", "1048576"), ("authorization", &credential)];
    assert_eq!(
        multiset(seen.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))),
        multiset(owned(&[&headers[..], &added].concat()))
    );
    stage.finish().await;
}

fn pairs(fields: &[(String, String)]) -> impl Iterator<Item = (String, String)> {
    fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect()
}

fn multiset(fields: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = fields.into_iter().collect();
    fields.sort();
    fields
}
