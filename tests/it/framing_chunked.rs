//! Chunked request bodies: what is not framed as it says is broken off on both sides, and what is comes out anew.

use crate::attack::{Outcome, SMUGGLED, Stage, TAG, Table};
use crate::harness::{Raw, Reply};

fn chunked(body: &[u8]) -> Vec<u8> {
    [format!("POST /p HTTP/1.1\r\n{TAG}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), body].concat()
}

/// Broken off: no whole request upstream, no success told, the connection ended.
async fn broken_off(stage: &Stage, outcome: &Outcome) -> bool {
    for seen in &outcome.seen {
        // The upstream must notice: its connection ends in the middle of the body.
        stage.sink.given_up(seen).await;
    }
    // Trailers have the bounds of a head.
    let told = |reply: &Reply| {
        let code = reply.header("sidekey-error");
        [(400, Some("request_malformed")), (431, Some("head_too_large"))].contains(&(reply.status, code))
    };
    let told_failure = outcome.replies.len() <= 1 && outcome.replies.iter().all(told);
    outcome.closed && told_failure && outcome.seen.iter().all(|seen| !seen.complete)
}

pub(crate) const MISFRAMED: [&[u8]; 24] = [
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t\r\nhello\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    b"10000000000000000\r\nhello\r\n0\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"G\r\nhello\r\n0\r\n\r\n",
    b"\x005\r\nhello\r\n0\r\n\r\n",
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\rX\r\nhello\r\n0\r\n\r\n",
    b"5\r\r;A\r\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\rX0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"6\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
];

/// H1-28, H1-29, H1-30, H1-31
#[tokio::test]
async fn a_chunk_that_is_not_framed_as_it_says_breaks_the_request_off() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let long_extension = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(20 << 10));
    let many_extensions = format!("1;{}\r\nx\r\n", "e".repeat(10 << 10)).repeat(3);
    for body in MISFRAMED.into_iter().chain([long_extension.as_bytes(), many_extensions.as_bytes()]) {
        let outcome = stage.attack(chunked(&[body, SMUGGLED.as_bytes()].concat())).await;
        let holds = broken_off(&stage, &outcome).await;
        table.row(body[..body.len().min(40)].escape_ascii().to_string(), holds, &outcome);
    }
    table.check();
    assert!(stage.forwarded().iter().all(|seen| !seen.complete));
    stage.finish().await;
}

/// H1-28: a size that is allowed and never comes.
#[tokio::test]
async fn an_endless_chunk_is_streamed_and_never_awaited_in_memory() {
    let stage = Stage::new().await;
    // A first request brings in what every upstream takes once: code, certificates, a connection.
    stage.survives().await;
    let (resident, _) = stage.server.memory();
    let outcome = stage.attack_and_end(chunked(b"8000000000000000\r\nhello")).await;
    assert!(outcome.replies.iter().all(|reply| reply.status == 400), "{outcome:?}");
    for seen in stage.forwarded() {
        stage.sink.given_up(&seen).await;
        assert!(!seen.complete);
    }
    assert!(stage.server.memory().0 < resident + (4 << 20));
    stage.finish().await;
}

