//! Limits: as many requests as a connection may send and not one more, whoever sends them and over whatever wire.
//!
//! Time passes while a test runs, and a bucket fills meanwhile: what may pass is reckoned from the time it took.

use std::time::Instant;

use serde_json::json;
use toml::Value;

use crate::harness::client::Address;
use crate::harness::client::h2::H2;
use crate::harness::config::table;
use crate::harness::sink::HOST;
use crate::harness::{Config, Raw, Reply, Script, Sidekey, Sink, get, problem};

fn limit(per_second: i64, burst: i64) -> Value {
    table(&[("per_second", per_second.into()), ("burst", burst.into())])
}

/// How many of the answers passed; every other is the refusal.
fn passed(replies: &[Reply]) -> usize {
    let refused = replies.iter().filter(|reply| reply.status != 200);
    for reply in refused {
        assert_eq!((reply.status, reply.header("sidekey-error")), (429, Some("rate_limited")), "{}", reply.text());
    }
    replies.iter().filter(|reply| reply.status == 200).count()
}

/// Sends `count` requests over several client connections at once, pipelined on each.
async fn burst(address: &Address, connection: &str, count: usize) -> Vec<Reply> {
    const CLIENTS: usize = 10;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Raw::connect(address).await);
    }
    for number in 0..count {
        let client = &mut clients[number % CLIENTS];
        client.request("GET", "/", &[("Sidekey-Connection", connection)], "").await;
    }
    let mut replies = Vec::new();
    for number in 0..count {
        replies.push(clients[number % CLIENTS].response().await);
    }
    replies
}

/// What a bucket of this rate has got since, at most.
fn earned(per_second: usize, since: Instant) -> usize {
    (since.elapsed().as_secs_f64() * per_second as f64).ceil() as usize
}

/// Asks until the limit is reached.
async fn refusal(address: &Address, connection: &str) -> Reply {
    loop {
        let reply = get(address, "/", &[("Sidekey-Connection", connection)]).await;
        if reply.status != 200 {
            return reply;
        }
    }
}

async fn loaded(server: &Sidekey, times: usize) {
    let is_load = |line: &&serde_json::Value| line["message"] == "the configuration was loaded again";
    server.process().log_lines_when("a load", |lines| lines.iter().filter(is_load).count() >= times).await;
}

fn limited(sink: &Sink, per_second: i64, burst: i64) -> impl FnOnce(&mut Config) {
    move |config| {
        config.to(sink).bearer("api", "api-token").connection_key("limit", limit(per_second, burst));
    }
}

/// RL-01, RL-11
#[tokio::test]
async fn rl_01_the_burst_passes_then_the_rate_and_nothing_else_reaches_the_upstream() {
    let sink = Sink::https().await;
    let server = Sidekey::with(limited(&sink, 10, 20)).await;
    let begin = Instant::now();
    let mut all = passed(&burst(&server.proxy(), "api", 200).await);
    assert!((20..=20 + earned(10, begin)).contains(&all), "{all}");
    // Asking on and on changes nothing about the rate.
    while begin.elapsed().as_millis() < 1_500 {
        all += passed(&burst(&server.proxy(), "api", 10).await);
        assert!(all <= 20 + earned(10, begin), "{all} after {:?}", begin.elapsed());
    }
    assert!(all >= 20 + 14, "{all}");
    assert_eq!(sink.count(), all, "what was refused was not sent");
    let refused = server.metric("sidekey_refusals_total{code=\"rate_limited\"}").await;
    assert!(refused > 100.0, "{refused}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn the_refusal_says_which_limit_and_when_to_come_again() {
    let sink = Sink::https().await;
    let server = Sidekey::with(limited(&sink, 1, 5)).await;
    let reply = refusal(&server.proxy(), "api").await;
    let since = Instant::now();
    let problem = problem(&reply);
    assert_eq!(problem.body["limit"], "connection");
    let mut headers: Vec<_> = reply.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).collect();
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("sidekey-request-id"));
    headers.sort();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        let answer = json!({ "status": reply.status, "headers": headers, "body": problem.snapshot });
        insta::assert_json_snapshot!("refusal_rate_limited", answer);
    });
    let line = server.access_line(&problem.request_id).await;
    assert_eq!((&line["status"], &line["reason"]), (&json!(429), &json!("rate_limited")));
    // What was promised is kept: nobody who has waited that long is refused.
    let promised: u64 = reply.header("retry-after").expect("Retry-After").parse().expect("seconds");
    loop {
        let has_waited = since.elapsed().as_secs() >= promised;
        if get(server.proxy(), "/", &[("Sidekey-Connection", "api")]).await.status == 200 {
            break;
        }
        assert!(!has_waited, "refused after {:?}", since.elapsed());
    }
    server.finish(&[]).await;
}

