//! Request heads on HTTP/1.1 that two readers could take for different messages: none of them passes as it came.
//!
//! Where RFC 9112 leaves a recipient the choice to repair, Sidekey refuses: two framings (§6.1, §6.3), two lengths even
//! where they are equal, a bare LF (§2.2). Each refusal is an answer like any other, and the connection ends with it.

use crate::attack::{SMUGGLED, Stage, TAG, Table};
use crate::harness::{Raw, Script};

pub(crate) const LENGTHS: [&[u8]; 26] = [
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 05",
    b"Content-Length: 5\r\nContent-Length: 6",
    b"Content-Length: 6\r\nContent-Length: 5",
    b"Content-Length: 5\r\ncontent-length: 6",
    b"Content-Length: 5, 5",
    b"Content-Length: 5, 6",
    b"Content-Length: 5,5,5",
    b"Content-Length: +5",
    b"Content-Length: -5",
    b"Content-Length: -0",
    b"Content-Length: -48",
    b"Content-Length: 0x5",
    b"Content-Length: 5_0",
    b"Content-Length: 5 5",
    b"Content-Length: ",
    b"Content-Length:",
    b"Content-Length: 5.0",
    b"Content-Length: 5e0",
    b"Content-Length: 5;",
    b"Content-Length: 18446744073709551616",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length: \xd9\xa5",
    b"Content-Length: \x0b5",
    b"Content-Length : 5",
    b"Content-Length: 5\r\n Content-Length: 6",
];

pub(crate) const CODINGS: [&[u8]; 20] = [
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked;q=1",
    b"Transfer-Encoding: \"chunked\"",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: chunked\x85",
    b"Transfer-Encoding: gzip",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: ",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding:\r\n chunked",
];

pub(crate) const NO_FIELDS: [&[u8]; 14] = [
    b": x",
    b":",
    b"A B: x",
    b"A(: x",
    b"\xc3\xa9: x",
    b"no colon",
    b"A : x",
    b" A: x",
    b"\tA: x",
    b"A\x00: x",
    b"A\"B: x",
    b"A/B: x",
    b"{A}: x",
    b"X-A: b\r\n folded",
];

/// H1-01, H1-02
#[tokio::test]
async fn a_message_with_two_framings_is_refused() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let length_and_chunks = [
        ("length first", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        ("coding first", "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("a length on both sides", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        ("another length on each side", "Content-Length: 6\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n"),
        ("coding in capitals", "Content-Length: 6\r\nTRANSFER-ENCODING: CHUNKED\r\n"),
    ];
    for (name, framing) in length_and_chunks {
        let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}{framing}\r\n0\r\n\r\n{SMUGGLED}")).await;
        table.row(name, outcome.is_malformed(), &outcome);
    }
    // The chunk holds the smuggled request: whoever believed the length would see it begin after four bytes.
    let size = format!("{:x}", SMUGGLED.len());
    let framing = "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n";
    let outcome =
        stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}{framing}\r\n{size}\r\n{SMUGGLED}\r\n0\r\n\r\n")).await;
    table.row("TE.CL", outcome.is_malformed(), &outcome);
    table.check();
    stage.finish().await;
}

