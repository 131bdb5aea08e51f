//! API keys on the proxy port: who may ask, how a key narrows what a listener allows, and that no spelling gets round a
//! rule. What a key is refused is told the same as everybody else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api_keys::create;
use crate::harness::client::h2::H2;
use crate::harness::client::{get, http1, request};
use crate::harness::{Canary, Config, Raw, Reply, Sidekey, Sink, problem};

/// The listener that trusts its network, and the one that wants a key.
const LOCAL: usize = 0;
const KEYED: usize = 1;

/// A server with both listeners before a sink, its first connection `api`.
async fn server(sink: &Sink, describe: impl FnOnce(&mut Config)) -> Sidekey {
    Sidekey::with(|config| {
        config.add_listener(&[("address", "127.0.0.1:0".into()), ("trust", "key".into())]);
        config.to(sink).bearer("api", "api-token");
        describe(config);
    })
    .await
}

/// A key for the proxy port with this scope.
async fn caller(server: &Sidekey, scope: Value) -> (String, String) {
    create(&server.admin(), json!({ "name": "caller", "scope": scope })).await
}

async fn ask(server: &Sidekey, listener: usize, key: &str, headers: &[(&str, &str)]) -> Reply {
    let headers = [headers, &[("Sidekey-Connection", "api"), ("Sidekey-Key", key)]].concat();
    get(&server.proxies[listener], "/x", &headers).await
}

fn told(reply: &Reply) -> (u16, &str) {
    (reply.status, reply.header("sidekey-error").unwrap_or_default())
}

/// An answer of Sidekey's own, without what differs between two answers that are the same.
fn sameness(reply: &Reply) -> (u16, Vec<(String, String)>, Value) {
    let fields = reply.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
    let fields = fields.filter(|(name, _)| !matches!(name.as_str(), "sidekey-request-id" | "date")).collect();
    (reply.status, fields, problem(reply).snapshot)
}

/// CO-05, of keys that hold.
#[tokio::test]
async fn a_key_is_taken_wherever_it_may_stand_and_never_goes_on_ak_01() {
    let sink = Sink::https().await;
    let server = server(&sink, |_| {}).await;
    let (id, key) = caller(&server, json!({})).await;
    let bearer = format!("Bearer {key}");
    for headers in [
        vec![("Sidekey-Key", key.as_str())],
        vec![("X-API-Key", key.as_str())],
        vec![("Authorization", bearer.as_str())],
        vec![("Authorization", bearer.as_str()), ("X-API-Key", "theirs"), ("Sidekey-Key", key.as_str())],
    ] {
        let headers = [&headers[..], &[("Sidekey-Connection", "api")]].concat();
        let reply = get(&server.proxies[KEYED], "/x", &headers).await;
        assert_eq!(reply.status, 200, "{headers:?} {}", reply.text());
    }
    let login = format!("Basic {}", STANDARD.encode(format!("api:{key}")));
    let reply =
        http1(&server.proxies[KEYED], "GET", "http://api.example.test/x", &[("Proxy-Authorization", &login)], "").await;
    assert_eq!(reply.status, 200);
    let secret = &key[31..];
    for seen in sink.requests() {
        let all = seen.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("\n");
        assert!(!all.contains(secret) && !all.contains(&id), "{all}");
        assert_eq!(seen.header("authorization"), Some("Bearer api-token"));
    }
    let lines = server.access_lines(5).await;
    assert!(lines.iter().all(|line| line["caller"] == *id), "{lines:?}");
    let text = server.metrics().await;
    assert!(!text.contains(secret));
    assert!(!server.process().stderr().contains(secret));
    // Without a key the local listener serves on, and says so.
    assert_eq!(get(&server.proxies[LOCAL], "/x", &[("Sidekey-Connection", "api")]).await.status, 200);
    assert_eq!(server.access_lines(6).await[5]["caller"], "local");
    server.finish(&[]).await;
}

