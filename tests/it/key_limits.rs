//! Limits of API keys and of organizations: as many requests as they say, whoever makes them, and nothing spent by a
//! request that another limit refuses.

use std::time::Instant;

use serde_json::{Value, json};

use crate::api_keys::create;
use crate::harness::client::get;
use crate::harness::config::table;
use crate::harness::{Reply, Sidekey, Sink, problem};

async fn server(sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
        config.to(sink).bearer("api", "api-token").bearer("other", "other-token");
        config.bearer("slow", "slow-token");
        config.connection_key("limit", table(&[("per_second", 1.into()), ("burst", 3.into())]));
        config.set("proxy.usage_interval", "100ms");
    })
    .await
}

async fn ask(server: &Sidekey, key: &str, connection: &str) -> Reply {
    let headers = [("Sidekey-Connection", connection), ("Sidekey-Key", key)];
    let headers = if key.is_empty() { &headers[..1] } else { &headers[..] };
    let listener = usize::from(!key.is_empty());
    get(&server.proxies[listener], "/x", headers).await
}

/// How many of `count` requests pass; every other is refused by this limit.
async fn passed(server: &Sidekey, key: &str, connection: &str, count: usize, limit: &str) -> usize {
    let mut passed = 0;
    for _ in 0..count {
        let reply = ask(server, key, connection).await;
        match reply.status {
            200 => passed += 1,
            429 => assert_eq!(problem(&reply).body["limit"], limit),
            _ => panic!("{} {}", reply.status, reply.text()),
        }
    }
    passed
}

async fn keyed(server: &Sidekey, limits: Value) -> (String, String) {
    create(&server.admin(), json!({ "name": "limited", "limits": limits })).await
}

/// RL-03: one key's limit is nobody else's. RL-08: a lowered limit holds at once, and no change refills.
#[tokio::test]
async fn a_key_may_make_so_many_requests_over_all_connections_rl_03_rl_08() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let (id, key) = keyed(&server, json!({ "per_minute": 6, "per_hour": 1000 })).await;
    let (_, other) = keyed(&server, json!({ "per_minute": 60 })).await;
    let begun = Instant::now();
    assert_eq!(passed(&server, &key, "api", 4, "key_per_minute").await, 4);
    let rest = passed(&server, &key, "other", 6, "key_per_minute").await;
    // One comes back every ten seconds.
    let earned = begun.elapsed().as_secs() as usize / 10 + 1;
    assert!((2..=2 + earned).contains(&rest), "{rest}");
    let refused = loop {
        let reply = ask(&server, &key, "api").await;
        if reply.status == 429 {
            break reply;
        }
    };
    assert_eq!(refused.header("ratelimit-policy"), Some("\"key_per_minute\";q=6;w=60"));
    let wait: u64 = refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(refused.header("ratelimit"), Some(&*format!("\"key_per_minute\";r=0;t={wait}")));
    assert_eq!(refused.header("sidekey-error"), Some("rate_limited"));
    assert_eq!(passed(&server, &other, "api", 20, "key_per_minute").await, 20);
    let count = sink.count();
    // More a minute does not refill what was spent, nor does less.
    for limits in [json!({ "per_minute": 7 }), json!({ "per_minute": 1 }), json!({ "per_minute": 6 })] {
        server.admin().must("PUT", &format!("api-keys/{id}/limits"), limits).await;
        assert!(passed(&server, &key, "api", 5, "key_per_minute").await <= 1);
    }
    assert!(sink.count() - count <= 3 + begun.elapsed().as_secs() as usize / 10);
    server.admin().must("PUT", &format!("api-keys/{id}/limits"), json!({ "per_minute": null })).await;
    assert_eq!(passed(&server, &key, "api", 30, "key_per_minute").await, 30, "without a limit nothing is limited");
    server.admin().must("PUT", &format!("api-keys/{id}/limits"), json!({ "per_minute": 6 })).await;
    server.finish(&[]).await;
}

