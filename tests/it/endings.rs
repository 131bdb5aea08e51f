//! How exchanges end: early answers, expectations, clients and upstreams that go away in the middle, HTTP/1.0.
//!
//! A message that was cut off must look cut off on the other side, whatever the versions on the two sides are.

use crate::api::{self, API, head};
use crate::harness::client::h2::H2;
use crate::harness::sink::{Framing, Gate, HOST, Step};
use crate::harness::wires::{Version, wires};
use crate::harness::{Client, Raw, Script, Sidekey, Sink, get, problem};

/// The ways in which an upstream's body may be cut: how it was framed, and what is done to it. A body that ends with
/// its connection is only whole in TLS if the upstream said so (H1-55).
const CUT_BODIES: [(Framing, Step); 7] = [
    (Framing::Length(10), Step::Fin),
    (Framing::Length(10), Step::Cut),
    (Framing::Length(10), Step::Reset),
    (Framing::Chunked, Step::Fin),
    (Framing::Chunked, Step::Reset),
    (Framing::UntilClose, Step::Cut),
    (Framing::UntilClose, Step::Reset),
];

/// The same over HTTP/2: the stream is reset, or the connection ends.
const CUT_STREAMS: [(Framing, Step); 3] =
    [(Framing::Length(10), Step::Reset), (Framing::Chunked, Step::Reset), (Framing::Chunked, Step::Fin)];

/// A body that is cut when the gate opens, and so not before the client has seen its beginning.
fn cut(sink: &Sink, framing: Framing, how: &Step) -> Gate {
    let gate = Gate::shut();
    let script = Script::new().then(Step::ReadBody).head(200, &[], framing).data("part").gate(&gate);
    sink.next(script.then(how.clone()));
    gate
}

/// H1-54, H1-55, OV-10, P-06.
#[tokio::test]
async fn an_upstream_gone_in_mid_body_never_looks_complete() {
    let cuts = match wires().upstream {
        Version::Http1 => &CUT_BODIES[..],
        Version::Http2 => &CUT_STREAMS[..],
    };
    let versions = match wires().client {
        Version::Http1 => &["HTTP/1.1", "HTTP/1.0"][..],
        Version::Http2 => &["HTTP/1.1"],
    };
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    for (number, (framing, how)) in cuts.iter().enumerate() {
        for version in versions {
            let gate = cut(&sink, *framing, how);
            let mut client = Client::connect(server.proxy()).await;
            client.send(format!("GET / {version}\r\nHost: localhost\r\nSidekey-Connection: api\r\n\r\n")).await;
            assert_eq!(client.head().await.status, 200);
            assert_eq!(client.piece().await.as_deref(), Some(&b"part"[..]));
            gate.open();
            assert!(client.try_piece().await.is_err(), "case {number} looks complete over {version}");
        }
    }
    let count = versions.len() * cuts.len();
    for line in server.access_lines(count).await {
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &"upstream_truncated".into()), "{line}");
    }
    assert_eq!(server.metric("sidekey_upstream_truncated_total").await, count as f64);
    server.finish(&[]).await;
}

/// H1-54: before the head there is nothing to truncate, so the client is told.
#[tokio::test]
async fn an_upstream_gone_before_its_answer_is_a_502() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    for how in [Step::Fin, Step::Cut, Step::Reset] {
        sink.next(Script::new().then(Step::ReadBody).then(how.clone())).next(Script::cut_in_head(how));
        for _ in 0..2 {
            let mut raw = Client::connect(server.proxy()).await;
            raw.request("POST", "/", &[API], "body").await;
            let answer = problem(&raw.response().await);
            assert_eq!((answer.status, answer.code.as_str()), (502, "upstream_closed"));
        }
    }
    assert_eq!(sink.count(), 6, "a POST is not sent again");
    server.finish(&[]).await;
}

/// Waits until the sink has the request, and a client that has gone away has ended it there too.
async fn assert_ends_with_client(server: &Sidekey, sink: &Sink, client: Client, number: usize) {
    let seen = sink.next_head().await;
    client.reset();
    sink.given_up(&seen).await;
    let line = server.access_lines(number + 1).await.pop().expect("a line");
    assert_eq!(line["reason"], "client_gone", "{line}");
    assert_eq!(server.metric("sidekey_request_aborted_total").await, (number + 1) as f64);
}

/// OV-06.
#[tokio::test]
async fn a_client_gone_ends_the_upstreams_connection() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    // In the middle of its request.
    let mut raw = Client::connect(server.proxy()).await;
    raw.send(format!("{}Content-Length: 100\r\n\r\n0123456789", head("POST", "/"))).await;
    assert_ends_with_client(&server, &sink, raw, 0).await;
    assert!(sink.requests().iter().all(|seen| !seen.complete && seen.body_length <= 10));

    // While it waits for the answer.
    sink.next(Script::stall());
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("GET", "/", &[API], "").await;
    assert_ends_with_client(&server, &sink, raw, 1).await;

    // In the middle of a quiet answer.
    let (script, feed) = Script::events();
    sink.next(script);
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("GET", "/", &[API], "").await;
    feed.send("data: 1\n\n");
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.piece().await.as_deref(), Some(&b"data: 1\n\n"[..]));
    assert_ends_with_client(&server, &sink, raw, 2).await;

    // In the middle of a busy one.
    sink.next(Script::download(1 << 30));
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("GET", "/", &[API], "").await;
    assert_eq!(raw.head().await.status, 200);
    assert!(raw.piece().await.is_some());
    assert_ends_with_client(&server, &sink, raw, 3).await;
    server.finish(&[]).await;
}