/// CONTRACT §2.6: 401 with Bearer, in absolute-form 407 with Basic; every invalid key is told the same. AK-02, AK-07
#[tokio::test]
async fn every_key_that_is_not_valid_is_told_the_same_ak_02_ak_07() {
    let sink = Sink::https().await;
    let server = server(&sink, |_| {}).await;
    let admin = server.admin();
    let missing = get(&server.proxies[KEYED], "/x", &[("Sidekey-Connection", "api")]).await;
    assert_eq!(told(&missing), (401, "key_missing"));
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    let (_, good) = caller(&server, json!({})).await;
    let (_, other) = caller(&server, json!({})).await;
    let (revoked, revoked_key) = caller(&server, json!({})).await;
    let (suspended, suspended_key) = caller(&server, json!({})).await;
    let (_, not_a_caller) = create(&admin, json!({ "name": "admin", "roles": ["org_admin"] })).await;
    let soon = json!({ "name": "soon", "expires_at": (sidekey::model::moment::Moment::now().after(std::time::Duration::from_millis(1500))) });
    let (_, expired) = create(&admin, soon).await;
    for key in [&good, &other, &revoked_key, &suspended_key, &expired] {
        assert_eq!(ask(&server, KEYED, key, &[]).await.status, 200);
    }
    admin.call("POST", &format!("api-keys/{revoked}/revoke"), &[], None).await;
    admin.call("POST", &format!("api-keys/{suspended}/suspend"), &[], None).await;
    let begun = std::time::Instant::now();
    while ask(&server, KEYED, &expired, &[]).await.status == 200 {
        assert!(begun.elapsed().as_secs() < 5, "it does not expire");
    }
    let before = sink.count();
    let last = if good.ends_with('A') { 'B' } else { 'A' };
    let first = ask(&server, KEYED, "apk_", &[]).await;
    assert_eq!(told(&first), (401, "key_unknown"));
    insta::assert_json_snapshot!("key_unknown", problem(&first).snapshot);
    // Not longer than a head may be over HTTP/2.
    let long = format!("apk_{}", "a".repeat(10_000));
    for key in [
        revoked_key.as_str(),
        &suspended_key,
        &expired,
        &not_a_caller,
        &format!("{}{last}", &good[..good.len() - 1]),
        &format!("apk_{}{}", "0".repeat(26), &good[30..]),
        &format!("{}{}", &good[..31], &other[31..]),
        "apk__",
        "apk_1_",
        &format!("{good}_"),
        &format!("{good}x"),
        &good[..73],
        &long,
    ] {
        let reply = ask(&server, KEYED, key, &[]).await;
        assert_eq!(sameness(&reply), sameness(&first), "{}", &key[..key.len().min(80)]);
    }
    assert_eq!(told(&ask(&server, LOCAL, &revoked_key, &[]).await), (401, "key_unknown"), "also where none is needed");
    for (login, code) in [(format!("api:{revoked_key}"), "key_unknown"), ("api:".to_owned(), "key_missing")] {
        let login = format!("Basic {}", STANDARD.encode(login));
        let absolute =
            http1(&server.proxies[KEYED], "GET", "http://api.example.test/", &[("Proxy-Authorization", &login)], "")
                .await;
        assert_eq!((absolute.status, absolute.header("proxy-authenticate")), (407, Some("Basic realm=\"sidekey\"")));
        assert_eq!(problem(&absolute).code, code);
    }
    let two = [("Sidekey-Connection", "api"), ("Sidekey-Key", good.as_str()), ("X-API-Key", revoked_key.as_str())];
    assert_eq!(told(&get(&server.proxies[KEYED], "/x", &two).await), (400, "tag_conflict"));
    assert_eq!(sink.count(), before, "nothing was sent");
    assert_eq!(ask(&server, KEYED, &good, &[]).await.status, 200);
    server.finish(&[]).await;
}

