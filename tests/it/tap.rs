//! Requests are watched as they pass: what is told of them, to whom, for how long, and that nobody waits for who watches.

use std::time::SystemTime;

use serde_json::{Value, json};
use sidekey::model::moment::Moment;

use crate::api::{self, API};
use crate::api_keys::create;
use crate::harness::browser::user;
use crate::harness::client::h2::{Exchange, H2};
use crate::harness::client::{Address, archive};
use crate::harness::{Canary, Client, Config, Raw, Reply, Sidekey, Sink, get, problem, soon};

const PASSWORD: &str = "seven wise cranes";

/// An open tap.
struct Tap {
    stream: Stream,
    text: String,
    server: Address,
}

enum Stream {
    Http1(Box<Raw>),
    Http2(Box<Exchange>),
}

impl Tap {
    /// Opens one with the key the first start wrote.
    async fn open(server: &Sidekey, query: &str) -> Self {
        Self::with(server, query, &[("X-API-Key", &first_key(server))]).await
    }

    async fn with(server: &Sidekey, query: &str, headers: &[(&str, &str)]) -> Self {
        let mut raw = Raw::connect(&server.admin_address).await;
        raw.request("GET", &format!("/api/v1/tap{query}"), headers, "").await;
        let head = raw.head().await;
        Self::on(server, &head, Stream::Http1(Box::new(raw)))
    }

    /// Over HTTP/2, where what is not read holds up what is sent.
    async fn http2(server: &Sidekey) -> Self {
        let client = H2::connect(&server.admin_address).await;
        let opened = client.open("GET", "/api/v1/tap", &[("X-API-Key", &first_key(server))], true).await;
        let (mut exchange, _) = opened.expect("a stream");
        let head = exchange.head().await.expect("a head");
        Self::on(server, &head, Stream::Http2(Box::new(exchange)))
    }

    fn on(server: &Sidekey, head: &Reply, stream: Stream) -> Self {
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(head.header("cache-control"), Some("no-store"));
        Tap { stream, text: String::new(), server: server.admin_address.clone() }
    }

    async fn piece(&mut self) -> Option<Vec<u8>> {
        let piece = match &mut self.stream {
            Stream::Http1(raw) => raw.piece().await?,
            Stream::Http2(exchange) => exchange.piece().await.expect("a whole body")?.to_vec(),
        };
        archive::keep(&self.server, &piece);
        Some(piece)
    }

    /// What stands before the next empty line; `None` at the end of the stream.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let piece = self.piece().await?;
            self.text.push_str(std::str::from_utf8(&piece).expect("text"));
        }
    }

    /// The next event; `None` at the end of the stream.
    async fn event(&mut self) -> Option<(String, Value)> {
        // Comments come for as long as nothing else does.
        let block = soon("an event", self.told()).await?;
        let (event, data) = block.split_once('\n').expect("two lines");
        let field = |line: &str, name: &str| line.strip_prefix(name).expect("a field").to_owned();
        let data = serde_json::from_str(&field(data, "data: ")).expect("JSON");
        Some((field(event, "event: "), data))
    }

    /// The next block that is no comment.
    async fn told(&mut self) -> Option<String> {
        loop {
            let block = self.block().await?;
            if !block.starts_with(':') {
                return Some(block);
            }
        }
    }

    /// The next request that is told.
    async fn request(&mut self) -> Value {
        let (event, data) = self.event().await.expect("a stream that goes on");
        assert_eq!(event, "request", "{data}");
        data
    }

    /// Waits for the next request, and asserts which it is: those of two workers come in any order, so whoever expects
    /// one waits for it before the next.
    async fn is_told(&mut self, connection: &str, reason: Value) {
        let event = self.request().await;
        let named = event["connection"].as_str().unwrap_or_default();
        assert_eq!((named, &event["reason"]), (connection, &reason), "{event}");
    }

    /// Waits for the end of the stream, and gives the reason that is told.
    async fn end(mut self) -> String {
        loop {
            let (event, data) = self.event().await.expect("a reason before the end");
            if event == "end" {
                assert_eq!(self.event().await, None);
                return data["reason"].as_str().expect("a reason").to_owned();
            }
        }
    }
}

