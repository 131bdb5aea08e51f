//! Explaining: what would become of a request, and why; nothing is sent and nothing is spent.

use serde_json::{Value, json};

use crate::harness::admin::Admin;
use crate::harness::client::request;
use crate::harness::sink::HOST;
use crate::harness::{Canary, Reply, Sidekey, Sink, get, problem};

/// A server with one `local` listener that explains, one that does not, and one where keys are shown.
async fn server(sink: &Sink) -> Sidekey {
    Sidekey::with(|config| {
        config.to(sink).listener("explain", true);
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "local".into())]);
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
    })
    .await
}

/// An integration whose credential goes everywhere, and a connection `crm` of it.
async fn enter(admin: &Admin, token: &Canary) {
    let inject = json!([
        { "in": "header", "name": "Authorization", "value": "Bearer {{ token }}" },
        { "in": "header", "name": "X-Login", "value": "{{ token | base64 }}" },
        { "in": "query", "name": "key", "value": "{{ token }}" },
        { "in": "cookie", "name": "session", "value": "{{ token }}" },
    ]);
    let fields = json!([{ "name": "token", "secret": true }]);
    let document = json!({
        "slug": "crm", "base_url": format!("https://{HOST}/v1"), "limit": { "per_second": 1, "burst": 3 },
        "auth": [{ "method": "main", "type": "custom", "fields": fields, "inject": inject }],
    });
    admin.must("POST", "integrations", document).await;
    admin.must("POST", "connections", json!({ "key": "crm", "integration": "crm" })).await;
    admin.must("PUT", "connections/crm/credentials/production", json!({ "token": token.text() })).await;
}

/// What was decided, in order: about what, and whether it passed.
fn decisions(explanation: &Value) -> Vec<(&str, bool)> {
    let all = explanation["decisions"].as_array().expect("decisions");
    all.iter().map(|one| (one["about"].as_str().unwrap_or("?"), one["passed"] == true)).collect()
}

async fn over_api(admin: &Admin, order: Value) -> Value {
    admin.must("POST", "connections/crm/explain", order).await.json()
}

fn explained(reply: &Reply) -> Value {
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("sidekey-error"), None);
    reply.json()
}

