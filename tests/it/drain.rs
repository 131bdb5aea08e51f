//! SIGTERM: what was begun is finished, nothing new begins, and the process ends in time with exit code 0.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};

use crate::api::{self, API, head};
use crate::harness::client::Address;
use crate::harness::client::h2::H2;
use crate::harness::pki;
use crate::harness::sink::{End, Framing, Gate, Step};
use crate::harness::{Raw, Script, Sidekey, Sink, soon};

/// Waits until the server says that it drains.
async fn draining(server: &Sidekey) {
    server
        .log_line("the drain", |line| line["message"].as_str().is_some_and(|text| text.starts_with("draining")))
        .await;
}

/// Whether anybody listens at an address.
async fn is_accepted(address: &Address) -> bool {
    let failed = match address {
        Address::Tcp(address) => TcpStream::connect(address).await.err(),
        Address::Unix(path) => UnixStream::connect(path).await.err(),
    };
    // Who is in the queue when it goes is reset: one more look tells.
    failed.is_none_or(|error| error.kind() != std::io::ErrorKind::ConnectionRefused)
}

/// OV-12, P-17.
#[tokio::test]
async fn what_was_begun_is_finished_and_nothing_new_begins() {
    let sink = Sink::https().await;
    let (gate, more) = (Gate::shut(), Gate::shut());
    sink.on("/slow", Script::new().then(Step::ReadBody).gate(&gate).answer(200, &[], "finished"));
    sink.on(
        "/half",
        Script::new().then(Step::ReadBody).head(200, &[], Framing::Chunked).data("a").gate(&more).data("b").end(),
    );
    let mut server = api::with(&sink, |config| {
        config.unix_listener("proxy.sock");
        let (certificate, key) = pki::authority().leaf(&["localhost"]).write(config.folder(), "proxy");
        let tls =
            [("certificate", certificate), ("key", key)].map(|(name, path)| (name, path.display().to_string().into()));
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("tls", crate::harness::config::table(&tls))]);
    })
    .await;
    let (mut idle, mut silent) = (Raw::connect(server.proxy()).await, Raw::connect(server.proxy()).await);
    idle.request("GET", "/", &[API], "").await;
    assert_eq!(idle.response().await.status, 200);
    // One that has not even begun its TLS handshake.
    let mut unshaken = Raw::connect(&server.proxies[2]).await;
    silent.send("").await;
    let mut slow = Raw::connect(server.proxy()).await;
    slow.request("GET", "/slow", &[API], "").await;
    let mut half = Raw::connect(server.proxy()).await;
    half.request("GET", "/half", &[API], "").await;
    assert_eq!(half.head().await.status, 200);
    assert_eq!(half.piece().await.as_deref(), Some(&b"a"[..]));
    // Its body is still on the way up.
    let mut sending = Raw::connect(server.proxy()).await;
    sending.send(format!("{}Content-Length: 10\r\n\r\n01234", head("PUT", "/"))).await;
    sink.request_where("the upload", |seen| seen.method == "PUT" && seen.body_length == 5).await;
    sink.request_where("the slow request", |seen| seen.target == "/slow").await;

    server.sigterm();
    draining(&server).await;
    for connection in [&mut idle, &mut silent, &mut unshaken] {
        connection.closed().await;
    }
    // Each worker closes its own sockets, one a moment before the other.
    for address in server.proxies.iter().chain([&server.admin_address]) {
        soon("a refusal", async { while is_accepted(address).await {} }).await;
    }

    sending.send("56789").await;
    assert_eq!(sending.response().await.json()["body"], "0123456789");
    more.open();
    assert_eq!(half.piece().await.as_deref(), Some(&b"b"[..]));
    assert_eq!(half.piece().await, None);
    gate.open();
    let reply = slow.response().await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("finished", Some("close")));
    for connection in [&mut sending, &mut half, &mut slow] {
        connection.closed().await;
    }
    assert_eq!(server.wait_exit().await.code(), Some(0));
    // Every request has its line although the process ended right after the last.
    assert_eq!(server.access_lines(4).await.len(), 4);
    server.finish(&[]).await;
}

/// H2-18.
#[tokio::test]
async fn http2_clients_are_told_to_go_and_their_open_streams_are_finished() {
    let sink = Sink::https2().await;
    let gate = Gate::shut();
    sink.otherwise(Script::new().gate(&gate).then(Step::Echo)).on("/late", Script::echo());
    let mut server = api::before(&sink).await;
    let client = H2::connect(server.proxy()).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(client.open("GET", "/", &[API], true).await.expect("a stream").0);
        sink.next_head().await;
    }
    server.sigterm();
    draining(&server).await;
    // A stream that was opened before the goodbye arrived is served; soon there are no more.
    let told = loop {
        if let Err(error) = client.try_request("GET", "/late", &[API], "").await {
            break error;
        }
    };
    assert!(told.is_go_away() && told.is_remote() && told.reason() == Some(h2::Reason::NO_ERROR), "{told}");
    gate.open();
    for stream in &mut streams {
        assert_eq!(stream.reply().await.expect("a stream that was open").status, 200);
    }
    assert_eq!(server.wait_exit().await.code(), Some(0));
}

/// OV-13: a request that does not come to an end does not keep the process.
#[tokio::test]
async fn a_stuck_request_is_cut_when_the_time_to_drain_is_over() {
    let sink = Sink::https1().await;
    let (script, feed) = Script::events();
    sink.on("/stuck", script);
    sink.on("/ws", Script::websocket());
    let mut server = api::with(&sink, |config| {
        config.set("proxy.drain_timeout", "300ms");
    })
    .await;
    feed.send("data: 1\n\n");
    let mut stuck = Vec::new();
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let mut raw = Raw::connect(server.proxy()).await;
        raw.send(format!("GET /stuck {version}\r\nHost: localhost\r\nSidekey-Connection: api\r\n\r\n")).await;
        assert_eq!(raw.head().await.status, 200);
        stuck.push(raw);
    }
    let mut socket = Raw::connect(server.proxy()).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(format!("{}{upgrade}", head("GET", "/ws"))).await;
    assert_eq!(socket.head().await.status, 101);
    let before = Instant::now();
    server.sigterm();
    assert_eq!(server.wait_exit().await.code(), Some(0));
    assert!(before.elapsed() >= Duration::from_millis(300), "cut too early: {:?}", before.elapsed());
    for mut raw in stuck {
        let mut broken = false;
        for _ in 0..2 {
            broken |= raw.try_piece().await.is_err();
        }
        assert!(broken, "what was cut looks complete");
    }
    socket.closed().await;
    for number in 0..3 {
        assert_ne!(sink.closed(number).await, End::Script);
    }
    assert_eq!(server.access_lines(3).await.len(), 3);
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let sink = Sink::https().await;
    sink.otherwise(Script::stall());
    let mut server = api::with(&sink, |config| {
        config.set("proxy.drain_timeout", "1h");
    })
    .await;
    let mut stuck = Raw::connect(server.proxy()).await;
    stuck.request("GET", "/", &[API], "").await;
    sink.next_head().await;
    server.sigterm();
    draining(&server).await;
    server.sigterm();
    let exit = server.wait_exit().await;
    assert_eq!((exit.code(), exit.signal()), (Some(0), None));
    assert!(stuck.try_response().await.is_err());
}

/// SIGINT, as from a terminal, drains as well.
#[tokio::test]
async fn an_interrupt_drains_as_well() {
    let server = Sidekey::with(|_| {}).await;
    server.process().signal(rustix::process::Signal::INT);
    draining(&server).await;
    let mut server = server;
    assert_eq!(server.wait_exit().await.code(), Some(0));
}
