//! Tags: how a request names its connection, what is a conflict, and that no tag ever reaches an upstream.

use crate::attack::{Outcome, Stage, Table};
use crate::harness::client::get;
use crate::harness::client::h2::H2;
use crate::harness::{Canary, Config, Script, Sidekey, Sink};

/// Two connections to one upstream, each with a base path that tells them apart.
async fn two(describe: impl FnOnce(&mut Config)) -> Stage {
    let sink = Sink::https().await;
    let second = Canary::new("c2");
    Stage::before(sink, |config| {
        config.integration_key("base_url", "https://api.example.test/one");
        config.bearer("c2", second.text()).integration_key("base_url", "https://api.example.test/two");
        describe(config);
    })
    .await
}

fn request(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
}

fn went_to(outcome: &Outcome, target: &str) -> bool {
    outcome.is_forwarded() && outcome.seen[0].target == target
}

fn refused_as(outcome: &Outcome, status: u16, code: &str) -> bool {
    outcome.statuses() == [status] && outcome.code() == Some(code) && outcome.seen.is_empty()
}

async fn finish(stage: Stage) {
    let reply = get(stage.server.proxy(), "/survivor", &[("Sidekey-Connection", "c1")]).await;
    assert_eq!(reply.json()["target"], "/one/survivor");
    stage.sink.assert_strict();
    stage.server.finish(&[&stage.token]).await;
}

#[tokio::test]
async fn a_connection_is_named_by_header_alias_path_or_id() {
    let (stage, mut table) = (two(|_| {}).await, Table::default());
    let first = get(stage.server.proxy(), "/x", &[("Sidekey-Connection", "c1")]).await;
    assert_eq!(first.status, 200);
    let id = stage.server.access_lines(1).await[0]["connection_id"].as_str().expect("the connection's id").to_owned();
    for (target, lines, expected) in [
        ("/x?q", "Sidekey-Connection: c2\r\n".to_owned(), "/two/x?q"),
        ("/x?q", "sidekey-CONNECTION:c2\r\n".to_owned(), "/two/x?q"),
        ("/x", "X-Connection-Id:   c2  \r\n".to_owned(), "/two/x"),
        ("/x", "Connection-Id: c2\r\n".to_owned(), "/two/x"),
        ("/x", "Connection-Id: c2\r\nSidekey-Connection: c2\r\nX-Connection-Id: c2\r\n".to_owned(), "/two/x"),
        ("/x", format!("Sidekey-Connection: {id}\r\n"), "/one/x"),
        (&format!("/c/{id}/x"), String::new(), "/one/x"),
        ("/c/c2/x/y?q=/c/c1", String::new(), "/two/x/y?q=/c/c1"),
        ("/c/c2", String::new(), "/two"),
        ("/c/c2/", String::new(), "/two/"),
        ("/c/c2?q", String::new(), "/two?q"),
        ("/c/c2//x", String::new(), "/two//x"),
        ("/c/c2/c/c1/x", String::new(), "/two/c/c1/x"),
        // Where a header names the connection, the path is a path.
        ("/c/c2/x", "Sidekey-Connection: c1\r\n".to_owned(), "/one/c/c2/x"),
        ("/c/c2/x", "Connection-Id: c2\r\n".to_owned(), "/two/c/c2/x"),
    ] {
        let outcome = stage.ask(request(target, &lines)).await;
        table.row((target, lines), went_to(&outcome, expected), &outcome);
    }
    table.check();
    finish(stage).await;
}

#[tokio::test]
async fn a_request_without_a_tag_is_refused_or_goes_to_the_listeners_default() {
    let stage = two(|config| {
        config.add_listener(&[
            ("address", "127.0.0.1:0".into()),
            ("trust", "local".into()),
            ("connection", "c2".into()),
        ]);
    })
    .await;
    for target in ["/x", "/", "/c", "/cc/c2/x", "/C/c2/x", "/?/c/c2"] {
        let outcome = stage.ask(request(target, "")).await;
        assert!(refused_as(&outcome, 400, "connection_missing"), "{target} {outcome:?}");
    }
    let by_default = &stage.server.proxies[1];
    for (target, tag, expected) in
        [("/x?q", None, "/two/x?q"), ("/x", Some("c1"), "/one/x"), ("/c/c1/x", None, "/one/x"), ("/c", None, "/two/c")]
    {
        let tag: Vec<(&str, &str)> = tag.into_iter().map(|key| ("Sidekey-Connection", key)).collect();
        let reply = get(by_default, target, &tag).await;
        assert_eq!(reply.json()["target"], expected, "{target}");
    }
    // A tag that is wrong is not one that is missing.
    let reply = get(by_default, "/c/A%20b/x", &[]).await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (400, Some("tag_malformed")));
    let reply = get(by_default, "/x", &[("Sidekey-Connection", "nobody")]).await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (404, Some("connection_unknown")));
    finish(stage).await;
}

