//! Bodies stream both ways: back-pressure instead of memory, events one by one, trailers, and answers without a body.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::api::{self, API, head};
use crate::harness::client::h2::H2;
use crate::harness::sink::{Framing, Gate, HOST, Step};
use crate::harness::{Client, PATIENCE, Script, Sidekey, Sink, ask, soon, within};

const MIB: u64 = 1 << 20;

/// How much may be on its way between two ends that stand still: the kernel's buffers, twice, and a few of ours.
const ON_ITS_WAY: u64 = 32 * MIB;

/// How long nothing moves before a test says that it stands still. On a slow machine it may say so too early, which
/// makes what was on its way look smaller, never larger.
const STILL: Duration = Duration::from_millis(500);

/// Sends `length` bytes of a body and reads an answer of `length` bytes.
async fn up_and_down(raw: &mut Client, sink: &Sink, length: u64) {
    sink.on("/up", Script::ok("taken")).on("/down", Script::download(length));
    raw.send(format!("{}Content-Length: {length}\r\n\r\n", head("PUT", "/up"))).await;
    let block = vec![b'u'; MIB as usize];
    for _ in 0..length / MIB {
        raw.send(&block).await;
    }
    assert_eq!(raw.response().await.text(), "taken");
    assert_eq!(sink.next_request().await.body_length, length);
    raw.request("GET", "/down", &[API], "").await;
    assert_eq!(raw.head().await.header("content-length"), Some(length.to_string().as_str()));
    let mut received = 0;
    while let Some(piece) = raw.piece().await {
        received += piece.len() as u64;
    }
    assert_eq!(received, length);
}

/// P-15, OV-04. In clear, because a build for tests spends most of its time in unoptimized TLS; the next test goes
/// through TLS with less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_up_and_a_gibibyte_down_stay_under_64_mib_of_memory() {
    let sink = Sink::builder().keep(1000).start().await;
    let server = api::before(&sink).await;
    let mut raw = Client::connect(server.proxy()).await;
    within(PATIENCE * 12, "two gibibytes", up_and_down(&mut raw, &sink, 1024 * MIB)).await;
    let (_, highest) = server.memory();
    assert!(highest < 64 * MIB, "{} MiB were resident", highest / MIB);
    server.finish(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_through_tls_stay_under_64_mib_of_memory() {
    let sink = Sink::builder().tls(&[HOST]).keep(1000).start().await;
    let server = api::before(&sink).await;
    let mut client = Client::connect(server.proxy()).await;
    within(PATIENCE * 4, "both bodies", up_and_down(&mut client, &sink, 128 * MIB)).await;
    let (_, highest) = server.memory();
    assert!(highest < 64 * MIB, "{} MiB were resident", highest / MIB);
    server.finish(&[]).await;
}

/// Writes until nothing more is taken, and says how much was; `None` where all `length` bytes were.
async fn write_until_still(stream: &mut TcpStream, length: u64) -> Option<u64> {
    let block = vec![b'.'; 64 << 10];
    let mut written = 0;
    while written < length {
        written += match timeout(STILL, stream.write(&block)).await {
            Ok(taken) => taken.expect("a peer that takes bytes") as u64,
            Err(_) => return Some(written),
        };
    }
    None
}

/// OV-04: what a slow reader does not take stays with the upstream.
#[tokio::test]
async fn a_slow_reader_pauses_the_upstream() {
    const LENGTH: u64 = 256 * MIB;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let sink = Sink::http().await;
    let address = listener.local_addr().expect("a bound listener");
    let server = api::with(&sink, |config| {
        config.pin(HOST, address);
    })
    .await;
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("GET", "/", &[API], "").await;
    let (mut upstream, _) = soon("a connection", listener.accept()).await.expect("a connection");
    let mut request = vec![0; 4096];
    assert!(upstream.read(&mut request).await.expect("a request") > 0);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
    upstream.write_all(answer.as_bytes()).await.expect("room for a head");
    assert_eq!(raw.head().await.status, 200);

    let written = write_until_still(&mut upstream, LENGTH).await.expect("the upstream is paused");
    assert!(written < ON_ITS_WAY, "{} MiB were taken for a client that reads nothing", written / MIB);
    let (_, highest) = server.memory();
    assert!(highest < 64 * MIB, "{} MiB were resident", highest / MIB);

    // The client reads again, and nothing is lost.
    let rest = tokio::spawn(async move {
        upstream.write_all(&vec![b'.'; usize::try_from(LENGTH - written).expect("it fits")]).await
    });
    let mut received = 0;
    while let Some(piece) = raw.piece().await {
        received += piece.len() as u64;
    }
    assert_eq!(received, LENGTH);
    rest.await.expect("the writer").expect("everything was taken");
    server.finish(&[]).await;
}

/// OV-04: its upstream's request ends too.
#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off_in_time() {
    let sink = Sink::http().await;
    sink.on("/down", Script::download(64 * MIB));
    let server = hasty(&sink).await;
    let mut client = Client::connect(server.proxy()).await;
    client.request("GET", "/down", &[API], "").await;
    sink.given_up(&sink.next_head().await).await;
    assert_eq!(server.access_lines(1).await[0]["reason"], "client_gone");
    assert_eq!(client.head().await.status, 200);
    while let Ok(piece) = client.try_piece().await {
        assert!(piece.is_some(), "it looks complete");
    }
    server.finish(&[]).await;
}

