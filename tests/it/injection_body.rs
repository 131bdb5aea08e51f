//! Credentials that go into a body: forms and JSON documents, absent bodies, and bodies that cannot take one.

use crate::harness::client::h2::H2;
use crate::harness::sink::Seen;
use crate::harness::{Canary, Client, Reply, Sidekey, Sink, client};

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

struct Setting {
    sink: Sink,
    server: Sidekey,
    key: Canary,
}

impl Setting {
    /// `form` has its key in the field `api key`, `json` at `/auth/key`, `custom` at two places of a document.
    async fn new() -> Self {
        let (sink, key) = (Sink::https().await, Canary::spiky("body"));
        let server = Sidekey::with(|config| {
            config.to(&sink).api_key("form", "body", "api key", key.text());
            config.api_key("json", "body", "/auth/key", key.text());
            config.custom(
                "custom",
                &[("user", "ann"), ("secret", key.text())],
                &[
                    ("body", "/user", "{{ user }}"),
                    ("body", "/a~1b/~0", "{{ secret }}"),
                    ("header", "X-User", "{{ user }}"),
                ],
            );
        })
        .await;
        Self { sink, server, key }
    }

    async fn post(&self, connection: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        let headers = [("Sidekey-Connection", connection), ("Content-Type", content_type)];
        client::request(self.server.proxy(), "POST", "/p", &headers, body).await
    }

