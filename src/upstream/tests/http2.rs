//! HTTP/2, agreed on by ALPN: shared connections, a second one under load, and when a stream is opened again.

use std::cell::Cell;

use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::tls::{Negotiated, ServerStream};

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// An HTTP/2 server: each stream it accepts comes out of the channel, with the number of its connection.
struct Server {
    streams: UnboundedReceiver<(usize, Stream)>,
    connections: Rc<Cell<usize>>,
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    GoAway,
}

async fn serve_h2(max_streams: Option<u32>) -> (Server, Upstream, Deadlines) {
    let ca = Ca::new();
    let (listener, address) = listen().await;
    let (upstream, deadlines) = upstream(settings(ca.client(), address));
    let (report, streams) = mpsc::unbounded_channel();
    let (commands, mut orders) = mpsc::unbounded_channel();
    let connections = Rc::new(Cell::new(0));
    let counted = Rc::clone(&connections);
    tokio::task::spawn_local(async move {
        let tls = ca.server(&["api.test"]);
        // The first connection takes orders.
        let mut orders = Some(async move { orders.recv().await });
        loop {
            let (stream, agreed) = tls.accept(hold(&listener).await).await.unwrap();
            assert_eq!(agreed, Negotiated::Http2);
            let number = counted.replace(counted.get() + 1);
            let mut builder = h2::server::Builder::new();
            if let Some(max) = max_streams {
                builder.max_concurrent_streams(max);
            }
            let connection: Connection<ServerStream<TcpStream>, Bytes> = builder.handshake(stream).await.unwrap();
            let report = report.clone();
            let orders = orders.take();
            tokio::task::spawn_local(async move {
                let mut connection = connection;
                let order = async {
                    match orders {
                        Some(orders) => orders.await,
                        None => std::future::pending().await,
                    }
                };
                let mut order = std::pin::pin!(order);
                loop {
                    tokio::select! {
                        stream = connection.accept() => match stream {
                            Some(Ok(stream)) => drop(report.send((number, stream))),
                            _ => return,
                        },
                        Some(Command::GoAway) = &mut order => {
                            connection.graceful_shutdown();
                            while let Some(Ok(stream)) = connection.accept().await {
                                drop(report.send((number, stream)));
                            }
                            return;
                        }
                    }
                }
            });
        }
    });
    (Server { streams, connections, commands }, upstream, deadlines)
}

fn answer(mut respond: SendResponse<Bytes>, body: &'static str) {
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(Bytes::from(body), true).unwrap();
}

