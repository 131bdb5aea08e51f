//! Canaries in every kind of credential, every way to fail, logs at their loudest: no secret is in anything but the one
//! upstream message it belongs to.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::admin::Admin;
use crate::harness::client::h2::H2;
use crate::harness::client::request;
use crate::harness::sink::places::Refusing;
use crate::harness::sink::{Greeting, HOST, How, Step};
use crate::harness::wires::{Version, wires};
use crate::harness::{Canary, Client, Config, Raw, Script, Sidekey, Sink, get, problem};

const KINDS: [&str; 9] = ["bearer", "basic", "header", "query", "cookie", "path", "json", "form", "custom"];

/// One connection of each kind to the current base URL, their keys ending in `suffix`, each with a canary of its own.
fn connections(config: &mut Config, url: &str, suffix: &str) -> BTreeMap<String, Canary> {
    let mut canaries = BTreeMap::new();
    for kind in KINDS {
        let key = format!("{kind}{suffix}");
        let canary = if matches!(kind, "cookie" | "path") { Canary::new(kind) } else { Canary::spiky(kind) };
        let secret = canary.text();
        config.base(url);
        match kind {
            "bearer" => config.bearer(&key, secret),
            "basic" => config.basic(&key, "ann", secret),
            "header" => {
                config.api_key(&key, "header", "X-Key", secret).auth_key("template", "k={{ api_key | base64 }}")
            }
            "query" => config.api_key(&key, "query", "key", secret),
            "cookie" => config.api_key(&key, "cookie", "session", secret),
            "path" => config.base(&format!("{url}/bot{{api_key}}")).api_key(&key, "path", "api_key", secret),
            "json" => config.api_key(&key, "body", "/key", secret),
            "form" => config.api_key(&key, "body", "key", secret),
            _ => config.custom(
                &key,
                &[("one", secret), ("two", "public-enough")],
                &[("header", "X-One", "{{ one }}"), ("query", "one", "{{ one }}"), ("header", "X-Two", "{{ two }}")],
            ),
        };
        canaries.insert(key, canary);
    }
    canaries
}

/// LK-01 with the log at its loudest: each error over each kind of credential, each answer and line looked through.
#[tokio::test]
async fn lk_01_no_error_shows_a_credential_at_any_level_of_the_log() {
    let http2 = wires().upstream == Version::Http2;
    for format in ["json", "human"] {
        let sink = Sink::https().await;
        let (refusing, closing) = (Refusing::new(), Sink::http().await);
        closing.greet_all(Greeting::Fin);
        let mut canaries = BTreeMap::new();
        let server = Sidekey::with(|config| {
            config.set("log.level", "trace").set("log.format", format);
            config.set("upstream.idle_timeout", "1s");
            config.to(&sink).pin("refused.example.test", refusing.addr).pin("closed.example.test", closing.addr);
            canaries.extend(connections(config, &format!("https://{HOST}"), ""));
            canaries.extend(connections(config, "https://refused.example.test", "-refused"));
            canaries.extend(connections(config, "https://closed.example.test", "-closed"));
            canaries.extend(connections(config, "https://10.0.0.1", "-private"));
            canaries.extend(connections(config, "https://no-such-name.invalid", "-dns"));
        })
        .await;
        misbehave(&sink, "", http2);
        misbehave(&sink, &format!("/bot{}", canaries["path"].text()), http2);
        let [a, b, c, d, e, f, g, h, i] = KINDS.map(|kind| provoke(&server, kind));
        tokio::join!(a, b, c, d, e, f, g, h, i);
        let metrics = server.metrics().await;
        let admin = server.admin();
        let mut answers = vec![metrics];
        for path in
            ["/healthz", "/readyz", "/", "/nowhere", "connections", "integrations", "secrets", "connections/bearer"]
        {
            answers.push(admin.get(path).await.text());
        }
        let lines = server.process().stderr();
        assert!(lines.to_lowercase().contains("trace"), "the log is at its loudest");
        for canary in canaries.values() {
            for answer in &answers {
                crate::harness::canary::assert_absent(answer.as_bytes(), canary, "an answer of the admin port");
            }
        }
        let all: Vec<&Canary> = canaries.values().collect();
        server.finish(&all).await;
    }
}

