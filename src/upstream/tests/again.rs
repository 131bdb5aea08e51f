//! When a request is sent again by itself over HTTP/1.1, and when never.

use std::task::{Context, Waker};

use super::*;
use crate::upstream::http1::{Failed, attempt};
use crate::upstream::pool::{Kept, Lease};
use http_body::Frame;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn came(reused: bool) -> super::super::http1::Came {
    super::super::http1::Came { reused, is_watched: false, at: Instant::now() }
}

#[tokio::test]
async fn a_get_on_a_stale_connection_is_sent_once_more_on_a_new_one() {
    on_local(async {
        let (listener, address) = listen().await;
        // The first connection reads the second request and hangs up without an answer.
        let mut requests = serve(listener, &[&[OK, ""], &[OK, ""], &[""]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
        let response = upstream.send_noted(&api, get("/2"), &deadlines).await.unwrap();
        let seen = exchange(&response);
        assert_eq!((seen.attempts, seen.reused), (2, false));
        text(response).await.unwrap();

        // Never a third time: the new connection may not be one that was used before.
        let mut record = Exchange::default();
        let error = upstream.ask(&api, get("/3"), &deadlines, &mut record).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Closed(_)), "{error}");
        assert_eq!((record.attempts, record.reused), (2, false));

        let mut seen = Vec::new();
        for _ in 0..5 {
            let (connection, request) = requests.recv().await.unwrap();
            seen.push(format!("{connection} {}", request.split(' ').nth(1).unwrap()));
        }
        assert_eq!(seen, ["0 /1", "0 /2", "1 /2", "1 /3", "2 /3"]);
    })
    .await;
}

#[tokio::test]
async fn what_was_begun_and_might_have_had_an_effect_is_never_sent_twice() {
    on_local(async {
        for request in [
            || post("/2", "body"),
            || post("/2", ""),
            || Request::put("/2").body(Full::from("body")).unwrap(),
            || Request::patch("/2").body(Full::from("")).unwrap(),
        ] {
            let (listener, address) = listen().await;
            let mut requests = serve(listener, &[&[OK, ""], &[OK]]);
            let (upstream, deadlines) = upstream(plain_settings(address));
            let api = origin("http://api.test");
            text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
            let mut record = Exchange::default();
            let error = upstream.ask(&api, request(), &deadlines, &mut record).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Closed(_)), "{error}");
            assert_eq!((record.attempts, record.reused), (1, true));
            // The next one is the first on the second connection: nothing was sent there before.
            text(upstream.send_noted(&api, get("/3"), &deadlines).await.unwrap()).await.unwrap();
            let mut seen = Vec::new();
            for _ in 0..3 {
                let (connection, request) = requests.recv().await.unwrap();
                seen.push(format!("{connection} {}", request.split(' ').nth(1).unwrap()));
            }
            assert_eq!(seen, ["0 /1", "0 /2", "1 /3"]);
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_began_is_not_asked_for_again() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[OK, "HTTP/1.1 200 OK\r\n"], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
        let error = upstream.send_noted(&api, get("/2"), &deadlines).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Closed(_)), "{error}");
        requests.recv().await.unwrap();
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_fresh_connection_gets_no_second_try() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[""], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let mut record = Exchange::default();
        let api = origin("http://api.test");
        let error = upstream.ask(&api, get("/"), &deadlines, &mut record).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Closed(_)), "{error}");
        assert_eq!((record.attempts, record.reused), (1, false));
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err());
    })
    .await;
}

#[tokio::test]
async fn a_post_on_a_connection_closed_while_idle_arrives_once() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[OK], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
        until_empty(&upstream).await;
        let response = upstream.send_noted(&api, post("/2", "body"), &deadlines).await.unwrap();
        assert_eq!(exchange(&response).attempts, 1);
        text(response).await.unwrap();
        assert_eq!(requests.recv().await.unwrap().0, 0);
        let (connection, request) = requests.recv().await.unwrap();
        assert!(connection == 1 && request.ends_with("body"));
    })
    .await;
}

