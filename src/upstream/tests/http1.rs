//! HTTP/1.1: what is written, when a connection is used again, and when a request is.

use http::HeaderMap;
use http_body::Frame;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn sending_costs_a_small_future() {
    on_local(async {
        let (upstream, deadlines) = upstream(plain_settings("127.0.0.1:1".parse().unwrap()));
        let api = origin("http://api.test");
        let size = size_of_val(&upstream.send(&api, &mut outgoing(get("/")), &deadlines, &mut Exchange::default()));
        assert!(size <= 3 * 1024, "{size} bytes are moved for each request");
    })
    .await;
}

#[tokio::test]
async fn a_request_arrives_byte_for_byte_with_the_origins_host() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[OK, OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let path = "/v1/%7euser/a%2Fb//c;x?q=%20+&empty=&q={}|[]^`'";
        let mut request = post(path, "hello");
        for (name, value) in [("x-odd", "a\tb \u{e9}"), ("x-odd", "")] {
            request.headers_mut().append(name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let response = upstream.send_noted(&origin("http://api.test:8080"), request, &deadlines).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        let (_, request) = requests.recv().await.unwrap();
        assert_fields(
            &request,
            &format!("POST {path} HTTP/1.1"),
            &["host: api.test:8080", "content-length: 5", "x-odd: a\tb \u{e9}", "x-odd: "],
        );
        assert!(request.ends_with("\r\n\r\nhello"));

        let empty = Request::post("/").body(Empty::<Bytes>::new()).unwrap();
        upstream.send_noted(&origin("http://api.test:8080"), empty, &deadlines).await.unwrap();
        let (connection, request) = requests.recv().await.unwrap();
        assert_eq!(connection, 0);
        assert_fields(&request, "POST / HTTP/1.1", &["host: api.test:8080", "content-length: 0"]);
    })
    .await;
}