fn first_key(server: &Sidekey) -> String {
    std::fs::read_to_string(server.folder().join("admin.key")).expect("admin.key").trim().to_owned()
}

/// Asks for a connection that is not there; whoever watches is told so by its name.
async fn ask_for(server: &Sidekey, connection: &str) {
    assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await.status, 404);
}

/// AD-19: it is a call like the others, which a page of somebody else's cannot open.
#[tokio::test]
async fn nobody_watches_who_may_not_ask_ad_19() {
    let server = Sidekey::with(|_| {}).await;
    let foreign = [("X-API-Key", &*first_key(&server)), ("Origin", "http://evil.test")];
    for (headers, status) in [(&[][..], 401), (&[("X-API-Key", "apk_x")], 401), (&foreign, 403)] {
        let mut raw = Raw::connect(&server.admin_address).await;
        raw.request("GET", "/api/v1/tap", headers, "").await;
        assert_eq!(raw.response().await.status, status, "{headers:?}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_request_is_told_as_its_access_line_and_nothing_else() {
    let sink = Sink::https().await;
    let (told, untold) = (Canary::new("token"), ["in-the-path", "in-the-query", "in-a-header", "in-the-body"]);
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("api", told.text());
    })
    .await;
    let mut tap = Tap::open(&server, "").await;
    assert!(tap.block().await.is_some_and(|first| first.starts_with(':')), "it is open before anything passes");
    let headers = [API, ("Sidekey-Workflow", "nightly"), ("X-Extra", untold[2])];
    let target = format!("/{}?q={}", untold[0], untold[1]);
    let mut client = Client::connect(server.proxy()).await;
    client.request("POST", &target, &headers, untold[3]).await;
    assert_eq!(client.response().await.status, 200);
    ask_for(&server, "nope").await;
    let events = [tap.request().await, tap.request().await];
    assert_ne!(events[0]["request_id"], events[1]["request_id"]);
    for event in events {
        let id = event["request_id"].as_str().expect("an id");
        assert_eq!(event, server.access_line(id).await);
        assert!(untold.iter().all(|untold| !event.to_string().contains(untold)), "{event}");
    }
    server.finish(&[&told]).await;
}

#[tokio::test]
async fn what_is_told_does_not_depend_on_the_log() {
    for (key, value) in [("log.access", toml::Value::from(false)), ("log.format", "human".into())] {
        let sink = Sink::https().await;
        let server = api::with(&sink, |config| {
            config.set(key, value);
        })
        .await;
        let mut tap = Tap::open(&server, "").await;
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        let event = tap.request().await;
        let said = (&event["target"], &event["connection"], &event["environment"], &event["status"]);
        assert_eq!(said, (&json!("access"), &json!("api"), &json!("production"), &json!(200)), "{key}");
        server.finish(&[]).await;
    }
}

