//! The harness, tested against itself: clients talk to sinks directly, without Sidekey between them.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::client::h2::H2;
use crate::harness::client::{self, Address};
use crate::harness::pki::{self, Validity};
use crate::harness::process::Process;
use crate::harness::sink::places::{Refusing, Silent};
use crate::harness::sink::{End, Framing, Gate, Greeting, HOST, How, Step};
use crate::harness::{Canary, Config, Raw, Script, Sidekey, Sink, get, problem};

#[tokio::test]
async fn an_echo_shows_what_was_sent_in_its_order() {
    let sink = Sink::http().await;
    let mut raw = Raw::connect(sink.addr).await;
    raw.send("POST /p?a=%20 HTTP/1.1\r\nhost: h\r\nX-B: 2\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n").await;
    raw.send("5\r\nhello\r\n0\r\nx-t: end\r\n\r\n").await;
    let echo = raw.response().await.json();
    assert_eq!(echo["target"], "/p?a=%20");
    assert_eq!(echo["headers"][1], serde_json::json!(["x-b", "2"]));
    assert_eq!(echo["body"], "hello");
    let seen = sink.next_request().await;
    assert_eq!((seen.header("x-a"), seen.trailers.len(), seen.connection), (Some("1"), 1, 0));
    drop(raw);
    assert_eq!(sink.closed(0).await, End::Eof);
    sink.assert_strict();
}

#[tokio::test]
#[should_panic(expected = "is malformed")]
async fn a_smuggled_framing_is_noticed() {
    let sink = Sink::http().await;
    let mut raw = Raw::connect(sink.addr).await;
    raw.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 400);
    sink.assert_strict();
}

#[tokio::test]
async fn scripts_come_by_path_then_by_order_then_by_default() {
    let sink = Sink::https1().await;
    sink.on("/a/*", Script::respond(201, &[("x-k", "v")], "a")).next(Script::ok("first")).otherwise(Script::ok("rest"));
    let mut raw = Raw::tls(sink.addr, HOST, None).await.expect("a trusted certificate");
    for (path, body) in [("/x", "first"), ("/a/b?c", "a"), ("/x", "rest"), ("/x", "rest")] {
        raw.request("GET", path, &[], "").await;
        assert_eq!(raw.response().await.text(), body);
    }
    assert_eq!((sink.count(), sink.connection_count()), (4, 1), "one connection was kept alive");
    assert_eq!(sink.connection(0).sni.as_deref(), Some(HOST));
    sink.assert_strict();
}

#[tokio::test]
async fn bodies_cut_short_are_noticed_by_the_client() {
    let sink = Sink::https1().await;
    for how in [Step::Fin, Step::Cut, Step::Reset] {
        sink.next(Script::cut_in_body(10, "part", how.clone())).next(Script::cut_in_head(how));
        let broken = fetch(&sink).await.expect_err("a cut body");
        assert_eq!(broken.partial.map(|partial| partial.status), Some(200), "{}", broken.what);
        assert!(fetch(&sink).await.expect_err("a cut head").partial.is_none());
    }
}

async fn fetch(sink: &Sink) -> Result<client::Reply, client::Broken> {
    let mut raw = Raw::tls(sink.addr, HOST, None).await.expect("a trusted certificate");
    raw.request("GET", "/", &[], "").await;
    raw.try_response().await
}

#[tokio::test]
async fn events_come_one_by_one_as_the_test_releases_them() {
    let sink = Sink::http().await;
    let (script, feed) = Script::events();
    sink.next(script);
    let mut raw = Raw::connect(sink.addr).await;
    raw.request("GET", "/events", &[], "").await;
    assert_eq!(raw.head().await.header("content-type"), Some("text/event-stream"));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        feed.send(event);
        assert_eq!(raw.piece().await.as_deref(), Some(event.as_bytes()));
    }
    feed.close();
    assert_eq!(raw.piece().await, None);
}

#[tokio::test]
async fn interims_early_answers_trailers_and_bodyless_answers_arrive() {
    let sink = Sink::http().await;
    let mut raw = Raw::connect(sink.addr).await;
    sink.next(Script::new().interim(103, &[("link", "</x>")]).then(Step::ReadBody).answer(200, &[], "after"));
    raw.request("GET", "/", &[], "").await;
    assert_eq!(raw.response().await.interim, [103]);

    sink.next(Script::early(413, &[], "too much"));
    raw.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 413);
    raw.send("12345").await;

    sink.next(Script::chunked(&["a", "b"], &[("x-sum", "ab")]));
    raw.request("GET", "/", &[], "").await;
    assert_eq!(raw.response().await.trailers, [("x-sum".to_owned(), "ab".to_owned())]);

    raw.request("HEAD", "/", &[], "").await;
    assert!(raw.response().await.body.is_empty());
    sink.next(Script::respond(204, &[], ""));
    raw.request("GET", "/", &[], "").await;
    assert_eq!(raw.response().await.status, 204);
    sink.assert_strict();
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_while_the_sink_stalls() {
    let sink = Sink::http().await;
    sink.next(Script::stall());
    let mut raw = Raw::connect(sink.addr).await;
    raw.request("GET", "/", &[], "").await;
    assert_eq!(sink.next_head().await.target, "/");
    raw.reset();
    assert_eq!(sink.closed(0).await, End::Reset);
}

