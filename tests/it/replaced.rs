//! What the caller sent in the place of a credential is gone; and a request is never sent without its credential.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use percent_encoding::percent_decode_str;

use crate::harness::client::h2::H2;
use crate::harness::client::http1;
use crate::harness::sink::Seen;
use crate::harness::{Canary, Client, Sidekey, Sink, get};

async fn setting(key: &Canary) -> (Sink, Sidekey) {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("bearer", key.text()).api_key("header", "header", "X-Secret_Token", key.text());
        config.api_key("query", "query", "api_key", key.text()).api_key("cookie", "cookie", "session", key.text());
    })
    .await;
    (sink, server)
}

/// Sends a GET with these raw lines and gives what the upstream saw.
async fn sent(server: &Sidekey, sink: &Sink, connection: &str, path: &str, lines: &[&str]) -> Seen {
    let mut raw = Client::connect(server.proxy()).await;
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: {connection}\r\n{lines}\r\n"))
        .await;
    let reply = raw.response().await;
    assert_eq!(reply.status, 200, "{lines:?}: {}", reply.text());
    let seen = sink.next_request().await;
    let shown = format!("{}{:?}{}", seen.target, seen.headers, seen.text());
    assert!(!shown.to_lowercase().contains("evil"), "{shown}");
    seen
}

#[tokio::test]
async fn co_01_authorization_is_the_injected_one_once() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    for lines in [
        vec!["Authorization: Bearer evil"],
        vec!["Authorization: Bearer evil", "AUTHORIZATION: Basic evil", "authorization: evil"],
        vec!["aUTHORIZATION:Bearer evil"],
        vec!["Authorization:"],
    ] {
        let seen = sent(&server, &sink, "bearer", "/", &lines).await;
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", key.text())));
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

/// CO-01 for any header: every spelling that a server may read as the injected name goes.
#[tokio::test]
async fn a_header_is_replaced_in_every_spelling() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    for lines in [
        vec!["x-secret_token: evil"],
        vec!["X-Secret-Token: evil", "x_secret_token: evil", "X_SECRET-TOKEN: evil", "x-secret_token: evil"],
        vec!["X_Secret_Token: evil", "Connection: x_secret_token"],
        vec!["X-Secret-Token: evil", "Connection: x-secret_token, x-secret-token"],
    ] {
        let seen = sent(&server, &sink, "header", "/", &lines).await;
        assert_eq!(seen.header("x-secret_token"), Some(key.text()));
        let folded =
            seen.headers.iter().filter(|(name, _)| name.replace('_', "-").eq_ignore_ascii_case("x-secret-token"));
        assert_eq!(folded.count(), 1, "{:?}", seen.headers);
    }
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn co_03_a_query_pair_is_replaced_by_its_decoded_name() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    for (query, kept) in [
        ("a=1&api_key=evil&api%5Fkey=evil&api_key=evil&b=%2F+x", "a=1&b=%2F+x"),
        ("api_key&a=1&api_key=&%61%70%69%5f%6b%65%79=evil", "a=1"),
        ("API_KEY=other&api-key=other&xapi_key=1&api_key2=2", "API_KEY=other&api-key=other&xapi_key=1&api_key2=2"),
        ("a=api_key=1&api_key=evil=x", "a=api_key=1"),
    ] {
        let seen = sent(&server, &sink, "query", &format!("/p?{query}"), &[]).await;
        assert_eq!(seen.target, format!("/p?{kept}&api_key={}", key.text()));
    }
    assert_eq!(
        sent(&server, &sink, "query", "/p?api_key=evil", &[]).await.target,
        format!("/p?api_key={}", key.text())
    );
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn co_04_a_cookie_is_replaced_on_one_line() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let cookie = |own: &str| format!("{own}session={}", key.text());
    for (lines, own) in [
        (vec!["Cookie: session=evil; a=1", "Cookie: session=evil"], "a=1; "),
        (vec!["cookie: a=1;session=evil;b=2"], "a=1; b=2; "),
        (vec!["Cookie: session", "Cookie:  session = evil ;; s%65ssion=evil; %73ession"], ""),
        (
            vec!["Cookie: $Version=1; sessionx=1; xsession=2; Session=3"],
            "$Version=1; sessionx=1; xsession=2; Session=3; ",
        ),
        (vec!["Cookie: session=evil", "Connection: cookie"], ""),
    ] {
        let seen = sent(&server, &sink, "cookie", "/", &lines).await;
        assert_eq!(seen.header("cookie"), Some(&*cookie(own)), "{lines:?}");
    }
    // Over HTTP/2 a cookie header may come in crumbs (RFC 9113 §8.2.3).
    let client = H2::connect(server.proxy()).await;
    let crumbs = [
        ("sidekey-connection", "cookie"),
        ("cookie", "a=1"),
        ("cookie", "session=evil"),
        ("cookie", "b=2; session=evil"),
    ];
    assert_eq!(client.get("/", &crumbs).await.status, 200);
    assert_eq!(sink.next_request().await.header("cookie"), Some(&*cookie("a=1; b=2; ")));
    sink.assert_strict();
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn a_trailer_never_shadows_an_injected_header() {
    let key = Canary::new("key");
    let sink = Sink::https2().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("header", "header", "X-Secret-Token", key.text()).bearer("bearer", key.text());
    })
    .await;
    let trailers = [
        ("x-secret-token", "evil"),
        ("authorization", "Bearer evil"),
        ("cookie", "evil=1"),
        ("sidekey-connection", "evil"),
        ("x-api-key", "evil"),
        ("host", "evil.test"),
        ("content-length", "7"),
        ("x-sum", "1"),
    ];
    let client = H2::connect(server.proxy()).await;
    for connection in ["header", "bearer"] {
        let (mut exchange, mut sending) =
            client.open("POST", "/", &[("sidekey-connection", connection)], false).await.expect("a stream");
        sending.send_data(Bytes::from_static(b"ab"), false).expect("a stream that takes data");
        let map: HeaderMap = trailers
            .iter()
            .filter(|(name, _)| connection == "header" || *name != "x-secret-token")
            .map(|&(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect();
        sending.send_trailers(map).expect("a stream that takes trailers");
        assert_eq!(exchange.reply().await.expect("an answer").status, 200);
        let seen = sink.next_request().await;
        assert_eq!(seen.trailers, [("x-sum".to_owned(), "1".to_owned())], "{connection}");
    }
    let mut raw = Client::connect(server.proxy()).await;
    raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: header\r\nTrailer: X-Secret-Token, X-Sum\r\n")
        .await;
    raw.send("Transfer-Encoding: chunked\r\n\r\n0\r\nX-Secret-Token: evil\r\nX-Sum: 1\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    let seen = sink.next_request().await;
    assert!(!seen.trailers.iter().any(|(name, _)| name.eq_ignore_ascii_case("x-secret-token")), "{:?}", seen.trailers);
    server.finish(&[&key]).await;
}

/// HI-13: a name with `_` for `-` is another header to Sidekey, and still no tag reaches the upstream in any spelling.
#[tokio::test]
async fn hi_13_a_misspelt_tag_names_nothing_and_goes_nowhere() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let mut raw = Client::connect(server.proxy()).await;
    let lines = [
        ("X_Connection_Id", "cookie"),
        ("Sidekey_Connection", "query"),
        ("X-Connection-Id", "bearer"),
        ("sidekey_anything", "1"),
    ];
    raw.request("GET", "/", &lines, "").await;
    assert_eq!(raw.response().await.status, 200);
    let seen = sink.next_request().await;
    assert_eq!(seen.names(), ["authorization", "host"]);
    let reply = get(server.proxy(), "/", &[("X_Connection_Id", "bearer")]).await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (400, Some("connection_missing")));
    assert_eq!(sink.count(), 1);
    server.finish(&[&key]).await;
}

