//! WebSockets pass as they are, any other upgrade does not, and a tunnel ends, is counted and is logged.

use std::time::{Duration, Instant};

use crate::api::{self, API, head};
use crate::harness::sink::{End, Framing, HOST, Step};
use crate::harness::{Raw, Script, Sidekey, Sink, problem};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// Opens a WebSocket through the server.
async fn open(server: &Sidekey) -> Raw {
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send(format!("{}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n", head("GET", "/ws"))).await;
    let answer = raw.head().await;
    assert_eq!((answer.status, answer.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    raw
}

#[tokio::test]
async fn a_websocket_echoes_and_is_counted_and_logged() {
    // One that offers HTTP/2 as well must not be asked for it: the upgrade is HTTP/1.1's.
    for sink in [Sink::http().await, Sink::https1().await, Sink::https2().await] {
        sink.next(Script::websocket());
        let server = api::before(&sink).await;
        let mut raw = open(&server).await;
        for frame in [&b"\x81\x02hi"[..], b"\x82\x05\0\r\n\xff\x01"] {
            raw.send(frame).await;
            assert_eq!(raw.exactly(frame.len()).await, frame);
        }
        let seen = sink.next_request().await;
        assert_eq!(
            (seen.header("authorization"), seen.header("upgrade")),
            (Some("Bearer api-token"), Some("websocket"))
        );
        assert_eq!((seen.header("sidekey-connection"), seen.header("host")), (None, Some(HOST)));
        raw.finish().await;
        raw.closed().await;
        let line = server.access_lines(1).await.remove(0);
        assert_eq!(
            (&line["status"], &line["connection"], line.get("reason")),
            (&101.into(), &"api".into(), None),
            "{line}"
        );
        assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&11.into(), &11.into()), "{line}");
        assert_eq!(server.metric("sidekey_requests_total{status=\"1xx\"}").await, 1.0);
        sink.assert_strict();
        server.finish(&[]).await;
    }
}

/// `idle_timeout` is about bodies; a WebSocket may be quiet for as long as `tunnel_idle_timeout` says.
#[tokio::test]
async fn a_quiet_websocket_is_not_cut_by_the_deadlines_of_bodies() {
    // In clear: with so short a deadline a handshake might not be in time.
    let sink = Sink::http().await;
    sink.on("/ws", Script::websocket());
    let quiet = Duration::from_millis(900);
    let server = api::with(&sink, |config| {
        config.set("upstream.idle_timeout", "300ms").set("upstream.response_timeout", "300ms");
        config.set("proxy.body_idle_timeout", "300ms").set("proxy.head_timeout", "300ms");
        config.set("proxy.tunnel_idle_timeout", format!("{}ms", quiet.as_millis()));
    })
    .await;
    // The tunnel is open a little before this end knows.
    let before = Instant::now();
    let mut raw = open(&server).await;
    // It ends when its own deadline has passed, and no sooner.
    raw.closed().await;
    assert!(before.elapsed() >= quiet, "cut after {:?}", before.elapsed());
    assert_eq!(sink.closed(0).await, End::Eof);
    server.finish(&[]).await;
}

/// What one end does, the other sees.
#[tokio::test]
async fn a_tunnel_ends_with_either_of_its_ends() {
    let sink = Sink::https1().await;
    sink.on("/ws", Script::websocket());
    let server = api::before(&sink).await;
    let mut raw = open(&server).await;
    raw.send("x").await;
    assert_eq!(raw.exactly(1).await, b"x");
    raw.reset();
    assert_ne!(sink.closed(0).await, End::Script, "the client reset its connection");

    for end in [Step::Fin, Step::Reset] {
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        sink.on("/ws", Script::new().raw(head).raw("bye").then(end));
        let mut raw = open(&server).await;
        assert_eq!(raw.exactly(3).await, b"bye");
        raw.closed().await;
    }
    server.finish(&[]).await;
}

/// P-16: an end that takes nothing more does not hold the tunnel for ever.
#[tokio::test]
async fn an_end_that_takes_nothing_more_ends_the_tunnel() {
    let sink = Sink::http().await;
    sink.on("/ws", Script::websocket());
    let server = api::with(&sink, |config| {
        config.set("proxy.tunnel_idle_timeout", "200ms");
    })
    .await;
    let mut raw = open(&server).await;
    // The echo is never read, so sooner or later nothing moves any more in either direction.
    let block = vec![b'x'; 1 << 20];
    while raw.try_send(&block).await.is_ok() {}
    let line = server.access_lines(1).await.remove(0);
    assert_eq!(line["status"], 101);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_502() {
    let sink = Sink::https1().await;
    sink.otherwise(
        Script::new()
            .then(Step::ReadBody)
            .head(101, &[("upgrade", "websocket"), ("connection", "upgrade")], Framing::Length(0))
            .then(Step::Stall),
    );
    let server = api::before(&sink).await;
    // The third asks for a WebSocket in a way that is none: with a body.
    let asks = [
        head("GET", "/"),
        format!("{}Connection: Upgrade\r\nUpgrade: h2c\r\n", head("GET", "/")),
        format!("{}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}Content-Length: 0\r\n", head("POST", "/")),
    ];
    for ask in asks {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(format!("{ask}\r\n")).await;
        let answer = problem(&raw.response().await);
        assert_eq!((answer.status, answer.code.as_str()), (502, "upstream_malformed"));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn any_other_upgrade_is_dropped() {
    let sink = Sink::https1().await;
    let server = api::before(&sink).await;
    for upgrade in ["h2c", "TLS/1.0", "websocket, h2c", "connect-udp"] {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(format!(
            "{}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            head("GET", "/")
        ))
        .await;
        assert_eq!(raw.response().await.status, 200, "{upgrade}");
        let seen = sink.next_request().await;
        for gone in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(seen.header(gone), None, "{upgrade}");
        }
    }
    server.finish(&[]).await;
}

/// An upstream may decline: then its answer is one like any other.
#[tokio::test]
async fn a_websocket_that_is_declined_is_an_ordinary_answer() {
    let sink = Sink::https1().await;
    sink.on("/ws", Script::respond(403, &[], "no"));
    let server = api::before(&sink).await;
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send(format!("{}Connection: Upgrade\r\nUpgrade: websocket\r\n{KEY}\r\n", head("GET", "/ws"))).await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.text().as_str()), (403, "no"));
    raw.request("GET", "/", &[API], "").await;
    assert_eq!(raw.response().await.status, 200, "the connection goes on");
    server.finish(&[]).await;
}
