//! Bodies on their way through: streamed frame by frame, counted, bounded in time, their trailers sifted.

use std::cell::Cell;
use std::error::Error;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::ProxyError;
use super::record::Record;
use crate::model::header;
use crate::upstream::{BoxError, UpstreamBody, UpstreamError};

/// Why a client's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing came for too long.
    #[error("the client stopped sending")]
    TooSlow,
    /// The connection broke, or what came was no HTTP.
    #[error("the client's body was broken off")]
    Broken(#[source] hyper::Error),
}

/// A client's body on its way to the upstream.
pub enum RequestBody {
    /// As it comes.
    Stream(Box<ClientStream>),
    /// Held in memory, a credential in it.
    Held(Option<Bytes>),
}

/// A client's body as it comes.
pub struct ClientStream {
    incoming: Incoming,
    patience: Patience,
    sieve: TrailerSieve,
    count: Rc<Cell<u64>>,
}

/// Which trailer fields never pass.
#[derive(Clone, Debug, Default)]
pub struct TrailerSieve {
    /// Named by `Connection`, or injected.
    pub forbidden: Vec<HeaderName>,
}

impl TrailerSieve {
    fn sift(&self, trailers: &mut HeaderMap) {
        let forbidden = |name: &HeaderName| self.forbidden.iter().any(|other| header::is_same(name, other));
        let goes = |name: &HeaderName| !header::may_be_trailer(name) || forbidden(name);
        while let Some(name) = trailers.keys().find(|name| goes(name)).cloned() {
            trailers.remove(name);
        }
    }
}

impl RequestBody {
    /// A body that is streamed. `idle` bounds the time between two frames; bytes are added to `count`.
    pub fn stream(incoming: Incoming, idle: Duration, sieve: TrailerSieve, count: Rc<Cell<u64>>) -> Self {
        RequestBody::Stream(Box::new(ClientStream { incoming, patience: Patience::new(idle), sieve, count }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            RequestBody::Held(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            RequestBody::Stream(stream) => stream.poll(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Held(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            RequestBody::Stream(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Held(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            RequestBody::Stream(stream) => stream.incoming.size_hint(),
        }
    }
}

impl ClientStream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ClientError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            ready!(self.patience.poll_expired(cx));
            return Poll::Ready(Some(Err(ClientError::TooSlow)));
        };
        self.patience.moved();
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame.map_err(ClientError::Broken)?;
            if let Some(data) = frame.data_ref() {
                self.count.set(self.count.get() + data.len() as u64);
            } else if let Some(trailers) = frame.trailers_mut() {
                self.sieve.sift(trailers);
            }
            Ok(frame)
        }))
    }
}

/// Reads a client's whole body, up to a limit.
pub async fn hold(incoming: Incoming, limit: u64, idle: Duration, count: &Rc<Cell<u64>>) -> Result<Bytes, ProxyError> {
    if incoming.size_hint().lower() > limit {
        return Err(ProxyError::BodyTooLarge(limit));
    }
    let mut body = pin!(RequestBody::stream(incoming, idle, TrailerSieve::default(), Rc::clone(count)));
    let mut held = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| client_error(&error))?;
        let Ok(data) = frame.into_data() else { continue };
        if (held.len() + data.len()) as u64 > limit {
            return Err(ProxyError::BodyTooLarge(limit));
        }
        held.extend_from_slice(&data);
    }
    Ok(held.freeze())
}

/// What a failed client body means for the request.
pub fn client_error(error: &BoxError) -> ProxyError {
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::TooSlow) => ProxyError::RequestTimeout,
        Some(ClientError::Broken(error)) if is_misframed(error) => {
            ProxyError::RequestMalformed("the request's body is not framed as it says")
        }
        _ => ProxyError::ClientGone,
    }
}