/// H1-29, H1-30
#[tokio::test]
async fn a_size_line_with_extensions_is_written_anew() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for size in ["5;", "5;a=b", "5;a=\"b", "05", "5;a=\"b;c\""] {
        let outcome = stage.attack(chunked(format!("{size}\r\nhello\r\n0\r\n\r\n").as_bytes())).await;
        // Accepted and framed anew; the bytes of the size line never pass.
        let anew = outcome.is_forwarded() && outcome.seen[0].text() == "hello";
        let received = stage.sink.connection(0).bytes;
        let line = format!("\r\n{size}\r\n");
        let passed = size != "05" && received.windows(line.len()).any(|window| window == line.as_bytes());
        table.row(size, anew && !passed, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-32, H1-33
#[tokio::test]
async fn a_body_that_ends_too_early_never_looks_complete_upstream() {
    let stage = Stage::new().await;
    let length = format!("POST /p HTTP/1.1\r\n{TAG}Content-Length: 100\r\n\r\n{}", "x".repeat(40));
    let bodies = [
        ("no last chunk", chunked(b"5\r\nhello\r\n")),
        ("half a chunk", chunked(b"5\r\nhe")),
        ("half a last chunk", chunked(b"5\r\nhello\r\n0\r\n")),
        ("half a size", chunked(b"5\r\nhello\r\n1")),
        ("half a length", length.clone().into_bytes()),
    ];
    for (number, (name, bytes)) in bodies.into_iter().enumerate() {
        let mut raw = Raw::connect(stage.server.proxy()).await;
        raw.send(bytes).await;
        let seen = stage.sink.next_head().await;
        assert_eq!(stage.forwarded().len(), number + 1, "{name}: it was sent again");
        raw.finish().await;
        stage.sink.given_up(&seen).await;
        if let Ok(reply) = raw.try_response().await {
            assert_eq!(reply.status, 400, "{name}");
        }
    }
    let mut raw = Raw::connect(stage.server.proxy()).await;
    raw.send(length.replace("/p ", "/reset ")).await;
    let seen = stage.sink.request_where("forty bytes", |seen| seen.body_length == 40 && seen.target == "/reset").await;
    raw.reset();
    stage.sink.given_up(&seen).await;
    assert_eq!(stage.forwarded().iter().filter(|seen| seen.target == "/reset").count(), 1, "it was sent again");
    let aborted = stage.server.metric("sidekey_request_aborted_total").await;
    assert!(aborted >= 5.0, "each is counted: {aborted}");
    assert!(stage.forwarded().iter().all(|seen| !seen.complete));
    stage.finish().await;
}

/// H1-34
#[tokio::test]
async fn announced_trailers_arrive_as_trailers() {
    let stage = Stage::new().await;
    let head = format!("POST /p HTTP/1.1\r\n{TAG}Trailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n");
    let outcome = stage.attack(format!("{head}5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")).await;
    assert!(outcome.is_forwarded() && outcome.seen[0].text() == "hello");
    assert_eq!(outcome.seen[0].trailers, [("x-t".to_owned(), "1".to_owned())]);
    assert_eq!(outcome.seen[0].header("x-t"), None);

    let outcome = stage.attack(chunked(b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n")).await;
    assert!(outcome.is_forwarded() && outcome.seen[0].text() == "hello");
    assert_eq!(outcome.seen[0].header("x-t"), None, "an unannounced trailer may be dropped, not become a header");
    stage.finish().await;
}

/// H1-35
#[tokio::test]
async fn a_trailer_never_authenticates_frames_routes_or_tags() {
    let stage = Stage::with(|config| {
        config.api_key("keyed", "header", "X-Key", "the-one-key");
    })
    .await;
    let mut table = Table::default();
    let trailers = [
        "Authorization: Bearer evil",
        "X-Connection-Id: keyed",
        "Sidekey-Connection: keyed",
        "Sidekey_Environment: x",
        "Host: evil",
        "Content-Length: 0",
        "Transfer-Encoding: x",
        "Transfer_Encoding: x",
        "Cookie: s=evil",
        "Connection: close",
        "Via: evil",
        "X-Forwarded-For: evil",
        "X-Api-Key: apk_x",
        "Proxy-Authorization: Basic eA==",
        "X-Key: evil",
        "X_Key: evil",
        "Content-Type: evil/evil",
        "Set-Cookie: evil",
    ];
    for connection in ["c1", "keyed"] {
        for trailer in trailers {
            if connection == "c1" && trailer.contains("Key: evil") {
                continue; // An ordinary field where nothing of that name is injected.
            }
            let name = trailer.split(':').next().unwrap_or_default();
            let head =
                format!("POST /{connection} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: {connection}\r\n");
            let body =
                format!("Trailer: {name}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{trailer}\r\n\r\n");
            let outcome = stage.attack(head + &body).await;
            let clean = outcome.is_forwarded() && {
                let seen = &outcome.seen[0];
                let expected = if connection == "c1" { stage.token.text() } else { "the-one-key" };
                let credentials = seen.headers.iter().filter(|(_, value)| value.contains(expected)).count();
                seen.text() == "hello" && seen.trailers.is_empty() && credentials == 1
            };
            table.row((connection, trailer), clean, &outcome);
        }
    }
    table.check();
    stage.sink.assert_strict();
    stage.survives().await;
    stage.server.finish(&[&stage.token]).await;
}

/// H1-36
#[tokio::test]
async fn trailers_beyond_the_limits_break_the_request_off() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let many: String = (0..1100).map(|number| format!("X-{number}: v\r\n")).collect();
    let long = format!("X-T: {}\r\n", "v".repeat(64 << 10));
    let endless = format!("X-T: {}", "v".repeat(256 << 10));
    for (name, trailers) in [("many", many + "\r\n"), ("long", long + "\r\n"), ("endless", endless)] {
        let outcome = stage.attack(chunked(format!("5\r\nhello\r\n0\r\n{trailers}").as_bytes())).await;
        let holds = broken_off(&stage, &outcome).await;
        table.row(name, holds, &outcome);
    }
    table.check();
    stage.finish().await;
}
