//! Which addresses are dialled: what is private, special or Sidekey's own is refused on the address itself.

use crate::harness::client::get;
use crate::harness::{Canary, Script, Sidekey, Sink, client};

async fn code(server: &Sidekey, connection: &str) -> (u16, String) {
    let reply = get(server.proxy(), "/x", &[("Sidekey-Connection", connection)]).await;
    (reply.status, reply.header("sidekey-error").unwrap_or_default().to_owned())
}

fn prohibited() -> (u16, String) {
    (403, "address_prohibited".to_owned())
}

/// EX-14
#[tokio::test]
async fn an_address_that_is_not_public_is_refused_however_it_is_written() {
    let sink = Sink::https().await;
    let port = sink.addr.port();
    let token = Canary::new("egress");
    let mut urls: Vec<String> = [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[::ffff:10.0.0.1]",
        "[64:ff9b::10.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "localhost",
    ]
    .map(|host| format!("https://{host}:{port}"))
    .into();
    urls.push("https://pinned.example.test".to_owned());
    urls.push("https://pinned-metadata.example.test".to_owned());
    let server = Sidekey::with(|config| {
        config.set("upstream.allow_networks", Vec::<&str>::new());
        config.pin("pinned.example.test", sink.addr).pin("pinned-metadata.example.test", "169.254.169.254:80");
        for (number, url) in urls.iter().enumerate() {
            config.base(url).bearer(&format!("c{number}"), token.text());
        }
    })
    .await;
    for (number, url) in urls.iter().enumerate() {
        assert_eq!(code(&server, &format!("c{number}")).await, prohibited(), "{url}");
    }
    assert_eq!(sink.connection_count(), 0, "nothing was dialled");
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn metadata_services_are_refused_even_where_every_network_is_allowed() {
    let sink = Sink::https().await;
    let urls = [
        "https://169.254.169.254",
        "https://169.254.170.2",
        "https://100.100.100.200",
        "https://168.63.129.16",
        "https://[fd00:ec2::254]",
        "https://[::ffff:169.254.169.254]",
        "https://[64:ff9b::a9fe:a9fe]",
        "https://0.0.0.0",
        "https://[::]",
        "https://pinned.example.test",
    ];
    let server = Sidekey::with(|config| {
        config.set("upstream.allow_networks", vec!["0.0.0.0/0", "::/0"]);
        config.pin("pinned.example.test", "169.254.169.254:443");
        for (number, url) in urls.iter().enumerate() {
            config.base(url).bearer(&format!("c{number}"), "t");
        }
        config.base(&format!("https://localhost:{}", sink.addr.port())).bearer("open", "t");
    })
    .await;
    for (number, url) in urls.iter().enumerate() {
        assert_eq!(code(&server, &format!("c{number}")).await, prohibited(), "{url}");
    }
    assert_eq!(code(&server, "open").await.0, 200, "the rest is open");
    server.finish(&[]).await;
}

/// A request through Sidekey to itself would go round for ever, or reach its admin port from inside.
#[tokio::test]
async fn sidekeys_own_listeners_are_refused_under_every_name() {
    let sink = Sink::https().await;
    let mut server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", "t");
    })
    .await;
    let proxy = server.proxy().tcp().port();
    let admin = server.admin_address.tcp().port();
    let mut urls = Vec::new();
    for port in [proxy, admin] {
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
            urls.push(format!("http://{host}:{port}"));
        }
    }
    server.reconfigure(|config| {
        for (number, url) in urls.iter().enumerate() {
            config.base(url).bearer(&format!("own{number}"), "t");
        }
    });
    server.sighup();
    let loaded = |line: &serde_json::Value| line.to_string().contains("the configuration was loaded again");
    server.log_line("the new configuration", loaded).await;
    for (number, url) in urls.iter().enumerate() {
        assert_eq!(code(&server, &format!("own{number}")).await, prohibited(), "{url}");
    }
    assert_eq!(code(&server, "c1").await.0, 200);
    server.finish(&[]).await;
}

/// EX-17: what needs no name server of our own.
#[tokio::test]
async fn a_name_that_does_not_resolve_is_told_in_time() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.set("upstream.resolve_timeout", "2s").to(&sink).bearer("c1", "t");
        config.base("https://no-such-name.invalid").bearer("nowhere", "t");
    })
    .await;
    assert_eq!(code(&server, "nowhere").await, (502, "upstream_dns".to_owned()));
    assert_eq!(code(&server, "c1").await.0, 200, "others are not affected");
    server.finish(&[]).await;
}

