//! What belongs to one hop stays on that hop, whatever `Connection` says about it (RFC 9110 §7.6.1).

use crate::harness::client::h2::H2;
use crate::harness::sink::Seen;
use crate::harness::{Canary, Raw, Script, Sidekey, Sink};

async fn setting(key: &Canary) -> (Sink, Sidekey) {
    setting_with(Sink::https().await, key).await
}

async fn setting_with(sink: Sink, key: &Canary) -> (Sink, Sidekey) {
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", key.text()).api_key("maps", "header", "X-Maps-Key", key.text());
    })
    .await;
    (sink, server)
}

/// Sends a request of these raw lines, tagged, and gives what the upstream saw.
async fn sent(server: &Sidekey, sink: &Sink, connection: &str, lines: &[&str], body: &str) -> Seen {
    let mut raw = Raw::connect(server.proxy()).await;
    let method = if body.is_empty() { "GET" } else { "POST" };
    let mut head = format!("{method} /p HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: {connection}\r\n");
    for line in lines {
        head += &format!("{line}\r\n");
    }
    raw.send(format!("{head}\r\n{body}")).await;
    let reply = raw.response().await;
    assert_eq!(reply.status, 200, "{lines:?}: {}", reply.text());
    sink.next_request().await
}

const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "trailer",
    "upgrade",
    "http2-settings",
];