/// Has the upstream fail in each way by path, below `base`.
fn misbehave(sink: &Sink, base: &str, http2: bool) {
    let on = |path: &str, script: Script| sink.on(&format!("{base}{path}"), script);
    // Over HTTP/2 a cut would end the other streams of the connection too.
    let cut = if http2 { Step::Reset } else { Step::Cut };
    for (path, script) in [
        ("/stall", Script::stall()),
        ("/reset", Script::new().then(Step::ReadBody).then(Step::Reset)),
        ("/cut", Script::cut_in_body(10, "part", cut)),
        ("/slow", Script::stall_in_body(10, "part")),
        ("/500", Script::respond(500, &[], "no")),
        ("/401", Script::respond(401, &[("www-authenticate", "Bearer error=\"invalid_token\"")], "no")),
    ] {
        on(path, script);
    }
    if http2 {
        on("/refused", Script::new().then(Step::RefuseStream));
    } else {
        on("/malformed", Script::malformed("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"));
        on("/half", Script::cut_in_head(Step::Cut));
    }
}

fn lines(headers: &[(&str, &str)]) -> String {
    headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
}

/// Sends one connection's credential into each way to fail.
async fn provoke(server: &Sidekey, kind: &str) {
    let (content_type, body) = match kind {
        "json" => ("application/json", "{\"a\":1}"),
        _ => ("application/x-www-form-urlencoded", "a=1"),
    };
    let ask = async |connection: &str, path: &str, extra: &[(&str, &str)]| {
        let headers = [&[("Sidekey-Connection", connection), ("Content-Type", content_type)][..], extra].concat();
        let mut raw = Client::connect(server.proxy()).await;
        raw.request("POST", path, &headers, body).await;
        match raw.try_response().await {
            Ok(reply) => reply.status,
            Err(broken) => broken.partial.map_or(0, |reply| reply.status),
        }
    };
    assert_eq!(ask(kind, "/?own=1", &[]).await, 200, "{kind}");
    assert_eq!(ask(kind, "/stall", &[("Sidekey-Timeout", "100ms")]).await, 504, "{kind}");
    for (path, status) in [("/reset", 502), ("/500", 500), ("/401", 401)] {
        assert_eq!(ask(kind, path, &[]).await, status, "{kind} {path}");
    }
    for path in ["/cut", "/slow", "/malformed", "/half", "/refused"] {
        ask(kind, path, &[]).await;
    }
    assert_eq!(ask(&format!("{kind}-refused"), "/", &[]).await, 502);
    assert_eq!(ask(&format!("{kind}-closed"), "/", &[]).await, 502);
    assert_eq!(ask(&format!("{kind}-private"), "/", &[]).await, 403);
    assert_eq!(ask(&format!("{kind}-dns"), "/", &[]).await, 502);
    assert_eq!(ask(kind, "/", &[("Sidekey-Environment", "staging")]).await, 403);
    assert_eq!(ask(kind, "/", &[("Sidekey-Upstream", "https://evil.test")]).await, 403);
    assert_eq!(ask(kind, "/a/../b", &[]).await, 400);
    if matches!(kind, "json" | "form") {
        let headers = [("Sidekey-Connection", kind), ("Content-Type", content_type)];
        let mut client = Client::connect(server.proxy()).await;
        let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n{}\r\n", lines(&headers));
        client.send(head).await;
        // It is refused by its length, so the body may find nobody who takes it.
        let _gone = client.try_send("x".repeat(70_000)).await;
        assert_eq!(client.response().await.status, 413);
        assert_eq!(request(server.proxy(), "POST", "/", &[("Sidekey-Connection", kind)], "x").await.status, 415);
    }
    let client = H2::connect(server.proxy()).await;
    for path in ["/", "/reset", "/stall"] {
        // How a stream breaks is not the matter here: what is said about it is.
        let headers = [("sidekey-connection", kind), ("sidekey-timeout", "100ms")];
        let _broken = client.try_request("GET", path, &headers, "").await;
    }
}

