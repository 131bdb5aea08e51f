//! HTTP/2 connections, shared by streams and driven by tasks of their own.

use std::cell::{Cell, OnceCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;

use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};

use super::error::UpstreamError;
use super::traffic::{Counted, Traffic};
use super::upload::WireBody;
use crate::clock::Instant;
use crate::wire::Stream;

/// The largest list of fields that is taken, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most streams of ours on one HTTP/2 connection, however many the peer would take: they share one TCP window.
const MAX_STREAMS: usize = 100;
/// What hyper reports as the peer's stream limit until its SETTINGS arrive; no SETTINGS can say this number.
const NOT_SETTLED: usize = usize::MAX - 1;

/// An HTTP/2 connection, shared through `Rc` by the pool and the streams on it.
pub(super) struct Http2 {
    pub(super) sender: http2::SendRequest<WireBody>,
    pub(super) traffic: Rc<Traffic>,
    pub(super) born: Instant,
    state: Rc<Shared>,
    in_flight: Cell<usize>,
    idle_since: Cell<Instant>,
    drained: Cell<bool>,
    /// An upload was cut while the peer took nothing: the orderly end of the connection would wait for that peer.
    stuck: Cell<bool>,
    socket: Option<AbortHandle>,
}

/// What the driver of an HTTP/2 connection knows.
#[derive(Default)]
struct Shared {
    /// The peer's limit of concurrent streams.
    limit: Cell<usize>,
    settled: Cell<bool>,
    settling: Notify,
}

impl Http2 {
    pub(super) async fn start(stream: Stream) -> Result<Rc<Self>, UpstreamError> {
        let traffic = Rc::new(Traffic::default());
        let io = TokioIo::new(Counted::new(stream, Rc::clone(&traffic)));
        let executor = LocalExecutor::default();
        let (sender, mut connection) = http2::Builder::new(executor.clone())
            .initial_max_send_streams(NOT_SETTLED)
            .max_header_list_size(MAX_HEAD as u32)
            .handshake(io)
            .await
            .map_err(closed)?;
        let state = Rc::new(Shared::default());
        let (seen, watched) = (Rc::clone(&state), Rc::clone(&traffic));
        spawn_local(poll_fn(move |cx| {
            let ended = Pin::new(&mut connection).poll(cx);
            let limit = connection.current_max_send_streams();
            seen.limit.set(limit);
            if limit == NOT_SETTLED && ended.is_pending() {
                watched.wake_on_read(cx.waker());
            } else if !seen.settled.replace(true) {
                seen.settling.notify_waiters();
            }
            ended.map(drop)
        }));
        let now = Instant::now();
        Ok(Rc::new(Http2 {
            sender,
            traffic,
            born: now,
            state,
            in_flight: Cell::new(0),
            idle_since: Cell::new(now),
            drained: Cell::new(false),
            stuck: Cell::new(false),
            socket: executor.first.get().cloned(),
        }))
    }

    /// Waits until the peer has said how many streams it takes.
    pub(super) async fn settle(&self) {
        let settling = self.state.settling.notified();
        if !self.state.settled.get() {
            settling.await;
        }
    }

    /// Offers streams to everybody although the peer never said how many it takes.
    pub(super) fn assume_settled(&self) {
        self.state.settled.set(true);
    }

    /// Takes one more stream if the peer takes one more.
    pub(super) fn slot(self: &Rc<Self>) -> Option<Slot> {
        let free = self.state.settled.get() && self.in_flight.get() < self.state.limit.get().min(MAX_STREAMS);
        free.then(|| self.first_slot())
    }

    /// The stream of whoever opened the connection: one is always taken.
    pub(super) fn first_slot(self: &Rc<Self>) -> Slot {
        self.in_flight.set(self.in_flight.get() + 1);
        Slot(Rc::clone(self))
    }

    /// No new streams from now on.
    pub(super) fn drain(&self) {
        self.drained.set(true);
    }

    pub(super) fn is_open(&self) -> bool {
        !self.drained.get() && !self.sender.is_closed()
    }

    /// Since when no stream is open; `None` while one is.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.in_flight.get() == 0).then(|| self.idle_since.get())
    }

    pub(super) fn mark_stuck(&self) {
        self.stuck.set(true);
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        if let (true, Some(socket)) = (self.stuck.get(), &self.socket) {
            socket.abort();
        }
    }
}

/// One stream on an HTTP/2 connection.
pub(super) struct Slot(Rc<Http2>);

impl Slot {
    pub(super) fn connection(&self) -> &Http2 {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Runs hyper's tasks on this thread. Its first task is the one that owns the socket: hyper starts it before the
/// handshake returns.
#[derive(Clone, Default)]
struct LocalExecutor {
    first: Rc<OnceCell<AbortHandle>>,
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        let handle = spawn_local(task).abort_handle();
        self.first.get_or_init(|| handle);
    }
}

fn closed(error: hyper::Error) -> UpstreamError {
    UpstreamError::Closed(error.to_string())
}
