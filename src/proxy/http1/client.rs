//! A client's connection: its stream, what was read and not used, what is not written yet.
//!
//! It is shared, on one thread, by the task that serves it and the body of the request being answered, which whoever
//! sends the request on reads from.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite, Interest};
use tokio::net::UnixStream;

use super::Terms;
use crate::clock::{Instant, Sleep, sleep, timeout};
use crate::proxy::body::ClientError;
use crate::proxy::error::ProxyError;
use crate::wire::head::Scan;
use crate::wire::stream::Rewound;
use crate::wire::{
    BodyFailure, Chunk, Deadline, Decoder, Encoder, Framing, Inbox, Outbox, RequestHead, Size, Source, Stream,
    poll_body,
};

/// What every connection of HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How long a client that has closed its sending side is left alone before it is asked whether it is still there, and
/// how long between two questions.
const FIRST_QUESTION: Duration = Duration::from_millis(400);
const NEXT_QUESTION: Duration = Duration::from_secs(1);
/// How long after a question its answer, a reset, is looked for.
const ANSWER: Duration = Duration::from_millis(100);
/// How long, and for how many bytes, a connection that is to be closed is still read, so that the reset that closing
/// would cause does not destroy the answer on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A client's connection.
pub struct Client {
    /// There until the stream is handed on.
    inner: RefCell<Option<Inner>>,
    /// The task that waits for the next request.
    waiting: Cell<Option<Waker>>,
    /// Whether somebody may still read the request's body.
    body_open: Cell<bool>,
    /// The task that waits until the request's body was read or let go, which may be in the hands of another one.
    on_release: Cell<Option<Waker>>,
}

struct Inner {
    stream: Stream,
    inbox: Inbox,
    outbox: Outbox,
    /// Of a request's body; there is none where nothing is left of it to read.
    decoder: Option<Box<Decoder>>,
    deadline: Deadline,
    /// Since when what is waited for now is waited for.
    since: Option<Instant>,
    scan: Scan,
    head_begun: bool,
    interim: Interim,
    /// The client sends nothing more.
    has_ended: bool,
    questions: Option<Box<Questions>>,
    /// An answer that ends with the connection is on its way.
    unfinished: bool,
}

/// Where the `100 Continue` of a request stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interim {
    /// Nobody waits for it.
    None,
    /// The client waits for it before it sends its body.
    Due,
    /// It is to be written by whoever reads the body, until an answer is.
    Staged,
}

/// The questions to a client that has sent FIN: one that only sends nothing more, and one that is gone, look the same
/// until something is sent to them.
struct Questions {
    next: Pin<Box<Sleep>>,
    answer_due: bool,
}

/// What came on a connection.
pub(super) enum Heard {
    Request(RequestHead),
    Nonsense(ProxyError),
    Http2,
    End,
}

/// The client does not take the answer any more.
pub(super) struct Gone;

impl Client {
    /// Takes a stream over.
    pub fn new(stream: Stream) -> Rc<Self> {
        let inner = Inner {
            stream,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            decoder: None,
            deadline: Deadline::default(),
            since: None,
            scan: Scan::default(),
            head_begun: false,
            interim: Interim::None,
            has_ended: false,
            questions: None,
            unfinished: false,
        };
        Rc::new(Client {
            inner: RefCell::new(Some(inner)),
            waiting: Cell::default(),
            body_open: Cell::new(false),
            on_release: Cell::default(),
        })
    }

