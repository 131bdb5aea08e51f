//! A client's connection against a socket that a test holds the other end of.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;

use super::client::{Body, Client, Heard};
use super::*;
use crate::tls::pki::Ca;
use crate::tls::{Offer, ServerStream};
use crate::wire::{Chunk, Encoder, Source, Stream};

const SOON: Duration = Duration::from_secs(5);
fn terms() -> Terms {
    Terms { head_timeout: SOON, write_timeout: SOON, draining: Cell::new(false) }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (peer, listener.accept().await.unwrap().0)
}

async fn next(client: &Client, is_first: bool) -> Heard {
    timeout(SOON, poll_fn(|cx| client.poll_request(cx, &terms(), is_first))).await.expect("something is heard")
}

async fn request(client: &Client, is_first: bool) -> RequestHead {
    match next(client, is_first).await {
        Heard::Request(head) => head,
        _ => panic!("no request"),
    }
}

async fn gone(client: &Client, may_ask: bool) {
    timeout(SOON, poll_fn(|cx| client.poll_gone(cx, may_ask))).await.expect("it is noticed");
}

/// A task of its own, as far as wakers tell.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn task() -> (Arc<Task>, Waker) {
    let task = Arc::new(Task::default());
    (Arc::clone(&task), Waker::from(task))
}

#[tokio::test]
async fn pipelined_requests_come_one_by_one_with_their_own_bodies() {
    let (mut peer, stream) = tcp().await;
    let client = Client::new(Stream::Tcp(stream));
    let first = "\r\n\r\nPOST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    peer.write_all(format!("{first}GET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /3").as_bytes()).await.unwrap();
    let head = request(&client, true).await;
    client.begin_body(head.framing().unwrap(), false);
    let mut body = Body::new(Rc::clone(&client));
    let mut seen = Vec::new();
    while !client.has_read_body() {
        let take = &mut |_: &mut Context<'_>, chunk: Chunk<'_>| match chunk {
            Chunk::Data(data) => seen.extend_from_slice(data),
            Chunk::End(trailers) => assert!(trailers.is_none()),
        };
        poll_fn(|cx| body.poll_chunks(cx, take)).await.unwrap();
    }
    drop(body);
    assert_eq!((head.target(), &*seen), (&b"/1"[..], &b"hi"[..]));
    assert_eq!(request(&client, false).await.target(), b"/2");
    drop(peer);
    assert!(matches!(next(&client, false).await, Heard::End), "half a head is no request");
}