/// One organization's requests are no other's, whether they were admitted or refused.
#[tokio::test]
async fn an_organization_sees_its_own_requests_only() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    let of_acme = async |document: Value| {
        let made = admin.must("POST", "api-keys?organization=acme", document).await.json();
        ["id", "key"].map(|name| made[name].as_str().expect("a text").to_owned())
    };
    let [caller_id, caller] = of_acme(json!({ "name": "caller" })).await;
    let [_, theirs] = of_acme(json!({ "name": "theirs", "roles": ["org_admin"] })).await;
    let mut ours = Tap::open(&server, "").await;
    let mut of_theirs = Tap::with(&server, "", &[("X-API-Key", &theirs)]).await;
    let mut from_above = Tap::open(&server, "?organization=acme").await;
    // Admitted, refused at a listener of ours, refused with a key of theirs, refused with a key of nobody's.
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    ours.is_told("api", Value::Null).await;
    ask_for(&server, "ours").await;
    ours.is_told("ours", json!("connection_unknown")).await;
    let with_key = async |key: &str| {
        get(&server.proxies[1], "/", &[("Sidekey-Connection", "theirs"), ("Sidekey-Key", key)]).await.status
    };
    assert_eq!(with_key(&caller).await, 404);
    let nobodys = format!("apk_01j00000000000000000000000_{}", "a".repeat(43));
    assert_eq!(with_key(&nobodys).await, 401);
    ours.is_told("", json!("key_unknown")).await;
    assert_eq!(with_key(&caller).await, 404);
    for tap in [&mut of_theirs, &mut from_above] {
        for _ in 0..2 {
            let event = tap.request().await;
            assert_eq!((&event["connection"], &event["caller"]), (&json!("theirs"), &json!(caller_id)), "{event}");
        }
    }
    let refused = problem(&admin.with_key(&theirs).get("tap?organization=default").await);
    assert_eq!(refused.status, 404);
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_connection_is_watched_alone() {
    let sink = Sink::https().await;
    let server = api::with(&sink, |config| {
        config.bearer("other", "t");
    })
    .await;
    let id = server.admin().get("connections/api").await.json()["id"].clone();
    let id = id.as_str().expect("an id").to_owned();
    for (query, mut tap) in [
        ("the key", Tap::open(&server, "?connection=api").await),
        ("the id", Tap::open(&server, &format!("?connection={id}")).await),
    ] {
        for connection in ["other", "api", "nope"] {
            get(server.proxy(), "/", &[("Sidekey-Connection", connection)]).await;
        }
        let admitted = tap.request().await;
        // Refused: it names an environment that nobody may name here.
        let refused = [("Sidekey-Connection", id.as_str()), ("Sidekey-Environment", "nowhere")];
        assert_eq!(get(server.proxy(), "/", &refused).await.status, 403);
        let refused = tap.request().await;
        assert_eq!((&admitted["connection"], &admitted["status"]), (&json!("api"), &json!(200)), "{query}");
        assert_eq!((&refused["connection"], &refused["status"]), (&json!(id), &json!(403)), "{query}");
    }
    for (query, status) in [("connection=nope", 404), ("connection=api&customer=acme", 404), ("akteur=x", 422)] {
        assert_eq!(server.admin().get(&format!("tap?{query}")).await.status, status, "{query}");
    }
    server.finish(&[]).await;
}

/// Whoever loses what let them in sees nothing more.
#[tokio::test]
async fn a_tap_ends_with_what_it_was_opened_by() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    for (name, method, path, body) in [
        ("revoked", "POST", "api-keys/{id}/revoke", json!({})),
        ("suspended", "POST", "api-keys/{id}/suspend", json!({})),
        ("other roles", "PUT", "api-keys/{id}", json!({ "name": "n", "roles": ["editor"] })),
        ("another secret", "POST", "api-keys/{id}/rotate", json!({})),
        ("expired", "GET", "roles", Value::Null),
    ] {
        let expires_at = (name == "expired").then(soon_over);
        let key = json!({ "name": name, "roles": ["org_admin"], "expires_at": expires_at });
        let (id, key) = create(&admin, key).await;
        let tap = Tap::with(&server, "", &[("Authorization", &format!("Bearer {key}"))]).await;
        let body = (!body.is_null()).then_some(body);
        let reply = admin.call(method, &path.replace("{id}", &id), &[], body).await;
        assert!(reply.status < 300, "{name}: {}", reply.text());
        assert_eq!(tap.end().await, "not_permitted", "{name}");
    }
    for (name, path, method) in [
        ("disabled", "users/{address}/disable", "POST"),
        ("signed out", "users/{address}/sessions", "DELETE"),
        ("deleted", "users/{address}", "DELETE"),
    ] {
        let address = format!("{}@example.test", name.replace(' ', "-"));
        let browser = user(&server, &address, "org_admin", PASSWORD).await;
        let cookie = format!("sidekey-session={}", browser.cookie("sidekey-session").expect("a session"));
        let tap = Tap::with(&server, "", &[("Cookie", &cookie), ("Sec-Fetch-Site", "same-origin")]).await;
        let reply = admin.call(method, &path.replace("{address}", &address), &[], None).await;
        assert!(reply.status < 300, "{name}: {}", reply.text());
        assert_eq!(tap.end().await, "not_permitted", "{name}");
    }
    // Nor does a super admin go on seeing an organization that is gone.
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    let tap = Tap::open(&server, "?organization=acme").await;
    assert_eq!(admin.delete("organizations/acme").await.status, 204);
    assert_eq!(tap.end().await, "not_permitted");
    server.finish(&[]).await;
}