    async fn sent(&self, connection: &str, content_type: &str, body: impl AsRef<[u8]>) -> Seen {
        let reply = self.post(connection, content_type, body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let seen = self.sink.next_request().await;
        assert_eq!(seen.header("content-length"), Some(&*seen.body.len().to_string()));
        assert_eq!(seen.header("content-type"), Some(content_type));
        seen
    }

    /// The key as JSON writes it.
    fn quoted(&self) -> String {
        serde_json::to_string(self.key.text()).expect("a text")
    }

    async fn refused(&self, reply: &Reply, status: u16, code: &str) {
        assert_eq!((reply.status, reply.header("sidekey-error")), (status, Some(code)), "{}", reply.text());
    }

    async fn finish(self) {
        self.sink.assert_strict();
        self.server.finish(&[&self.key]).await;
    }
}

#[tokio::test]
async fn a_form_field_is_appended_and_the_callers_own_of_that_name_goes() {
    let setting = Setting::new().await;
    for (body, kept) in [
        ("a=1&b=%2F+x&a=2", "a=1&b=%2F+x&a=2"),
        ("api+key=evil&a=1&api%20key=evil&%61pi%20key&b", "a=1&b"),
        ("a=1&&b=", "a=1&&b="),
    ] {
        for content_type in
            [FORM, "application/x-www-form-urlencoded; charset=utf-8", "Application/X-WWW-Form-Urlencoded"]
        {
            let seen = setting.sent("form", content_type, body).await;
            let text = seen.text();
            let injected = text.strip_prefix(kept).unwrap_or_else(|| panic!("{text}"));
            let decoded = percent_encoding::percent_decode_str(injected).decode_utf8_lossy();
            assert_eq!(decoded, format!("&api key={}", setting.key.text()));
        }
    }
    setting.finish().await;
}

#[tokio::test]
async fn a_json_member_is_put_in_its_place_and_the_rest_of_the_document_keeps_its_bytes() {
    let setting = Setting::new().await;
    let key = setting.quoted();
    for (body, expected) in [
        (
            r#"{"a":1.10,"n":123456789012345678901234567890,"t":"é\u00e9\/"}"#,
            format!(r#"{{"a":1.10,"n":123456789012345678901234567890,"t":"é\u00e9\/","auth":{{"key":{key}}}}}"#),
        ),
        (r#"{"auth":{"key":"evil","x":[ 1 ]},"b":{}}"#, format!(r#"{{"auth":{{"key":{key},"x":[ 1 ]}},"b":{{}}}}"#)),
        (r#"{"\u0061uth":{"k\u0065y":{"deep":"evil"}}}"#, format!(r#"{{"auth":{{"key":{key}}}}}"#)),
        ("{}", format!(r#"{{"auth":{{"key":{key}}}}}"#)),
    ] {
        for content_type in [JSON, "application/json; charset=utf-8", "application/vnd.api+json"] {
            assert_eq!(setting.sent("json", content_type, body).await.text(), expected);
        }
    }
    let seen = setting.sent("custom", JSON, r#"{"user":"evil","z":1}"#).await;
    assert_eq!(seen.text(), format!(r#"{{"user":"ann","z":1,"a/b":{{"~":{key}}}}}"#));
    assert_eq!(seen.header("x-user"), Some("ann"));
    setting.finish().await;
}

#[tokio::test]
async fn an_absent_body_becomes_the_document() {
    let setting = Setting::new().await;
    let document = format!(r#"{{"auth":{{"key":{}}}}}"#, setting.quoted());
    for (method, headers) in [
        ("GET", vec![]),
        ("POST", vec![]),
        ("POST", vec![("content-type", "text/plain")]),
        ("DELETE", vec![("content-type", "application/json")]),
        ("PUT", vec![("transfer-encoding", "chunked")]),
    ] {
        let mut raw = Client::connect(setting.server.proxy()).await;
        let headers = [headers, vec![("Sidekey-Connection", "json")]].concat();
        let chunked = headers[0].0 == "transfer-encoding";
        raw.request(method, "/p", &headers, if chunked { "0\r\n\r\n" } else { "" }).await;
        assert_eq!(raw.response().await.status, 200, "{method} {headers:?}");
        let seen = setting.sink.next_request().await;
        assert_eq!((seen.method.as_str(), seen.text()), (method, document.clone()));
        assert_eq!(seen.header("content-type"), Some(JSON), "{method} {headers:?}");
        assert_eq!((seen.all("content-length").len(), seen.all("transfer-encoding").len()), (1, 0));
    }
    let reply = client::request(setting.server.proxy(), "POST", "/c/form", &[], "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let seen = setting.sink.next_request().await;
    assert_eq!(seen.header("content-type"), Some(FORM));
    assert!(seen.text().starts_with("api%20key=canary-"), "{}", seen.text());
    setting.finish().await;
}

#[tokio::test]
async fn bodies_in_pieces_and_over_http2_are_filled_too() {
    let setting = Setting::new().await;
    let expected = format!(r#"{{"a":1,"auth":{{"key":{}}}}}"#, setting.quoted());
    let mut raw = Client::connect(setting.server.proxy()).await;
    raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: json\r\nContent-Type: application/json\r\n")
        .await;
    raw.send("Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\n{\"a\r\n").await;
    raw.send("4\r\n\":1}\r\n0\r\nX-Sum: 1\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    let seen = setting.sink.next_request().await;
    assert_eq!((seen.text(), seen.header("transfer-encoding"), seen.trailers.len()), (expected.clone(), None, 0));
    let h2 = H2::connect(setting.server.proxy()).await;
    let headers = [("sidekey-connection", "json"), ("content-type", JSON)];
    assert_eq!(h2.request("POST", "/", &headers, r#"{"a":1}"#).await.status, 200);
    assert_eq!(setting.sink.next_request().await.text(), expected);
    setting.finish().await;
}

#[tokio::test]
async fn a_body_that_cannot_take_the_credential_is_refused_and_nothing_is_sent() {
    let setting = Setting::new().await;
    for (connection, content_type, body) in [
        ("json", "text/plain", "{}"),
        ("json", FORM, "a=1"),
        ("json", "multipart/form-data; boundary=x", "--x--"),
        ("json", "application/json", "{\"a\":1,\"a\":2}"),
        ("json", "application/json", "{\"x\":[{\"a\":1,\"\\u0061\":2}]}"),
        ("json", "application/json", "{\"a\":1}{}"),
        ("json", "application/json", "not json"),
        ("json", "application/json", "[1]"),
        ("json", "application/json", "{\"auth\":\"text\"}"),
        ("json", "application/json", "{\"auth\":[]}"),
        ("form", JSON, "{}"),
        ("form", "text/plain", "a=1"),
    ] {
        let reply = setting.post(connection, content_type, body).await;
        setting.refused(&reply, 415, "body_unsupported").await;
    }
    for (connection, content_type) in [("json", JSON), ("form", FORM)] {
        for encoding in ["gzip", "identity, br"] {
            let headers =
                [("Sidekey-Connection", connection), ("Content-Type", content_type), ("Content-Encoding", encoding)];
            let reply = client::request(setting.server.proxy(), "POST", "/", &headers, "\x1f\x7e").await;
            setting.refused(&reply, 415, "body_unsupported").await;
        }
        // A body without a declared type is of no known type.
        let headers = [("Sidekey-Connection", connection)];
        let reply = client::request(setting.server.proxy(), "POST", "/", &headers, "x").await;
        setting.refused(&reply, 415, "body_unsupported").await;
    }
    let reply = setting.post("json", JSON, b"{\"a\":\"\xff\"}").await;
    setting.refused(&reply, 415, "body_unsupported").await;
    assert_eq!(setting.sink.count(), 0);
    setting.finish().await;
}

#[tokio::test]
async fn a_body_is_held_up_to_its_limit_and_refused_beyond() {
    let setting = Setting::new().await;
    let fits = format!("a={}", "x".repeat((64 << 10) - 2));
    let seen = setting.sent("form", FORM, &fits).await;
    assert!(seen.text().starts_with(&fits) && seen.body.len() > 64 << 10);
    let reply = setting.post("form", FORM, format!("{fits}x")).await;
    setting.refused(&reply, 413, "body_too_large").await;

    // Without a length it is refused as soon as it has grown too large, not when it ends.
    let mut raw = Client::connect(setting.server.proxy()).await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: form\r\nContent-Type: {FORM}\r\n"))
        .await;
    raw.send("Transfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..3 {
        let piece = format!("{:x}\r\n{}\r\n", 32 << 10, "a".repeat(32 << 10));
        // The server may have answered and gone before the last piece.
        let _gone = raw.try_send(piece).await;
    }
    setting.refused(&raw.response().await, 413, "body_too_large").await;

    // A length that is too large is refused before a byte of the body has come.
    let mut raw = Client::connect(setting.server.proxy()).await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: json\r\nContent-Type: {JSON}\r\n"))
        .await;
    raw.send("Content-Length: 65537\r\n\r\n").await;
    setting.refused(&raw.response().await, 413, "body_too_large").await;
    assert_eq!(setting.sink.count(), 1);
    setting.finish().await;
}

#[tokio::test]
async fn the_size_of_held_bodies_is_configuration() {
    let (sink, key) = (Sink::https().await, Canary::new("body"));
    let server = Sidekey::with(|config| {
        config.to(&sink).api_key("form", "body", "key", key.text()).set("proxy.body_buffer", "16B");
    })
    .await;
    for (body, status) in [("a=12345678901234", 200), ("a=123456789012345", 413)] {
        let headers = [("Sidekey-Connection", "form"), ("Content-Type", FORM)];
        assert_eq!(client::request(server.proxy(), "POST", "/", &headers, body).await.status, status);
    }
    assert_eq!(sink.count(), 1);
    server.finish(&[&key]).await;
}