/// Whether what came is no body, instead of none coming any more. hyper tells a chunk that is none as bad input or bad
/// data, and the end of the connection in the middle of a body as another error.
fn is_misframed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let kind = cause.map(io::Error::kind);
    error.is_parse() || matches!(kind, Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// A deadline for standing still. It arms a timer only when something stands still, and looks at the clock only when
/// that timer fires.
struct Patience {
    idle: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    still: bool,
}

impl Patience {
    fn new(idle: Duration) -> Self {
        Patience { idle, sleep: None, still: false }
    }

    fn moved(&mut self) {
        self.still = false;
    }

    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.still {
            self.still = true;
            let deadline = Instant::now() + self.idle;
            match &mut self.sleep {
                Some(sleep) => sleep.as_mut().reset(deadline),
                None => self.sleep = Some(Box::pin(sleep_until(deadline))),
            }
        }
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// The body of an answer. It carries the request's record, which is finished when the body ends, however it ends.
pub struct AnswerBody {
    content: Content,
    record: Option<Record>,
    unfinished: Option<Unfinished>,
}

/// Whether an answer that ends with its connection (RFC 9112 §6.3, to an HTTP/1.0 client) is still on its way. Whoever
/// closes the connection meanwhile must not let it look like the answer's end.
#[derive(Clone, Debug, Default)]
pub struct Unfinished(Arc<AtomicBool>);

impl Unfinished {
    /// Whether there is such an answer now.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }
}

enum Content {
    Own(Option<Bytes>),
    Upstream(UpstreamBody),
}

impl AnswerBody {
    /// An answer of Sidekey's own.
    pub fn own(bytes: Bytes, record: Record) -> Self {
        AnswerBody { content: Content::Own(Some(bytes)), record: Some(record), unfinished: None }
    }

    /// Nothing, for an answer whose record somebody else carries.
    pub fn empty() -> Self {
        AnswerBody { content: Content::Own(None), record: None, unfinished: None }
    }

    /// An upstream's.
    pub fn upstream(body: UpstreamBody, mut record: Record) -> Self {
        if body.is_end_stream() {
            record.completed();
        }
        AnswerBody { content: Content::Upstream(body), record: Some(record), unfinished: None }
    }

    /// Says in `unfinished` while this body is on its way, if nothing but the end of the connection can tell its end.
    pub fn ends_with_connection(&mut self, unfinished: &Unfinished) {
        if !self.is_end_stream() && self.size_hint().exact().is_none() {
            unfinished.0.store(true, Relaxed);
            self.unfinished = Some(unfinished.clone());
        }
    }

    fn completed(&mut self) {
        if let Some(record) = &mut self.record {
            record.completed();
        }
        if let Some(unfinished) = self.unfinished.take() {
            unfinished.0.store(false, Relaxed);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match &mut self.content {
            Content::Own(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Upstream(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        let Some(record) = &mut self.record else { return Poll::Ready(frame.map(|frame| frame.map_err(BrokenOff))) };
        let mut frame = frame.map(|frame| frame.map_err(|error| record.cut_off(error)));
        if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
            TrailerSieve::default().sift(trailers);
        }
        match &frame {
            Some(Ok(frame)) => record.passed_on(frame.data_ref().map_or(0, Bytes::len)),
            Some(Err(_)) => {}
            None => self.completed(),
        }
        // hyper does not ask again after the last byte of a known length.
        if matches!(frame, Some(Ok(_))) && self.is_end_stream() {
            self.completed();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Content::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    /// Whoever knew the length stops reading when all of it has come, and need not ask for the end.
    fn drop(&mut self) {
        if matches!(&self.content, Content::Upstream(body) if body.size_hint().exact() == Some(0)) {
            self.completed();
        }
    }
}

/// An upstream's body that ended before its end: the client's connection is broken off, so that it sees a truncated
/// message and never a complete-looking one.
#[derive(Debug, thiserror::Error)]
#[error("the upstream's body was cut off")]
pub struct BrokenOff(#[source] pub UpstreamError);
