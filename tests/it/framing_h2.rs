//! HTTP/2 from clients: malformed messages never reach an upstream, floods end their connection and nothing else.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use crate::attack::Stage;
use crate::h2_frames::{
    CONTINUATION, DATA, END, END_HEADERS, Frame, Frames, GOAWAY, HEADERS, PING, PRIORITY, REQUEST, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::harness::client::h2::H2;
use crate::harness::sink::{Framing, Gate, How, Step};
use crate::harness::{Canary, Raw, Script, Sidekey, Sink, get, soon};

/// How long nothing is taken before a client stops sending.
const STILL: Duration = Duration::from_millis(500);

type Fields = Vec<(&'static [u8], &'static [u8])>;

/// The ordinary request with one field replaced, or added at the end.
fn with(name: &'static [u8], value: &'static [u8]) -> Fields {
    let mut fields = REQUEST.to_vec();
    match fields.iter_mut().find(|field| field.0 == name) {
        Some(field) => field.1 = value,
        None => fields.push((name, value)),
    }
    fields
}

fn without(name: &[u8]) -> Fields {
    REQUEST.iter().copied().filter(|field| field.0 != name).collect()
}

fn and(more: &[(&'static [u8], &'static [u8])]) -> Fields {
    [&REQUEST, more].concat()
}

async fn send(stage: &Stage, fields: &Fields) -> Option<Frame> {
    let mut frames = Frames::connect(stage.server.proxy()).await;
    let sent = frames.send(frame(HEADERS, END | END_HEADERS, 1, &block(fields))).await;
    assert!(sent.is_ok(), "the server ended the connection before the request");
    frames.answer(1).await
}

/// H2-09, H2-10, H2-15
#[tokio::test]
async fn a_malformed_message_is_refused_and_never_becomes_lines_of_http_1() {
    let stage = Stage::new().await;
    let mut late = without(b":path");
    late.push((b":path", b"/p"));
    let rows: Vec<Fields> = vec![
        and(&[(b":method", b"GET")]),
        and(&[(b":path", b"/q")]),
        and(&[(b":authority", b"evil.test")]),
        without(b":method"),
        without(b":path"),
        without(b":scheme"),
        late,
        with(b":path", b"p"),
        with(b":path", b""),
        with(b":path", b"*"),
        with(b":path", b"/../p"),
        with(b":path", b"/p\\..\\x"),
        with(b":foo", b"x"),
        with(b":status", b"200"),
        with(b"X-Upper", b"x"),
        with(b"connection", b"close"),
        with(b"keep-alive", b"5"),
        with(b"proxy-connection", b"close"),
        with(b"transfer-encoding", b"chunked"),
        with(b"upgrade", b"h2c"),
        with(b"te", b"gzip"),
        with(b":authority", b"u@localhost"),
        with(b":authority", b"evil.test"),
        with(b"host", b"evil.test"),
        and(&[(b"host", b"localhost"), (b"host", b"localhost")]),
        with(b"", b"x"),
        with(b"a b", b"x"),
        with(b"a:", b"x"),
        with(b"x-a", b"b\r\nX-C: d"),
        with(b"x-a", b"b\nX-C: d"),
        with(b"x-a", b"b\rc"),
        with(b"x-a", b"b\0c"),
        with(b"x-a\r\nx-c", b"d"),
        with(b":path", b"/p HTTP/1.1\r\nX: y"),
        with(b":path", b"/p HTTP/1.1"),
        with(b":path", b"/p\r\n\r\nGET /SMUG HTTP/1.1"),
        with(b":path", b"/p\0"),
        with(b":path", b"/p\tq"),
        with(b":method", b"GET /SMUG HTTP/1.1\r\nX: y"),
        with(b":method", b"G\0T"),
        with(b":method", b""),
        with(b":authority", b"localhost\r\nX: y"),
        with(b":authority", b"localhost\0"),
        with(b":scheme", b"http://evil.test/"),
        with(b":scheme", b"http\r\nX: y"),
        with(b":method", b"TRACE"),
        with(b":method", b"CONNECT"),
        vec![(b":method", b"CONNECT"), (b":authority", b"api.example.test:443"), (b"sidekey-connection", b"c1")],
        [&with(b":method", b"CONNECT")[..4], &[(&b":protocol"[..], &b"websocket"[..]), (b"sidekey-connection", b"c1")]]
            .concat(),
    ];
    let mut wrong = Vec::new();
    for fields in &rows {
        let answer = send(&stage, fields).await;
        if stage.sink.count() > 0 || answer.as_ref().is_some_and(Frame::is_ok) {
            let shown: Vec<String> =
                fields.iter().map(|(n, v)| format!("{}: {}", n.escape_ascii(), v.escape_ascii())).collect();
            wrong.push(format!("{shown:?} {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for fields in [REQUEST.to_vec(), with(b"host", b"localhost"), with(b"te", b"trailers")] {
        assert!(send(&stage, &fields).await.is_some_and(|answer| answer.is_ok()));
    }
    stage.finish().await;
}

/// H2-12
#[tokio::test]
async fn a_length_that_the_frames_do_not_keep_is_never_completed_upstream() {
    let stage = Stage::new().await;
    let post = |lengths: &[&'static [u8]]| {
        let mut fields = with(b":method", b"POST");
        fields.extend(lengths.iter().map(|length| (&b"content-length"[..], *length)));
        block(&fields)
    };
    let rows: [(&[&[u8]], &[u8]); 8] = [
        (&[b"5"], b"0123456789"),
        (&[b"10"], b"01234"),
        (&[b"5", b"10"], b"0123456789"),
        (&[b"10", b"5"], b"0123456789"),
        (&[b"5,5"], b"01234"),
        (&[b"+5"], b"01234"),
        (&[b"x"], b"01234"),
        (&[b"5"], b""),
    ];
    for (lengths, data) in rows {
        let mut frames = Frames::connect(stage.server.proxy()).await;
        let head = frame(HEADERS, END_HEADERS, 1, &post(lengths));
        frames.send([head, frame(DATA, END, 1, data)].concat()).await.expect("an open connection");
        let answer = frames.answer(1).await;
        assert!(!answer.as_ref().is_some_and(Frame::is_ok), "{lengths:?} {answer:?}");
    }
    for seen in stage.forwarded() {
        stage.sink.given_up(&seen).await;
    }
    assert!(stage.forwarded().iter().all(|seen| !seen.complete), "{:?}", stage.forwarded());
    stage.finish().await;
}

/// H2-15
#[tokio::test]
async fn the_settings_offer_no_extended_connect() {
    let stage = Stage::new().await;
    let mut frames = Frames::connect(stage.server.proxy()).await;
    let settings = frames.next().await.expect("the server's settings");
    assert_eq!((settings.kind, settings.flags), (SETTINGS, 0));
    let offered: Vec<(u8, &[u8])> = settings.payload.chunks(6).map(|setting| (setting[1], &setting[2..])).collect();
    assert!(!offered.iter().any(|(id, value)| *id == 8 && value != b"\0\0\0\0"), "{offered:?}");
    assert!(offered.contains(&(3, &100u32.to_be_bytes()[..])), "at most 100 streams: {offered:?}");
    drop(frames);
    stage.finish().await;
}

/// H2-16
#[tokio::test]
async fn the_crumbs_of_a_cookie_become_one_line_with_the_injected_one_in_it_once() {
    let (sink, session) = (Sink::https().await, Canary::new("session"));
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("c1", "cookie", "session", session.text());
    })
    .await;
    let client = H2::connect(server.proxy()).await;
    let crumbs =
        [("cookie", "session=evil"), ("cookie", "a=1"), ("cookie", "session=evil; b=2"), ("sidekey-connection", "c1")];
    assert_eq!(client.get("/p", &crumbs).await.status, 200);
    let seen = sink.next_request().await;
    let cookie = seen.header("cookie").expect("one line");
    let mut pairs: Vec<&str> = cookie.split("; ").collect();
    pairs.sort_unstable();
    assert_eq!(pairs, ["a=1", "b=2", &format!("session={}", session.text())]);
    sink.assert_strict();
    server.finish(&[&session]).await;
}

/// H2-17
#[tokio::test]
async fn the_stream_beyond_the_limit_is_refused_and_the_others_go_on() {
    let stage = Stage::new().await;
    let gate = Gate::shut();
    stage.sink.on("/p", Script::new().gate(&gate).then(Step::ReadBody).answer(200, &[], "late"));
    let mut frames = Frames::connect(stage.server.proxy()).await;
    // Only once the limit is acknowledged does it hold for us.
    while frames.next().await.expect("the server's settings").kind != SETTINGS {}
    let request = block(&REQUEST);
    for number in 0..101 {
        frames.send(frame(HEADERS, END | END_HEADERS, 2 * number + 1, &request)).await.expect("an open connection");
    }
    let refused = frames.answer(201).await.expect("an answer");
    assert_eq!((refused.kind, refused.stream, refused.code()), (RST_STREAM, 201, 7), "REFUSED_STREAM");
    gate.open();
    let mut served = 0;
    while served < 100 {
        let received = frames.next().await.expect("a frame");
        assert!(!matches!(received.kind, RST_STREAM | GOAWAY), "{received:?}");
        served += usize::from(received.is_ok());
    }
    assert_eq!(stage.sink.count(), 100);
    drop(frames);
    stage.finish().await;
}

/// H2-18
#[tokio::test]
async fn open_streams_are_finished_when_the_server_is_told_to_end() {
    let stage = Stage::new().await;
    let gate = Gate::shut();
    stage.sink.on("/p", Script::new().gate(&gate).then(Step::ReadBody).answer(200, &[], "late"));
    let mut frames = Frames::connect(stage.server.proxy()).await;
    for stream in [1, 3, 5, 7, 9] {
        frames.send(frame(HEADERS, END | END_HEADERS, stream, &block(&REQUEST))).await.expect("an open connection");
    }
    for _ in 0..5 {
        stage.sink.next_head().await;
    }
    stage.server.sigterm();
    // A first notice, and after a round trip the last stream that is served.
    let last = loop {
        let received = frames.next().await.expect("a frame");
        assert_ne!(received.kind, RST_STREAM, "{received:?}");
        if received.kind == GOAWAY {
            assert_eq!(received.code(), 0, "NO_ERROR");
            if received.payload[..4] != [0x7f, 0xff, 0xff, 0xff] {
                break received;
            }
        }
    };
    assert_eq!(last.payload[..4], 9u32.to_be_bytes());
    frames.send(frame(HEADERS, END | END_HEADERS, 11, &block(&REQUEST))).await.expect("an open connection");
    gate.open();
    let (mut served, mut refused) = (0, 0);
    while let Some(received) = frames.next().await {
        served += usize::from(received.is_ok());
        refused += usize::from(received.is_ok() && received.stream == 11);
    }
    assert_eq!((served, refused, stage.sink.count()), (5, 0, 5));
    stage.sink.assert_strict();
    stage.server.finish(&[&stage.token]).await;
}

/// H2-02, H2-03, H2-04, H2-05
#[tokio::test]
async fn a_flood_ends_its_connection_and_nothing_else() {
    let stage = Stage::new().await;
    stage.sink.on("/p", Script::stall());
    let neighbour = H2::connect(stage.server.proxy()).await;
    let (resident, _) = stage.server.memory();
    let request = block(&REQUEST);
    let post = block(&with(b":method", b"POST"));
    let open = |stream| frame(HEADERS, END_HEADERS, stream, &post);
    let streams = || (0..10_000).map(|number| 2 * number + 1);
    let rapid_reset = streams()
        .flat_map(|stream| {
            [frame(HEADERS, END | END_HEADERS, stream, &request), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    // The server itself must reset each of these: a window cannot grow by nothing.
    let made_to_reset =
        streams().flat_map(|stream| [open(stream), frame(WINDOW_UPDATE, 0, stream, &[0; 4])].concat()).collect();
    let after_end = streams()
        .flat_map(|stream| [frame(HEADERS, END | END_HEADERS, stream, &post), frame(DATA, 0, stream, b"x")].concat())
        .collect();
    let crumbs = block(&[(b"x-crumb", b"v")]).repeat(100);
    let continued = (0..10_000).flat_map(|_| frame(CONTINUATION, 0, 1, &crumbs));
    let continuation = frame(HEADERS, 0, 1, &request).into_iter().chain(continued).collect();
    let nothing = (0..100_000).flat_map(|_| frame(DATA, 0, 1, &[]));
    let empty_data = open(1).into_iter().chain(nothing).collect();
    let mut outlived = Vec::new();
    for (name, flood) in [
        ("rapid reset", rapid_reset),
        ("made to reset", made_to_reset),
        ("data after the end", after_end),
        ("continuation", continuation),
        ("empty data", empty_data),
    ] {
        let end = Frames::connect(stage.server.proxy()).await.flood(flood).await;
        if end.as_ref().is_some_and(|frame| frame.kind != GOAWAY) {
            outlived.push(name);
        }
        assert_eq!(neighbour.get("/neighbour", &[("sidekey-connection", "c1")]).await.status, 200, "{name}");
    }
    assert!(outlived.is_empty(), "the connection outlived {outlived:?}");
    let started = stage.sink.requests().iter().filter(|seen| seen.target == "/p").count();
    assert!(started <= 5 * 101, "{started} requests were started upstream");
    assert!(stage.server.memory().0 < resident + (32 << 20), "it stays in memory");
    stage.finish().await;
}

/// H2-06: what asks for an answer is not read before there is room for that, so whoever reads none is held up.
#[tokio::test]
async fn control_frames_whose_answers_nobody_reads_are_not_kept() {
    const FRAMES: usize = 300_000;
    let stage = Stage::new().await;
    let neighbour = H2::connect(stage.server.proxy()).await;
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(SETTINGS, 0, 0, &[])].concat();
    assert_eq!(neighbour.get("/first", &[("sidekey-connection", "c1")]).await.status, 200);
    for (name, control) in [
        ("PING", frame(PING, 0, 0, b"not read")),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
    ] {
        let resident = stage.server.memory().0;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        let mut socket = soon("a connection", socket.connect(stage.server.proxy().tcp())).await.expect("a connection");
        let flood = [&*preface, &control.repeat(FRAMES)].concat();
        let mut rest = &flood[..];
        // Until all is taken, or nothing more, or the server has ended the connection.
        while let (false, Ok(Ok(taken))) = (rest.is_empty(), timeout(STILL, socket.write(rest)).await) {
            rest = &rest[taken..];
        }
        assert_eq!(neighbour.get("/neighbour", &[("sidekey-connection", "c1")]).await.status, 200, "{name}");
        let grown = stage.server.memory().0.saturating_sub(resident);
        assert!(grown < 2 << 20, "{name}: {} KiB are kept", grown >> 10);
    }
    stage.finish().await;
}

/// H2-20
#[tokio::test]
async fn an_upstreams_refusals_and_resets_are_told_apart() {
    let stage = Stage::before(Sink::https2().await, |_| {}).await;
    let tag = [("Sidekey-Connection", "c1")];
    // One client connection, so one worker and its one connection to the upstream, which is reused.
    let mut raw = Raw::connect(stage.server.proxy()).await;
    for (path, script) in [("/warm", Script::ok("")), ("/refused-once", Script::new().then(Step::RefuseStream))] {
        stage.sink.next(script);
        raw.request("GET", path, &tag, "").await;
        assert_eq!(raw.response().await.status, 200, "a refused stream was not processed: it is sent again");
    }
    assert_eq!(stage.sink.requests().iter().filter(|seen| seen.target == "/refused-once").count(), 2);
    stage.sink.on("/refused", Script::new().then(Step::RefuseStream));
    let reply = get(stage.server.proxy(), "/refused", &tag).await;
    assert_eq!(reply.header("sidekey-error"), Some("upstream_closed"));
    let attempts = stage.sink.requests().iter().filter(|seen| seen.target == "/refused").count();
    assert!(attempts <= 2, "{attempts} attempts");
    let gate = Gate::shut();
    let half = Script::new().then(Step::ReadBody).head(200, &[], Framing::Length(100)).data("part");
    stage.sink.on("/reset", half.gate(&gate).then(Step::Reset));
    raw.request("GET", "/reset", &tag, "").await;
    assert_eq!((raw.head().await.status, raw.piece().await.as_deref()), (200, Some(&b"part"[..])));
    gate.open();
    assert!(raw.try_piece().await.is_err(), "half an answer looks whole");
    stage.finish().await;
}

/// H2-22
#[tokio::test]
async fn an_injected_credential_is_never_indexed_on_the_way() {
    let stage = Stage::before(Sink::https2().await, |_| {}).await;
    stage.survives().await;
    let indexing = stage.sink.indexing(0);
    let how: Vec<_> =
        indexing.iter().filter(|field| field.name == Some("authorization")).map(|field| field.how).collect();
    assert_eq!(how, [How::Never]);
    stage.finish().await;
}