/// An upstream that repeats the credential in a header that points somewhere does not show it to the caller.
#[tokio::test]
async fn an_injected_value_is_taken_out_of_headers_that_point_somewhere() {
    let (sink, mut canaries) = (Sink::https().await, BTreeMap::new());
    let server = Sidekey::with(|config| {
        config.to(&sink);
        canaries = connections(config, &format!("https://{HOST}"), "");
        config.base(&format!("https://{HOST}")).secret("KEY", canaries["bearer"].text());
        config.basic("user", "@@SECRET:KEY@@", "x-not-the-key");
    })
    .await;
    canaries.insert("user".to_owned(), canaries["bearer"].clone());
    for (kind, canary) in &canaries {
        for spelling in spellings(canary.text()) {
            let url = format!("https://other.test/a?b=1&key={spelling}&c=2#{spelling}");
            let link = format!("<{url}>; rel=next, </p>; rel=prev");
            let refresh = format!("5; url={url}");
            let cookie = format!("key={spelling}; Path=/; HttpOnly");
            let fields = [
                ("Location", &*url),
                ("Content-Location", &url),
                ("Link", &link),
                ("Link", &link),
                ("Refresh", &refresh),
                ("Set-Cookie", &cookie),
                ("Set-Cookie", "own=1"),
            ];
            sink.next(Script::respond(302, &fields, "moved"));
            let reply = get(server.proxy(), "/", &[("Sidekey-Connection", kind)]).await;
            assert_eq!(reply.status, 302, "a redirect is returned, not followed: {}", reply.text());
            assert_eq!(reply.header("location"), Some("https://other.test/a?b=1&key=&c=2#"), "{kind} {spelling}");
            assert_eq!(reply.header("content-location"), reply.header("location"));
            let expected = "<https://other.test/a?b=1&key=&c=2#>; rel=next, </p>; rel=prev";
            assert_eq!(reply.all("link"), [expected, expected]);
            assert_eq!(reply.header("refresh"), Some("5; url=https://other.test/a?b=1&key=&c=2#"));
            assert_eq!(reply.all("set-cookie"), ["key=; Path=/; HttpOnly", "own=1"]);
        }
    }
    let basic = STANDARD.encode(format!("ann:{}", canaries["basic"].text()));
    let location = format!("https://other.test/?a={}&b={}", basic, basic.trim_end_matches('='));
    sink.next(Script::respond(302, &[("Location", &location)], ""));
    let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "basic")]).await;
    let left = reply.header("location").expect("a location").replace('=', "");
    assert_eq!(left, "https://other.test/?a&b");
    let all: Vec<&Canary> = canaries.values().collect();
    server.finish(&all).await;
}

/// How servers write a value into a URL or a cookie.
fn spellings(value: &str) -> Vec<String> {
    let all = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let component = utf8_percent_encode(value, crate::leaks::COMPONENT).to_string();
    let every: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let twice = utf8_percent_encode(&component, NON_ALPHANUMERIC).to_string();
    let mut spellings = vec![value.to_owned(), all.clone(), component, every.clone(), every.to_lowercase(), twice];
    spellings.push(STANDARD.encode(value).trim_end_matches('=').to_owned());
    spellings.push(URL_SAFE_NO_PAD.encode(value));
    spellings
}

/// What encodeURIComponent of JavaScript leaves as it is (ECMA-262 §19.2.6.4).
const COMPONENT: &percent_encoding::AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// What does not belong to a credential passes byte for byte, and bodies always do.
#[tokio::test]
async fn nothing_else_of_an_answer_is_changed() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", key.text());
    })
    .await;
    let fields = [
        ("Location", "https://other.test/?a=%zz&b=%2F+%25&c=canary-key-"),
        ("Link", "</a%>; rel=\"next\""),
        ("Set-Cookie", "a=\"b c\"; Max-Age=1"),
        ("WWW-Authenticate", "Bearer realm=\"x\", error=\"invalid_token\""),
        ("WWW-Authenticate", "Basic realm=\"y\""),
        ("Authentication-Info", "nextnonce=\"z\""),
        ("X-Two", "1"),
        ("X-Two", "2"),
    ];
    sink.next(Script::respond(401, &fields, "the body"));
    let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await;
    assert_eq!((reply.status, reply.text().as_str()), (401, "the body"));
    for (name, _) in fields {
        // LK-16: the challenges among them are the upstream's, unchanged (RFC 9110 §11.6.1).
        let sent: Vec<&str> = fields.iter().filter(|(other, _)| *other == name).map(|(_, value)| *value).collect();
        assert_eq!(reply.all(name), sent);
    }
    sink.next(Script::respond(200, &[], format!("echo {}", key.text())));
    let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await;
    assert_eq!(reply.text(), format!("echo {}", key.text()), "bodies pass as they are; the README says so");
    server.finish(&[&key]).await;
}

