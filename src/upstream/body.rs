//! The body of a response, and the connection it arrives on until it has arrived.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::spawn_local;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::connection::{Http1, ready};
use super::error::UpstreamError;
use super::pool::{Destination, Lease};
use super::send::describe;
use super::upload::{Progress, Upload};

/// A response body. Gives its connection back when it was read to its end; dropped earlier, it closes an HTTP/1.1
/// connection and resets an HTTP/2 stream. While it is asked for a frame and none comes for the idle deadline (and no
/// upload moves either), it fails with [`UpstreamError::IdleTimeout`].
pub struct UpstreamBody {
    /// Taken only when this is dropped.
    incoming: Option<Incoming>,
    flight: Option<Flight>,
    idle: Duration,
    /// Since when the next frame is awaited, and how much the connection had read by then.
    waiting: Option<(Instant, u64)>,
    /// One timer for the whole body. It is moved only when it fires: frames in between cost it nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamBody").field("finished", &self.flight.is_none()).finish_non_exhaustive()
    }
}

impl UpstreamBody {
    pub(super) fn new(incoming: Incoming, flight: Flight, idle: Duration) -> Self {
        let mut body =
            UpstreamBody { incoming: Some(incoming), flight: Some(flight), idle, waiting: None, timer: None };
        if body.has_ended() {
            body.finish();
        }
        body
    }

    /// The empty body of a `101`, whose connection has left HTTP.
    pub(super) fn upgraded(incoming: Incoming) -> Self {
        UpstreamBody { incoming: Some(incoming), flight: None, idle: Duration::ZERO, waiting: None, timer: None }
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

impl Body for UpstreamBody {
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

impl Drop for UpstreamBody {
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

/// A request on its connection. Dropped before it has landed, it takes an HTTP/1.1 connection with it, and stops the
/// upload of an HTTP/2 stream.
pub(super) struct Flight {
    lease: Option<Lease>,
    /// Where an HTTP/1.1 connection is kept afterwards; `None` for one that serves a single request.
    home: Option<Rc<Destination>>,
    pub(super) upload: Option<Arc<Upload>>,
}

impl Flight {
    pub(super) fn new(lease: Lease, home: Option<Rc<Destination>>, upload: Option<Arc<Upload>>) -> Self {
        Flight { lease: Some(lease), home, upload }
    }

    pub(super) fn lease(&mut self) -> Option<&mut Lease> {
        self.lease.as_mut()
    }

    /// How many bytes were read from the connection so far.
    pub(super) fn bytes_read(&self) -> u64 {
        match &self.lease {
            Some(Lease::Http1(connection)) => connection.traffic.read(),
            Some(Lease::Http2(slot)) => slot.connection().traffic.read(),
            None => 0,
        }
    }

    /// A deadline passed. An HTTP/2 connection on which nothing at all arrived in the meantime may be dead, and the
    /// next request shall not find out the same way.
    pub(super) fn suspect(&self, read_before: u64) {
        if let Some(Lease::Http2(slot)) = &self.lease
            && slot.connection().traffic.read() == read_before
        {
            slot.connection().drain();
        }
    }

    /// The response is complete: the connection is free once the request is, too.
    fn land(mut self, idle: Duration) {
        let uploaded = self.upload.as_ref().is_none_or(|upload| upload.is_done());
        match (&self.lease, uploaded) {
            (Some(Lease::Http1(connection)), true) if connection.sender.is_ready() => {
                let Some(Lease::Http1(connection)) = self.lease.take() else { return };
                self.keep(connection);
            }
            (Some(Lease::Http1(connection)), _) if connection.sender.is_closed() => {}
            (Some(Lease::Http2(_)), true) => self.lease = None,
            // An early response: what is still being uploaded gets its time as long as it moves.
            _ => drop(spawn_local(self.linger(idle))),
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
        match self.lease.take() {
            Some(Lease::Http1(mut connection)) => {
                if timeout(idle, ready(&mut connection)).await.unwrap_or(false) {
                    self.keep(connection);
                }
            }
            other => drop(other),
        }
    }

    fn keep(&self, connection: Http1) {
        if let Some(home) = &self.home {
            home.keep(connection);
        }
    }

    /// The connection left HTTP; it is not ours any more.
    pub(super) fn depart(mut self) {
        if let Some(Lease::Http1(connection)) = self.lease.take() {
            connection.release();
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let Some(upload) = &self.upload else { return };
        if let (Lease::Http2(slot), Progress::Blocked(_)) = (&lease, upload.progress()) {
            slot.connection().mark_stuck();
        }
        upload.cancel();
    }
}