#[tokio::test]
async fn tags_that_contradict_each_other_are_a_conflict() {
    let (stage, mut table) = (two(|_| {}).await, Table::default());
    for lines in [
        "Sidekey-Connection: c1\r\nConnection-Id: c2\r\n",
        "X-Connection-Id: c1\r\nConnection-Id: c2\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Connection: c1\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Connection: c2\r\n",
        "Connection-Id: c1\r\nConnection-Id: c1\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Environment: production\r\nSidekey-Environment: production\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Customer: a\r\nSidekey-Customer: b\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Upstream: api.example.test\r\nSidekey-Upstream: api.example.test\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Workflow: a\r\nSidekey-Workflow: b\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Timeout: 1s\r\nSidekey-Timeout: 1s\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Key: apk_a\r\nX-API-Key: apk_b\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Key: apk_a\r\nSidekey-Key: apk_b\r\n",
        "Sidekey-Connection: c1\r\nAuthorization: Bearer apk_a\r\nX-API-Key: apk_b\r\n",
        "Sidekey-Connection: c1\r\nSidekey-Key: apk_a\r\nSidekey-Key: apk_a\r\n",
    ] {
        let outcome = stage.ask(request("/x", lines)).await;
        table.row(lines, refused_as(&outcome, 400, "tag_conflict"), &outcome);
    }
    table.check();
    finish(stage).await;
}

#[tokio::test]
async fn text_that_cannot_be_a_tag_is_malformed_and_not_looked_up() {
    let (stage, mut table) = (two(|_| {}).await, Table::default());
    let long = "k".repeat(64);
    for text in [
        "",
        " ",
        "A",
        "C1",
        "c1 c2",
        "c1,c2",
        "c1;c2",
        "../c1",
        "c1/..",
        "c1%00",
        "c1%2f",
        "-c1",
        "_c1",
        "c.1",
        "c1\u{e9}",
        "' or 1=1--",
        "conn_",
        "conn_1",
        "conn_01J9ZZZZZZZZZZZZZZZZZZZZZZ",
        "conn_81j9zzzzzzzzzzzzzzzzzzzzzz",
        "org_x",
        "apk_x",
        "intg_x",
        "sec_x",
        "*",
        "c*",
        "{{ x }}",
        &long,
    ] {
        let outcome = stage.ask(request("/x", &format!("Sidekey-Connection: {text}\r\n"))).await;
        table.row(text, refused_as(&outcome, 400, "tag_malformed"), &outcome);
    }
    for target in ["/c//x", "/c/", "/c/A/x", "/c/c1%2f..%2f/x", "/c/c%31/x", "/c/c1;a/x", "/c/c1%00/x", "/c/*/x"] {
        let outcome = stage.ask(request(target, "")).await;
        // A dot segment in disguise is refused as a target before it is read as a tag.
        let code = if target.contains("..") { "target_invalid" } else { "tag_malformed" };
        table.row(target, refused_as(&outcome, 400, code), &outcome);
    }
    for line in [
        "Sidekey-Environment: no environment",
        "Sidekey-Environment: ",
        "Sidekey-Customer: a b",
        "Sidekey-Customer: ",
        "Sidekey-Customer: \u{e9}",
        "Sidekey-Timeout: soon",
        "Sidekey-Timeout: -1s",
        "Sidekey-Timeout: ",
        "Sidekey-Upstream: https://api.example.test/p",
        "Sidekey-Upstream: https://u@api.example.test",
        "Sidekey-Upstream: ",
        "Sidekey-Upstream: ftp://api.example.test",
        "Sidekey-Upstream: api.example.test?q",
        "Sidekey-Upstream: api.example.test\\@evil.test",
        "Sidekey-Upstream: api.example.test:0",
        "Sidekey-Workflow: ",
        "Sidekey-Explain: true",
        "Sidekey-Explain: ",
    ] {
        let outcome = stage.ask(request("/x", &format!("Sidekey-Connection: c1\r\n{line}\r\n"))).await;
        table.row(line, refused_as(&outcome, 400, "tag_malformed"), &outcome);
    }
    table.check();
    finish(stage).await;
}