#[tokio::test]
async fn an_unsent_post_is_handed_back_and_sent_on_a_new_connection() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        let (gone, ended) = tokio::sync::oneshot::channel();
        let server = tokio::task::spawn_local(async move {
            let mut first = hold(&listener).await;
            read_request(&mut first).await.unwrap();
            first.write_all(OK.as_bytes()).await.unwrap();
            ended.await.unwrap();
            first.set_zero_linger().unwrap();
            drop(first);
            let mut second = hold(&listener).await;
            let request = read_request(&mut second).await.unwrap();
            second.write_all(OK.as_bytes()).await.unwrap();
            request
        });
        text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
        // By hand on a connection that died after it was taken out of the pool.
        let destination = upstream.pool.destination(&api, &upstream.settings).unwrap();
        let leased = destination.lease(upstream.dial_limits(&deadlines), Kept::Any).await.unwrap();
        let Lease::Http1(mut connection) = leased.lease else { panic!("not HTTP/1.1") };
        gone.send(()).unwrap();
        while connection.is_quiet(&mut Context::from_waker(Waker::noop())) {
            tokio::task::yield_now().await;
        }
        let mut request = outgoing(post("/2", "body"));
        let purpose = Purpose::Exchange;
        let outcome = attempt(connection, &destination, &mut request, None, &deadlines, purpose, came(true)).await;
        let Err(Failed::Again(staged)) = outcome else { panic!("not handed back") };
        let leased = destination.lease(upstream.dial_limits(&deadlines), Kept::NoIdle).await.unwrap();
        let Lease::Http1(connection) = leased.lease else { panic!("not HTTP/1.1") };
        let outcome = attempt(connection, &destination, &mut request, staged, &deadlines, purpose, came(false)).await;
        let Ok(answered) = outcome else { panic!("not sent") };
        text(received(answered)).await.unwrap();
        let request = server.await.unwrap();
        assert_fields(&request, "POST /2 HTTP/1.1", &["host: api.test", "content-length: 4"]);
        assert!(request.ends_with("body"));
    })
    .await;
}

#[tokio::test]
async fn a_staged_body_keeps_its_framing_when_it_is_handed_on() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        let destination = upstream.pool.destination(&api, &upstream.settings).unwrap();
        let lease = || destination.lease(upstream.dial_limits(&deadlines), Kept::NoIdle);
        let (leased, first) = tokio::join!(lease(), hold(&listener));
        let Lease::Http1(mut connection) = leased.unwrap().lease else { panic!("not HTTP/1.1") };
        first.set_zero_linger().unwrap();
        drop(first);
        while connection.is_quiet(&mut Context::from_waker(Waker::noop())) {
            tokio::task::yield_now().await;
        }
        let (feed, body) = fed_body();
        feed.send(Ok(Frame::data(Bytes::from("hi")))).unwrap();
        let mut request = outgoing(Request::post("/").body(body).unwrap());
        let purpose = Purpose::Exchange;
        let outcome = attempt(connection, &destination, &mut request, None, &deadlines, purpose, came(true)).await;
        let Err(Failed::Again(Some(staged))) = outcome else { panic!("not handed back") };
        assert!(staged.holds_body && request.body.is_some());
        // By now the rest says of itself that it is empty.
        request.body = Some(Box::new(FromBody::new(Empty::<Bytes>::new().map_err(Into::into))));
        let (leased, mut second) = tokio::join!(lease(), hold(&listener));
        let Lease::Http1(connection) = leased.unwrap().lease else { panic!("not HTTP/1.1") };
        let server = async {
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n2\r\nhi\r\n0\r\n\r\n") {
                seen.push(second.read_u8().await.unwrap());
            }
            second.write_all(OK.as_bytes()).await.unwrap();
        };
        let sent = attempt(connection, &destination, &mut request, Some(staged), &deadlines, purpose, came(false));
        let (outcome, ()) = tokio::join!(sent, server);
        assert!(outcome.is_ok());
    })
    .await;
}
