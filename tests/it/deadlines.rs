//! Every wait has a deadline, and each expiry a name of its own.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::api::{self, API, head};
use crate::harness::sink::places::{Refusing, Silent};
use crate::harness::sink::{Framing, Gate, Greeting, HOST, Step};
use crate::harness::wires::{Version, wires};
use crate::harness::{Client, Config, Problem, Raw, Script, Sidekey, Sink, get, problem};

/// Far longer than any of these tests may take: a deadline that holds although it should not makes its test fail.
const LONG: &str = "1h";

/// Every deadline is long but this one, which is 200 ms.
fn only(config: &mut Config, short: &str) {
    for name in ["connect_timeout", "tls_timeout", "response_timeout", "idle_timeout"] {
        config.set(&format!("upstream.{name}"), if name == short { "200ms" } else { LONG });
    }
}

async fn refusal(server: &Sidekey) -> Problem {
    problem(&get(server.proxy(), "/", &[API]).await)
}

fn told(problem: &Problem) -> (u16, &str, &str) {
    (problem.status, &problem.code, problem.body["title"].as_str().unwrap_or_default())
}

/// OV-05, P-16: the upstream's kernel does not answer.
#[tokio::test]
async fn connecting_has_a_deadline() {
    let (sink, silent) = (Sink::https().await, Silent::new().await);
    let server = api::with(&sink, |config| {
        only(config, "connect_timeout");
        config.pin(HOST, silent.addr);
    })
    .await;
    assert_eq!(told(&refusal(&server).await), (504, "connect_timeout", "The upstream did not accept in time"));
    server.finish(&[]).await;
}

/// OV-05: it accepts and then says nothing.
#[tokio::test]
async fn the_tls_handshake_has_a_deadline() {
    let sink = Sink::https().await;
    sink.greet_all(Greeting::Silence);
    let server = api::with(&sink, |config| only(config, "tls_timeout")).await;
    assert_eq!(told(&refusal(&server).await), (504, "connect_timeout", "The TLS handshake took too long"));
    assert_eq!(sink.count(), 0);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_upstream_that_refuses_or_hangs_up_is_told_apart_from_a_slow_one() {
    let (sink, refusing) = (Sink::https().await, Refusing::new());
    let server = api::with(&sink, |config| {
        config.pin("refusing.example.test", refusing.addr).base("https://refusing.example.test").none("refusing");
        config.base("https://unknown.invalid").none("unknown").set("upstream.resolve_timeout", "300ms");
    })
    .await;
    let answer = problem(&get(server.proxy(), "/", &[("Sidekey-Connection", "refusing")]).await);
    assert_eq!((answer.status, answer.code.as_str()), (502, "upstream_refused"));
    // RFC 6761 §6.4: the name never resolves, whoever is asked and even if nobody can be asked.
    let answer = problem(&get(server.proxy(), "/", &[("Sidekey-Connection", "unknown")]).await);
    assert_eq!((answer.status, answer.code.as_str()), (502, "upstream_dns"));
    sink.greet(Greeting::Fin);
    assert_eq!(refusal(&server).await.code, "upstream_tls");
    // A reset may come before the kernel has told us that we are connected.
    sink.greet(Greeting::Reset);
    let code = refusal(&server).await.code;
    assert!(["upstream_tls", "upstream_refused"].contains(&&*code), "{code}");
    server.finish(&[]).await;
}

/// OV-05: it takes the request and never answers. (A handshake may not take longer than the answer may, and in a build
/// for tests it takes its time: over TLS the connection is there before.)
#[tokio::test]
async fn the_response_head_has_a_deadline() {
    for sink in [Sink::http().await, Sink::https2().await] {
        sink.on("/", Script::stall());
        let server = api::with(&sink, |config| {
            only(config, "response_timeout");
            config.set("proxy.threads", 1);
        })
        .await;
        if sink.is_tls() {
            while get(server.proxy(), "/warm", &[API]).await.status != 200 {}
        }
        assert_eq!(told(&refusal(&server).await), (504, "response_timeout", "The upstream did not answer in time"));
        // The next request is served, whatever became of the connection of that one.
        assert_eq!(get(server.proxy(), "/next", &[API]).await.status, 200);
        server.finish(&[]).await;
    }
    // A head that comes byte by byte does not come in time either.
    let sink = Sink::http().await;
    sink.next(Script::trickle("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::from_millis(50)));
    let server = api::with(&sink, |config| only(config, "response_timeout")).await;
    assert_eq!(refusal(&server).await.code, "response_timeout");
    server.finish(&[]).await;
}

/// OV-05: the body stands still. The head has gone out, so the body is broken off.
#[tokio::test]
async fn a_body_that_stands_still_is_broken_off() {
    let sink = Sink::https().await;
    sink.otherwise(Script::stall_in_body(10, "part"));
    let server = api::with(&sink, |config| only(config, "idle_timeout")).await;
    let mut client = Client::connect(server.proxy()).await;
    client.request("GET", "/", &[API], "").await;
    let broken = client.try_response().await.expect_err("a body that stands still");
    assert_eq!(broken.partial.map(|partial| partial.body), Some(b"part".to_vec()));
    let line = server.access_lines(1).await.remove(0);
    assert_eq!(line["reason"], "upstream_idle", "{line}");
    server.finish(&[]).await;
}

/// The idle deadline is about standing still, not about taking long.
#[tokio::test]
async fn a_slow_body_that_moves_is_not_broken_off() {
    let sink = Sink::https().await;
    let body = "x".repeat(20);
    let every = Duration::from_millis(40);
    sink.next(
        Script::new()
            .then(Step::ReadBody)
            .head(200, &[], Framing::Length(20))
            .then(Step::Trickle(body.clone().into(), every)),
    );
    let server = api::with(&sink, |config| only(config, "idle_timeout")).await;
    let before = Instant::now();
    assert_eq!(get(server.proxy(), "/", &[API]).await.text(), body);
    assert!(before.elapsed() > Duration::from_millis(400), "it took longer than the deadline");
    server.finish(&[]).await;
}

/// The upstream takes the head and nothing of a body that is there for it.
#[tokio::test]
async fn an_upload_that_nobody_takes_is_given_up() {
    let sink = Sink::https().await;
    sink.otherwise(Script::new().then(Step::Freeze));
    let server = api::with(&sink, |config| only(config, "idle_timeout")).await;
    let mut client = Client::connect(server.proxy()).await;
    client.send(format!("{}Content-Length: {}\r\n\r\n", head("PUT", "/"), 1 << 30)).await;
    // It is refused while it still sends, so the last pieces may find nobody.
    let block = vec![b'.'; 1 << 20];
    let mut sent = 0;
    while sent < 1 << 10 && client.try_send(&block).await.is_ok() {
        sent += 1;
    }
    let line = server.access_lines(1).await.remove(0);
    assert_eq!((&line["status"], &line["reason"]), (&504.into(), &"response_timeout".into()), "{line}");
    server.finish(&[]).await;
}

/// A client's body that stands still is a 408, and the upstream is let go.
#[tokio::test]
async fn a_client_that_stops_in_its_body_is_told() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        only(config, "none");
        config.set("proxy.body_idle_timeout", "200ms");
    })
    .await;
    let mut raw = Client::connect(server.proxy()).await;
    raw.send(format!("{}Content-Length: 10\r\n\r\n01234", head("POST", "/"))).await;
    let reply = raw.response().await;
    assert_eq!(told(&problem(&reply)), (408, "request_timeout", "The request came too slowly"));
    assert_eq!(reply.header("connection"), (wires().client == Version::Http1).then_some("close"));
    raw.closed().await;
    let seen = sink.next_head().await;
    sink.given_up(&seen).await;
    assert!(!sink.requests()[0].complete);
    server.finish(&[]).await;
}