#[tokio::test]
async fn no_tag_and_no_callers_key_ever_reaches_an_upstream() {
    let (stage, mut table) = (two(|_| {}).await, Table::default());
    let lines = "Sidekey-Connection: c1\r\nX-Connection-Id: c1\r\nConnection-Id: c1\r\nX_Connection_Id: c2\r\n\
                 Sidekey_Connection: c2\r\nConnection_Id: c2\r\nSidekey-Environment: production\r\n\
                 Sidekey-Workflow: nightly\r\nSidekey-Timeout: 20s\r\nSidekey-Retries: 3\r\nSidekey-Max-Wait: 1s\r\n\
                 Sidekey-Explain: 0\r\nSidekey-Not-Yet-Known: x\r\nSidekey-: x\r\nX-Forwarded-: x\r\nSIDEKEY-KEY: nothing\r\nSidekey_Key: x\r\n\
                 Proxy-Authorization: Basic eA==\r\nAuthorization: Bearer caller\r\nX-Ordinary: kept\r\n\
                 X-API-Key: theirs\r\n";
    for target in ["/x", "/c/c2/x"] {
        let outcome = stage.ask(request(target, lines)).await;
        let clean = outcome.seen[0].names() == ["authorization", "host", "x-api-key", "x-ordinary"];
        let own = outcome.seen[0].header("authorization") == Some(&*format!("Bearer {}", stage.token.text()));
        table.row(target, clean && own && outcome.seen[0].header("x-api-key") == Some("theirs"), &outcome);
    }
    for lines in [
        "Sidekey-Key: apk_x\r\n",
        "X-API-Key: apk_x\r\n",
        "x-api-key:apk_x\r\n",
        "Authorization: Bearer apk_x\r\n",
        "authorization: bearer apk_x\r\n",
        "Authorization: Bearer   apk_x\r\n",
        "Sidekey-Key: apk_x\r\nX-API-Key: apk_x\r\nAuthorization: Bearer apk_x\r\n",
        "X-API-Key: theirs\r\nX-API-Key: apk_x\r\n",
    ] {
        let outcome = stage.ask(request("/x", &format!("Sidekey-Connection: c1\r\n{lines}"))).await;
        let unknown = refused_as(&outcome, 401, "key_unknown")
            && outcome.reply().header("www-authenticate") == Some("Bearer")
            && outcome.reply().header("proxy-authenticate").is_none();
        table.row(lines, unknown, &outcome);
    }
    table.check();
    finish(stage).await;
}

#[tokio::test]
async fn the_headers_that_name_a_connection_are_configuration() {
    let stage = two(|config| {
        config.set("proxy.connection_headers", vec!["X-Tenant-Api"]);
    })
    .await;
    for (lines, expected) in [("X-Tenant-Api: c2\r\n", "/two/x"), ("Sidekey-Connection: c2\r\n", "/two/x")] {
        let outcome = stage.ask(request("/x", lines)).await;
        assert!(went_to(&outcome, expected), "{lines} {outcome:?}");
        assert_eq!(outcome.seen[0].header("x-tenant-api"), None);
    }
    let outcome = stage.ask(request("/x", "Sidekey-Connection: c2\r\nX-Connection-Id: c1\r\n")).await;
    assert!(went_to(&outcome, "/two/x"), "an alias that was taken away is an ordinary header");
    assert_eq!(outcome.seen[0].header("x-connection-id"), Some("c1"));
    finish(stage).await;
}

