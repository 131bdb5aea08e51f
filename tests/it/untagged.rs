//! What is no tag names nothing: odd values of the header, and names in places that a web page or a link could fill.

use crate::harness::{Canary, Client, Sidekey, Sink, problem};

async fn setting(token: &Canary) -> (Sink, Sidekey) {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", token.text()).bearer("c2", token.text());
    })
    .await;
    (sink, server)
}

#[tokio::test]
async fn hi_10_odd_values_of_the_header_are_refused_and_not_repeated() {
    let token = Canary::new("token");
    let (sink, server) = setting(&token).await;
    let long = format!("X-Connection-Id: {}", "x".repeat(1024));
    let cases: [(&[u8], u16, &str); 17] = [
        (b"X-Nothing: 1", 400, "connection_missing"),
        (b"X-Connection-Id:", 400, "tag_malformed"),
        (b"X-Connection-Id: \t ", 400, "tag_malformed"),
        (b"X-Connection-Id: c1\r\nX-Connection-Id: c1", 400, "tag_conflict"),
        (b"X-Connection-Id: c1\r\nx-connection-id: c2", 400, "tag_conflict"),
        (b"X-Connection-Id: c1,c2", 400, "tag_malformed"),
        (b"X-Connection-Id: c1 c2", 400, "tag_malformed"),
        (long.as_bytes(), 400, "tag_malformed"),
        (b"X-Connection-Id: ../c1", 400, "tag_malformed"),
        (b"X-Connection-Id: c1%00", 400, "tag_malformed"),
        (b"X-Connection-Id: ' or 1=1--", 400, "tag_malformed"),
        (b"X-Connection-Id: <script>alert(1)</script>", 400, "tag_malformed"),
        (b"X-Connection-Id: C1", 400, "tag_malformed"),
        (b"X-Connection-Id: \xc3\xa91", 400, "tag_malformed"),
        (b"X-Connection-Id: c1\xff", 400, "tag_malformed"),
        (b"X-Connection-Id: conn_01", 400, "tag_malformed"),
        (b"X-Connection-Id: unknown", 404, "connection_unknown"),
    ];
    for (lines, status, code) in cases {
        let mut raw = Client::connect(server.proxy()).await;
        raw.send([b"GET / HTTP/1.1\r\nHost: localhost\r\n", lines, b"\r\n\r\n"].concat()).await;
        let reply = raw.response().await;
        let refusal = problem(&reply);
        assert_eq!((reply.status, refusal.code.as_str()), (status, code), "{}", lines.escape_ascii());
        let said = format!("{:?}{}", reply.headers, reply.text());
        let value = String::from_utf8_lossy(lines).split_once(": ").map(|(_, value)| value.trim().to_owned());
        let repeated = value.filter(|value| value.len() > 4).is_some_and(|value| said.contains(&value));
        assert!(!repeated || code == "connection_unknown", "repeated: {said}");
    }
    assert_eq!(sink.connection_count(), 0);
    for spaced in ["X-Connection-Id:c1", "X-Connection-Id:  \t c1 \t "] {
        let mut raw = Client::connect(server.proxy()).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{spaced}\r\n\r\n")).await;
        assert_eq!(raw.response().await.status, 200, "space around a value is no part of it");
    }
    assert_eq!(sink.count(), 2);
    server.finish(&[&token]).await;
}

/// HI-11: only what a web page cannot set by itself, and the path a person configured, is a tag.
#[tokio::test]
async fn hi_11_a_connection_is_not_named_by_query_cookie_body_or_trailer() {
    let token = Canary::new("token");
    let (sink, server) = setting(&token).await;
    let chunked = "Transfer-Encoding: chunked\r\nTrailer: X-Connection-Id\r\n\r\n0\r\nX-Connection-Id: c1\r\n\r\n";
    let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 18\r\n\r\nX-Connection-Id=c1";
    for (method, target, rest) in [
        ("GET", "/?connection_id=c1&X-Connection-Id=c1&connection=c1", "\r\n"),
        ("GET", "/", "Cookie: X-Connection-Id=c1; connection_id=c1\r\n\r\n"),
        ("GET", "/c1/v1", "\r\n"),
        ("GET", "/x/c/c1/v1", "\r\n"),
        ("GET", "/C/c1/v1", "\r\n"),
        ("GET", "/%63/c1/v1", "\r\n"),
        ("GET", "//c/c1/v1", "\r\n"),
        ("POST", "/", chunked),
        ("POST", "/", form),
        ("GET", "/", "Referer: http://localhost/c/c1/\r\nAuthorization: Basic YzE6\r\n\r\n"),
        ("GET", "/", "Proxy-Authorization: Basic YzE6\r\n\r\n"),
    ] {
        let mut raw = Client::connect(server.proxy()).await;
        raw.send(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{rest}")).await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (400, Some("connection_missing")), "{target} {rest}");
    }
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&token]).await;
}