/// OV-01 (with a handful of clients), OV-02: a head that never ends, or never begins.
#[tokio::test]
async fn a_head_that_stalls_is_told_and_one_that_never_begins_is_not() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.set("proxy.head_timeout", "200ms");
    })
    .await;
    for start in ["", "P", "PRI * HT", "G", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "] {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(start).await;
        match raw.try_response().await {
            Ok(reply) => {
                assert_eq!(
                    told(&problem(&reply)),
                    (408, "request_timeout", "The request came too slowly"),
                    "{start:?}"
                );
                assert!(!start.is_empty(), "nobody asked anything");
                raw.closed().await;
            }
            // What may still become HTTP/2 is in neither language yet.
            Err(broken) => {
                assert!("PRI * HTTP/2.0".starts_with(start), "no answer after {start:?}");
                assert!(broken.what.contains("after 0 bytes"), "after {start:?}: {}", broken.what);
            }
        }
    }
    // Between two requests it is the same wait.
    let mut raw = Raw::connect(server.proxy()).await;
    raw.request("GET", "/", &[API], "").await;
    assert_eq!(raw.response().await.status, 200);
    raw.closed().await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_requests_own_timeout_can_only_shorten() {
    let sink = Sink::http().await;
    let gate = Gate::shut();
    sink.on("/slow", Script::new().gate(&gate).then(Step::Echo));
    let server = api::with(&sink, |config| {
        config.set("upstream.response_timeout", "300ms");
    })
    .await;
    let ask = async |timeout: &str| {
        let before = Instant::now();
        let reply = get(server.proxy(), "/slow", &[API, ("Sidekey-Timeout", timeout)]).await;
        assert_eq!(problem(&reply).code, "response_timeout", "{timeout}");
        before.elapsed()
    };
    assert!(ask("50ms").await < Duration::from_millis(300), "it shortens");
    let waited = ask("1h").await;
    assert!(waited >= Duration::from_millis(300), "it has the server's deadline at least: {waited:?}");
    let reply = get(server.proxy(), "/", &[API, ("Sidekey-Timeout", "soon")]).await;
    assert_eq!(problem(&reply).code, "tag_malformed");
    let seen = sink.next_head().await;
    assert_eq!(seen.header("sidekey-timeout"), None);
    // It bounds the head: a body may take as long as it moves.
    let parts = Script::new().then(Step::ReadBody).head(200, &[], Framing::Length(3));
    sink.on("/body", parts.then(Step::Trickle("abc".into(), Duration::from_millis(80))));
    let reply = get(server.proxy(), "/body", &[API, ("Sidekey-Timeout", "100ms")]).await;
    assert_eq!(reply.text(), "abc");
    server.finish(&[]).await;
}

/// An integration knows its provider better than the server's defaults do.
#[tokio::test]
async fn an_integration_has_deadlines_of_its_own() {
    let sink = Sink::http().await;
    sink.otherwise(Script::stall());
    let server = api::with(&sink, |config| {
        only(config, "none");
        let own: toml::Table = [("response".to_owned(), "150ms".into())].into_iter().collect();
        config.integration_key("timeouts", own);
    })
    .await;
    let answer = refusal(&server).await;
    assert_eq!(answer.code, "response_timeout");
    assert_eq!(answer.body["error"]["type"], Value::from("sidekey_error"));
    server.finish(&[]).await;
}
