//! Every answer that is Sidekey's own, produced by a real request: status, headers and document as snapshots, the same
//! twice but for the request's id, and nothing sent upstream where there was nothing to send.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::harness::client::Address;
use crate::harness::pki::{self, Validity};
use crate::harness::sink::places::{Refusing, Silent};
use crate::harness::sink::{End, Greeting, HOST, Step};
use crate::harness::{Canary, Client, Config, Raw, Reply, Script, Sidekey, Sink, ask, problem};

/// The answers after which an HTTP/1.1 connection ends, because its next message could not be told from this one's rest.
/// Over HTTP/2 there is no such header; all else is the same.
const CLOSING: [&str; 7] = [
    "body_too_large",
    "head_too_large",
    "method_refused",
    "request_malformed",
    "request_timeout",
    "target_invalid",
    "target_too_long",
];

/// An own answer as it is compared: everything but the date, the request's id and what a version of HTTP itself adds.
fn stable(client: &Client, reply: &Reply) -> Value {
    let problem = problem(reply);
    assert_eq!(reply.header("sidekey-error"), Some(problem.code.as_str()));
    assert_eq!(reply.header("sidekey-request-id"), Some(problem.request_id.as_str()));
    assert!(problem.request_id.starts_with("req_") && problem.request_id.len() == 30, "{}", problem.request_id);
    let mut headers: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in &reply.headers {
        headers.entry(name.to_ascii_lowercase()).or_default().push(value);
    }
    let closes = matches!(client, Client::Http1(_)) && CLOSING.contains(&problem.code.as_str());
    assert_eq!(headers.remove("connection"), closes.then(|| vec!["close"]), "{}", problem.code);
    headers.remove("date");
    headers.insert("sidekey-request-id".to_owned(), vec!["[request id]"]);
    let mut body = problem.snapshot;
    if problem.code == "upstream_closed" {
        // Behind the colon a library says what happened on its wire.
        headers.remove("content-length");
        for pointer in ["/detail", "/message", "/error/message"] {
            let text = body.pointer_mut(pointer).expect("a text");
            *text = text.as_str().and_then(|text| text.split(": ").next()).into();
        }
    }
    json!({ "status": reply.status, "headers": headers, "body": body })
}

/// Sends the same request twice, each on a connection of its own, and compares what comes back with the snapshot.
async fn refused(name: &str, address: impl Into<Address>, request: impl AsRef<[u8]>) {
    let address = address.into();
    refused_on(name, async || Client::connect(&address).await, request.as_ref()).await;
}

/// The same for a request that only HTTP/1.1 has.
async fn refused_over_http1(name: &str, address: impl Into<Address>, request: impl AsRef<[u8]>) {
    let address = address.into();
    refused_on(name, async || Client::Http1(Box::new(Raw::connect(&address).await)), request.as_ref()).await;
}

async fn refused_on(name: &str, connect: impl AsyncFn() -> Client, request: &[u8]) {
    let mut answers = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut client = connect().await;
        client.send(request).await;
        let reply = client.response().await;
        ids.push(problem(&reply).request_id);
        answers.push(stable(&client, &reply));
        if reply.header("connection") == Some("close") {
            client.closed().await;
        }
    }
    assert_eq!(answers[0], answers[1], "{name}: two answers differ in more than their ids");
    assert_ne!(ids[0], ids[1]);
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_json_snapshot!(format!("refusal_{name}"), answers[0]);
    });
}

/// A GET of `/` with these lines.
fn lines(lines: &[&str]) -> String {
    lines.iter().fold("GET / HTTP/1.1\r\nHost: localhost\r\n".to_owned(), |text, line| text + line + "\r\n") + "\r\n"
}

/// A GET by way of a proxy, with this login.
fn proxied(login: &str) -> String {
    let login = match login {
        "" => String::new(),
        login => format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(login)),
    };
    format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n{login}\r\n")
}

fn stripe(token: &Canary, sink: &Sink) -> impl FnOnce(&mut Config) {
    move |config| {
        config.to(sink).bearer("stripe", token.text());
    }
}

