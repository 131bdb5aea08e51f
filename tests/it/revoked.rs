//! What is open is ended when its key, its connection or its credential is revoked, and by nothing less than that.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::{bearer, integration};
use crate::api_keys::create;
use crate::harness::sink::{Feed, Gate};
use crate::harness::wires::{Version, wires};
use crate::harness::{Client, Config, Raw, Reply, Script, Sidekey, Sink, problem, soon};

/// What ends soon after it was revoked; a test waits for that and for nothing else.
const SOON: &str = "50ms";

const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// An upstream of the run's version, and of HTTP/1.1 for WebSockets.
async fn sink() -> Sink {
    match wires().upstream {
        Version::Http1 => Sink::https1().await,
        Version::Http2 => Sink::https2().await,
    }
}

/// A server whose listener wants a key. With one worker, so that of two streams that are ended both are by the same one,
/// and what is still open when another stream was ended stays so.
async fn server(sink: &Sink, describe: impl FnOnce(&mut Config)) -> Sidekey {
    let server = Sidekey::with(|config| {
        config.listener("trust", "key").listener("environments", vec!["production", "staging"]);
        describe(config.set("proxy.threads", 1).to(sink));
    })
    .await;
    server.admin().must("POST", "integrations", integration("crm", bearer())).await;
    server
}

/// Who asks, and for what.
struct Party {
    id: String,
    key: String,
    connection: String,
}

impl Party {
    /// A new key and a new connection with a credential.
    async fn new(server: &Sidekey, connection: &str) -> Self {
        Self::with(server, connection, json!({ "name": connection })).await
    }

    async fn with(server: &Sidekey, connection: &str, key: Value) -> Self {
        let admin = server.admin();
        admin.must("POST", "connections", json!({ "key": connection, "integration": "crm" })).await;
        let environment = key["environment"].as_str().unwrap_or("production");
        let path = format!("connections/{connection}/credentials/{environment}");
        admin.must("PUT", &path, json!({ "token": "t" })).await;
        let (id, key) = create(&admin, key).await;
        Party { id, key, connection: connection.to_owned() }
    }

    fn headers(&self) -> [(&str, &str); 2] {
        [("Sidekey-Connection", &self.connection), ("Sidekey-Key", &self.key)]
    }

    fn head(&self, method: &str, path: &str) -> String {
        let [(_, connection), (_, key)] = self.headers();
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nSidekey-Connection: {connection}\r\nSidekey-Key: {key}\r\n"
        )
    }

    async fn ask(&self, server: &Sidekey) -> Reply {
        crate::harness::get(server.proxy(), "/", &self.headers()).await
    }
}

/// One stream of each kind, all of one party.
struct Streams {
    events: Client,
    feed: Feed,
    upload: Client,
    socket: Raw,
}

impl Streams {
    async fn open(server: &Sidekey, sink: &Sink, party: &Party) -> Self {
        let (script, feed) = Script::events();
        let path = |kind: &str| format!("/{}/{kind}", party.connection);
        sink.on(&path("events"), script).on(&path("upload"), Script::echo()).on(&path("ws"), Script::websocket());
        let mut events = Client::connect(server.proxy()).await;
        events.request("GET", &path("events"), &party.headers(), "").await;
        assert_eq!(events.head().await.status, 200);
        let mut upload = Client::connect(server.proxy()).await;
        upload.send(format!("{}Content-Length: 10\r\n\r\n01234", party.head("PUT", &path("upload")))).await;
        sink.request_where("the upload", |seen| seen.target == path("upload") && seen.body_length == 5).await;
        let mut socket = Raw::connect(server.proxy()).await;
        socket.send(format!("{}{UPGRADE}", party.head("GET", &path("ws")))).await;
        assert_eq!(socket.head().await.status, 101);
        Streams { events, feed, upload, socket }
    }

    /// Waits until all of them were ended, and gives the answer to the upload.
    async fn ended(mut self, case: &str) -> (u16, String) {
        loop {
            match self.events.try_piece().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{case}: a stream that was ended looks complete"),
                Err(_) => break,
            }
        }
        self.socket.closed().await;
        let answer = problem(&self.upload.response().await);
        (answer.status, answer.code)
    }

    /// Uses all of them to their ends.
    async fn go_on(mut self, case: &str) {
        self.feed.send("data: still\n\n");
        let piece = self.events.try_piece().await;
        assert!(matches!(&piece, Ok(Some(piece)) if piece.starts_with(b"data")), "{case}: {piece:?}");
        self.feed.close();
        assert_eq!(self.events.try_piece().await, Ok(None), "{case}");
        self.socket.send("x").await;
        assert_eq!(self.socket.exactly(1).await, b"x", "{case}");
        self.upload.send("56789").await;
        assert_eq!(self.upload.response().await.json()["body"], "0123456789", "{case}");
    }
}

