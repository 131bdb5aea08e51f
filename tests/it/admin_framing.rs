//! AD-21: what could be read as two requests, or as none, is refused on the admin port as on the proxy port: the rows
//! are the same. Nothing is done by any of them, and each is told in a document or not at all.

use serde_json::json;

use crate::attack::{Client, Outcome, Table, exchange};
use crate::framing_chunked::MISFRAMED;
use crate::framing_requests::{CODINGS, LENGTHS, NO_FIELDS};
use crate::harness::client::h2::H2;
use crate::harness::{Canary, Raw, Reply, Sidekey, problem};

/// An admin port, with what every well-formed request to it needs.
struct Stage {
    server: Sidekey,
    /// Host, key and media type.
    head: String,
    /// A request that must never be one: the body of another message.
    smuggled: String,
}

impl Stage {
    async fn new() -> Self {
        let server = Sidekey::with(|_| {}).await;
        let key = std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key");
        let head = format!("Host: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n", key.trim());
        let body = r#"{"key":"SMUGGLED"}"#;
        let smuggled = format!("POST /api/v1/secrets HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", body.len());
        Stage { server, head, smuggled }
    }

    /// A change that would be made, with these lines and bytes behind its head.
    fn change(&self, framing: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
        let line = format!("PUT /api/v1/secrets/ATTACKED HTTP/1.1\r\n{}", self.head);
        [line.as_bytes(), framing.as_ref(), b"\r\n", body.as_ref()].concat()
    }

    async fn attack(&self, bytes: impl AsRef<[u8]>) -> Outcome {
        exchange(&self.server.admin_address, bytes.as_ref(), Client::Stays).await
    }

    /// Nothing was done, and the port does what it is asked to.
    async fn finish(self) {
        let admin = self.server.admin();
        assert_eq!(admin.get("secrets").await.json()["items"], json!([]));
        assert_eq!(admin.get("audit/verify").await.json()["count"], 1, "the vault was made, and nothing since");
        assert_eq!(admin.put("secrets/K", json!({})).await.status, 201);
        self.server.finish(&[]).await;
    }
}

fn is_told(reply: &Reply, status: u16, code: &str) -> bool {
    let told = problem(reply);
    (told.status, &*told.code) == (status, code) && told.request_id.len() == 30
}

/// One answer, and the end of the connection.
fn is_refused(outcome: &Outcome, status: u16, code: &str) -> bool {
    outcome.closed && outcome.replies.len() == 1 && is_told(&outcome.replies[0], status, code)
}

fn is_malformed(outcome: &Outcome) -> bool {
    is_refused(outcome, 400, "request_malformed")
}

/// H1-01 to H1-08
#[tokio::test]
async fn a_doubtful_framing_is_refused_and_nothing_is_done_ad_21() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let chunked = "Transfer-Encoding: chunked\r\n";
    for framing in [
        format!("Content-Length: 5\r\n{chunked}"),
        format!("{chunked}Content-Length: 5\r\n"),
        format!("Content-Length: 5\r\n{chunked}Content-Length: 5\r\n"),
        "Content-Length: 5\r\nTRANSFER-ENCODING: CHUNKED\r\n".to_owned(),
    ] {
        for body in ["0\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n"] {
            let outcome = stage.attack(stage.change(&framing, format!("{body}{}", stage.smuggled))).await;
            table.row(&framing, is_malformed(&outcome), &outcome);
        }
    }
    for length in LENGTHS {
        let outcome = stage.attack(stage.change([length, b"\r\n"].concat(), "{}   ")).await;
        table.row(length.escape_ascii().to_string(), is_malformed(&outcome), &outcome);
    }
    for coding in CODINGS {
        for length in [&b""[..], b"Content-Length: 5\r\n"] {
            let framing = [length, coding, b"\r\n"].concat();
            let outcome = stage.attack(stage.change(&framing, "2\r\n{}\r\n0\r\n\r\n")).await;
            table.row(framing.escape_ascii().to_string(), is_malformed(&outcome), &outcome);
        }
    }
    let old = format!("PUT /api/v1/secrets/ATTACKED HTTP/1.0\r\n{}{chunked}\r\n2\r\n{{}}\r\n0\r\n\r\n", stage.head);
    let outcome = stage.attack(old).await;
    table.row("chunks in HTTP/1.0", is_malformed(&outcome), &outcome);
    table.check();
    stage.finish().await;
}