#[tokio::test]
async fn a_body_of_unknown_length_is_chunked_even_with_get_and_keeps_its_trailers() {
    on_local(async {
        let (listener, address) = listen().await;
        let server = tokio::task::spawn_local(async move {
            let mut stream = hold(&listener).await;
            let mut seen = Vec::new();
            while !seen.ends_with(b"x-sum: 1\r\n\r\n") {
                seen.push(stream.read_u8().await.unwrap());
            }
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let (upstream, deadlines) = upstream(plain_settings(address));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "1".parse().unwrap());
        let (feed, body) = fed_body();
        feed.send(Ok(Frame::data(Bytes::from("hi")))).unwrap();
        feed.send(Ok(Frame::trailers(trailers))).unwrap();
        let request = Request::get("/").header("trailer", "x-sum").body(body).unwrap();
        let response = upstream.send_noted(&origin("http://api.test"), request, &deadlines).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "2");
        let seen = server.await.unwrap();
        assert!(seen.contains("\r\ntransfer-encoding: chunked\r\n") && seen.contains("\r\n\r\n2\r\nhi\r\n0\r\n"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_response_was_read() {
    on_local(async {
        let (listener, address) = listen().await;
        const SCRIPT: Script = &[
            OK,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            OK,
        ];
        let mut requests = serve(listener, &[SCRIPT]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        for (expected, reused) in [("ok", false), ("ok", true), ("", true), ("ok", true)] {
            let response = upstream.send_noted(&api, get("/"), &deadlines).await.unwrap();
            let seen = exchange(&response);
            assert_eq!((seen.attempts, seen.reused, seen.connected_in.is_some()), (1, reused, !reused));
            assert_eq!(text(response).await.unwrap(), expected);
            assert_eq!(requests.recv().await.unwrap().0, 0);
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_not_used_again_when_its_body_was_dropped_or_cut() {
    on_local(async {
        let (listener, address) = listen().await;
        const LARGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok";
        let mut requests = serve(listener, &[&[LARGE, OK], &[LARGE], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        drop(upstream.send_noted(&api, get("/dropped"), &deadlines).await.unwrap());
        assert_eq!(requests.recv().await.unwrap().0, 0);

        let response = upstream.send_noted(&api, get("/cut"), &deadlines).await.unwrap();
        assert_eq!(requests.recv().await.unwrap().0, 1);
        assert!(matches!(text(response).await, Err(UpstreamError::Body(_))));

        let response = upstream.send_noted(&api, get("/"), &deadlines).await.unwrap();
        assert!(!exchange(&response).reused);
        assert_eq!(requests.recv().await.unwrap().0, 2);
    })
    .await;
}

#[tokio::test]
async fn dropping_a_body_closes_the_connection() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        let server = async {
            let mut stream = hold(&listener).await;
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await.unwrap();
            stream
        };
        let request = get("/");
        let (mut stream, response) = tokio::join!(server, upstream.send_noted(&api, request, &deadlines));
        drop(response.unwrap());
        assert!(matches!(stream.read(&mut [0]).await, Ok(0) | Err(_)));
    })
    .await;
}

#[tokio::test]
async fn malformed_responses_are_told_apart_from_closed_connections() {
    const HUGE_LINE: usize = 70 * 1024;
    on_local(async {
        let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(HUGE_LINE));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
        for answer in [
            &*huge,
            &*many,
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/1.1 abc Bad\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nx : a\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ] {
            let error = answered(answer).await.err().unwrap_or_else(|| panic!("{answer:.60} was accepted"));
            assert!(matches!(error, UpstreamError::Malformed(_)), "{answer:.60}: {error}");
        }
        for answer in ["", "HTTP/1.1 200 OK\r\ncontent-len"] {
            let error = answered(answer).await.err().unwrap();
            assert!(matches!(error, UpstreamError::Closed(_)), "{answer}: {error}");
        }
        let twice = answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        assert_eq!(text(twice).await.unwrap(), "ok", "equal lengths are one");
        let interim = answered("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nto the end").await;
        assert_eq!(text(interim.unwrap()).await.unwrap(), "to the end");
    })
    .await;
}

async fn answered(answer: &str) -> Result<Received, UpstreamError> {
    let (listener, address) = listen().await;
    let (upstream, deadlines) = upstream(plain_settings(address));
    let server = async {
        let mut stream = hold(&listener).await;
        read_request(&mut stream).await.unwrap();
        // A reader that has seen enough may be gone before everything is written.
        let _ = stream.write_all(answer.as_bytes()).await;
    };
    let api = origin("http://api.test");
    let request = get("/");
    tokio::join!(server, upstream.send_noted(&api, request, &deadlines)).1
}

#[tokio::test]
async fn methods_that_are_never_sent_are_refused_before_dialling() {
    on_local(async {
        let (upstream, deadlines) = upstream(plain_settings("127.0.0.1:1".parse().unwrap()));
        for method in ["TRACE", "CONNECT"] {
            let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            let error = upstream.send_noted(&origin("http://api.test"), request, &deadlines).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Unsendable(_)), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_gets_a_connection_of_its_own_and_the_stream_behind_it() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let server = tokio::task::spawn_local(async move {
            let mut stream = hold(&listener).await;
            let request = read_request(&mut stream).await.unwrap();
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte + 1).await.unwrap();
            request
        });
        let mut request = get("/socket");
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        let mut record = Exchange::default();
        let api = origin("http://api.test");
        let answer = upstream.send_upgrade(&api, &mut outgoing(request), &deadlines, &mut record).await.unwrap();
        assert_eq!(answer.head.status, 101);
        let Switched { mut stream, unread } = *answer.switched.unwrap();
        assert_eq!(unread, b"early", "what came behind the head is not lost");
        stream.write_u8(1).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 2);
        let fields = ["host: api.test", "connection: upgrade", "upgrade: websocket"];
        assert_fields(&server.await.unwrap(), "GET /socket HTTP/1.1", &fields);
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_that_is_declined_is_a_response_like_any_other() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&["HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        let mut record = Exchange::default();
        let response = upstream.send_upgrade(&api, &mut outgoing(get("/")), &deadlines, &mut record).await.unwrap();
        assert_eq!(text(received(response)).await.unwrap(), "no");
        text(upstream.send_noted(&api, get("/"), &deadlines).await.unwrap()).await.unwrap();
        requests.recv().await.unwrap();
        assert_eq!(requests.recv().await.unwrap().0, 1, "the connection was kept");
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_is_given_while_the_upload_goes_on() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        let (feed, body) = fed_body();
        let server = tokio::task::spawn_local(async move {
            let mut stream = hold(&listener).await;
            assert!(read_request(&mut stream).await.unwrap().contains("transfer-encoding: chunked"));
            stream.write_all(OK.as_bytes()).await.unwrap();
            let mut rest = vec![0; "2\r\nhi\r\n0\r\n\r\n".len()];
            stream.read_exact(&mut rest).await.unwrap();
            // The same connection again.
            read_request(&mut stream).await.unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
            String::from_utf8(rest).unwrap()
        });
        let request = Request::post("/").body(body).unwrap();
        let response = upstream.send_noted(&api, request, &deadlines).await.unwrap();
        let mut body = response.into_body();
        assert_eq!((&mut body).collect().await.unwrap().to_bytes(), "ok");
        let body = body.into_source().unwrap();
        assert!(body.is_early());
        feed.send(Ok(Frame::data(Bytes::from("hi")))).unwrap();
        drop(feed);
        // The connection is back when both directions are done.
        body.settle().await;
        let destination = upstream.pool.destination(&api, &upstream.settings).unwrap();
        assert!(destination.has_idle_for_test());
        let response = upstream.send_noted(&api, get("/"), &deadlines).await.unwrap();
        assert!(exchange(&response).reused);
        assert_eq!(server.await.unwrap(), "2\r\nhi\r\n0\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn interim_answers_count_as_an_answer_that_began_and_are_bounded() {
    on_local(async {
        let (listener, address) = listen().await;
        let mut requests = serve(listener, &[&[OK, "HTTP/1.1 103 Early Hints\r\n\r\n"], &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        text(upstream.send_noted(&api, get("/1"), &deadlines).await.unwrap()).await.unwrap();
        let error = upstream.send_noted(&api, get("/2"), &deadlines).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Closed(_)), "{error}");
        requests.recv().await.unwrap();
        requests.recv().await.unwrap();
        assert!(requests.try_recv().is_err());

        let interim = |count| format!("\r\n{}{OK}", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(count));
        assert_eq!(text(answered(&interim(100)).await.unwrap()).await.unwrap(), "ok");
        let error = answered(&interim(101)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Malformed(_)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_without_a_body_leaves_its_connection_usable_and_one_with_more_behind_it_does_not() {
    on_local(async {
        let (listener, address) = listen().await;
        const SCRIPT: Script = &[
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
        ];
        let mut requests = serve(listener, &[SCRIPT, &[OK]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let api = origin("http://api.test");
        for method in ["HEAD", "GET", "GET", "HEAD", "GET"] {
            let request = Request::builder().method(method).uri("/").body(Empty::<Bytes>::new()).unwrap();
            let response = upstream.send_noted(&api, request, &deadlines).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "");
            assert_eq!(requests.recv().await.unwrap().0, 0);
        }
        let response = upstream.send_noted(&api, get("/"), &deadlines).await.unwrap();
        assert_eq!(text(response).await.unwrap(), "ok");
        assert_eq!(requests.recv().await.unwrap().0, 1, "what nobody asked for is nobody's answer");
    })
    .await;
}

/// What an upstream says before it hangs up is heard, although writing to it fails before reading is known to be possible.
#[tokio::test]
async fn an_early_answer_of_an_upstream_that_hangs_up_is_not_lost() {
    on_local(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (upstream, deadlines) = upstream(plain_settings(listener.local_addr().unwrap()));
        let (feed, body) = fed_body();
        feed.send(Ok(Frame::data(Bytes::from("some")))).unwrap();
        let (api, request) = (origin("http://api.test"), Request::post("/").body(body).unwrap());
        let mut sending = Box::pin(upstream.send_noted(&api, request, &deadlines));
        let mut peer = None;
        let mut byte = [0];
        while peer.as_mut().is_none_or(|peer| std::io::Read::read(peer, &mut byte).is_err()) {
            tokio::select! {
                biased;
                _ = &mut sending => panic!("nothing was answered yet"),
                () = tokio::task::yield_now() => {}
            }
            if let Ok((accepted, _)) = listener.accept() {
                accepted.set_nonblocking(true).unwrap();
                peer = Some(accepted);
            }
        }
        // Without a turn of the runtime: an answer, a reset (by what was not read), and more of the body.
        let answer = b"HTTP/1.1 413 Large\r\ncontent-length: 2\r\n\r\nno";
        std::io::Write::write_all(peer.as_mut().unwrap(), answer).unwrap();
        drop(peer);
        feed.send(Ok(Frame::data(Bytes::from("more")))).unwrap();
        let response = sending.await.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(text(response).await.unwrap(), "no");
    })
    .await;
}

/// A body of which a part is staged for HTTP/1.1 is nowhere else.
#[tokio::test]
async fn an_upload_goes_on_while_nothing_is_asked_of_its_answer() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let (feed, body) = fed_body();
        let server = async {
            let mut stream = hold(&listener).await;
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await.unwrap();
            stream
        };
        let (api, request) = (origin("http://api.test"), Request::post("/").body(body).unwrap());
        let (response, mut stream) = tokio::join!(upstream.send_noted(&api, request, &deadlines), server);
        let mut body = response.unwrap().into_body().into_source().unwrap();
        feed.send(Ok(Frame::data(Bytes::from("hi")))).unwrap();
        let mut chunk = [0; 7];
        tokio::select! {
            read = stream.read_exact(&mut chunk) => assert_eq!(read.unwrap(), 7),
            () = std::future::poll_fn(|cx| { body.poll_upload(cx); Poll::Pending }) => {}
        }
        assert_eq!(&chunk, b"2\r\nhi\r\n");
        // A body that fails meanwhile is told when the answer is asked for more.
        feed.send(Err("gone".into())).unwrap();
        std::future::poll_fn(|cx| {
            body.poll_upload(cx);
            Poll::Ready(())
        })
        .await;
        let error = AsBody::new(body).collect().await.err().unwrap();
        assert!(matches!(error, UpstreamError::RequestBody(_)), "{error}");
    })
    .await;
}
