//! A listener that trusts its network does not serve web pages that found it.

use crate::attack::{Stage, Table};
use crate::harness::client::{Address, h2::H2, request};
use crate::harness::{Raw, Sidekey, Sink};

const C1: &str = "Sidekey-Connection: c1\r\n";

async fn stage() -> (Stage, Address) {
    let mut unix = None;
    let stage = Stage::with(|config| {
        config.listener("host_names", vec!["sidekey.internal"]);
        config.listener("allow_origins", vec!["https://app.example.com", "http://localhost:3000"]);
        unix = Some(config.unix_listener("proxy.sock"));
    })
    .await;
    (stage, unix.expect("a Unix socket"))
}

fn is_browser(outcome: &crate::attack::Outcome) -> bool {
    outcome.statuses() == [403] && outcome.code() == Some("browser_request") && outcome.seen.is_empty()
}

#[tokio::test]
async fn what_a_web_page_sends_is_refused_and_what_programs_send_is_not() {
    let (stage, _) = stage().await;
    let mut table = Table::default();
    for lines in [
        "Origin: http://evil.test\r\n",
        "Origin: null\r\n",
        "Origin: \r\n",
        "Origin: https://app.example.com.evil.test\r\n",
        "Origin: http://app.example.com\r\n",
        "Origin: https://app.example.com:8443\r\n",
        "Origin: http://localhost\r\n",
        "Origin: https://app.example.com\r\nOrigin: http://evil.test\r\n",
        "Origin: http://127.0.0.1\r\n",
        "Origin: https://app.example.com, http://evil.test\r\n",
        "Origin: \u{e9}\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: \r\n",
        "Sec-Fetch-Site: NONE\r\n",
        "Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
    ] {
        let outcome = stage.ask(format!("GET /p HTTP/1.1\r\nHost: localhost\r\n{C1}{lines}\r\n")).await;
        table.row(lines, is_browser(&outcome), &outcome);
    }
    for lines in [
        "",
        "Sec-Fetch-Mode: cors\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Origin: https://app.example.com\r\n",
        "Origin: http://localhost:3000\r\nSec-Fetch-Site: same-site\r\n",
        "Referer: http://evil.test/\r\n",
    ] {
        let outcome = stage.ask(format!("GET /p HTTP/1.1\r\nHost: localhost\r\n{C1}{lines}\r\n")).await;
        table.row(lines, outcome.is_forwarded(), &outcome);
    }
    // A preflight is a page's as well.
    let preflight = "Origin: http://evil.test\r\nAccess-Control-Request-Method: POST\r\n";
    let outcome = stage.ask(format!("OPTIONS /p HTTP/1.1\r\nHost: localhost\r\n{C1}{preflight}\r\n")).await;
    let closed_to_pages = outcome.replies.iter().all(|reply| reply.header("access-control-allow-origin").is_none());
    table.row("a preflight", is_browser(&outcome) && closed_to_pages, &outcome);
    table.check();
    stage.finish().await;
}

#[tokio::test]
async fn a_name_that_was_made_to_resolve_to_us_is_refused() {
    let (stage, _) = stage().await;
    let mut table = Table::default();
    for host in [
        "evil.test",
        "evil.test:80",
        "localhost.evil.test",
        "sidekey.internal.evil.test",
        "127.0.0.1.evil.test",
        "localhostx",
        "xlocalhost",
        "sidekey",
        "2130706433",
        "127.1",
        "0x7f000001",
        "api.example.test",
    ] {
        let outcome = stage.ask(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n{C1}\r\n")).await;
        table.row(host, is_browser(&outcome), &outcome);
    }
    for host in [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:7878",
        "[::1]",
        "[::1]:1",
        "10.1.2.3",
        "sidekey.internal",
        "Sidekey.Internal:7878",
    ] {
        let outcome = stage.ask(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n{C1}\r\n")).await;
        table.row(host, outcome.is_forwarded(), &outcome);
    }
    // HTTP/1.0 need not have a Host, and no page's request is without one.
    let outcome = stage.attack(format!("GET /p HTTP/1.0\r\n{C1}\r\n")).await;
    table.row("no Host", outcome.is_forwarded(), &outcome);
    // A proxy's client writes the upstream's name there, rightly; a page's Origin counts all the same.
    let outcome =
        stage.attack(format!("GET http://api.example.test/p HTTP/1.1\r\nHost: api.example.test\r\n{C1}\r\n")).await;
    table.row("absolute-form", outcome.is_forwarded(), &outcome);
    let page = format!(
        "GET http://api.example.test/p HTTP/1.1\r\nHost: api.example.test\r\n{C1}Origin: http://evil.test\r\n\r\n"
    );
    let outcome = stage.attack(page).await;
    table.row("a page in absolute-form", is_browser(&outcome), &outcome);
    table.check();
    stage.finish().await;
}

#[tokio::test]
async fn http_2_is_guarded_by_its_authority_and_a_unix_socket_not_at_all() {
    let (stage, unix) = stage().await;
    let client = H2::connect(stage.server.proxy()).await;
    let tag = ("sidekey-connection", "c1");
    assert_eq!(client.get("/p", &[tag]).await.status, 200);
    for line in [("origin", "http://evil.test"), ("sec-fetch-site", "cross-site")] {
        let reply = client.get("/p", &[tag, line]).await;
        assert_eq!((reply.status, reply.header("sidekey-error")), (403, Some("browser_request")), "{line:?}");
    }
    for line in [("Origin", "http://evil.test"), ("Sec-Fetch-Site", "cross-site"), ("Host", "evil.test")] {
        let reply = request(&unix, "GET", "/p", &[tag, line], "").await;
        assert_eq!(reply.status, 200, "{line:?}");
    }
    stage.finish().await;
}

/// Where a key is asked for, a page has none: the guard is for listeners that trust their network.
#[tokio::test]
async fn a_listener_that_asks_for_keys_says_so_to_pages_too() {
    let sink = Sink::https().await;
    let server = Sidekey::with(|config| {
        config.to(&sink).listener("trust", "key").bearer("c1", "t");
    })
    .await;
    let mut raw = Raw::connect(server.proxy()).await;
    raw.send(format!("GET /p HTTP/1.1\r\nHost: evil.test\r\n{C1}Origin: http://evil.test\r\n\r\n")).await;
    assert_eq!(raw.response().await.header("sidekey-error"), Some("key_missing"));
    assert_eq!(sink.connection_count(), 0);
    server.finish(&[]).await;
}
