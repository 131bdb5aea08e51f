//! The body of a response over HTTP/2, and the stream it arrives on until it has arrived.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::spawn_local;

use super::connection::{Http2, Slot};
use super::error::UpstreamError;
use super::http2::describe;
use super::upload::{Progress, Upload};
use crate::clock::{Instant, Sleep, sleep_until, timeout};

/// A response body. Dropped before its end, it resets the stream. While it is asked for a frame and none comes for the
/// idle deadline (and no upload moves either), it fails with [`UpstreamError::IdleTimeout`].
pub(super) struct StreamBody {
    /// Taken only when this is dropped.
    incoming: Option<Incoming>,
    flight: Option<Flight>,
    idle: Duration,
    /// Since when the next frame is awaited, and how much the connection had read by then.
    waiting: Option<(Instant, u64)>,
    /// One timer for the whole body. It is moved only when it fires: frames in between cost it nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for StreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamBody").field("finished", &self.flight.is_none()).finish_non_exhaustive()
    }
}

impl StreamBody {
    pub(super) fn new(incoming: Incoming, flight: Flight, idle: Duration) -> Self {
        let mut body = StreamBody { incoming: Some(incoming), flight: Some(flight), idle, waiting: None, timer: None };
        if body.has_ended() {
            body.finish();
        }
        body
    }

    fn has_ended(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn finish(&mut self) {
        if let Some(flight) = self.flight.take() {
            flight.land(self.idle);
        }
    }

    fn fail(&mut self, error: UpstreamError) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        self.flight = None;
        Poll::Ready(Some(Err(error)))
    }

    /// Ready when nothing has moved for the idle deadline.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let flight = self.flight.as_ref();
        let (since, _) = *self.waiting.get_or_insert_with(|| (Instant::now(), flight.map_or(0, Flight::bytes_read)));
        let moved = flight.and_then(|flight| flight.upload.as_ref()).map_or(since, |upload| upload.last_moved());
        let due = since.max(moved) + self.idle;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = UpstreamError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        if self.flight.is_none() {
            return Poll::Ready(None);
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.waiting = None;
                // Whoever reads may stop here without asking for the end.
                if frame.is_trailers() || self.has_ended() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // All that was promised has come: what became of the connection behind it cut nothing off.
            Poll::Ready(Some(Err(_))) if self.size_hint().exact() == Some(0) => {
                self.flight = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let source = self.flight.as_ref().and_then(|flight| flight.upload.as_ref()?.take_failure());
                self.fail(match source {
                    Some(source) => UpstreamError::RequestBody(source),
                    None => UpstreamError::Body(describe(&error)),
                })
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending if self.poll_idle(cx).is_ready() => {
                if let (Some(flight), Some((_, read))) = (&self.flight, self.waiting) {
                    flight.suspect(read);
                }
                self.fail(UpstreamError::IdleTimeout)
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.flight.is_none() || self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for StreamBody {
    /// All that was promised may have come and only the mark of its end not yet, an empty frame of HTTP/2: who knew the
    /// length stops reading there. That is no reason to reset the stream.
    fn drop(&mut self) {
        let all_came = self.size_hint().exact() == Some(0);
        let (true, Some(flight), Some(mut incoming)) = (all_came, self.flight.take(), self.incoming.take()) else {
            return;
        };
        let idle = self.idle;
        drop(spawn_local(async move {
            let end = async { while let Some(Ok(_)) = incoming.frame().await {} };
            if timeout(idle, end).await.is_ok() {
                flight.land(idle);
            }
        }));
    }
}

/// A request on its stream. Dropped before it has landed, it stops the upload.
pub(super) struct Flight {
    slot: Option<Slot>,
    pub(super) upload: Option<Arc<Upload>>,
}

impl Flight {
    pub(super) fn new(slot: Slot, upload: Option<Arc<Upload>>) -> Self {
        Flight { slot: Some(slot), upload }
    }

    pub(super) fn connection(&self) -> Option<&Http2> {
        self.slot.as_ref().map(Slot::connection)
    }

    /// How many bytes were read from the connection so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.connection().map_or(0, |connection| connection.traffic.read())
    }

    /// A deadline passed. A connection on which nothing at all arrived in the meantime may be dead, and the next request
    /// shall not find out the same way.
    pub(super) fn suspect(&self, read_before: u64) {
        if let Some(slot) = &self.slot
            && slot.connection().traffic.read() == read_before
        {
            slot.connection().drain();
        }
    }

    /// The response is complete: the stream ends once the request is, too.
    fn land(mut self, idle: Duration) {
        if self.upload.as_ref().is_none_or(|upload| upload.is_done()) {
            self.slot = None;
        } else {
            // An early response: what is still being uploaded gets its time as long as it moves.
            drop(spawn_local(self.linger(idle)));
        }
    }

    async fn linger(mut self, idle: Duration) {
        while let Some(upload) = self.upload.clone().filter(|upload| !upload.is_done()) {
            let done = std::future::poll_fn(|cx| {
                upload.watch(cx.waker());
                if upload.is_done() { Poll::Ready(()) } else { Poll::Pending }
            });
            if timeout(idle, done).await.is_err() && upload.last_moved().elapsed() >= idle {
                return; // and dropping cuts it
            }
        }
        self.slot = None;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let Some(upload) = &self.upload else { return };
        if let Progress::Blocked(_) = upload.progress() {
            slot.connection().mark_stuck();
        }
        upload.cancel();
    }
}