/// OV-06 over HTTP/2 on both sides: a stream that its client gives up is given up towards the upstream, and only it.
#[tokio::test]
async fn a_stream_given_up_by_its_client_is_given_up_upstream() {
    let sink = Sink::https2().await;
    sink.on("/quiet", Script::stall());
    let server = api::before(&sink).await;
    let client = H2::connect(server.proxy()).await;
    let (exchange, mut sending) = client.open("GET", "/quiet", &[API], true).await.expect("a stream");
    sink.next_head().await;
    sending.send_reset(h2::Reason::CANCEL);
    drop(exchange);
    sink.request_where("the reset", |seen| seen.reset).await;
    assert_eq!(client.get("/", &[API]).await.status, 200);
    assert_eq!(sink.connection_count(), 1);
    server.finish(&[]).await;
}

/// H1-32, H1-33, OV-07: a client that closes its sending side before the end of its body has broken it off.
#[tokio::test]
async fn a_request_cut_short_never_looks_complete_to_the_upstream() {
    let starts = ["Content-Length: 100\r\n\r\n0123456789", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"];
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    for (number, start) in starts.into_iter().enumerate() {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(format!("{}{start}", head("POST", "/"))).await;
        sink.request_where("the start of the body", |seen| seen.body_length >= 5).await;
        raw.finish().await;
        server.access_lines(number + 1).await;
        // Whatever the client is told, it is not an answer of the upstream's.
        if let Ok(reply) = raw.try_response().await {
            assert_eq!(problem(&reply).code, "client_gone");
        }
    }
    let broken = |seen: &crate::harness::sink::Seen| seen.complete;
    assert!(!sink.requests().iter().any(broken), "a truncated request looked complete");
    assert_eq!(sink.count(), 2, "a truncated request is not sent again");
    assert_eq!(server.metric("sidekey_request_aborted_total").await, 2.0);
    server.finish(&[]).await;
}

/// OV-07: a client that has said all it had to say may close its sending side and still be answered.
#[tokio::test]
async fn a_half_closed_client_is_answered() {
    let sink = Sink::https().await;
    let gate = Gate::shut();
    sink.next(Script::new().then(Step::ReadBody).gate(&gate).answer(200, &[], "late"));
    let server = api::before(&sink).await;
    let mut raw = Raw::connect(server.proxy()).await;
    raw.request("POST", "/", &[API], "all of it").await;
    raw.finish().await;
    assert_eq!(sink.next_request().await.text(), "all of it");
    gate.open();
    assert_eq!(raw.response().await.text(), "late");
    server.finish(&[]).await;
}

/// OV-06 and OV-07 together: FIN alone does not tell a client that is gone from one that has said all. One that waits is
/// asked by an interim response; whoever is gone cannot take it, and the upstream's connection ends.
#[tokio::test]
async fn a_client_that_left_by_fin_while_it_waits_is_noticed_and_one_that_listens_is_answered() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    sink.next(Script::stall());
    let mut gone = Raw::connect(server.proxy()).await;
    gone.request("GET", "/", &[API], "").await;
    let left = sink.next_head().await;
    drop(gone);
    sink.given_up(&left).await;

    let gate = Gate::shut();
    sink.next(Script::new().then(Step::ReadBody).gate(&gate).answer(200, &[], "late"));
    let mut listens = Raw::connect(server.proxy()).await;
    listens.request("GET", "/", &[API], "").await;
    listens.finish().await;
    sink.next_request().await;
    assert_eq!(listens.interim().await, 100, "it was asked");
    gate.open();
    assert_eq!(listens.response().await.text(), "late");
    server.finish(&[]).await;
}

/// RFC 9110 §10.1.1.
#[tokio::test]
async fn a_client_that_asks_is_told_to_continue_before_it_sends() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let mut client = Client::connect(server.proxy()).await;
    client.send(format!("{}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", head("PUT", "/"))).await;
    // Over HTTP/2 nobody is told: the server library has no interim answers there, and a client must be ready to send
    // after a wait of its own.
    if wires().client == Version::Http1 {
        assert_eq!(client.interim().await, 100);
    }
    client.send("hello").await;
    assert_eq!(client.response().await.json()["body"], "hello");

    // A request that is refused is refused without its body.
    let mut client = Client::connect(server.proxy()).await;
    let request = "PUT / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: other\r\n";
    client.send(format!("{request}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")).await;
    let reply = client.response().await;
    assert_eq!((problem(&reply).code.as_str(), reply.interim.len()), ("connection_unknown", 0));
    assert_eq!(sink.count(), 1);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_still_waits_to_send() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    for status in [401, 417] {
        sink.next(Script::new().answer(status, &[("connection", "close")], "no").then(Step::Fin));
        let mut raw = Client::connect(server.proxy()).await;
        raw.send(format!("{}Expect: 100-continue\r\nContent-Length: 500\r\n\r\n", head("PUT", "/"))).await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.text().as_str()), (status, "no"));
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let sink = Sink::https().await;
    sink.on("/early", Script::early(413, &[], "too much"));
    let server = api::before(&sink).await;
    let mut client = Client::connect(server.proxy()).await;
    client.send(format!("{}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", head("POST", "/early"))).await;
    let reply = client.response().await;
    assert_eq!((reply.status, reply.text().as_str()), (413, "too much"));
    client.send("0\r\n\r\n").await;
    assert_eq!(sink.next_request().await.text(), "hello");
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    server.finish(&[]).await;
}