/// The sum of all callers, with keys and without.
#[tokio::test]
async fn an_organizations_ceiling_is_for_all_its_callers_together() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let admin = server.admin();
    admin.must("PUT", "organizations/default/limits", json!({ "per_hour": 12 })).await;
    let (_, one) = keyed(&server, json!({ "per_hour": 8 })).await;
    let (_, two) = keyed(&server, json!({})).await;
    assert_eq!(passed(&server, &one, "api", 10, "key_per_hour").await, 8);
    assert_eq!(passed(&server, &two, "api", 2, "organization_per_hour").await, 2);
    assert_eq!(passed(&server, "", "other", 5, "organization_per_hour").await, 2, "nor without a key");
    assert_eq!(passed(&server, &two, "other", 3, "organization_per_hour").await, 0);
    let refused = ask(&server, &two, "api").await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"organization_per_hour\";q=12;w=3600"));
    assert_eq!(sink.count(), 12);
    // It holds for the very next request once it is lifted, and is not refilled by being set again.
    admin.must("PUT", "organizations/default/limits", json!({ "per_hour": 12 })).await;
    assert_eq!(ask(&server, &two, "api").await.status, 429);
    admin.must("PUT", "organizations/default/limits", json!({})).await;
    assert_eq!(ask(&server, &two, "api").await.status, 200);
    server.finish(&[]).await;
}

/// A request that one limit refuses spends nothing of another. RL-09: nor does one that is refused before.
#[tokio::test]
async fn what_one_limit_refuses_spends_nothing_of_another_rl_09() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let admin = server.admin();
    admin.must("PUT", "organizations/default/limits", json!({ "per_hour": 60 })).await;
    let (_, key) = keyed(&server, json!({ "per_hour": 20 })).await;
    let scope = json!({ "connections": ["api"] });
    let (_, stranger) = create(&admin, json!({ "name": "stranger", "scope": scope })).await;
    let begun = Instant::now();
    let slow = passed(&server, &key, "slow", 30, "connection").await;
    assert!((3..=4 + begun.elapsed().as_secs() as usize).contains(&slow), "{slow}");
    let last = if key.ends_with('x') { 'y' } else { 'x' };
    let wrong = format!("{}{last}", &key[..73]);
    for _ in 0..30 {
        assert_eq!(ask(&server, &stranger, "slow").await.status, 404);
        assert_eq!(ask(&server, &wrong, "slow").await.status, 401);
    }
    // What the connection refused was not counted by the key, nor by the organization.
    assert_eq!(passed(&server, &key, "api", 30, "key_per_hour").await, 20 - slow);
    assert_eq!(passed(&server, &stranger, "api", 60, "organization_per_hour").await, 40);
    assert_eq!(sink.count(), 60);
    server.finish(&[]).await;
}

/// AK-11: noted in batches, far from any request; the caller is in the counters too.
#[tokio::test]
async fn when_a_key_was_used_last_is_noted_ak_11() {
    let sink = Sink::https().await;
    let server = server(&sink).await;
    let (id, key) = keyed(&server, json!({})).await;
    let shown = async || server.admin().get(&format!("api-keys/{id}")).await.json()["last_used_at"].clone();
    assert_eq!(shown().await, Value::Null);
    for _ in 0..20 {
        assert_eq!(ask(&server, &key, "api").await.status, 200);
    }
    let begun = Instant::now();
    let noted = loop {
        let noted = shown().await;
        if noted.is_string() {
            break noted;
        }
        assert!(begun.elapsed().as_secs() < 10, "it is not noted");
    };
    for _ in 0..20 {
        assert_eq!(ask(&server, &key, "api").await.status, 200);
    }
    let sample = format!("sidekey_caller_requests_total{{caller=\"{id}\"}}");
    while server.metric(&sample).await < 40.0 {
        assert!(begun.elapsed().as_secs() < 10, "they are not counted");
    }
    assert_eq!(shown().await, noted, "a row is written every ten seconds at most");
    server.finish(&[]).await;
}