/// LK-09, LK-10: no cookie jar and no cache; one request leaves nothing for another.
#[tokio::test]
async fn lk_09_lk_10_no_cookie_and_no_answer_is_kept() {
    let (sink, one, two) = (Sink::https().await, Canary::new("one"), Canary::new("two"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("one", one.text()).bearer("two", two.text());
    })
    .await;
    let fields = [("Set-Cookie", "sid=of-a; Path=/"), ("Cache-Control", "public, max-age=600"), ("ETag", "\"1\"")];
    sink.otherwise(Script::respond(200, &fields, "same"));
    let (mut a, mut b) = (Client::connect(server.proxy()).await, Client::connect(server.proxy()).await);
    for connection in ["one", "two", "one"] {
        for raw in [&mut a, &mut b] {
            raw.request("GET", "/same", &[("Sidekey-Connection", connection)], "").await;
            let reply = raw.response().await;
            assert_eq!((reply.header("set-cookie"), reply.header("age")), (Some("sid=of-a; Path=/"), None));
            let seen = sink.next_request().await;
            let token = if connection == "one" { one.text() } else { two.text() };
            assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {token}")));
            assert_eq!((seen.header("cookie"), seen.header("if-none-match")), (None, None));
        }
    }
    assert_eq!(sink.count(), 6, "each request went to the upstream");
    server.finish(&[&one, &two]).await;
}

/// LK-19, LK-20: nothing tells versions, builds or paths, and nothing is served for debugging.
#[tokio::test]
async fn lk_19_lk_20_no_fingerprint_and_no_debug_endpoint() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
    })
    .await;
    let anonymous = Admin::new(server.admin_address.clone(), "");
    let mut answers = Vec::new();
    for path in [
        "/debug/pprof/",
        "/debug/vars",
        "/debug/",
        "/heap",
        "/actuator",
        "/console",
        "/server-status",
        "/api/v1/nowhere",
    ] {
        let reply = server.admin().get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        answers.extend([reply, anonymous.get(path).await]);
    }
    for headers in [vec![], vec![("Sidekey-Connection", "nobody")], vec![("Sidekey-Connection", "../../etc")]] {
        answers.push(get(server.proxy(), "/debug/pprof/", &headers).await);
    }
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send("no http at all\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!(problem(&reply).code, "request_malformed");
    answers.push(reply);
    for reply in answers {
        assert!((400..500).contains(&reply.status), "{}", reply.status);
        assert_eq!((reply.all("server").len(), reply.all("via").len(), reply.all("x-powered-by").len()), (0, 0, 0));
        let said = format!("{:?}{}", reply.headers, reply.text()).to_lowercase();
        let folder = server.folder().display().to_string().to_lowercase();
        for telling in ["hyper", "axum", "rust", ".rs:", "0.1.0", "panicked", "src/", folder.as_str()] {
            assert!(!said.contains(telling), "{telling} in {said}");
        }
    }
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}

/// An upstream cannot pass its answer off as Sidekey's own.
#[tokio::test]
async fn an_upstreams_own_sidekey_headers_are_dropped() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
    })
    .await;
    let fields =
        [("sidekey-error", "internal"), ("Sidekey-Request-Id", "req_x"), ("sidekey-anything", "1"), ("x-kept", "1")];
    sink.next(Script::respond(500, &fields, "{}"));
    let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "stripe")]).await;
    assert_eq!((reply.status, reply.header("x-kept")), (500, Some("1")));
    assert_eq!((reply.header("sidekey-error"), reply.header("sidekey-anything")), (None, None));
    assert_ne!(reply.header("sidekey-request-id"), Some("req_x"));
    let own = get(server.proxy(), "/", &[("Sidekey-Connection", "nobody")]).await;
    assert_eq!(problem(&own).code, "connection_unknown");
    server.finish(&[&token]).await;
}

/// H2-22: no intermediary on an HTTP/2 path may put a credential into its compression table (RFC 7541 §7.1.3).
#[tokio::test]
async fn h2_22_credentials_are_never_indexed() {
    let (sink, key) = (Sink::https2().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("bearer", key.text()).basic("basic", "ann", key.text());
        config.api_key("header", "header", "X-Key", key.text()).api_key("cookie", "cookie", "session", key.text());
    })
    .await;
    let client = H2::connect(server.proxy()).await;
    for (connection, _) in [("bearer", 0), ("basic", 0), ("header", 0), ("cookie", 0), ("bearer", 1)] {
        let reply = client.get("/", &[("sidekey-connection", connection), ("x-plain", "1")]).await;
        assert_eq!((reply.status, sink.next_request().await.version), (200, 2));
    }
    let fields: Vec<_> = (0..sink.connection_count()).flat_map(|number| sink.indexing(number)).collect();
    for field in &fields {
        if matches!(field.name, Some("authorization" | "cookie")) {
            assert_eq!(field.how, How::Never, "{:?}", field.name);
        }
    }
    // `X-Key` is no name of the static table, so it is told by its number: each credential and nothing else.
    assert_eq!(fields.iter().filter(|field| field.how == How::Never).count(), 5, "{fields:?}");
    server.finish(&[&key]).await;
}