#[tokio::test]
async fn the_preface_of_http2_is_heard_as_the_first_thing_only_and_is_not_lost() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (mut peer, stream) = tcp().await;
    let client = Client::new(Stream::Tcp(stream));
    for piece in preface.chunks(5) {
        peer.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(matches!(next(&client, true).await, Heard::Http2));
    let mut rewound = client.rewind().unwrap();
    let mut seen = [0; 24];
    rewound.read_exact(&mut seen).await.unwrap();
    assert_eq!(&seen, preface);

    let (mut peer, stream) = tcp().await;
    let client = Client::new(Stream::Tcp(stream));
    peer.write_all(preface).await.unwrap();
    assert!(matches!(next(&client, false).await, Heard::Nonsense(ProxyError::RequestMalformed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_head_has_a_time_of_its_own_however_long_the_connection_was_idle() {
    let (mut peer, stream) = tokio::net::UnixStream::pair().unwrap();
    let client = Client::new(Stream::Unix(stream));
    let (_, waker) = task();
    let mut cx = Context::from_waker(&waker);
    assert!(client.poll_request(&mut cx, &terms(), true).is_pending());
    tokio::time::advance(SOON - Duration::from_secs(1)).await;
    peer.write_all(b"GET / HT").await.unwrap();
    let readable = poll_fn(|cx| match client.poll_request(cx, &terms(), true) {
        Poll::Pending if client.has_begun_for_test() => Poll::Ready(()),
        Poll::Pending => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Ready(_) => panic!("too early"),
    });
    readable.await;
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(client.poll_request(&mut cx, &terms(), true).is_pending(), "the head has not had its time");
    tokio::time::advance(SOON).await;
    assert!(matches!(
        client.poll_request(&mut cx, &terms(), true),
        Poll::Ready(Heard::Nonsense(ProxyError::RequestTimeout))
    ));
}

#[tokio::test]
async fn a_client_that_resets_while_it_waits_is_noticed() {
    let (mut peer, stream) = tcp().await;
    let client = Client::new(Stream::Tcp(stream));
    peer.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    request(&client, true).await;
    peer.set_zero_linger().unwrap();
    drop(peer);
    gone(&client, false).await;
}

#[tokio::test]
async fn a_client_on_a_unix_socket_is_noticed_when_it_closes_also_behind_a_half_close() {
    let (peer, stream) = UnixStream::pair().unwrap();
    let client = Client::new(Stream::Unix(stream));
    drop(peer);
    gone(&client, true).await;

    let (mut peer, stream) = UnixStream::pair().unwrap();
    let client = Client::new(Stream::Unix(stream));
    peer.shutdown().await.unwrap();
    assert!(timeout(Duration::from_millis(50), poll_fn(|cx| client.poll_gone(cx, false))).await.is_err());
    let close = async {
        tokio::task::yield_now().await;
        drop(peer);
    };
    tokio::join!(gone(&client, false), close);
}

async fn tls() -> (crate::tls::ClientStream<TcpStream>, ServerStream<TcpStream>) {
    let ca = Ca::new();
    let (server, (peer, stream)) = (ca.server(&["api.test"]), tcp().await);
    let client = ca.client();
    let (client, server) = tokio::join!(client.connect(peer, "api.test", Offer::Http1), server.accept(stream));
    (client.unwrap().0, server.unwrap().0)
}

#[tokio::test]
async fn a_client_over_tls_is_noticed_when_it_leaves_with_and_without_close_notify() {
    let (peer, stream) = tls().await;
    let client = Client::new(Stream::Serving(Box::new(stream)));
    drop(peer); // FIN without close_notify: an end that nobody announced
    gone(&client, true).await;

    let (mut peer, stream) = tls().await;
    let client = Client::new(Stream::Serving(Box::new(stream)));
    peer.shutdown().await.unwrap();
    drop(peer);
    gone(&client, true).await;
}

#[tokio::test]
async fn a_client_over_tls_that_only_sends_nothing_more_is_asked_and_answered() {
    let (mut peer, stream) = tls().await;
    let client = Client::new(Stream::Serving(Box::new(stream)));
    peer.shutdown().await.unwrap();
    let mut question = [0; 25];
    tokio::select! {
        () = gone(&client, true) => panic!("it is there"),
        read = peer.read_exact(&mut question) => assert_eq!((&question[..], read.unwrap()), (&b"HTTP/1.1 100 Continue\r\n\r\n"[..], 25)),
    }
    client.stage(|out| out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n\r\n"));
    poll_fn(|cx| client.poll_flush(cx, SOON)).await.ok().unwrap();
    let mut answer = [0; 12];
    peer.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 204");
}

/// Whoever sends a request over HTTP/2 reads its body in a task of its own.
#[tokio::test]
async fn a_task_that_waits_is_woken_when_another_has_read_the_body_or_lets_it_go() {
    for reads in [true, false] {
        let (mut peer, stream) = tcp().await;
        let client = Client::new(Stream::Tcp(stream));
        peer.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi").await.unwrap();
        let head = request(&client, true).await;
        client.begin_body(head.framing().unwrap(), false);
        let mut body = Body::new(Rc::clone(&client));
        let (waits, waker) = task();
        assert!(client.poll_gone(&mut Context::from_waker(&waker), true).is_pending());
        if reads {
            poll_fn(|cx| body.poll_chunks(cx, &mut |_, _| ())).await.unwrap();
            assert!(client.has_read_body());
        } else {
            drop(body);
        }
        assert_eq!(waits.0.load(Relaxed), 1, "nobody else looks whether the client is there");
    }
}

/// An answer that the client does not take yet is its own task's to write: whoever reads the body must not take its turn.
#[tokio::test]
async fn whoever_reads_a_body_does_not_flush_the_answer() {
    let (mut peer, stream) = tcp().await;
    let client = Client::new(Stream::Tcp(stream));
    peer.write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n").await.unwrap();
    let head = request(&client, true).await;
    client.begin_body(head.framing().unwrap(), true);
    let mut body = Body::new(Rc::clone(&client));
    let (_, reader) = task();
    let read = |body: &mut Body| body.poll_chunks(&mut Context::from_waker(&reader), &mut |_, _| ()).is_pending();
    assert!(read(&mut body));
    let mut interim = [0; 25];
    timeout(SOON, peer.read_exact(&mut interim)).await.expect("whoever reads tells it to go on").unwrap();

    // More than the buffers of both sides hold.
    let large = vec![b'x'; 16 << 20];
    poll_fn(|cx| {
        client.stage(|out| out.extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n"));
        client.write(cx, Encoder::Plain, &large);
        Poll::Ready(())
    })
    .await;
    let (writes, writer) = task();
    while client.poll_flush(&mut Context::from_waker(&writer), 9 * SOON).is_ready() {
        client.write(&mut Context::from_waker(&writer), Encoder::Plain, &large);
    }
    assert!(read(&mut body));
    let mut taken = vec![0; 1 << 20];
    let woken = async {
        while writes.0.load(Relaxed) == 0 {
            tokio::select! {
                read = peer.read(&mut taken) => assert!(read.unwrap() > 0),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    timeout(SOON, woken).await.expect("the task that writes is woken");
}
