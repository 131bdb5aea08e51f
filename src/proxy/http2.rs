//! HTTP/2 from clients: hyper reads it, and each stream is a request of its own.

use std::pin::Pin;
use std::rc::Rc;
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
    response.map(|()| StreamedAnswer { body: Some(AsBody::new(answered.body)), broken: None })
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
pub struct StreamedAnswer {
    body: Option<AsBody<AnswerBody>>,
    /// Why the stream is to be reset, once what came before has gone out: a reset overtakes what is queued.
    broken: Option<BrokenOff>,
}

impl Body for StreamedAnswer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
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
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for StreamedAnswer {
    fn drop(&mut self) {
        // An early answer: the request goes on to the upstream as long as it moves.
        let upload = self.body.take().and_then(AsBody::into_source).and_then(|mut body| body.take_upload());
        if let Some(upload) = upload {
            drop(spawn_local(upload.settle()));
        }
    }
}