/// EX-23, as far as an integration can ask for different TLS: by its host name.
#[tokio::test]
async fn a_pooled_connection_serves_the_name_it_was_verified_for_and_no_other() {
    let sink = Sink::builder().tls(&["a.example.test", "b.example.test"]).start().await;
    let [a, b] = ["a", "b"].map(Canary::new);
    let server = Sidekey::with(|config| {
        config.pin("a.example.test", sink.addr).pin("b.example.test", sink.addr).pin("c.example.test", sink.addr);
        config.base("https://a.example.test").bearer("a", a.text());
        config.base("https://b.example.test").bearer("b", b.text());
        config.base("https://c.example.test").bearer("c", "t");
    })
    .await;
    for _ in 0..10 {
        assert_eq!(code(&server, "a").await.0, 200);
        assert_eq!(code(&server, "b").await.0, 200);
        assert_eq!(code(&server, "c").await, (502, "upstream_tls".to_owned()), "the certificate is not for c");
    }
    for seen in sink.requests() {
        let name = sink.connection(seen.connection).sni;
        assert_eq!(seen.header("host"), name.as_deref());
        let token = if name.as_deref() == Some("a.example.test") { &a } else { &b };
        assert_eq!(seen.header("authorization"), Some(&*format!("Bearer {}", token.text())));
    }
    assert_eq!(sink.count(), 20);
    server.finish(&[&a, &b]).await;
}

/// EX-25, 100 tries instead of 500.
#[tokio::test]
async fn a_post_over_a_connection_that_is_just_closing_is_processed_at_most_once() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("c1", "t");
    })
    .await;
    sink.otherwise(Script::respond(200, &[], "ok").then(crate::harness::sink::Step::Fin));
    for number in 0..100 {
        let path = format!("/{number}");
        let reply = client::request(server.proxy(), "POST", &path, &[("Sidekey-Connection", "c1")], "body").await;
        let told = reply.header("sidekey-error").unwrap_or_default().to_owned();
        assert!(reply.status == 200 || (reply.status, &*told) == (502, "upstream_closed"), "{} {told}", reply.status);
        let processed = sink.requests().iter().filter(|seen| seen.target == path).count();
        assert!(processed <= 1, "{path} was processed {processed} times");
    }
    sink.assert_strict();
    server.finish(&[]).await;
}

/// EX-30: the same guards where a WebSocket is asked for.
#[tokio::test]
async fn a_websocket_handshake_passes_the_same_guards() {
    let (sink, evil) = (Sink::https1().await, Sink::https1().await);
    let server = Sidekey::with(|config| {
        config.pin("evil.test", evil.addr).to(&sink).bearer("c1", "t");
        config.integration_key("base_url", "https://api.example.test/v1");
    })
    .await;
    let upgrade = [
        ("Sidekey-Connection", "c1"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (target, line, told) in [
        ("/../x", None, (400, "target_invalid")),
        ("/%2e%2e/x", None, (400, "target_invalid")),
        ("/x", Some(("Sidekey-Upstream", "evil.test")), (403, "host_not_allowed")),
        ("/x", Some(("Origin", "http://evil.test")), (403, "browser_request")),
        ("http://evil.test/x", None, (403, "host_not_allowed")),
    ] {
        let headers: Vec<(&str, &str)> = upgrade.iter().copied().chain(line).collect();
        let reply = client::http1(server.proxy(), "GET", target, &headers, "").await;
        assert_eq!((reply.status, reply.header("sidekey-error").unwrap_or_default()), told, "{target}");
    }
    assert_eq!((sink.connection_count(), evil.connection_count()), (0, 0));
    sink.next(Script::respond(302, &[("location", "https://evil.test/ws")], ""));
    let reply = client::http1(server.proxy(), "GET", "/ws", &upgrade, "").await;
    assert_eq!((reply.status, reply.header("location")), (302, Some("https://evil.test/ws")));
    assert_eq!((sink.next_request().await.target.as_str(), evil.connection_count()), ("/v1/ws", 0));
    server.finish(&[]).await;
}