/// CO-05: what looks like an API key of Sidekey's own, in whatever place, never reaches an upstream: it is refused where a
/// key may stand, and goes with its header elsewhere. Keys that hold are among the tests of keys.
#[tokio::test]
async fn co_05_a_callers_own_key_never_reaches_the_upstream() {
    let key = Canary::new("key");
    let (sink, server) = setting(&key).await;
    let own = "apk_01jzzzzzzzzzzzzzzzzzzzzzzz_0123456789012345678901234567890123456789012";
    let (bearer, login) = (format!("Bearer {own}"), format!("Basic {}", STANDARD.encode(format!("bearer:{own}"))));
    for (name, value) in [
        ("Sidekey-Key", own),
        ("X-API-Key", own),
        ("x_api_key", own),
        ("Authorization", &*bearer),
        ("authorization", &*format!("bEaReR   {own}")),
    ] {
        for connection in ["bearer", "query"] {
            let reply = get(server.proxy(), "/", &[("Sidekey-Connection", connection), (name, value)]).await;
            assert_eq!((reply.status, reply.header("sidekey-error")), (401, Some("key_unknown")), "{name}");
        }
    }
    for (name, value) in [("Proxy-Authorization", &*login), ("Authorization", own), ("Authorization", &*login)] {
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "query"), (name, value)]).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
    let reply = http1(server.proxy(), "GET", "http://api.example.test/", &[("Proxy-Authorization", &login)], "").await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (407, Some("key_unknown")));
    for seen in sink.requests() {
        let head = format!("{}{:?}", String::from_utf8_lossy(&seen.raw_head), seen.headers);
        assert!(!head.contains("apk_") && !head.contains(&STANDARD.encode(format!("bearer:{own}"))), "{head}");
    }
    assert_eq!(sink.count(), 3);
    server.finish(&[&key]).await;
}