#[tokio::test]
async fn what_is_malformed_or_names_no_connection() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(stripe(&token, &sink)).await;
    let proxy = server.proxy();
    refused("connection_missing", &proxy, lines(&[])).await;
    refused_over_http1("connection_missing_as_proxy", &proxy, proxied("")).await;
    refused("tag_malformed", &proxy, lines(&["Sidekey-Connection: ../stripe"])).await;
    refused("tag_conflict", &proxy, lines(&["Sidekey-Connection: stripe", "X-Connection-Id: other"])).await;
    let climbing = "GET /a/%2e%2e/b HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: stripe\r\n\r\n";
    refused("target_invalid", &proxy, climbing).await;
    refused_over_http1("request_malformed", &proxy, lines(&["Host: localhost", "Sidekey-Connection: stripe"])).await;
    let framed_twice = lines(&["Sidekey-Connection: stripe", "Content-Length: 0", "Transfer-Encoding: chunked"]);
    refused_over_http1("request_malformed_framing", &proxy, framed_twice).await;
    let long = "x".repeat(70_000);
    refused_over_http1("head_too_large", &proxy, lines(&["Sidekey-Connection: stripe", &format!("X-A: {long}")])).await;
    refused_over_http1("target_too_long", &proxy, format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    let trace = "TRACE / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: stripe\r\n\r\n";
    refused("method_refused", &proxy, trace).await;
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn who_may_not_ask() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text()).connection_key("customer", "acme").bearer("crm", token.text());
        config.listener("connections", vec!["crm"]);
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await;
    let (local, keyed) = (server.proxies[0].clone(), server.proxies[1].clone());
    let key = "apk_01jzzzzzzzzzzzzzzzzzzzzzzz_0123456789012345678901234567890123456789012";
    refused("key_missing", &keyed, lines(&["Sidekey-Connection: crm"])).await;
    refused_over_http1("key_missing_as_proxy", &keyed, proxied("crm:")).await;
    refused("key_unknown", &keyed, lines(&["Sidekey-Connection: crm", &format!("Sidekey-Key: {key}")])).await;
    refused_over_http1("key_unknown_as_proxy", &keyed, proxied(&format!("crm:{key}"))).await;
    let page = lines(&["Sidekey-Connection: crm", "Origin: https://page.example.test"]);
    refused("browser_request", &local, page).await;
    let elsewhere = lines(&["Sidekey-Connection: crm", "Sidekey-Environment: staging"]);
    refused("environment_not_permitted", &local, elsewhere).await;
    let host = lines(&["Sidekey-Connection: crm", "Sidekey-Upstream: https://evil.example.test"]);
    refused("host_not_allowed", &local, host).await;
    // One document for what does not exist, what is out of scope, and a customer who is: they are the same snapshot.
    for hidden in [
        &["Sidekey-Connection: nobody"][..],
        &["Sidekey-Connection: stripe"],
        &["Sidekey-Connection: conn_01jzzzzzzzzzzzzzzzzzzzzzzz"],
        &["Sidekey-Connection: crm", "Sidekey-Customer: acme"],
    ] {
        refused("connection_unknown", &local, lines(hidden)).await;
    }
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn bodies_that_cannot_take_a_credential() {
    let (sink, key) = (Sink::https().await, Canary::new("key"));
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("json", "body", "/key", key.text()).set("proxy.body_idle_timeout", "150ms");
    })
    .await;
    let post = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: json\r\n{fields}\r\n{body}")
    };
    let json = "Content-Type: application/json\r\n";
    let of_length = |length: usize| format!("{json}Content-Length: {length}\r\n");
    let proxy = server.proxy();
    refused("body_too_large", &proxy, post(&of_length(65_537), "")).await;
    refused("body_unsupported_type", &proxy, post("Content-Type: text/plain\r\nContent-Length: 2\r\n", "{}")).await;
    refused("body_unsupported_encoding", &proxy, post(&format!("{}Content-Encoding: gzip\r\n", of_length(2)), "{}"))
        .await;
    refused("body_unsupported_syntax", &proxy, post(&of_length(1), "{")).await;
    refused("body_unsupported_duplicate", &proxy, post(&of_length(13), "{\"a\":1,\"a\":2}")).await;
    refused("body_unsupported_place", &proxy, post(&of_length(3), "[1]")).await;
    refused("request_timeout", &proxy, post(&of_length(9), "{")).await;
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&key]).await;
}