#[tokio::test]
async fn a_cold_burst_shares_one_connection() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let upstream = Rc::new(upstream);
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let upstream = Rc::clone(&upstream);
            waiting.push(tokio::task::spawn_local(async move {
                let response =
                    upstream.send_noted(&origin("https://api.test"), get("/p?q=%7e"), &deadlines).await.unwrap();
                let seen = exchange(&response);
                assert_eq!(seen.attempts, 1);
                assert_eq!(text(response).await.unwrap(), "ok");
                seen.reused
            }));
        }
        let mut held = Vec::new();
        for _ in 0..20 {
            let (connection, (request, respond)) = server.streams.recv().await.unwrap();
            assert_eq!(connection, 0);
            assert_eq!(request.uri(), "https://api.test/p?q=%7e");
            assert!(request.headers().is_empty());
            held.push(respond);
        }
        held.into_iter().for_each(|respond| answer(respond, "ok"));
        let mut fresh = 0;
        for task in waiting {
            fresh += usize::from(!task.await.unwrap());
        }
        assert_eq!((fresh, server.connections.get()), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_full_connection_gets_a_second_one_beside_it() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(Some(2)).await;
        let upstream = Rc::new(upstream);
        let mut waiting = Vec::new();
        for _ in 0..5 {
            let upstream = Rc::clone(&upstream);
            waiting.push(tokio::task::spawn_local(async move {
                text(upstream.send_noted(&origin("https://api.test"), get("/"), &deadlines).await.unwrap())
                    .await
                    .unwrap()
            }));
        }
        // All five are there at once although no stream was answered.
        let mut held = Vec::new();
        let mut loads = [0; 3];
        for _ in 0..5 {
            let (connection, (_, respond)) = server.streams.recv().await.unwrap();
            loads[connection] += 1;
            held.push(respond);
        }
        assert_eq!(loads, [2, 2, 1]);
        held.into_iter().for_each(|respond| answer(respond, "ok"));
        for task in waiting {
            assert_eq!(task.await.unwrap(), "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn te_and_trailers_pass_in_both_directions() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let mut request = post("/", "hello");
        for (name, value) in [("te", "trailers"), ("x", "y")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let api = origin("https://api.test");
        let serve = async {
            let (_, (mut request, mut respond)) = server.streams.recv().await.unwrap();
            let body = request.body_mut().data().await.unwrap().unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(body, false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
            request
        };
        let (response, request) = tokio::join!(upstream.send_noted(&api, request, &deadlines), serve);
        let mut names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-length", "te", "x"]);
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "1");
        assert_eq!(body.to_bytes(), "hello");
    })
    .await;
}

/// Opens the first connection, so that the next request finds it used.
async fn warm(server: &mut Server, upstream: &Upstream, deadlines: &Deadlines) {
    let api = origin("https://api.test");
    let serve = async {
        let (_, (_, respond)) = server.streams.recv().await.unwrap();
        answer(respond, "ok");
    };
    let (response, ()) = tokio::join!(upstream.send_noted(&api, get("/warm"), deadlines), serve);
    text(response.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_refused_stream_is_opened_again_elsewhere_and_a_reset_one_is_not() {
    on_local(async {
        for (reason, again) in [(Reason::REFUSED_STREAM, true), (Reason::INTERNAL_ERROR, false)] {
            let (mut server, upstream, deadlines) = serve_h2(None).await;
            warm(&mut server, &upstream, &deadlines).await;
            let api = origin("https://api.test");
            let mut record = Exchange::default();
            let serve = async {
                let (connection, (_, mut respond)) = server.streams.recv().await.unwrap();
                assert_eq!(connection, 0);
                respond.send_reset(reason);
                if again {
                    let (connection, (_, respond)) = server.streams.recv().await.unwrap();
                    assert_eq!(connection, 1);
                    answer(respond, "ok");
                }
            };
            let request = Request::post("/").body(Empty::<Bytes>::new()).unwrap();
            let (outcome, ()) = tokio::join!(upstream.ask(&api, request, &deadlines, &mut record), serve);
            assert_eq!(record.attempts, if again { 2 } else { 1 });
            match outcome {
                Ok(response) => assert!(again && text(response).await.unwrap() == "ok"),
                Err(error) => assert!(!again && matches!(error, UpstreamError::Closed(_)), "{error}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_was_begun_is_not_sent_again_even_if_the_stream_was_refused() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        warm(&mut server, &upstream, &deadlines).await;
        let api = origin("https://api.test");
        let mut record = Exchange::default();
        let serve = async {
            let (_, (mut request, mut respond)) = server.streams.recv().await.unwrap();
            request.body_mut().data().await.unwrap().unwrap();
            respond.send_reset(Reason::REFUSED_STREAM);
        };
        let (outcome, ()) = tokio::join!(upstream.ask(&api, post("/", "body"), &deadlines, &mut record), serve);
        assert!(matches!(outcome, Err(UpstreamError::Closed(_))), "{outcome:?}");
        assert_eq!(record.attempts, 1);
    })
    .await;
}

#[tokio::test]
async fn after_goaway_open_streams_finish_and_new_ones_go_elsewhere() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        warm(&mut server, &upstream, &deadlines).await;
        let upstream = Rc::new(upstream);
        let sender = Rc::clone(&upstream);
        let open = tokio::task::spawn_local(async move {
            text(sender.send_noted(&origin("https://api.test"), get("/open"), &deadlines).await.unwrap()).await.unwrap()
        });
        let (connection, (_, respond)) = server.streams.recv().await.unwrap();
        assert_eq!(connection, 0);
        server.commands.send(Command::GoAway).unwrap();
        // Requests go on; from some moment on they reach a second connection. None fails.
        let api = origin("https://api.test");
        loop {
            let serve = async {
                let (connection, (_, respond)) = server.streams.recv().await.unwrap();
                answer(respond, "ok");
                connection
            };
            let (response, connection) = tokio::join!(upstream.send_noted(&api, get("/"), &deadlines), serve);
            assert_eq!(text(response.unwrap()).await.unwrap(), "ok");
            if connection == 1 {
                break;
            }
        }
        answer(respond, "late");
        assert_eq!(open.await.unwrap(), "late");
    })
    .await;
}

#[tokio::test]
async fn a_dropped_body_resets_its_stream_and_leaves_the_others_alone() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let api = origin("https://api.test");
        let serve = async {
            let (_, (_, mut respond)) = server.streams.recv().await.unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from("half"), false).unwrap();
            stream
        };
        let (response, mut stream) = tokio::join!(upstream.send_noted(&api, get("/"), &deadlines), serve);
        drop(response.unwrap());
        let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, Reason::CANCEL);
        warm(&mut server, &upstream, &deadlines).await;
        assert_eq!(server.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_upload_resets_its_stream() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let api = origin("https://api.test");
        let (feed, body) = fed_body();
        feed.send(Ok(Frame::data(Bytes::from("x")))).unwrap();
        let request = Request::post("/").body(body).unwrap();
        let mut sending = Box::pin(upstream.send_noted(&api, request, &deadlines));
        let (_, (mut request, respond)) = tokio::select! {
            outcome = &mut sending => panic!("{outcome:?}"),
            stream = server.streams.recv() => stream.unwrap(),
        };
        request.body_mut().data().await.unwrap().unwrap();
        drop(sending);
        let error = request.body_mut().data().await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::CANCEL));
        drop((respond, feed));
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_fell_silent_gets_no_more_streams() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        warm(&mut server, &upstream, &deadlines).await;
        let api = origin("https://api.test");
        let impatient = Deadlines { response: SHORT, ..deadlines };
        let error = upstream.send_noted(&api, get("/"), &impatient).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ResponseTimeout), "{error}");
        let _unanswered = server.streams.recv().await.unwrap();
        warm(&mut server, &upstream, &deadlines).await;
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_old_connection_is_drained() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let settings = Settings { pool_max_age: Duration::ZERO, ..(*upstream.settings).clone() };
        let (upstream, _) = super::upstream(settings);
        warm(&mut server, &upstream, &deadlines).await;
        warm(&mut server, &upstream, &deadlines).await;
        assert_eq!(server.connections.get(), 2);
        let destination = upstream.pool.destination(&origin("https://api.test"), &upstream.settings).unwrap();
        assert!(destination.shared_for_test().len() <= 1);
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_takes_no_more_of_an_upload_loses_its_connection() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        warm(&mut server, &upstream, &deadlines).await;
        let api = origin("https://api.test");
        let impatient = Deadlines { idle: SHORT, ..deadlines };
        // The server reads nothing of the body, so its window is used up at 64 KiB.
        let request = Request::post("/").body(Full::from(vec![b'x'; 1 << 20])).unwrap();
        let (outcome, stream) = tokio::join!(upstream.send_noted(&api, request, &impatient), server.streams.recv());
        assert!(matches!(outcome, Err(UpstreamError::IdleTimeout)), "{outcome:?}");
        let (_, (mut request, _respond)) = stream.unwrap();
        until_empty(&upstream).await;
        while let Some(Ok(data)) = request.body_mut().data().await {
            assert!(!data.is_empty());
        }
        warm(&mut server, &upstream, &deadlines).await;
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn streams_are_shared_only_once_the_peer_has_said_how_many_it_takes() {
    on_local(async {
        let ca = Ca::new();
        let tls = ca.server(&["api.test"]);
        let (listener, address) = listen().await;
        let (upstream, deadlines) = upstream(settings(ca.client(), address));
        let upstream = Rc::new(upstream);
        let send = || {
            let upstream = Rc::clone(&upstream);
            tokio::task::spawn_local(async move {
                text(upstream.send_noted(&origin("https://api.test"), get("/"), &deadlines).await.unwrap())
                    .await
                    .unwrap()
            })
        };
        // The handshake is done and the first request is on its way, but there are no SETTINGS yet.
        let first = send();
        let (stream, _) = tls.accept(hold(&listener).await).await.unwrap();
        let destination = upstream.pool.destination(&origin("https://api.test"), &upstream.settings).unwrap();
        while destination.shared_for_test().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(destination.shared_for_test()[0].slot().is_none(), "nobody knows whether there is room");
        let second = send();
        // Now they come, and there is room for one stream.
        let settled = h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(stream).await;
        let mut one = settled.unwrap();
        let (_, respond) = one.accept().await.unwrap().unwrap();
        let drive = tokio::task::spawn_local(async move { while one.accept().await.is_some() {} });
        let (stream, _) = tls.accept(hold(&listener).await).await.unwrap();
        let mut two = h2::server::handshake(stream).await.unwrap();
        let (_, respond_two) = two.accept().await.unwrap().unwrap();
        let drive_two = tokio::task::spawn_local(async move { while two.accept().await.is_some() {} });
        answer(respond, "one");
        answer(respond_two, "two");
        assert_eq!((first.await.unwrap(), second.await.unwrap()), ("one".to_owned(), "two".to_owned()));
        drive.abort();
        drive_two.abort();
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stops_on_a_silent_connection_takes_it_out_of_use() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let api = origin("https://api.test");
        let impatient = Deadlines { idle: SHORT, ..deadlines };
        let serve = async {
            let (_, (_, mut respond)) = server.streams.recv().await.unwrap();
            respond.send_response(Response::new(()), false).unwrap()
        };
        let (response, _stream) = tokio::join!(upstream.send_noted(&api, get("/"), &impatient), serve);
        let error = text(response.unwrap()).await.unwrap_err();
        assert!(matches!(error, UpstreamError::IdleTimeout), "{error}");
        warm(&mut server, &upstream, &deadlines).await;
        assert_eq!(server.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_stuck_upload_does_not_keep_a_connection_that_nobody_uses() {
    on_local(async {
        let (mut server, upstream, deadlines) = serve_h2(None).await;
        let api = origin("https://api.test");
        let (feed, body) = fed_body();
        for _ in 0..3 {
            feed.send(Ok(Frame::data(Bytes::from(vec![b'x'; 64 << 10])))).unwrap();
        }
        let request = Request::post("/").body(body).unwrap();
        // An answer before the request was read, and no window for the rest of it.
        let serve = async {
            let (_, (request, mut respond)) = server.streams.recv().await.unwrap();
            (request, respond.send_response(Response::new(()), false).unwrap())
        };
        let (response, (mut request, _stream)) = tokio::join!(upstream.send_noted(&api, request, &deadlines), serve);
        drop(response.unwrap());
        drop(upstream);
        let end = async { while let Some(Ok(_)) = request.body_mut().data().await {} };
        tokio::time::timeout(LONG / 4, end).await.expect("the connection ends");
    })
    .await;
}