#[tokio::test]
async fn a_websocket_echoes_frames() {
    let sink = Sink::http().await;
    sink.next(Script::websocket());
    let mut raw = Raw::connect(sink.addr).await;
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    raw.request("GET", "/ws", &[("connection", "Upgrade"), ("upgrade", "websocket"), key], "").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("sec-websocket-accept")), (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
    raw.send(b"\x81\x02hi").await;
    assert_eq!(raw.exactly(4).await, b"\x81\x02hi");
    sink.assert_strict();
}

#[tokio::test]
async fn http2_streams_run_side_by_side_and_show_how_fields_were_encoded() {
    let sink = Sink::https2().await;
    let gate = Gate::shut();
    sink.on("/slow", Script::new().gate(&gate).then(Step::ReadBody).answer(200, &[], "slow"));
    sink.on("/t", Script::chunked(&["x"], &[("x-sum", "1")])).on("/no", Script::new().then(Step::RefuseStream));
    let client = H2::tls(sink.addr, HOST, None).await.expect("a trusted certificate");
    let (mut slow, _) = client.open("GET", "/slow", &[], true).await.expect("a stream");
    assert_eq!(client.request("POST", "/e", &[("authorization", "x")], "body").await.json()["body"], "body");
    assert_eq!(client.get("/t", &[]).await.trailers.len(), 1);
    assert!(client.try_request("GET", "/no", &[], "").await.is_err());
    gate.open();
    assert_eq!(slow.reply().await.expect("a reply").text(), "slow");
    let seen = sink.request_where("the POST", |seen| seen.method == "POST").await;
    assert_eq!((seen.version, seen.pseudo[1].1.as_str(), seen.connection), (2, HOST, 0));
    let indexing = sink.indexing(0);
    let how = |name| indexing.iter().find(|field| field.name == Some(name)).map(|field| field.how);
    assert_eq!((how(":authority"), how("authorization")), (Some(How::Incremental), Some(How::Without)));
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_seen_while_a_script_waits() {
    let sink = Sink::builder().http2().start().await;
    sink.next(Script::new().gate(&Gate::shut()));
    let client = H2::connect(sink.addr).await;
    let (exchange, mut sending) = client.open("POST", "/", &[], false).await.expect("a stream");
    sink.next_head().await;
    sending.send_reset(h2::Reason::CANCEL);
    drop(exchange);
    sink.request_where("the reset", |seen| seen.reset && !seen.complete).await;
}

#[tokio::test]
async fn a_process_is_awaited_line_by_line_and_ended_by_signal() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let script = r#"trap 'kill $!; exit 7' TERM; echo ready
        echo '{"level":"INFO","fields":{"request_id":"r1","status":200}}' >&2; sleep 100 >/dev/null 2>&1 & wait"#;
    let mut process = Process::start_program("/bin/sh", &["-c", script], folder.path(), &[]);
    assert_eq!(process.first_line().await.as_deref(), Some("ready"));
    assert_eq!(process.log_line("the line", |line| line["request_id"] == "r1").await["status"], 200);
    assert!(process.memory("VmHWM") > 0 && process.descriptors().is_ok_and(|count| count >= 3));
    process.signal(Signal::TERM);
    assert_eq!(process.wait().await.code(), Some(7));

    let silent = Process::start_program("/bin/sh", &["-c", "echo no >&2; exit 3"], folder.path(), &[]);
    assert_eq!(silent.first_line().await, None);
    assert_eq!(silent.stderr(), "no");
}

#[tokio::test]
async fn uploads_beyond_the_limit_are_counted_and_not_kept() {
    for http2 in [false, true] {
        let builder = Sink::builder().keep(1000);
        let sink = if http2 { builder.http2().start().await } else { builder.start().await };
        sink.otherwise(Script::download(3_000_000));
        let body = vec![b'x'; 2_000_000];
        let reply = match http2 {
            false => client::request(sink.addr, "PUT", "/", &[], body).await,
            true => H2::connect(sink.addr).await.request("PUT", "/", &[], body).await,
        };
        assert_eq!(reply.body.len(), 3_000_000);
        let seen = sink.next_request().await;
        assert_eq!((seen.body.len(), seen.body_length), (1000, 2_000_000));
        sink.assert_strict();
    }
}

