//! Each deadline by its own name, and what does not count against it.

use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};

use super::*;
use crate::tls::{HandshakeError, TlsError};

const BUDGET: Duration = Duration::from_secs(5);

async fn failure(upstream: &Upstream, origin_text: &str, deadlines: &Deadlines) -> UpstreamError {
    let origin = origin(origin_text);
    let outcome = timeout(BUDGET, upstream.send_noted(&origin, get("/"), deadlines)).await;
    outcome.expect("the deadline holds").expect_err("nobody answers")
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_a_dns_error() {
    on_local(async {
        let (upstream, deadlines) = upstream(plain_settings("127.0.0.1:1".parse().unwrap()));
        let error = failure(&upstream, "http://nowhere.invalid", &deadlines).await;
        assert!(matches!(error, UpstreamError::Dns(DnsError::Failed(_) | DnsError::NoAddress)), "{error}");
        let none_left = Deadlines { connect: Duration::ZERO, ..deadlines };
        let error = failure(&upstream, "http://nowhere.invalid", &none_left).await;
        assert!(matches!(error, UpstreamError::Dns(DnsError::Timeout)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_closed_port_refuses() {
    on_local(async {
        let (listener, address) = listen().await;
        drop(listener);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let error = failure(&upstream, "http://api.test", &deadlines).await;
        assert!(matches!(error, UpstreamError::Refused(_)), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_full_backlog_is_a_connect_timeout() {
    on_local(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(SHORT, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
            assert!(waiting.len() < 64, "the backlog never fills");
        }
        let (upstream, deadlines) = upstream(plain_settings(address));
        let error = failure(&upstream, "http://api.test", &Deadlines { connect: SHORT, ..deadlines }).await;
        assert!(matches!(error, UpstreamError::ConnectTimeout), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_silent_handshake_is_a_tls_timeout_and_those_behind_it_wait_for_a_connection() {
    on_local(async {
        let (listener, address) = listen().await;
        let settings = Settings { tls_timeout: 2 * SHORT, ..plain_settings(address) };
        let (upstream, deadlines) = upstream(settings);
        let impatient = Deadlines { connect: SHORT, ..deadlines };
        let (first, second, _held) = tokio::join!(
            failure(&upstream, "https://api.test", &deadlines),
            failure(&upstream, "https://api.test", &impatient),
            hold(&listener),
        );
        assert!(matches!(first, UpstreamError::TlsTimeout), "{first}");
        assert!(matches!(second, UpstreamError::ConnectTimeout), "{second}");
    })
    .await;
}

#[tokio::test]
async fn no_answer_is_a_response_timeout() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let deadlines = Deadlines { response: SHORT, ..deadlines };
        let (error, mut held) = tokio::join!(failure(&upstream, "http://api.test", &deadlines), hold(&listener));
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error}");
        read_request(&mut held).await.unwrap();
        assert!(matches!(held.read(&mut [0]).await, Ok(0) | Err(_)), "the connection is closed");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stops_is_an_idle_timeout_and_one_that_drips_is_not() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let deadlines = Deadlines { idle: SHORT, ..deadlines };
        let server = tokio::task::spawn_local(async move {
            let mut stream = hold(&listener).await;
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await.unwrap();
            for _ in 0..6 {
                tokio::time::sleep(SHORT / 2).await; // the drip is what is tested
                stream.write_all(b"x").await.unwrap();
            }
            stream
        });
        let start = Instant::now();
        let response = upstream.send_noted(&origin("http://api.test"), get("/"), &deadlines).await.unwrap();
        let mut body = response.into_body();
        let mut count = 0;
        let error = loop {
            match timeout(BUDGET, body.frame()).await.unwrap().unwrap() {
                Ok(frame) => count += frame.into_data().unwrap().len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, UpstreamError::IdleTimeout), "{error}");
        assert_eq!(count, 6);
        assert!(start.elapsed() >= 4 * SHORT);
        assert!(body.frame().await.is_none() && body.is_end_stream());
        drop(server.await.unwrap());
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_not_an_idle_upstream() {
    on_local(async {
        let (listener, address) = listen().await;
        let _requests = serve(listener, &[&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]]);
        let (upstream, deadlines) = upstream(plain_settings(address));
        let deadlines = Deadlines { idle: SHORT, ..deadlines };
        let response = upstream.send_noted(&origin("http://api.test"), get("/"), &deadlines).await.unwrap();
        tokio::time::sleep(2 * SHORT).await; // the time the reader takes
        assert_eq!(text(response).await.unwrap(), "ok");
    })
    .await;
}

#[tokio::test]
async fn an_upload_longer_than_the_response_deadline_passes_while_it_moves() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let deadlines = Deadlines { response: SHORT, idle: 3 * SHORT, ..deadlines };
        let (feed, body) = fed_body();
        let client = tokio::task::spawn_local(async move {
            for _ in 0..4 {
                tokio::time::sleep(SHORT).await; // a slow upload is what is tested
                feed.send(Ok(Frame::data(Bytes::from("x")))).unwrap();
            }
        });
        let server = async {
            let mut stream = hold(&listener).await;
            read_request(&mut stream).await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"0\r\n\r\n") {
                seen.push(stream.read_u8().await.unwrap());
            }
            stream // and never an answer
        };
        let request = Request::post("/").body(body).unwrap();
        let api = origin("http://api.test");
        let start = Instant::now();
        let (outcome, _held) = tokio::join!(upstream.send_noted(&api, request, &deadlines), server);
        assert!(matches!(outcome, Err(UpstreamError::ResponseTimeout)), "{outcome:?}");
        let took = start.elapsed();
        assert!((5 * SHORT..9 * SHORT).contains(&took), "{took:?}");
        client.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_more_is_an_idle_timeout() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let deadlines = Deadlines { idle: SHORT, ..deadlines };
        // More than the socket buffers of both sides hold.
        let request = Request::post("/").body(Full::from(vec![b'x'; 64 << 20])).unwrap();
        let api = origin("http://api.test");
        let (outcome, _held) = tokio::join!(upstream.send_noted(&api, request, &deadlines), hold(&listener));
        assert!(matches!(outcome, Err(UpstreamError::IdleTimeout)), "{outcome:?}");
    })
    .await;
}

#[tokio::test]
async fn a_body_that_fails_at_its_source_comes_back_as_what_it_was() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(plain_settings(address));
        let (feed, body) = fed_body();
        feed.send(Ok(Frame::data(Bytes::from("x")))).unwrap();
        feed.send(Err(Box::new(TlsError::Configuration("mine".into())))).unwrap();
        let request = Request::post("/").body(body).unwrap();
        let api = origin("http://api.test");
        let (outcome, _held) = tokio::join!(upstream.send_noted(&api, request, &deadlines), hold(&listener));
        let Err(UpstreamError::RequestBody(source)) = outcome else { panic!("{outcome:?}") };
        assert!(source.downcast_ref::<TlsError>().is_some());
    })
    .await;
}

#[tokio::test]
async fn connections_grow_old_without_traffic_and_hosts_are_forgotten() {
    on_local(async {
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(Settings { pool_idle_timeout: SHORT, ..plain_settings(address) });
        let api = origin("http://api.test");
        let server = async {
            let mut stream = hold(&listener).await;
            read_request(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            stream
        };
        let request = get("/");
        let (response, mut stream) = tokio::join!(upstream.send_noted(&api, request, &deadlines), server);
        drop(response.unwrap());
        assert_eq!(upstream.pool.len(), 1);
        assert!(matches!(timeout(BUDGET, stream.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
        assert_eq!(upstream.pool.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_old_connection_gets_no_new_request_and_few_are_kept() {
    const NONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    on_local(async {
        for (age, kept) in [(Duration::ZERO, 8), (LONG, 0)] {
            let (listener, address) = listen().await;
            let mut requests = serve(listener, &[&[NONE, NONE], &[NONE]]);
            let settings = Settings { pool_max_age: age, pool_max_idle_per_host: kept, ..plain_settings(address) };
            let (upstream, deadlines) = upstream(settings);
            for expected in 0..2 {
                upstream.send_noted(&origin("http://api.test"), get("/"), &deadlines).await.unwrap();
                assert_eq!(requests.recv().await.unwrap().0, expected);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn prohibited_addresses_are_not_dialled_however_they_are_written() {
    on_local(async {
        let (listener, address) = listen().await;
        let port = address.port();
        let closed = Settings { allow_networks: Vec::new(), ..plain_settings(address) };
        let own = Settings { own_listeners: vec![address], ..plain_settings(address) };
        for (settings, targets) in [
            (
                closed,
                vec![
                    format!("127.0.0.1:{port}"),
                    "api.test".into(),
                    format!("[::ffff:127.0.0.1]:{port}"),
                    format!("localhost:{port}"),
                    format!("127.1:{port}"),
                    format!("2130706433:{port}"),
                ],
            ),
            (own, vec![format!("127.0.0.1:{port}"), "api.test".into(), format!("[::ffff:127.0.0.1]:{port}")]),
        ] {
            let (upstream, deadlines) = upstream(settings);
            for target in targets {
                let error = failure(&upstream, &format!("http://{target}"), &deadlines).await;
                assert!(matches!(error, UpstreamError::AddressProhibited), "{target}: {error}");
            }
        }
        assert!(timeout(SHORT, listener.accept()).await.is_err(), "somebody dialled");
    })
    .await;
}

#[test]
fn messages_are_short_and_lower_case() {
    let errors = [
        UpstreamError::Dns(DnsError::Timeout),
        UpstreamError::AddressProhibited,
        UpstreamError::Tls(HandshakeError::Protocol("x".into())),
        UpstreamError::Malformed("a 101 nobody asked for".into()),
    ];
    for error in errors {
        let message = error.to_string();
        assert!(!message.ends_with('.') && message.starts_with(char::is_lowercase), "{message}");
    }
}