/// AK-04: also on connections that are open, and for streams of HTTP/2.
#[tokio::test]
async fn a_revoked_key_refuses_the_very_next_request_everywhere_ak_04() {
    const CLIENTS: usize = 50;
    let sink = Sink::https().await;
    let server = server(&sink, |_| {}).await;
    let (id, key) = caller(&server, json!({})).await;
    let headers = [("Sidekey-Connection", "api"), ("Sidekey-Key", key.as_str())];
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Raw::connect(&server.proxies[KEYED]).await;
        client.request("GET", "/x", &headers, "").await;
        assert_eq!(client.response().await.status, 200);
        clients.push(client);
    }
    let h2 = H2::connect(&server.proxies[KEYED]).await;
    assert_eq!(h2.get("/x", &headers).await.status, 200);
    let before = sink.count();
    assert_eq!(server.admin().call("POST", &format!("api-keys/{id}/revoke"), &[], None).await.status, 200);
    for client in &mut clients {
        client.request("GET", "/x", &headers, "").await;
        assert_eq!(told(&client.response().await), (401, "key_unknown"));
    }
    assert_eq!(told(&h2.get("/x", &headers).await), (401, "key_unknown"));
    assert_eq!(sink.count(), before);
    server.finish(&[]).await;
}

/// TN-02: what a key may not use is told as what does not exist.
#[tokio::test]
async fn a_foreign_connection_is_told_as_none_tn_02() {
    let sink = Sink::https().await;
    let secret = Canary::new("theirs");
    let server = server(&sink, |config| {
        config.bearer("hidden", secret.text());
    })
    .await;
    let admin = server.admin();
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let (_, narrow) = caller(&server, json!({ "connections": ["api", "crm-*"] })).await;
    let theirs = admin.must("POST", "api-keys?organization=other", json!({ "name": "theirs" })).await.json();
    let theirs = theirs["key"].as_str().expect("a key");
    let before = sink.count();
    let ask = async |key: &str, connection: &str| {
        get(&server.proxies[KEYED], "/x", &[("Sidekey-Connection", connection), ("Sidekey-Key", key)]).await
    };
    let unknown = ask(&narrow, "no-such").await;
    assert_eq!(told(&unknown), (404, "connection_unknown"));
    let nobodys = "conn_01jabcdefghjkmnpqrstvwxyz0";
    for (key, connection) in [
        (&*narrow, "hidden"),
        (&narrow, "crm-eu"),
        (&narrow, nobodys),
        (theirs, "api"),
        (theirs, "hidden"),
        (theirs, nobodys),
    ] {
        assert_eq!(sameness(&ask(key, connection).await), sameness(&unknown), "{connection}");
    }
    let customer = [("Sidekey-Connection", "api"), ("Sidekey-Key", &*narrow), ("Sidekey-Customer", "acme")];
    assert_eq!(sameness(&get(&server.proxies[KEYED], "/x", &customer).await), sameness(&unknown));
    // At a listener that trusts its network, another organization's key is as unknown as any.
    let foreign = get(&server.proxies[LOCAL], "/x", &[("Sidekey-Connection", "api"), ("Sidekey-Key", theirs)]).await;
    assert_eq!(told(&foreign), (401, "key_unknown"));
    assert_eq!(sink.count(), before);
    assert_eq!(ask(&narrow, "api").await.status, 200);
    server.finish(&[&secret]).await;
}