    /// Lets whoever waits for the next request look whether there is to be one.
    pub fn wake(&self) {
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(super) fn has_begun_for_test(&self) -> bool {
        self.with(false, |inner| inner.head_begun)
    }

    fn with<T>(&self, absent: T, act: impl FnOnce(&mut Inner) -> T) -> T {
        self.inner.borrow_mut().as_mut().map_or(absent, act)
    }

    /// Waits for the next request, or the end. While the server drains, a request that has not begun is not waited for.
    pub(super) fn poll_request(&self, cx: &mut Context<'_>, terms: &Terms, is_first: bool) -> Poll<Heard> {
        let heard = self.with(Poll::Ready(Heard::End), |inner| inner.poll_request(cx, terms.head_timeout, is_first));
        if heard.is_pending() {
            if terms.draining.get() && self.with(true, |inner| inner.inbox.is_empty()) {
                return Poll::Ready(Heard::End);
            }
            // Whoever waits for long holds as little as can be.
            self.with((), |inner| drop(inner.decoder.take_if(|decoder| decoder.is_done())));
            keep(&self.waiting, cx);
        }
        heard
    }

    /// Begins with the body of a request, which [`Body`] reads.
    pub(super) fn begin_body(&self, framing: Framing, continue_due: bool) {
        self.with((), |inner| {
            let has_body = framing != Framing::Length(0);
            inner.decoder = has_body.then(|| Box::new(Decoder::new(framing)));
            let is_due = continue_due && has_body;
            inner.interim = if is_due { Interim::Due } else { Interim::None };
        });
    }

    /// Whether somebody may still read the request's body.
    pub(super) fn is_reading_body(&self) -> bool {
        self.body_open.get()
    }

    /// Whether the request's body was read to its end.
    pub(super) fn has_read_body(&self) -> bool {
        self.with(false, |inner| inner.has_read_body())
    }

    /// Throws away what has come of a body that nobody reads; whether that was all of it.
    pub(super) fn drain_buffered(&self) -> bool {
        self.with(false, Inner::drain_buffered)
    }

    /// Waits until nobody can read the request's body any more.
    pub(super) fn poll_released(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.body_open.get() {
            return Poll::Ready(());
        }
        keep(&self.on_release, cx);
        Poll::Pending
    }

    /// Wakes the task that waits for the body's release, if it is not the one that runs now.
    fn wake_other(&self, cx: &Context<'_>) {
        let waiting = self.on_release.take();
        match waiting {
            Some(waker) if !waker.will_wake(cx.waker()) => waker.wake(),
            same => self.on_release.set(same),
        }
    }

    /// Ready when the client has gone away. While somebody reads its body, that is who finds out. `may_ask` says whether
    /// an interim response may be sent to find out.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>, may_ask: bool) -> Poll<()> {
        if self.body_open.get() && !self.has_read_body() {
            keep(&self.on_release, cx);
            return Poll::Pending;
        }
        self.with(Poll::Ready(()), |inner| inner.poll_gone(cx, may_ask))
    }

    /// Appends to what is to be written.
    pub(super) fn stage(&self, append: impl FnOnce(&mut Vec<u8>)) {
        self.with((), |inner| {
            // What is staged before goes out with it. Two tasks that flush one stream would take each other's turn.
            if inner.interim == Interim::Staged {
                inner.interim = Interim::None;
            }
            append(inner.outbox.stage());
        });
    }

    /// Writes a piece of a body, or keeps what the client does not take now.
    pub(super) fn write(&self, cx: &mut Context<'_>, encoder: Encoder, data: &[u8]) {
        self.with((), |inner| match encoder {
            Encoder::Plain => inner.outbox.write(cx, &mut inner.stream, data),
            Encoder::Chunked => encoder.data(inner.outbox.stage(), data),
        });
    }

    /// Writes what is there, as long as the client takes something every `timeout`.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>, timeout: Duration) -> Poll<Result<(), Gone>> {
        self.with(Poll::Ready(Err(Gone)), |inner| inner.poll_flush(cx, timeout))
    }

    /// Says whether the answer being written ends with the connection: broken off, it must not look complete.
    pub(super) fn ends_with_connection(&self, ends: bool) {
        self.with((), |inner| inner.unfinished = ends);
    }

    /// The stream from the first byte that was not used, for whoever speaks something else on it.
    pub(super) fn rewind(&self) -> Option<Rewound> {
        let mut inner = self.inner.borrow_mut().take()?;
        Some(Rewound::new(inner.inbox.take(), inner.stream))
    }

    /// Closes the sending side, and reads what still comes for a moment, for nobody.
    pub(super) async fn close(&self) {
        let is_clean = self.with(true, |inner| inner.has_read_body() && inner.inbox.is_empty());
        let close = async {
            poll_fn(|cx| self.with(Poll::Ready(()), |inner| Pin::new(&mut inner.stream).poll_shutdown(cx).map(drop)))
                .await;
            let mut left = if is_clean { 0 } else { LINGER_BYTES };
            while left > 0 {
                let read = poll_fn(|cx| {
                    self.with(Poll::Ready(Ok(0)), |inner| {
                        inner.inbox.consume(inner.inbox.unread().len());
                        inner.inbox.poll_fill(cx, &mut inner.stream)
                    })
                });
                match read.await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => left = left.saturating_sub(count),
                }
            }
        };
        let _out_of_patience = timeout(LINGER, close).await;
    }
}