#[tokio::test]
async fn credentials_that_cannot_be_had() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text()).bearer("secret", "@@SECRET:STRIPE_KEY@@");
        config.secret("SPLIT", &format!("{}\r\nX: 1", token.text())).bearer("corrupt", "@@SECRET:SPLIT@@");
        config.listener("environments", vec!["production", "staging"]);
    })
    .await;
    let staging = lines(&["Sidekey-Connection: stripe", "Sidekey-Environment: staging"]);
    refused("credential_missing", server.proxy(), staging).await;
    refused("secret_missing", server.proxy(), lines(&["Sidekey-Connection: secret"])).await;
    refused("credential_corrupt", server.proxy(), lines(&["Sidekey-Connection: corrupt"])).await;
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn upstreams_that_cannot_be_reached() {
    let token = Canary::new("token");
    let (refusing, silent) = (Refusing::new(), Silent::new().await);
    let strange = Sink::builder().leaf(pki::stranger().leaf(&[HOST])).start().await;
    let expired = Sink::builder().leaf(pki::authority().leaf_valid(&[HOST], Validity::Expired)).start().await;
    let other = Sink::builder().tls(&["another.example.test"]).start().await;
    let (plain, mute) = (Sink::http().await, Sink::https().await);
    mute.greet_all(Greeting::Silence);
    let server = Sidekey::with(|config| {
        config.set("upstream.connect_timeout", "150ms").set("upstream.tls_timeout", "150ms");
        for (key, addr) in [
            ("refused", refusing.addr),
            ("silent", silent.addr),
            ("strange", strange.addr),
            ("expired", expired.addr),
            ("other", other.addr),
            ("plain", plain.addr),
            ("mute", mute.addr),
        ] {
            let host = format!("{key}.example.test");
            let url = format!("https://{host}");
            config.pin(&host, addr).base(&url).bearer(key, token.text());
        }
        config.base("https://10.1.2.3").bearer("private", token.text());
        config.base("https://no-such-name.invalid").bearer("nameless", token.text());
    })
    .await;
    let unreachable = |name: &'static str, connection: &'static str| {
        refused(name, server.proxy(), lines(&[&format!("Sidekey-Connection: {connection}")]))
    };
    unreachable("upstream_refused", "refused").await;
    unreachable("connect_timeout", "silent").await;
    unreachable("connect_timeout_in_tls", "mute").await;
    unreachable("upstream_tls_stranger", "strange").await;
    unreachable("upstream_tls_expired", "expired").await;
    unreachable("upstream_tls_other_name", "other").await;
    unreachable("upstream_tls_plaintext", "plain").await;
    unreachable("address_prohibited", "private").await;
    for sink in [&strange, &expired, &other, &plain, &mute] {
        assert_eq!(sink.count(), 0);
    }
    // What a resolver says of a name that does not exist depends on the machine: the code does not.
    let reply = ask(server.proxy(), lines(&["Sidekey-Connection: nameless"])).await;
    assert_eq!((reply.status, problem(&reply).code.as_str()), (502, "upstream_dns"));
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn upstreams_that_do_not_answer_as_they_should() {
    let (sink, old, token) = (Sink::https().await, Sink::https1().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
        config.pin("localhost", old.addr).base("https://localhost").bearer("old", token.text());
    })
    .await;
    let two_lengths = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok";
    let unasked = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for (name, path, script) in [
        ("upstream_closed", "/fin", Script::new().then(Step::ReadBody).then(Step::Fin)),
        ("upstream_closed_reset", "/reset", Script::new().then(Step::ReadBody).then(Step::Reset)),
        ("response_timeout", "/stall", Script::stall()),
    ] {
        sink.on(path, script);
        // A handshake may not take longer than the answer may, so only who stalls has little time.
        let timeout = if name == "response_timeout" { "1s" } else { "1h" };
        let lines = format!("Host: localhost\r\nSidekey-Connection: stripe\r\nSidekey-Timeout: {timeout}\r\n");
        refused(name, server.proxy(), format!("GET {path} HTTP/1.1\r\n{lines}\r\n")).await;
    }
    // What only HTTP/1.1 can say.
    for (name, path, script) in [
        ("upstream_closed_in_head", "/half", Script::cut_in_head(Step::Cut)),
        ("upstream_malformed", "/lengths", Script::malformed(two_lengths)),
        ("upstream_malformed_no_http", "/no-http", Script::malformed("SSH-2.0-OpenSSH_9.2\r\n")),
        ("upstream_malformed_101", "/unasked", Script::malformed(unasked)),
    ] {
        old.on(path, script);
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: old\r\n\r\n");
        refused(name, server.proxy(), request).await;
        let last = old.connection_count() - 1;
        assert_ne!(old.closed(last).await, End::Failed(String::new()), "a connection that failed is not kept");
    }
    server.finish(&[&token]).await;
}