/// A forward-proxy client and one of HTTP/2 are told the same.
#[tokio::test]
async fn every_wire_is_counted_and_told() {
    let sink = Sink::https().await;
    let server = Sidekey::with(limited(&sink, 1, 30)).await;
    let begin = Instant::now();
    let client = H2::connect(server.proxy()).await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        let (stream, _sending) =
            client.open("GET", "/", &[("sidekey-connection", "api")], true).await.expect("a stream");
        streams.push(stream);
    }
    let mut replies = Vec::new();
    for stream in &mut streams {
        replies.push(stream.reply().await.expect("a response"));
    }
    let by_h2 = passed(&replies);
    assert!((30..=30 + earned(1, begin)).contains(&by_h2), "{by_h2}");
    let told = replies.iter().find(|reply| reply.status == 429).expect("a refusal");
    assert_eq!(told.header("ratelimit-policy"), Some("\"connection\";q=30;w=30"));
    assert_eq!((told.header("ratelimit"), told.header("retry-after")), (Some("\"connection\";r=0;t=1"), Some("1")));

    let by_h1 = passed(&burst(&server.proxy(), "api", 50).await);
    assert!(by_h2 + by_h1 <= 30 + earned(1, begin), "one limit for both wires: {by_h1}");
    let mut raw = Raw::connect(server.proxy()).await;
    let absolute = format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\nSidekey-Connection: api\r\n\r\n");
    loop {
        raw.send(&absolute).await;
        let reply = raw.response().await;
        if reply.status != 200 {
            assert_eq!((reply.status, problem(&reply).code.as_str()), (429, "rate_limited"));
            break;
        }
    }
    server.finish(&[]).await;
}

/// RL-03: who floods one connection takes nothing from another, not even of the same integration.
#[tokio::test]
async fn rl_03_each_connection_has_its_own_limit() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("default", "t1").integration_key("limit", limit(1, 4));
        let sibling = |key: &str| [("key", Value::from(key)), ("integration", "it-default".into())];
        config.connection(&sibling("sibling")).credential(&[("token", "t2")]);
        config.connection(&sibling("wider")).connection_key("limit", limit(1, 40)).credential(&[("token", "t3")]);
        config.none("free");
    })
    .await;
    let begin = Instant::now();
    let proxy = server.proxy();
    let flooded = passed(&burst(&proxy, "default", 100).await);
    assert!((4..=4 + earned(1, begin)).contains(&flooded), "the integration's limit: {flooded}");
    assert_eq!(passed(&burst(&proxy, "sibling", 2).await), 2, "half of its limit, beside a flood");
    let wider = passed(&burst(&proxy, "wider", 100).await);
    assert!((40..=40 + earned(1, begin)).contains(&wider), "the connection's own limit: {wider}");
    assert_eq!(passed(&burst(&proxy, "free", 100).await), 100);
    server.finish(&[]).await;
}