/// H2-08, with the smallest window that HTTP/2 begins with: its streams are reset, and their connection goes on.
#[tokio::test]
async fn streams_of_which_a_client_takes_nothing_are_reset_in_time() {
    const STREAMS: usize = 100;
    let sink = Sink::http().await;
    sink.on("/down", Script::download(10 * MIB));
    let server = hasty(&sink).await;
    let (before, _) = server.memory();
    let client = H2::connect(server.proxy()).await;
    let mut exchanges = Vec::new();
    for _ in 0..STREAMS {
        exchanges.push(client.open("GET", "/down", &[API], true).await.expect("a stream").0);
    }
    for _ in 0..STREAMS {
        sink.given_up(&sink.next_head().await).await;
    }
    let (_, highest) = server.memory();
    // 8 MiB of bodies, and what so many requests take in a build for tests.
    assert!(highest < before + 10 * MIB, "{} KiB were held", (highest - before) >> 10);
    let lines = server.access_lines(STREAMS).await;
    assert!(lines.iter().all(|line| line["reason"] == "client_gone"), "{lines:?}");
    for exchange in &mut exchanges {
        let ended = loop {
            match exchange.piece().await {
                Ok(piece) => assert!(piece.is_some(), "it looks complete"),
                Err(error) => break error,
            }
        };
        assert!(ended.is_reset(), "{ended}");
    }
    assert_eq!(client.get("/", &[API]).await.status, 200, "what is beside it goes on");
    server.finish(&[]).await;
}

/// H2-08: so are those whose answers are small, and those whose client has room for no more than a byte; and the line
/// says that the client did not get its answer.
#[tokio::test]
async fn streams_with_room_for_nothing_or_for_a_byte_are_reset_in_time() {
    let sink = Sink::http().await;
    sink.on("/", Script::ok(&"x".repeat(2_000))).on("/large", Script::ok(&"x".repeat(60_000)));
    let server = hasty(&sink).await;
    for (told, (window, path)) in [(0, "/"), (0, "/large"), (1, "/large")].into_iter().enumerate() {
        let client = H2::narrow(server.proxy(), window).await;
        let mut exchange = client.open("GET", path, &[API], true).await.expect("a stream").0;
        assert_eq!(exchange.head().await.expect("a head").status, 200, "{window} {path}");
        let line = server.access_lines(told + 1).await.remove(told);
        assert_eq!(line["reason"], "client_gone", "{window} {path}");
        let ended = loop {
            match exchange.piece().await {
                Ok(piece) => assert!(piece.is_some(), "{window} {path}: it looks complete"),
                Err(error) => break error,
            }
        };
        assert!(ended.is_reset(), "{window} {path}: {ended}");
    }
    server.finish(&[]).await;
}

/// Else both would wait for each other.
#[tokio::test]
async fn an_upload_goes_on_while_its_client_takes_nothing_of_the_answer() {
    const LENGTH: usize = 8 * MIB as usize;
    let sink = Sink::http().await;
    sink.on("/early", Script::early(200, &[], "x".repeat(20_000)));
    let server = api::before(&sink).await;
    let client = H2::narrow(server.proxy(), 1_000).await;
    let (mut exchange, mut sending) = client.open("POST", "/early", &[API], false).await.expect("a stream");
    sending.send_data(vec![b'u'; LENGTH].into(), true).expect("an open stream");
    assert_eq!(sink.next_request().await.body_length, LENGTH as u64);
    let reply = exchange.reply().await.expect("a whole answer");
    assert_eq!((reply.status, reply.body.len()), (200, 20_000));
    server.finish(&[]).await;
}

/// A server that waits a moment for who takes nothing.
async fn hasty(sink: &Sink) -> Sidekey {
    api::with(sink, |config| {
        config.set("proxy.body_idle_timeout", "300ms");
    })
    .await
}