/// CA-03: a vault that cannot be read is a 503 for what it would have to say, never a 404, and what is cached or
/// declared goes on; when it is back, so is everything.
#[tokio::test]
async fn ca_03_a_vault_that_cannot_be_read() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(stripe(&token, &sink)).await;
    let vault = server.folder().join("sidekey.vault");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&vault).create_if_missing(false);
    let mut database = sqlx::ConnectOptions::connect(&options).await.expect("the vault's file");
    let mut run = async |statement: &'static str| {
        sqlx::query(statement).execute(&mut database).await.expect("a statement");
    };
    run("ALTER TABLE connections RENAME TO hidden").await;
    for unknown in ["nobody", "conn_01jzzzzzzzzzzzzzzzzzzzzzzz"] {
        refused("vault_unavailable", server.proxy(), lines(&[&format!("Sidekey-Connection: {unknown}")])).await;
    }
    let reply = ask(server.proxy(), lines(&["Sidekey-Connection: stripe"])).await;
    assert_eq!(reply.status, 200, "a declared connection does not need the vault");
    run("ALTER TABLE hidden RENAME TO connections").await;
    refused("connection_unknown", server.proxy(), lines(&["Sidekey-Connection: nobody"])).await;
    assert!(!server.process().stderr().contains("SELECT"), "the log repeats no SQL");
    server.finish(&[&token]).await;
}

/// ST-05, ST-06, CO-07: a row that was damaged or moved, or a host that changed, is a refusal of that connection only.
#[tokio::test]
async fn st_05_st_06_credentials_of_the_vault_that_must_not_be_used() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    let integration = |slug: &str, host: &str| json!({ "slug": slug, "base_url": format!("https://{host}"), "auth": [{ "method": "token", "type": "bearer" }] });
    for (key, slug) in [("sound", "example"), ("damaged", "example"), ("moved", "example"), ("rebound", "other")] {
        admin.must("PUT", &format!("integrations/{slug}"), integration(slug, HOST)).await;
        admin.must("POST", "connections", json!({ "key": key, "integration": slug })).await;
        let path = format!("connections/{key}/credentials/production");
        admin.must("PUT", &path, json!({ "token": token.text() })).await;
    }
    admin.must("PUT", "integrations/other", integration("other", "elsewhere.example.test")).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(server.folder().join("sidekey.vault"));
    let mut database = sqlx::ConnectOptions::connect(&options).await.expect("the vault's file");
    let of = "field = 'token' AND connection_id = (SELECT id FROM connections WHERE key =";
    let damage = format!("UPDATE credentials SET ciphertext = zeroblob(length(ciphertext)) WHERE {of} 'damaged')");
    let sound = format!("(SELECT nonce, ciphertext, version, key_id FROM credentials WHERE {of} 'sound'))");
    let moved = format!("UPDATE credentials SET (nonce, ciphertext, version, key_id) = {sound} WHERE {of} 'moved')");
    for statement in [damage, moved] {
        let changed = sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.expect("a statement");
        assert_eq!(changed.rows_affected(), 1);
    }
    for key in ["damaged", "moved"] {
        refused("credential_corrupt_in_the_vault", server.proxy(), lines(&[&format!("Sidekey-Connection: {key}")]))
            .await;
    }
    refused("connection_needs_reconnect", server.proxy(), lines(&["Sidekey-Connection: rebound"])).await;
    assert_eq!(sink.connection_count(), 0);
    let reply = ask(server.proxy(), lines(&["Sidekey-Connection: sound"])).await;
    assert_eq!(reply.status, 200, "the others are not affected");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_refusal_without_a_read_body_ends_the_connection_and_one_with_it_does_not() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = Sidekey::with(stripe(&token, &sink)).await;
    let mut raw = Raw::connect(server.proxy()).await;
    for _ in 0..3 {
        raw.request("POST", "/", &[("Sidekey-Connection", "nobody")], "a body that is there").await;
        assert_eq!(raw.response().await.status, 404);
        raw.request("GET", "/", &[("Sidekey-Connection", "stripe")], "").await;
        assert_eq!(raw.response().await.status, 200, "the connection goes on where its place is known");
    }
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: nobody\r\nContent-Length: 1000000000\r\n\r\n")
        .await;
    assert_eq!(raw.response().await.status, 404);
    raw.closed().await;
    sink.assert_strict();
    server.finish(&[&token]).await;
}
