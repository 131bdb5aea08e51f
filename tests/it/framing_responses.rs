//! Answers of upstreams that are malformed, cut short or too large: a client never sees a complete-looking part.

use std::time::Duration;

use crate::attack::{Stage, TAG};
use crate::harness::client::{Broken, get};
use crate::harness::sink::{Framing, Step};
use crate::harness::{Client, Reply, Script, Sink, within};

const C1: (&str, &str) = ("Sidekey-Connection", "c1");

async fn ask(stage: &Stage, method: &str, path: &str) -> Result<Reply, Broken> {
    let mut raw = Client::connect(stage.server.proxy()).await;
    raw.request(method, path, &[C1], "").await;
    raw.try_response().await
}

/// H1-50
#[tokio::test]
async fn a_malformed_answer_is_a_502_and_its_connection_is_not_used_again() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let answers: [&[u8]; 22] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 0x4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, identity\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-evil: a\0b\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nx-evil: a\rb\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nx-evil: a\r\n folded\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nx-evil : a\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\nx evil: a\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 99 Odd\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 2000 Odd\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 abc Odd\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/2.0 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"evil",
        b"SSH-2.0-evil\r\n",
    ];
    let mut wrong = Vec::new();
    for (number, answer) in answers.iter().enumerate() {
        let path = format!("/{number}");
        stage.sink.on(&path, Script::new().then(Step::ReadBody).raw(answer).then(Step::Stall));
        let outcome = stage.attack(format!("GET {path} HTTP/1.1\r\n{TAG}\r\n")).await;
        let told = outcome.statuses() == [502] && outcome.code() == Some("upstream_malformed");
        let leaked = outcome
            .replies
            .iter()
            .any(|reply| reply.text().contains("evil") || reply.headers.iter().any(|(name, _)| name.contains("evil")));
        if !told || leaked {
            wrong.push(format!("{}: {:?} {:?}", answer.escape_ascii(), outcome.statuses(), outcome.code()));
            continue;
        }
        stage.sink.closed(outcome.seen[0].connection).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    stage.finish().await;
}