/// H1-15, H1-17, H1-18, H1-27, H1-59
#[tokio::test]
async fn a_head_that_is_none_is_refused_with_a_document_ad_21() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for line in NO_FIELDS {
        let outcome = stage.attack(stage.change([line, b"\r\nContent-Length: 2\r\n"].concat(), "{}")).await;
        table.row(line.escape_ascii().to_string(), is_malformed(&outcome), &outcome);
    }
    for byte in (0x00..=0x1f).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')) {
        let framing = [b"X-A: b", &[byte][..], b"c\r\nContent-Length: 2\r\n"].concat();
        let outcome = stage.attack(stage.change(framing, "{}")).await;
        table.row(byte, is_malformed(&outcome), &outcome);
    }
    let whole = String::from_utf8(stage.change("Content-Length: 2\r\n", "{}")).expect("ASCII");
    for (name, bytes) in [
        ("bare LF everywhere", whole.replace("\r\n", "\n")),
        ("bare LF in the request line", whole.replacen("\r\n", "\n", 1)),
        ("bare CR in the request line", whole.replacen("\r\n", "\r", 1)),
        ("CR CR LF", whole.replacen("\r\n", "\r\r\n", 1)),
        ("another version", whole.replacen("HTTP/1.1", "HTTP/1.2", 1)),
        ("HTTP/0.9", "GET /healthz\r\n\r\n".to_owned()),
        ("another protocol", "SSH-2.0-OpenSSH_9.9\r\n\r\n".to_owned()),
        ("a space in the target", whole.replacen("/ATTACKED", "/AT TACKED", 1)),
    ] {
        let outcome = stage.attack(bytes).await;
        table.row(name, is_malformed(&outcome), &outcome);
    }
    let lines = |count: usize, length: usize| -> String {
        (0..count).map(|number| format!("X-{number}: {}\r\n", "v".repeat(length))).collect()
    };
    for (name, head) in [("101 lines", lines(98, 1)), ("a line of 512 KiB", lines(1, 512 << 10))] {
        let outcome = stage.attack(stage.change(head, "")).await;
        table.row(name, is_refused(&outcome, 431, "head_too_large"), &outcome);
    }
    let outcome = stage.attack(format!("GET /{} HTTP/1.1\r\n{}\r\n", "p".repeat(70_000), stage.head)).await;
    table.row("a target of 70,000 bytes", is_refused(&outcome, 414, "target_too_long"), &outcome);
    for (name, bytes) in
        [("half a line", &b"GET /p HT"[..]), ("half a head", b"GET /p HTTP/1.1\r\nHo"), ("nothing", b"")]
    {
        let outcome = exchange(&stage.server.admin_address, bytes, Client::EndsAtOnce).await;
        table.row(name, outcome.replies.is_empty(), &outcome);
    }
    table.check();
    assert!(stage.server.metric("sidekey_malformed_connections_total").await > 40.0, "they are counted");
    stage.finish().await;
}

