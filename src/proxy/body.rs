//! Bodies on their way through: streamed piece by piece, counted, bounded in time, their trailers sifted.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::error::ProxyError;
use super::record::Record;
use super::revoked::Revocable;
use crate::clock::Instant;
use crate::model::header;
use crate::upstream::{BoxError, UpstreamBody, UpstreamError};
use crate::wire::{Chunk, Deadline, Size, Source};

/// Why a client's body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing came for too long.
    #[error("the client stopped sending")]
    TooSlow,
    /// What came is not framed as the head says.
    #[error("the client's body is not framed as it says")]
    Misframed,
    /// The connection broke.
    #[error("the client's body was broken off")]
    Broken,
}

/// A client's body as its connection gives it.
pub type ClientBody = Box<dyn Source<Error = ClientError>>;

/// A client's body on its way to the upstream.
pub struct RequestBody {
    source: ClientBody,
    idle: Duration,
    /// Since when the next piece is awaited.
    waiting: Option<Instant>,
    deadline: Deadline,
    sieve: TrailerSieve,
    upload: Rc<Upload>,
}

/// How much of a request's body has come. Its record counts with it.
#[derive(Default)]
pub struct Upload {
    bytes: Cell<u64>,
    ended: Cell<bool>,
    /// Who waits for more of it.
    waiting: Cell<Option<Waker>>,
    /// What it rests on, once its record is gone: the answer has ended before it.
    behind: OnceCell<Box<Revocable>>,
}

impl Upload {
    /// The bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether that was all.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Lets it go on without a record, until what it rests on is revoked.
    pub(super) fn go_on(&self, revocable: Revocable) {
        if self.behind.set(Box::new(revocable)).is_ok() {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Ready when it is to end, for who waits for more of it.
    fn poll_revoked(&self, cx: &Context<'_>) -> Poll<()> {
        if let Some(revocable) = self.behind.get() {
            return revocable.poll_revoked(cx);
        }
        let waiting = self.waiting.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waiting.set(waiting.or_else(|| Some(cx.waker().clone())));
        Poll::Pending
    }

    /// More has come.
    pub fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }
}

/// Which trailer fields never pass.
#[derive(Clone, Debug, Default)]
pub struct TrailerSieve {
    /// Named by `Connection`, or injected.
    pub forbidden: Vec<HeaderName>,
}

impl TrailerSieve {
    /// Removes what may not pass; nothing is left of trailers that are empty then.
    fn sift(&self, trailers: Option<Box<HeaderMap>>) -> Option<Box<HeaderMap>> {
        let mut trailers = trailers?;
        let forbidden = |name: &HeaderName| self.forbidden.iter().any(|other| header::is_same(name, other));
        let goes = |name: &HeaderName| !header::may_be_trailer(name) || forbidden(name);
        while let Some(name) = trailers.keys().find(|name| goes(name)).cloned() {
            trailers.remove(name);
        }
        (!trailers.is_empty()).then_some(trailers)
    }
}

impl RequestBody {
    /// A body that is streamed. `idle` bounds the time between two pieces; what comes is counted in `upload`.
    pub fn new(source: ClientBody, idle: Duration, sieve: TrailerSieve, upload: Rc<Upload>) -> Self {
        RequestBody { source, idle, waiting: None, deadline: Deadline::default(), sieve, upload }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), ClientError>> {
        // Its caller has its answer, and is told nothing more.
        if self.upload.behind.get().is_some_and(|revocable| revocable.is_revoked()) {
            return Poll::Ready(Err(ClientError::Broken));
        }
        let (upload, sieve) = (&self.upload, &self.sieve);
        let outcome = self.source.poll_chunks(cx, &mut |cx, chunk| match chunk {
            Chunk::Data(data) => {
                upload.add(data.len());
                take(cx, Chunk::Data(data));
            }
            Chunk::End(trailers) => {
                upload.ended.set(true);
                take(cx, Chunk::End(sieve.sift(trailers)));
            }
        });
        if outcome.is_pending() {
            if self.upload.poll_revoked(cx).is_ready() {
                return Poll::Ready(Err(ClientError::Broken));
            }
            let since = *self.waiting.get_or_insert_with(Instant::now);
            ready!(self.deadline.poll(cx, since + self.idle));
            return Poll::Ready(Err(ClientError::TooSlow));
        }
        self.waiting = None;
        outcome
    }

    /// Reads the whole body, up to a limit.
    pub async fn hold(mut self, limit: u64) -> Result<Vec<u8>, ProxyError> {
        let mut held = Vec::new();
        let mut ended = false;
        loop {
            if matches!(self.size(), Size::Exact(left) if left.saturating_add(held.len() as u64) > limit) {
                return Err(ProxyError::BodyTooLarge(limit));
            }
            let outcome = poll_fn(|cx| {
                self.poll(cx, &mut |_, chunk| match chunk {
                    Chunk::Data(data) => held.extend_from_slice(data),
                    Chunk::End(_) => ended = true,
                })
            });
            outcome.await.map_err(|error| client_error(&error))?;
            if held.len() as u64 > limit {
                return Err(ProxyError::BodyTooLarge(limit));
            }
            if ended {
                return Ok(held);
            }
        }
    }
}

impl Source for RequestBody {
    type Error = BoxError;

