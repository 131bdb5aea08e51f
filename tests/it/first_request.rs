//! The main path: a workflow node that knows nothing but a connection's name gets an authenticated answer from a TLS
//! upstream.

use crate::harness::{Canary, Sidekey, Sink, get};

#[tokio::test]
async fn a_tagged_request_reaches_the_real_api_with_its_credential_in_it() {
    let (sink, token) = (Sink::https().await, Canary::new("stripe"));
    let server = Sidekey::with(|config| {
        config.to(&sink).bearer("stripe", token.text());
    })
    .await;
    let reply = get(server.proxy(), "/v1/me?a=1", &[("Sidekey-Connection", "stripe")]).await;
    assert_eq!(reply.status, 200);
    let seen = sink.next_request().await;
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {}", token.text()).as_str()));
    assert!(seen.target.ends_with("/v1/me?a=1"), "{}", seen.target);
    assert_eq!(seen.header("sidekey-connection"), None);
    sink.assert_strict();
    server.finish(&[&token]).await;
}

#[tokio::test]
async fn the_demo_sends_one_request_over_each_kind_of_connection() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = Sidekey::run(&["demo", "--once"], folder.path()).await;
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    for connection in ["bearer", "basic", "header", "query", "cookie", "path", "json", "form", "custom", "none"] {
        let line = run.stdout.lines().find(|line| line.starts_with(connection)).expect(connection);
        assert!(line.contains(" 200 ") && !line.contains("NOT AS EXPECTED"), "{line}");
    }
}