/// Keeps the waker of the task that runs now, if it is not there already.
fn keep(slot: &Cell<Option<Waker>>, cx: &Context<'_>) {
    let kept = slot.take().filter(|waker| waker.will_wake(cx.waker()));
    slot.set(Some(kept.unwrap_or_else(|| cx.waker().clone())));
}

impl Inner {
    fn poll_request(&mut self, cx: &mut Context<'_>, timeout: Duration, is_first: bool) -> Poll<Heard> {
        loop {
            while self.inbox.unread().starts_with(b"\r\n") {
                self.inbox.consume(2);
            }
            let unread = self.inbox.unread();
            let preface = &PREFACE[..unread.len().min(PREFACE.len())];
            if is_first && !unread.is_empty() && unread.starts_with(preface) {
                if preface.len() == PREFACE.len() {
                    return Poll::Ready(Heard::Http2);
                }
            } else if !unread.is_empty() && self.scan.is_due(unread) {
                match RequestHead::parse(unread) {
                    Ok(Some((head, length))) => {
                        self.inbox.consume(length);
                        self.scan = Scan::default();
                        self.head_begun = false;
                        self.since = None;
                        return Poll::Ready(Heard::Request(head));
                    }
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(Heard::Nonsense(error.into())),
                }
            }
            match self.inbox.poll_fill(cx, &mut self.stream) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Heard::End),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        let begun = !self.inbox.is_empty();
        if begun && !self.head_begun {
            self.head_begun = true;
            self.since = None; // a head has a time of its own, however long the connection was idle before
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        ready!(self.deadline.poll(cx, since + timeout));
        Poll::Ready(if begun { Heard::Nonsense(ProxyError::RequestTimeout) } else { Heard::End })
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>, may_ask: bool) -> Poll<()> {
        // With a request in the inbox already, the client is there as far as anybody knows.
        while !self.has_ended && self.inbox.is_empty() {
            match ready!(self.inbox.poll_fill(cx, &mut self.stream)) {
                Ok(0) => self.has_ended = true,
                Ok(_) => break,
                Err(_) => return Poll::Ready(()),
            }
        }
        if !self.has_ended {
            self.inbox.shrink();
            return Poll::Pending;
        }
        self.poll_questions(cx, may_ask)
    }

    /// Finds out whether a client that has said that it sends nothing more is still there: one that listens drops an
    /// interim response (RFC 9110 §15.2.1), the system of one that is gone answers it by a reset.
    fn poll_questions(&mut self, cx: &mut Context<'_>, may_ask: bool) -> Poll<()> {
        let Inner { stream, outbox, questions, .. } = self;
        let new = || Box::new(Questions { next: Box::pin(sleep(FIRST_QUESTION)), answer_due: false });
        let questions = questions.get_or_insert_with(new);
        loop {
            if has_hung_up(stream) {
                return Poll::Ready(());
            }
            ready!(questions.next.as_mut().poll(cx));
            let asks = may_ask && !questions.answer_due && outbox.is_empty();
            if asks {
                outbox.stage().extend_from_slice(CONTINUE);
                // What it does not take now goes out before the answer.
                if let Poll::Ready(Err(_)) = outbox.poll_flush(cx, stream) {
                    return Poll::Ready(());
                }
            }
            questions.answer_due = asks;
            questions.next.as_mut().reset(Instant::now() + if asks { ANSWER } else { NEXT_QUESTION });
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, timeout: Duration) -> Poll<Result<(), Gone>> {
        let before = self.outbox.taken();
        match self.outbox.poll_flush(cx, &mut self.stream) {
            Poll::Ready(outcome) => {
                self.since = None;
                Poll::Ready(outcome.map_err(|_| Gone))
            }
            Poll::Pending => {
                if self.outbox.taken() > before {
                    self.since = None;
                }
                let since = *self.since.get_or_insert_with(Instant::now);
                self.deadline.poll(cx, since + timeout).map(|()| Err(Gone))
            }
        }
    }

    fn has_read_body(&self) -> bool {
        self.decoder.as_ref().is_none_or(|decoder| decoder.is_done())
    }

    fn drain_buffered(&mut self) -> bool {
        use crate::wire::body::Step;
        if self.interim == Interim::Due {
            return false; // it may send its body, or not: what follows cannot be told apart
        }
        let Some(decoder) = &mut self.decoder else { return true };
        loop {
            match decoder.step(self.inbox.unread()) {
                Ok(Step::Data(range)) => self.inbox.consume(range.end),
                Ok(Step::End(count)) => {
                    self.inbox.consume(count);
                    return decoder.take_trailers().is_ok();
                }
                Ok(Step::More) => {
                    self.inbox.consume(self.inbox.unread().len());
                    return false;
                }
                Err(_) => return false,
            }
        }
    }
}

/// Whether it is known that nothing reaches the client any more.
fn has_hung_up(stream: &Stream) -> bool {
    let tcp = match stream {
        Stream::Tcp(tcp) => tcp,
        Stream::Serving(tls) => tls.get_ref().0,
        Stream::Unix(unix) => return is_shut(unix),
        Stream::ServingUnix(tls) => return is_shut(tls.get_ref().0),
        Stream::Verified(_) => return false,
    };
    !tcp.take_error().is_ok_and(|error| error.is_none())
}

/// A Unix socket tells at once that its peer has closed both sides.
fn is_shut(unix: &UnixStream) -> bool {
    match pin!(unix.ready(Interest::WRITABLE)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(state) => !state.is_ok_and(|state| !state.is_write_closed()),
        Poll::Pending => false,
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(Inner { stream, unfinished: true, .. }) = self.inner.get_mut() else { return };
        // Where even this fails the stream is gone already.
        let _gone = match stream {
            Stream::Tcp(tcp) => tcp.set_zero_linger(),
            Stream::Serving(tls) => tls.get_ref().0.set_zero_linger(),
            _ => Ok(()),
        };
    }
}

/// The body of the request that is being answered.
pub(super) struct Body(Rc<Client>);

impl Body {
    pub(super) fn new(client: Rc<Client>) -> Self {
        client.body_open.set(true);
        Body(client)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.body_open.set(false);
        if let Some(waker) = self.0.on_release.take() {
            waker.wake();
        }
    }
}

impl Source for Body {
    type Error = ClientError;

    fn size(&self) -> Size {
        self.0.with(Size::Exact(0), |inner| inner.decoder.as_ref().map_or(Size::Exact(0), |decoder| decoder.size()))
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut dyn FnMut(&mut Context<'_>, Chunk<'_>),
    ) -> Poll<Result<(), ClientError>> {
        let outcome = self.0.with(Poll::Ready(Err(ClientError::Broken)), |inner| {
            if inner.interim == Interim::Due {
                inner.interim = Interim::None;
                if inner.inbox.is_empty() {
                    inner.outbox.stage().extend_from_slice(CONTINUE);
                    inner.interim = Interim::Staged;
                }
            }
            if inner.interim == Interim::Staged && inner.outbox.poll_flush(cx, &mut inner.stream).is_ready() {
                inner.interim = Interim::None; // taken, or a failure that reading will find as well
            }
            let Inner { stream, inbox, decoder: Some(decoder), .. } = inner else {
                take(cx, Chunk::End(None));
                return Poll::Ready(Ok(()));
            };
            poll_body(cx, stream, inbox, decoder, take).map_err(|failure| match failure {
                BodyFailure::Misframed(_) => ClientError::Misframed,
                BodyFailure::CutOff | BodyFailure::Io(_) => ClientError::Broken,
            })
        });
        if self.0.has_read_body() {
            self.0.wake_other(cx);
        }
        outcome
    }
}