/// Waits until a revocation has had its effect: a stream that rests on something else is ended.
async fn after_a_revocation(server: &Sidekey, sink: &Sink, name: &str) {
    let party = Party::new(server, name).await;
    let streams = Streams::open(server, sink, &party).await;
    assert_eq!(server.admin().call("POST", &format!("api-keys/{}/revoke", party.id), &[], None).await.status, 200);
    streams.ended(name).await;
}

/// AK-05, TN-08.
#[tokio::test]
async fn every_stream_ends_when_what_it_rests_on_is_revoked_and_others_go_on_ak_05() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", SOON);
    })
    .await;
    let admin = server.admin();
    let other = Party::new(&server, "other").await;
    let streams = Streams::open(&server, &sink, &other).await;
    let user = admin.must("POST", "users", json!({ "email": "ada@example.test", "roles": ["member"] })).await.json();
    let key = json!({ "name": "k" });
    let hers = json!({ "name": "k", "owner": user["id"] });
    let staging = json!({ "name": "k", "environment": "staging" });
    let cases = [
        ("revoke", &key, "POST", "api-keys/{key}/revoke", (401, "key_unknown")),
        ("suspend", &key, "POST", "api-keys/{key}/suspend", (401, "key_unknown")),
        ("disable", &hers, "POST", "users/ada@example.test/disable", (401, "key_unknown")),
        ("delete", &key, "DELETE", "connections/delete?force=true", (404, "connection_unknown")),
        ("remove", &key, "DELETE", "connections/remove/credentials/production", (424, "credential_missing")),
        ("all", &key, "POST", "connections/all/revoke", (424, "credential_missing")),
        ("staging", &staging, "DELETE", "connections/staging/credentials/staging", (424, "credential_missing")),
    ];
    for (name, key, method, path, told) in cases {
        let party = Party::with(&server, name, key.clone()).await;
        let streams = Streams::open(&server, &sink, &party).await;
        let body = (method == "POST").then(|| json!({}));
        let reply = admin.call(method, &path.replace("{key}", &party.id), &[], body).await;
        assert!(reply.status < 300, "{name}: {} {}", reply.status, reply.text());
        let (status, code) = streams.ended(name).await;
        assert_eq!((status, code.as_str()), told, "{name}");
        let refused = problem(&party.ask(&server).await);
        assert_eq!((refused.status, refused.code.as_str()), told, "{name}: the next request is told the same");
    }
    streams.go_on("another's").await;
    let lines = server.access_lines(cases.len() * 4 + 3).await;
    let revoked = lines.iter().filter(|line| line["reason"] == "revoked").count();
    assert_eq!(revoked, cases.len() * 3, "{lines:?}");
    let counted = server.metric("sidekey_refusals_total{code=\"revoked\"}").await;
    assert_eq!(counted, cases.len() as f64, "the uploads were answered");
    server.finish(&[]).await;
}

/// What makes the next request see something else, or refuses it for another reason, is no revocation.
#[tokio::test]
async fn a_changed_value_or_scope_ends_nothing() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", SOON);
    })
    .await;
    let admin = server.admin();
    let party = Party::new(&server, "crm").await;
    let streams = Streams::open(&server, &sink, &party).await;
    let key = format!("api-keys/{}", party.id);
    for environment in ["production", "staging"] {
        let path = format!("connections/crm/credentials/{environment}");
        admin.must("PUT", &path, json!({ "token": "another" })).await;
    }
    admin.must("POST", &format!("{key}/rotate"), json!({})).await;
    admin.must("PUT", &format!("{key}/scope"), json!({ "connections": ["nothing"] })).await;
    admin.must("PUT", "environments/staging", json!({ "name": "qa" })).await;
    admin.must("PUT", "connections/crm", json!({ "integration": "crm", "name": "Sales" })).await;
    assert_eq!(admin.delete("connections/crm/credentials/qa").await.status, 204);
    after_a_revocation(&server, &sink, "sentinel").await;
    streams.go_on("changed").await;
    server.finish(&[]).await;
}

/// Who begins after something was revoked rests on what is there then.
#[tokio::test]
async fn what_is_entered_anew_is_not_ended_by_what_was_revoked_before() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", "500ms");
    })
    .await;
    let (admin, party) = (server.admin(), Party::new(&server, "crm").await);
    let old = Streams::open(&server, &sink, &party).await;
    assert_eq!(admin.delete("connections/crm/credentials/production").await.status, 204);
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": "anew" })).await;
    let fresh = Party { connection: "crm".to_owned(), ..Party::new(&server, "unused").await };
    let (script, feed) = Script::events();
    sink.on("/fresh", script);
    let mut events = Client::connect(server.proxy()).await;
    events.request("GET", "/fresh", &fresh.headers(), "").await;
    assert_eq!(events.head().await.status, 200);
    old.ended("the old ones").await;
    feed.send("data: 1\n\n");
    assert!(matches!(events.try_piece().await, Ok(Some(_))), "the fresh one goes on");
    feed.close();
    server.finish(&[]).await;
}