/// H1-03, H1-04, H1-05, H1-06
#[tokio::test]
async fn a_doubtful_length_is_refused() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for length in LENGTHS {
        let head = [b"POST /p HTTP/1.1\r\n", TAG.as_bytes(), length, b"\r\n\r\nhello"].concat();
        let outcome = stage.attack(head).await;
        table.row(length.escape_ascii().to_string(), outcome.is_malformed(), &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-07
#[tokio::test]
async fn a_clear_length_arrives_once_and_in_its_plain_form() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let lengths = [("Content-Length: 010\r\n", "0123456789"), ("Content-Length:   5  \r\n", "hello")];
    for (length, body) in lengths {
        let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}{length}\r\n{body}")).await;
        let plain = body.len().to_string();
        let arrives = outcome.is_forwarded()
            && outcome.seen[0].all("content-length") == [&plain]
            && outcome.seen[0].text() == body;
        table.row(length, arrives, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-08
#[tokio::test]
async fn a_doubtful_transfer_coding_is_refused() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for coding in CODINGS {
        for length in [&b""[..], b"Content-Length: 5\r\n"] {
            let head = [b"POST /p HTTP/1.1\r\n", TAG.as_bytes(), length, coding, b"\r\n\r\n0\r\n\r\n"].concat();
            let outcome = stage.attack(head).await;
            let name = format!("{}{}", length.escape_ascii(), coding.escape_ascii());
            table.row(name, outcome.is_malformed(), &outcome);
        }
    }
    table.check();
    stage.finish().await;
}

/// H1-11
#[tokio::test]
async fn a_name_that_only_looks_like_a_framing_header_frames_nothing_and_stays_here() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for line in [
        "Transfer_Encoding: chunked\r\n",
        "Content_Length: 3\r\n",
        "Transfer_Encoding: chunked\r\nContent_Length: 3\r\n",
    ] {
        let outcome = stage.attack(format!("POST /p HTTP/1.1\r\n{TAG}{line}Content-Length: 5\r\n\r\nhello")).await;
        let arrives = outcome.is_forwarded()
            && outcome.seen[0].text() == "hello"
            && !outcome.seen[0].headers.iter().any(|(name, _)| name.contains('_'));
        table.row(line, arrives, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-12, H1-13, H1-14
#[tokio::test]
async fn an_http_1_0_request_has_no_chunks_and_no_body_until_the_end() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let chunked = format!("POST /p HTTP/1.0\r\n{TAG}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}");
    let outcome = stage.attack(chunked).await;
    table.row("chunked", outcome.is_malformed(), &outcome);

    let outcome = stage.attack_and_end(format!("POST /p HTTP/1.0\r\n{TAG}\r\n{SMUGGLED}")).await;
    table.row("until the end", outcome.is_forwarded() && outcome.seen[0].body.is_empty(), &outcome);

    stage.sink.on("/chunks", Script::chunked(&["one", "two"], &[]));
    let mut raw = Raw::connect(stage.server.proxy()).await;
    raw.send(format!("GET /chunks HTTP/1.0\r\n{TAG}\r\n")).await;
    let reply = raw.response().await;
    assert_eq!((reply.header("transfer-encoding"), reply.text()), (None, "onetwo".to_owned()));
    raw.closed().await;
    table.check();
    stage.finish().await;
}

/// H1-15
#[tokio::test]
async fn a_line_ends_with_cr_lf_and_with_nothing_else() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let lines = format!("GET /p HTTP/1.1\r\n{TAG}\r\n").replace("\r\n", "\n");
    for (name, bytes) in [
        ("everywhere", lines.clone()),
        ("in the request line", format!("GET /p HTTP/1.1\n{TAG}\r\n")),
        ("at the end of the head", format!("GET /p HTTP/1.1\r\n{TAG}\n")),
        // A bare CR ends nothing, and is no character of a line either.
        ("CR in the request line", format!("GET /p HTTP/1.1\r{TAG}\r\n")),
        ("CR in a value", format!("GET /p HTTP/1.1\r\nX-A: b\rX-C: d\r\n{TAG}\r\n")),
        ("CR CR LF", format!("GET /p HTTP/1.1\r\nX-A: b\r\r\n{TAG}\r\n")),
    ] {
        let outcome = stage.attack(bytes).await;
        table.row(name, outcome.is_malformed(), &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-17
#[tokio::test]
async fn control_bytes_in_a_value_are_refused_and_other_bytes_arrive_as_they_are() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let with = |byte: u8| [b"GET /p HTTP/1.1\r\n", TAG.as_bytes(), b"X-A: b", &[byte], b"c\r\n\r\n"].concat();
    for byte in (0x00..=0x1f).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')) {
        let outcome = stage.attack(with(byte)).await;
        table.row(byte, outcome.is_malformed(), &outcome);
    }
    for byte in [b'\t'].into_iter().chain(0x80..=0xff) {
        let outcome = stage.attack(with(byte)).await;
        let line = [b": b", &[byte][..], b"c\r\n"].concat();
        let arrives =
            outcome.is_forwarded() && outcome.seen[0].raw_head.windows(line.len()).any(|window| window == line);
        table.row(byte, arrives, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-18
#[tokio::test]
async fn a_line_that_is_no_field_is_refused_and_nothing_after_it_is_dropped_silently() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for line in NO_FIELDS {
        let head = [b"GET /p HTTP/1.1\r\n", line, b"\r\n", TAG.as_bytes(), b"\r\n"].concat();
        let outcome = stage.attack(head).await;
        table.row(line.escape_ascii().to_string(), outcome.is_malformed(), &outcome);
    }
    table.check();
    stage.finish().await;
}

/// A request names its host once and plainly (RFC 9112 §3.2).
#[tokio::test]
async fn a_doubtful_host_is_refused() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let hosts = [
        "",
        "Host: localhost\r\nHost: localhost\r\n",
        "Host: localhost\r\nHost: evil.test\r\n",
        "Host:\r\n",
        "Host: local host\r\n",
        "Host: localhost, evil.test\r\n",
        "Host: user@localhost\r\n",
        "Host: localhost/p\r\n",
        "Host: localhost?q\r\n",
        "Host: localhost#f\r\n",
        "Host: localhost:0\r\n",
        "Host: localhost:65536\r\n",
        "Host: localhost:80:80\r\n",
        "Host: localhost:\r\n",
        "Host: http://localhost\r\n",
        "Host: [::1\r\n",
        "Host: local\\host\r\n",
    ];
    for host in hosts {
        let outcome = stage.attack(format!("GET /p HTTP/1.1\r\n{host}Sidekey-Connection: c1\r\n\r\n")).await;
        table.row(host, outcome.is_malformed(), &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-27
#[tokio::test]
async fn a_head_beyond_the_limits_is_refused_and_counted() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let lines = |count: usize, length: usize| -> String {
        (0..count).map(|number| format!("X-{number}: {}\r\n", "v".repeat(length))).collect()
    };
    // A first request brings in what every upstream takes once: code, certificates, a connection.
    stage.survives().await;
    let (resident, _) = stage.server.memory();
    let heads = [
        ("101 lines", lines(99, 1)),
        ("a line of 512 KiB", lines(1, 512 << 10)),
        ("98 lines of 4 KiB", lines(98, 4 << 10)),
    ];
    for (name, head) in &heads {
        let outcome = stage.attack(format!("GET /p HTTP/1.1\r\n{TAG}{head}\r\n")).await;
        let told = outcome.is_refused(431) && outcome.code() == Some("head_too_large");
        table.row(name, told, &outcome);
    }
    let outcome = stage.attack(format!("GET /{} HTTP/1.1\r\n{TAG}\r\n", "p".repeat(70_000))).await;
    let told = outcome.is_refused(414) && outcome.code() == Some("target_too_long");
    table.row("a target of 70,000 bytes", told, &outcome);
    let outcome = stage.attack(format!("GET /p HTTP/1.1\r\n{TAG}{}\r\n", lines(97, 300))).await;
    table.row("99 lines", outcome.is_forwarded(), &outcome);
    table.check();
    assert!(stage.server.memory().0 < resident + (4 << 20), "a refused head stays in memory");
    for (code, count) in [("head_too_large", 3.0), ("target_too_long", 1.0)] {
        let sample = format!("sidekey_refusals_total{{code=\"{code}\"}}");
        assert_eq!(stage.server.metric(&sample).await, count, "they are counted like any other: {code}");
    }
    let refused: Vec<_> = stage.server.access_lines(6).await;
    let reasons =
        refused.iter().filter(|line| line["reason"] == "head_too_large" || line["reason"] == "target_too_long");
    assert_eq!(reasons.count(), 4, "they are logged like any other: {refused:?}");
    stage.finish().await;
}

/// H1-57
#[tokio::test]
async fn methods_that_show_or_tunnel_are_refused_and_unknown_ones_pass() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    for (method, target) in [
        ("TRACE", "/p"),
        ("TRACK", "/p"),
        ("PRI", "/p"),
        ("CONNECT", "api.example.test:443"),
        ("CONNECT", "/p"),
        ("CONNECT", "http://api.example.test:443"),
        ("TRACE", "http://api.example.test/p"),
    ] {
        let outcome = stage.attack(format!("{method} {target} HTTP/1.1\r\n{TAG}\r\n{SMUGGLED}")).await;
        let told = outcome.is_refused(405)
            && outcome.code() == Some("method_refused")
            && outcome
                .reply()
                .header("allow")
                .is_some_and(|allowed| allowed.contains("GET") && !allowed.contains("TRACE"));
        // A target that is no URL never comes as far as the method.
        table.row((method, target), told || outcome.is_refused(400) && target == "/p" && method == "CONNECT", &outcome);
    }
    for method in ["G=\":<>", "GE T", "G\u{e9}T", "G\0T", "{}", "GET\t"] {
        let outcome = stage.attack(format!("{method} /p HTTP/1.1\r\n{TAG}\r\n")).await;
        table.row(method, outcome.is_malformed(), &outcome);
    }
    let long = "M".repeat(1000);
    for method in ["get", "PROPFIND", "QUERY", "M-SEARCH", &long] {
        let outcome = stage.attack(format!("{method} /p HTTP/1.1\r\n{TAG}\r\n")).await;
        table.row(method, outcome.is_forwarded() && outcome.seen[0].method == method, &outcome);
    }
    table.check();
    stage.finish().await;
}

/// H1-59
#[tokio::test]
async fn what_is_no_http_ends_quickly_and_harms_nothing() {
    let (stage, mut table) = (Stage::new().await, Table::default());
    let garbage: Vec<u8> = (0..=255u8).cycle().skip(128).take(4096).collect();
    let rows: [(&str, &[u8]); 6] = [
        ("random bytes", &garbage),
        ("a TLS ClientHello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03"),
        ("the half of a preface", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
        ("HTTP/0.9", b"GET /p\r\n\r\n"),
        ("another version", b"GET /p HTTP/1.2\r\nHost: localhost\r\n\r\n"),
        ("another protocol", b"SSH-2.0-OpenSSH_9.9\r\n"),
    ];
    for (name, bytes) in rows {
        let outcome = stage.attack(bytes).await;
        table.row(name, outcome.is_cut(), &outcome);
    }
    for (name, bytes) in
        [("nothing", &b""[..]), ("half a line", b"GET /p HT"), ("half a head", b"GET /p HTTP/1.1\r\nHo")]
    {
        let outcome = stage.attack_and_end(bytes).await;
        table.row(name, outcome.seen.is_empty() && outcome.replies.is_empty(), &outcome);
    }
    table.check();
    let longest = stage.server.process().stderr().lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 2048, "a log line of {longest} bytes");
    stage.finish().await;
}