    fn size(&self) -> Size {
        self.source.size()
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), BoxError>> {
        self.poll(cx, take).map_err(Into::into)
    }
}

/// A body held in memory, a credential in it.
pub struct Held(pub Option<Bytes>);

impl Source for Held {
    type Error = BoxError;

    fn size(&self) -> Size {
        Size::Exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), BoxError>> {
        if let Some(bytes) = self.0.take() {
            take(cx, Chunk::Data(&bytes));
        }
        take(cx, Chunk::End(None));
        Poll::Ready(Ok(()))
    }
}

/// What a failed client body means for the request.
pub fn client_error(error: &ClientError) -> ProxyError {
    match error {
        ClientError::TooSlow => ProxyError::RequestTimeout,
        ClientError::Misframed => ProxyError::RequestMalformed("the request's body is not framed as it says"),
        ClientError::Broken => ProxyError::ClientGone,
    }
}

/// The body of an answer. It carries the request's record, which is finished when the body ends, however it ends.
pub struct AnswerBody {
    content: Content,
    record: Option<Box<Record>>,
}

enum Content {
    Own(Bytes),
    Upstream(UpstreamBody),
    Nothing,
}

impl AnswerBody {
    /// An answer of Sidekey's own.
    pub fn own(bytes: Bytes, record: Box<Record>) -> Self {
        AnswerBody { content: Content::Own(bytes), record: Some(record) }
    }

    /// Nothing, for an answer whose record somebody else carries.
    pub fn empty() -> Self {
        AnswerBody { content: Content::Nothing, record: None }
    }

    /// An upstream's.
    pub fn upstream(body: UpstreamBody, mut record: Box<Record>) -> Self {
        if body.size().is_none() && !body.is_early() {
            record.completed();
        }
        AnswerBody { content: Content::Upstream(body), record: Some(record) }
    }

    /// Ends the record: the client has gone before it had everything.
    pub fn lost(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.lost();
        }
    }

    /// Lets the request's body go on while nothing is asked of the answer.
    pub fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Content::Upstream(body) = &mut self.content {
            body.poll_upload(cx);
        }
    }

    /// Ends the record where all of the answer has come, and gives what goes on behind an early answer: the upload.
    pub fn take_upload(&mut self) -> Option<UpstreamBody> {
        self.end_if_all_came();
        if let Some(record) = self.record.take() {
            record.leave_upload();
        }
        match std::mem::replace(&mut self.content, Content::Nothing) {
            Content::Upstream(body) if body.is_early() => Some(body),
            _ => None,
        }
    }

    /// Ready when what it rests on was revoked, for who waits for something else than its bytes.
    pub fn poll_revoked(&mut self, cx: &Context<'_>) -> Poll<()> {
        let (Content::Upstream(_), Some(record)) = (&self.content, &mut self.record) else { return Poll::Pending };
        record.poll_revoked(cx).map(|_| drop(record.end_revoked()))
    }

    fn end_if_all_came(&mut self) {
        if matches!(&self.content, Content::Upstream(body) if body.size().is_none()) {
            self.end();
        }
    }

    fn end(&mut self) {
        if let Some(record) = &mut self.record {
            record.completed();
        }
    }
}

impl Source for AnswerBody {
    type Error = BrokenOff;

    fn size(&self) -> Size {
        match &self.content {
            Content::Own(bytes) => Size::Exact(bytes.len() as u64),
            Content::Upstream(body) => body.size(),
            Content::Nothing => Size::Exact(0),
        }
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), BrokenOff>> {
        let body = match &mut self.content {
            Content::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                if !bytes.is_empty() {
                    take(cx, Chunk::Data(&bytes));
                }
                take(cx, Chunk::End(None));
                return Poll::Ready(Ok(()));
            }
            Content::Nothing => {
                take(cx, Chunk::End(None));
                return Poll::Ready(Ok(()));
            }
            Content::Upstream(body) => body,
        };
        if let Some(record) = &mut self.record
            && record.revoked().is_some()
        {
            return Poll::Ready(Err(record.end_revoked()));
        }
        let (mut passed, mut ended) = (0, false);
        let outcome = body.poll_chunks(cx, &mut |cx, chunk| match chunk {
            Chunk::Data(data) => {
                passed += data.len();
                take(cx, Chunk::Data(data));
            }
            Chunk::End(trailers) => {
                ended = true;
                take(cx, Chunk::End(TrailerSieve::default().sift(trailers)));
            }
        });
        let Poll::Ready(outcome) = outcome else { return self.poll_revoked(cx).map(|()| Err(BrokenOff::Revoked)) };
        if let Some(record) = &mut self.record {
            record.passed_on(passed);
            if let Err(error) = outcome {
                return Poll::Ready(Err(record.cut_off(error)));
            }
        }
        if ended {
            self.end();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for AnswerBody {
    /// Whoever knew the length stops reading when all of it has come, and need not ask for the end.
    fn drop(&mut self) {
        self.end_if_all_came();
    }
}

/// Why an upstream's body ended before its end: the client's connection is broken off, so that it sees a truncated
/// message and never a complete-looking one.
#[derive(Debug, thiserror::Error)]
pub enum BrokenOff {
    /// It did not come to its end.
    #[error("the upstream's body was cut off")]
    ByUpstream(#[source] UpstreamError),
    /// What it rests on was revoked.
    #[error("what the request rests on was revoked")]
    Revoked,
}
