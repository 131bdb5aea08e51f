//! HTTP/1.1 from clients: one task for a connection, which answers one request after the other and drives the upstream's
//! socket too. Between two requests it holds no buffer.

mod answer;
mod client;

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, Version};

use super::body::ClientBody;
use super::error::ProxyError;
use super::gate::Gate;
use super::{Answer, Proxy, Request, head, tunnel};
use crate::wire::stream::Rewound;
use crate::wire::{Framing, RequestHead};

pub use client::Client;
use client::{Body, Heard};

/// How a connection has ended.
pub enum Ended {
    /// It is closed.
    Closed,
    /// What came is the preface of HTTP/2: the stream from its first byte.
    Http2(Box<Rewound>),
}

/// What the connections of a worker share.
pub struct Terms {
    /// Bounds the reading of a head, the time until the first request, and the time a connection is kept between two.
    pub head_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// Whether the server drains: what was begun is finished, nothing new is begun.
    pub draining: Cell<bool>,
}

/// What is remembered of a request while it is answered.
struct Asked {
    method: Method,
    version: Version,
    keeps_alive: bool,
}

/// What follows an answer.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    Close,
}

/// Serves a client's connection to its end. There is one such future for each client that is connected, so it holds no
/// more than it needs while it waits for a request; what a connection needs while it answers is in memory of its own.
#[expect(clippy::manual_async_fn, reason = "the arguments of an async fn lie in its future twice")]
pub fn serve<'a>(
    proxy: &'a Proxy,
    gate: &'a Gate,
    terms: &'a Terms,
    client: &'a Rc<Client>,
) -> impl Future<Output = Ended> + 'a {
    async move {
        let mut is_first = true;
        loop {
            let heard = poll_fn(|cx| client.poll_request(cx, terms, is_first)).await;
            let Some(answering) = answering(proxy, gate, terms, client, heard) else {
                return client.rewind().map_or(Ended::Closed, |stream| Ended::Http2(Box::new(stream)));
            };
            is_first = false;
            if answering.await == Next::Close {
                return Ended::Closed;
            }
        }
    }
}

/// What is done about what came; `None` where it is not HTTP/1.1.
fn answering<'a>(
    proxy: &'a Proxy,
    gate: &'a Gate,
    terms: &'a Terms,
    client: &'a Rc<Client>,
    heard: Heard,
) -> Option<Pin<Box<dyn Future<Output = Next> + 'a>>> {
    match heard {
        Heard::Request(head) => Some(Box::pin(exchange(proxy, gate, terms, client, head))),
        Heard::Nonsense(fault) => Some(Box::pin(refuse(proxy, gate, terms, client, fault))),
        Heard::Http2 => None,
        Heard::End => Some(Box::pin(close(client))),
    }
}

async fn close(client: &Client) -> Next {
    client.close().await;
    Next::Close
}

/// Answers what is no request.
async fn refuse(proxy: &Proxy, gate: &Gate, terms: &Terms, client: &Rc<Client>, fault: ProxyError) -> Next {
    let mut answer = proxy.handle(gate, &mut Request::unreadable(fault)).await;
    let asked = Asked { method: Method::GET, version: Version::HTTP_11, keeps_alive: false };
    let _told = answer::write(client, terms, &asked, &mut answer).await;
    drop(answer);
    client.begin_body(Framing::UntilClose, false);
    Box::pin(client.close()).await;
    Next::Close
}

/// Answers one request.
fn exchange<'a>(
    proxy: &'a Proxy,
    gate: &'a Gate,
    terms: &'a Terms,
    client: &'a Rc<Client>,
    head: RequestHead,
) -> impl Future<Output = Next> + 'a {
    let asked =
        Asked { method: head.method.clone(), version: head.version, keeps_alive: head.fields.keep_alive(head.version) };
    let (framing, fault) = match head.framing() {
        Ok(framing) => (framing, None),
        Err(why) => (Framing::Length(0), Some(ProxyError::RequestMalformed(why))),
    };
    client.begin_body(framing, head::expects_continue(&head));
    let body = (framing != Framing::Length(0)).then(|| Box::new(Body::new(Rc::clone(client))) as ClientBody);
    let is_broken = fault.is_some();
    let mut request = Request { head, body, fault };
    // What is above lies in the future once, as an argument of an `async fn` would not.
    async move {
        let answered = {
            let handled = pin!(proxy.handle(gate, &mut request));
            await_answer(client, &asked, handled).await
        };
        let Some(mut answer) = answered else { return Next::Close };
        if is_broken {
            client.begin_body(Framing::UntilClose, false); // nobody knows where its body ends
        }
        finish(proxy, terms, client, &asked, &mut answer).await
    }
}

/// Waits for the answer, or until the client is gone.
fn await_answer(
    client: &Client,
    asked: &Asked,
    mut handled: Pin<&mut impl Future<Output = Answer>>,
) -> impl Future<Output = Option<Answer>> {
    let may_ask = asked.version == Version::HTTP_11;
    poll_fn(move |cx| match handled.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => client.poll_gone(cx, may_ask).map(|()| None),
    })
}

/// Writes the answer and brings the request to its end.
async fn finish(proxy: &Proxy, terms: &Terms, client: &Rc<Client>, asked: &Asked, answer: &mut Answer) -> Next {
    if let Some(tunnel) = answer.tunnel.take() {
        if answer::write(client, terms, asked, answer).await.is_some()
            && let Some(client) = client.rewind()
        {
            let (switched, record) = *tunnel;
            let upstream = Rewound::new(switched.unread, switched.stream);
            Box::pin(tunnel::join(client, upstream, proxy.settings().tunnel_idle_timeout, record)).await;
        }
        return Next::Close;
    }
    let Some(written) = answer::write(client, terms, asked, answer).await else { return Next::Close };
    if let Some(upload) = written.upload {
        Box::pin(upload.settle()).await;
    }
    poll_fn(|cx| client.poll_released(cx)).await;
    if written.keeps_alive && client.has_read_body() {
        return Next::Request;
    }
    Box::pin(client.close()).await;
    Next::Close
}

#[cfg(test)]
mod tests;