#[tokio::test]
async fn a_glob_of_a_key_names_ids_only_where_it_begins_as_they_do() {
    let sink = Sink::https().await;
    let server = server(&sink, |_| {}).await;
    let shown = server.admin().get("connections/api").await.json();
    let id = shown["id"].as_str().expect("an id");
    let by_id = format!("{}*", &id[..20]);
    for (glob, status) in [("co*", 404), ("*_0*", 404), ("conn*", 404), ("conn_*", 200), (&*by_id, 200), (id, 200)] {
        let (_, key) = caller(&server, json!({ "connections": [glob] })).await;
        let reply = get(&server.proxies[KEYED], "/x", &[("Sidekey-Connection", "api"), ("Sidekey-Key", &key)]).await;
        assert_eq!(reply.status, status, "{glob}");
    }
    // So whoever has such a glob gives nobody an id.
    let makes = json!({ "name": "makes", "roles": ["org_admin", "caller"], "scope": { "connections": ["co*"] } });
    let makes = server.admin().with_key(&create(&server.admin(), makes).await.1);
    for (glob, status) in [(id, 403), ("conn_*", 403), ("*", 403), ("cox-*", 201)] {
        let made = makes.post("api-keys", json!({ "name": "made", "scope": { "connections": [glob] } })).await;
        assert_eq!(made.status, status, "{glob}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_key_narrows_what_a_listener_allows() {
    let sink = Sink::https().await;
    let server = server(&sink, |config| {
        config.listener("connections", vec!["api", "crm"]).listener("environments", vec!["production", "staging"]);
        config.environment("staging").credential(&[("token", "staging-token")]);
        config.environment("production").bearer("crm", "crm-token").bearer("mail", "mail-token");
    })
    .await;
    let ask = async |listener: usize, key: &str, connection: &str, environment: Option<&str>| {
        let mut headers = vec![("Sidekey-Connection", connection), ("Sidekey-Key", key)];
        headers.extend(environment.map(|name| ("Sidekey-Environment", name)));
        let reply = get(&server.proxies[listener], "/x", &headers).await;
        (reply.status, reply.header("sidekey-error").unwrap_or_default().to_owned())
    };
    let ok = (200, String::new());
    let unknown = (404, "connection_unknown".to_owned());
    let (_, wide) = caller(&server, json!({})).await;
    let (_, mail) = caller(&server, json!({ "connections": ["mail", "crm"] })).await;
    assert_eq!(ask(LOCAL, &wide, "api", None).await, ok);
    assert_eq!(ask(LOCAL, &wide, "mail", None).await, unknown, "the listener's bounds hold");
    assert_eq!(ask(LOCAL, &mail, "crm", None).await, ok);
    assert_eq!(ask(LOCAL, &mail, "api", None).await, unknown, "and the key's");
    assert_eq!(ask(KEYED, &mail, "mail", None).await, ok);
    // Environments: the request's, else the key's, else the listener's; what may be named is one list inside the other.
    let create = async |document: Value| create(&server.admin(), document).await.1;
    let staging = create(json!({ "name": "staging", "environment": "staging" })).await;
    let both = create(json!({ "name": "both", "scope": { "environments": ["staging", "production"] } })).await;
    let other = create(json!({ "name": "other", "environment": "development" })).await;
    let forbidden = (403, "environment_not_permitted".to_owned());
    for (listener, key, environment, expected) in [
        (LOCAL, &staging, None, &ok),
        (LOCAL, &staging, Some("staging"), &ok),
        (LOCAL, &staging, Some("production"), &forbidden),
        (KEYED, &staging, None, &ok),
        (KEYED, &staging, Some("production"), &forbidden),
        (KEYED, &wide, None, &ok),
        (KEYED, &wide, Some("staging"), &forbidden),
        (KEYED, &both, Some("staging"), &ok),
        (KEYED, &both, None, &ok),
        (LOCAL, &both, Some("staging"), &ok),
        (LOCAL, &both, Some("development"), &forbidden),
        (LOCAL, &other, None, &forbidden),
        (KEYED, &both, Some("no-such"), &forbidden),
    ] {
        assert_eq!(&ask(listener, key, "api", environment).await, expected, "{listener} {environment:?}");
    }
    server.finish(&[]).await;
}

/// No spelling of a path gets round a rule: what is judged is what the upstream gets, or nothing is sent.
#[tokio::test]
async fn rules_judge_methods_and_paths_in_one_form() {
    let sink = Sink::https().await;
    let server = server(&sink, |config| {
        config.base("https://api.example.test/v1").bearer("based", "t");
    })
    .await;
    let scope = json!({ "methods": ["GET", "POST"], "paths": ["/v1/customers", "/v1/customers/*", "/v1/a b"] });
    let (_, key) = caller(&server, scope).await;
    let send = async |method: &str, target: &str, more: &[(&str, &str)]| {
        let headers = [&[("Sidekey-Connection", "api"), ("Sidekey-Key", key.as_str())], more].concat();
        let before = sink.count();
        let reply = http1(&server.proxies[KEYED], method, target, &headers, "").await;
        let seen = sink.requests().split_off(before).pop().map(|seen| (seen.method, seen.target));
        (reply.status, reply.header("sidekey-error").unwrap_or_default().to_owned(), seen)
    };
    for target in [
        "/v1/customers",
        "/v1/customers?x=/v2",
        "/v1/customers/1/invoices",
        "/v1/%63ustomers/1",
        "/v1/customers/caf%C3%A9",
        "/v1/customers/a%40b.c",
        "/v1/a%20b",
        "/v1/customers/",
    ] {
        let seen = Some(("GET".to_owned(), target.to_owned()));
        assert_eq!(send("GET", target, &[]).await, (200, String::new(), seen), "byte for byte");
    }
    let refused = (403, "not_permitted".to_owned(), None);
    for target in [
        "/v2",
        "/",
        "/v1",
        "/v1/customer",
        "/V1/customers",
        "/v1/customersX",
        "/v1//customers",
        "//v1/customers",
        "/v1/customers//x",
        "/v1/customers;x=1/y",
        "/v1/customers/;/../../v2",
        "/v1/customers/%3b/x",
        "/v1/customers/%2fx",
        "/v1/customers%2f..%2fx",
        "/v1/customers/%252e%252e/x",
        "/v1/customers/%25",
        "/v1/customers/%00",
        "/v1/customers/%0a",
        "/v1/customers/%zz",
        "/v1/customers/%",
        "/v1/customers/%c0%ae%c0%ae/",
        "/v1/customers/%ff",
    ] {
        let (status, code, seen) = send("GET", target, &[]).await;
        // What could climb is malformed for everybody.
        let is_refused =
            (status, code.as_str()) == (403, "not_permitted") || (status, code.as_str()) == (400, "target_invalid");
        assert!(is_refused && seen.is_none(), "{target}: {status} {code} {seen:?}");
    }
    for method in ["PUT", "DELETE", "PATCH", "HEAD", "get", "Post", "PURGE"] {
        let (status, _, seen) = send(method, "/v1/customers", &[]).await;
        assert_eq!((status, seen), (403, None), "{method}");
    }
    for header in ["X-HTTP-Method-Override", "x-http-method", "X_Method_Override", "X-Original-URL", "X-Rewrite-Url"] {
        assert_eq!(send("POST", "/v1/customers", &[(header, "DELETE")]).await, refused, "{header}");
    }
    // The base path is a part of what is judged, in the reverse mode and in the forward one.
    let based = async |target: &str, more: &[(&str, &str)]| {
        let headers = [&[("Sidekey-Connection", "based"), ("Sidekey-Key", key.as_str())], more].concat();
        http1(&server.proxies[KEYED], "GET", target, &headers, "").await.status
    };
    assert_eq!((based("/customers/1", &[]).await, based("/v1/customers/1", &[]).await), (200, 403));
    assert_eq!(based("/v1/customers/1", &[("Sidekey-Upstream", "api.example.test")]).await, 200);
    assert_eq!(based("/customers/1", &[("Sidekey-Upstream", "api.example.test")]).await, 403);
    let login = format!("Basic {}", STANDARD.encode(format!("based:{key}")));
    for (target, status) in [("http://api.example.test/v1/customers", 200), ("http://api.example.test/v2", 403)] {
        let reply = http1(&server.proxies[KEYED], "GET", target, &[("Proxy-Authorization", &login)], "").await;
        assert_eq!(reply.status, status, "{target}");
    }
    // Whoever has no rules sends what they like.
    let (_, free) = caller(&server, json!({})).await;
    for target in ["/v1;x/%2f%25", "//a//b"] {
        let headers = [("Sidekey-Connection", "api"), ("Sidekey-Key", &*free), ("X-HTTP-Method-Override", "PUT")];
        assert_eq!(http1(&server.proxies[KEYED], "DELETE", target, &headers, "").await.status, 200);
    }
    server.finish(&[]).await;
}

/// A scope that was changed holds for the very next request, on a connection that is open.
#[tokio::test]
async fn a_narrowed_scope_holds_at_once() {
    let sink = Sink::https().await;
    let server = server(&sink, |_| {}).await;
    let (id, key) = caller(&server, json!({})).await;
    let headers = [("Sidekey-Connection", "api"), ("Sidekey-Key", key.as_str())];
    let mut client = Raw::connect(&server.proxies[KEYED]).await;
    let mut next = async || {
        client.request("GET", "/x", &headers, "").await;
        client.response().await.status
    };
    for (scope, status) in [
        (json!({}), 200),
        (json!({ "paths": ["/y"] }), 403),
        (json!({ "paths": ["/x"] }), 200),
        (json!({ "methods": ["POST"] }), 403),
        (json!({ "methods": null, "connections": ["crm"] }), 404),
        (json!({ "connections": ["a*"] }), 200),
        (json!({ "environments": ["staging"] }), 403),
        (json!({ "environments": ["production"] }), 200),
    ] {
        server.admin().must("PUT", &format!("api-keys/{id}/scope"), scope.clone()).await;
        assert_eq!(next().await, status, "{scope}");
    }
    server.finish(&[]).await;
}

#[tokio::test]
async fn a_listener_may_narrow_the_keys_that_are_shown_there() {
    let sink = Sink::https().await;
    let server = server(&sink, |config| {
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "key".into()),
            ("connections", vec!["crm"].into()),
            ("environments", vec!["production"].into()),
        ]);
        config.bearer("crm", "crm-token");
    })
    .await;
    let (_, key) =
        create(&server.admin(), json!({ "name": "k", "scope": { "environments": ["production", "staging"] } })).await;
    let ask = async |connection: &str, environment: &str| {
        let headers =
            [("Sidekey-Connection", connection), ("Sidekey-Key", &*key), ("Sidekey-Environment", environment)];
        request(&server.proxies[2], "GET", "/x", &headers, "").await.status
    };
    assert_eq!(ask("crm", "production").await, 200);
    assert_eq!(ask("api", "production").await, 404);
    assert_eq!(ask("crm", "staging").await, 403);
    server.finish(&[]).await;
}

#[tokio::test]
async fn an_owner_of_a_key_is_a_user_of_its_organization() {
    let server = Sidekey::with(|_| {}).await;
    let admin = server.admin();
    let user = admin.must("POST", "users", json!({ "email": "ada@example.test", "roles": ["member"] })).await.json();
    let made = admin.must("POST", "api-keys", json!({ "name": "hers", "owner": user["id"] })).await.json();
    assert_eq!(made["owner"], user["id"]);
    let reply = admin.post("api-keys", json!({ "name": "k", "owner": "usr_01jabcdefghjkmnpqrstvwxyz0" })).await;
    assert_eq!((reply.status, problem(&reply).body["errors"][0]["pointer"].clone()), (422, json!("/owner")));
    admin.must("POST", "organizations", json!({ "key": "other" })).await;
    let reply = admin.post("api-keys?organization=other", json!({ "name": "k", "owner": user["id"] })).await;
    assert_eq!(reply.status, 422, "nor of another one");
    server.finish(&[]).await;
}