/// A client that speaks HTTP/1.0 gets no chunks, no interim answers, and an end by the connection's end.
#[tokio::test]
async fn http_1_0_clients_are_served() {
    let sink = Sink::https().await;
    sink.on(
        "/chunked",
        Script::new()
            .interim(103, &[("link", "</a>")])
            .then(Step::ReadBody)
            .head(200, &[], Framing::Chunked)
            .data("ab")
            .data("cd")
            .end(),
    );
    let server = api::before(&sink).await;
    let fields = "Host: localhost\r\nSidekey-Connection: api\r\n";
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send(format!("GET /chunked HTTP/1.0\r\n{fields}\r\n")).await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.text().as_str(), reply.interim.len()), (200, "abcd", 0));
    assert_eq!(reply.header("transfer-encoding"), None);
    raw.closed().await;

    let mut raw = Raw::connect(server.proxy()).await;
    raw.send(format!("POST / HTTP/1.0\r\n{fields}Content-Length: 5\r\n\r\nhello")).await;
    assert_eq!(raw.response().await.json()["body"], "hello");
    raw.closed().await;

    let mut raw = Raw::connect(server.proxy()).await;
    for _ in 0..2 {
        raw.send(format!("GET / HTTP/1.0\r\n{fields}Connection: keep-alive\r\n\r\n")).await;
        assert_eq!(raw.response().await.status, 200);
    }
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    sink.assert_strict();
    server.finish(&[]).await;
}

/// Either side may speak either version.
#[tokio::test]
async fn every_pair_of_versions_works() {
    for (sink, version) in [(Sink::https1().await, 1), (Sink::https2().await, 2)] {
        let server = api::before(&sink).await;
        let client = H2::connect(server.proxy()).await;
        let echo = client.request("POST", "/a?b=%20", &[API, ("x-a", "1")], "two").await.json();
        assert_eq!(
            (&echo["version"], &echo["target"], &echo["body"]),
            (&version.into(), &"/a?b=%20".into(), &"two".into())
        );
        let mut raw = Raw::connect(server.proxy()).await;
        raw.request("POST", "/a?b=%20", &[API, ("x-a", "1")], "one").await;
        let echo = raw.response().await.json();
        assert_eq!(
            (&echo["version"], &echo["target"], &echo["body"]),
            (&version.into(), &"/a?b=%20".into(), &"one".into())
        );
        let seen = sink.next_request().await;
        match version {
            1 => assert_eq!(seen.header("host"), Some(HOST)),
            _ => assert_eq!(seen.pseudo[1], (":authority".to_owned(), HOST.to_owned())),
        }
        sink.assert_strict();
        server.finish(&[]).await;
    }
}

/// What the run is called is what is spoken.
#[tokio::test]
async fn the_runs_own_pair_of_versions_is_spoken() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let mut client = Client::connect(server.proxy()).await;
    assert_eq!(matches!(client, Client::Http2(_)), wires().client == Version::Http2);
    client.request("GET", "/", &[API], "").await;
    let version = if wires().upstream == Version::Http2 { 2 } else { 1 };
    assert_eq!(client.response().await.json()["version"], version);
    server.finish(&[]).await;
}

/// Over HTTP/2 the mark of a body's end may come by itself, after a client that knew the length has stopped reading.
#[tokio::test]
async fn an_answer_whose_end_comes_by_itself_is_complete() {
    let sink = Sink::https2().await;
    let (gate, length) = (Gate::shut(), Framing::Length(5));
    sink.on("/late", Script::new().then(Step::ReadBody).head(200, &[], length).data("hello").gate(&gate).end());
    sink.on("/soon", Script::new().then(Step::ReadBody).head(200, &[], length).data("hello").end());
    let server = api::before(&sink).await;
    let mut raw = Raw::connect(server.proxy()).await;
    for path in ["/late", "/soon"] {
        raw.request("GET", path, &[API], "").await;
        assert_eq!(raw.response().await.text(), "hello", "{path}");
    }
    gate.open();
    for line in server.access_lines(2).await {
        assert_eq!(line.get("reason"), None, "{line}");
    }
    assert!(sink.requests().iter().all(|seen| !seen.reset), "a stream was reset");
    assert_eq!(server.metric("sidekey_request_aborted_total").await, 0.0);
    server.finish(&[]).await;
}
