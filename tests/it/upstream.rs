//! The way to upstreams: verified TLS, pooled connections, requests that are sent again only where that is safe.

use std::time::Duration;

use crate::api::{self, API};
use crate::harness::client::h2::H2;
use crate::harness::pki::{self, Validity};
use crate::harness::sink::{End, Gate, HOST, Step};
use crate::harness::{Client, Script, Sidekey, Sink, client, get, problem};

#[tokio::test]
async fn the_version_of_http_is_the_one_both_sides_prefer() {
    let cases: [(&[&str], &str, u8); 4] =
        [(&["h2"], "h2", 2), (&["http/1.1"], "http/1.1", 1), (&["h2", "http/1.1"], "h2", 2), (&[], "", 1)];
    for (alpn, agreed, version) in cases {
        let sink = Sink::builder().tls(&[HOST]).alpn(alpn).start().await;
        let server = api::before(&sink).await;
        assert_eq!(get(server.proxy(), "/", &[API]).await.json()["version"], version);
        let connection = sink.connection(0);
        assert_eq!(connection.sni.as_deref(), Some(HOST));
        let (tls, protocol) = connection.tls.expect("TLS");
        assert_eq!((tls.as_str(), protocol.unwrap_or_default().as_str()), ("TLSv1_3", agreed), "1.3 is preferred");
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn tls_1_2_is_spoken_with_those_who_know_nothing_newer() {
    for alpn in ["h2", "http/1.1"] {
        let sink = Sink::builder().tls(&[HOST]).tls12().alpn(&[alpn]).start().await;
        let server = api::before(&sink).await;
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        assert_eq!(sink.connection(0).tls, Some(("TLSv1_2".to_owned(), Some(alpn.to_owned()))));
        server.finish(&[]).await;
    }
}

/// P-02: an identity that is not verified gets not one byte of a request.
#[tokio::test]
async fn a_certificate_that_does_not_verify_gets_nothing() {
    let authority = pki::authority();
    let wrong = [
        ("another name", authority.leaf(&["other.example.test"])),
        ("expired", authority.leaf_valid(&[HOST], Validity::Expired)),
        ("a stranger's", pki::stranger().leaf(&[HOST])),
        ("a client's", authority.client(HOST)),
    ];
    for (what, leaf) in wrong {
        for alpn in ["h2", "http/1.1"] {
            let sink = Sink::builder().leaf(leaf.clone()).alpn(&[alpn]).start().await;
            let server = api::before(&sink).await;
            let answer = problem(&get(server.proxy(), "/", &[API]).await);
            assert_eq!((answer.status, answer.code.as_str()), (502, "upstream_tls"), "{what}");
            assert!(matches!(sink.closed(0).await, End::Failed(_)), "{what}: the handshake did not end");
            assert_eq!((sink.count(), sink.connection(0).bytes.len()), (0, 0), "{what}");
            server.finish(&[]).await;
        }
    }
}

/// An authority of one's own is trusted beside the system's, not by default.
#[tokio::test]
async fn an_authority_is_trusted_when_the_configuration_names_it() {
    let sink = Sink::builder().leaf(pki::stranger().leaf(&[HOST])).start().await;
    let server = api::with(&sink, |config| {
        let folder = config.folder().join("more");
        std::fs::create_dir(&folder).expect("a folder");
        pki::stranger().write_ca(&folder);
        config.set("upstream.ca_files", vec!["ca.pem", "more/ca.pem"]);
    })
    .await;
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    server.finish(&[]).await;
}

/// One worker, so that there is one pool to watch.
async fn one_worker(sink: &Sink, settings: &[(&str, &str)]) -> Sidekey {
    api::with(sink, |config| {
        config.set("proxy.threads", 1);
        for (name, value) in settings {
            config.set(name, *value);
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_is_used_again() {
    for sink in [Sink::http().await, Sink::https1().await, Sink::https2().await] {
        let server = one_worker(&sink, &[]).await;
        for number in 0..5 {
            // Whoever asks: the pool belongs to the worker, not to a client.
            let reply = client::request(server.proxy(), "POST", "/", &[API], format!("{number}")).await;
            assert_eq!(reply.status, 200);
        }
        assert_eq!((sink.connection_count(), sink.count()), (1, 5));
        let lines = server.access_lines(5).await;
        assert_eq!(lines.iter().filter(|line| line["reused"] == true).count(), 4);
        sink.assert_strict();
        server.finish(&[]).await;
    }
}

/// A client of HTTP/2 may end its body by an empty frame, behind the last byte of a length that it told.
#[tokio::test]
async fn a_connection_is_used_again_after_a_body_whose_end_came_by_itself() {
    for sink in [Sink::https1().await, Sink::https2().await] {
        let server = one_worker(&sink, &[]).await;
        let client = H2::connect(server.proxy()).await;
        for number in 0..5 {
            let headers = [API, ("content-length", "5")];
            let (mut exchange, mut sending) = client.open("POST", "/", &headers, false).await.expect("a stream");
            sending.send_data("hello".into(), false).expect("an open stream");
            sink.request_where("the whole body", |seen| seen.number == number && seen.body_length == 5).await;
            sending.send_data("".into(), true).expect("an open stream");
            assert_eq!(exchange.reply().await.expect("an answer").json()["body"], "hello");
        }
        assert_eq!((sink.connection_count(), sink.count()), (1, 5));
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    for sink in [Sink::https1().await, Sink::https2().await] {
        let server = one_worker(&sink, &[("upstream.pool_idle_timeout", "200ms")]).await;
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        assert_ne!(sink.closed(0).await, End::Script, "without any further request");
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        assert_eq!(sink.connection_count(), 2);
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn an_old_connection_gets_no_new_request() {
    for sink in [Sink::https1().await, Sink::https2().await] {
        let gate = Gate::shut();
        sink.on("/slow", Script::new().gate(&gate).then(Step::Echo));
        let server = one_worker(&sink, &[("upstream.pool_max_age", "200ms")]).await;
        let mut raw = Client::connect(server.proxy()).await;
        raw.request("GET", "/slow", &[API], "").await;
        sink.next_head().await;
        let born = std::time::Instant::now();
        // Asked until it is old: by then another connection serves.
        while born.elapsed() < Duration::from_millis(400) {
            assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        }
        assert_ne!(get(server.proxy(), "/", &[API]).await.json()["connection"], 0);
        gate.open();
        assert_eq!(raw.response().await.json()["connection"], 0, "what was begun on the old one is finished");
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_the_configuration_says() {
    let sink = Sink::https1().await;
    let gate = Gate::shut();
    sink.otherwise(Script::new().gate(&gate).then(Step::Echo));
    let server = api::with(&sink, |config| {
        config.set("proxy.threads", 1).set("upstream.pool_max_idle_per_host", 1);
    })
    .await;
    let client = H2::connect(server.proxy()).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(client.open("GET", "/", &[API], true).await.expect("a stream").0);
        sink.next_head().await;
    }
    assert_eq!(sink.connection_count(), 3, "HTTP/1.1 takes one request at a time");
    gate.open();
    for stream in &mut streams {
        assert_eq!(stream.reply().await.expect("an answer").status, 200);
    }
    // Two of the three are closed, whichever.
    let closed = async {
        tokio::select! { _ = sink.closed(0) => 0, _ = sink.closed(1) => 1, _ = sink.closed(2) => 2 }
    };
    let first = closed.await;
    let others: Vec<usize> = (0..3).filter(|number| *number != first).collect();
    tokio::select! { _ = sink.closed(others[0]) => {}, _ = sink.closed(others[1]) => {} }
    let open = (0..3).filter(|number| sink.connection(*number).end.is_none()).count();
    assert_eq!(open, 1);
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    assert_eq!(sink.connection_count(), 3);
    server.finish(&[]).await;
}

/// More streams than one HTTP/2 connection takes are spread over several.
#[tokio::test]
async fn a_load_opens_several_http2_connections() {
    let sink = Sink::builder().tls(&[HOST]).alpn(&["h2"]).max_streams(10).start().await;
    let gate = Gate::shut();
    sink.otherwise(Script::new().gate(&gate).then(Step::Echo));
    let server = one_worker(&sink, &[]).await;
    let client = H2::connect(server.proxy()).await;
    let mut streams = Vec::new();
    for _ in 0..35 {
        streams.push(client.open("GET", "/", &[API], true).await.expect("a stream").0);
    }
    for _ in 0..35 {
        sink.next_head().await;
    }
    assert_eq!(sink.connection_count(), 4);
    gate.open();
    for mut stream in streams {
        assert_eq!(stream.reply().await.expect("an answer").status, 200);
    }
    server.finish(&[]).await;
}

/// A connection that a request has used, and that its upstream then ends when the next request comes.
async fn used_connection(sink: &Sink, server: &Sidekey) {
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    assert_eq!(sink.next_request().await.connection, 0);
}

/// CONTRACT §2.4: once, on a reused connection, if no answer came, the method is idempotent and there was no body.
#[tokio::test]
async fn a_request_is_sent_again_only_where_that_is_safe() {
    let cases = [
        ("GET", "", true),
        ("HEAD", "", true),
        ("DELETE", "", true),
        ("PUT", "body", false),
        ("POST", "", false),
        ("POST", "body", false),
        ("PATCH", "", false),
    ];
    for (method, body, again) in cases {
        let sink = Sink::https1().await;
        let server = one_worker(&sink, &[]).await;
        used_connection(&sink, &server).await;
        sink.next(Script::new().then(Step::ReadBody).then(Step::Reset));
        let reply = client::request(server.proxy(), method, "/", &[API], body).await;
        assert_eq!(reply.status, if again { 200 } else { 502 }, "{method} {body}");
        assert_eq!(sink.count(), if again { 3 } else { 2 }, "{method} {body}");
        server.finish(&[]).await;
    }
}

#[tokio::test]
async fn a_request_is_not_sent_again_a_second_time_or_on_a_new_connection_or_after_an_answer_began() {
    let sink = Sink::https1().await;
    let server = one_worker(&sink, &[]).await;
    // New connection.
    sink.next(Script::new().then(Step::ReadBody).then(Step::Fin));
    assert_eq!(problem(&get(server.proxy(), "/", &[API]).await).code, "upstream_closed");
    assert_eq!(sink.count(), 1);
    // The second time.
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    sink.next(Script::new().then(Step::ReadBody).then(Step::Fin))
        .next(Script::new().then(Step::ReadBody).then(Step::Fin));
    assert_eq!(problem(&get(server.proxy(), "/", &[API]).await).code, "upstream_closed");
    assert_eq!(sink.count(), 4);
    // A part of an answer.
    assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    sink.next(Script::cut_in_head(Step::Fin));
    assert_eq!(problem(&get(server.proxy(), "/", &[API]).await).code, "upstream_closed");
    assert_eq!(sink.count(), 6);
    server.finish(&[]).await;
}

/// EX-25: the upstream ends a pooled connection at the worst moment, many times: no POST arrives twice.
#[tokio::test]
async fn a_post_never_arrives_twice() {
    let sink = Sink::https1().await;
    let server = one_worker(&sink, &[]).await;
    let mut refused = 0;
    for number in 0..100 {
        // Answered and then ended at once: the next request may meet the end on its way.
        sink.next(Script::ok("first").then(Step::Fin));
        assert_eq!(client::request(server.proxy(), "POST", &format!("/a{number}"), &[API], "x").await.status, 200);
        let reply = client::request(server.proxy(), "POST", &format!("/b{number}"), &[API], "x").await;
        assert!(matches!(reply.status, 200 | 502), "{}", reply.status);
        refused += usize::from(reply.status == 502);
    }
    let mut targets: Vec<String> = sink.requests().into_iter().map(|seen| seen.target).collect();
    let before = targets.len();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), before, "a POST arrived twice");
    assert!(before >= 200 - refused, "{before} arrived, {refused} were refused");
    server.finish(&[]).await;
}

/// Over HTTP/2 the upstream says itself that it did nothing with a stream.
#[tokio::test]
async fn a_refused_stream_is_sent_again_and_a_reset_one_is_not() {
    for method in ["GET", "POST"] {
        let sink = Sink::https2().await;
        let server = one_worker(&sink, &[]).await;
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
        sink.next(Script::new().then(Step::RefuseStream));
        assert_eq!(client::request(server.proxy(), method, "/", &[API], "").await.status, 200, "{method}");
        assert_eq!(sink.count(), 3);
        sink.next(Script::new().then(Step::ReadBody).then(Step::Reset));
        assert_eq!(client::request(server.proxy(), method, "/", &[API], "").await.status, 502, "{method}");
        assert_eq!(sink.count(), 4);
        server.finish(&[]).await;
    }
}

/// An upstream that says goodbye finishes what it has and gets nothing more.
#[tokio::test]
async fn a_goodbye_moves_the_next_request_to_another_connection() {
    let sink = Sink::https2().await;
    let gate = Gate::shut();
    sink.on("/last", Script::new().then(Step::GoAway).gate(&gate).then(Step::Echo));
    let server = one_worker(&sink, &[]).await;
    let client = H2::connect(server.proxy()).await;
    let (mut last, _) = client.open("GET", "/last", &[API], true).await.expect("a stream");
    sink.next_head().await;
    // Until the goodbye has arrived, a request may still go where it came from.
    while client.get("/", &[API]).await.json()["connection"] == 0 {}
    gate.open();
    assert_eq!(last.reply().await.expect("an answer").json()["connection"], 0);
    server.finish(&[]).await;
}

/// The environment of the server names no way to upstreams.
#[tokio::test]
async fn proxies_named_by_the_environment_are_ignored() {
    let (sink, evil) = (Sink::https().await, Sink::http().await);
    let server = api::with(&sink, |config| {
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            config.env(name, &format!("http://{}", evil.addr));
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(get(server.proxy(), "/", &[API]).await.status, 200);
    }
    assert_eq!((evil.connection_count(), sink.count()), (0, 3));
    server.finish(&[]).await;
}
