//! Connections that are given back while somebody waits for one to be opened.

use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, yield_now};

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An upstream that has taken one connection, with a request on it, and is too busy to take more: its queue is full, so
/// whoever dials it waits.
struct Busy {
    upstream: Rc<Upstream>,
    deadlines: Deadlines,
    /// The upstream's end of its connection.
    taken: TcpStream,
    /// Who sends the request on it.
    first: JoinHandle<Received>,
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Busy {
    async fn begin() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let (upstream, deadlines) = upstream(plain_settings(address));
        let upstream = Rc::new(upstream);
        let first = send(&upstream, deadlines, "/first");
        let (mut taken, _) = listener.accept().await.unwrap();
        assert!(read_request(&mut taken).await.unwrap().starts_with("GET /first "));
        // Linux keeps one more than it was told to.
        let mut queue = Vec::new();
        for _ in 0..2 {
            queue.push(TcpStream::connect(address).await.unwrap());
        }
        Busy { upstream, deadlines, taken, first, listener, _queue: queue }
    }

    /// Sends another request, which waits.
    async fn wait(&self, path: &'static str) -> JoinHandle<Received> {
        let destination = self.upstream.pool.destination(&origin("http://api.test"), &self.upstream.settings).unwrap();
        let before = destination.waiting_for_test();
        let sending = send(&self.upstream, self.deadlines, path);
        while destination.waiting_for_test() == before {
            yield_now().await;
        }
        sending
    }

    /// Reads the next request and answers it.
    async fn answer_next(&mut self, path: &str) {
        let request = read_request(&mut self.taken).await.unwrap();
        assert!(request.starts_with(&format!("GET {path} ")), "{request}");
        self.taken.write_all(OK.as_bytes()).await.unwrap();
    }

    /// Answers the first request, whose connection is given back then.
    async fn answer_first(&mut self) {
        self.taken.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(text((&mut self.first).await.unwrap()).await.unwrap(), "ok");
    }
}

fn send(upstream: &Rc<Upstream>, deadlines: Deadlines, path: &'static str) -> JoinHandle<Received> {
    let upstream = Rc::clone(upstream);
    tokio::task::spawn_local(async move {
        upstream.send_noted(&origin("http://api.test"), get(path), &deadlines).await.unwrap()
    })
}

#[tokio::test]
async fn who_waits_longest_gets_the_connection_that_is_given_back_first() {
    on_local(async {
        let mut busy = Busy::begin().await;
        let (second, third) = (busy.wait("/second").await, busy.wait("/third").await);
        busy.answer_first().await;
        for (path, waiting) in [("/second", second), ("/third", third)] {
            busy.answer_next(path).await;
            let response = waiting.await.unwrap();
            assert_eq!(exchange(&response), Exchange { attempts: 1, reused: true, connected_in: None });
            assert_eq!(text(response).await.unwrap(), "ok");
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_given_to_who_has_gone_goes_to_the_next() {
    on_local(async {
        let mut busy = Busy::begin().await;
        let (gone, second, third) = (busy.wait("/gone").await, busy.wait("/second").await, busy.wait("/third").await);
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        busy.answer_first().await;
        // It has been given the connection and does not know it yet.
        second.abort();
        busy.answer_next("/third").await;
        assert!(second.await.unwrap_err().is_cancelled());
        assert!(exchange(&third.await.unwrap()).reused);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_came_too_late_is_kept_for_the_next_request() {
    on_local(async {
        let mut busy = Busy::begin().await;
        let second = busy.wait("/second").await;
        busy.answer_first().await;
        busy.answer_next("/second").await;
        // Not read to its end: its connection is not free.
        let _second = second.await.unwrap();
        let destination = busy.upstream.pool.destination(&origin("http://api.test"), &busy.upstream.settings).unwrap();
        assert!(!destination.has_idle_for_test());
        for _ in 0..2 {
            busy.listener.accept().await.unwrap();
        }
        let (mut late, _) = busy.listener.accept().await.unwrap();
        while !destination.has_idle_for_test() {
            yield_now().await;
        }
        let third = send(&busy.upstream, busy.deadlines, "/third");
        assert!(read_request(&mut late).await.unwrap().starts_with("GET /third "));
        late.write_all(OK.as_bytes()).await.unwrap();
        assert_eq!(text(third.await.unwrap()).await.unwrap(), "ok");
    })
    .await;
}