#[tokio::test]
async fn what_is_no_longer_declared_ends_its_streams() {
    let sink = sink().await;
    let mut server = server(&sink, |config| {
        config.set("proxy.revoke_within", SOON).bearer("gone", "a").bearer("kept", "b");
    })
    .await;
    let (id, key) = create(&server.admin(), json!({ "name": "k" })).await;
    let [gone, kept] = ["gone", "kept"].map(|connection| Party {
        id: id.clone(),
        key: key.clone(),
        connection: connection.to_owned(),
    });
    let (gone, kept) = (Streams::open(&server, &sink, &gone).await, Streams::open(&server, &sink, &kept).await);
    server.reconfigure(|config| {
        config.begin_anew().listener("trust", "key").listener("environments", vec!["production", "staging"]);
        config.set("proxy.revoke_within", SOON).set("proxy.threads", 1).to(&sink).bearer("kept", "another");
    });
    server.sighup();
    assert_eq!(gone.ended("gone").await, (404, "connection_unknown".to_owned()));
    kept.go_on("kept").await;
    server.finish(&[]).await;
}

/// It is a second where nothing is configured.
#[tokio::test]
async fn streams_end_within_a_second_by_default() {
    let sink = sink().await;
    let server = server(&sink, |_| {}).await;
    let party = Party::new(&server, "crm").await;
    let streams = Streams::open(&server, &sink, &party).await;
    let before = Instant::now();
    assert_eq!(server.admin().delete("connections/crm").await.status, 204);
    streams.ended("by default").await;
    // Half of that is waited for; the rest is for a busy machine.
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
    server.finish(&[]).await;
}

#[tokio::test]
async fn never_lets_streams_end_by_themselves() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", "never");
    })
    .await;
    let party = Party::new(&server, "crm").await;
    let mut streams = Streams::open(&server, &sink, &party).await;
    assert_eq!(server.admin().delete("connections/crm").await.status, 204);
    assert_eq!(party.ask(&server).await.status, 404, "new requests are refused all the same");
    // For longer than by default.
    let quiet = tokio::time::timeout(Duration::from_millis(1200), streams.events.try_piece()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    streams.go_on("never").await;
    server.finish(&[]).await;
}

/// A client that takes nothing, and one that waits for its answer.
#[tokio::test]
async fn nothing_more_is_passed_on_to_who_was_revoked() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", SOON);
    })
    .await;
    let party = Party::new(&server, "crm").await;
    let gate = Gate::shut();
    sink.on("/late", Script::new().gate(&gate).answer(200, &[], "late"));
    sink.on("/large", Script::download(256 << 20));
    let mut late = Client::connect(server.proxy()).await;
    late.request("GET", "/late", &party.headers(), "").await;
    sink.request_where("the late one", |seen| seen.target == "/late").await;
    // Over HTTP/2 what a client does not take is hyper's, and rests until it takes it.
    let mut blocked = Raw::connect(server.proxy()).await;
    blocked.request("GET", "/large", &party.headers(), "").await;
    assert_eq!(blocked.head().await.status, 200);
    let large = sink.request_where("the large one", |seen| seen.target == "/large").await;
    after_a_revocation(&server, &sink, "sentinel").await;
    assert_eq!(server.admin().delete("connections/crm").await.status, 204);
    sink.given_up(&large).await;
    gate.open();
    let answer = problem(&late.response().await);
    assert_eq!((answer.status, answer.code.as_str()), (404, "connection_unknown"));
    server.finish(&[]).await;
}

/// An upload that goes on behind its answer.
#[tokio::test]
async fn an_upload_behind_its_answer_ends_too() {
    let sink = sink().await;
    let server = server(&sink, |config| {
        config.set("proxy.revoke_within", SOON);
    })
    .await;
    let party = Party::new(&server, "crm").await;
    sink.on("/early", Script::early(413, &[], "too much"));
    let mut client = Client::connect(server.proxy()).await;
    client.send(format!("{}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", party.head("POST", "/early"))).await;
    assert_eq!(client.response().await.status, 413);
    let seen = sink.request_where("the upload", |seen| seen.target == "/early" && seen.body_length == 5).await;
    assert_eq!(server.admin().delete("connections/crm").await.status, 204);
    soon("the end of the upload", sink.given_up(&seen)).await;
    server.finish(&[]).await;
}