/// A connection by its id and by its key is one connection, although each name is looked up and cached by itself.
#[tokio::test]
async fn all_names_of_a_connection_share_its_limit() {
    let sink = Sink::https().await;
    let server = Sidekey::with(limited(&sink, 1, 30)).await;
    let id = server.admin().must("GET", "connections/api", json!(null)).await.json();
    let id = id["id"].as_str().expect("an id").to_owned();
    let begin = Instant::now();
    let all = passed(&burst(&server.proxy(), "api", 20).await) + passed(&burst(&server.proxy(), &id, 50).await);
    assert!((30..=30 + earned(1, begin)).contains(&all), "{all}");
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_reload_does_not_refill_whatever_it_changes() {
    let sink = Sink::https().await;
    let mut server = Sidekey::with(limited(&sink, 1, 30)).await;
    let begin = Instant::now();
    let mut all = passed(&burst(&server.proxy(), "api", 50).await);
    // Something else of the connection, then its limit: each makes a new route of it.
    for (times, (key, value)) in [("name", "Renamed".into()), ("limit", limit(1, 60))].into_iter().enumerate() {
        server.reconfigure(|config| {
            config.connection_key(key, value);
        });
        server.sighup();
        loaded(&server, times + 1).await;
        all += passed(&burst(&server.proxy(), "api", 50).await);
        assert!(all <= 30 + earned(1, begin), "{key}: {all}");
    }
    let told = refusal(&server.proxy(), "api").await;
    assert_eq!(
        told.header("ratelimit-policy"),
        Some("\"connection\";q=60;w=60"),
        "the new limit is the one that holds"
    );
    server.finish(&[]).await;
}

/// RL-08: a limit that is lowered, raised or taken away holds for the very next request.
#[tokio::test]
async fn rl_08_a_changed_limit_holds_at_once() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink);
    })
    .await;
    let admin = server.admin();
    let integration =
        json!({ "slug": "i", "base_url": format!("https://{HOST}"), "auth": [{ "method": "m", "type": "none" }] });
    admin.must("POST", "integrations", integration).await;
    admin.must("POST", "connections", json!({ "key": "api", "integration": "i" })).await;
    let set = async |limit: serde_json::Value| {
        admin.must("PUT", "connections/api", json!({ "key": "api", "integration": "i", "limit": limit })).await;
    };
    assert_eq!(passed(&burst(&server.proxy(), "api", 50).await), 50);
    set(json!({ "per_second": 1, "burst": 100 })).await;
    let mut begin = Instant::now();
    assert_eq!(passed(&burst(&server.proxy(), "api", 10).await), 10);
    set(json!({ "per_second": 1, "burst": 5 })).await;
    let lowered = passed(&burst(&server.proxy(), "api", 50).await);
    assert!((5..=5 + earned(1, begin)).contains(&lowered), "{lowered}");
    begin = Instant::now();
    set(json!({ "per_second": 1_000, "burst": 1_000 })).await;
    let raised = passed(&burst(&server.proxy(), "api", 50).await);
    assert!(raised <= 1 + earned(1_000, begin), "not a refill, only a faster one");
    admin.must("PUT", "connections/api", json!({ "key": "api", "integration": "i" })).await;
    assert_eq!(passed(&burst(&server.proxy(), "api", 50).await), 50);
    let zero = json!({ "key": "api", "integration": "i", "limit": { "per_second": 0 } });
    assert_eq!(admin.put("connections/api", zero).await.status, 422);
    server.finish(&[]).await;
}

/// RL-04: whoever sets the clock of the machine, to an hour ago or to tomorrow, fills no bucket and empties none. A test
/// cannot set it for one process without help from elsewhere, so what is looked at is which clock is asked.
#[test]
fn rl_04_limits_are_reckoned_on_a_clock_that_nobody_sets() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for file in ["directory/rate.rs", "directory/permit.rs", "admin/throttle.rs"] {
        let text = std::fs::read_to_string(folder.join(file)).expect("a source");
        assert!(text.contains("Instant"), "{file} has no clock at all");
        for settable in ["SystemTime", "UNIX_EPOCH", "clock::", "Moment", "chrono", "time_of_day"] {
            assert!(!text.contains(settable), "{file} asks a clock that can be set: {settable}");
        }
    }
}

/// RL-09: what is refused for another reason spends nothing of the limit.
#[tokio::test]
async fn rl_09_nobody_uses_up_a_limit_that_is_not_theirs() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        limited(&sink, 1, 5)(config);
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("connections", vec!["other"].into()),
        ]);
    })
    .await;
    for reply in burst(&server.proxies[1], "api", 50).await {
        assert_eq!(problem(&reply).code, "connection_unknown");
    }
    for _ in 0..20 {
        for (name, value, code) in [
            ("Sidekey-Upstream", "https://elsewhere.example.test", "host_not_allowed"),
            ("Sidekey-Environment", "staging", "environment_not_permitted"),
            ("Origin", "https://page.example.test", "browser_request"),
        ] {
            let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "api"), (name, value)]).await;
            assert_eq!(problem(&reply).code, code);
        }
    }
    assert_eq!(passed(&burst(&server.proxy(), "api", 5).await), 5);
    server.finish(&[]).await;
}

/// RL-10: an upstream's own refusal is its own: as it came, once, and told apart by having no `Sidekey-Error`.
#[tokio::test]
async fn rl_10_an_upstreams_own_limit_passes_untouched() {
    let sink = Sink::https().await;
    let server = Sidekey::with(limited(&sink, 100, 100)).await;
    for (status, wait) in [(429, "17"), (429, "Wed, 21 Oct 2026 07:28:00 GMT"), (503, "3")] {
        let fields = [("retry-after", wait), ("ratelimit", "\"upstream\";r=0;t=17"), ("x-ratelimit-remaining", "0")];
        sink.next(Script::respond(status, &fields, "slow down"));
        let before = sink.count();
        let reply = get(server.proxy(), "/", &[("Sidekey-Connection", "api")]).await;
        assert_eq!((reply.status, reply.text().as_str()), (status, "slow down"));
        for (name, value) in fields {
            assert_eq!(reply.header(name), Some(value));
        }
        assert_eq!((reply.header("sidekey-error"), reply.header("ratelimit-policy")), (None, None));
        assert_eq!(sink.count(), before + 1, "not sent again");
    }
    server.finish(&[]).await;
}