#[tokio::test]
async fn a_slow_upstream_pauses_the_client() {
    const LENGTH: u64 = 256 * MIB;
    let sink = Sink::builder().keep(1000).start().await;
    let gate = Gate::shut();
    sink.next(Script::new().then(Step::Hold(gate.clone())).then(Step::ReadBody).answer(200, &[], "all"));
    let server = api::before(&sink).await;
    let mut client = TcpStream::connect(server.proxy().tcp()).await.expect("a connection");
    let request = format!("{}Content-Length: {LENGTH}\r\nConnection: close\r\n\r\n", head("PUT", "/"));
    client.write_all(request.as_bytes()).await.expect("room for a head");
    let written = write_until_still(&mut client, LENGTH).await.expect("the client is paused");
    assert!(written < ON_ITS_WAY, "{} MiB were taken for an upstream that reads nothing", written / MIB);
    let (_, highest) = server.memory();
    assert!(highest < 64 * MIB, "{} MiB were resident", highest / MIB);
    gate.open();
    let rest = vec![b'.'; usize::try_from(LENGTH - written).expect("it fits")];
    soon("the rest of the upload", client.write_all(&rest)).await.expect("everything is taken");
    let mut answer = String::new();
    soon("the answer", client.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("all"), "{answer}");
    assert_eq!(sink.next_request().await.body_length, LENGTH);
    server.finish(&[]).await;
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let (script, feed) = Script::events();
    sink.next(script);
    let mut client = Client::connect(server.proxy()).await;
    client.request("GET", "/events", &[API], "").await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        feed.send(event);
        assert_eq!(client.piece().await.as_deref(), Some(event.as_bytes()), "it came before the next was sent");
    }
    feed.close();
    assert_eq!(client.piece().await, None);
    server.finish(&[]).await;
}

/// A body goes up as it comes, before the client has sent all of it.
#[tokio::test]
async fn a_request_body_arrives_piece_by_piece() {
    let sink = Sink::https().await;
    sink.next(
        Script::new()
            .then(Step::ReadSome(5))
            .head(200, &[], Framing::Chunked)
            .data("got five")
            .then(Step::ReadBody)
            .end(),
    );
    let server = api::before(&sink).await;
    let mut raw = Client::connect(server.proxy()).await;
    raw.send(format!("{}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", head("POST", "/"))).await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.piece().await.as_deref(), Some(&b"got five"[..]));
    raw.send("6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(raw.piece().await, None);
    assert_eq!(sink.next_request().await.text(), "hello world");
    sink.assert_strict();
    server.finish(&[]).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let expected = [("x-sum".to_owned(), "42".to_owned())];
    let sink = Sink::https().await;
    let answer = Script::new().then(Step::ReadBody).head(200, &[("trailer", "x-sum")], Framing::Chunked).data("ab");
    sink.otherwise(answer.then(Step::End(vec![("x-sum".to_owned(), "42".to_owned())])));
    let server = api::before(&sink).await;
    let fields = "TE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    let reply = ask(server.proxy(), format!("{}{fields}2\r\nab\r\n0\r\nx-sum: 42\r\n\r\n", head("POST", "/"))).await;
    assert_eq!((reply.text().as_str(), reply.trailers.as_slice()), ("ab", &expected[..]));
    assert_eq!(sink.next_request().await.trailers, expected);
    sink.assert_strict();
    server.finish(&[]).await;
}

/// H1-52, without the attack: HEAD, 204 and 304 have no body, and the connection goes on after them.
#[tokio::test]
async fn answers_without_a_body_pass_and_the_connection_goes_on() {
    let sink = Sink::https().await;
    sink.on("/none", Script::respond(204, &[], ""));
    sink.on("/same", Script::respond(304, &[("etag", "\"a\"")], ""));
    sink.on("/head", Script::respond(200, &[("x-a", "1")], "12345"));
    let server = api::before(&sink).await;
    let mut raw = Client::connect(server.proxy()).await;
    raw.request("HEAD", "/head", &[API], "").await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.header("content-length"), reply.header("x-a")), (200, Some("5"), Some("1")));
    raw.request("GET", "/none", &[API], "").await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.header("content-length"), reply.header("transfer-encoding")), (204, None, None));
    raw.request("GET", "/same", &[API], "").await;
    let reply = raw.response().await;
    assert_eq!((reply.status, reply.header("etag")), (304, Some("\"a\"")));
    raw.request("GET", "/head", &[API], "").await;
    assert_eq!(raw.response().await.text(), "12345");
    assert_eq!((sink.connection_count(), sink.count()), (1, 4));
    sink.assert_strict();
    server.finish(&[]).await;
}

/// A hundred streams of one client, all open at once, to either version of HTTP.
#[tokio::test]
async fn a_hundred_streams_run_side_by_side() {
    let sink = Sink::https().await;
    let gate = Gate::shut();
    sink.otherwise(Script::new().gate(&gate).then(Step::Echo));
    let server = api::before(&sink).await;
    let client = H2::connect(server.proxy()).await;
    let mut streams = Vec::new();
    for number in 0..100 {
        let path = format!("/{number}");
        streams.push(client.open("GET", &path, &[API], true).await.expect("a stream").0);
    }
    for _ in 0..100 {
        sink.next_head().await;
    }
    gate.open();
    for (number, mut stream) in streams.into_iter().enumerate() {
        let echo = stream.reply().await.expect("a whole answer").json();
        assert_eq!(echo["target"], format!("/{number}"));
    }
    server.finish(&[]).await;
}