#[tokio::test]
async fn hbh_02_a_nominated_authorization_is_still_the_injected_one() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    for lines in [
        vec!["Connection: Authorization"],
        vec!["Connection: close, AUTHORIZATION"],
        vec!["Connection: keep-alive", "Connection: authorization", "Authorization: Bearer evil"],
        vec!["Authorization: Bearer evil", "Connection: ,, authorization ,"],
        vec!["Connection: X-Maps-Key, x_maps_key, authorization", "X-Maps-Key: evil"],
    ] {
        let seen = sent(&server, &sink, "stripe", &lines, "").await;
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", key.text())), "{lines:?}");
        let seen = sent(&server, &sink, "maps", &lines, "").await;
        assert_eq!((seen.header("x-maps-key"), seen.header("authorization")), (Some(key.text()), None), "{lines:?}");
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

/// HBH-05: what frames the message is never taken out by nomination.
#[tokio::test]
async fn hbh_05_nominating_what_frames_the_message_changes_no_framing() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let nominated = "Connection: Host, Content-Length, Transfer-Encoding, Content-Type, Content-Encoding";
    for (framing, body) in [("Content-Length: 2", "ab"), ("Transfer-Encoding: chunked", "2\r\nab\r\n0\r\n\r\n")] {
        let seen = sent(&server, &sink, "stripe", &[nominated, framing, "Content-Type: text/plain"], body).await;
        assert_eq!((seen.text().as_str(), seen.all("host").len()), ("ab", 1));
        assert!(seen.is_framed_once());
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn hbh_06_a_nomination_on_a_later_line_counts() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    for lines in [
        vec!["Connection:", "Connection: X-Foo", "X-Foo: 1"],
        vec!["X-Foo: 1", "Connection: close", "Connection: x-fOO"],
        vec!["Connection: keep-alive,\tX-Foo \t,close", "X-Foo: 1", "X-Foo: 2"],
        vec!["Connection: \u{e9}, X-Foo", "X-Foo: 1"],
    ] {
        let seen = sent(&server, &sink, "stripe", &lines, "").await;
        assert_eq!((seen.header("connection"), seen.all("x-foo").len()), (None, 0), "{lines:?}");
    }
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn hbh_07_a_nominated_field_is_no_trailer_either() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let lines = [
        "Connection: X-Foo",
        "X-Foo: 1",
        "Trailer: X-Foo",
        "Trailer: X-Sum, X-More",
        "TE: trailers",
        "Transfer-Encoding: chunked",
    ];
    let body = "2\r\nab\r\n0\r\nX-Foo: 2\r\nX-Sum: 3\r\nX-More: 4\r\n\r\n";
    let seen = sent(&server, &sink, "stripe", &lines, body).await;
    assert_eq!(seen.all("x-foo").len(), 0);
    let mut trailers: Vec<_> =
        seen.trailers.iter().map(|(name, value)| format!("{name}={value}").to_lowercase()).collect();
    trailers.sort();
    assert_eq!(trailers, ["x-more=4", "x-sum=3"], "announced trailers pass, nominated ones do not");
    assert_eq!((seen.header("trailer"), seen.header("te").unwrap_or("trailers")), (Some("X-Sum, X-More"), "trailers"));
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn hbh_08_hop_by_hop_fields_stay_behind_without_being_named() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let lines = [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic c3RyaXBlOg==",
        "Proxy-Authenticate: Basic",
        "Proxy-Authentication-Info: x",
        "TE: gzip",
        "Trailer: X-Sum",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Anything: 1",
        "X_Forwarded_Host: evil.test",
        "X-Real-IP: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
        "Via: 1.1 other",
        "X-Kept: 1",
    ];
    let seen = sent(&server, &sink, "stripe", &lines, "").await;
    for name in HOP_BY_HOP {
        assert_eq!(seen.all(name).len(), 0, "{name} passed");
    }
    assert_eq!(seen.names(), ["authorization", "host", "x-kept"], "nothing else passes, and nothing is added");
    let seen = sent(&server, &sink, "stripe", &["TE: gzip, trailers;q=0.5", "Connection: TE"], "").await;
    assert_eq!(seen.header("te").unwrap_or("trailers"), "trailers", "of TE only `trailers` passes");
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn an_answers_hop_by_hop_fields_stay_behind_too() {
    let key = Canary::new("key");
    let (sink, server) = setting_with(Sink::https1().await, &key).await;
    let fields = [
        ("Connection", "X-Foo, Content-Length"),
        ("X-Foo", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Connection", "keep-alive"),
        ("Upgrade", "h2c"),
        ("X-Kept", "1"),
        ("Server", "upstream/1"),
        ("Via", "1.1 upstream"),
        ("Sidekey-Error", "internal"),
        ("Sidekey-Request-Id", "req_theirs"),
    ];
    for _ in 0..2 {
        sink.next(Script::respond(200, &fields, "ok"));
        let mut raw = Raw::connect(server.proxy()).await;
        raw.request("GET", "/", &[("Sidekey-Connection", "stripe")], "").await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        for name in ["x-foo", "keep-alive", "proxy-authenticate", "proxy-connection", "upgrade", "sidekey-error"] {
            assert_eq!(reply.all(name).len(), 0, "{name} passed");
        }
        assert!(!reply.all("sidekey-request-id").contains(&"req_theirs"));
        assert_eq!(
            (reply.header("x-kept"), reply.header("server"), reply.header("via")),
            (Some("1"), Some("upstream/1"), Some("1.1 upstream"))
        );
    }
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn hbh_11_a_monstrous_connection_header_is_refused_or_ignored() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let many = (0..2000).map(|number| format!("x-{number}")).collect::<Vec<_>>().join(",");
    for value in
        ["a".repeat(64 << 10).into_bytes(), many.into_bytes(), b"X-Foo, \xff\xfe".to_vec(), b"\"X-Foo\"".to_vec()]
    {
        let mut raw = Raw::connect(server.proxy()).await;
        let head = "GET / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: stripe\r\nConnection: ";
        raw.send([head.as_bytes(), &value, b"\r\n\r\n"].concat()).await;
        let reply = raw.response().await;
        let told = (reply.status, reply.header("sidekey-error"));
        let expected = [(200, None), (400, Some("request_malformed")), (431, Some("head_too_large"))];
        assert!(expected.contains(&told), "{told:?}");
        assert_eq!(told == expected[2], value.len() > 60_000, "{told:?}");
    }
    for seen in sink.requests() {
        assert_eq!(seen.header("connection"), None);
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn over_http2_the_same_fields_stay_behind() {
    let key = Canary::new("key");
    let sink = Sink::https2().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", key.text());
    })
    .await;
    let client = H2::connect(server.proxy()).await;
    let fields = [
        ("sidekey-connection", "stripe"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic c3RyaXBlOg=="),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("x-forwarded-for", "1.2.3.4"),
        ("via", "2.0 other"),
        ("x-kept", "1"),
    ];
    assert_eq!(client.get("/p", &fields).await.status, 200);
    let seen = sink.next_request().await;
    assert_eq!(seen.names(), ["authorization", "host", "te", "x-kept"]);
    assert_eq!((seen.version, seen.header("te")), (2, Some("trailers")), "gRPC servers insist on it");
    sink.assert_strict();
    server.finish(&[&key]).await;
}

/// HBH-13: a connection whose host is Sidekey's own port is refused when it is dialled; nothing goes round.
#[tokio::test]
async fn hbh_13_a_loop_back_into_sidekey_is_refused_at_the_dial() {
    let key = Canary::new("key");
    let (sink, mut server) = setting(&key).await;
    let own = [server.proxy().tcp(), server.admin_address.tcp()];
    server.reconfigure(|config| {
        for (index, address) in own.iter().enumerate() {
            config.base(&format!("http://{address}")).bearer(&format!("loop-{index}"), key.text());
            config.base(&format!("https://localhost:{}", address.port())).bearer(&format!("name-{index}"), key.text());
        }
    });
    server.sighup();
    server.log_line("the reload", |line| line["message"] == "the configuration was loaded again").await;
    let before = server.process().descriptors();
    for connection in ["loop-0", "loop-1", "name-0", "name-1"] {
        for _ in 0..5 {
            let mut raw = Raw::connect(server.proxy()).await;
            raw.request("GET", "/", &[("Sidekey-Connection", connection)], "").await;
            let reply = raw.response().await;
            assert_eq!(
                (reply.status, reply.header("sidekey-error")),
                (403, Some("address_prohibited")),
                "{connection}"
            );
        }
    }
    let lines = server.access_lines(20).await;
    assert_eq!(lines.len(), 20, "each request was seen once: none came back in");
    if let (Ok(before), Ok(after)) = (before, server.process().descriptors()) {
        assert!(after <= before + 4, "descriptors grew from {before} to {after}");
    }
    assert_eq!(sink.count(), 0);
    server.finish(&[&key]).await;
}
