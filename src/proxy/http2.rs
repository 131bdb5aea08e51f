//! HTTP/2 from clients: hyper reads it, and each stream is a request of its own.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request as HttpRequest, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::spawn_local;

use super::body::{AnswerBody, BrokenOff, ClientError};
use super::gate::Gate;
use super::{Proxy, Request};
use crate::wire::source::{AsBody, FromBody};
use crate::wire::{Chunk, Fields, RequestHead, Size, Source};

/// Answers one stream.
pub async fn answer(proxy: Rc<Proxy>, gate: &Gate, request: HttpRequest<Incoming>) -> Response<StreamedAnswer> {
    let method = request.method().clone();
    let (head, body) = read(request);
    let body: Option<super::body::ClientBody> = match body.is_end_stream() {
        true => None,
        false => Some(Box::new(Streamed(FromBody::new(body)))),
    };
    let answered = Box::pin(proxy.handle(gate, &mut Request { head, body, fault: None })).await;
    let mut response = Response::new(());
    *response.status_mut() = answered.status;
    *response.headers_mut() = answered.fields.to_map();
    if let Size::Exact(length) = answered.body.size()
        && !super::head::has_no_body(answered.status, &method)
    {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response.map(|()| StreamedAnswer::new(answered.body))
}

/// The head as the proxy takes it. hyper's, which is several times as large, does not stay for as long as the request.
fn read(request: HttpRequest<Incoming>) -> (RequestHead, Incoming) {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |text| text.as_str());
    let authority = parts.uri.authority().map(|authority| authority.as_str().as_bytes());
    let fields = Fields::from_map(&parts.headers);
    (RequestHead::new(parts.method, Version::HTTP_2, target.as_bytes(), authority, fields), body)
}

/// A client's body, its errors told as every client's.
struct Streamed(FromBody<Incoming>);

impl Source for Streamed {
    type Error = ClientError;

    fn size(&self) -> Size {
        self.0.size()
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), ClientError>> {
        self.0.poll_chunks(cx, take).map_err(|error| match error.is_parse() {
            true => ClientError::Misframed,
            false => ClientError::Broken,
        })
    }
}

/// The body of an answer as hyper takes it.
pub struct StreamedAnswer(Rc<RefCell<Streaming>>);

struct Streaming {
    body: Option<AsBody<AnswerBody>>,
    /// Why the stream is to be reset, once what came before has gone out: a reset overtakes what is queued.
    broken: Option<BrokenOff>,
}

impl StreamedAnswer {
    fn new(body: AnswerBody) -> Self {
        StreamedAnswer(Rc::new(RefCell::new(Streaming { body: Some(AsBody::new(body)), broken: None })))
    }

    /// The same answer, for when hyper asks nothing of it.
    pub fn stalled(&self) -> Stalled {
        Stalled(Rc::downgrade(&self.0))
    }
}

impl Body for StreamedAnswer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self.0.borrow_mut();
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(broken)));
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Err(broken)) => {
                this.broken = Some(broken);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // An early answer: the request goes on to the upstream as long as it moves.
        let upload = self.body.take().and_then(AsBody::into_source).and_then(|mut body| body.take_upload());
        if let Some(upload) = upload {
            drop(spawn_local(upload.settle()));
        }
    }
}

/// An answer of which a piece waits for the client, and of which hyper asks nothing until the client has taken it.
pub struct Stalled(Weak<RefCell<Streaming>>);

impl Stalled {
    /// Lets the request's body go on: a client that reads nothing before it has sent everything would wait for us for
    /// ever. Ready when what the answer rests on was revoked; the stream is to be reset then.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(streaming) = self.0.upgrade() else { return Poll::Pending };
        let body = &mut streaming.borrow_mut().body;
        let Some(source) = body.as_mut().and_then(AsBody::source_mut) else { return Poll::Pending };
        source.poll_upload(cx);
        ready!(source.poll_revoked(cx));
        *body = None;
        Poll::Ready(())
    }

    /// Ends the answer, and with it the upload behind it: its client takes nothing.
    pub fn give_up(&self) {
        let Some(streaming) = self.0.upgrade() else { return };
        let body = streaming.borrow_mut().body.take();
        if let Some(mut source) = body.and_then(AsBody::into_source) {
            source.lost();
        }
    }
}
