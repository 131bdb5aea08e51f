//! Streams of HTTP/2, each in a task of its own: one whose client takes nothing of its answer is reset in time.
//!
//! hyper has no deadline for that. It asks a body for the next piece once the client has room for the one before; so a
//! body that has given a piece and is not asked again waits for the client, and not for its upstream.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;

use crate::clock::{self, Instant};

/// When the answer of a stream gave the piece that waits for the client; nothing while none does.
type Given = Rc<Cell<Option<Instant>>>;

tokio::task_local! {
    /// That of the stream whose task this is.
    static GIVEN: Given;
}

/// Runs hyper's streams on this thread, and resets those whose client takes nothing for so long.
#[derive(Clone, Copy)]
pub(super) struct Streams {
    pub(super) write_timeout: Duration,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        let given = Given::default();
        let mut stream = Box::pin(GIVEN.scope(Rc::clone(&given), future));
        let (write_timeout, mut timer) = (self.write_timeout, None);
        // A stream that is dropped before its end is reset.
        tokio::task::spawn_local(poll_fn(move |cx| {
            if stream.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let Some(since) = given.get() else {
                timer = None;
                return Poll::Pending;
            };
            let end = since + write_timeout;
            let timer = timer.get_or_insert_with(|| Box::pin(clock::sleep_until(end)));
            if timer.deadline() != end {
                timer.as_mut().reset(end);
            }
            ready!(timer.as_mut().poll(cx));
            tracing::debug!("a client took nothing of an answer for too long; its stream is reset");
            Poll::Ready(())
        }));
    }
}

/// The body of an answer, which tells the task of its stream when it waits for the client.
pub(super) struct Told<B> {
    body: B,
    /// Absent over HTTP/1.1.
    given: Option<Given>,
}

impl<B> Told<B> {
    /// To be made in the stream's own task.
    pub(super) fn new(body: B) -> Self {
        Told { body, given: GIVEN.try_with(Rc::clone).ok() }
    }

    fn note(&self, given: Option<Instant>) {
        if let Some(own) = &self.given {
            own.set(given);
        }
    }
}

impl<B: Body + Unpin> Body for Told<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.note(None);
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(_)) = polled {
            self.note(Some(Instant::now()));
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
