//! Streams of HTTP/2, each in a task of its own: one whose client takes nothing of its answer is reset in time.
//!
//! hyper has no deadline for that. It hands a piece of a body on, and asks for the next, once the client has room for all
//! pieces before it and for a byte of it; so a body that has given a piece and is not asked again waits for the client, and
//! not for its upstream. Two things follow. Pieces are small, so that a slow client is seen to take something. And the last
//! byte of a large one goes alone: else nothing would watch the last piece, of which the client may have taken one byte.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;

use crate::clock::{self, Instant};
use crate::proxy::http2::{Stalled, StreamedAnswer};

/// The most that is given at once, in bytes: the size of a frame that every client takes (RFC 9113 §4.2).
const PIECE: usize = 16 * 1024;
/// So much may wait for a client unwatched, in bytes: most answers are not larger, and go in one frame.
const UNWATCHED: usize = 4 * 1024;

/// A body that goes out over HTTP/2.
pub trait Outgoing: Body<Data = Bytes> + Unpin {
    /// What of it goes on while its client takes nothing, if anything does.
    fn stalled(&self) -> Option<Stalled> {
        None
    }
}

impl Outgoing for StreamedAnswer {
    fn stalled(&self) -> Option<Stalled> {
        Some(StreamedAnswer::stalled(self))
    }
}

/// What the task of a stream knows of its answer.
#[derive(Default)]
struct Stream {
    /// When the answer gave the piece that waits for the client; nothing while none does.
    given: Cell<Option<Instant>>,
    answer: RefCell<Option<Stalled>>,
}

tokio::task_local! {
    /// That of the stream whose task this is.
    static STREAM: Rc<Stream>;
}

/// Runs hyper's streams on this thread, and resets those whose client takes nothing for so long.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    pub(super) write_timeout: Duration,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let stream = Rc::<Stream>::default();
        let mut task = Box::pin(STREAM.scope(Rc::clone(&stream), future));
        let (write_timeout, mut timer) = (self.write_timeout, None);
        // A stream whose task ends before its answer has is reset.
        tokio::task::spawn_local(poll_fn(move |cx| {
            if task.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(since) = stream.given.get() else {
                timer = None;
                return Poll::Pending;
            };
            let answer = stream.answer.borrow();
            if answer.as_ref().is_some_and(|answer| answer.poll(cx).is_ready()) {
                return Poll::Ready(());
            }
            let end = since + write_timeout;
            let timer = timer.get_or_insert_with(|| Box::pin(clock::sleep_until(end)));
            if timer.deadline() != end {
                timer.as_mut().reset(end);
            }
            ready!(timer.as_mut().poll(cx));
            if let Some(answer) = &*answer {
                answer.give_up();
            }
            tracing::debug!("a client took nothing of an answer for too long; its stream is reset");
            Poll::Ready(())
        }));
    }
}

/// The body of an answer, which tells the task of its stream when it waits for the client.
pub(super) struct Told<B> {
    body: B,
    /// What is not given yet of what the body gave.
    rest: Bytes,
    /// Absent over HTTP/1.1.
    stream: Option<Rc<Stream>>,
}

impl<B: Outgoing> Told<B> {
    /// To be made in the stream's own task.
    pub(super) fn new(body: B) -> Self {
        let stream = STREAM.try_with(Rc::clone).ok();
        if let Some(stream) = &stream {
            stream.answer.replace(body.stalled());
        }
        Told { body, rest: Bytes::new(), stream }
    }

    fn note(&self, given: Option<Instant>) {
        if let Some(stream) = &self.stream {
            stream.given.set(given);
        }
    }

    /// The next piece of what the body gave.
    fn piece(&mut self) -> Bytes {
        let length = match self.rest.len() {
            length if self.stream.is_none() || length <= 1 => length,
            length => PIECE.min(length - 1),
        };
        self.rest.split_to(length)
    }
}

impl<B: Outgoing> Body for Told<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.note(None);
        if this.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(data) if data.len() > UNWATCHED => this.rest = data,
                Ok(data) => {
                    this.note(Some(Instant::now()));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        this.note(Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(this.piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + rest);
        }
        all.set_lower(hint.lower() + rest);
        all
    }
}