/// H1-28 to H1-33, H1-45
#[tokio::test]
async fn a_body_that_is_not_framed_as_it_says_is_no_document_ad_21() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let chunked = "Transfer-Encoding: chunked\r\n";
    let broken_off = |outcome: &Outcome| {
        outcome.closed
            && outcome.replies.len() <= 1
            && outcome.replies.iter().all(|reply| is_told(reply, 400, "request_malformed"))
    };
    for body in MISFRAMED {
        // A document that would be taken, of as many bytes.
        let body = String::from_utf8_lossy(body).replace("hello", "{}   ");
        let outcome = stage.attack(stage.change(chunked, format!("{body}{}", stage.smuggled))).await;
        table.row(&body, broken_off(&outcome), &outcome);
    }
    for body in ["5\r\n{}   \r\n", "5\r\n{}", "5\r\n{}   \r\n0\r\n", "5\r\n{}   \r\n1"] {
        let outcome = exchange(&stage.server.admin_address, &stage.change(chunked, body), Client::EndsAtOnce).await;
        table.row(body, outcome.replies.iter().all(|reply| is_told(reply, 400, "request_malformed")), &outcome);
    }
    let outcome =
        exchange(&stage.server.admin_address, &stage.change("Content-Length: 9\r\n", "{}"), Client::EndsAtOnce).await;
    table.row("half a length", outcome.replies.iter().all(|reply| is_told(reply, 400, "request_malformed")), &outcome);
    // A body that nobody reads is no request either.
    let get = format!("GET /api/v1/roles HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n", stage.head, stage.smuggled.len());
    let outcome = stage.attack(get + &stage.smuggled).await;
    table.row("a body behind GET", outcome.statuses() == [200], &outcome);
    table.check();
    stage.finish().await;
}

/// H1-57, H1-58
#[tokio::test]
async fn methods_that_show_or_tunnel_do_nothing_ad_21() {
    let stage = Stage::new().await;
    let canary = Canary::new("shown");
    for (line, allowed) in [
        ("TRACE /api/v1/secrets/K", &[405][..]),
        ("TRACK /api/v1/secrets/K", &[405]),
        ("CONNECT localhost:443", &[421]),
        ("CONNECT api.example.test:443", &[421]),
        ("PRI *", &[404]),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\n{}X-Shown: {}\r\n\r\n", stage.head, canary.text());
        let outcome = stage.attack(bytes).await;
        let reply = outcome.reply();
        assert!(allowed.contains(&reply.status), "{line}: {}", reply.status);
        assert_eq!(problem(reply).status, reply.status, "{line}");
    }
    stage.server.assert_no_leak(&[&canary]);
    stage.finish().await;
}

/// What passed is answered in its turn, before what did not: one after the other on one connection.
#[tokio::test]
async fn requests_before_a_malformed_one_are_answered_in_their_order_ad_21() {
    let stage = Stage::new().await;
    let first = format!("GET /api/v1/roles HTTP/1.1\r\n{}\r\n", stage.head);
    let second = format!("GET /api/v1/secrets/NOPE HTTP/1.1\r\n{}Content-Length: 2\r\n\r\n{{}}", stage.head);
    let third = stage.change("Content-Length: 2\r\nContent-Length: 3\r\n", "{}");
    let bytes = [first.as_bytes(), second.as_bytes(), &third, stage.smuggled.as_bytes()].concat();
    // However the bytes come.
    for piece in [1, 7, 100, bytes.len()] {
        let mut raw = Raw::connect(&stage.server.admin_address).await;
        for bytes in bytes.chunks(piece) {
            if raw.try_send(bytes).await.is_err() {
                break;
            }
        }
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(raw.response().await.status);
        }
        raw.closed().await;
        assert_eq!(statuses, [200, 404, 400], "in pieces of {piece}");
    }
    stage.finish().await;
}

/// OV-01: a head that does not come is told so; a connection on which nothing begins is closed.
#[tokio::test]
async fn a_head_that_comes_too_slowly_is_a_408() {
    let server = Sidekey::with(|config| {
        config.set("proxy.head_timeout", "300ms");
    })
    .await;
    let mut slow = Raw::connect(&server.admin_address).await;
    slow.send("GET /healthz HTTP/1.1\r\nHo").await;
    let reply = slow.response().await;
    assert!(is_told(&reply, 408, "request_timeout"), "{}", reply.text());
    slow.closed().await;
    let mut idle = Raw::connect(&server.admin_address).await;
    idle.closed().await;
    let mut used = Raw::connect(&server.admin_address).await;
    used.request("GET", "/healthz", &[], "").await;
    assert_eq!(used.response().await.status, 200);
    used.closed().await;
    let h2 = H2::connect(&server.admin_address).await;
    assert_eq!(h2.get("/api/v1/sign-in", &[]).await.status, 200);
    server.finish(&[]).await;
}