/// H1-52
#[tokio::test]
async fn bytes_behind_an_answer_without_a_body_poison_no_later_answer() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let poison = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nPOISON";
    let answers = [
        ("GET", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", 304, "HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n"),
        ("HEAD", 200, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n"),
        ("GET", 200, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        ("GET", 200, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", 200, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ];
    for (number, (method, status, answer)) in answers.into_iter().enumerate() {
        let path = format!("/{number}");
        stage.sink.on(&path, Script::new().then(Step::ReadBody).raw([answer, poison].concat()));
        let reply = ask(&stage, method, &path).await.expect("a whole answer");
        assert_eq!(reply.status, status, "{answer}");
        assert!(!reply.text().contains("POISON"), "{answer}");
        let seen = stage.sink.requests().pop().expect("the request");
        stage.survives().await;
        stage.sink.closed(seen.connection).await;
    }
    stage.finish().await;
}

/// H1-53
#[tokio::test]
async fn interim_answers_have_an_end() {
    let stage = Stage::before(Sink::https1().await, |config| {
        config.set("upstream.response_timeout", "1h");
    })
    .await;
    let (resident, _) = stage.server.memory();
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n".repeat(10_000);
    let script = Script::new().then(Step::ReadBody).raw(hints).then(Step::Stall);
    stage.sink.on("/hints", script);
    let outcome = within(Duration::from_secs(5), "an answer", ask(&stage, "GET", "/hints")).await;
    let reply = outcome.expect("an answer of Sidekey's own");
    assert_eq!((reply.status, reply.header("sidekey-error")), (502, Some("upstream_malformed")));
    assert!(reply.interim.len() <= 100, "{} interim answers", reply.interim.len());
    assert!(stage.server.memory().0 < resident + (8 << 20));
    stage.finish().await;
}

/// H1-54, H1-55
#[tokio::test]
async fn an_answer_cut_short_never_looks_whole() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let until_close =
        |how| Script::new().then(Step::ReadBody).head(200, &[], Framing::UntilClose).data("part").then(how);
    let chunks = |how| Script::new().then(Step::ReadBody).head(200, &[], Framing::Chunked).data("part").then(how);
    let bad_chunk = Script::malformed("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\nX\r\n");
    let rows = [
        ("a length, closed", Script::cut_in_body(100, "part", Step::Fin)),
        ("a length, cut", Script::cut_in_body(100, "part", Step::Cut)),
        ("a length, reset", Script::cut_in_body(100, "part", Step::Reset)),
        ("chunks, closed", chunks(Step::Fin)),
        ("chunks, cut", chunks(Step::Cut)),
        ("chunks, reset", chunks(Step::Reset)),
        ("a chunk that is none", bad_chunk),
        ("until the end, without TLS's own end", until_close(Step::Cut)),
        ("until the end, reset", until_close(Step::Reset)),
    ];
    let count = rows.len();
    let mut wrong = Vec::new();
    for (number, (name, script)) in rows.into_iter().enumerate() {
        let path = format!("/{number}");
        stage.sink.on(&path, script);
        match ask(&stage, "GET", &path).await {
            // With the reset the head may not have been read yet.
            Ok(reply) if reply.status == 502 && name.contains("reset") => {}
            // The reset of an HTTP/2 stream may overtake the head.
            Err(broken) if broken.partial.as_ref().is_none_or(|partial| partial.status == 200) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let truncated = stage.server.metric("sidekey_upstream_truncated_total").await;
    let early = stage.server.metric("sidekey_refusals_total{code=\"upstream_closed\"}").await;
    assert_eq!(truncated + early, count as f64, "each is counted");

    stage.sink.on("/whole", until_close(Step::Fin));
    assert_eq!(ask(&stage, "GET", "/whole").await.expect("a whole answer").text(), "part");
    stage.finish().await;
}

/// H1-56
#[tokio::test]
async fn an_answers_head_beyond_the_limits_is_a_502() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let (resident, _) = stage.server.memory();
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "v".repeat(2 << 20));
    let lines: String = (0..1000).map(|number| format!("x-{number}: v\r\n")).collect();
    let many = format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n");
    for (path, head) in [("/long", long), ("/many", many)] {
        stage.sink.on(path, Script::malformed(head));
        let reply = get(stage.server.proxy(), path, &[C1]).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (502, Some("upstream_malformed")), "{path}");
    }
    assert!(stage.server.memory().0 < resident + (8 << 20));
    stage.finish().await;
}

/// EX-12
#[tokio::test]
async fn what_an_answer_points_to_is_never_fetched() {
    let stage = Stage::before(Sink::https1().await, |_| {}).await;
    let evil = crate::harness::Sink::http().await;
    let url = format!("http://{}/x", evil.addr);
    let own = "https://api.example.test/followed";
    for (status, name, value) in [
        (200, "alt-svc", format!("h2=\"{}\"; ma=3600", evil.addr)),
        (200, "refresh", format!("0;url={url}")),
        (200, "link", format!("<{url}>; rel=preload")),
        (201, "location", url.clone()),
        (301, "location", url.clone()),
        (302, "location", own.to_owned()),
        (307, "location", own.to_owned()),
        (308, "location", url.clone()),
    ] {
        stage.sink.next(Script::respond(status, &[(name, &value)], ""));
        let reply = get(stage.server.proxy(), "/p", &[C1]).await;
        assert_eq!((reply.status, reply.header(name)), (status, Some(&*value)));
        stage.survives().await;
    }
    assert_eq!((evil.connection_count(), stage.forwarded().len()), (0, 8));
    assert!(stage.forwarded().iter().all(|seen| seen.target == "/p"));
    stage.finish().await;
}