/// CO-07, CO-08: without the whole credential nothing is sent, whichever part of it cannot be had.
#[tokio::test]
async fn co_07_co_08_a_request_is_sent_with_its_whole_credential_or_not_at_all() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("missing", "@@SECRET:NOBODY@@").bearer("split", "@@SECRET:SPLIT@@");
        config.secret("SPLIT", &format!("{}\r\nX-Evil: 1", key.text()));
        config.secret("SLASHED", &format!("{}/../x", key.text())).secret("SPACED", &format!("{} x;", key.text()));
        config.secret("COLON", &format!("{}:x", key.text()));
        config.custom(
            "second",
            &[("one", key.text()), ("two", "@@SECRET:NOBODY@@")],
            &[("header", "X-One", "{{ one }}"), ("query", "two", "{{ two }}")],
        );
        config.custom(
            "half",
            &[("one", key.text()), ("two", "@@SECRET:SPLIT@@")],
            &[("query", "one", "{{ one }}"), ("header", "X-Two", "{{ two }}")],
        );
        config.api_key("cookie", "cookie", "session", "@@SECRET:SPACED@@").basic("colon", "@@SECRET:COLON@@", "x");
        config.basic("control", "ann", "@@SECRET:SPLIT@@").bearer("elsewhere", key.text());
        config.base("https://api.example.test/bot{api_key}").api_key("path", "path", "api_key", "@@SECRET:SLASHED@@");
        config.listener("environments", vec!["production", "staging"]);
    })
    .await;
    let staging = [("Sidekey-Environment", "staging")];
    for (connection, headers, code) in [
        ("missing", &[][..], "secret_missing"),
        ("second", &[], "secret_missing"),
        ("split", &[], "credential_corrupt"),
        ("half", &[], "credential_corrupt"),
        ("cookie", &[], "credential_corrupt"),
        ("colon", &[], "credential_corrupt"),
        ("control", &[], "credential_corrupt"),
        ("path", &[], "credential_corrupt"),
        ("elsewhere", &staging, "credential_missing"),
    ] {
        for _cached in 0..2 {
            let reply = get(server.proxy(), "/", &[headers, &[("Sidekey-Connection", connection)]].concat()).await;
            assert_eq!(
                (reply.status, reply.header("sidekey-error")),
                (424, Some(code)),
                "{connection}: {}",
                reply.text()
            );
        }
    }
    assert_eq!((sink.count(), sink.connection_count()), (0, 0));
    server.finish(&[&key]).await;
}

/// HI-08 at run time: the credential of a path can change neither its depth nor where it ends.
#[tokio::test]
async fn hi_08_a_path_credential_changes_neither_authority_nor_depth() {
    let (sink, key) = (Sink::https().await, Canary::new("path"));
    let hostile = ["/", "?", "#", "%", "%2f", "\\", "..", "."];
    let harmless = ["@", " ", "a..b", ":", "&=+"];
    let value = |text: &str| if text.starts_with('.') { text.to_owned() } else { format!("{}{text}x", key.text()) };
    let server = Sidekey::with(|config| {
        config.to(&sink).base("https://api.example.test/bot/{api_key}/x");
        for (index, text) in hostile.iter().chain(&harmless).enumerate() {
            config.secret(&format!("V{index}"), &value(text));
            config.api_key(&format!("c{index}"), "path", "api_key", &format!("@@SECRET:V{index}@@"));
        }
    })
    .await;
    for index in 0..hostile.len() + harmless.len() {
        let reply = get(server.proxy(), &format!("/c/c{index}/y"), &[]).await;
        if index < hostile.len() {
            assert_eq!(
                (reply.status, reply.header("sidekey-error")),
                (424, Some("credential_corrupt")),
                "{}",
                hostile[index]
            );
            continue;
        }
        assert_eq!(reply.status, 200, "{}", reply.text());
        let target = sink.next_request().await.target;
        let segments: Vec<_> = target.split('/').collect();
        assert_eq!((segments.len(), segments[1], segments[3], segments[4]), (5, "bot", "x", "y"), "{target}");
        assert_eq!(percent_decode_str(segments[2]).decode_utf8_lossy(), value(harmless[index - hostile.len()]));
    }
    assert_eq!(sink.count(), harmless.len());
    sink.assert_strict();
    server.finish(&[&key]).await;
}