/// A moment that is over soon: late enough that a key can be made with it.
fn soon_over() -> Moment {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Moment::from_milliseconds(i64::try_from(now.as_millis()).expect("a moment") + 2_000)
}

#[tokio::test]
async fn a_session_that_only_watches_is_not_in_use() {
    let server = Sidekey::with(|config| {
        config.set("admin.sessions.idle", "1s");
    })
    .await;
    let browser = user(&server, "ada@example.test", "org_admin", PASSWORD).await;
    let cookie = format!("sidekey-session={}", browser.cookie("sidekey-session").expect("a session"));
    let tap = Tap::with(&server, "", &[("Cookie", &cookie)]).await;
    assert_eq!(tap.end().await, "not_permitted", "it ends as if nobody watched");
    server.finish(&[]).await;
}

#[tokio::test]
async fn who_reads_too_slowly_misses_some_and_is_told_how_many() {
    const REQUESTS: usize = 5_000;
    let server = Sidekey::with(|config: &mut Config| {
        config.set("log.access", false);
    })
    .await;
    let mut tap = Tap::http2(&server).await;
    let mut client = Raw::connect(server.proxy()).await;
    for _ in 0..REQUESTS {
        client.request("GET", "/", &[("Sidekey-Connection", "nope")], "").await;
        assert_eq!(client.response().await.status, 404);
    }
    let (mut shown, mut dropped) = (0, 0);
    while shown + dropped < REQUESTS {
        match tap.event().await.expect("a stream that goes on") {
            (event, data) if event == "dropped" => {
                dropped += usize::try_from(data["count"].as_u64().expect("a number")).expect("a small one");
            }
            (event, _) => {
                assert_eq!(event, "request");
                shown += 1;
            }
        }
    }
    assert_eq!(shown + dropped, REQUESTS);
    assert!(dropped > 0, "{shown}");
    // From here on it keeps up.
    ask_for(&server, "now").await;
    assert_eq!(tap.request().await["connection"], "now");
    server.finish(&[]).await;
}

#[tokio::test]
async fn so_many_are_open_at_once_and_one_that_is_left_gives_its_place_back() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let mut taps = Vec::new();
    for _ in 0..8 {
        taps.push(Tap::open(&server, "").await);
    }
    let refused = admin.get("tap").await;
    let told = problem(&refused);
    assert_eq!((told.status, told.code.as_str()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("15"));
    admin.must("POST", "organizations", json!({ "key": "acme" })).await;
    for _ in 0..8 {
        taps.push(Tap::open(&server, "?organization=acme").await);
    }
    admin.must("POST", "organizations", json!({ "key": "another" })).await;
    assert_eq!(admin.get("tap?organization=another").await.status, 429);
    // Who has gone is noticed when something is sent to them.
    taps.swap_remove(0);
    let placed = async {
        while admin.get("tap").await.status == 429 {
            ask_for(&server, "nope").await;
        }
    };
    soon("a place", placed).await;
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_server_that_stops_waits_for_nobody_who_watches() {
    let mut server = Sidekey::with(|_| {}).await;
    let (tap, silent) = (Tap::open(&server, "").await, Tap::open(&server, "").await);
    server.sigterm();
    assert_eq!(tap.end().await, "draining");
    assert_eq!(server.wait_exit().await.code(), Some(0));
    drop(silent);
    server.finish(&[]).await;
}

#[tokio::test]
async fn that_a_tap_is_opened_is_audited() {
    let sink = Sink::https().await;
    let server = api::before(&sink).await;
    let admin = server.admin();
    let connection = admin.get("connections/api").await.json()["id"].clone();
    let organization = admin.get("organizations/default").await.json()["id"].clone();
    for (query, object) in [("", organization), ("?connection=api", connection)] {
        let tap = Tap::open(&server, query).await;
        let newest = admin.get("audit?limit=1").await.json()["items"][0].clone();
        assert_eq!((&newest["action"], &newest["object"]), (&json!("tap.open"), &object));
        assert_eq!(newest["address"], "127.0.0.1");
        drop(tap);
    }
    server.finish(&[]).await;
}