#[tokio::test]
async fn what_would_be_sent_is_told_masked_and_nothing_is_sent() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let order = json!({ "method": "POST", "path": "/things?full=1", "environment": "production" });
    let explanation = over_api(&admin, order).await;
    assert_eq!((&explanation["permitted"], &explanation["refusal"]), (&json!(true), &Value::Null));
    assert_eq!(explanation["url"], format!("https://{HOST}/v1/things?full=1&key=***"));
    assert_eq!(
        explanation["injections"],
        json!([
            { "in": "header", "name": "authorization", "value": "Bearer ***" },
            { "in": "header", "name": "x-login", "value": explanation["injections"][1]["value"] },
            { "in": "query", "name": "key", "value": "***" },
            { "in": "cookie", "name": "session", "value": "***" },
        ])
    );
    let login = explanation["injections"][1]["value"].as_str().expect("a value");
    assert!(login.starts_with("***") && login.len() < 8, "{login}");
    let all = [("environment", true), ("connection", true), ("host", true), ("limits", true), ("credential", true)];
    assert_eq!(decisions(&explanation), all);
    let limit = &explanation["limits"][0];
    assert_eq!((&limit["of"], &limit["requests"], &limit["left"]), (&json!("connection"), &json!(3), &json!(3)));
    for _ in 0..5 {
        over_api(&admin, json!({ "environment": "production" })).await;
    }
    assert_eq!(sink.count(), 0);
    // All of the limit is still there.
    for _ in 0..3 {
        assert_eq!(get(server.proxy(), "/", &[("Sidekey-Connection", "crm")]).await.status, 200);
    }
    let spent = over_api(&admin, json!({ "environment": "production" })).await;
    assert_eq!((&spent["permitted"], &spent["refusal"]["code"]), (&json!(false), &json!("rate_limited")));
    assert_eq!(spent["limits"][0]["left"], 0);
    assert!(spent["limits"][0]["wait_ms"].as_u64().is_some_and(|wait| (1..=1000).contains(&wait)), "{spent}");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_refusal_is_told_with_the_rule_that_refused() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let missing = over_api(&admin, json!({ "environment": "staging" })).await;
    assert_eq!(decisions(&missing).last(), Some(&("credential", false)));
    assert_eq!(
        (&missing["refusal"]["status"], &missing["refusal"]["code"]),
        (&json!(424), &json!("credential_missing"))
    );
    let climbing = over_api(&admin, json!({ "environment": "production", "path": "/../x" })).await;
    assert_eq!(climbing["refusal"]["code"], "target_invalid");
    for wrong in
        [json!({ "path": "/a b" }), json!({ "method": "a b" }), json!({ "environment": "nowhere" }), json!({ "x": 1 })]
    {
        let reply = admin.post("connections/crm/explain", wrong.clone()).await;
        assert_eq!(reply.status, 422, "{wrong}");
    }
    assert_eq!(admin.post("connections/nobody/explain", json!({})).await.status, 404);
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_caller_asks_for_itself_where_its_key_allows_it() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    let admin = server.admin();
    enter(&admin, &token).await;
    let key = async |scope: Value| {
        let made =
            admin.must("POST", "api-keys", json!({ "name": "k", "environment": "production", "scope": scope })).await;
        made.json()["key"].as_str().expect("a key").to_owned()
    };
    let rules =
        json!({ "connections": ["crm"], "methods": ["GET"], "paths": ["/v1/me", "/v1/things/*"], "explain": true });
    let (may, may_not) = (key(rules).await, key(json!({ "connections": ["crm"] })).await);
    let keyed = &server.proxies[2];
    let ask = async |key: &str, method: &str, path: &str| {
        let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Key", key), ("Sidekey-Explain", "1")];
        request(keyed, method, path, &tags, "").await
    };
    let passes = explained(&ask(&may, "GET", "/things/7").await);
    assert_eq!(passes["permitted"], true, "{passes}");
    let rule = |explanation: &Value, about: &str| {
        let all = explanation["decisions"].as_array().expect("decisions").clone();
        all.into_iter().find(|one| one["about"] == about).unwrap_or_else(|| panic!("nothing about {about}"))
    };
    assert!(rule(&passes, "path")["rule"].as_str().is_some_and(|text| text.contains("/v1/things/*")), "{passes}");
    let by_path = explained(&ask(&may, "GET", "/secret").await);
    assert_eq!((&by_path["permitted"], &by_path["refusal"]["code"]), (&json!(false), &json!("not_permitted")));
    assert_eq!((&rule(&by_path, "path")["passed"], &rule(&by_path, "method")["passed"]), (&json!(false), &json!(true)));
    let by_method = explained(&ask(&may, "DELETE", "/me").await);
    assert_eq!(rule(&by_method, "method")["passed"], false);
    // What is not in its scope is told as what is not there.
    let outside = [("Sidekey-Connection", "other"), ("Sidekey-Key", &*may), ("Sidekey-Explain", "1")];
    let outside = explained(&request(keyed, "GET", "/me", &outside, "").await);
    assert_eq!((&outside["refusal"]["code"], &outside["url"]), (&json!("connection_unknown"), &Value::Null));

    let refused = problem(&ask(&may_not, "GET", "/me").await);
    assert_eq!((refused.status, refused.code.as_str()), (403, "not_permitted"));
    let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Explain", "1")];
    assert_eq!(problem(&get(keyed, "/me", &tags).await).code, "key_missing");
    assert_eq!(sink.count(), 0);
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn a_listener_says_whether_callers_without_a_key_may_ask() {
    let (sink, token) = (Sink::https().await, Canary::new("token"));
    let server = server(&sink).await;
    enter(&server.admin(), &token).await;
    let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Explain", "1")];
    assert_eq!(explained(&get(&server.proxies[0], "/me", &tags).await)["permitted"], true);
    assert_eq!(problem(&get(&server.proxies[1], "/me", &tags).await).status, 403);
    // A body is not waited for, and 0 sends as ever.
    let posted = request(&server.proxies[0], "POST", "/me", &tags, "some body").await;
    assert_eq!(explained(&posted)["method"], "POST");
    assert_eq!(sink.count(), 0);
    let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Explain", "0")];
    assert_eq!(get(&server.proxies[0], "/me", &tags).await.status, 200);
    let tags = [("Sidekey-Connection", "crm"), ("Sidekey-Explain", "yes")];
    assert_eq!(problem(&get(&server.proxies[0], "/me", &tags).await).code, "tag_malformed");
    assert_eq!(sink.count(), 1);
    server.finish(&[&token]).await;
}