#[tokio::test]
async fn tags_mean_the_same_over_http_2_and_unix_sockets() {
    let sink = Sink::https().await;
    let token = Canary::new("c1");
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", token.text()).integration_key("base_url", "https://api.example.test/one");
        config.unix_listener("proxy.sock");
    })
    .await;
    for address in &server.proxies {
        let client = H2::connect(address).await;
        for (path, tag, expected) in [
            ("/x?q", Some(("sidekey-connection", "c1")), (200, "/one/x?q")),
            ("/c/c1/x", None, (200, "/one/x")),
            ("/c/c1", None, (200, "/one")),
            ("/x", None, (400, "connection_missing")),
            ("/x", Some(("connection-id", "A")), (400, "tag_malformed")),
            ("/../x", Some(("connection-id", "c1")), (400, "target_invalid")),
        ] {
            let tag: Vec<(&str, &str)> = tag.into_iter().collect();
            for reply in [client.get(path, &tag).await, get(address, path, &tag).await] {
                let told = match reply.header("sidekey-error") {
                    Some(code) => code.to_owned(),
                    None => reply.json()["target"].as_str().unwrap_or_default().to_owned(),
                };
                assert_eq!((reply.status, &*told), expected, "{path} {tag:?} at {address}");
            }
        }
    }
    sink.assert_strict();
    server.finish(&[&token]).await;
}

/// CONTRACT §2.3: `Sidekey-Upstream` picks another allowed origin, and the path is taken as given.
#[tokio::test]
async fn another_origin_is_picked_only_among_the_integrations_own() {
    let (sink, files) =
        (Sink::https().await, Sink::builder().tls(&["files.example.test", "eu.example.test"]).start().await);
    let token = Canary::new("c1");
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", token.text());
        config.integration_key("base_url", "https://api.example.test/v1");
        config.integration_key("hosts", vec!["files.example.test", "{{ region }}.example.test:8443"]);
        config.integration_key("fields", vec![crate::harness::config::table(&[("name", "region".into())])]);
        config.connection_key("values", crate::harness::config::table(&[("region", "eu".into())]));
        config.pin("files.example.test", files.addr).pin("eu.example.test", files.addr);
    })
    .await;
    let ask = async |upstream: &str| {
        get(server.proxy(), "/x?q", &[("Sidekey-Connection", "c1"), ("Sidekey-Upstream", upstream)]).await
    };
    for (upstream, host) in [
        ("files.example.test", "files.example.test"),
        ("https://files.example.test:443", "files.example.test"),
        ("HTTPS://FILES.example.test", "files.example.test"),
        ("https://eu.example.test:8443", "eu.example.test:8443"),
    ] {
        let reply = ask(upstream).await;
        assert_eq!((reply.status, &reply.json()["target"]), (200, &"/x?q".into()), "{upstream}");
        let seen = files.next_request().await;
        assert_eq!(seen.header("host"), Some(host));
        assert_eq!(files.connection(seen.connection).sni.as_deref(), host.split(':').next());
    }
    assert_eq!(ask("https://api.example.test").await.json()["target"], "/x?q", "the base path is a convenience");
    for upstream in [
        "http://files.example.test",
        "files.example.test:8443",
        "us.example.test:8443",
        "eu.example.test",
        "example.test",
        "x.files.example.test",
        "files.example.test.evil.test",
        "127.0.0.1",
        "[::1]",
        "localhost",
    ] {
        let reply = ask(upstream).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (403, Some("host_not_allowed")), "{upstream}");
    }
    assert_eq!((sink.count(), files.count()), (1, 4));
    files.assert_strict();
    server.finish(&[&token]).await;
}

/// CONTRACT §2.1: `Sidekey-Timeout` can only shorten.
#[tokio::test]
async fn a_requests_own_deadline_only_shortens() {
    let stage = two(|config| {
        config.integration_key("timeouts", crate::harness::config::table(&[("response", "300ms".into())]));
    })
    .await;
    stage.sink.on("/one/slow", Script::stall()).on("/two/slow", Script::stall());
    // The server's own deadline is a minute here: the test itself would not wait for it.
    let reply = get(stage.server.proxy(), "/slow", &[("Sidekey-Connection", "c1"), ("Sidekey-Timeout", "300ms")]).await;
    assert_eq!(reply.status, 504);
    let reply = get(stage.server.proxy(), "/slow", &[("Sidekey-Connection", "c2"), ("Sidekey-Timeout", "1h")]).await;
    assert_eq!((reply.status, reply.header("sidekey-error")), (504, Some("response_timeout")));
    finish(stage).await;
}