#[tokio::test]
async fn wrong_certificates_silence_and_refusal_are_on_offer() {
    let expired = Sink::builder().leaf(pki::authority().leaf_valid(&[HOST], Validity::Expired)).start().await;
    let strange = Sink::builder().leaf(pki::stranger().leaf(&[HOST])).start().await;
    for sink in [&expired, &strange] {
        assert!(Raw::tls(sink.addr, HOST, None).await.is_err());
        assert!(matches!(sink.closed(0).await, End::Failed(_)), "the handshake ended");
    }
    let picky = Sink::builder().tls(&[HOST]).certified_clients().start().await;
    let certificate = pki::authority().client("sidekey");
    let mut raw = Raw::tls(picky.addr, HOST, Some(&certificate)).await.expect("a welcome client");
    raw.request("GET", "/", &[], "").await;
    assert_eq!(raw.response().await.status, 200);

    let refusal = tokio::net::TcpStream::connect(Refusing::new().addr).await.expect_err("a refusal");
    assert_eq!(refusal.kind(), std::io::ErrorKind::ConnectionRefused);
    let silent = Silent::new().await;
    let dialled = tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(silent.addr)).await;
    assert!(dialled.is_err(), "nobody answers");

    let mut sink = Sink::http().await;
    sink.greet(Greeting::Fin);
    Raw::connect(sink.addr).await.closed().await;
    sink.refuse().await;
    assert!(tokio::net::TcpStream::connect(sink.addr).await.is_err());
}

#[tokio::test]
async fn trickled_and_malformed_answers_arrive_as_they_are() {
    let sink = Sink::http().await;
    sink.next(Script::trickle("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Duration::from_millis(1)));
    assert_eq!(get(sink.addr, "/", &[]).await.text(), "ok");
    sink.next(Script::malformed("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok"));
    let mut raw = Raw::connect(sink.addr).await;
    raw.request("GET", "/", &[], "").await;
    assert!(raw.try_response().await.expect_err("a malformed head").what.contains("exactly one framing"));
    sink.next(Script::new().then(Step::ReadBody).head(200, &[], Framing::UntilClose).data("all"));
    assert_eq!(get(sink.addr, "/", &[]).await.text(), "all");
}

#[tokio::test]
async fn an_own_answer_is_taken_apart_and_made_stable() {
    let sink = Sink::http().await;
    let document = r#"{"status":404,"code":"connection_unknown","request_id":"r1","detail":"d"}"#;
    let fields = [("content-type", "application/problem+json"), ("sidekey-error", "connection_unknown")];
    sink.next(Script::respond(404, &fields, document));
    let answer = problem(&get(sink.addr, "/", &[]).await);
    assert_eq!((answer.code.as_str(), answer.request_id.as_str()), ("connection_unknown", "r1"));
    assert_eq!(answer.snapshot["request_id"], "[request id]");
}

#[tokio::test]
async fn a_one_shot_command_is_run_and_its_end_reported() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let ran = Sidekey::run(&["--no-such-flag"], folder.path()).await;
    assert!(ran.code >= 0, "it ended by itself: {ran:?}");
}

#[test]
fn the_configuration_says_what_was_asked_for_and_keeps_secrets_out() {
    let (folder, secrets) = (tempfile::TempDir::new().expect("a folder"), tempfile::TempDir::new().expect("a folder"));
    let canary = Canary::spiky("config");
    let mut config = Config::new(folder.path().to_owned(), secrets.path().to_owned());
    config.bearer("stripe", canary.text()).integration_key("hosts", vec!["files.example.test"]);
    config.environment("staging").credential(&[("token", "t2")]).set("upstream.response_timeout", "200ms");
    config.api_key("crm", "query", "key", "v").auth_key("template", "{{ api_key }}").append("# the end");
    let address = config.unix_listener("proxy.sock");
    assert!(matches!(&address, Address::Unix(path) if path.starts_with(folder.path())));
    let text = config.text();
    assert!(!text.contains(canary.text()));
    let parsed: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(parsed["proxy"]["listeners"].as_array().map(Vec::len), Some(2));
    assert_eq!(parsed["connection"][0]["integration"].as_str(), Some("it-stripe"));
    assert!(parsed["connection"][0]["credentials"]["staging"]["token"]["file"].is_str());
    assert_eq!(parsed["integration"][1]["auth"][0]["template"].as_str(), Some("{{ api_key }}"));
    assert_eq!(parsed["upstream"]["response_timeout"].as_str(), Some("200ms"));
}
